// Products of rows with a matrix, the columns in SIMD lanes. Rows of the matrix are padded to whole packs.
#pragma once

#include <type_traits>
#include <utility>

#include "tesseral/pack.hpp"

/// Before a loop over a small constant number of packs, which shall stay in registers.
#define TESSERAL_UNROLL _Pragma("GCC unroll 16")

namespace tesseral::TESSERAL_ISA {

template <class T>
inline T sum_lanes(const Pack<T>& pack) {
  T sum = 0;
  for (int lane = 0; lane < lanes<T>; ++lane) sum += pack[lane];
  return sum;
}

template <class T>
inline void fill_zero(T* target, int size) {
  for (int block = 0; block < size; block += lanes<T>) store(target + block, Pack<T>{});
}

/// The pairs of elements of a and b that a transposition exchanges at distance S: those of the first row, or of the second.
template <class T, int S, bool second, std::size_t... I>
inline Pack<T> exchanged(const Pack<T>& a, const Pack<T>& b, std::index_sequence<I...>) {
  constexpr std::size_t shift = second ? S : 0, n = lanes<T>;
  return __builtin_shufflevector(a, b, ((I & S) == 0 ? I + shift : n + I - S + shift)...);
}
/// Transposes a square of packs.
template <class T, int S = 1>
inline void transpose(Pack<T>* rows) {
  if constexpr (S < lanes<T>) {
    for (int n = 0; n < lanes<T>; ++n) {
      if (n & S) continue;
      const Pack<T> a = rows[n], b = rows[n + S];
      rows[n] = exchanged<T, S, false>(a, b, std::make_index_sequence<lanes<T>>());
      rows[n + S] = exchanged<T, S, true>(a, b, std::make_index_sequence<lanes<T>>());
    }
    transpose<T, 2 * S>(rows);
  }
}
template <class T>
inline void transpose(Dual<Pack<T>>* rows) {
  Pack<T> values[lanes<T>], tangents[lanes<T>];
  for (int n = 0; n < lanes<T>; ++n) {
    values[n] = rows[n].value;
    tangents[n] = rows[n].tangent;
  }
  transpose<T>(values);
  transpose<T>(tangents);
  for (int n = 0; n < lanes<T>; ++n) rows[n] = {values[n], tangents[n]};
}

/// out[:] = sum_k x[k] rows[k, :] (+ bias); rows [n, row]
template <class T>
inline void multiply_rows(const T* x, int n, const T* rows, int row, const T* bias, T* out) {
  for (int block = 0; block < row; block += lanes<T>) {
    Pack<T> partial[4] = {};
    int k = 0;
    for (; k + 4 <= n; k += 4) {
      for (int u = 0; u < 4; ++u) partial[u] += x[k + u] * load(rows + (k + u) * row + block);
    }
    for (; k < n; ++k) partial[0] += x[k] * load(rows + k * row + block);
    Pack<T> sum = (partial[0] + partial[1]) + (partial[2] + partial[3]);
    if (bias) sum += load(bias + block);
    store(out + block, sum);
  }
}

/// M rows and B packs of columns, held in registers: out[m, :] = sum_k x[m, k] W[k, :], or added to out; x[m, k] is
/// x[m * x_row + k * x_column].
template <class T, int M, int B, bool add, class Target>
inline void multiply_block(const T* x, int x_row, int x_column, const T* weights, int n_in, int row, Target out) {
  Pack<T> sums[M][B];
  TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
    TESSERAL_UNROLL for (int b = 0; b < B; ++b) sums[m][b] = Pack<T>{};
  }
  for (int k = 0; k < n_in; ++k, x += x_column, weights += row) {
    Pack<T> w[B];
    TESSERAL_UNROLL for (int b = 0; b < B; ++b) w[b] = load(weights + b * lanes<T>);
    TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) sums[m][b] += x[m * x_row] * w[b];
    }
  }
  TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
    T* target = out(m);
    TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
      store(target + b * lanes<T>, add ? load(target + b * lanes<T>) + sums[m][b] : sums[m][b]);
    }
  }
}

template <class T, int M, bool add, class Target>
inline void multiply_rows_at_once(const T* x, int x_row, int x_column, const T* weights, int n_in, int row, Target out) {
  constexpr int B = M == 1 ? 8 : M <= 3 ? 4 : 2;  // enough independent sums to hide the latency of one
  int block = 0;
  const auto out_block = [&](int m) { return out(m) + block; };
  for (; block + B * lanes<T> <= row; block += B * lanes<T>) {
    multiply_block<T, M, B, add>(x, x_row, x_column, weights + block, n_in, row, out_block);
  }
  for (; block < row; block += lanes<T>)
    multiply_block<T, M, 1, add>(x, x_row, x_column, weights + block, n_in, row, out_block);
}

/// out(m)[:] = sum_k x[m, k] W[k, :] (or added), m < n_rows: W [n_in, row], out(m) the row m of the result, x[m, k] as in
/// multiply_block.
template <class T, bool add, class Target>
inline void multiply_strided(const T* x, int x_row, int x_column, int n_rows, const T* weights, int n_in, int row,
                             Target out) {
  int m = 0;
  const auto next = [&](auto rows_at_once) {
    constexpr int M = decltype(rows_at_once)::value;
    multiply_rows_at_once<T, M, add>(x + m * x_row, x_row, x_column, weights, n_in, row, [&](int n) { return out(m + n); });
    m += M;
  };
  while (n_rows - m >= 7) next(std::integral_constant<int, 7>());
  if (n_rows - m >= 5) next(std::integral_constant<int, 5>());
  if (n_rows - m >= 3) next(std::integral_constant<int, 3>());
  while (m < n_rows) next(std::integral_constant<int, 1>());
}

/// The same with rows x [n_rows, x_row].
template <class T, bool add, class Target>
inline void multiply_matrix(const T* x, int x_row, int n_rows, const T* weights, int n_in, int row, Target out) {
  multiply_strided<T, add>(x, x_row, 1, n_rows, weights, n_in, row, out);
}

}  // namespace tesseral::TESSERAL_ISA
