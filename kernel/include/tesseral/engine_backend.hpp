// What evaluates a model file's parameters for the native engine: the processor (engine.cpp) or a device
// (src/cuda/engine.cu).
#pragma once

#include <stdexcept>

#include "tesseral/engine.hpp"
#include "tesseral/thread_pool.hpp"

namespace tesseral {

class EngineBackend {
 public:
  virtual ~EngineBackend() = default;
  virtual int n_channels() const = 0;
  virtual int n_layers() const = 0;
  virtual int64_t feature_row() const = 0;
  /// As Engine::compute, whose checks of the input have passed; those of the output follow.
  virtual void compute(const EngineInput& input, const EngineOutput& output, ThreadPool& pool) = 0;

  virtual bool on_device() const { return false; }
  // As in Engine; the processor has none of them.
  virtual DevicePoints upload_points(int64_t, const double*, const double*) { throw no_device(); }
  virtual void set_list(int64_t, const DevicePairs&, const double*) { throw no_device(); }
  virtual void set_cell(const double*) { throw no_device(); }

  /// As in Engine; the processor has neither.
  virtual GraphUse graph_use() const { return {}; }
  virtual void start_profile() { throw std::invalid_argument("device cpu has no profile"); }
  virtual std::vector<ProfileRow> take_profile() { return {}; }

 private:
  static std::invalid_argument no_device() {
    return std::invalid_argument("Engine: a list in the memory of a device needs an engine on a device");
  }
};

}  // namespace tesseral
