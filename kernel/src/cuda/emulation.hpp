// CUDA's language on the processor: the blocks of a kernel one after the other, the threads of a block as fibers that change
// at barriers and shuffles. Slow, for tests. The calls of CUDA's runtime are in emulation_runtime.hpp; what kernels do with
// memory is checked in emulation_checks.cpp.
#pragma once

#define TESSERAL_EMULATE

#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__

#include "emulation_runtime.hpp"

struct Dim3 {
  unsigned x = 0;
};
extern Dim3 threadIdx, blockIdx, blockDim, gridDim;

// The functions of emulation.cpp and emulation_checks.cpp, whose own accesses to memory are not watched.
namespace tesseral::cuda::emulation {

constexpr unsigned lanes_of_warp = 32;

/// Runs `body` in every thread of all blocks. It takes the kernel's arguments, which are in the host's memory, says
/// enter_kernel() and calls the kernel. A barrier that not all threads reach would hang a GPU; here it is an error. `name`:
/// of the kernel or of its group, for messages.
void run(const char* name, unsigned blocks, unsigned threads, std::size_t shared_bytes, const std::function<void()>& body);
/// From here on the thread's accesses to memory are the kernel's.
void enter_kernel();

unsigned char* shared_memory();
void synchronise_block();
void synchronise_warp();
/// Gives `bits` to the threads of the warp, and returns what its 32 lanes gave. `taken` must follow when they are read.
const uint64_t* give_to_warp(uint64_t bits);
void taken();
/// Whether a thread of the block says so; a barrier.
bool any_of_block(bool predicate);
/// Checks an atomic access of a kernel to memory; `caller`: where its code is.
void note_atomic(const void* pointer, std::size_t size, const void* caller);
/// Checks that so many bytes can be accessed at once.
void note_vector(const void* pointer, std::size_t size);

/// What `read` makes of the values that the lanes of this thread's warp give.
template <class T, class Read>
inline auto exchange(T value, Read read) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const uint64_t* lanes = give_to_warp(bits);
  const auto result = read([&](unsigned lane) {
    T given;
    std::memcpy(&given, &lanes[lane % lanes_of_warp], sizeof given);
    return given;
  });
  taken();
  return result;
}

/// What lane `source` gives.
template <class T>
inline T exchange(T value, unsigned source) {
  return exchange(value, [=](auto value_of) { return value_of(source); });
}

}  // namespace tesseral::cuda::emulation

inline void __syncthreads() {
  tesseral::cuda::emulation::synchronise_block();
}
inline void __syncwarp(unsigned = 0xffffffffu) {
  tesseral::cuda::emulation::synchronise_warp();
}
inline int __syncthreads_or(int predicate) {
  return tesseral::cuda::emulation::any_of_block(predicate != 0);
}
template <class T>
inline T __shfl_sync(unsigned, T value, int lane) {
  return tesseral::cuda::emulation::exchange(value, static_cast<unsigned>(lane));
}
template <class T>
inline T __shfl_xor_sync(unsigned, T value, int mask) {
  return tesseral::cuda::emulation::exchange(value, (threadIdx.x % 32) ^ static_cast<unsigned>(mask));
}
template <class T>
inline T __shfl_up_sync(unsigned, T value, unsigned delta) {
  const unsigned lane = threadIdx.x % 32;
  return tesseral::cuda::emulation::exchange(value, lane < delta ? lane : lane - delta);
}
inline unsigned __ballot_sync(unsigned, bool predicate) {
  return tesseral::cuda::emulation::exchange(predicate, [](auto value_of) {
    unsigned votes = 0;
    for (unsigned lane = 0; lane < 32; ++lane) votes |= static_cast<unsigned>(value_of(lane)) << lane;
    return votes;
  });
}
inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
template <class T>
__attribute__((noinline, no_sanitize("thread"))) T atomicAdd(T* target, T value) {
  tesseral::cuda::emulation::note_atomic(target, sizeof(T), __builtin_return_address(0));
  const T before = *target;
  *target += value;
  return before;
}
template <class T>
__attribute__((noinline, no_sanitize("thread"))) T atomicMin(T* target, T value) {
  tesseral::cuda::emulation::note_atomic(target, sizeof(T), __builtin_return_address(0));
  const T before = *target;
  if (value < before) *target = value;
  return before;
}
template <class T>
inline T __ldg(const T* source) {
  return *source;
}
