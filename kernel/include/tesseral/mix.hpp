// Channel mixing of one atom, A_{k lm} = sum_c W^l_{ck} phi_{c lm}, and its two adjoints. Rows are padded to whole packs.
#pragma once

#include "tesseral/operators.hpp"
#include "tesseral/pack.hpp"

namespace tesseral::TESSERAL_ISA {

/// Sizes of one atom's mixing: phi [n_inputs, harmonic_stride], A [LM, channel_stride].
struct MixSizes {
  int l_max;
  int n_inputs;
  int input_stride;     // padded(n_inputs)
  int harmonic_stride;  // padded(LM)
  int channel_stride;   // padded(K)
};

/// M rows of one pack of channels, held in registers: out[m, :] = sum_c x[c, m] W[c, :].
template <class T, int M>
inline void mix_rows(const T* x, int x_stride, const T* weights, int n_inputs, int row, T* out) {
  Pack<T> sums[M] = {};
  for (int c = 0; c < n_inputs; ++c) {
    const Pack<T> w = load(weights + c * row);
    for (int m = 0; m < M; ++m) sums[m] += x[c * x_stride + m] * w;
  }
  for (int m = 0; m < M; ++m) store(out + m * row, sums[m]);
}

/// out[m, :] = sum_c x[c, m] W[c, :], m < n_components: x [n_inputs, x_stride], W [n_inputs, row], out [n_components, row].
template <class T>
inline void mix_component_rows(const T* x, int x_stride, const T* weights, int n_inputs, int row, int n_components, T* out) {
  for (int block = 0; block < row; block += lanes<T>) {
    int m = 0;
    for (; m + 4 <= n_components; m += 4) {
      mix_rows<T, 4>(x + m, x_stride, weights + block, n_inputs, row, out + m * row + block);
    }
    for (; m < n_components; ++m) {
      mix_rows<T, 1>(x + m, x_stride, weights + block, n_inputs, row, out + m * row + block);
    }
  }
}

/// A [LM, channel_stride] from phi and weights [l_max+1, n_inputs, channel_stride].
template <class T>
inline void mix_atom(const MixSizes& sizes, const T* phi, const T* weights, T* A) {
  for (int l = 0; l <= sizes.l_max; ++l) {
    mix_component_rows(phi + l * l, sizes.harmonic_stride, weights + l * sizes.n_inputs * sizes.channel_stride,
                       sizes.n_inputs, sizes.channel_stride, 2 * l + 1, A + l * l * sizes.channel_stride);
  }
}

/// dphi [n_inputs, harmonic_stride] from dA [LM, channel_stride] and transposed weights [l_max+1, channel_stride,
/// input_stride].
template <class T>
inline void mix_input_gradient_atom(const MixSizes& sizes, const T* dA, const T* transposed, T* dphi) {
  constexpr int M = 2 * max_l + 1;
  const int row = sizes.input_stride;
  for (int l = 0; l <= sizes.l_max; ++l) {
    const T* weights = transposed + l * sizes.channel_stride * row;
    const T* gradient = dA + l * l * sizes.channel_stride;
    for (int block = 0; block < row; block += lanes<T>) {
      Pack<T> sums[M] = {};
      for (int m = 0; m < 2 * l + 1; ++m) {
        Pack<T> partial[4] = {};
        const T* g = gradient + m * sizes.channel_stride;
        int k = 0;
        for (; k + 4 <= sizes.channel_stride; k += 4) {
          for (int u = 0; u < 4; ++u) partial[u] += g[k + u] * load(weights + (k + u) * row + block);
        }
        for (; k < sizes.channel_stride; ++k) partial[0] += g[k] * load(weights + k * row + block);
        sums[m] = (partial[0] + partial[1]) + (partial[2] + partial[3]);
      }
      for (int lane = 0; lane < lanes<T> && block + lane < sizes.n_inputs; ++lane) {
        T* target = dphi + (block + lane) * sizes.harmonic_stride + l * l;
        for (int m = 0; m < 2 * l + 1; ++m) target[m] = sums[m][lane];
      }
    }
  }
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
