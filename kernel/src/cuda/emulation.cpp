// The blocks and threads of emulation.hpp.
#include "emulation.hpp"

#include <mutex>
#include <stdexcept>

#include "emulation_block.hpp"

Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace tesseral::cuda::emulation {
namespace {

void yield() {
  if (_setjmp(state().fibers[threadIdx.x].place) == 0) _longjmp(state().scheduler, 1);
}

void wait(Barrier& barrier) {
  const unsigned generation = barrier.generation;
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  while (barrier.generation == generation) yield();
}

/// Not inlined: a thread of a block may go on in another thread of the host.
__attribute__((noinline)) void now_runs(Who who) {
  who_runs() = who;
}

void live() {
  for (;;) {
    (*state().body)();
    now_runs(Who::emulation);
    state().fibers[threadIdx.x].finished = true;
    yield();
  }
}

/// Whatever happens, the host's code follows.
struct HostAgain {
  ~HostAgain() { now_runs(Who::host); }
};

/// Runs thread `own` until it waits or ends.
void resume(unsigned own) {
  threadIdx.x = own;
  Fiber& fiber = state().fibers[own];
  if (_setjmp(state().scheduler) != 0) return;
  if (fiber.started) {
    state().own_stack = fiber.stack.data();
    _longjmp(fiber.place, 1);
  }
  fiber.started = true;
  fiber.stack.resize(stack_bytes);
  state().own_stack = fiber.stack.data();
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.data();
  fiber.start.uc_stack.ss_size = stack_bytes;
  makecontext(&fiber.start, live, 0);
  setcontext(&fiber.start);
}

/// Runs the threads of a block; false if some wait for ever.
bool run_block(Block& block, unsigned threads) {
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
    if (waited > 2) return false;
  }
  return true;
}

}  // namespace

Block& state() {
  static Block& block = *new Block;
  return block;
}
Who& who_runs() {
  static thread_local Who who __attribute__((tls_model("initial-exec"))) = Who::host;
  return who;
}

void run(const char* name, unsigned blocks, unsigned threads, std::size_t shared_bytes, const std::function<void()>& body) {
  if (threads % lanes_of_warp != 0 || threads > 1024) throw std::logic_error("threads of a block: not whole warps");
  static std::mutex running;  // threads of the host take turns
  const std::lock_guard<std::mutex> lock(running);
  Block& block = state();
  if (block.fibers.size() < threads) block.fibers.resize(threads);
  block.name = name;
  block.body = &body;
  block.shared_bytes = shared_bytes;
  ++block.launches;
  gridDim.x = blocks;
  blockDim.x = threads;
  const HostAgain afterwards;
  now_runs(Who::emulation);
  bool ended = true;
  for (unsigned b = 0; b < blocks && ended; ++b) {
    blockIdx.x = b;
    block.shared.assign(shared_bytes + guard_bytes, 0xff);
    block.all = {threads};
    block.warps.assign(threads / lanes_of_warp, {lanes_of_warp});
    block.exchanged.assign(threads, 0);
    block.fences.assign(threads, 0);
    for (unsigned t = 0; t < threads; ++t) block.fibers[t].finished = false;
    ended = run_block(block, threads);
  }
  if (ended) return;
  block.fibers.clear();
  throw std::logic_error("a barrier that not all threads of a block or warp reach");
}

void enter_kernel() {
  now_runs(Who::kernel);
}

unsigned char* shared_memory() {
  return state().shared.data();
}

void synchronise_block() {
  now_runs(Who::emulation);
  wait(state().all);
  now_runs(Who::kernel);
}
void synchronise_warp() {
  now_runs(Who::emulation);
  wait(state().warps[threadIdx.x / lanes_of_warp]);
  ++state().fences[threadIdx.x];
  now_runs(Who::kernel);
}

const uint64_t* give_to_warp(uint64_t bits) {
  now_runs(Who::emulation);
  Block& block = state();
  const unsigned warp = threadIdx.x / lanes_of_warp;
  block.exchanged[threadIdx.x] = bits;
  wait(block.warps[warp]);
  return &block.exchanged[warp * lanes_of_warp];
}
void taken() {
  wait(state().warps[threadIdx.x / lanes_of_warp]);
  now_runs(Who::kernel);
}

bool any_of_block(bool predicate) {
  now_runs(Who::emulation);
  Block& block = state();
  block.exchanged[threadIdx.x] = predicate;
  wait(block.all);
  bool any = false;
  for (const uint64_t one : block.exchanged) any = any || one != 0;
  wait(block.all);
  now_runs(Who::kernel);
  return any;
}

}  // namespace tesseral::cuda::emulation
