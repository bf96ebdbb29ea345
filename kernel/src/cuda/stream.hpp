// Errors of CUDA, and the stream in which the calls of a thread of the host work.
#pragma once

#ifndef TESSERAL_EMULATE
#include <cuda_runtime.h>
#endif

#include <stdexcept>
#include <string>

#include "device_scope.hpp"

namespace tesseral::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status));
}

/// The stream that launches and copies of this thread of the host use.
inline cudaStream_t& current_stream() {
  static thread_local cudaStream_t stream = nullptr;
  return stream;
}

/// A stream of its own, of the device that is current when it is made. It does not wait for CUDA's default stream, nor that
/// for it, so that its work can be captured while other threads use the default one.
class DeviceStream {
 public:
  DeviceStream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream"); }
  ~DeviceStream() { cudaStreamDestroy(stream_); }
  DeviceStream(const DeviceStream&) = delete;
  DeviceStream& operator=(const DeviceStream&) = delete;

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// This thread works in a device's stream as long as the object lives, then on the device and in the stream before.
class StreamScope {
 public:
  StreamScope(int device, cudaStream_t stream) : StreamScope(device) { current_stream() = stream; }
  /// In the default stream, until `current_stream` is set.
  explicit StreamScope(int device) : stream_(current_stream()) {
    check(cudaSetDevice(device), "choice of the device");
    current_stream() = nullptr;
  }
  ~StreamScope() { current_stream() = stream_; }
  StreamScope(const StreamScope&) = delete;
  StreamScope& operator=(const StreamScope&) = delete;

 private:
  DeviceScope before_;
  cudaStream_t stream_;
};

/// Waits for the current stream.
inline void wait() {
  check(cudaStreamSynchronize(current_stream()), "wait");
}

}  // namespace tesseral::cuda
