// Sizes of the working arrays of one thread.
#include <algorithm>

#include "tesseral/engine_atoms.hpp"

namespace tesseral {

template <class T>
EngineScratch<T>::EngineScratch(const EngineParameters<T>& p, int64_t most_edges) {
  // a slot for an edge that is dropped; loads of packs may begin at any edge
  const auto edges = static_cast<std::size_t>(padded_row(static_cast<int>(block_atoms * most_edges) + 1) + row_padding);
  stride = static_cast<int64_t>(edges);
  const auto channel_row = static_cast<std::size_t>(p.channel_row);
  const auto harmonic_row = static_cast<std::size_t>(padded_row(p.n_harmonics()));
  const auto at_least = [](AlignedVector<T>& array, std::size_t size) { array.resize(std::max(array.size(), size)); };
  const auto of_block = [&](AlignedVector<T>& array, std::size_t size) { at_least(array, block_atoms * size); };
  vectors.resize(3 * edges);
  gradients.resize(3 * edges);
  unsorted.resize(p.density.n_species > 1 ? edges : 0);
  species_places.resize(static_cast<std::size_t>(p.density.n_species) + 1);
  harmonics.resize(edges * harmonic_row);
  by_edge.resize(edges * (harmonic_row + row_padding));
  radial.resize(static_cast<std::size_t>(p.density.radial.n_radial) * edges);
  dphi.resize(static_cast<std::size_t>(p.density.radial.n_radial) * harmonic_row);
  species.resize(edges);
  neighbors.resize(edges);
  tables.resize(edges);
  of_block(phi, static_cast<std::size_t>(p.n_inputs) * harmonic_row);
  of_block(A, static_cast<std::size_t>(p.n_harmonics()) * channel_row);
  dA.resize(A.size());
  std::size_t outputs = 1;
  for (const EngineLayer<T>& layer : p.layers) {
    outputs = std::max(outputs, static_cast<std::size_t>(layer.product.n_outputs()));
    if (!layer.message) continue;
    const LayerMessage<T>& of_layer = *layer.message;
    const std::size_t n_entries = of_layer.couplings.entries.size();
    if (of_layer.channel_tables.empty()) {
      at_least(radial, static_cast<std::size_t>(of_layer.radial.basis.n_radial) * edges);
    } else {
      pieces.resize(edges);
      positions.resize(edges);
    }
    at_least(couplings, n_entries * edges);
    at_least(by_edge, static_cast<std::size_t>(padded_row(static_cast<int>(n_entries)) + row_padding) * edges);
    if (!of_layer.mixing.empty()) of_block(message, static_cast<std::size_t>(of_layer.n_outputs) * channel_row);
  }
  slopes.resize(radial.size());
  dmessage.resize(message.size());
  of_block(B, outputs * channel_row);
  dB.resize(B.size());
  of_block(features, p.linear.size());
  of_block(dfeatures, std::max(p.linear.size(), static_cast<std::size_t>(p.feature_row())));
  std::size_t hidden_size = 0, widest = p.linear.size();
  for (const DenseLayer<T>& layer : p.perceptron) {
    const auto width = static_cast<std::size_t>(padded_row(layer.n_out));
    hidden_size += width;
    widest = std::max(widest, width);
  }
  of_block(hidden, hidden_size);
  silu_slopes.resize(hidden.size());
  of_block(adjoint, widest);
  adjoint_below.resize(adjoint.size());
}

template struct EngineScratch<float>;
template struct EngineScratch<double>;

}  // namespace tesseral
