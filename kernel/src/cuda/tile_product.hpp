// A tile of a product of two matrices: panels of both in shared memory, the sums of each thread in registers.
#pragma once

#include "vectors.hpp"

namespace tesseral::cuda {

#if defined(__CUDACC__) || defined(TESSERAL_EMULATE)

/// sums += P^T Q with the panels P [depth, TY * M] and Q [depth, TX * 8] of TY * TX threads: thread (ty, tx) has the rows
/// ty * M .. of the tile and, so that neighbours read neighbouring vectors, the vectors of columns tx, tx + TX, ...
template <class T, int M, int TY, int TX>
struct TileProduct {
  static constexpr int n_threads = TY * TX, rows = TY * M, columns = TX * 8, V = vector_size<T>, vectors = 8 / V;
  static constexpr int depth = 128 / sizeof(T);
  static_assert(n_threads % (columns / V) == 0 && depth % (n_threads / (columns / V)) == 0);
  static constexpr int row_stride = rows + 4;  // of P: eight rows' neighbours in four columns lie in other banks
  static constexpr int blocks_at_once = sizeof(T) == 4 ? 4 : 2;  // of a multiprocessor, as far as registers go
  static constexpr int shared_numbers = depth * (row_stride + columns);

  T sums[M][8] = {};

  __device__ static T* P() { return shared_memory<T>(); }
  __device__ static T* Q() { return P() + depth * row_stride; }
  __device__ static int thread() { return static_cast<int>(threadIdx.x); }
  __device__ static int first_row() { return thread() / TX * M; }
  /// Of vector v of this thread.
  __device__ static int column(int v) { return (thread() % TX + v * TX) * V; }

  __device__ void add_panels() {
    const T *p = P() + first_row(), *q = Q();
    TESSERAL_UNROLL_FOUR for (int k = 0; k < depth; ++k, p += row_stride, q += columns) {
      T x[M];
      if constexpr (M % V == 0) {
        TESSERAL_UNROLL for (int v = 0; v < M / V; ++v) {
          const Vector<T> own = *reinterpret_cast<const Vector<T>*>(p + v * V);
          TESSERAL_UNROLL for (int n = 0; n < V; ++n) x[v * V + n] = own.of[n];
        }
      } else {
        TESSERAL_UNROLL for (int m = 0; m < M; ++m) x[m] = p[m];
      }
      TESSERAL_UNROLL for (int v = 0; v < vectors; ++v) {
        const Vector<T> w = *reinterpret_cast<const Vector<T>*>(q + column(v));
        TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
          TESSERAL_UNROLL for (int n = 0; n < V; ++n) sums[m][v * V + n] += x[m] * w.of[n];
        }
      }
    }
  }

  /// Fills Q with `n_rows` rows of `n_columns` numbers, where source(k) is where row k begins, and zeros.
  template <bool whole, class Source>
  __device__ static void set_Q(Source source, int n_rows, int n_columns) {
    constexpr int in_row = columns / V, at_once = n_threads / in_row;
    const int own = thread() % in_row * V;
    TESSERAL_UNROLL for (int n = 0; n < depth / at_once; ++n) {
      const int k = thread() / in_row + n * at_once;
      Vector<T> vector{};
      if (k < n_rows) vector = load_vector(source(k) + own, n_columns - own, whole);
      *reinterpret_cast<Vector<T>*>(Q() + k * columns + own) = vector;
    }
  }
};

#endif

}  // namespace tesseral::cuda
