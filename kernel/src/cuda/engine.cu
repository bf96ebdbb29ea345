// The native engine on a device: the passes of engine_atoms.cpp as operators over chunks of centers. Between the passes only
// features and their adjoints are kept; the backward pass computes A anew.
#include <algorithm>
#include <optional>

#include "call_graph.hpp"
#include "engine.hpp"
#include "engine_features.hpp"
#include "engine_messages.hpp"
#include "engine_readout.hpp"
#include "engine_results.hpp"
#include "engine_rows.hpp"
#include "neighbor_list.hpp"

namespace tesseral::cuda {
namespace {

/// Memory that the arrays of a chunk of centers may take, and how many centers it has at least. The tests have few atoms.
#ifdef TESSERAL_EMULATE
constexpr std::size_t chunk_bytes = std::size_t{32} << 10;
constexpr int64_t fewest_centers = 4;
#else
constexpr std::size_t chunk_bytes = std::size_t{2} << 30;
constexpr int64_t fewest_centers = 1024;
#endif

template <class T, class Sum>
class CudaBackend : public EngineBackend {
 public:
  CudaBackend(const EngineParameters<T>& parameters, int device, const Kernels<T>& kernels)
      : p_(parameters),
        device_(device),
        kernels_(kernels),
        on_device_(p_),
        readout_(p_),
        messages_(p_, kernels),
        features_(p_) {
    p_.density.radial = on_device_.radial.basis;
    wait();  // copies of parameters in the default stream
  }
  ~CudaBackend() override {
    last_scope_.emplace();
    cudaSetDevice(device_);  // may fail at the end of the process
  }

  int n_channels() const override { return p_.n_channels; }
  int n_layers() const override { return p_.n_layers(); }
  int64_t feature_row() const override { return p_.feature_row(); }

  void compute(const EngineInput& input, const EngineOutput& output, ThreadPool&) override {
    search_scope_.reset();  // of a search that failed
    const StreamScope scope(device_, stream_.get());
    const ProfileScope profile_scope(profile_ ? &*profile_ : nullptr);
    input_ = &input;
    output_ = &output;
    graph_.begin();
    prepare();
    try {
      graph_.run(kind(), [this] { run(); });
    } catch (...) {
      cudaStreamSynchronize(stream_.get());  // it may still read the positions
      throw;
    }
    wait();
    if (profile_) profile_->collect();
    results_.give(output);
  }

  GraphUse graph_use() const override { return graph_.use(); }

  void start_profile() override { profile_.emplace(); }
  std::vector<ProfileRow> take_profile() override {
    const StreamScope scope(device_);
    std::vector<ProfileRow> rows;
    if (profile_) rows = profile_->rows();
    profile_.reset();
    return rows;
  }

  bool on_device() const override { return true; }
  DevicePoints upload_points(int64_t n_atoms, const double* positions, const double* cell) override {
    search_scope_.emplace();
    check(cudaSetDevice(device_), "choice of the device");
    const StreamScope scope(device_);
    return found_list_.upload_points(n_atoms, positions, cell);
  }
  void set_list(int64_t n_atoms, const DevicePairs& pairs, const double* cell) override {
    {
      const StreamScope scope(device_);
      list_number_ = 0;
      graph_.begin();  // arrays may grow
      found_list_.set(n_atoms, pairs, cell, list_);
    }
    search_scope_.reset();
  }
  void set_cell(const double* cell) override {
    const StreamScope scope(device_);
    found_list_.set_cell(cell, list_);
  }

 private:
  std::optional<DeviceScope> last_scope_;  // while the other members are freed
  EngineParameters<T> p_;
  int device_;
  const Kernels<T>& kernels_;
  DeviceParameters<T> on_device_;
  DeviceReadout<T> readout_;
  DeviceStream stream_;
  CallGraph graph_;
  std::optional<Profile> profile_;
  const EngineInput* input_ = nullptr;
  const EngineOutput* output_ = nullptr;

  HostArray<double> positions_;
  DeviceAtoms atoms_;
  DeviceList list_;
  FoundList found_list_;
  std::optional<DeviceScope> search_scope_;  // from the positions to the pairs
  int64_t list_number_ = 0;
  DeviceEdges<T> edges_;
  DeviceMessages<T> messages_;
  DeviceArray<T> more_gradients_;
  ChunkArrays<T> work_;
  DeviceFeatures<T> features_;
  NormaliserArrays<T> normaliser_arrays_;
  DeviceResults<Sum> results_;

