// A neighbour list of pairs that were found on the device, by vesin (calculator/vesin_library.py).
#pragma once

#include "engine_edges.hpp"

namespace tesseral::cuda {

/// The methods are those of Engine; `list` is the one that they change.
class FoundList {
 public:
  DevicePoints upload_points(int64_t n_atoms, const double* positions, const double* cell);
  void set(int64_t n_atoms, const DevicePairs& pairs, const double* cell, DeviceList& list);
  void set_cell(const double* cell, DeviceList& list);

 private:
  DeviceArray<double> positions_, cell_;
  DeviceArray<bool> periodic_;
  DeviceArray<int32_t> cell_shifts_;  // [listed, 3]
  DeviceArray<int64_t> block_sums_;
};

}  // namespace tesseral::cuda
