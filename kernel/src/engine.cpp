#include "tesseral/engine.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <stdexcept>

#include "tesseral/dispatch.hpp"
#include "tesseral/engine_parameters.hpp"
#include "tesseral/thread_pool.hpp"

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

void check_input(const EngineInput& input, int64_t n_species) {
  const auto fail = [](const std::string& what) { throw std::invalid_argument("Engine.compute: " + what); };
  if (input.n_centers > input.n_atoms) fail("there are more centers than atoms");
  for (int64_t i = 0; i < input.n_atoms; ++i) {
    if (input.species[i] < EngineInput::absent || input.species[i] >= n_species) {
      fail("species[" + std::to_string(i) + "] = " + std::to_string(input.species[i]) + " is outside 0.." +
           std::to_string(n_species - 1));
    }
  }
  for (int64_t i = 0; i < input.n_centers; ++i) {
    const NeighborRow& row = input.rows[i];
    if (row.count < 0) fail("atom " + std::to_string(i) + " has " + std::to_string(row.count) + " neighbors");
    for (int32_t e = 0; e < row.count; ++e) {
      const int64_t j = row.first_atom + static_cast<int64_t>(row.neighbors[e] & input.index_bits);
      if (j < 0 || j >= input.n_atoms) {
        fail("neighbor " + std::to_string(e) + " of atom " + std::to_string(i) + " is " + std::to_string(j) +
             ", outside 0.." + std::to_string(input.n_atoms - 1));
      }
    }
  }
}

void check_output(const EngineInput& input, const EngineOutput& output) {
  for (int64_t i = 0; i < input.n_centers; ++i) {
    if (!std::isfinite(output.energies[i])) throw NonFiniteResult("energy", i);
  }
  for (int64_t n = 0; n < 3 * input.n_atoms; ++n) {
    if (!std::isfinite(output.forces[n])) throw NonFiniteResult("force", n / 3);
  }
}

/// total[n] = sum over threads of parts[thread][n]
template <class Sum>
void add_up(const std::vector<std::vector<Sum>>& parts, double* total) {
  for (std::size_t n = 0; n < parts[0].size(); ++n) {
    double sum = 0;
    for (const auto& own : parts) sum += static_cast<double>(own[n]);
    total[n] = sum;
  }
}

class Backend {
 public:
  virtual ~Backend() = default;
  virtual int n_channels() const = 0;
  virtual void compute(const EngineInput& input, const EngineOutput& output, ThreadPool& pool) = 0;
};

/// The engine in one arithmetic; keeps its working arrays between calls.
template <class T, class Sum>
class TypedBackend : public Backend {
 public:
  TypedBackend(const ModelFile& file, InstructionSet set)
      : parameters_(read_engine_parameters<T>(file)), atoms_(atoms_function<T, Sum>(set)) {}

  int n_channels() const override { return parameters_.n_channels; }

  void compute(const EngineInput& input, const EngineOutput& output, ThreadPool& pool) override {
    const bool neighbor_virials = output.neighbor_virials != nullptr;
    prepare(input, pool.size(), neighbor_virials);
    const std::vector<int64_t> bounds = split_centers(input, pool.size());
    pool.run([&](int thread) {
      const auto t = static_cast<std::size_t>(thread);
      std::fill(forces_[t].begin(), forces_[t].end(), Sum(0));
      std::fill(neighbor_virials_[t].begin(), neighbor_virials_[t].end(), Sum(0));
      const EngineSums<Sum> sums{output.energies, forces_[t].data(), output.virials,
                                 neighbor_virials ? neighbor_virials_[t].data() : nullptr, output.columns};
      atoms_(parameters_, input, {bounds[t], bounds[t + 1]}, scratch_[t], sums);
    });
    add_up(forces_, output.forces);
    if (neighbor_virials) add_up(neighbor_virials_, output.neighbor_virials);
  }

 private:
  EngineParameters<T> parameters_;
  AtomsFunction<T, Sum> atoms_;
  std::vector<EngineScratch<T>> scratch_;
  std::vector<std::vector<Sum>> forces_, neighbor_virials_;  // of each thread
  int64_t most_edges_ = -1;

  void prepare(const EngineInput& input, int n_threads, bool neighbor_virials) {
    int64_t most = 0;
    for (int64_t i = 0; i < input.n_centers; ++i) most = std::max<int64_t>(most, input.rows[i].count);
    const auto n = static_cast<std::size_t>(n_threads), n_atoms = static_cast<std::size_t>(input.n_atoms);
    if (most > most_edges_) {
      scratch_.assign(n, EngineScratch<T>(parameters_, most));
      most_edges_ = most;
    }
    forces_.resize(n);
    neighbor_virials_.resize(n);
    for (auto& own : forces_) own.resize(3 * n_atoms);
    for (auto& own : neighbor_virials_) own.resize(neighbor_virials ? 9 * n_atoms : 0);
  }
};

std::unique_ptr<Backend> make_backend(const ModelFile& file, Precision precision, InstructionSet set) {
  switch (precision) {
    case Precision::float32:
      return std::make_unique<TypedBackend<float, float>>(file, set);
    case Precision::mixed:
      return std::make_unique<TypedBackend<float, double>>(file, set);
    case Precision::float64:
      return std::make_unique<TypedBackend<double, double>>(file, set);
  }
  throw std::invalid_argument("unknown precision");
}

}  // namespace

struct Engine::State {
  std::string metadata;
  std::vector<std::string> species, atom_columns;
  double cutoff;
  InstructionSet set;
  std::unique_ptr<Backend> backend;
  int n_threads;
  std::unique_ptr<ThreadPool> pool;
  pid_t owner;      // process that started the pool
  std::mutex busy;  // the working arrays serve one call at a time

  State(const ModelFile& file, const EngineOptions& options)
      : metadata(file.metadata_text),
        set(instruction_set_named(options.instruction_set)),
        backend(make_backend(file, options.precision, set)),
        n_threads(options.threads),
        pool(std::make_unique<ThreadPool>(n_threads)),
        owner(getpid()) {
    for (const Json& name : file.metadata.at("species").items()) species.push_back(name.text());
    cutoff = file.metadata.at("cutoff").number();
    for (int channel = 1; channel <= backend->n_channels(); ++channel) {
      atom_columns.push_back("product_" + std::to_string(channel));
    }
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

NonFiniteResult::NonFiniteResult(const char* quantity, int64_t atom)
    : std::runtime_error(std::string("the ") + quantity + " of atom " + std::to_string(atom) +
                         " is not finite: check for atoms on top of each other and for non-finite positions"),
      quantity(quantity),
      atom(atom) {}

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
  return 1;
}
int64_t Engine::feature_row() const {
  return 0;
}
std::string Engine::instruction_set() const {
  return kernels_for<double>(state_->set).instruction_set;
}

void Engine::compute(const EngineInput& input, const EngineOutput& output) {
  check_input(input, static_cast<int64_t>(state_->species.size()));
  const std::lock_guard<std::mutex> lock(state_->busy);
  state_->backend->compute(input, output, state_->threads());
  check_output(input, output);
}

}  // namespace tesseral
