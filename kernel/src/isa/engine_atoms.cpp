// The native engine's loop over atoms for one instruction set: A from the density or from messages, product, features,
// readout and their adjoints, all in the cache of one atom. Between layers only the features and their adjoints are kept;
// the backward pass computes A anew.
#include "tesseral/engine_atoms.hpp"

#include <algorithm>
#include <limits>

#include "tesseral/engine_edges.hpp"
#include "tesseral/engine_message.hpp"
#include "tesseral/engine_readout.hpp"
#include "tesseral/mix.hpp"
#include "tesseral/product.hpp"

namespace tesseral::TESSERAL_ISA {
namespace {

/// out rows of degrees 0..degree, each times the matrix of its degree (or the transposed one), overwritten or added to.
template <class T, bool add>
void multiply_degrees(const MatrixStack<T>& stack, int64_t first, int degree, const T* x, int x_row, T* out, int out_row) {
  for (int l = 0; l <= degree; ++l) {
    multiply_matrix<T, add>(x + l * l * x_row, x_row, 2 * l + 1, stack.matrix(first + l), stack.n_in,
                            padded_row(stack.n_out), [&](int m) { return out + (l * l + m) * out_row; });
  }
}
template <class T, bool add>
void multiply_degrees_transposed(const MatrixStack<T>& stack, int64_t first, int degree, const T* x, int x_row, T* out,
                                 int out_row) {
  for (int l = 0; l <= degree; ++l) {
    multiply_matrix<T, add>(x + l * l * x_row, x_row, 2 * l + 1, stack.transposed_matrix(first + l), stack.n_out,
                            padded_row(stack.n_in), [&](int m) { return out + (l * l + m) * out_row; });
  }
}

template <class T, class Sum>
class AtomLoop {
  using Kind = typename EnginePass<T>::Kind;

 public:
  AtomLoop(const EngineParameters<T>& parameters, const EngineInput& input, const EnginePass<T>& pass,
           EngineScratch<T>& scratch, const EngineSums<Sum>& sums)
      : p_(parameters),
        layer_(p_.layers[static_cast<std::size_t>(pass.layer)]),
        input_(input),
        pass_(pass),
        work_(scratch),
        sums_(sums),
        edges_(parameters, input, scratch, sums),
        messages_(parameters, layer_, pass, scratch),
        readout_(parameters, scratch),
        row_(p_.channel_row),
        sizes_{p_.l_max, p_.n_inputs, p_.input_row, padded<T>(p_.n_harmonics()), p_.channel_row} {}

  void run(Range atoms) {
    for (int64_t i = atoms.begin; i < atoms.end; ++i) {
      if (input_.species[i] == EngineInput::absent) {
        skip(i);
      } else if (pass_.kind == Kind::forward) {
        forward(i);
      } else if (pass_.kind == Kind::last) {
        last(i);
      } else {
        backward(i);
      }
    }
  }

 private:
  const EngineParameters<T>& p_;
  const EngineLayer<T>& layer_;
  const EngineInput& input_;
  const EnginePass<T>& pass_;
  EngineScratch<T>& work_;
  const EngineSums<Sum>& sums_;
  AtomEdges<T, Sum> edges_;
  AtomMessages<T> messages_;
  AtomReadout<T> readout_;
  int row_;
  MixSizes sizes_;
  int64_t species_ = 0, n_edges_ = 0;  // of the present atom

  void skip(int64_t i) {
    sums_.energies[i] = 0;
    if (pass_.kind == Kind::forward) fill_zero(pass_.features + i * p_.feature_row(), static_cast<int>(p_.feature_row()));
    if (pass_.kind == Kind::last) for_each_column([&](int, double* column) { column[i] = 0; });
  }

  /// f(channel, column) for every column that is asked for
  template <class F>
  void for_each_column(const F& f) {
    if (!sums_.columns) return;
    for (int channel = 0; channel < p_.n_channels; ++channel) {
      if (sums_.columns[channel]) f(channel, sums_.columns[channel]);
    }
  }

