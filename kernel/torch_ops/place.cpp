#include "place.hpp"

#include <torch/version.h>

namespace tesseral::torch_ops {
namespace {

/// The cudaStream_t of torch's current stream.
void* current_stream(c10::Device gpu) {
  const c10::Stream stream = c10::impl::getDeviceGuardImpl(gpu.type())->getStream(gpu);
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 11
  return stream.native_handle();
#else
  // The default stream is number 0 and one from outside torch is numbered by its handle; torch's own numbers are odd.
  TORCH_CHECK(stream.id() % 2 == 0,
              "tesseral: on streams of torch, other than the default one, torch must be 2.11 or newer");
  return reinterpret_cast<void*>(stream.id());
#endif
}

}  // namespace

const CudaLibrary& library_in_current_stream(c10::Device gpu) {
  const CudaLibrary& library = cuda_library();
  library.use(gpu.index(), current_stream(gpu));
  return library;
}

}  // namespace tesseral::torch_ops
