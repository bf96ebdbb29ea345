// What the library exports: the table of its functions.
#include <memory>

#include "device_scope.hpp"
#include "engine.hpp"
#include "kernels.hpp"
#include "peak.hpp"
#include "tesseral/cuda_library.hpp"

namespace tesseral::cuda {
namespace {

template <class T>
const Kernels<T>* all_kernels() {
  static const Kernels<T> table = [] {
    Kernels<T> kernels{};
    kernels.instruction_set = "cuda";
    add_harmonics(kernels);
    add_radial(kernels);
    add_density(kernels);
    add_mix(kernels);
    add_row_maps(kernels);
    add_product(kernels);
    add_message(kernels);
    add_peak(kernels);
    return kernels;
  }();
  return &table;
}

int device_count() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorNoDevice) return 0;
  check(status,
        "no usable GPU (is the driver missing or older than the CUDA of this build, or did a process with CUDA fork?)");
  return count;
}

template <class T, class Sum>
std::unique_ptr<EngineBackend> backend(const EngineParameters<T>& parameters, int device) {
  return make_backend<T, Sum>(parameters, device, *all_kernels<T>());
}

std::size_t memory_used(int device) {
  const DeviceScope scope;
  std::size_t free = 0, total = 0;
  check(cudaSetDevice(device), "choice of the device");
  check(cudaMemGetInfo(&free, &total), "memory");
  return total - free;
}

double memory_rate(int device) {
  const StreamScope scope(device);
  return bytes_per_second();
}

void use(int device, void* stream) {
  check(cudaSetDevice(device), "choice of the device");
  current_stream() = static_cast<cudaStream_t>(stream);
}

}  // namespace
}  // namespace tesseral::cuda

extern "C" __attribute__((visibility("default"))) const tesseral::CudaLibrary* tesseral_cuda_library() {
  using namespace tesseral::cuda;
  static const tesseral::CudaLibrary library{.layout = tesseral::cuda_library_layout,
                                             .device_count = device_count,
                                             .memory_used = memory_used,
                                             .bytes_per_second = memory_rate,
                                             .use = use,
                                             .kernels_float32 = all_kernels<float>(),
                                             .kernels_float64 = all_kernels<double>(),
                                             .backend_float32 = backend<float, float>,
                                             .backend_mixed = backend<float, double>,
                                             .backend_float64 = backend<double, double>};
  return &library;
}
