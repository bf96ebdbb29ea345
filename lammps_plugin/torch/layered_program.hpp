#pragma once

#include <cstdint>
#include <vector>

#include "torch_model.hpp"

namespace tesseral {

/// Runs the layers of a program one by one, with an exchange of features before each layer but the first, and their
/// gradients by automatic differentiation in the other order, with an exchange of adjoints in between:
/// layer(index, vectors [E, 3], centers [E], neighbors [E], species [N], n_centers, h [N, ...])
///   -> (features [n_centers, ...], energies [n_centers]),   baseline() -> [n_species] energies of free atoms.
class LayeredProgram : public TorchModel {
 public:
  explicit LayeredProgram(TorchProgram program);
  int64_t feature_row() const override { return feature_row_; }

 protected:
  Results run(const EngineInput& input) override;

 private:
  /// One layer of one evaluation.
  struct Layer {
    torch::Tensor received;  // [n_atoms, ...] features of the layer before, ghosts included; undefined in the first
    torch::Tensor features;  // [n_centers, ...]
    torch::Tensor energies;  // [n_centers]
  };

  std::vector<int64_t> species_;        // [n_atoms]
  std::vector<int64_t> feature_shape_;  // of one atom
  int64_t feature_row_ = 0;             // their number

  Results evaluate(int64_t n_centers, FeatureExchange* exchange);
  std::vector<Layer> forward(const torch::Tensor& vectors, int64_t n_centers, FeatureExchange* exchange);
  torch::Tensor backward(const torch::Tensor& vectors, const std::vector<Layer>& layers, FeatureExchange* exchange) const;
  Layer call(int index, const torch::Tensor& vectors, int64_t n_centers, const torch::Tensor& received);
  torch::Tensor with_ghosts(const torch::Tensor& features, FeatureExchange* exchange) const;
  torch::Tensor baseline();
};

}  // namespace tesseral
