// How the kernels of messages are launched: channels of a lane, edges at a time, who does what.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "kernels.hpp"
#include "message_parts.hpp"

namespace tesseral::cuda {

constexpr int radial_chunk = 8;  // radial functions at a time
constexpr int most_warps = 4;    // of a block

/// What all kernels of messages take.
template <class T>
struct MessageWork {
  MessageShape<T> shape;
  MessageInputs<T> inputs;
  PartTables<T> tables;
  int batch;  // edges at a time
};

/// Channels of a lane at most: 16 bytes of them.
template <class V>
constexpr int most_channels = 16 / static_cast<int>(sizeof(V));

/// Channels of a lane that suit this length of rows: few warps, each with many, but lanes without a channel do nothing.
/// All pointers must be multiples of so many numbers.
inline int channels_per_lane(int row, int most, std::size_t size, std::initializer_list<const void*> pointers) {
  int best = 1;
  const auto cost = [row](int n) { return (row + warp_size * n - 1) / (warp_size * n) * (n + 1); };
  for (int n = 2; n <= most; n *= 2) {
    bool fits = row % n == 0 && cost(n) <= cost(best);
    for (const void* pointer : pointers) fits = fits && reinterpret_cast<uintptr_t>(pointer) % (n * size) == 0;
    if (fits) best = n;
  }
  return best;
}

/// Calls visit(std::integral_constant<int, n>) for n = 1, 2 or 4 up to most_channels<V>.
template <class V, class Visit>
void with_channels(int n, Visit visit) {
  if constexpr (most_channels<V> >= 4) {
    if (n == 4) return visit(std::integral_constant<int, 4>());
  }
  if constexpr (most_channels<V> >= 2) {
    if (n == 2) return visit(std::integral_constant<int, 2>());
  }
  visit(std::integral_constant<int, 1>());
}

/// Hands out parts of shared memory, each aligned to 16 bytes; on the host only counts.
class SharedParts {
 public:
  __host__ __device__ explicit SharedParts(unsigned char* base) : base_(base) {}
  template <class T>
  __host__ __device__ T* take(int count) {
    T* part = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (count * sizeof(T) + 15) / 16 * 16;
    return part;
  }
  __host__ __device__ std::size_t used() const { return used_; }

 private:
  unsigned char* base_;
  std::size_t used_ = 0;
};

/// Edges at a time: at most `most`, as many as fit into `room` bytes of the warp's shared memory. Few bytes leave much of it
/// to the nearest cache, which is the same memory.
inline int batch_of(int most, std::size_t bytes_per_edge, std::size_t room) {
  const std::size_t fitting = room / bytes_per_edge;
  return fitting >= static_cast<std::size_t>(most) ? most : fitting > 0 ? static_cast<int>(fitting) : 1;
}

/// The warps of a grid: so many `units` for each of some places (centers, or groups of them), in whole blocks for each
/// place.
struct WarpGrid {
  int units;
  int blocks_per_place;
  int warps;  // of a block

  explicit WarpGrid(int n_units)
      : units(n_units),
        blocks_per_place((n_units + most_warps - 1) / most_warps),
        warps((n_units + blocks_per_place - 1) / blocks_per_place) {}
  int threads() const { return warps * warp_size; }

#if defined(__CUDACC__) || defined(TESSERAL_EMULATE)
  __device__ int64_t place() const { return blockIdx.x / static_cast<unsigned>(blocks_per_place); }
  /// Some last warps have none: at least `units`.
  __device__ int unit() const {
    const unsigned block = blockIdx.x % static_cast<unsigned>(blocks_per_place);
    return static_cast<int>(block * warps + threadIdx.x / warp_size);
  }
#endif
};

/// How the warps of a block share the edges of one center: in turns of equal sizes of at most `batch`.
class EdgeShares {
 public:
  __host__ __device__ EdgeShares(int64_t first, int64_t last, int batch) : end(last), first_(first) {
    const int n = static_cast<int>(last - first), turns = (n + most_warps * batch - 1) / (most_warps * batch);
    size_ = turns > 0 ? (n + most_warps * turns - 1) / (most_warps * turns) : 1;
  }
  __host__ __device__ int64_t begin(int warp) const { return first_ + warp * size_; }
  __host__ __device__ int stride() const { return most_warps * size_; }
  __host__ __device__ int count(int64_t edge) const { return static_cast<int>(end - edge < size_ ? end - edge : size_); }
  const int64_t end;

 private:
  int64_t first_;
  int size_;
};

}  // namespace tesseral::cuda
