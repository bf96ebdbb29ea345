#include "engine_messages.hpp"

namespace tesseral::cuda {

template <class T>
void DeviceMessages<T>::take(DeviceEdges<T>& edges) {
  const Label label("harmonics");
  edges_ = &edges;
  harmonics_.resize(edges.distances.size() * static_cast<std::size_t>(p_.n_harmonics()));
  kernels_.harmonics(p_.density.harmonics, edges.vectors.data(), nullptr, all_edges(), harmonics_.data());
}

template <class T>
MessageShape<T> DeviceMessages<T>::shape_of(DeviceMessage<T>& message) const {
  MessageShape<T> shape = message.shape;
  shape.table = &message.table;
  return shape;
}

template <class T>
MessageInputs<T> DeviceMessages<T>::inputs_of(DeviceMessage<T>& message, const Chunk& chunk, const T* features) const {
  return {{radial_.data(), nullptr},         {harmonics_.data(), nullptr},       {features, nullptr},
          {message.weights.data(), nullptr}, edges_->first.data() + chunk.begin, edges_->neighbors.data()};
}

/// Radial functions of a layer's messages along all edges, and their slopes.
template <class T>
void DeviceMessages<T>::set_radial(const DeviceMessage<T>& message) {
  const Label label("radial functions");
  const std::size_t size = edges_->distances.size() * static_cast<std::size_t>(message.shape.n_radial);
  for (auto* array : {&radial_, &slopes_}) array->resize(size);
  kernels_.radial(message.radial.basis, edges_->distances.data(), message.radial.by_pair() ? edges_->tables.data() : nullptr,
                  all_edges(), radial_.data(), slopes_.data(), nullptr);
}

template <class T>
void DeviceMessages<T>::set(DeviceMessage<T>& message, const Chunk& chunk, const T* features, DeviceArray<T>& A) {
  if (chunk.begin == 0) set_radial(message);
  const bool mixes = !message.mixing.empty();
  T* out = mixes ? sized(mixed_, chunk, int64_t{message.shape.n_outputs} * p_.channel_row) : A.data();
  {
    const Label label("messages");
    kernels_.message(shape_of(message), inputs_of(message, chunk, features), {0, chunk.size}, out);
  }
  if (!mixes) return;
  A.fill_zero();
  map_rows(kernels_, message.mixing, chunk, out, A.data());
}

template <class T>
void DeviceMessages<T>::add_gradient(DeviceMessage<T>& message, const Chunk& chunk, const T* features, const T* dA,
                                     T* adjoints) {
  const T* G = dA;
  if (!message.mixing.empty()) {
    T* mixed = sized(dmixed_, chunk, int64_t{message.shape.n_outputs} * p_.channel_row);
    map_rows_back(kernels_, message.mixing, chunk, G, mixed);
    G = mixed;
  }
  by_harmonics_.resize(harmonics_.size());
  by_radial_.resize(radial_.size());
  if (chunk.begin == 0) {  // chunks write those of their own edges; beyond the last edge there shall be zeros
    by_harmonics_.fill_zero();
    by_radial_.fill_zero();
  }
  {
    const Label label("gradients of messages");
    kernels_.message_gradient(shape_of(message), inputs_of(message, chunk, features), G, {0, chunk.size},
                              {by_radial_.data(), by_harmonics_.data(), adjoints, 0, nullptr, nullptr});
  }
  if (!chunk.last) return;
  const Label label("gradients by edges");
  more_gradients_.resize(edges_->gradients.size());
  kernels_.harmonics_gradient(p_.density.harmonics, edges_->vectors.data(), nullptr, by_harmonics_.data(), all_edges(),
                              more_gradients_.data());
  edges_->add_gradients(more_gradients_);
  edges_->add_radial_gradients(by_radial_, slopes_, message.shape.n_radial);
}

template class DeviceMessages<float>;
template class DeviceMessages<double>;

}  // namespace tesseral::cuda