  int row() const { return p_.channel_row; }
  int n_harmonics() const { return p_.n_harmonics(); }
  int64_t A_size() const { return int64_t{n_harmonics()} * row(); }
  const EngineLayer<T>& layer_of(int n) const { return p_.layers[static_cast<std::size_t>(n)]; }
  DeviceLayer<T>& device_layer(int n) { return on_device_.layers[static_cast<std::size_t>(n)]; }
  // ---- input and output ----

  /// What is not part of a graph: memory for input and results, the list, and the positions on their way to the device.
  void prepare() {
    const EngineInput& input = *input_;
    atoms_.n_atoms = input.n_atoms;
    atoms_.n_centers = input.n_centers;
    const auto n_numbers = 3 * static_cast<std::size_t>(input.n_atoms);
    positions_.resize(n_numbers);
    std::copy_n(input.positions, n_numbers, positions_.data());
    atoms_.on_top.resize(static_cast<std::size_t>(input.n_centers));
    if (input.list == 0 || input.list != list_number_) {
      graph_.forget();
      list_number_ = 0;  // unless all of it arrives
      list_.upload(input, atoms_);
      list_number_ = input.list;
    }
    results_.prepare(input, *output_);
  }

  bool wants_columns() const {
    double* const* columns = output_->columns;
    return columns && std::any_of(columns, columns + p_.n_channels, [](const double* column) { return column; });
  }

  /// Nothing where the same calls must not be repeated: they may differ, or wait in the middle.
  std::optional<CallKind> kind() const {
    const bool exchanges = input_->exchange && n_layers() > 1;
    if (input_->list == 0 || input_->n_centers == 0 || exchanges || wants_columns() || profile_ || !positions_.pinned() ||
        !results_.pinned()) {
      return {};
    }
    return CallKind{.list = input_->list,
                    .n_atoms = input_->n_atoms,
                    .n_centers = input_->n_centers,
                    .virials = output_->virials != nullptr,
                    .neighbor_virials = output_->neighbor_virials != nullptr,
                    .total_virial = output_->total_virial != nullptr};
  }

  /// Everything between the positions and the results, both in the host's memory; waits only for an exchange and for
  /// columns.
  void run() {
    start();
    const int n_layers = p_.n_layers();
    for (int layer = 0; layer < n_layers - 1; ++layer) {
      for_each_chunk([&](const Chunk& chunk) { forward(layer, chunk); });
      results_.mark_layer(atoms_, layer);
      if (input_->exchange) features_.send(layer, *input_->exchange);
    }
    for_each_chunk([&](const Chunk& chunk) { last(chunk); });
    for (int layer = n_layers - 2; layer >= 0; --layer) {
      if (input_->exchange) features_.collect(layer, *input_->exchange);
      for_each_chunk([&](const Chunk& chunk) { backward(layer, chunk); });
    }
    finish();
  }

  void start() {
    atoms_.positions.upload(positions_.data(), positions_.size());
    {
      const Label label("edges");
      edges_.take(atoms_, list_, p_.density.radial.cutoff, p_.density.n_species);
    }
    edges_.gradients.fill_zero();
    results_.clear();
    set_baseline(atoms_.n_centers, atoms_.species.data(), on_device_.atomic_energy.data(), results_.energies.data());
    features_.prepare(atoms_.n_atoms, atoms_.n_centers);
    if (n_layers() > 1) messages_.take(edges_);
  }

  void finish() {
    if (p_.has_repulsion) {
      const Label label("repulsion");
      edges_.add_repulsion(
          atoms_, p_.repulsion,
          {on_device_.repulsion_strength.data(), on_device_.inverse_screening.data(), on_device_.repulsion_outer.data()},
          p_.density.n_species, results_.energies.data());
    }
    {
      const Label label("forces");
      edges_.template add_forces<Sum>(atoms_, results_.forces.data(),
                                      results_.virials.size() > 0 ? results_.virials.data() : nullptr,
                                      output_->neighbor_virials ? results_.neighbor_virials.data() : nullptr);
      if (output_->total_virial) sum_virials(atoms_.n_centers, results_.virials.data(), results_.total_virial.data());
    }
    results_.send(atoms_);
  }

  // ---- chunks ----

