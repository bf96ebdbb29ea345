// What kernels over edges share: the direction of an edge, columns of shared memory, groups of lanes for atoms, blocks of
// edges and the rows that they read or write together, and the choice of l_max.
#pragma once

#include <type_traits>

#include "kernels.hpp"
#include "multiprocessors.hpp"
#include "tesseral/harmonics.hpp"

namespace tesseral::cuda {

/// Direction and length of edge e; with V = Dual<T> along `tangents`.
template <class V>
__device__ inline Direction<V> direction_of(const Element<V>* vectors, const Element<V>* tangents, int64_t e) {
  return {element<V>(vectors, tangents, 3 * e), element<V>(vectors, tangents, 3 * e + 1),
          element<V>(vectors, tangents, 3 * e + 2)};
}

/// An array of one thread in shared memory: number n of it at first[n * stride], so that threads side by side share no bank.
template <class V>
struct Column {
  V* first;
  int stride;
  __device__ V& operator[](int n) const { return first[n * stride]; }
  __device__ Column operator+(int n) const { return {first + n * stride, stride}; }
};

/// Where results go that nobody wants.
struct Unwanted {
  struct Any {
    template <class X>
    __device__ void operator=(const X&) const {}
  };
  __device__ Any operator[](int) const { return {}; }
};

/// Numbers that a thread reads at once.
template <class V>
struct alignas(16) Words {
  static constexpr int count = 16 / static_cast<int>(sizeof(V));
  V of[count];
};

/// Shared memory of a block that leaves room for several.
constexpr std::size_t usual_shared_bytes = 48 * 1024;

/// Lanes (a power of two) of the groups that work on an atom each: `least`, or more where else multiprocessors had little to
/// do.
inline int lanes_of_group(int64_t n_atoms, int least) {
  const int64_t wanted = static_cast<int64_t>(multiprocessors()) * 32 * warp_size;
  int lanes = least;
  while (lanes < warp_size && n_atoms * lanes < wanted) lanes *= 2;
  return lanes;
}

/// Blocks of threads for edges of which each has a column of so many bytes in its block's shared memory.
struct EdgeBlocks {
  int at_once = 128;  // edges of a block, a power of two
  int stride;         // between the numbers of a column
  int threads;
  int64_t count;
  std::size_t shared_bytes;

  EdgeBlocks(Range edges, std::size_t column_bytes) {
    while (at_once > 1 && bytes(column_bytes) > usual_shared_bytes) at_once /= 2;
    stride = at_once + 1;
    threads = at_once < warp_size ? warp_size : at_once;
    count = blocks_for(edges.end - edges.begin, at_once);
    shared_bytes = bytes(column_bytes);
  }

 private:
  std::size_t bytes(std::size_t column_bytes) const { return static_cast<std::size_t>(at_once + 1) * column_bytes; }
};

/// The edges begin .. begin+count-1 of this thread's block; `own` is that of the thread, if there is one.
struct EdgesOfBlock {
  int64_t begin;
  int count;
  int own;

  __device__ EdgesOfBlock(Range edges, int at_once)
      : begin(edges.begin + static_cast<int64_t>(blockIdx.x) * at_once), own(static_cast<int>(threadIdx.x)) {
    count = edges.end - begin < at_once ? static_cast<int>(edges.end - begin) : at_once;
  }

  /// The block's threads call visit(at, place) for all entries of the rows [count, length] of these edges, neighbouring
  /// threads for neighbouring entries: number `at` of the rows is number `place` of columns with this stride.
  template <class Visit>
  __device__ void for_entries_of_rows(int length, int stride, Visit visit) const {
    const int step = static_cast<int>(blockDim.x), rows = step / length, entries = step % length;
    int n = own % length, place = n * stride + own / length;
    for (int at = own; at < count * length; at += step) {
      visit(at, place);
      n += entries;
      place += entries * stride + rows;
      if (n >= length) {
        n -= length;
        place += 1 - length * stride;
      }
    }
  }
};

/// Number of harmonics, known to the compiler unless L is any_l.
template <int L>
TESSERAL_INLINE constexpr int harmonics_of(int l_max) {
  return L == any_l ? (l_max + 1) * (l_max + 1) : (L + 1) * (L + 1);
}

/// Calls visit(std::integral_constant<int, l>()) with l = l_max where kernels are compiled for it, else any_l.
template <class Visit>
void with_l_max(int l_max, Visit visit) {
  switch (l_max) {
    case 0:
      return visit(std::integral_constant<int, 0>());
    case 1:
      return visit(std::integral_constant<int, 1>());
    case 2:
      return visit(std::integral_constant<int, 2>());
    case 3:
      return visit(std::integral_constant<int, 3>());
    case 4:
      return visit(std::integral_constant<int, 4>());
    default:
      return visit(std::integral_constant<int, any_l>());
  }
}

}  // namespace tesseral::cuda
