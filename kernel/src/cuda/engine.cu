// The native engine on a device: the passes of engine_atoms.cpp as operators over chunks of centers. Between the passes only
// features and their adjoints are kept; the backward pass computes A anew.
#include <algorithm>
#include <cmath>
#include <optional>

#include "device_scope.hpp"
#include "engine.hpp"
#include "engine_edges.hpp"
#include "engine_parameters.hpp"
#include "engine_readout.hpp"
#include "engine_rows.hpp"
#include "kernels.hpp"

namespace tesseral::cuda {
namespace {

/// Memory that the arrays of a chunk of centers may take.
constexpr std::size_t chunk_bytes = std::size_t{2} << 30;

/// Contiguous centers and where their numbers begin in arrays of all.
struct Chunk {
  int64_t begin, size;
};

/// Arrays of one chunk.
template <class T>
struct ChunkArrays {
  DeviceArray<T> phi, dphi;            // [n, n_inputs, LM]
  DeviceArray<T> A, dA;                // [n, LM, row]
  DeviceArray<T> message, dmessage;    // [n, message outputs, row], where they are mixed
  DeviceArray<T> B, dB;                // [n, products, row]
  DeviceArray<T> features, dfeatures;  // of the last layer [n, F]; of others dfeatures [n, feature_row]
};

template <class T, class Sum>
class CudaBackend : public EngineBackend {
 public:
  CudaBackend(const EngineParameters<T>& parameters, int device, const Kernels<T>& kernels)
      : p_(parameters), device_(device), kernels_(kernels), on_device_(p_), readout_(p_) {
    p_.density.radial = on_device_.radial.basis;
  }
  ~CudaBackend() override {
    last_scope_.emplace();
    cudaSetDevice(device_);  // may fail at the end of the process
  }

  int n_channels() const override { return p_.n_channels; }
  int n_layers() const override { return p_.n_layers(); }
  int64_t feature_row() const override { return p_.feature_row(); }

  void compute(const EngineInput& input, const EngineOutput& output, ThreadPool&) override {
    const DeviceScope scope;
    check(cudaSetDevice(device_), "choice of the device");
    current_stream() = nullptr;
    input_ = &input;
    output_ = &output;
    prepare();
    const int n_layers = p_.n_layers();
    for (int layer = 0; layer < n_layers - 1; ++layer) {
      for_each_chunk([&](Chunk chunk) { forward(layer, chunk); });
      keep_energies(layer);
      exchange(features_[static_cast<std::size_t>(layer)], true);
    }
    for_each_chunk([&](Chunk chunk) { last(chunk); });
    for (int layer = n_layers - 2; layer >= 0; --layer) {
      exchange(adjoints_[static_cast<std::size_t>(layer)], false);
      for_each_chunk([&](Chunk chunk) { backward(layer, chunk); });
    }
    finish();
  }

 private:
  std::optional<DeviceScope> last_scope_;  // while the other members are freed
  EngineParameters<T> p_;
  int device_;
  const Kernels<T>& kernels_;
  DeviceParameters<T> on_device_;
  DeviceReadout<T> readout_;
  const EngineInput* input_ = nullptr;
  const EngineOutput* output_ = nullptr;

  DeviceAtoms atoms_;
  DeviceList list_;
  int64_t list_number_ = 0;
  DeviceEdges<T> edges_;
  DeviceArray<T> harmonics_, radial_, slopes_;  // of messages [listed, LM], [listed, Q]
  DeviceArray<T> by_harmonics_, by_radial_, more_gradients_;
  ChunkArrays<T> work_;
  std::vector<DeviceArray<T>> features_, adjoints_;          // as in engine.cpp
  std::vector<DeviceArray<T>> own_features_, own_adjoints_;  // empty unless p_.hands_on()
  DeviceArray<T> normaliser_sums_, normaliser_adjoints_;
  DeviceArray<double> energies_, virials_;
  std::vector<std::vector<double>> kept_energies_;  // of the layers before the last, on the host
  DeviceArray<Sum> forces_, neighbor_virials_;

