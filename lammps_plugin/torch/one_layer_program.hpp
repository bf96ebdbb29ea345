#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "torch_model.hpp"

namespace tesseral {

/// Runs forward(vectors [E, 3], centers [E], neighbors [E], species [N]) -> (energies [N], gradients [E, 3][, columns]).
class OneLayerProgram : public TorchModel {
 public:
  explicit OneLayerProgram(TorchProgram program);
  int64_t feature_row() const override { return 0; }

 protected:
  Results run(const EngineInput& input) override;

 private:
  using Columns = c10::Dict<std::string, torch::Tensor>;

  std::vector<int64_t> species_;    // of the program's atoms
  std::vector<int64_t> neighbors_;  // as the program sees them

  std::pair<c10::intrusive_ptr<c10::ivalue::Tuple>, Columns> call();
  Results evaluate();
};

}  // namespace tesseral
