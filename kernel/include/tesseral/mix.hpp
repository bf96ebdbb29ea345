// Channel mixing of one atom, A_{k lm} = sum_c W^l_{ck} phi_{c lm}, and its two adjoints. Rows are padded to whole packs.
#pragma once

#include "tesseral/operators.hpp"
#include "tesseral/pack.hpp"
#include "tesseral/rows.hpp"

namespace tesseral::TESSERAL_ISA {

/// Sizes of one atom's mixing: phi [n_inputs, harmonic_stride], A [LM, channel_stride].
struct MixSizes {
  int l_max;
  int n_inputs;
  int input_stride;     // padded(n_inputs)
  int harmonic_stride;  // padded(LM)
  int channel_stride;   // padded(K)
};

/// A [LM, channel_stride] from phi and weights [l_max+1, n_inputs, channel_stride].
template <class T>
inline void mix_atom(const MixSizes& sizes, const T* phi, const T* weights, T* A) {
  const int row = sizes.channel_stride;
  for (int l = 0; l <= sizes.l_max; ++l) {
    multiply_strided<T, false>(phi + l * l, 1, sizes.harmonic_stride, 2 * l + 1, weights + l * sizes.n_inputs * row,
                               sizes.n_inputs, row, [&](int m) { return A + (l * l + m) * row; });
  }
}

/// dphi [LM, input_stride] from dA [LM, channel_stride] and transposed weights [l_max+1, channel_stride, input_stride].
template <class T>
inline void mix_input_gradient_atom(const MixSizes& sizes, const T* dA, const T* transposed, T* dphi) {
  const int row = sizes.input_stride;
  for (int l = 0; l <= sizes.l_max; ++l) {
    multiply_matrix<T, false>(dA + l * l * sizes.channel_stride, sizes.channel_stride, 2 * l + 1,
                              transposed + l * sizes.channel_stride * row, sizes.channel_stride, row,
                              [&](int m) { return dphi + (l * l + m) * row; });
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