  int row() const { return p_.channel_row; }
  int n_harmonics() const { return p_.n_harmonics(); }
  int64_t A_size() const { return int64_t{n_harmonics()} * row(); }
  const EngineLayer<T>& layer_of(int n) const { return p_.layers[static_cast<std::size_t>(n)]; }
  DeviceLayer<T>& device_layer(int n) { return on_device_.layers[static_cast<std::size_t>(n)]; }
  const int64_t* species_of(Chunk chunk) const { return atoms_.species.data() + chunk.begin; }
  T* features_of(DeviceArray<T>& rows, Chunk chunk) const { return rows.data() + chunk.begin * p_.feature_row(); }
  DeviceArray<T>& own_features(int layer) {
    return (p_.hands_on() ? own_features_ : features_)[static_cast<std::size_t>(layer)];
  }
  DeviceArray<T>& own_adjoints(int layer) {
    return (p_.hands_on() ? own_adjoints_ : adjoints_)[static_cast<std::size_t>(layer)];
  }

  // ---- input and output ----

  void prepare() {
    const EngineInput& input = *input_;
    atoms_.n_atoms = input.n_atoms;
    atoms_.n_centers = input.n_centers;
    const auto n_atoms = static_cast<std::size_t>(input.n_atoms), n_centers = static_cast<std::size_t>(input.n_centers);
    atoms_.positions.upload(input.positions, 3 * n_atoms);
    atoms_.on_top.resize(n_centers);
    if (input.list == 0 || input.list != list_number_) list_.upload(input, atoms_);
    list_number_ = input.list;
    edges_.take(atoms_, list_, p_.density.radial.cutoff, p_.density.n_species);
    edges_.gradients.fill_zero();
    energies_.resize(n_centers);
    set_baseline(input.n_centers, atoms_.species.data(), on_device_.atomic_energy.data(), energies_.data());
    forces_.resize(3 * n_atoms);
    forces_.fill_zero();
    prepare_features(n_atoms, n_centers);
    if (n_layers() > 1) {
      harmonics_.resize(static_cast<std::size_t>(list_.listed) * n_harmonics());
      kernels_.harmonics(p_.density.harmonics, edges_.vectors.data(), nullptr, {0, list_.listed}, harmonics_.data());
    }
  }

  void prepare_features(std::size_t n_atoms, std::size_t n_centers) {
    const auto n = static_cast<std::size_t>(n_layers() - 1), size = static_cast<std::size_t>(feature_row());
    features_.resize(n);
    adjoints_.resize(n);
    for (auto& rows : features_) rows.resize(n_atoms * size);
    for (auto& rows : adjoints_) {
      rows.resize(n_atoms * size);
      rows.fill_zero();
    }
    if (p_.hands_on()) {
      own_features_.resize(n);
      own_adjoints_.resize(n);
      for (auto& rows : own_features_) rows.resize(n_centers * size);
      for (auto& rows : own_adjoints_) {
        rows.resize(n_centers * size);
        rows.fill_zero();
      }
    }
    if (!p_.normaliser.empty()) {
      normaliser_sums_.resize(n_centers * static_cast<std::size_t>(n_layers()));
      normaliser_adjoints_.resize(normaliser_sums_.size());
    }
    kept_energies_.resize(n);
  }

  /// The energies up to a layer, to tell the atom at fault from others that it reaches.
  void keep_energies(int layer) {
    auto& kept = kept_energies_[static_cast<std::size_t>(layer)];
    kept.resize(static_cast<std::size_t>(atoms_.n_centers));
    mark_energies(atoms_, energies_.data());
    energies_.download(kept.data(), kept.size());
  }

