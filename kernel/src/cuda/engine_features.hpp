// Features of the atoms and their adjoints between the layers, of the native engine on a device.
#pragma once

#include <vector>

#include "engine_chunk.hpp"

namespace tesseral::cuda {

/// Of every layer but the last, as in engine.cpp: rows that neighbours read, of all atoms, and own ones of the centers,
/// which are the same unless the layers hand on others (EngineParameters::hands_on).
template <class T>
class DeviceFeatures {
 public:
  explicit DeviceFeatures(const EngineParameters<T>& p)
      : features_(static_cast<std::size_t>(p.n_layers() - 1)),
        adjoints_(features_.size()),
        own_features_(p.hands_on() ? features_.size() : 0),
        own_adjoints_(own_features_.size()),
        row_(p.feature_row()) {}

  /// Makes room for them; adjoints become zero.
  void prepare(int64_t n_atoms, int64_t n_centers) {
    for (auto& rows : features_) rows.resize(static_cast<std::size_t>(n_atoms * row_));
    for (auto& rows : own_features_) rows.resize(static_cast<std::size_t>(n_centers * row_));
    clear(adjoints_, n_atoms);
    clear(own_adjoints_, n_centers);
  }

  /// Of all atoms.
  DeviceArray<T>& features(int layer) { return features_[static_cast<std::size_t>(layer)]; }
  DeviceArray<T>& adjoints(int layer) { return adjoints_[static_cast<std::size_t>(layer)]; }
  /// Those of the chunk's centers.
  T* features(int layer, const Chunk& chunk) { return of_chunk(features_, layer, chunk); }
  T* adjoints(int layer, const Chunk& chunk) { return of_chunk(adjoints_, layer, chunk); }
  T* own_features(int layer, const Chunk& chunk) {
    return of_chunk(own_features_.empty() ? features_ : own_features_, layer, chunk);
  }
  T* own_adjoints(int layer, const Chunk& chunk) {
    return of_chunk(own_adjoints_.empty() ? adjoints_ : own_adjoints_, layer, chunk);
  }

  /// Features to the ghosts, through the host.
  void send(int layer, FeatureExchange& exchange) {
    through_the_host(features_, layer, [&](T* rows) { exchange.forward(rows, row_); });
  }
  /// Adjoints from them.
  void collect(int layer, FeatureExchange& exchange) {
    through_the_host(adjoints_, layer, [&](T* rows) { exchange.reverse(rows, row_); });
  }

 private:
  using Layers = std::vector<DeviceArray<T>>;
  Layers features_, adjoints_;
  Layers own_features_, own_adjoints_;
  int64_t row_;

  void clear(Layers& layers, int64_t n) {
    for (auto& rows : layers) {
      rows.resize(static_cast<std::size_t>(n * row_));
      rows.fill_zero();
    }
  }
  T* of_chunk(Layers& layers, int layer, const Chunk& chunk) const {
    return layers[static_cast<std::size_t>(layer)].data() + chunk.begin * row_;
  }
  template <class Exchange>
  static void through_the_host(Layers& layers, int layer, const Exchange& exchange) {
    DeviceArray<T>& rows = layers[static_cast<std::size_t>(layer)];
    std::vector<T> host(rows.size());
    rows.download(host.data(), host.size());
    exchange(host.data());
    rows.upload(host.data(), host.size());
  }
};

}  // namespace tesseral::cuda
