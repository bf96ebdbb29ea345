#include "tesseral/engine.hpp"

#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <stdexcept>

#include "engine_checks.hpp"
#include "tesseral/cuda_library.hpp"
#include "tesseral/dispatch.hpp"
#include "tesseral/engine_parameters.hpp"

namespace tesseral {
namespace {

/// Bounds of each thread's centers, so that every thread has about as many edges. Fixed for fixed input: sums do not depend
/// on timing.
std::vector<int64_t> split_centers(const EngineInput& input, int n_threads) {
  std::vector<int64_t> bounds(static_cast<std::size_t>(n_threads) + 1, input.n_centers);
  bounds[0] = 0;
  int64_t total = input.n_centers;
  for (int64_t i = 0; i < input.n_centers; ++i) total += input.rows[i].count;
  int64_t i = 0, before = 0;
  for (int thread = 1; thread < n_threads; ++thread) {
    for (; i < input.n_centers && before * n_threads < total * thread; ++i) before += input.rows[i].count + 1;
    bounds[static_cast<std::size_t>(thread)] = i;
  }
  return bounds;
}

/// Part of `size` things that a thread of a pool works on.
Range share(int64_t size, int thread, int n_threads) {
  return {size * thread / n_threads, size * (thread + 1) / n_threads};
}

/// total[n] = sum over threads of parts[thread][n], for the share of one of them
template <class Sum>
void add_up(const std::vector<std::vector<Sum>>& parts, int thread, double* total) {
  const Range own = share(static_cast<int64_t>(parts[0].size()), thread, static_cast<int>(parts.size()));
  for (int64_t n = own.begin; n < own.end; ++n) {
    double sum = 0;
    for (const auto& part : parts) sum += static_cast<double>(part[static_cast<std::size_t>(n)]);
    total[n] = sum;
  }
}

/// total [9] = sum of rows [n, 9]
void sum_rows(int64_t n, const double* rows, double* total) {
  double sums[9] = {};
  for (int64_t i = 0; i < n; ++i) {
    for (int k = 0; k < 9; ++k) sums[k] += rows[9 * i + k];
  }
  std::copy_n(sums, 9, total);
}

/// The engine in one arithmetic; keeps its working arrays between calls.
template <class T, class Sum>
class TypedBackend : public EngineBackend {
  using Kind = typename EnginePass<T>::Kind;

 public:
  TypedBackend(const ModelFile& file, InstructionSet set)
      : parameters_(read_engine_parameters<T>(file)), atoms_(atoms_function<T, Sum>(set)) {}

  int n_channels() const override { return parameters_.n_channels; }
  int n_layers() const override { return parameters_.n_layers(); }
  int64_t feature_row() const override { return parameters_.feature_row(); }

  /// Local models: the pass `last` alone. A center whose own environment is at fault is named before others that it reaches.
  void compute(const EngineInput& input, const EngineOutput& wanted, ThreadPool& pool) override {
    prepare(input, pool);
    EngineOutput output = wanted;
    if (wanted.total_virial && !wanted.virials) {
      virials_.resize(9 * static_cast<std::size_t>(input.n_centers));
      output.virials = virials_.data();
    }
    const int n_layers = parameters_.n_layers();
    int64_t fault = -1;
    for (int layer = 0; layer < n_layers - 1; ++layer) {
      run(Kind::forward, layer, input, output, pool);
      if (fault < 0) fault = first_fault(input, output);
      if (input.exchange) input.exchange->forward(features_[static_cast<std::size_t>(layer)].data(), feature_row());
    }
    run(Kind::last, n_layers - 1, input, output, pool);
    for (int layer = n_layers - 2; layer >= 0; --layer) {
      T* adjoints = add_up_adjoints(layer, pool);
      if (input.exchange) input.exchange->reverse(adjoints, feature_row());
      run(Kind::backward, layer, input, output, pool);
    }
    pool.run([&](int thread) {
      add_up(forces_, thread, output.forces);
      if (output.neighbor_virials) add_up(neighbor_virials_, thread, output.neighbor_virials);
    });
    if (output.total_virial) sum_rows(input.n_centers, output.virials, output.total_virial);
    if (fault >= 0) throw NonFiniteResult("energy", fault);
  }