  /// Rows of features to the ghosts (forward), or adjoints from them.
  void exchange(DeviceArray<T>& rows, bool forward) {
    if (!input_->exchange) return;
    std::vector<T> host(rows.size());
    rows.download(host.data(), host.size());
    if (forward) {
      input_->exchange->forward(host.data(), feature_row());
    } else {
      input_->exchange->reverse(host.data(), feature_row());
    }
    rows.upload(host.data(), host.size());
  }

  void finish() {
    const auto n_centers = static_cast<std::size_t>(atoms_.n_centers), n_atoms = static_cast<std::size_t>(atoms_.n_atoms);
    if (p_.has_repulsion) {
      edges_.add_repulsion(
          atoms_, p_.repulsion,
          {on_device_.repulsion_strength.data(), on_device_.inverse_screening.data(), on_device_.repulsion_outer.data()},
          p_.density.n_species, energies_.data());
    }
    mark_energies(atoms_, energies_.data());
    if (output_->virials) virials_.resize(9 * n_centers);
    if (output_->neighbor_virials) {
      neighbor_virials_.resize(9 * n_atoms);
      neighbor_virials_.fill_zero();
    }
    edges_.template add_forces<Sum>(atoms_, forces_.data(), output_->virials ? virials_.data() : nullptr,
                                    output_->neighbor_virials ? neighbor_virials_.data() : nullptr);
    energies_.download(output_->energies, n_centers);
    download_sums(forces_, output_->forces, 3 * n_atoms);
    if (output_->virials) virials_.download(output_->virials, 9 * n_centers);
    if (output_->neighbor_virials) download_sums(neighbor_virials_, output_->neighbor_virials, 9 * n_atoms);
    for (const auto& kept : kept_energies_) {
      for (std::size_t i = 0; i < kept.size(); ++i) {
        if (!std::isfinite(kept[i])) throw NonFiniteResult("energy", static_cast<int64_t>(i));
      }
    }
  }

  static void download_sums(const DeviceArray<Sum>& from, double* to, std::size_t size) {
    if constexpr (sizeof(Sum) == sizeof(double)) {
      from.download(to, size);
    } else {
      std::vector<Sum> host(size);
      from.download(host.data(), size);
      std::copy(host.begin(), host.end(), to);
    }
  }

  // ---- chunks ----

  template <class F>
  void for_each_chunk(const F& f) {
    const int64_t n = atoms_.n_centers;
    const int64_t per_center = 2 * (int64_t{p_.n_inputs} * n_harmonics() + A_size() + most_rows() * row());
    const int64_t most = std::max<int64_t>(1024, static_cast<int64_t>(chunk_bytes / sizeof(T)) / per_center);
    for (int64_t begin = 0; begin < n; begin += most) f(Chunk{begin, std::min(most, n - begin)});
  }

  /// Rows of channels of a center beside A.
  int64_t most_rows() const {
    int64_t rows = 0;
    for (const EngineLayer<T>& layer : p_.layers) {
      rows = std::max<int64_t>(rows, 2 * layer.product.n_outputs() + (layer.message ? layer.message->n_outputs : 0));
    }
    return rows;
  }

  static T* sized(DeviceArray<T>& array, Chunk chunk, int64_t size) {
    array.resize(static_cast<std::size_t>(chunk.size * size));
    return array.data();
  }

  Edges<T> edges_of(Chunk chunk) const {
    return {edges_.vectors.data(), nullptr, edges_.first.data() + chunk.begin, edges_.neighbor_species.data(),
            p_.radial_by_pair() ? edges_.tables.data() : nullptr};
  }

  // ---- A ----

  Normalisers<T> normalisers() {
    return {on_device_.normaliser.data(),
            n_layers(),
            p_.density.n_species,
            p_.n_inputs,
            n_harmonics(),
            p_.density.radial.n_radial,
            atoms_.n_centers,
            normaliser_sums_.data(),
            normaliser_adjoints_.data()};
  }

