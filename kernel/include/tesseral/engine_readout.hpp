// The readout of one atom: a linear map and a multi-layer perceptron with SiLU, and their gradient.
#pragma once

#include "tesseral/engine_atoms.hpp"
#include "tesseral/rows.hpp"

namespace tesseral::TESSERAL_ISA {

/// SiLU x/(1+exp(-x)) in place, and its slope.
template <class T>
inline void silu(T* x, T* slope, int row) {
  for (int block = 0; block < row; block += lanes<T>) {
    const Pack<T> value = load(x + block);
    const Pack<T> gate = T(1) / (T(1) + exponential(-value));
    store(x + block, value * gate);
    store(slope + block, gate * (T(1) + value * (T(1) - gate)));
  }
}

template <class T>
class AtomReadout {
 public:
  AtomReadout(const EngineParameters<T>& parameters, EngineScratch<T>& scratch) : p_(parameters), work_(scratch) {}

  /// Energy of x, in units of the model's scale; sets its gradient dx. Both have the length of p.linear.
  T energy(const T* x, T* dx) {
    const int row = static_cast<int>(p_.linear.size());
    Pack<T> linear = {};
    for (int block = 0; block < row; block += lanes<T>) {
      linear += load(x + block) * load(p_.linear.data() + block);
      store(dx + block, load(p_.linear.data() + block));
    }
    const T energy = sum_lanes<T>(linear);
    return p_.perceptron.empty() ? energy : energy + perceptron(x, dx);
  }

 private:
  const EngineParameters<T>& p_;
  EngineScratch<T>& work_;

  /// Energy of the MLP; adds its gradient to dx.
  T perceptron(const T* x, T* dx) {
    const std::size_t last = p_.perceptron.size() - 1;
    const T* input = x;
    int offset = 0;
    for (std::size_t n = 0; n <= last; ++n) {
      const DenseLayer<T>& layer = p_.perceptron[n];
      const int width = padded_row(layer.n_out);
      T* out = work_.hidden.data() + offset;
      multiply_rows(input, layer.n_in, layer.weights.data(), width, layer.bias.data(), out);
      if (n < last) silu(out, work_.silu_slopes.data() + offset, width);
      input = out;
      offset += width;
    }
    const T energy = input[0];

    T* adjoint = work_.adjoint.data();
    adjoint[0] = 1;
    for (std::size_t n = last + 1; n-- > 0;) {
      const DenseLayer<T>& layer = p_.perceptron[n];
      const int width = padded_row(layer.n_in);
      T* below = adjoint + row_of_adjoint();
      multiply_rows<T>(adjoint, layer.n_out, layer.transposed.data(), width, nullptr, below);
      offset -= padded_row(layer.n_out);
      const T* slope = n > 0 ? work_.silu_slopes.data() + offset - padded_row(p_.perceptron[n - 1].n_out) : nullptr;
      for (int block = 0; block < width; block += lanes<T>) {
        const Pack<T> g = load(below + block);
        if (slope) {
          store(adjoint + block, g * load(slope + block));
        } else {
          store(dx + block, load(dx + block) + g);
        }
      }
    }
    return energy;
  }

  int row_of_adjoint() const { return static_cast<int>(work_.adjoint.size() / 2); }
};

}  // namespace tesseral::TESSERAL_ISA