 private:
  template <class N>
  using Parts = std::vector<std::vector<N>>;  // of each thread

  EngineParameters<T> parameters_;
  AtomsFunction<T, Sum> atoms_;
  std::vector<EngineScratch<T>> scratch_;
  Parts<Sum> forces_, neighbor_virials_;
  std::vector<double> virials_;                          // of the centers, where only their sum is wanted
  std::vector<AlignedVector<T>> features_;               // [n_layers-1] of [n_atoms, feature_row]
  std::vector<std::vector<AlignedVector<T>>> adjoints_;  // the same of each thread; the first receives the sum
  // of the centers, where neighbours get something else: [n_layers-1] of [n_centers, feature_row]
  std::vector<AlignedVector<T>> own_features_, own_adjoints_;
  AlignedVector<T> normalisers_, normaliser_adjoints_;  // [n_layers, n_centers]
  std::vector<int64_t> bounds_;
  int64_t most_edges_ = -1;

  void prepare(const EngineInput& input, ThreadPool& pool) {
    int64_t most = 0;
    for (int64_t i = 0; i < input.n_centers; ++i) most = std::max<int64_t>(most, input.rows[i].count);
    const auto n = static_cast<std::size_t>(pool.size()), n_atoms = static_cast<std::size_t>(input.n_atoms);
    if (most > most_edges_) {
      scratch_.assign(n, EngineScratch<T>(parameters_, most));
      most_edges_ = most;
    }
    bounds_ = split_centers(input, pool.size());
    forces_.resize(n);
    neighbor_virials_.resize(n);
    features_.resize(static_cast<std::size_t>(parameters_.n_layers() - 1));
    adjoints_.resize(n);
    const std::size_t n_features = n_atoms * static_cast<std::size_t>(feature_row());
    for (auto& own : features_) own.resize(n_features);
    const auto n_centers = static_cast<std::size_t>(input.n_centers);
    if (parameters_.hands_on()) {
      own_features_.resize(features_.size());
      own_adjoints_.resize(features_.size());
      for (auto& own : own_features_) own.resize(n_centers * static_cast<std::size_t>(feature_row()));
      for (auto& own : own_adjoints_) own.assign(n_centers * static_cast<std::size_t>(feature_row()), T(0));
    }
    if (!parameters_.normaliser.empty()) {
      normalisers_.resize(n_centers * static_cast<std::size_t>(n_layers()));
      normaliser_adjoints_.resize(normalisers_.size());
    }
  }

  /// What a thread adds to, and its atoms' virials: zeros before the first pass.
  void clear(std::size_t t, const EngineInput& input, const EngineOutput& output) {
    const auto n_atoms = static_cast<std::size_t>(input.n_atoms);
    forces_[t].assign(3 * n_atoms, Sum(0));
    neighbor_virials_[t].assign(output.neighbor_virials ? 9 * n_atoms : 0, Sum(0));
    adjoints_[t].resize(features_.size());
    for (auto& own : adjoints_[t]) own.assign(n_atoms * static_cast<std::size_t>(feature_row()), T(0));
    if (output.virials) std::fill(output.virials + 9 * bounds_[t], output.virials + 9 * bounds_[t + 1], 0.0);
  }

