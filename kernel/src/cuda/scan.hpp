// Sums of the numbers before each.
#pragma once

#include "device.hpp"

namespace tesseral::cuda {

/// Each of n numbers becomes the sum of those before it; values[n] the sum of all.
void scan(int64_t* values, int64_t n, DeviceArray<int64_t>& work);

}  // namespace tesseral::cuda
