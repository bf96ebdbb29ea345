// The native engine's loop over atoms for one instruction set: A from the density or from messages, product, features,
// readout and their adjoints, for blocks of atoms of one species in the cache. Between layers only the features and their
// adjoints are kept; the backward pass computes A anew.
#include "tesseral/engine_atoms.hpp"

#include <algorithm>
#include <limits>

#include "tesseral/engine_density.hpp"
#include "tesseral/engine_edges.hpp"
#include "tesseral/engine_message.hpp"
#include "tesseral/engine_readout.hpp"
#include "tesseral/mix.hpp"
#include "tesseral/product.hpp"

namespace tesseral::TESSERAL_ISA {
namespace {

enum class Orientation { as_is, transposed };

/// 2 l + 1 rows of each of n atoms, from x(a) on, times a matrix of the stack: overwritten, or added, from out(a) on.
template <class T, Orientation orientation, bool add, class Source, class Target>
void multiply_degree(const MatrixStack<T>& stack, int64_t matrix, int l, int n, Source x, int x_row, Target out,
                     int out_row) {
  constexpr bool transposed = orientation == Orientation::transposed;
  const int n_in = transposed ? stack.n_out : stack.n_in, row = padded_row(transposed ? stack.n_in : stack.n_out);
  const T* weights = transposed ? stack.transposed_matrix(matrix) : stack.matrix(matrix);
  const int width = 2 * l + 1;
  multiply_rows<T, add>(
      n * width, [&](int r) { return x(r / width) + r % width * x_row; }, 1, weights, n_in, row,
      [&](int r) { return out(r / width) + r % width * out_row; });
}

/// The rows of degrees 0..degree, each times the matrix of its degree, of which that of degree 0 is `first`.
template <class T, Orientation orientation, bool add, class Source, class Target>
void multiply_degrees(const MatrixStack<T>& stack, int64_t first, int degree, int n, Source x, int x_row, Target out,
                      int out_row) {
  for (int l = 0; l <= degree; ++l) {
    multiply_degree<T, orientation, add>(
        stack, first + l, l, n, [&](int a) { return x(a) + l * l * x_row; }, x_row,
        [&](int a) { return out(a) + l * l * out_row; }, out_row);
  }
}

template <class T, class Sum>
class BlockLoop {
  using Kind = typename EnginePass<T>::Kind;

 public:
  BlockLoop(const EngineParameters<T>& parameters, const EngineInput& input, const EnginePass<T>& pass,
            EngineScratch<T>& scratch, const EngineSums<Sum>& sums)
      : p_(parameters),
        layer_(p_.layers[static_cast<std::size_t>(pass.layer)]),
        input_(input),
        pass_(pass),
        work_(scratch),
        sums_(sums),
        edges_(parameters, input, scratch, sums),
        density_(parameters, scratch),
        readout_(parameters, scratch),
        row_(p_.channel_row),
        sizes_{p_.l_max, p_.n_inputs, padded<T>(p_.n_harmonics()), p_.channel_row} {
    if (layer_.message) messages_.emplace(parameters, *layer_.message, pass, scratch);
  }