  void set_A(int layer, Chunk chunk) {
    T* A = sized(work_.A, chunk, A_size());
    if (layer == 0) {
      T* phi = sized(work_.phi, chunk, int64_t{p_.n_inputs} * n_harmonics());
      kernels_.density(p_.density, edges_of(chunk), {0, chunk.size}, phi);
      kernels_.mix(mix_shape(chunk), phi, on_device_.mixing.data(), {0, chunk.size}, A);
      if (!p_.normaliser.empty()) normalisers().set(chunk.begin, chunk.size, species_of(chunk), phi);
    } else {
      set_messages(layer, chunk, A);
    }
    if (!p_.normaliser.empty()) {
      normalisers().divide(layer, chunk.begin, chunk.size, A, static_cast<int>(A_size()));
    }
  }

  MixShape<T> mix_shape(Chunk chunk) const { return {p_.l_max, p_.n_inputs, row(), species_of(chunk)}; }

  void add_gradient_of_A(int layer, Chunk chunk) {
    if (!p_.normaliser.empty()) {
      normalisers().take_gradient(layer, chunk.begin, chunk.size, work_.A.data(), work_.dA.data(),
                                  static_cast<int>(A_size()));
    }
    if (layer > 0) return add_message_gradient(layer, chunk);
    T* dphi = sized(work_.dphi, chunk, int64_t{p_.n_inputs} * n_harmonics());
    kernels_.mix_input_gradient(mix_shape(chunk), work_.dA.data(), on_device_.mixing.data(), {0, chunk.size}, dphi);
    if (!p_.normaliser.empty()) normalisers().add_gradients(chunk.begin, chunk.size, species_of(chunk), dphi);
    kernels_.density_gradient(p_.density, edges_of(chunk), dphi, {0, chunk.size}, density_gradients());
  }

  /// Where the gradients by the density go: it is the last pass, so those of messages are added afterwards.
  T* density_gradients() {
    if (n_layers() == 1) return edges_.gradients.data();
    more_gradients_.resize(edges_.gradients.size());
    return more_gradients_.data();
  }

  // ---- messages ----

  MessageShape<T> message_shape(DeviceMessage<T>& message) const {
    MessageShape<T> shape = message.shape;
    shape.table = &message.table;
    return shape;
  }

  /// Radial functions of a layer's messages along all edges, and their slopes.
  void set_radial(const DeviceMessage<T>& message) {
    const std::size_t size = edges_.distances.size() * static_cast<std::size_t>(message.shape.n_radial);
    for (auto* array : {&radial_, &slopes_}) array->resize(size);
    kernels_.radial(message.radial.basis, edges_.distances.data(), message.radial.by_pair() ? edges_.tables.data() : nullptr,
                    {0, list_.listed}, radial_.data(), slopes_.data(), nullptr);
  }

  MessageInputs<T> message_inputs(int layer, Chunk chunk) {
    return {{radial_.data(), nullptr},
            {harmonics_.data(), nullptr},
            {features_[static_cast<std::size_t>(layer - 1)].data(), nullptr},
            {device_layer(layer).message->weights.data(), nullptr},
            edges_.first.data() + chunk.begin,
            edges_.neighbors.data()};
  }

  void set_messages(int layer, Chunk chunk, T* A) {
    DeviceMessage<T>& message = *device_layer(layer).message;
    if (chunk.begin == 0) set_radial(message);
    const bool mixes = !message.mixing.empty();
    T* out = mixes ? sized(work_.message, chunk, int64_t{message.shape.n_outputs} * row()) : A;
    kernels_.message(message_shape(message), message_inputs(layer, chunk), {0, chunk.size}, out);
    if (!mixes) return;
    work_.A.fill_zero();
    map(message.mixing, chunk, out, A);
  }

