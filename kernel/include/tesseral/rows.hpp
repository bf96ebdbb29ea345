// Products of rows with a matrix, the columns in SIMD lanes. Rows of the matrix are padded to whole packs.
#pragma once

#include <type_traits>
#include <utility>

#include "tesseral/pack.hpp"

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
TESSERAL_INLINE Pack<T> exchanged(const Pack<T>& a, const Pack<T>& b, std::index_sequence<I...>) {
  constexpr std::size_t shift = second ? S : 0, n = lanes<T>;
  return __builtin_shufflevector(a, b, ((I & S) == 0 ? I + shift : n + I - S + shift)...);
}
/// Transposes a square of packs.
template <class T, int S = 1>
TESSERAL_INLINE void transpose(Pack<T>* rows) {
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
TESSERAL_INLINE void transpose(Dual<Pack<T>>* rows) {
  Pack<T> values[lanes<T>], tangents[lanes<T>];
  for (int n = 0; n < lanes<T>; ++n) {
    values[n] = rows[n].value;
    tangents[n] = rows[n].tangent;
  }
  transpose<T>(values);
  transpose<T>(tangents);
  for (int n = 0; n < lanes<T>; ++n) rows[n] = {values[n], tangents[n]};
}

/// Sums of neighbouring halves of segments of S lanes: lanes of a, then of b.
template <class T, int S, std::size_t... I>
inline Pack<T> fold(const Pack<T>& a, const Pack<T>& b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, (I / (S / 2) * S + I % (S / 2))...) +
         __builtin_shufflevector(a, b, (I / (S / 2) * S + I % (S / 2) + S / 2)...);
}
template <class T, int S, int count>
inline Pack<T> fold_packs(Pack<T>* packs) {
  if constexpr (S == 1) {
    return packs[0];
  } else {
    TESSERAL_UNROLL for (int n = 0; n < count; n += 2) {
      packs[n / 2] = fold<T, S>(packs[n], n + 1 < count ? packs[n + 1] : Pack<T>{}, std::make_index_sequence<lanes<T>>());
    }
    return fold_packs<T, S / 2, (count + 1) / 2>(packs);
  }
}
/// Lane n of the result is the sum over the lanes of packs[n], n < lanes; uses up `packs`.
template <class T>
inline Pack<T> fold_all(Pack<T>* packs) {
  return fold_packs<T, lanes<T>, lanes<T>>(packs);
}
/// The same for n < count; zero beyond.
template <class T>
inline Pack<T> fold_all(Pack<T>* packs, int count) {
  for (int n = count; n < lanes<T>; ++n) packs[n] = Pack<T>{};
  return fold_all<T>(packs);
}

/// Rows and packs of columns of a matrix product that fit into the registers.
constexpr int tile_rows = 6;
constexpr int tile_packs = TESSERAL_VECTOR_BYTES == 64 ? 4 : 2;

/// M rows and B packs of columns, held in registers: out(m)[:] = sum_k x[m][k * x_step] W[k, :], or added to out.
template <class T, int M, int B, bool add, class Target>
inline void multiply_tile(const T* const (&x)[M], int x_step, const T* weights, int n_in, int row, Target out) {
  Pack<T> sums[M][B];
  TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
    TESSERAL_UNROLL for (int b = 0; b < B; ++b) sums[m][b] = Pack<T>{};
  }
  for (int64_t k = 0; k < n_in; ++k, weights += row) {
    Pack<T> w[B];
    TESSERAL_UNROLL for (int b = 0; b < B; ++b) w[b] = load(weights + b * lanes<T>);
    TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
      const T factor = x[m][k * x_step];
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) sums[m][b] += factor * w[b];
    }
  }
  TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
    T* target = out(m);
    TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
      store(target + b * lanes<T>, add ? load(target + b * lanes<T>) + sums[m][b] : sums[m][b]);
    }
  }
}

/// out(r)[:] = sum_k x(r)[k * x_step] W[k, :] (or added) for r < n_rows: W [n_in, row]; x(r) and out(r) are where row r
/// begins.
template <class T, bool add, class Source, class Target>
inline void multiply_rows(int n_rows, Source x, int x_step, const T* weights, int n_in, int row, Target out) {
  int r = 0;
  const auto next = [&](auto rows_at_once) {
    constexpr int M = decltype(rows_at_once)::value;
    const T* sources[M];
    for (int m = 0; m < M; ++m) sources[m] = x(r + m);
    int block = 0;
    const auto target = [&](int m) { return out(r + m) + block; };
    for (; block + tile_packs * lanes<T> <= row; block += tile_packs * lanes<T>) {
      multiply_tile<T, M, tile_packs, add>(sources, x_step, weights + block, n_in, row, target);
    }
    for (; block < row; block += lanes<T>) {
      multiply_tile<T, M, 1, add>(sources, x_step, weights + block, n_in, row, target);
    }
    r += M;
  };
  while (n_rows - r >= tile_rows) next(std::integral_constant<int, tile_rows>());
  if (n_rows - r >= 4) next(std::integral_constant<int, 4>());
  if (n_rows - r >= 2) next(std::integral_constant<int, 2>());
  if (n_rows - r >= 1) next(std::integral_constant<int, 1>());
}

}  // namespace tesseral::TESSERAL_ISA