  template <class F>
  void for_each_chunk(const F& f) {
    const int64_t n = atoms_.n_centers;
    const int64_t per_center = 2 * (int64_t{p_.n_inputs} * n_harmonics() + A_size() + most_rows() * row());
    const int64_t most = std::max<int64_t>(fewest_centers, static_cast<int64_t>(chunk_bytes / sizeof(T)) / per_center);
    for (int64_t begin = 0; begin < n; begin += most) {
      f(Chunk{begin, std::min(most, n - begin), atoms_.species.data() + begin, n - begin <= most});
    }
  }

  /// Rows of channels of a center beside A.
  int64_t most_rows() const {
    int64_t rows = 0;
    for (const EngineLayer<T>& layer : p_.layers) {
      rows = std::max<int64_t>(rows, 2 * layer.product.n_outputs() + (layer.message ? layer.message->n_outputs : 0));
    }
    return rows;
  }

  Edges<T> edges_of(const Chunk& chunk) const {
    return {edges_.vectors.data(), nullptr, edges_.first.data() + chunk.begin, edges_.neighbor_species.data(),
            p_.radial_by_pair() ? edges_.tables.data() : nullptr};
  }

  // ---- A ----

  Normalisers<T> normalisers() { return normaliser_arrays_.of(p_, on_device_.normaliser.data(), atoms_.n_centers); }

  void set_A(int layer, const Chunk& chunk) {
    T* A = sized(work_.A, chunk, A_size());
    if (layer == 0) {
      set_density(chunk, A);
    } else {
      messages_.set(*device_layer(layer).message, chunk, features_.features(layer - 1).data(), work_.A);
    }
    if (!p_.normaliser.empty()) {
      normalisers().divide(layer, chunk.begin, chunk.size, A, static_cast<int>(A_size()));
    }
  }

  void set_density(const Chunk& chunk, T* A) {
    T* phi = sized(work_.phi, chunk, int64_t{p_.n_inputs} * n_harmonics());
    {
      const Label label("density");
      kernels_.density(p_.density, edges_of(chunk), {0, chunk.size}, phi);
    }
    {
      const Label label("mixing");
      kernels_.mix(mix_shape(chunk), phi, on_device_.mixing.data(), {0, chunk.size}, A);
    }
    if (!p_.normaliser.empty()) normalisers().set(chunk.begin, chunk.size, chunk.species, phi);
  }

  MixShape<T> mix_shape(const Chunk& chunk) const { return {p_.l_max, p_.n_inputs, row(), chunk.species}; }

  void add_gradient_of_A(int layer, const Chunk& chunk) {
    if (!p_.normaliser.empty()) {
      normalisers().take_gradient(layer, chunk.begin, chunk.size, work_.A.data(), work_.dA.data(),
                                  static_cast<int>(A_size()));
    }
    if (layer > 0) {
      return messages_.add_gradient(*device_layer(layer).message, chunk, features_.features(layer - 1).data(),
                                    work_.dA.data(), features_.adjoints(layer - 1).data());
    }
    T* dphi = sized(work_.dphi, chunk, int64_t{p_.n_inputs} * n_harmonics());
    {
      const Label label("gradient of the mixing");
      kernels_.mix_input_gradient(mix_shape(chunk), work_.dA.data(), on_device_.mixing.data(), {0, chunk.size}, dphi);
    }
    if (!p_.normaliser.empty()) normalisers().add_gradients(chunk.begin, chunk.size, chunk.species, dphi);
    const Label label("gradient of the density");
    kernels_.density_gradient(p_.density, edges_of(chunk), dphi, {0, chunk.size}, density_gradients());
  }

  /// Where the gradients by the density go: it is the last pass, so those of messages are added afterwards.
  T* density_gradients() {
    if (n_layers() == 1) return edges_.gradients.data();
    more_gradients_.resize(edges_.gradients.size());
    return more_gradients_.data();
  }

  // ---- products and features ----

  void map(const DeviceMap<T>& map, const Chunk& chunk, const T* x, T* out) const { map_rows(kernels_, map, chunk, x, out); }
  void map_back(const DeviceMap<T>& map, const Chunk& chunk, const T* x, T* out) const {
    map_rows_back(kernels_, map, chunk, x, out);
  }

  ProductShape product_shape(int layer, const Chunk& chunk) const {
    const LayerProduct<T>& product = layer_of(layer).product;
    return {n_harmonics(),        row(),        product.n_nodes(), product.n_outputs(), product.depth, product.tree.data(),
            product.roots.data(), chunk.species};
  }

