// What the device's memory can do.
#pragma once

namespace tesseral::cuda {

/// Bytes that are read and written per second by a copy within the current device's memory; takes 0.1 s.
double bytes_per_second();

}  // namespace tesseral::cuda
