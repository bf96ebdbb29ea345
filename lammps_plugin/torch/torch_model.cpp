// A TorchScript program as a pair style's model.
#include <ATen/Parallel.h>
#include <torch/script.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <tuple>

#include "model.hpp"
#include "tesseral/json.hpp"

namespace tesseral {
namespace {

constexpr auto metadata_file = "metadata.json";

/// What went wrong in torch: the last line, below the trace through C++ and TorchScript.
std::string reason(const std::exception& problem) {
  const auto* error = dynamic_cast<const c10::Error*>(&problem);
  std::string text = error ? error->what_without_backtrace() : problem.what();
  text.erase(text.find_last_not_of(" \n") + 1);
  return text.substr(text.find_last_of('\n') + 1);
}

/// This model's settings of torch while it runs; a Python program around LAMMPS keeps its own.
class Settings {
 public:
  explicit Settings(int threads) : optimize_(torch::jit::getGraphExecutorOptimize()), threads_(at::get_num_threads()) {
    // Atoms come and go: a program specialised to their number would be compiled again and again.
    torch::jit::setGraphExecutorOptimize(false);
    if (threads_ != threads) at::set_num_threads(threads);
  }
  ~Settings() {
    torch::jit::setGraphExecutorOptimize(optimize_);
    if (threads_ != at::get_num_threads()) at::set_num_threads(threads_);
  }
  Settings(const Settings&) = delete;
  Settings& operator=(const Settings&) = delete;

 private:
  bool optimize_;
  int threads_;
};

/// Runs forward(vectors [E, 3], centers [E], neighbors [E], species [N]) -> (energies [N], gradients [E, 3][, columns]).
class TorchModel : public Model {
 public:
  TorchModel(const std::string& path, const ModelOptions& options)
      : dtype_(options.precision == "float64" ? torch::kFloat64 : torch::kFloat32), threads_(options.threads) {
    const Settings settings(threads_);
    torch::jit::ExtraFilesMap files{{metadata_file, ""}};
    try {
      program_ = torch::jit::load(path, torch::kCPU, files);
    } catch (const std::exception& problem) {
      throw std::runtime_error(path + " is no TorchScript model: " + reason(problem));
    }
    metadata_ = files.at(metadata_file);
    read_metadata(path);
    convert_numbers();
    program_.eval();
    probe(path);
  }

  double cutoff() const override { return cutoff_; }
  const std::vector<std::string>& species() const override { return species_; }
  const std::string& metadata() const override { return metadata_; }
  const std::vector<std::string>& atom_columns() const override { return columns_; }
  std::string backend() const override { return std::string("TorchScript, libtorch ") + TORCH_VERSION; }

  void compute(const EngineInput& input, const EngineOutput& output) override {
    const Settings settings(threads_);
    gather(input);
    Results results;
    try {
      results = run(static_cast<int64_t>(rows_of_species_.size()));
    } catch (const std::exception& problem) {
      throw std::runtime_error("the TorchScript program failed: " + reason(problem));
    }
    std::copy_n(results.energies.const_data_ptr<double>(), input.n_centers, output.energies);
    for (int64_t i = 0; i < input.n_centers; ++i) {
      if (input.species[i] == EngineInput::absent) output.energies[i] = 0;
    }
    scatter(input, output, results.gradients.const_data_ptr<double>());
    copy_columns(input, output, results);
    check(input, output);
  }

 private:
  /// The program's answer on the CPU, contiguous, in float64.
  struct Results {
    torch::Tensor energies, gradients;
    std::vector<torch::Tensor> columns;
  };

  torch::Dtype dtype_;
  int threads_;
  torch::jit::Module program_;
  std::string metadata_;
  std::vector<std::string> species_, columns_;
  double cutoff_ = 0;

  // edges within the cutoff
  std::vector<double> vectors_;
  std::vector<int64_t> centers_, neighbors_;  // as the program sees them
  std::vector<int64_t> atoms_;                // the neighbours' places in LAMMPS
  std::vector<int64_t> rows_of_species_;      // species of the program's atoms

