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
        readout_(parameters, scratch),
        row_(p_.channel_row),
        sizes_{p_.l_max, p_.n_inputs, p_.input_row, padded<T>(p_.n_harmonics()), p_.channel_row} {
    if (layer_.message) messages_.emplace(parameters, *layer_.message, pass, scratch);
  }

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
  std::optional<AtomMessages<T>> messages_;
  AtomReadout<T> readout_;
  int row_;
  MixSizes sizes_;
  int64_t atom_ = 0, species_ = 0, n_edges_ = 0;  // of the present atom
  T normaliser_ = 1;                              // A is divided by it

  void skip(int64_t i) {
    sums_.energies[i] = 0;
    if (pass_.kind == Kind::forward) {
      const auto row = static_cast<int>(p_.feature_row());
      fill_zero(pass_.features + i * p_.feature_row(), row);
      fill_zero(pass_.own_features + i * p_.feature_row(), row);
    }
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
    T* features = pass_.own_features + i * p_.feature_row();
    update(i, layer_.output_l, features, row_);
    if (!layer_.handed.empty()) {
      T* handed = pass_.features + i * p_.feature_row();
      multiply_degrees<T, false>(layer_.handed, 0, layer_.output_l, features, row_, handed, row_);
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
    const T energy = layer_.update.empty() ? readout_.energy(work_.B.data(), work_.dB.data()) : readout_of_features(i);
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
    const T* adjoints = pass_.adjoints + i * p_.feature_row();
    if (pass_.own_adjoints) {
      std::copy_n(pass_.own_adjoints + i * p_.feature_row(), p_.feature_row(), features);
      multiply_degrees_transposed<T, true>(layer_.handed, 0, layer_.output_l, adjoints, row_, features, row_);
    } else {
      std::copy_n(adjoints, p_.feature_row(), features);
    }
    for (int block = 0; block < row_; block += lanes<T>) {
      store(features + block, load(features + block) + p_.scale * load(layer_.readout.data() + block));
    }
    multiply_degrees_transposed<T, false>(layer_.update, 0, layer_.output_l, features, row_, work_.dB.data(), row_);
    add_residual_gradient(i, features, row_);
    product<Wanted::gradient>(work_.dB.data());
    add_gradient_of_A();
    edges_.add_forces(i, n_edges_);
  }

  void take(int64_t i) {
    atom_ = i;
    species_ = input_.species[i];
    n_edges_ = edges_.take(i);
  }

  int64_t residual_matrix() const { return species_ * (layer_.output_l + 1); }

  /// The layer's features of degrees 0..degree from its products.
  void update(int64_t i, int degree, T* features, int row) {
    multiply_degrees<T, false>(layer_.update, 0, degree, work_.B.data(), row_, features, row);
    if (!layer_.residual.empty()) {
      const T* before = pass_.own_before + i * p_.feature_row();
      multiply_degrees<T, true>(layer_.residual, residual_matrix(), degree, before, row_, features, row);
    }
    if (layer_.constant.empty()) return;
    const T* constant = layer_.constant.data() + species_ * row;
    for (int block = 0; block < row; block += lanes<T>)
      store(features + block, load(features + block) + load(constant + block));
  }

  void add_residual_gradient(int64_t i, const T* features, int row) {
    if (layer_.residual.empty()) return;
    multiply_degrees_transposed<T, true>(layer_.residual, residual_matrix(), layer_.output_l, features, row,
                                         pass_.own_adjoints_before + i * p_.feature_row(), row_);
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
    update(i, 0, features, row);
    const T energy = readout_.energy(features, dfeatures);
    multiply_degrees_transposed<T, false>(layer_.update, 0, 0, dfeatures, row, work_.dB.data(), row_);
    for (int block = 0; block < row; block += lanes<T>) store(dfeatures + block, p_.scale * load(dfeatures + block));
    add_residual_gradient(i, dfeatures, row);
    return energy;
  }

  Edges<T> edges(int64_t (&first)[2]) const {
    first[0] = 0;
    first[1] = n_edges_;
    return {work_.vectors.data(), nullptr, first, work_.species.data(), p_.radial.by_pair() ? work_.tables.data() : nullptr};
  }

  void set_A() {
    if (pass_.layer == 0) {
      int64_t first[2];
      fill_zero(work_.phi.data(), p_.n_inputs * sizes_.harmonic_stride);
      add_density<T, Pack<T>>(p_.density, edges(first), 0, n_edges_, work_.phi.data());
      mix_atom(sizes_, work_.phi.data(), p_.mixing.data() + species_ * (p_.l_max + 1) * p_.n_inputs * row_, work_.A.data());
    } else {
      const bool mixes = !layer_.message->mixing.empty(), gradient_wanted = pass_.kind != Kind::forward;
      T* message = mixes ? work_.message.data() : work_.A.data();
      messages_->set(n_edges_, gradient_wanted, message);
      if (mixes) mix_messages(message);
    }
    if (p_.normaliser.empty()) return;
    set_normalisers();
    scale_rows(work_.A.data());
  }

  /// f(degree, matrix, first row of outputs) for the blocks of messages that are mixed
  template <class F>
  void for_each_block(const F& f) {
    const LayerMessage<T>& message = *layer_.message;
    const auto n_blocks = static_cast<int64_t>(message.degrees.size());
    int row = 0;
    for (int64_t b = 0; b < n_blocks; ++b) {
      const int degree = message.degrees[static_cast<std::size_t>(b)];
      f(degree, message.mixing_by_species ? species_ * n_blocks + b : b, row);
      row += 2 * degree + 1;
    }
  }

  void mix_messages(const T* message) {
    const MatrixStack<T>& mixing = layer_.message->mixing;
    fill_zero(work_.A.data(), p_.n_harmonics() * row_);
    for_each_block([&](int l, int64_t matrix, int first) {
      multiply_matrix<T, true>(message + first * row_, row_, 2 * l + 1, mixing.matrix(matrix), mixing.n_in, row_,
                               [&](int m) { return work_.A.data() + (l * l + m) * row_; });
    });
  }

  void mix_message_gradients(T* dmessage) {
    const MatrixStack<T>& mixing = layer_.message->mixing;
    for_each_block([&](int l, int64_t matrix, int first) {
      multiply_matrix<T, false>(work_.dA.data() + l * l * row_, row_, 2 * l + 1, mixing.transposed_matrix(matrix),
                                mixing.n_out, row_, [&](int m) { return dmessage + (first + m) * row_; });
    });
  }

  /// The denominator of A; layer 0 works out those of all layers.
  void set_normalisers() {
    if (pass_.layer > 0) {
      normaliser_ = pass_.normalisers[pass_.layer * input_.n_centers + atom_];
      return;
    }
    for (int layer = 0; layer < p_.n_layers(); ++layer) {
      const T* weights = p_.normaliser_of(layer, species_);
      T sum = 1;
      for (int c = 0; c < p_.n_inputs; ++c) {
        sum += weights[c] * work_.phi[static_cast<std::size_t>(c * sizes_.harmonic_stride)];
      }
      pass_.normalisers[layer * input_.n_centers + atom_] = sum;
      if (layer == 0) normaliser_ = sum;
    }
  }

  /// x [LM, row] divided by the normaliser.
  void scale_rows(T* x) const {
    const T factor = T(1) / normaliser_;
    for (int k = 0; k < p_.n_harmonics() * row_; k += lanes<T>) store(x + k, factor * load(x + k));
  }

  /// dA becomes the gradient by A before the division, and that by the normaliser is kept.
  void take_normaliser_gradient() {
    Pack<T> sum = {};
    for (int k = 0; k < p_.n_harmonics() * row_; k += lanes<T>) {
      sum += load(work_.dA.data() + k) * load(work_.A.data() + k);
    }
    pass_.normaliser_adjoints[pass_.layer * input_.n_centers + atom_] = -sum_lanes<T>(sum) / normaliser_;
    scale_rows(work_.dA.data());
  }

  /// The gradients by the normalisers of all layers passed on to the density.
  void add_normaliser_gradients() {
    for (int layer = 0; layer < p_.n_layers(); ++layer) {
      const T* weights = p_.normaliser_of(layer, species_);
      const T adjoint = pass_.normaliser_adjoints[layer * input_.n_centers + atom_];
      for (int c = 0; c < p_.n_inputs; ++c) {
        work_.dphi[static_cast<std::size_t>(c)] += adjoint * weights[c];  // degree 0
      }
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
    if (!p_.normaliser.empty()) take_normaliser_gradient();
    if (pass_.layer == 0) {
      int64_t first[2];
      const int64_t matrix = species_ * (p_.l_max + 1) * static_cast<int64_t>(row_) * p_.input_row;
      mix_input_gradient_atom(sizes_, work_.dA.data(), p_.mixing_transposed.data() + matrix, work_.dphi.data());
      if (!p_.normaliser.empty()) add_normaliser_gradients();
      density_gradient<T, Pack<T>>(p_.density, edges(first), 0, n_edges_, work_.dphi.data(), p_.input_row,
                                   work_.gradients.data());
    } else if (layer_.message->mixing.empty()) {
      messages_->gradient(work_.dA.data());
    } else {
      mix_message_gradients(work_.dmessage.data());
      messages_->gradient(work_.dmessage.data());
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
