// Sizes of the working arrays of one thread.
#include <algorithm>

#include "tesseral/engine_atoms.hpp"

namespace tesseral {

template <class T>
EngineScratch<T>::EngineScratch(const EngineParameters<T>& p, int64_t most_edges) {
  const auto edges = static_cast<std::size_t>(most_edges) + 1;  // a slot past the end takes edges that are dropped
  const auto n_harmonics = static_cast<std::size_t>((p.l_max + 1) * (p.l_max + 1));
  const auto harmonic_row = static_cast<std::size_t>(padded_row(static_cast<int>(n_harmonics)));
  const auto channel_row = static_cast<std::size_t>(p.channel_row);
  vectors.resize(3 * edges);
  gradients.resize(3 * edges);
  species.resize(edges);
  neighbors.resize(edges);
  tables.resize(edges);
  offsets.resize(edges);
  phi.resize(static_cast<std::size_t>(p.n_inputs) * harmonic_row);
  dphi.resize(n_harmonics * static_cast<std::size_t>(p.input_row));
  A.resize(n_harmonics * channel_row);
  dA.resize(A.size());
  const auto padded_edges = static_cast<std::size_t>(padded_row(static_cast<int>(edges)));
  std::size_t outputs = 1;
  const auto at_least = [](AlignedVector<T>& array, std::size_t size) { array.resize(std::max(array.size(), size)); };
  for (const EngineLayer<T>& layer : p.layers) {
    outputs = std::max(outputs, static_cast<std::size_t>(layer.product.n_outputs()));
    if (!layer.message) continue;
    const LayerMessage<T>& message_of = *layer.message;
    const MessageTable<T>& table = *message_of.terms;
    const std::size_t by_path = static_cast<std::size_t>(message_of.n_paths()) * padded_edges * channel_row;
    if (message_of.channel_tables.empty()) {
      at_least(radial, static_cast<std::size_t>(message_of.radial.basis.n_radial) * padded_edges);
    } else {
      pieces.resize(edges);
      positions.resize(edges);
      at_least(slopes, by_path);
    }
    at_least(couplings, table.entries.size() * padded_edges);
    at_least(channels, by_path);
    at_least(products, table.rows.size() * padded_edges * channel_row);
    at_least(by_distance, padded_edges * row_padding);
    at_least(by_harmonics, n_harmonics * padded_edges);
    if (!message_of.mixing.empty()) at_least(message, static_cast<std::size_t>(message_of.n_outputs) * channel_row);
  }
  slopes_of_radial.resize(radial.size());
  dmessage.resize(message.size());
  B.resize(outputs * channel_row);
  dB.resize(B.size());
  features.resize(p.linear.size());
  dfeatures.resize(std::max(features.size(), static_cast<std::size_t>(p.feature_row())));
  std::size_t hidden_size = 0, widest = p.linear.size();
  for (const DenseLayer<T>& layer : p.perceptron) {
    const auto width = static_cast<std::size_t>(padded_row(layer.n_out));
    hidden_size += width;
    widest = std::max(widest, width);
  }
  hidden.resize(hidden_size);
  silu_slopes.resize(hidden_size);
  adjoint.resize(2 * widest);
}

template struct EngineScratch<float>;
template struct EngineScratch<double>;

}  // namespace tesseral