  void add_message_gradient(int layer, Chunk chunk) {
    DeviceMessage<T>& message = *device_layer(layer).message;
    const T* G = work_.dA.data();
    if (!message.mixing.empty()) {
      T* mixed = sized(work_.dmessage, chunk, int64_t{message.shape.n_outputs} * row());
      map_back(message.mixing, chunk, G, mixed);
      G = mixed;
    }
    by_harmonics_.resize(harmonics_.size());
    by_radial_.resize(radial_.size());
    if (chunk.begin == 0) {  // chunks write those of their own edges; beyond the last edge there shall be zeros
      by_harmonics_.fill_zero();
      by_radial_.fill_zero();
    }
    kernels_.message_gradient(message_shape(message), message_inputs(layer, chunk), G, {0, chunk.size},
                              {by_radial_.data(), by_harmonics_.data(),
                               adjoints_[static_cast<std::size_t>(layer - 1)].data(), 0, nullptr, nullptr});
    if (chunk.begin + chunk.size < atoms_.n_centers) return;
    more_gradients_.resize(edges_.gradients.size());
    kernels_.harmonics_gradient(p_.density.harmonics, edges_.vectors.data(), nullptr, by_harmonics_.data(),
                                {0, list_.listed}, more_gradients_.data());
    edges_.add_gradients(more_gradients_);
    edges_.add_radial_gradients(by_radial_, slopes_, message.shape.n_radial);
  }

  // ---- products and features ----

  static RowMapShape with_species(RowMapShape shape, const int64_t* species) {
    shape.species = shape.n_species > 1 ? species : nullptr;
    return shape;
  }
  void map(const DeviceMap<T>& map, Chunk chunk, const T* x, T* out) const {
    kernels_.map_rows(with_species(map.forward, species_of(chunk)), x, map.weights.data(), {0, chunk.size}, out);
  }
  void map_back(const DeviceMap<T>& map, Chunk chunk, const T* x, T* out) const {
    kernels_.map_rows(with_species(map.backward, species_of(chunk)), x, map.transposed.data(), {0, chunk.size}, out);
  }

  ProductShape product_shape(int layer, Chunk chunk) const {
    const LayerProduct<T>& product = layer_of(layer).product;
    return {n_harmonics(),        row(),
            product.n_nodes(),    product.n_outputs(),
            product.depth,        product.tree.data(),
            product.roots.data(), species_of(chunk)};
  }

  void set_product(int layer, Chunk chunk) {
    T* B = sized(work_.B, chunk, int64_t{layer_of(layer).product.n_outputs()} * row());
    kernels_.product(product_shape(layer, chunk), work_.A.data(), device_layer(layer).product.data(), {0, chunk.size}, B);
  }
  /// dA from dB.
  void set_product_gradient(int layer, Chunk chunk) {
    T* dA = sized(work_.dA, chunk, A_size());
    kernels_.product_gradient(product_shape(layer, chunk), {work_.A.data(), nullptr},
                              {device_layer(layer).product.data(), nullptr}, work_.dB.data(), {0, chunk.size}, dA, nullptr);
  }

  /// Features from products and those of the layer before; rows of one atom are `stride` apart.
  void update(int layer, Chunk chunk, T* features, int64_t stride) {
    DeviceLayer<T>& own = device_layer(layer);
    map(own.update, chunk, work_.B.data(), features);
    if (!own.residual.empty()) map(own.residual, chunk, features_of(own_features(layer - 1), chunk), features);
    if (own.constant.size() == 0) return;
    add_constants(chunk.size, species_of(chunk), own.constant.data(), own.update.forward.row, features, stride);
  }
  /// dB from the gradient by the features, which also goes to the layer before.
  void update_gradient(int layer, Chunk chunk, const T* dfeatures) {
    DeviceLayer<T>& own = device_layer(layer);
    T* dB = sized(work_.dB, chunk, int64_t{layer_of(layer).product.n_outputs()} * row());
    map_back(own.update, chunk, dfeatures, dB);
    if (!own.residual.empty()) map_back(own.residual, chunk, dfeatures, features_of(own_adjoints(layer - 1), chunk));
  }

