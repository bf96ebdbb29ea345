// Kernels with one fault each, which the emulation of a device must name, and one without.
#include "../../kernel/src/cuda/channels.hpp"

namespace tesseral::cuda {
namespace {

constexpr int threads = 64, blocks = 2;

__global__ void no_fault(int* out, int* total) {
  int *own = shared_memory<int>(), thread = static_cast<int>(threadIdx.x);
  __shared__ int fixed[threads];
  own[thread] = fixed[thread] = thread;
  __syncwarp();
  const int neighbor = own[thread ^ 1];
  __syncthreads();
  out[global_thread()] = neighbor + own[thread ^ 33] + fixed[thread ^ 33];
  __syncthreads();
  own[thread ^ 33] = 0;
  atomicAdd(total, 1);
}
__global__ void no_barrier_of_the_block(int* out) {
  int *own = shared_memory<int>(), thread = static_cast<int>(threadIdx.x);
  own[thread] = thread;
  __syncwarp();
  out[global_thread()] = own[thread ^ 33];
}
__global__ void no_barrier_of_the_warp(int* out) {
  __shared__ int own[threads];
  const int thread = static_cast<int>(threadIdx.x);
  own[thread] = thread;
  const int lane = __shfl_sync(all_lanes, thread, 0);  // orders nothing
  out[global_thread()] = own[thread ^ 1] + lane;
}
__global__ void blocks_write_the_same(int* out) {
  if (threadIdx.x == 0) out[0] = static_cast<int>(blockIdx.x);
}
__global__ void sum_is_read(int* out, int* total) {
  atomicAdd(total, 1);
  out[global_thread()] = *total;
}
__global__ void beyond_the_array(int* out) {
  out[global_thread() + 1] = 0;
}
__global__ void beyond_shared_memory(int* out) {
  out[global_thread()] = shared_memory<int>()[threads];
}
__global__ void memory_of_the_host(const int* host, int* out) {
  out[global_thread()] = *host;
}
__global__ void another_threads_memory(int* out) {
  __shared__ int* first;
  int own = static_cast<int>(threadIdx.x);
  if (threadIdx.x == 0) first = &own;
  __syncthreads();
  out[global_thread()] = *first;
}

__global__ void sum_of_an_odd_address(float* total) {
  const float amount[2] = {1, 1};
  add_numbers(total + 1, amount);
}

}  // namespace
}  // namespace tesseral::cuda

extern "C" __attribute__((visibility("default"))) void run_kernel(int which) {
  using namespace tesseral::cuda;
  const Label label("test");
  tesseral_emulation_foreign_memory = 0;
  DeviceArray<int> out(threads * blocks), total(1);
  const auto run = [&](auto kernel, auto... arguments) {
    launch(kernel, blocks, threads, threads * sizeof(int), arguments..., out.data());
  };
  total.fill_zero();
  const std::vector<int> host(1, 0);
  const int* first = host.data();
  switch (which) {
    case 0:
      return launch(no_fault, blocks, threads, threads * sizeof(int), out.data(), total.data());
    case 1:
      return run(no_barrier_of_the_block);
    case 2:
      return run(no_barrier_of_the_warp);
    case 3:
      return run(blocks_write_the_same);
    case 4:
      return launch(sum_is_read, blocks, threads, 0, out.data(), total.data());
    case 5:
      return run(beyond_the_array);
    case 6:
      return run(beyond_shared_memory);
    case 7:
      return run(memory_of_the_host, first);
    case 8:
      return run(another_threads_memory);
    case 9: {
      DeviceArray<float> sums(4);
      sums.fill_zero();
      return launch(sum_of_an_odd_address, blocks, threads, 0, sums.data());
    }
    case 10:
      check(cudaMemsetAsync(out.data(), 0, (out.size() + 1) * sizeof(int), current_stream()), "fill");
      return;
    case 11:
      out.data()[0] = 1;
      return;
  }
}
