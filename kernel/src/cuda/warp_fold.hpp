// Sums of several numbers over the lanes of a warp at once: n numbers take about n shuffles instead of 5 n.
#pragma once

#include "device.hpp"
#include "tesseral/pack.hpp"

namespace tesseral::cuda {

/// Smallest power of two that is not below n.
constexpr int fold_size(int n) {
  return n <= 1 ? 1 : 2 * fold_size((n + 1) / 2);
}

#if defined(__CUDACC__) || defined(TESSERAL_EMULATE)

/// The sum over all lanes of x[m], with m = lane / (32 / n); n is a power of two. Uses up x.
template <class T, int n>
__device__ inline T warp_fold(T (&x)[n]) {
  static_assert(n == fold_size(n) && n <= warp_size);
  if constexpr (n == 1) {
    return warp_sum(x[0]);
  } else {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    // Lanes whose bit `offset` is set go on with the upper half of the numbers, the others with the lower one.
    int offset = warp_size / 2;
    TESSERAL_UNROLL
    for (int half = n / 2; half > 0; half /= 2, offset /= 2) {
      TESSERAL_UNROLL
      for (int m = 0; m < n / 2; ++m) {
        if (m >= half) continue;
        const bool upper = (lane & offset) != 0;
        const T given = upper ? x[m] : x[m + half], kept = upper ? x[m + half] : x[m];
        x[m] = kept + __shfl_xor_sync(all_lanes, given, offset);
      }
    }
    T sum = x[0];
    for (; offset > 0; offset /= 2) sum += __shfl_xor_sync(all_lanes, sum, offset);
    return sum;
  }
}

/// Which of n sums this lane shall write, or -1: one lane for each.
template <int n>
__device__ inline int folded_number() {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  return lane % (warp_size / n) == 0 ? lane / (warp_size / n) : -1;
}

#endif

}  // namespace tesseral::cuda
