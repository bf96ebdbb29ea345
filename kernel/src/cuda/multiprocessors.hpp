// The size of the current device.
#pragma once

#include "device.hpp"

namespace tesseral::cuda {

inline int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "number of multiprocessors");
  return count;
}

}  // namespace tesseral::cuda