  /// The features of layer t from those of the layer before, and the energy of their linear readout.
  void forward(int64_t i) {
    take(i);
    set_A();
    product<Wanted::value>(nullptr);
    T* features = pass_.features + i * p_.feature_row();
    multiply_degrees<T, false>(layer_.update, 0, layer_.output_l, work_.B.data(), row_, features, row_);
    if (pass_.layer > 0) {
      multiply_degrees<T, true>(layer_.residual, residual_matrix(), layer_.output_l, before(i), row_, features, row_);
    }
    Pack<T> energy = {};
    for (int block = 0; block < row_; block += lanes<T>) {
      energy += load(features + block) * load(layer_.readout.data() + block);
    }
    set_energy(i, p_.scale * sum_lanes<T>(energy));
  }

  /// Energies; adjoints of the last layer's A and of the features of the layer before.
  void last(int64_t i) {
    take(i);
    set_A();
    product<Wanted::gradient>(nullptr);
    for_each_column(
        [&](int channel, double* column) { column[i] = static_cast<double>(work_.B[static_cast<std::size_t>(channel)]); });
    const T energy = p_.n_layers() == 1 ? readout_.energy(work_.B.data(), work_.dB.data()) : readout_of_features(i);
    for (int block = 0; block < row_; block += lanes<T>) {
      const Pack<T> weight = p_.scale * load(work_.dB.data() + block);
      for (int lm = 0; lm < p_.n_harmonics(); ++lm) {
        T* target = work_.dA.data() + lm * row_ + block;
        store(target, load(target) * weight);
      }
    }
    add_gradient_of_A();
    set_energy(i, p_.scale * energy);
    if (p_.has_repulsion) sums_.energies[i] += edges_.add_repulsion(species_, n_edges_);
    edges_.add_forces(i, n_edges_);
  }

  /// From the adjoints of the layer's features to forces and to the adjoints of the layer before.
  void backward(int64_t i) {
    take(i);
    set_A();
    T* features = work_.dfeatures.data();
    std::copy_n(pass_.adjoints + i * p_.feature_row(), p_.feature_row(), features);
    for (int block = 0; block < row_; block += lanes<T>) {
      store(features + block, load(features + block) + p_.scale * load(layer_.readout.data() + block));
    }
    multiply_degrees_transposed<T, false>(layer_.update, 0, layer_.output_l, features, row_, work_.dB.data(), row_);
    if (pass_.layer > 0) add_residual_gradient(i, features, row_);
    product<Wanted::gradient>(work_.dB.data());
    add_gradient_of_A();
    edges_.add_forces(i, n_edges_);
  }

  void take(int64_t i) {
    species_ = input_.species[i];
    n_edges_ = edges_.take(i);
  }

  const T* before(int64_t i) const { return pass_.before + i * p_.feature_row(); }
  int64_t residual_matrix() const { return species_ * (layer_.output_l + 1); }

  void add_residual_gradient(int64_t i, const T* features, int row) {
    multiply_degrees_transposed<T, true>(layer_.residual, residual_matrix(), layer_.output_l, features, row,
                                         pass_.adjoints_before + i * p_.feature_row(), row_);
  }

  void set_energy(int64_t i, T energy) {
    const double baseline = pass_.layer == 0 ? p_.atomic_energy[static_cast<std::size_t>(species_)] : sums_.energies[i];
    const double total = baseline + static_cast<double>(energy);
    sums_.energies[i] = edges_.on_top() ? std::numeric_limits<double>::quiet_NaN() : total;
  }

  /// Energy of the last layer's features, in units of the model's scale; sets dB and adds to the adjoints of the layer
  /// before.
  T readout_of_features(int64_t i) {
    T *features = work_.features.data(), *dfeatures = work_.dfeatures.data();
    const int row = padded_row(layer_.update.n_out);
    multiply_degrees<T, false>(layer_.update, 0, 0, work_.B.data(), row_, features, row);
    multiply_degrees<T, true>(layer_.residual, residual_matrix(), 0, before(i), row_, features, row);
    const T energy = readout_.energy(features, dfeatures);
    multiply_degrees_transposed<T, false>(layer_.update, 0, 0, dfeatures, row, work_.dB.data(), row_);
    for (int block = 0; block < row; block += lanes<T>) store(dfeatures + block, p_.scale * load(dfeatures + block));
    add_residual_gradient(i, dfeatures, row);
    return energy;
  }

