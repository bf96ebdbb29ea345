// The parameters of a model on the device, from those of the native engine.
#pragma once

#include <algorithm>
#include <vector>

#include "device.hpp"
#include "tesseral/engine_atoms.hpp"

namespace tesseral::cuda {

/// Maps of rows of channels with their weights on the device, and the same backwards.
template <class T>
struct DeviceMap {
  RowMapShape forward, backward;
  DeviceArray<T> weights, transposed;  // [S, blocks, in, out] and [S, blocks, out, in], padded

  bool empty() const { return forward.blocks.empty(); }
};

/// Matrices `first` .. of each of `n_species` groups of a stack, for blocks of rows; n_in and n_out rows of an atom. The
/// backward map adds to what is there where `adds_backward`, the forward one where `adds`.
template <class T>
DeviceMap<T> device_map(const MatrixStack<T>& stack, int n_species, const std::vector<RowBlock>& blocks, int n_in, int n_out,
                        bool adds, bool adds_backward) {
  const int row_in = padded_row(stack.n_in), row_out = padded_row(stack.n_out);
  const auto n_blocks = static_cast<int>(blocks.size());
  const auto size = static_cast<std::size_t>(n_species) * n_blocks * row_in * row_out;
  const auto stored = static_cast<int64_t>(stack.weights.size()) / (int64_t{stack.n_in} * row_out);
  std::vector<T> weights(size, T(0)), transposed(size, T(0));
  for (int z = 0; z < n_species; ++z) {
    for (int b = 0; b < n_blocks; ++b) {
      const T* matrix = stack.matrix(z * (stored / n_species) + b);
      T* to = weights.data() + int64_t{z * n_blocks + b} * row_in * row_out;
      T* back = transposed.data() + int64_t{z * n_blocks + b} * row_in * row_out;
      for (int k = 0; k < stack.n_in; ++k) {
        for (int m = 0; m < stack.n_out; ++m) {
          to[k * row_out + m] = matrix[k * row_out + m];
          back[m * row_in + k] = matrix[k * row_out + m];
        }
      }
    }
  }
  DeviceMap<T> map;
  map.forward = {n_in, n_out, row_in, row_out, n_species, blocks, nullptr};
  map.backward = {n_out, n_in, row_out, row_in, n_species, {}, nullptr};
  for (const RowBlock& block : blocks) map.backward.blocks.push_back({block.out, block.in, block.width, adds_backward});
  for (RowBlock& block : map.forward.blocks) block.adds = block.adds || adds;
  map.weights = DeviceArray<T>::from(weights);
  map.transposed = DeviceArray<T>::from(transposed);
  return map;
}

/// One block of rows for each degree 0..degree.
inline std::vector<RowBlock> blocks_of_degrees(int degree) {
  std::vector<RowBlock> blocks;
  for (int l = 0; l <= degree; ++l) blocks.push_back({l * l, l * l, 2 * l + 1, false});
  return blocks;
}

/// Radial functions with a spline's table on the device.
template <class T>
struct DeviceRadial {
  RadialBasis<T> basis;
  DeviceArray<T> table;

  DeviceRadial() = default;
  DeviceRadial(const RadialBasis<T>& given, const AlignedVector<T>& tables)
      : basis(given), table(DeviceArray<T>::from(tables)) {
    basis.table = tables.empty() ? nullptr : table.data();
  }
  bool by_pair() const { return basis.n_tables > 1; }
};

template <class T>
struct DeviceMessage {
  DeviceRadial<T> radial;
  DeviceArray<T> weights;  // [paths, n_radial, channel_row]
  MessageTable<T> table;
  MessageShape<T> shape;
  DeviceMap<T> mixing;  // may be empty
};

template <class T>
struct DeviceLayer {
  DeviceArray<T> product;  // [S, n_nodes, channel_row]
  DeviceMap<T> update, residual, handed;
  DeviceArray<T> constant, readout;  // as in EngineLayer
  std::optional<DeviceMessage<T>> message;
};

/// The couplings of a message as the operators take them.
template <class T>
MessageTable<T> message_table(const CouplingTable<T>& couplings) {
  std::vector<MessageTerm> terms;
  std::vector<double> factors;
  for (std::size_t p = 0; p < couplings.paths.size(); ++p) {
    const auto& path = couplings.paths[p];
    for (int32_t x = path.first_row; x < path.last_row; ++x) {
      const auto& row = couplings.rows[static_cast<std::size_t>(x)];
      for (int32_t o = 0; o < path.n_outs; ++o) {
        const auto& entry = couplings.entries[static_cast<std::size_t>(row.first_entry + o)];
        for (int32_t t = entry.first_term; t < entry.last_term; ++t) {
          const auto& term = couplings.terms[static_cast<std::size_t>(t)];
          terms.push_back({static_cast<int32_t>(p), path.first_out + o, term.harmonic, row.component});
          factors.push_back(static_cast<double>(term.coupling));
        }
      }
    }
  }
  return MessageTable<T>(terms, factors.data(), static_cast<int>(couplings.paths.size()));
}

/// A product's coefficients [S, row / coefficient_block, n_nodes, coefficient_block] as [S, n_nodes, row].
template <class T>
std::vector<T> in_rows(const AlignedVector<T>& blocks, int n_nodes, int row) {
  std::vector<T> out(blocks.size());
  const std::size_t n_species = blocks.size() / (static_cast<std::size_t>(n_nodes) * row);
  const T* source = blocks.data();
  for (std::size_t z = 0; z < n_species; ++z) {
    for (int block = 0; block < row; block += coefficient_block) {
      for (int node = 0; node < n_nodes; ++node, source += coefficient_block) {
        std::copy_n(source, coefficient_block, out.data() + (z * n_nodes + node) * row + block);
      }
    }
  }
  return out;
}

template <class T>
struct DeviceParameters {
  DeviceRadial<T> radial;
  DeviceArray<T> mixing, normaliser, linear;
  std::vector<DeviceLayer<T>> layers;
  DeviceArray<double> atomic_energy;
  DeviceArray<T> repulsion_strength, inverse_screening, repulsion_outer;

