// Messages between atoms, of the native engine on a device.
#pragma once

#include "engine_chunk.hpp"
#include "engine_edges.hpp"

namespace tesseral::cuda {

template <class T>
class DeviceMessages {
 public:
  DeviceMessages(const EngineParameters<T>& p, const Kernels<T>& kernels) : p_(p), kernels_(kernels) {}

  /// Sets the harmonics of these edges, which the calls that follow are about; `basis` with tables on the device.
  void take(DeviceEdges<T>& edges);
  /// A [n, LM, row] of the chunk from the features [n_atoms, feature_row] of all.
  void set(DeviceMessage<T>& message, const Chunk& chunk, const T* features, DeviceArray<T>& A);
  /// Adds the gradients by features to `adjoints`, and after the last chunk those by the edges to theirs. dA: by A.
  void add_gradient(DeviceMessage<T>& message, const Chunk& chunk, const T* features, const T* dA, T* adjoints);

 private:
  const EngineParameters<T>& p_;
  const Kernels<T>& kernels_;
  DeviceEdges<T>* edges_ = nullptr;
  DeviceArray<T> harmonics_, radial_, slopes_;  // [listed, LM], [listed, Q]
  DeviceArray<T> by_harmonics_, by_radial_, more_gradients_;
  DeviceArray<T> mixed_, dmixed_;  // [n, message outputs, row], where they are mixed

  Range all_edges() const { return {0, static_cast<int64_t>(edges_->distances.size())}; }
  MessageShape<T> shape_of(DeviceMessage<T>& message) const;
  MessageInputs<T> inputs_of(DeviceMessage<T>& message, const Chunk& chunk, const T* features) const;
  void set_radial(const DeviceMessage<T>& message);
};

}  // namespace tesseral::cuda