  void run(Kind kind, int layer, const EngineInput& input, const EngineOutput& output, ThreadPool& pool) {
    pool.run([&](int thread) {
      const auto t = static_cast<std::size_t>(thread), n = static_cast<std::size_t>(layer);
      if (layer == 0 && kind != Kind::backward) clear(t, input, output);
      const bool is_last = kind == Kind::last, separate = parameters_.hands_on();
      auto& own_features = separate ? own_features_ : features_;
      auto& own_adjoints = separate ? own_adjoints_ : adjoints_[t];
      const EnginePass<T> pass{.kind = kind,
                               .layer = layer,
                               .features = is_last ? nullptr : features_[n].data(),
                               .own_features = is_last ? nullptr : own_features[n].data(),
                               .before = layer > 0 ? features_[n - 1].data() : nullptr,
                               .own_before = layer > 0 ? own_features[n - 1].data() : nullptr,
                               .adjoints = kind == Kind::backward ? adjoints_[0][n].data() : nullptr,
                               .own_adjoints = separate && !is_last ? own_adjoints[n].data() : nullptr,
                               .adjoints_before = layer > 0 ? adjoints_[t][n - 1].data() : nullptr,
                               .own_adjoints_before = layer > 0 ? own_adjoints[n - 1].data() : nullptr,
                               .normalisers = normalisers_.data(),
                               .normaliser_adjoints = normaliser_adjoints_.data()};
      const EngineSums<Sum> sums{output.energies, forces_[t].data(), output.virials,
                                 output.neighbor_virials ? neighbor_virials_[t].data() : nullptr, output.columns};
      atoms_(parameters_, input, pass, {bounds_[t], bounds_[t + 1]}, scratch_[t], sums);
    });
  }

  /// Sum over threads of the adjoints of a layer's features, in fixed order.
  T* add_up_adjoints(int layer, ThreadPool& pool) {
    const auto n = static_cast<std::size_t>(layer);
    AlignedVector<T>& total = adjoints_[0][n];
    if (pool.size() > 1) {
      pool.run([&](int thread) {
        const Range own = share(static_cast<int64_t>(total.size()), thread, pool.size());
        for (std::size_t other = 1; other < adjoints_.size(); ++other) {
          const AlignedVector<T>& part = adjoints_[other][n];
          for (int64_t k = own.begin; k < own.end; ++k) {
            total[static_cast<std::size_t>(k)] += part[static_cast<std::size_t>(k)];
          }
        }
      });
    }
    return total.data();
  }
};

/// How many devices there are; what CUDA lacks is a fault of the options, not of the model file.
int count_devices() {
  try {
    return cuda_library().device_count();
  } catch (const std::runtime_error& error) {
    throw std::invalid_argument(error.what());
  }
}

template <class T>
using DeviceBackend = std::unique_ptr<EngineBackend> (*)(const EngineParameters<T>&, int);

template <class T, class Sum>
std::unique_ptr<EngineBackend> make_backend(const ModelFile& file, InstructionSet set, int device,
                                            DeviceBackend<T> CudaLibrary::* on_device) {
  if (device < 0) return std::make_unique<TypedBackend<T, Sum>>(file, set);
  return (cuda_library().*on_device)(read_engine_parameters<T>(file), device);
}

std::unique_ptr<EngineBackend> make_backend(const ModelFile& file, const EngineOptions& options, InstructionSet set) {
  const int device = device_number(options.device);
  switch (options.precision) {
    case Precision::float32:
      return make_backend<float, float>(file, set, device, &CudaLibrary::backend_float32);
    case Precision::mixed:
      return make_backend<float, double>(file, set, device, &CudaLibrary::backend_mixed);
    case Precision::float64:
      return make_backend<double, double>(file, set, device, &CudaLibrary::backend_float64);
  }
  throw std::invalid_argument("unknown precision");
}

}  // namespace

struct Engine::State {
  std::string metadata;
  std::vector<std::string> species, atom_columns;
  double cutoff;
  InstructionSet set;
  std::string device;
  std::unique_ptr<EngineBackend> backend;
  int n_threads;
  std::unique_ptr<ThreadPool> pool;
  pid_t owner;      // process that started the pool
  std::mutex busy;  // the working arrays serve one call at a time
  CheckedList checked;

  State(const ModelFile& file, const EngineOptions& options)
      : metadata(file.metadata_text),
        set(instruction_set_named(options.instruction_set)),
        device(options.device),
        backend(make_backend(file, options, set)),
        n_threads(options.threads),
        pool(std::make_unique<ThreadPool>(n_threads)),
        owner(getpid()) {
    for (const Json& name : file.metadata.at("species").items()) species.push_back(name.text());
    cutoff = file.metadata.at("cutoff").number();
    for (int channel = 1; channel <= backend->n_channels(); ++channel) {
      atom_columns.push_back("product_" + std::to_string(channel));
    }
  }

