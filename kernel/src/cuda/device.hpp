// What device code is written with: launches, memory, sums over a warp. nvcc compiles it for a GPU; with emulation.hpp
// included before everything else a C++ compiler compiles the same sources for the processor, which is how they are tested
// without a GPU. Both define TESSERAL_ISA=cuda and TESSERAL_SCALAR.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "profile.hpp"
#include "stream.hpp"

namespace tesseral::cuda {

constexpr int warp_size = 32;
constexpr unsigned all_lanes = 0xffffffffu;

/// Bytes of shared memory that a block may have on every GPU that is supported, beside 3 kB with fixed places.
constexpr std::size_t most_shared_bytes = 96 * 1024;

#ifndef TESSERAL_EMULATE
inline void allow_shared_bytes(const void* kernel) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(most_shared_bytes)),
        "shared memory");
}
#endif

/// Runs a kernel with so many blocks (none: nothing is run), threads per block (a multiple of a warp) and bytes of
/// shared_memory().
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, std::size_t shared_bytes, Arguments... arguments) {
  if (blocks == 0) return;
  if (blocks > INT32_MAX) throw std::length_error("CUDA: a kernel over too many atoms or edges; use fewer at once");
  if (shared_bytes > most_shared_bytes) {
    throw std::length_error("CUDA: a kernel needs " + std::to_string(shared_bytes) + " bytes of a block's shared memory, " +
                            std::to_string(most_shared_bytes) + " are there; the model is too large");
  }
#ifdef TESSERAL_EMULATE
  profiled(current_label(), [&] {
    emulation::submit(current_stream(), [=, label = current_label()] {
      emulation::run(label, static_cast<unsigned>(blocks), static_cast<unsigned>(threads), shared_bytes, [&] {
        const std::tuple<void (*)(Parameters...), Parameters...> own(kernel, static_cast<Parameters>(arguments)...);
        emulation::enter_kernel();
        std::apply([](auto call, const auto&... values) { call(values...); }, own);
      });
    });
  });
#else
  // beyond 48 kB with those of fixed places: to be allowed, once for all sizes
  if (shared_bytes > 44 * 1024) allow_shared_bytes(reinterpret_cast<const void*>(kernel));
  cudaLaunchConfig_t configuration{};
  configuration.gridDim = static_cast<unsigned>(blocks);
  configuration.blockDim = static_cast<unsigned>(threads);
  configuration.dynamicSmemBytes = shared_bytes;
  configuration.stream = current_stream();
  profiled(current_label(),
           [&] { check(cudaLaunchKernelEx(&configuration, kernel, static_cast<Parameters>(arguments)...), "launch"); });
#endif
}

/// Blocks of `size` that cover n.
constexpr int64_t blocks_for(int64_t n, int64_t size) {
  return (n + size - 1) / size;
}

#ifdef __CUDACC__
/// The block's dynamic shared memory.
template <class T>
__device__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char tesseral_shared[];
  return reinterpret_cast<T*>(tesseral_shared);
}
#elif defined(TESSERAL_EMULATE)
template <class T>
T* shared_memory() {
  return reinterpret_cast<T*>(emulation::shared_memory());
}
#endif

#if defined(__CUDACC__) || defined(TESSERAL_EMULATE)
/// This thread among all of a one-dimensional grid.
__device__ inline int64_t global_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

/// Sum over the lanes of a warp, in every lane; all 32 call it.
template <class T>
__device__ inline T warp_sum(T x) {
  for (int offset = warp_size / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(all_lanes, x, offset);
  return x;
}
#endif

/// Memory of the current device. Contents are lost when it grows.
template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(std::size_t size) { resize(size); }
  template <class Container>
  static DeviceArray from(const Container& values) {
    DeviceArray array(values.size());
    array.upload(values.data(), values.size());
    return array;
  }
  DeviceArray(DeviceArray&& other) noexcept { swap(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    swap(other);
    return *this;
  }
  ~DeviceArray() {
    if (data_) cudaFree(data_);
  }

  /// Makes room for so many; never shrinks. What grows once may grow again by a little, such as a neighbour list: it gets
  /// some more, as waiting for the device and for new memory is slow.
  void resize(std::size_t size) {
    if (size > capacity_) {
      const std::size_t room = capacity_ > 0 ? size + size / 8 : size;
      size_ = capacity_ = 0;
      if (data_) check(cudaFree(std::exchange(data_, nullptr)), "free");
      check(cudaMalloc(reinterpret_cast<void**>(&data_), room * sizeof(T)), "memory");
      capacity_ = room;
    }
    size_ = size;
  }
  /// In the order of the current stream; `source` may be changed when this returns, unless it is pinned.
  void upload(const T* source, std::size_t size) {
    resize(size);
    copy(data_, source, size, cudaMemcpyHostToDevice, "copies to the device");
  }
  /// In the order of the current stream.
  void copy_to(T* target, std::size_t size) const {
    copy(target, data_, size, cudaMemcpyDeviceToHost, "copies from the device");
  }
  /// Waits for the current stream.
  void download(T* target, std::size_t size) const {
    copy_to(target, size);
    if (size > 0) wait();
  }
  void fill_zero() { fill(0); }
  /// Sets every byte.
  void fill(int byte) {
    if (size_ == 0) return;
    profiled("fills", [&] { check(cudaMemsetAsync(data_, byte, size_ * sizeof(T), current_stream()), "fill"); });
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0, capacity_ = 0;

  static void copy(T* target, const T* source, std::size_t size, cudaMemcpyKind kind, const char* name) {
    if (size == 0) return;
    profiled(name, [&] { check(cudaMemcpyAsync(target, source, size * sizeof(T), kind, current_stream()), name); });
  }

  void swap(DeviceArray& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }
};

}  // namespace tesseral::cuda