  explicit DeviceParameters(const EngineParameters<T>& p)
      : radial(p.density.radial, p.radial.tables),
        mixing(DeviceArray<T>::from(p.mixing)),
        normaliser(DeviceArray<T>::from(p.normaliser)),
        linear(DeviceArray<T>::from(p.linear)),
        atomic_energy(DeviceArray<double>::from(p.atomic_energy)),
        repulsion_strength(DeviceArray<T>::from(p.repulsion_strength)),
        inverse_screening(DeviceArray<T>::from(p.inverse_screening)),
        repulsion_outer(DeviceArray<T>::from(p.repulsion_outer)) {
    for (const EngineLayer<T>& layer : p.layers) add_layer(p, layer);
  }

 private:
  void add_layer(const EngineParameters<T>& p, const EngineLayer<T>& layer) {
    DeviceLayer<T>& own = layers.emplace_back();
    const int n_species = p.density.n_species, degree = layer.output_l, n_products = layer.product.n_outputs();
    const int n_features = (p.message_l + 1) * (p.message_l + 1);
    const bool last = static_cast<int>(layers.size()) == p.n_layers();
    const int n_out = last ? 1 : n_features;
    own.product = DeviceArray<T>::from(in_rows(layer.product.weights, layer.product.n_nodes(), p.channel_row));
    own.constant = DeviceArray<T>::from(layer.constant);
    own.readout = DeviceArray<T>::from(layer.readout);
    const std::vector<RowBlock> blocks = blocks_of_degrees(degree);
    if (!layer.update.empty()) own.update = device_map(layer.update, 1, blocks, n_products, n_out, false, false);
    if (!layer.residual.empty()) own.residual = device_map(layer.residual, n_species, blocks, n_features, n_out, true, true);
    if (!layer.handed.empty()) own.handed = device_map(layer.handed, 1, blocks, n_features, n_features, false, true);
    if (layer.message) add_message(p, *layer.message, own);
  }

  void add_message(const EngineParameters<T>& p, const LayerMessage<T>& message, DeviceLayer<T>& layer) {
    const RadialBasis<T>& basis = message.radial.basis;
    // the density's functions unless the layer has its own
    const AlignedVector<T>& tables = message.radial.tables.empty() ? p.radial.tables : message.radial.tables;
    layer.message.emplace(DeviceMessage<T>{
        {basis, tables},
        DeviceArray<T>::from(message.weights),
        message_table(message.couplings),
        {basis.n_radial, p.n_harmonics(), message.n_outputs, (p.message_l + 1) * (p.message_l + 1), p.channel_row, nullptr},
        {}});
    if (message.mixing.empty()) return;
    std::vector<RowBlock> blocks;  // several may have the same degree, or none
    int first = 0;
    for (const int32_t l : message.degrees) {
      blocks.push_back({first, l * l, 2 * l + 1, false});
      first += 2 * l + 1;
    }
    layer.message->mixing = device_map(message.mixing, message.mixing_by_species ? p.density.n_species : 1, blocks,
                                       message.n_outputs, p.n_harmonics(), true, false);
  }
};

}  // namespace tesseral::cuda
