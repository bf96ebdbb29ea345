// The readout of a block of atoms: a linear map and a multi-layer perceptron with SiLU, and their gradient.
#pragma once

#include "tesseral/engine_atoms.hpp"
#include "tesseral/rows.hpp"

namespace tesseral::TESSERAL_ISA {

/// SiLU x/(1+exp(-x)) in place, and its slope.
template <class T>
inline void silu(T* x, T* slope, int size) {
  for (int block = 0; block < size; block += lanes<T>) {
    const Pack<T> value = load(x + block);
    const Pack<T> gate = T(1) / (T(1) + exponential(-value));
    store(x + block, value * gate);
    store(slope + block, gate * (T(1) + value * (T(1) - gate)));
  }
}

template <class T>
class BlockReadout {
 public:
  BlockReadout(const EngineParameters<T>& parameters, EngineScratch<T>& scratch) : p_(parameters), work_(scratch) {}

  /// Energies of x [n, x_row], in units of the model's scale; sets their gradients dx [n, x_row]. Both begin with rows of
  /// the length of p.linear.
  void run(int n_atoms, const T* x, T* dx, int x_row, T* energies) {
    const int row = static_cast<int>(p_.linear.size());
    for (int a = 0; a < n_atoms; ++a) {
      Pack<T> linear = {};
      for (int block = 0; block < row; block += lanes<T>) {
        const Pack<T> weights = load(p_.linear.data() + block);
        linear += load(x + a * x_row + block) * weights;
        store(dx + a * x_row + block, weights);
      }
      energies[a] = sum_lanes<T>(linear);
    }
    if (!p_.perceptron.empty()) add_perceptron(n_atoms, x, dx, x_row, energies);
  }

 private:
  const EngineParameters<T>& p_;
  EngineScratch<T>& work_;

  /// Adds the energies of the MLP and their gradients.
  void add_perceptron(int n_atoms, const T* x, T* dx, int x_row, T* energies) {
    const std::size_t last = p_.perceptron.size() - 1;
    const T* input = x;
    int input_row = x_row, offset = 0;
    for (std::size_t n = 0; n <= last; ++n) {
      const DenseLayer<T>& layer = p_.perceptron[n];
      const int width = padded_row(layer.n_out);
      T* out = work_.hidden.data() + offset;
      for (int a = 0; a < n_atoms; ++a) std::copy_n(layer.bias.data(), width, out + a * width);
      multiply_rows<T, true>(
          n_atoms, [&](int a) { return input + a * input_row; }, 1, layer.weights.data(), layer.n_in, width,
          [&](int a) { return out + a * width; });
      if (n < last) silu(out, work_.silu_slopes.data() + offset, n_atoms * width);
      input = out;
      input_row = width;
      offset += block_atoms * width;
    }
    for (int a = 0; a < n_atoms; ++a) energies[a] += input[a * input_row];

    T *adjoint = work_.adjoint.data(), *below = work_.adjoint_below.data();
    int row = padded_row(1);
    for (int a = 0; a < n_atoms; ++a) adjoint[a * row] = 1;
    for (std::size_t n = last + 1; n-- > 0;) {
      const DenseLayer<T>& layer = p_.perceptron[n];
      const int width = padded_row(layer.n_in);
      multiply_rows<T, false>(
          n_atoms, [&](int a) { return adjoint + a * row; }, 1, layer.transposed.data(), layer.n_out, width,
          [&](int a) { return below + a * width; });
      offset -= block_atoms * padded_row(layer.n_out);
      if (n > 0) {
        const T* slopes = work_.silu_slopes.data() + offset - block_atoms * width;
        for (int k = 0; k < n_atoms * width; k += lanes<T>) store(below + k, load(below + k) * load(slopes + k));
      } else {
        for (int a = 0; a < n_atoms; ++a) {
          for (int block = 0; block < width; block += lanes<T>) {
            T* target = dx + a * x_row + block;
            store(target, load(target) + load(below + a * width + block));
          }
        }
      }
      std::swap(adjoint, below);
      row = width;
    }
  }
};

}  // namespace tesseral::TESSERAL_ISA