  void forward(int layer, Chunk chunk) {
    DeviceLayer<T>& own = device_layer(layer);
    set_A(layer, chunk);
    set_product(layer, chunk);
    T* features = features_of(own_features(layer), chunk);
    update(layer, chunk, features, feature_row());
    if (!own.handed.empty())
      map(own.handed, chunk, features, features_of(features_[static_cast<std::size_t>(layer)], chunk));
    add_linear_energies(chunk.size, features, feature_row(), own.readout.data(), row(), p_.scale,
                        energies_.data() + chunk.begin);
  }

  void last(Chunk chunk) {
    const int layer = n_layers() - 1;
    DeviceLayer<T>& own = device_layer(layer);
    set_A(layer, chunk);
    set_product(layer, chunk);
    copy_columns(chunk);
    double* energies = energies_.data() + chunk.begin;
    if (own.update.empty()) {
      readout_.run(chunk.size, work_.B.data(), sized(work_.dB, chunk, row()), row(), energies);
    } else {
      const int width = own.update.forward.row;
      T *features = sized(work_.features, chunk, width), *dfeatures = sized(work_.dfeatures, chunk, width);
      update(layer, chunk, features, width);
      readout_.run(chunk.size, features, dfeatures, width, energies);
      update_gradient(layer, chunk, dfeatures);
    }
    set_product_gradient(layer, chunk);
    add_gradient_of_A(layer, chunk);
  }

  void backward(int layer, Chunk chunk) {
    DeviceLayer<T>& own = device_layer(layer);
    set_A(layer, chunk);
    T* dfeatures = sized(work_.dfeatures, chunk, feature_row());
    copy_and_add(chunk.size, features_of(own_adjoints(layer), chunk), feature_row(), own.readout.data(), row(), p_.scale,
                 dfeatures);
    if (!own.handed.empty()) {
      map_back(own.handed, chunk, features_of(adjoints_[static_cast<std::size_t>(layer)], chunk), dfeatures);
    }
    update_gradient(layer, chunk, dfeatures);
    set_product_gradient(layer, chunk);
    add_gradient_of_A(layer, chunk);
    if (layer == 0 && chunk.begin + chunk.size == atoms_.n_centers) edges_.add_gradients(more_gradients_);
  }

  /// Products of the centers, where they are asked for.
  void copy_columns(Chunk chunk) {
    if (!output_->columns) return;
    const auto width = static_cast<std::size_t>(row());
    std::vector<T> host(static_cast<std::size_t>(chunk.size) * width);
    work_.B.download(host.data(), host.size());
    for (int channel = 0; channel < p_.n_channels; ++channel) {
      double* column = output_->columns[channel];
      for (int64_t a = 0; column && a < chunk.size; ++a) {
        const bool absent = input_->species[chunk.begin + a] == EngineInput::absent;
        const T value = host[static_cast<std::size_t>(a) * width + static_cast<std::size_t>(channel)];
        column[chunk.begin + a] = absent ? 0.0 : static_cast<double>(value);
      }
    }
  }
};

}  // namespace

template <class T, class Sum>
std::unique_ptr<EngineBackend> make_backend(const EngineParameters<T>& parameters, int device, const Kernels<T>& kernels) {
  const DeviceScope scope;
  check(cudaSetDevice(device), "choice of the device");
  current_stream() = nullptr;
  return std::make_unique<CudaBackend<T, Sum>>(parameters, device, kernels);
}

template std::unique_ptr<EngineBackend> make_backend<float, float>(const EngineParameters<float>&, int,
                                                                   const Kernels<float>&);
template std::unique_ptr<EngineBackend> make_backend<float, double>(const EngineParameters<float>&, int,
                                                                    const Kernels<float>&);
template std::unique_ptr<EngineBackend> make_backend<double, double>(const EngineParameters<double>&, int,
                                                                     const Kernels<double>&);

}  // namespace tesseral::cuda