  /// A forked process has none of its parent's threads, so it can neither join nor free them.
  ~State() {
    if (owner != getpid()) pool.release();  // NOLINT
  }

  /// The threads; after a fork the child has none of its parent's and starts its own.
  ThreadPool& threads() {
    if (owner != getpid()) {
      pool.release();  // NOLINT: nothing of it can be joined or freed here
      pool = std::make_unique<ThreadPool>(n_threads);
      owner = getpid();
    }
    return *pool;
  }
};

int device_number(const std::string& name) {
  if (name == "cpu") return -1;
  const std::string prefix = "cuda:";
  const std::string digits = name == "cuda" ? "0" : name.rfind(prefix, 0) == 0 ? name.substr(prefix.size()) : "";
  if (digits.empty() || digits.size() > 3 || digits.find_first_not_of("0123456789") != std::string::npos) {
    throw std::invalid_argument("device '" + name + "' is unknown: choose cpu, cuda or cuda:N");
  }
  const int number = std::stoi(digits), count = count_devices();
  if (number < count) return number;
  throw std::invalid_argument("device '" + name + "' does not exist: there are " + std::to_string(count) +
                              ", the first is cuda:0");
}

int cuda_device_count() {
  try {
    return cuda_library().device_count();
  } catch (const std::runtime_error&) {
    return 0;
  }
}

Engine::Engine(const std::string& path, const EngineOptions& options) {
  if (options.threads < 1) {
    throw std::invalid_argument("threads = " + std::to_string(options.threads) + ": at least one is needed");
  }
  state_ = std::make_unique<State>(ModelFile::read(path), options);
}
Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;

double Engine::cutoff() const {
  return state_->cutoff;
}
const std::vector<std::string>& Engine::species() const {
  return state_->species;
}
const std::string& Engine::metadata() const {
  return state_->metadata;
}
const std::vector<std::string>& Engine::atom_columns() const {
  return state_->atom_columns;
}
int Engine::n_layers() const {
  return state_->backend->n_layers();
}
int64_t Engine::feature_row() const {
  return state_->backend->feature_row();
}
std::string Engine::instruction_set() const {
  return state_->device == "cpu" ? kernels_for<double>(state_->set).instruction_set : "cuda";
}

GraphUse Engine::graph_use() const {
  const std::lock_guard<std::mutex> lock(state_->busy);
  return state_->backend->graph_use();
}
void Engine::start_profile() {
  const std::lock_guard<std::mutex> lock(state_->busy);
  state_->backend->start_profile();
}
std::vector<ProfileRow> Engine::take_profile() {
  const std::lock_guard<std::mutex> lock(state_->busy);
  return state_->backend->take_profile();
}

void Engine::compute(const EngineInput& input, const EngineOutput& output) {
  const std::lock_guard<std::mutex> lock(state_->busy);
  const CheckedList list{input.list, input.n_atoms, input.n_centers, input.exchange != nullptr};
  if (input.list == 0 || list != state_->checked) {
    state_->checked = {};
    check_input(input, static_cast<int64_t>(state_->species.size()), state_->backend->on_device());
    if (n_layers() > 1) check_neighbors_have_features(input);
    state_->checked = list;
  }
  state_->backend->compute(input, output, state_->threads());
  check_output(input, output);
}

DevicePoints Engine::upload_points(int64_t n_atoms, const double* positions, const double* cell) {
  const std::lock_guard<std::mutex> lock(state_->busy);
  return state_->backend->upload_points(n_atoms, positions, cell);
}
void Engine::set_list(int64_t n_atoms, const DevicePairs& pairs, const double* cell) {
  const std::lock_guard<std::mutex> lock(state_->busy);
  state_->backend->set_list(n_atoms, pairs, cell);
}
void Engine::set_cell(const double* cell) {
  const std::lock_guard<std::mutex> lock(state_->busy);
  state_->backend->set_cell(cell);
}

}  // namespace tesseral
