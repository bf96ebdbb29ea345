// Channel mixing of one atom, A_{k lm} = sum_c W^l_{ck} phi_{c lm}, and its two adjoints. Rows are padded to whole packs.
#pragma once

#include "tesseral/operators.hpp"
#include "tesseral/pack.hpp"
#include "tesseral/rows.hpp"

namespace tesseral::TESSERAL_ISA {

/// Sizes of the mixing of atoms: phi [n_inputs, harmonic_stride] and A [LM, channel_stride] of each.
struct MixSizes {
  int l_max;
  int n_inputs;
  int harmonic_stride;  // padded(LM)
  int channel_stride;   // padded(K)
};

/// A of n atoms from phi [n, n_inputs, harmonic_stride] and weights [l_max+1, n_inputs, channel_stride].
template <class T>
inline void mix_atoms(const MixSizes& sizes, int n_atoms, const T* phi, const T* weights, T* A) {
  const int row = sizes.channel_stride, n_harmonics = (sizes.l_max + 1) * (sizes.l_max + 1);
  for (int l = 0; l <= sizes.l_max; ++l) {
    const int width = 2 * l + 1;
    multiply_rows<T, false>(
        n_atoms * width, [&](int r) { return phi + r / width * sizes.n_inputs * sizes.harmonic_stride + l * l + r % width; },
        sizes.harmonic_stride, weights + l * sizes.n_inputs * row, sizes.n_inputs, row,
        [&](int r) { return A + (r / width * n_harmonics + l * l + r % width) * row; });
  }
}

/// Sums over the channels, still in lanes, for M components from `first_lm` on and Q inputs: sums[q][lm] = sum_k dA_{lm k}
/// W_{q k}.
template <class T, int M, int Q>
inline void contract_channels(const T* dA, const T* weights, int row, int first_lm,
                              Pack<T> (*sums)[padded<T>(max_harmonics)]) {
  Pack<T> own[Q][M];
  TESSERAL_UNROLL for (int q = 0; q < Q; ++q) {
    TESSERAL_UNROLL for (int m = 0; m < M; ++m) own[q][m] = Pack<T>{};
  }
  for (int block = 0; block < row; block += lanes<T>) {
    Pack<T> w[Q];
    TESSERAL_UNROLL for (int q = 0; q < Q; ++q) w[q] = load(weights + q * row + block);
    TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
      const Pack<T> x = load(dA + (first_lm + m) * row + block);
      TESSERAL_UNROLL for (int q = 0; q < Q; ++q) own[q][m] += w[q] * x;
    }
  }
  TESSERAL_UNROLL for (int q = 0; q < Q; ++q) {
    TESSERAL_UNROLL for (int m = 0; m < M; ++m) sums[q][first_lm + m] = own[q][m];
  }
}

/// G rows of dphi, for the inputs from c on.
template <class T, int G>
inline void mix_input_gradient_rows(const MixSizes& sizes, const T* dA, const T* weights, int c, T* dphi) {
  const int row = sizes.channel_stride, n_harmonics = (sizes.l_max + 1) * (sizes.l_max + 1);
  Pack<T> sums[G][padded<T>(max_harmonics)];
  for (int l = 0; l <= sizes.l_max; ++l) {
    const T* own = weights + (l * sizes.n_inputs + c) * row;
    int lm = l * l;
    const auto next = [&](auto components) {
      constexpr int M = decltype(components)::value;
      constexpr int most = M == 1 ? 8 : M == 3 ? 4 : 2;  // inputs at once: sums stay in registers, and are enough of them
      constexpr int Q = G < most ? G : most;
      for (int q = 0; q < G; q += Q) contract_channels<T, M, Q>(dA, own + q * row, row, lm, sums + q);
      lm += M;
    };
    const int end = (l + 1) * (l + 1);
    while (end - lm >= 7) next(std::integral_constant<int, 7>());
    if (end - lm >= 5) next(std::integral_constant<int, 5>());
    if (end - lm >= 3) next(std::integral_constant<int, 3>());
    while (end - lm >= 1) next(std::integral_constant<int, 1>());
  }
  for (int q = 0; q < G; ++q) {
    for (int block = 0; block < n_harmonics; block += lanes<T>) {
      const int count = n_harmonics - block < lanes<T> ? n_harmonics - block : lanes<T>;
      store(dphi + q * sizes.harmonic_stride + block, fold_all<T>(sums[q] + block, count));
    }
  }
}

/// Rows dphi [count, harmonic_stride] of one atom, for the inputs from `first` on, from dA [LM, channel_stride] and weights
/// [l_max+1, n_inputs, channel_stride]. Channels fill the lanes; beyond LM rows are zero.
template <class T>
inline void mix_input_gradient(const MixSizes& sizes, const T* dA, const T* weights, int first, int count, T* dphi) {
  int c = 0;
  const auto next = [&](auto inputs) {
    constexpr int G = decltype(inputs)::value;
    mix_input_gradient_rows<T, G>(sizes, dA, weights, first + c, dphi + c * sizes.harmonic_stride);
    c += G;
  };
  while (count - c >= 8) next(std::integral_constant<int, 8>());
  if (count - c >= 4) next(std::integral_constant<int, 4>());
  if (count - c >= 2) next(std::integral_constant<int, 2>());
  if (count - c >= 1) next(std::integral_constant<int, 1>());
}

/// Adds phi (x) dA to the gradient of the weights [l_max+1, n_inputs, channel_stride].
template <class T>
inline void add_mix_weight_gradient(const MixSizes& sizes, const T* phi, const T* dA, T* gradient) {
  const int row = sizes.channel_stride;
  for (int l = 0; l <= sizes.l_max; ++l) {
    for (int c = 0; c < sizes.n_inputs; ++c) {
      const T* x = phi + c * sizes.harmonic_stride + l * l;
      T* target = gradient + (l * sizes.n_inputs + c) * row;
      for (int block = 0; block < row; block += lanes<T>) {
        Pack<T> sum = load(target + block);
        for (int m = 0; m < 2 * l + 1; ++m) sum += x[m] * load(dA + (l * l + m) * row + block);
        store(target + block, sum);
      }
    }
  }
}

}  // namespace tesseral::TESSERAL_ISA
