#include "torch_model.hpp"

#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "layered_program.hpp"
#include "one_layer_program.hpp"

namespace tesseral {
namespace {

void check(const EngineInput& input, const EngineOutput& output) {
  for (int64_t i = 0; i < input.n_centers; ++i) {
    if (!std::isfinite(output.energies[i])) throw NonFiniteResult("energy", i);
  }
  for (int64_t n = 0; n < 3 * input.n_atoms; ++n) {
    if (!std::isfinite(output.forces[n])) throw NonFiniteResult("force", n / 3);
  }
}

/// A number of each center, of the model's atoms only.
void copy_centers(const EngineInput& input, const torch::Tensor& values, double* target) {
  const double* source = values.const_data_ptr<double>();
  for (int64_t i = 0; i < input.n_centers; ++i) target[i] = input.species[i] == EngineInput::absent ? 0.0 : source[i];
}

}  // namespace

std::string TorchModel::backend() const {
  return std::string("TorchScript, libtorch ") + TORCH_VERSION;
}

void TorchModel::compute(const EngineInput& input, const EngineOutput& output) {
  const TorchSettings settings(program_.threads);
  edges_.gather(input, program_.cutoff);
  Results results;
  try {
    results = run(input);
  } catch (const std::exception& problem) {
    throw std::runtime_error("the TorchScript program failed: " + reason(problem));
  }
  copy_centers(input, results.energies, output.energies);
  for (std::size_t n = 0; n < columns_.size(); ++n) {
    if (output.columns && output.columns[n]) copy_centers(input, results.columns[n], output.columns[n]);
  }
  edges_.scatter(input, output, results.gradients.const_data_ptr<double>());
  check(input, output);
}

torch::Tensor TorchModel::edge_vectors() {
  return torch::from_blob(edges_.vectors.data(), {edges_.size(), 3}, torch::kFloat64).to(program_.dtype);
}

torch::Tensor TorchModel::indices(std::vector<int64_t>& values) {
  return torch::from_blob(values.data(), {static_cast<int64_t>(values.size())}, torch::kInt64);
}

torch::Tensor TorchModel::on_cpu(const torch::Tensor& tensor, std::vector<int64_t> shape, const char* name) {
  TORCH_CHECK(tensor.sizes() == shape, "the program's ", name, " have the shape ", tensor.sizes(), ", expected ", shape);
  return tensor.detach().to(torch::kCPU, torch::kFloat64).contiguous();
}

}  // namespace tesseral

extern "C" __attribute__((visibility("default"))) tesseral::Model* tesseral_open_torch_model(
    const std::string& path, const tesseral::ModelOptions& options) {
  tesseral::TorchProgram program(path, options);
  if (program.n_layers > 1) return new tesseral::LayeredProgram(std::move(program));
  return new tesseral::OneLayerProgram(std::move(program));
}