  void set_product(int layer, const Chunk& chunk) {
    T* B = sized(work_.B, chunk, int64_t{layer_of(layer).product.n_outputs()} * row());
    const Label label("product");
    kernels_.product(product_shape(layer, chunk), work_.A.data(), device_layer(layer).product.data(), {0, chunk.size}, B);
  }
  /// dA from dB.
  void set_product_gradient(int layer, const Chunk& chunk) {
    T* dA = sized(work_.dA, chunk, A_size());
    const Label label("gradient of the product");
    kernels_.product_gradient(product_shape(layer, chunk), {work_.A.data(), nullptr},
                              {device_layer(layer).product.data(), nullptr}, work_.dB.data(), {0, chunk.size}, dA, nullptr);
  }

  /// Features from products and those of the layer before; rows of one atom are `stride` apart.
  void update(int layer, const Chunk& chunk, T* features, int64_t stride) {
    DeviceLayer<T>& own = device_layer(layer);
    map(own.update, chunk, work_.B.data(), features);
    if (!own.residual.empty()) map(own.residual, chunk, features_.own_features(layer - 1, chunk), features);
    if (own.constant.size() == 0) return;
    add_constants(chunk.size, chunk.species, own.constant.data(), own.update.forward.row, features, stride);
  }
  /// dB from the gradient by the features, which also goes to the layer before.
  void update_gradient(int layer, const Chunk& chunk, const T* dfeatures) {
    DeviceLayer<T>& own = device_layer(layer);
    T* dB = sized(work_.dB, chunk, int64_t{layer_of(layer).product.n_outputs()} * row());
    map_back(own.update, chunk, dfeatures, dB);
    if (!own.residual.empty()) map_back(own.residual, chunk, dfeatures, features_.own_adjoints(layer - 1, chunk));
  }

  void forward(int layer, const Chunk& chunk) {
    DeviceLayer<T>& own = device_layer(layer);
    set_A(layer, chunk);
    set_product(layer, chunk);
    T* features = features_.own_features(layer, chunk);
    update(layer, chunk, features, feature_row());
    if (!own.handed.empty()) map(own.handed, chunk, features, features_.features(layer, chunk));
    add_linear_energies(chunk.size, features, feature_row(), own.readout.data(), row(), p_.scale,
                        results_.energies.data() + chunk.begin);
  }

  void last(const Chunk& chunk) {
    const int layer = n_layers() - 1;
    DeviceLayer<T>& own = device_layer(layer);
    set_A(layer, chunk);
    set_product(layer, chunk);
    if (wants_columns()) give_columns(work_.B, chunk, row(), p_.n_channels, input_->species, output_->columns);
    double* energies = results_.energies.data() + chunk.begin;
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

  void backward(int layer, const Chunk& chunk) {
    DeviceLayer<T>& own = device_layer(layer);
    set_A(layer, chunk);
    T* dfeatures = sized(work_.dfeatures, chunk, feature_row());
    copy_and_add(chunk.size, features_.own_adjoints(layer, chunk), feature_row(), own.readout.data(), row(), p_.scale,
                 dfeatures);
    if (!own.handed.empty()) {
      map_back(own.handed, chunk, features_.adjoints(layer, chunk), dfeatures);
    }
    update_gradient(layer, chunk, dfeatures);
    set_product_gradient(layer, chunk);
    add_gradient_of_A(layer, chunk);
    if (layer == 0 && chunk.last) edges_.add_gradients(more_gradients_);
  }
};

}  // namespace

template <class T, class Sum>
std::unique_ptr<EngineBackend> make_backend(const EngineParameters<T>& parameters, int device, const Kernels<T>& kernels) {
  const StreamScope scope(device);
  return std::make_unique<CudaBackend<T, Sum>>(parameters, device, kernels);
}

template std::unique_ptr<EngineBackend> make_backend<float, float>(const EngineParameters<float>&, int,
                                                                   const Kernels<float>&);
template std::unique_ptr<EngineBackend> make_backend<float, double>(const EngineParameters<float>&, int,
                                                                    const Kernels<float>&);
template std::unique_ptr<EngineBackend> make_backend<double, double>(const EngineParameters<double>&, int,
                                                                     const Kernels<double>&);

}  // namespace tesseral::cuda
