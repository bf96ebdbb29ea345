// The native engine on a device.
#pragma once

#include <memory>

#include "tesseral/engine_atoms.hpp"
#include "tesseral/engine_backend.hpp"

namespace tesseral::cuda {

/// T: arithmetic; Sum: sums of forces and virials.
template <class T, class Sum>
std::unique_ptr<EngineBackend> make_backend(const EngineParameters<T>& parameters, int device, const Kernels<T>& kernels);

}  // namespace tesseral::cuda
