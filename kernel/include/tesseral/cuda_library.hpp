// The device library, libtesseral_cuda: built where nvcc is found, loaded when a device is first asked for. Nothing else
// needs CUDA, neither to be compiled nor to run.
#pragma once

#include <memory>
#include <string>

#include "tesseral/engine_atoms.hpp"
#include "tesseral/engine_backend.hpp"
#include "tesseral/operators.hpp"

namespace tesseral {

/// What the library gives. Functions throw std::runtime_error with the message of CUDA.
struct CudaLibrary {
  int layout;             // cuda_library_layout of the headers it was compiled with
  int (*device_count)();  // 0 where CUDA runs but finds none
  /// Bytes of a device that are taken, by whomever.
  std::size_t (*memory_used)(int device);
  /// Bytes of a device's memory that a copy within it reads and writes per second, measured in about 0.1 s.
  double (*bytes_per_second)(int device);
  /// Which device and stream (a cudaStream_t) the calls of this thread use from now on.
  void (*use)(int device, void* stream);
  /// The operators: as those of the processor, but every array of numbers and indices (not the trees, tables and blocks of
  /// the shapes) lies on the device, and a call returns when its work is in the stream.
  const Kernels<float>* kernels_float32;
  const Kernels<double>* kernels_float64;
  std::unique_ptr<EngineBackend> (*backend_float32)(const EngineParameters<float>&, int device);
  std::unique_ptr<EngineBackend> (*backend_mixed)(const EngineParameters<float>&, int device);
  std::unique_ptr<EngineBackend> (*backend_float64)(const EngineParameters<double>&, int device);
};

/// Changes with everything that a library and its users must agree on.
constexpr int cuda_library_layout = 5;

/// The library, loaded at the first call. Throws std::runtime_error that says what is missing: the library (a build without
/// nvcc), the driver or a device.
const CudaLibrary& cuda_library();

/// Loads this library at the first call instead of the one beside this file, to test.
void use_cuda_library(const std::string& path);

/// The one function that the library exports.
constexpr const char* cuda_library_symbol = "tesseral_cuda_library";
using CudaLibraryFunction = const CudaLibrary* (*)();

}  // namespace tesseral