  void read_metadata(const std::string& path) {
    if (metadata_.empty()) {
      throw std::runtime_error(path +
                               " has no metadata.json among its extra files: it must give species, cutoff and n_layers");
    }
    const Json metadata = Json::parse(metadata_);
    for (const Json& name : metadata.at("species").items()) species_.push_back(name.text());
    cutoff_ = metadata.at("cutoff").number();
    if (metadata.at("n_layers").integer() != 1) {
      throw std::runtime_error(path + " passes messages (n_layers = " + std::to_string(metadata.at("n_layers").integer()) +
                               "): pair_style tesseral/torch runs models of one layer");
    }
  }

  /// Parameters and buffers to the arithmetic's type; integers stay what they are. Only edge vectors are differentiated.
  void convert_numbers() {
    for (auto tensor : program_.parameters()) {
      if (tensor.is_floating_point()) tensor.set_data(tensor.detach().to(dtype_));
      tensor.set_requires_grad(false);
    }
    for (auto tensor : program_.buffers()) {
      if (tensor.is_floating_point()) tensor.set_data(tensor.to(dtype_));
    }
  }

  /// One isolated atom: shows whether the program follows the interface, and which columns it has.
  void probe(const std::string& path) {
    rows_of_species_ = {0};
    try {
      for (const auto& column : call(1).second) columns_.push_back(column.key());
      TORCH_CHECK(std::count(columns_.begin(), columns_.end(), "energy") == 0,
                  "the name energy is taken by the energy of an atom; give the column another name");
      run(1);
    } catch (const std::exception& problem) {
      throw std::runtime_error(
          path +
          " does not follow the interface forward(vectors, centers, neighbors, species) -> (energies, gradients"
          "[, columns]) of docs/lammps.md: " +
          reason(problem));
    }
  }

  /// The program's atoms are the centers and, behind them, one atom of each species that stands for all ghosts of that
  /// species: a model of one layer sees of a neighbour its species and the edge.
  void gather(const EngineInput& input) {
    const int64_t n_centers = input.n_centers;
    rows_of_species_.resize(static_cast<std::size_t>(n_centers) + species_.size());
    for (int64_t i = 0; i < n_centers; ++i) rows_of_species_[static_cast<std::size_t>(i)] = std::max(input.species[i], 0);
    for (std::size_t s = 0; s < species_.size(); ++s) {
      rows_of_species_[static_cast<std::size_t>(n_centers) + s] = static_cast<int64_t>(s);
    }
    vectors_.clear();
    centers_.clear();
    neighbors_.clear();
    atoms_.clear();
    const double cutoff2 = cutoff_ * cutoff_;
    for (int64_t i = 0; i < n_centers; ++i) {
      if (input.species[i] == EngineInput::absent) continue;
      const NeighborRow& row = input.rows[i];
      for (int32_t e = 0; e < row.count; ++e) {
        const int64_t j = row.first_atom + (row.neighbors[e] & input.index_bits);
        if (input.species[j] == EngineInput::absent) continue;
        double r[3];
        for (int axis = 0; axis < 3; ++axis) {
          r[axis] =
              input.positions[3 * j + axis] - input.positions[3 * i + axis] + (row.shifts ? row.shifts[3 * e + axis] : 0.0);
        }
        const double distance2 = r[0] * r[0] + r[1] * r[1] + r[2] * r[2];
        if (distance2 >= cutoff2) continue;
        if (distance2 < shortest_distance * shortest_distance) throw NonFiniteResult("energy", i);
        vectors_.insert(vectors_.end(), r, r + 3);
        centers_.push_back(i);
        neighbors_.push_back(j < n_centers ? j : n_centers + input.species[j]);
        atoms_.push_back(j);
      }
    }
  }

