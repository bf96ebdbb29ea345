// CUDA's language and the few calls of its runtime that device.hpp uses, on the processor: the blocks of a kernel one after
// the other, the threads of a block as fibers that change at barriers and shuffles. Slow, for tests.
#pragma once

#define TESSERAL_EMULATE

#include <ucontext.h>

#include <csetjmp>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <stdexcept>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__

using cudaError_t = int;
using cudaStream_t = void*;
constexpr cudaError_t cudaSuccess = 0, cudaErrorNoDevice = 100;
constexpr int cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2;
inline const char* cudaGetErrorString(cudaError_t) {
  return "out of memory";
}
namespace tesseral::cuda::emulation {
constexpr std::size_t all_memory = std::size_t{16} << 30;
inline std::map<void*, std::size_t>& allocations() {
  static std::map<void*, std::size_t>& sizes = *new std::map<void*, std::size_t>;
  return sizes;
}
}  // namespace tesseral::cuda::emulation
inline cudaError_t cudaMalloc(void** pointer, std::size_t size) {
  *pointer = std::malloc(size > 0 ? size : 1);
  if (!*pointer) return 2;
  std::memset(*pointer, 0xff, size);  // not a number: what is read before it is written shows
  tesseral::cuda::emulation::allocations()[*pointer] = size;
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* pointer) {
  tesseral::cuda::emulation::allocations().erase(pointer);
  std::free(pointer);
  return cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = *free = tesseral::cuda::emulation::all_memory;
  for (const auto& [pointer, size] : tesseral::cuda::emulation::allocations()) *free -= size;
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t size, int, cudaStream_t) {
  std::memcpy(target, source, size);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* target, int value, std::size_t size, cudaStream_t) {
  std::memset(target, value, size);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  const char* status = std::getenv("TESSERAL_EMULATED_STATUS");  // to test what is said of CUDA's errors
  *count = status ? 0 : 1;
  return status ? std::atoi(status) : cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}
constexpr int cudaDevAttrMultiProcessorCount = 16;
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) {
  *value = 1;
  return cudaSuccess;
}

struct Dim3 {
  unsigned x = 0;
};
inline Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace tesseral::cuda::emulation {

constexpr unsigned lanes_of_warp = 32;
constexpr std::size_t stack_bytes = 256 * 1024;

/// Threads that wait for each other.
struct Barrier {
  unsigned size = 0, arrived = 0, generation = 0;
};

/// A thread of the block. Started once, it runs one kernel after the other; it changes with the scheduler by setjmp, which
/// makes no system call.
struct Fiber {
  std::jmp_buf place;
  ucontext_t start;
  std::vector<char> stack;
  bool started = false, finished = false;
};

struct Block {
  std::deque<Fiber> fibers;  // as many as any block has had
  std::vector<unsigned char> shared;
  Barrier all;
  std::vector<Barrier> warps;
  std::vector<uint64_t> exchanged;  // of each thread
  std::jmp_buf scheduler;
  const std::function<void()>* body = nullptr;
};

inline Block& state() {
  static Block block;
  return block;
}

inline void yield() {
  if (_setjmp(state().fibers[threadIdx.x].place) == 0) _longjmp(state().scheduler, 1);
}

inline void wait(Barrier& barrier) {
  const unsigned generation = barrier.generation;
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  while (barrier.generation == generation) yield();
}

inline void live() {
  for (;;) {
    (*state().body)();
    state().fibers[threadIdx.x].finished = true;
    yield();
  }
}

/// Runs thread `own` until it waits or ends.
inline void resume(unsigned own) {
  threadIdx.x = own;
  Fiber& fiber = state().fibers[own];
  if (_setjmp(state().scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  fiber.stack.resize(stack_bytes);
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.data();
  fiber.start.uc_stack.ss_size = stack_bytes;
  makecontext(&fiber.start, live, 0);
  setcontext(&fiber.start);
}

/// Runs all blocks. A barrier that not all threads reach would hang a GPU; here it is an error.
inline void run(unsigned blocks, unsigned threads, std::size_t shared_bytes, const std::function<void()>& body) {
  if (threads % lanes_of_warp != 0 || threads > 1024) throw std::logic_error("threads of a block: not whole warps");
  static std::mutex running;  // threads of the host take turns
  const std::lock_guard<std::mutex> lock(running);
  Block& block = state();
  if (block.fibers.size() < threads) block.fibers.resize(threads);
  block.body = &body;
  gridDim.x = blocks;
  blockDim.x = threads;
  for (unsigned b = 0; b < blocks; ++b) {
    blockIdx.x = b;
    block.shared.assign(shared_bytes + 16, 0xff);
    block.all = {threads};
    block.warps.assign(threads / lanes_of_warp, {lanes_of_warp});
    block.exchanged.assign(threads, 0);
    for (unsigned t = 0; t < threads; ++t) block.fibers[t].finished = false;
    unsigned finished = 0, waited = 0;
    while (finished < threads) {
      const unsigned before = finished, generation = block.all.generation;
      unsigned moved = 0;
      for (const Barrier& warp : block.warps) moved += warp.generation;
      for (unsigned t = 0; t < threads; ++t) {
        if (block.fibers[t].finished) continue;
        resume(t);
        finished += block.fibers[t].finished;
      }
      for (const Barrier& warp : block.warps) moved -= warp.generation;
      waited = finished == before && generation == block.all.generation && moved == 0 ? waited + 1 : 0;
      if (waited > 2) {
        block.fibers.clear();
        throw std::logic_error("a barrier that not all threads of a block or warp reach");
      }
    }
  }
}

/// What `read` makes of the values that the lanes of this thread's warp give.
template <class T, class Read>
inline auto exchange(T value, Read read) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  Block& block = state();
  const unsigned own = threadIdx.x, warp = own / lanes_of_warp;
  std::memcpy(&block.exchanged[own], &value, sizeof value);
  wait(block.warps[warp]);
  const auto result = read([&](unsigned lane) {
    T given;
    std::memcpy(&given, &block.exchanged[warp * lanes_of_warp + lane % lanes_of_warp], sizeof given);
    return given;
  });
  wait(block.warps[warp]);
  return result;
}

/// What lane `source` gives.
template <class T>
inline T exchange(T value, unsigned source) {
  return exchange(value, [=](auto value_of) { return value_of(source); });
}

}  // namespace tesseral::cuda::emulation

inline void __syncthreads() {
  tesseral::cuda::emulation::wait(tesseral::cuda::emulation::state().all);
}
inline void __syncwarp(unsigned = 0xffffffffu) {
  tesseral::cuda::emulation::wait(tesseral::cuda::emulation::state().warps[threadIdx.x / 32]);
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
inline T atomicAdd(T* target, T value) {
  const T before = *target;
  *target += value;
  return before;
}
template <class T>
inline T __ldg(const T* source) {
  return *source;
}
