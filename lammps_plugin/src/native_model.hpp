// The native engine as a pair style's model.
#pragma once

#include "model.hpp"

namespace tesseral {

class NativeModel : public Model {
 public:
  NativeModel(const std::string& path, const ModelOptions& options)
      : engine_(path, {options.arithmetic(), options.threads, "auto", options.device}) {}

  double cutoff() const override { return engine_.cutoff(); }
  const std::vector<std::string>& species() const override { return engine_.species(); }
  const std::string& metadata() const override { return engine_.metadata(); }
  const std::vector<std::string>& atom_columns() const override { return engine_.atom_columns(); }
  std::string backend() const override { return "native engine, " + engine_.instruction_set(); }
  int n_layers() const override { return engine_.n_layers(); }
  int64_t feature_row() const override { return engine_.feature_row(); }
  void compute(const EngineInput& input, const EngineOutput& output) override { engine_.compute(input, output); }

 private:
  Engine engine_;
};

}  // namespace tesseral