  std::pair<c10::intrusive_ptr<c10::ivalue::Tuple>, c10::Dict<std::string, torch::Tensor>> call(int64_t n_atoms) {
    const auto n_edges = static_cast<int64_t>(centers_.size());
    const auto vectors = torch::from_blob(vectors_.data(), {n_edges, 3}, torch::kFloat64).to(dtype_);
    const auto indices = [](std::vector<int64_t>& values, int64_t n) {
      return torch::from_blob(values.data(), {n}, torch::kInt64);
    };
    const torch::jit::IValue value = program_.forward(
        {vectors, indices(centers_, n_edges), indices(neighbors_, n_edges), indices(rows_of_species_, n_atoms)});
    TORCH_CHECK(value.isTuple() && value.toTupleRef().elements().size() >= 2, "it returns ", value.tagKind(),
                ", not a tuple of at least energies and gradients");
    const auto answer = value.toTuple();
    c10::Dict<std::string, torch::Tensor> columns;
    if (answer->elements().size() > 2)
      columns = c10::impl::toTypedDict<std::string, torch::Tensor>(answer->elements()[2].toGenericDict());
    return {answer, columns};
  }

  static torch::Tensor on_cpu(const torch::Tensor& tensor, std::vector<int64_t> shape, const char* name) {
    TORCH_CHECK(tensor.sizes() == shape, "the program's ", name, " have the shape ", tensor.sizes(), ", expected ", shape);
    return tensor.detach().to(torch::kCPU, torch::kFloat64).contiguous();
  }

  Results run(int64_t n_atoms) {
    const auto [answer, columns] = call(n_atoms);
    Results results{on_cpu(answer->elements()[0].toTensor(), {n_atoms}, "energies"),
                    on_cpu(answer->elements()[1].toTensor(), {static_cast<int64_t>(centers_.size()), 3}, "gradients"),
                    {}};
    for (const std::string& name : columns_) results.columns.push_back(on_cpu(columns.at(name), {n_atoms}, name.c_str()));
    return results;
  }

  void scatter(const EngineInput& input, const EngineOutput& output, const double* gradients) const {
    std::fill_n(output.forces, 3 * input.n_atoms, 0.0);
    if (output.virials) std::fill_n(output.virials, 9 * input.n_centers, 0.0);
    if (output.neighbor_virials) std::fill_n(output.neighbor_virials, 9 * input.n_atoms, 0.0);
    for (std::size_t e = 0; e < centers_.size(); ++e) {
      const int64_t i = centers_[e], j = atoms_[e];
      const double* g = gradients + 3 * e;
      const double* r = vectors_.data() + 3 * e;
      for (int a = 0; a < 3; ++a) {
        output.forces[3 * i + a] += g[a];
        output.forces[3 * j + a] -= g[a];
        for (int b = 0; b < 3; ++b) {
          if (output.virials) output.virials[9 * i + 3 * a + b] += r[a] * g[b];
          if (output.neighbor_virials) output.neighbor_virials[9 * j + 3 * a + b] += r[a] * g[b];
        }
      }
    }
  }

  void copy_columns(const EngineInput& input, const EngineOutput& output, const Results& results) const {
    for (std::size_t n = 0; n < columns_.size(); ++n) {
      if (!output.columns || !output.columns[n]) continue;
      const double* values = results.columns[n].const_data_ptr<double>();
      for (int64_t i = 0; i < input.n_centers; ++i) {
        output.columns[n][i] = input.species[i] == EngineInput::absent ? 0.0 : values[i];
      }
    }
  }

  static void check(const EngineInput& input, const EngineOutput& output) {
    for (int64_t i = 0; i < input.n_centers; ++i) {
      if (!std::isfinite(output.energies[i])) throw NonFiniteResult("energy", i);
    }
    for (int64_t n = 0; n < 3 * input.n_atoms; ++n) {
      if (!std::isfinite(output.forces[n])) throw NonFiniteResult("force", n / 3);
    }
  }
};

}  // namespace
}  // namespace tesseral

extern "C" __attribute__((visibility("default"))) tesseral::Model* tesseral_open_torch_model(
    const std::string& path, const tesseral::ModelOptions& options) {
  return new tesseral::TorchModel(path, options);
}
