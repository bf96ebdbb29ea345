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
  int input_stride;     // padded(n_inputs)
  int harmonic_stride;  // padded(LM)
  int channel_stride;   // padded(K)
};

/// A of n atoms from phi [n, n_inputs, harmonic_stride] and weights [l_max+1, n_inputs,
/// channel_stride].
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

/// dphi [n, harmonic_stride, input_stride] of n atoms, of which LM rows are set, from dA and transposed weights [l_max+1,
/// channel_stride, input_stride].
template <class T>
inline void mix_input_gradient(const MixSizes& sizes, int n_atoms, const T* dA, const T* transposed, T* dphi) {
  const int row = sizes.input_stride, n_harmonics = (sizes.l_max + 1) * (sizes.l_max + 1);
  for (int l = 0; l <= sizes.l_max; ++l) {
    const int width = 2 * l + 1;
    multiply_rows<T, false>(
        n_atoms * width, [&](int r) { return dA + (r / width * n_harmonics + l * l + r % width) * sizes.channel_stride; }, 1,
        transposed + l * sizes.channel_stride * row, sizes.channel_stride, row,
        [&](int r) { return dphi + (r / width * sizes.harmonic_stride + l * l + r % width) * row; });
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
