#include "scan.hpp"

namespace tesseral::cuda {
namespace {

constexpr int threads = 256;

/// Sum of the numbers of the block's threads before this one; `total` of all.
__device__ int64_t block_scan(int64_t own, int64_t& total) {
  __shared__ int64_t of_warps[threads / warp_size];
  const int lane = static_cast<int>(threadIdx.x % warp_size), warp = static_cast<int>(threadIdx.x) / warp_size;
  int64_t sum = own;
  for (int step = 1; step < warp_size; step *= 2) {
    const int64_t below = __shfl_up_sync(all_lanes, sum, step);
    if (lane >= step) sum += below;
  }
  if (lane == warp_size - 1) of_warps[warp] = sum;
  __syncthreads();
  int64_t before = 0;
  total = 0;
  for (int w = 0; w < threads / warp_size; ++w) {
    if (w < warp) before += of_warps[w];
    total += of_warps[w];
  }
  __syncthreads();
  return before + sum - own;
}

/// Sums of the first n numbers, those of a block at a time.
__global__ void sum_blocks(const int64_t* values, int64_t n, int64_t* sums) {
  const int64_t k = global_thread();
  int64_t total;
  block_scan(k < n ? values[k] : 0, total);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}
/// In one block: each number becomes the sum of those before it.
__global__ void scan_sums(int64_t* sums, int64_t n) {
  int64_t before = 0;
  for (int64_t begin = 0; begin < n; begin += threads) {
    const int64_t k = begin + threadIdx.x;
    int64_t total;
    const int64_t own = block_scan(k < n ? sums[k] : 0, total);
    if (k < n) sums[k] = before + own;
    before += total;
  }
}
__global__ void scan_blocks(int64_t* values, int64_t n, const int64_t* before) {
  const int64_t k = global_thread();
  const int64_t own = k < n ? values[k] : 0;
  int64_t total;
  const int64_t sum = before[blockIdx.x] + block_scan(own, total);
  if (k < n) values[k] = sum;
  if (k == n - 1) values[n] = sum + own;
}

}  // namespace

void scan(int64_t* values, int64_t n, DeviceArray<int64_t>& work) {
  const int64_t n_blocks = blocks_for(n, threads);
  work.resize(static_cast<std::size_t>(n_blocks));
  launch(sum_blocks, n_blocks, threads, 0, values, n, work.data());
  launch(scan_sums, 1, threads, 0, work.data(), n_blocks);
  launch(scan_blocks, n_blocks, threads, 0, values, n, work.data());
}

}  // namespace tesseral::cuda
