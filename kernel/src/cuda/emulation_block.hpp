// What emulation.cpp and emulation_checks.cpp know of the block that runs.
#pragma once

#include <ucontext.h>

#include <csetjmp>
#include <deque>
#include <functional>
#include <vector>

#include "emulation.hpp"

namespace tesseral::cuda::emulation {

constexpr std::size_t stack_bytes = 256 * 1024;

/// Whose code this thread of the host runs: different accesses are right for a kernel and for the host, any for the
/// emulation.
enum class Who { host, kernel, emulation };
Who& who_runs();

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
  const char* name = "";     // of the kernel
  std::deque<Fiber> fibers;  // as many as any block has had
  std::vector<unsigned char> shared;
  std::size_t shared_bytes = 0;  // that the kernel asked for
  uint64_t launches = 0;
  Barrier all;
  std::vector<Barrier> warps;
  std::vector<uint64_t> exchanged;  // of each thread
  std::vector<unsigned> fences;     // of each thread: how often its warp was synchronised
  std::jmp_buf scheduler;
  const std::function<void()>* body = nullptr;
  const char* own_stack = nullptr;  // of the thread that runs
};
Block& state();

}  // namespace tesseral::cuda::emulation
