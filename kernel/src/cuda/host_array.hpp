// Memory of the host that copies to and from a device use.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

#include "stream.hpp"

namespace tesseral::cuda {

/// Pinned memory of the host: copies need no further buffer, and its address stays until it grows. Where the system gives
/// none it is ordinary memory, with which copies work too.
template <class T>
class HostArray {
 public:
  HostArray() = default;
  HostArray(const HostArray&) = delete;
  HostArray& operator=(const HostArray&) = delete;
  ~HostArray() { release(); }

  /// Contents are lost when it grows. No copy may be under way.
  void resize(std::size_t size) {
    size_ = size;
    if (size <= capacity_) return;
    release();
    void* memory = nullptr;
    pinned_ = cudaHostAlloc(&memory, size * sizeof(T), cudaHostAllocDefault) == cudaSuccess;
    if (!pinned_) {
      cudaGetLastError();  // so that the next check does not find it
      memory = std::malloc(size * sizeof(T));
      if (!memory) throw std::bad_alloc();
    }
    data_ = static_cast<T*>(memory);
    capacity_ = size;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool pinned() const { return pinned_; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0, capacity_ = 0;
  bool pinned_ = true;

  void release() {
    if (data_ && pinned_) cudaFreeHost(data_);
    if (data_ && !pinned_) std::free(data_);
    data_ = nullptr;
    capacity_ = 0;
  }
};

}  // namespace tesseral::cuda
