// TorchScript archives: loading, their metadata, and torch's settings while they run.
#pragma once

#include <torch/script.h>

#include <exception>
#include <string>
#include <vector>

#include "model.hpp"

namespace tesseral {

/// What went wrong in torch: the last line, below the trace through C++ and TorchScript.
std::string reason(const std::exception& problem);

/// This model's settings of torch while it runs; a Python program around LAMMPS keeps its own.
class TorchSettings {
 public:
  explicit TorchSettings(int threads);
  ~TorchSettings();
  TorchSettings(const TorchSettings&) = delete;
  TorchSettings& operator=(const TorchSettings&) = delete;

 private:
  bool optimize_;
  int threads_;
};

/// A program whose numbers have the arithmetic's type and need no gradients.
struct TorchProgram {
  std::string path, metadata;
  torch::jit::Module module;
  std::vector<std::string> species;
  double cutoff = 0;  // Å
  int n_layers = 1;
  torch::Dtype dtype;
  int threads;

  /// Throws std::runtime_error for a file that is no program, or one without its metadata.
  TorchProgram(const std::string& path, const ModelOptions& options);
};

}  // namespace tesseral
