#include "layered_program.hpp"

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

namespace tesseral {
namespace {

/// Calls `exchange` with the numbers of a contiguous tensor, in their type.
template <class Exchange>
void with_numbers(const torch::Tensor& rows, Exchange exchange) {
  if (rows.scalar_type() == torch::kFloat64) {
    exchange(rows.mutable_data_ptr<double>());
  } else {
    exchange(rows.mutable_data_ptr<float>());
  }
}

/// Adjoints of `inputs` from those of `outputs`; zeros where nothing depends on an input, as without edges.
std::vector<torch::Tensor> adjoints_of(const std::vector<torch::Tensor>& inputs, const std::vector<torch::Tensor>& outputs,
                                       const std::vector<torch::Tensor>& output_adjoints) {
  std::vector<torch::Tensor> differentiable, known;
  for (std::size_t n = 0; n < outputs.size(); ++n) {
    if (!outputs[n].requires_grad()) continue;
    differentiable.push_back(outputs[n]);
    known.push_back(output_adjoints[n]);
  }
  std::vector<torch::Tensor> results(inputs.size());
  if (!differentiable.empty()) {
    results = torch::autograd::grad(differentiable, inputs, known, /*retain_graph=*/false, /*create_graph=*/false,
                                    /*allow_unused=*/true);
  }
  for (std::size_t n = 0; n < inputs.size(); ++n) {
    results[n] = results[n].defined() ? results[n].contiguous() : torch::zeros_like(inputs[n]);
  }
  return results;
}

}  // namespace

LayeredProgram::LayeredProgram(TorchProgram program) : TorchModel(std::move(program)) {
  species_ = {0};
  probe(
      "layer(index, vectors, centers, neighbors, species, n_centers, h) -> (features, energies) and baseline() -> energies",
      [&] { evaluate(1, nullptr); });
}

TorchModel::Results LayeredProgram::run(const EngineInput& input) {
  species_.resize(static_cast<std::size_t>(input.n_atoms));
  for (int64_t i = 0; i < input.n_atoms; ++i) species_[static_cast<std::size_t>(i)] = std::max(input.species[i], 0);
  return evaluate(input.n_centers, input.exchange);
}

TorchModel::Results LayeredProgram::evaluate(int64_t n_centers, FeatureExchange* exchange) {
  const torch::AutoGradMode differentiate(true);
  const torch::Tensor vectors = edge_vectors().requires_grad_(true);
  const std::vector<Layer> layers = forward(vectors, n_centers, exchange);
  const torch::Tensor gradients = backward(vectors, layers, exchange);
  torch::Tensor energies = baseline().index_select(0, indices(species_).narrow(0, 0, n_centers));
  for (const Layer& layer : layers) energies = energies + on_cpu(layer.energies, {n_centers}, "energies");
  return {energies, on_cpu(gradients, {edges_.size(), 3}, "gradients"), {}};
}

std::vector<LayeredProgram::Layer> LayeredProgram::forward(const torch::Tensor& vectors, int64_t n_centers,
                                                           FeatureExchange* exchange) {
  std::vector<Layer> layers;
  for (int index = 0; index < program_.n_layers; ++index) {
    const torch::Tensor received = index > 0 ? with_ghosts(layers.back().features, exchange) : torch::Tensor();
    layers.push_back(call(index, vectors, n_centers, received));
  }
  return layers;
}

/// dE/dvectors [E, 3]. Each layer is differentiated by itself: adjoints of features come from the ranks that used them.
torch::Tensor LayeredProgram::backward(const torch::Tensor& vectors, const std::vector<Layer>& layers,
                                       FeatureExchange* exchange) const {
  torch::Tensor gradients = torch::zeros_like(vectors);
  torch::Tensor adjoint;  // of the features of the present layer, which nothing uses in the last
  for (auto layer = layers.rbegin(); layer != layers.rend(); ++layer) {
    std::vector<torch::Tensor> inputs = {vectors}, outputs = {layer->energies};
    std::vector<torch::Tensor> known = {torch::ones_like(layer->energies)};
    if (adjoint.defined()) {
      outputs.push_back(layer->features);
      known.push_back(adjoint);
    }
    if (layer->received.defined()) inputs.push_back(layer->received);
    const auto results = adjoints_of(inputs, outputs, known);
    gradients += results[0];
    if (!layer->received.defined()) break;
    if (exchange) with_numbers(results[1], [&](auto* rows) { exchange->reverse(rows, feature_row_); });
    adjoint = results[1].narrow(0, 0, layer->features.size(0));
  }
  return gradients;
}

LayeredProgram::Layer LayeredProgram::call(int index, const torch::Tensor& vectors, int64_t n_centers,
                                           const torch::Tensor& received) {
  const torch::Tensor h = received.defined() ? received : torch::zeros({0}, program_.dtype);
  const torch::jit::IValue value = program_.module.get_method("layer")(
      {index, vectors, indices(edges_.centers), indices(edges_.neighbors), indices(species_), n_centers, h});
  TORCH_CHECK(value.isTuple() && value.toTupleRef().elements().size() == 2, "layer returns ", value.tagKind(),
              ", not a tuple of features and energies");
  const auto answer = value.toTuple();
  Layer layer{received, answer->elements()[0].toTensor(), answer->elements()[1].toTensor()};
  TORCH_CHECK(layer.features.dim() > 0 && layer.features.size(0) == n_centers, "the features have the shape ",
              layer.features.sizes(), ", expected one row for each of ", n_centers, " centers");
  if (index + 1 == program_.n_layers) return layer;
  const auto shape = layer.features.sizes().slice(1);
  if (feature_row_ == 0) {
    feature_shape_ = shape.vec();
    feature_row_ = layer.features.numel() / n_centers;
  }
  TORCH_CHECK(shape == feature_shape_ && layer.features.scalar_type() == program_.dtype, "the features of an atom are ",
              layer.features.scalar_type(), " ", shape, " in layer ", index, ", expected ", program_.dtype, " ",
              torch::IntArrayRef(feature_shape_));
  return layer;
}

/// Features of all atoms as a leaf for the next layer.
torch::Tensor LayeredProgram::with_ghosts(const torch::Tensor& features, FeatureExchange* exchange) const {
  const torch::NoGradGuard constant;
  std::vector<int64_t> shape = {static_cast<int64_t>(species_.size())};
  shape.insert(shape.end(), feature_shape_.begin(), feature_shape_.end());
  torch::Tensor rows = torch::zeros(shape, program_.dtype);
  rows.narrow(0, 0, features.size(0)).copy_(features);
  if (exchange) with_numbers(rows, [&](auto* numbers) { exchange->forward(numbers, feature_row_); });
  return rows.requires_grad_(true);
}

torch::Tensor LayeredProgram::baseline() {
  const auto n_species = static_cast<int64_t>(program_.species.size());
  return on_cpu(program_.module.get_method("baseline")({}).toTensor(), {n_species}, "energies of free atoms");
}

}  // namespace tesseral
