// What TorchScript programs of one and of several layers have in common as a pair style's model.
#pragma once

#include <torch/script.h>

#include <string>
#include <vector>

#include "edge_list.hpp"
#include "model.hpp"
#include "torch_program.hpp"

namespace tesseral {

class TorchModel : public Model {
 public:
  explicit TorchModel(TorchProgram program) : program_(std::move(program)) {}

  double cutoff() const override { return program_.cutoff; }
  const std::vector<std::string>& species() const override { return program_.species; }
  const std::string& metadata() const override { return program_.metadata; }
  const std::vector<std::string>& atom_columns() const override { return columns_; }
  std::string backend() const override;
  int n_layers() const override { return program_.n_layers; }
  void compute(const EngineInput& input, const EngineOutput& output) override;

 protected:
  /// A program's answer on the CPU, contiguous, in float64.
  struct Results {
    torch::Tensor energies;              // [at least n_centers] eV
    torch::Tensor gradients;             // [n_edges, 3] eV/Å
    std::vector<torch::Tensor> columns;  // of columns_, [at least n_centers]
  };

  TorchProgram program_;
  std::vector<std::string> columns_;
  EdgeList edges_;

  /// Runs the program on edges_, those of `input`.
  virtual Results run(const EngineInput& input) = 0;

  /// Throws std::runtime_error unless `call`, which tries the program on one isolated atom, succeeds.
  template <class Call>
  void probe(const std::string& interface, Call call) {
    const TorchSettings settings(program_.threads);
    try {
      call();
    } catch (const std::exception& problem) {
      throw std::runtime_error(program_.path + " does not follow the interface " + interface +
                               " of docs/lammps.md: " + reason(problem));
    }
  }

  /// Edge vectors as the program takes them.
  torch::Tensor edge_vectors();
  static torch::Tensor indices(std::vector<int64_t>& values);
  /// Checks the shape.
  static torch::Tensor on_cpu(const torch::Tensor& tensor, std::vector<int64_t> shape, const char* name);
};

}  // namespace tesseral
