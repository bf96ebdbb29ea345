// What a pair style asks of a model, whether the native engine or a TorchScript program computes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tesseral/engine.hpp"

namespace tesseral {

struct ModelOptions {
  std::string precision = "mixed";  // float64, float32 or mixed
  int threads = 1;
  std::string device = "cpu";  // or cuda:N

  Precision arithmetic() const {
    return precision == "float64" ? Precision::float64 : precision == "float32" ? Precision::float32 : Precision::mixed;
  }
  /// Of a feature in EngineInput::exchange.
  std::size_t bytes_per_feature() const { return arithmetic() == Precision::float64 ? sizeof(double) : sizeof(float); }
};

class Model {
 public:
  virtual ~Model() = default;
  virtual double cutoff() const = 0;                                 // Å
  virtual const std::vector<std::string>& species() const = 0;       // element symbols
  virtual const std::string& metadata() const = 0;                   // JSON text
  virtual const std::vector<std::string>& atom_columns() const = 0;  // see Engine::atom_columns
  virtual std::string backend() const = 0;                           // for people: what computes
  virtual int n_layers() const = 0;
  virtual int64_t feature_row() const = 0;  // see Engine::feature_row
  /// Units: eV and Å. Exchanges features of ghosts n_layers() - 1 times forward and in reverse. Throws NonFiniteResult, or
  /// another exception that tells what is wrong, maybe before the last exchange: other ranks would wait for ever, so that
  /// the caller must end them.
  virtual void compute(const EngineInput& input, const EngineOutput& output) = 0;
};

/// Type of the function `tesseral_open_torch_model` that the TorchScript library exports; throws std::exception.
using OpenModelFunction = Model* (*)(const std::string& path, const ModelOptions& options);

}  // namespace tesseral