  void run(Range atoms) {
    sort_by_species(atoms);
    const auto size = static_cast<int64_t>(work_.order.size());
    for (int64_t begin = 0; begin < size; begin += n_) {
      atoms_ = work_.order.data() + begin;
      species_ = input_.species[atoms_[0]];
      n_ = 1;
      while (n_ < block_atoms && begin + n_ < size && input_.species[atoms_[n_]] == species_) ++n_;
      if (species_ == EngineInput::absent) {
        skip();
      } else {
        take();
        set_A();
        (this->*(pass_.kind == Kind::forward ? &BlockLoop::forward
                 : pass_.kind == Kind::last  ? &BlockLoop::last
                                             : &BlockLoop::backward))();
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
  BlockEdges<T, Sum> edges_;
  BlockDensity<T> density_;
  std::optional<BlockMessages<T>> messages_;
  BlockReadout<T> readout_;
  int row_;
  MixSizes sizes_;
  // the block
  int n_ = 1;
  const int64_t* atoms_ = nullptr;
  int64_t species_ = 0;
  int64_t first_[block_atoms + 1] = {};  // edges of atom a: first_[a] .. first_[a+1]-1
  bool on_top_[block_atoms] = {};
  T normalisers_[block_atoms] = {};  // A is divided by these

  void sort_by_species(Range atoms) {
    std::vector<int64_t> ends(static_cast<std::size_t>(p_.density.n_species) + 2, 0);
    const auto kind = [&](int64_t i) { return static_cast<std::size_t>(input_.species[i] + 1); };
    for (int64_t i = atoms.begin; i < atoms.end; ++i) ++ends[kind(i) + 1];
    for (std::size_t z = 1; z < ends.size(); ++z) ends[z] += ends[z - 1];
    work_.order.resize(static_cast<std::size_t>(atoms.end - atoms.begin));
    for (int64_t i = atoms.begin; i < atoms.end; ++i) work_.order[static_cast<std::size_t>(ends[kind(i)]++)] = i;
  }

  void skip() {
    for (int a = 0; a < n_; ++a) {
      sums_.energies[atoms_[a]] = 0;
      if (pass_.kind == Kind::forward) {
        fill_zero(features_of(a, pass_.features), static_cast<int>(p_.feature_row()));
        fill_zero(features_of(a, pass_.own_features), static_cast<int>(p_.feature_row()));
      }
      if (pass_.kind == Kind::last) for_each_column([&](int, double* column) { column[atoms_[a]] = 0; });
    }
  }

  /// f(channel, column) for every column that is asked for
  template <class F>
  void for_each_column(const F& f) {
    if (!sums_.columns) return;
    for (int channel = 0; channel < p_.n_channels; ++channel) {
      if (sums_.columns[channel]) f(channel, sums_.columns[channel]);
    }
  }

  // Rows of atom a of the block.
  template <class Number>
  Number* features_of(int a, Number* rows) const {
    return rows + atoms_[a] * p_.feature_row();
  }
  T* A_of(int a) const { return work_.A.data() + a * p_.n_harmonics() * row_; }
  T* dA_of(int a) const { return work_.dA.data() + a * p_.n_harmonics() * row_; }
  T* B_of(int a) const { return work_.B.data() + a * layer_.product.n_outputs() * row_; }
  T* dB_of(int a) const { return work_.dB.data() + a * layer_.product.n_outputs() * row_; }
  T* dfeatures_of(int a) const { return work_.dfeatures.data() + a * p_.feature_row(); }
  T* phi_of(int a) const { return work_.phi.data() + a * p_.n_inputs * sizes_.harmonic_stride; }
  T* message_of(int a) const { return work_.message.data() + a * layer_.message->n_outputs * row_; }
  T* dmessage_of(int a) const { return work_.dmessage.data() + a * layer_.message->n_outputs * row_; }
  Range edges_of(int a) const { return {first_[a], first_[a + 1]}; }

  void take() {
    first_[0] = 0;
    for (int a = 0; a < n_; ++a) {
      const auto taken = edges_.take(atoms_[a], first_[a]);
      first_[a + 1] = first_[a] + taken.count;
      on_top_[a] = taken.on_top;
    }
    edges_.close(first_[n_]);
  }

  /// The features of layer t from those of the layer before, and the energies of their linear readout.
  void forward() {
    product<Wanted::value>(false);
    const auto own = [&](int a) { return features_of(a, pass_.own_features); };
    update(layer_.output_l, own, row_);
    if (!layer_.handed.empty()) {
      multiply_degrees<T, Orientation::as_is, false>(
          layer_.handed, 0, layer_.output_l, n_, own, row_, [&](int a) { return features_of(a, pass_.features); }, row_);
    }
    for (int a = 0; a < n_; ++a) {
      Pack<T> energy = {};
      for (int block = 0; block < row_; block += lanes<T>) {
        energy += load(own(a) + block) * load(layer_.readout.data() + block);
      }
      set_energy(a, p_.scale * sum_lanes<T>(energy));
    }
  }

  /// Energies; adjoints of the last layer's A and of the features of the layer before.
  void last() {
    product<Wanted::gradient>(false);
    for (int a = 0; a < n_; ++a) {
      for_each_column([&](int channel, double* column) { column[atoms_[a]] = static_cast<double>(B_of(a)[channel]); });
    }
    T energies[block_atoms];
    if (layer_.update.empty()) {
      readout_.run(n_, work_.B.data(), work_.dB.data(), row_, energies);
    } else {
      readout_of_features(energies);
    }
    for (int a = 0; a < n_; ++a) {
      for (int block = 0; block < row_; block += lanes<T>) {
        const Pack<T> weight = p_.scale * load(dB_of(a) + block);
        for (int lm = 0; lm < p_.n_harmonics(); ++lm) {
          T* target = dA_of(a) + lm * row_ + block;
          store(target, load(target) * weight);
        }
      }
      set_energy(a, p_.scale * energies[a]);
    }
    add_gradient_of_A();
    for (int a = 0; a < n_; ++a) {
      if (p_.has_repulsion) sums_.energies[atoms_[a]] += edges_.add_repulsion(species_, edges_of(a));
      edges_.add_forces(atoms_[a], edges_of(a));
    }
  }

  /// From the adjoints of the layer's features to forces and to the adjoints of the layer before.
  void backward() {
    const auto adjoints = [&](int a) { return features_of(a, pass_.adjoints); };
    const auto dfeatures = [&](int a) { return dfeatures_of(a); };
    for (int a = 0; a < n_; ++a) {
      std::copy_n(pass_.own_adjoints ? features_of(a, pass_.own_adjoints) : adjoints(a), p_.feature_row(), dfeatures(a));
      for (int block = 0; block < row_; block += lanes<T>) {
        T* target = dfeatures(a) + block;
        store(target, load(target) + p_.scale * load(layer_.readout.data() + block));
      }
    }
    if (pass_.own_adjoints) {
      multiply_degrees<T, Orientation::transposed, true>(layer_.handed, 0, layer_.output_l, n_, adjoints, row_, dfeatures,
                                                         row_);
    }
    multiply_degrees<T, Orientation::transposed, false>(
        layer_.update, 0, layer_.output_l, n_, dfeatures, row_, [&](int a) { return dB_of(a); }, row_);
    add_residual_gradient(dfeatures, row_);
    product<Wanted::gradient>(true);
    add_gradient_of_A();
    for (int a = 0; a < n_; ++a) edges_.add_forces(atoms_[a], edges_of(a));
  }

  int64_t residual_matrix() const { return species_ * (layer_.output_l + 1); }

  /// The layer's features of degrees 0..degree from its products.
  template <class Target>
  void update(int degree, Target features, int row) {
    multiply_degrees<T, Orientation::as_is, false>(
        layer_.update, 0, degree, n_, [&](int a) { return B_of(a); }, row_, features, row);
    if (!layer_.residual.empty()) {
      const auto before = [&](int a) { return features_of(a, pass_.own_before); };
      multiply_degrees<T, Orientation::as_is, true>(layer_.residual, residual_matrix(), degree, n_, before, row_, features,
                                                    row);
    }
    if (layer_.constant.empty()) return;
    const T* constant = layer_.constant.data() + species_ * row;
    for (int a = 0; a < n_; ++a) {
      for (int block = 0; block < row; block += lanes<T>) {
        T* target = features(a) + block;
        store(target, load(target) + load(constant + block));
      }
    }
  }

  template <class Source>
  void add_residual_gradient(Source dfeatures, int row) {
    if (layer_.residual.empty()) return;
    const auto before = [&](int a) { return features_of(a, pass_.own_adjoints_before); };
    multiply_degrees<T, Orientation::transposed, true>(layer_.residual, residual_matrix(), layer_.output_l, n_, dfeatures,
                                                       row, before, row_);
  }

  void set_energy(int a, T energy) {
    const int64_t i = atoms_[a];
    const double baseline = pass_.layer == 0 ? p_.atomic_energy[static_cast<std::size_t>(species_)] : sums_.energies[i];
    const double total = baseline + static_cast<double>(energy);
    sums_.energies[i] = on_top_[a] ? std::numeric_limits<double>::quiet_NaN() : total;
  }

  /// Energies of the last layer's features, in units of the model's scale; sets dB and adds to the adjoints of the layer
  /// before.
  void readout_of_features(T* energies) {
    const int row = padded_row(layer_.update.n_out);
    const auto features = [&](int a) { return work_.features.data() + a * row; };
    const auto dfeatures = [&](int a) { return work_.dfeatures.data() + a * row; };
    update(0, features, row);
    readout_.run(n_, features(0), dfeatures(0), row, energies);
    multiply_degrees<T, Orientation::transposed, false>(
        layer_.update, 0, 0, n_, dfeatures, row, [&](int a) { return dB_of(a); }, row_);
    for (int k = 0; k < n_ * row; k += lanes<T>) store(dfeatures(0) + k, p_.scale * load(dfeatures(0) + k));
    add_residual_gradient(dfeatures, row);
  }

  const T* mixing_weights() const { return p_.mixing.data() + species_ * (p_.l_max + 1) * p_.n_inputs * row_; }

  void set_A() {
    if (pass_.layer == 0) {
      density_.set_edges(first_[n_]);
      for (int a = 0; a < n_; ++a) density_.set(edges_of(a), phi_of(a));
      mix_atoms(sizes_, n_, work_.phi.data(), mixing_weights(), work_.A.data());
    } else {
      const bool mixes = !layer_.message->mixing.empty();
      messages_->set_edges(first_[n_]);
      for (int a = 0; a < n_; ++a) messages_->set(edges_of(a), mixes ? message_of(a) : A_of(a));
      if (mixes) mix_messages();
    }
    if (p_.normaliser.empty()) return;
    set_normalisers();
    for (int a = 0; a < n_; ++a) normalise(a, A_of(a));
  }

  /// f(degree, matrix, first row of outputs) for the blocks of messages that are mixed
  template <class F>
  void for_each_mixing(const F& f) {
    const LayerMessage<T>& message = *layer_.message;
    const auto n_blocks = static_cast<int64_t>(message.degrees.size());
    int row = 0;
    for (int64_t b = 0; b < n_blocks; ++b) {
      const int degree = message.degrees[static_cast<std::size_t>(b)];
      f(degree, message.mixing_by_species ? species_ * n_blocks + b : b, row);
      row += 2 * degree + 1;
    }
  }

  void mix_messages() {
    const MatrixStack<T>& mixing = layer_.message->mixing;
    fill_zero(work_.A.data(), n_ * p_.n_harmonics() * row_);
    for_each_mixing([&](int l, int64_t matrix, int first) {
      multiply_degree<T, Orientation::as_is, true>(
          mixing, matrix, l, n_, [&](int a) { return message_of(a) + first * row_; }, row_,
          [&](int a) { return A_of(a) + l * l * row_; }, row_);
    });
  }

  void mix_message_gradients() {
    const MatrixStack<T>& mixing = layer_.message->mixing;
    for_each_mixing([&](int l, int64_t matrix, int first) {
      multiply_degree<T, Orientation::transposed, false>(
          mixing, matrix, l, n_, [&](int a) { return dA_of(a) + l * l * row_; }, row_,
          [&](int a) { return dmessage_of(a) + first * row_; }, row_);
    });
  }

  int64_t normaliser_at(int layer, int a) const { return layer * input_.n_centers + atoms_[a]; }

  /// The denominators of A; layer 0 works out those of all layers.
  void set_normalisers() {
    for (int a = 0; a < n_; ++a) {
      for (int layer = 0; pass_.layer == 0 && layer < p_.n_layers(); ++layer) {
        const T* weights = p_.normaliser_of(layer, species_);
        T sum = 1;
        for (int c = 0; c < p_.n_inputs; ++c) sum += weights[c] * phi_of(a)[c * sizes_.harmonic_stride];
        pass_.normalisers[normaliser_at(layer, a)] = sum;
      }
      normalisers_[a] = pass_.normalisers[normaliser_at(pass_.layer, a)];
    }
  }

  /// x [LM, row] divided by the normaliser.
  void normalise(int a, T* x) const {
    const T factor = T(1) / normalisers_[a];
    for (int k = 0; k < p_.n_harmonics() * row_; k += lanes<T>) store(x + k, factor * load(x + k));
  }

  /// dA becomes the gradient by A before the division, and that by the normaliser is kept.
  void take_normaliser_gradient(int a) {
    Pack<T> sum = {};
    for (int k = 0; k < p_.n_harmonics() * row_; k += lanes<T>) sum += load(dA_of(a) + k) * load(A_of(a) + k);
    pass_.normaliser_adjoints[normaliser_at(pass_.layer, a)] = -sum_lanes<T>(sum) / normalisers_[a];
    normalise(a, dA_of(a));
  }

  /// The gradients by the normalisers of all layers passed on to the density of degree 0 of a species of neighbours.
  void add_normaliser_gradients(int a, int64_t neighbor, T* dphi) const {
    const int n_radial = p_.density.radial.n_radial;
    for (int layer = 0; layer < p_.n_layers(); ++layer) {
      const T* weights = p_.normaliser_of(layer, species_) + neighbor * n_radial;
      const T adjoint = pass_.normaliser_adjoints[normaliser_at(layer, a)];
      for (int q = 0; q < n_radial; ++q) dphi[q * sizes_.harmonic_stride] += adjoint * weights[q];
    }
  }

  /// B and, if wanted, dA of all atoms, whose cotangents are dB, or else ones.
  template <Wanted wanted>
  void product(bool with_cotangents) {
    const LayerProduct<T>& product = layer_.product;
    const ProductShape shape{p_.n_harmonics(), p_.n_channels,       product.n_nodes(),    product.n_outputs(),
                             product.depth,    product.tree.data(), product.roots.data(), nullptr};
    T* coefficients = const_cast<T*>(product.weights.data()) + species_ * product.n_nodes() * row_;
    const ProductAtoms<Pack<T>, wanted> atoms{shape,
                                              row_,
                                              coefficient_block,
                                              int64_t{product.n_nodes()} * coefficient_block,
                                              {work_.A.data(), nullptr},
                                              {coefficients, nullptr},
                                              {wanted == Wanted::value ? nullptr : work_.dA.data(), nullptr},
                                              {},
                                              with_cotangents ? work_.dB.data() : nullptr,
                                              {with_cotangents ? nullptr : work_.B.data(), nullptr}};
    if (product.common_tree >= 0 && compiles_common_trees) {
      atoms.run_common(product.common_tree, n_);
    } else {
      atoms.run(n_);
    }
  }

  /// From dA to the gradients of the edges, and to the adjoints of the neighbours' features.
  void add_gradient_of_A() {
    for (int a = 0; a < n_ && !p_.normaliser.empty(); ++a) take_normaliser_gradient(a);
    if (pass_.layer == 0) return add_density_gradient();
    const bool mixes = !layer_.message->mixing.empty();
    if (mixes) mix_message_gradients();
    for (int a = 0; a < n_; ++a) messages_->gradient(edges_of(a), mixes ? dmessage_of(a) : dA_of(a));
    messages_->set_edge_gradients(first_[n_]);
  }

  void add_density_gradient() {
    const int n_radial = p_.density.radial.n_radial;
    for (int a = 0; a < n_; ++a) {
      density_.gradient(edges_of(a), [&](int64_t neighbor, T* dphi) {
        mix_input_gradient(sizes_, dA_of(a), mixing_weights(), static_cast<int>(neighbor) * n_radial, n_radial, dphi);
        if (!p_.normaliser.empty()) add_normaliser_gradients(a, neighbor, dphi);
      });
    }
    density_.set_edge_gradients(first_[n_]);
  }
};

template <class T, class Sum>
void atoms(const EngineParameters<T>& parameters, const EngineInput& input, const EnginePass<T>& pass, Range range,
           EngineScratch<T>& scratch, const EngineSums<Sum>& sums) {
  BlockLoop<T, Sum>(parameters, input, pass, scratch, sums).run(range);
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