  Edges<T> edges(int64_t (&first)[2]) const {
    first[0] = 0;
    first[1] = n_edges_;
    return {work_.vectors.data(), nullptr, first, work_.species.data()};
  }

  void set_A() {
    if (pass_.layer == 0) {
      int64_t first[2];
      fill_zero(work_.phi.data(), p_.n_inputs * sizes_.harmonic_stride);
      add_density<T, Pack<T>>(p_.density, edges(first), 0, n_edges_, work_.phi.data());
      mix_atom(sizes_, work_.phi.data(), p_.mixing.data() + species_ * (p_.l_max + 1) * p_.n_inputs * row_, work_.A.data());
    } else {
      T* message = layer_.mixing.empty() ? work_.A.data() : work_.message.data();
      messages_.set(n_edges_, message);
      if (layer_.mixing.empty()) return;
      multiply_degrees<T, false>(layer_.mixing, 0, p_.l_max, message, row_, work_.A.data(), row_);
    }
  }

  /// B and, if wanted, dA; `cotangent` of B or null for ones.
  template <Wanted wanted>
  void product(const T* cotangent) {
    const LayerProduct<T>& product = layer_.product;
    T* dA = wanted == Wanted::value ? nullptr : work_.dA.data();
    if (dA) fill_zero(dA, p_.n_harmonics() * row_);
    if (!cotangent) fill_zero(work_.B.data(), product.n_outputs() * row_);
    const ProductShape shape{
        p_.n_harmonics(),     p_.n_channels, product.n_nodes(), product.n_outputs(), product.tree.data(),
        product.roots.data(), nullptr};
    ProductAtom<Pack<T>, wanted>{shape,
                                 row_,
                                 {work_.A.data(), nullptr},
                                 {const_cast<T*>(product.weights.data()) + species_ * product.n_nodes() * row_, nullptr},
                                 {dA, nullptr},
                                 {},
                                 cotangent,
                                 {cotangent ? nullptr : work_.B.data(), nullptr}}
        .run();
  }

  /// From dA to the gradients of the edges, and to the adjoints of the neighbours' features.
  void add_gradient_of_A() {
    if (pass_.layer == 0) {
      int64_t first[2];
      const int64_t matrix = species_ * (p_.l_max + 1) * static_cast<int64_t>(row_) * p_.input_row;
      mix_input_gradient_atom(sizes_, work_.dA.data(), p_.mixing_transposed.data() + matrix, work_.dphi.data());
      density_gradient<T, Pack<T>>(p_.density, edges(first), 0, n_edges_, work_.dphi.data(), work_.gradients.data());
    } else if (layer_.mixing.empty()) {
      messages_.gradient(work_.dA.data());
    } else {
      multiply_degrees_transposed<T, false>(layer_.mixing, 0, p_.l_max, work_.dA.data(), row_, work_.dmessage.data(), row_);
      messages_.gradient(work_.dmessage.data());
    }
  }
};

template <class T, class Sum>
void atoms(const EngineParameters<T>& parameters, const EngineInput& input, const EnginePass<T>& pass, Range range,
           EngineScratch<T>& scratch, const EngineSums<Sum>& sums) {
  AtomLoop<T, Sum>(parameters, input, pass, scratch, sums).run(range);
}

}  // namespace

AtomsFunction<float, float> atoms_float32() {
  return &atoms<float, float>;
}
AtomsFunction<float, double> atoms_mixed() {
  return &atoms<float, double>;
}
AtomsFunction<double, double> atoms_float64() {
  return &atoms<double, double>;
}

}  // namespace tesseral::TESSERAL_ISA
