// The messages of a layer from a model file.
#pragma once

#include "spline_parameters.hpp"

namespace tesseral {

/// Memory that the channel tables of a layer may take; larger ones are not made.
constexpr double most_table_bytes = 256e6;

/// The radial functions of messages, the density's unless the layer has its own.
template <class T>
void read_message_radial(const ModelFile& file, const std::string& prefix, const EngineParameters<T>& p,
                         LayerMessage<T>& message) {
  const std::string name = prefix + "radial_table";
  LayerRadial<T>& radial = message.radial;
  radial.basis = p.density.radial;
  if (file.parameters.count(name)) {
    radial.basis.cutoff = p.density.radial.cutoff;
    read_spline(file, name, radial, p.density.n_species);
  }
  const Array& weights = file.parameter(prefix + "message", {-1, radial.basis.n_radial, p.n_channels});
  message.weights = pad_rows<T>(weights.values, p.n_channels, p.channel_row);
  if (radial.tables.empty()) return;
  const double size = static_cast<double>(radial.tables.size()) / radial.basis.n_radial *
                      static_cast<double>(weights.shape[0] * p.channel_row * sizeof(T));
  if (size > most_table_bytes) return;
  message.channel_tables = channel_tables<T>(file.parameters.at(name), weights, radial.basis, p.channel_row);
}

/// How messages are mixed; a file without blocks has one for each degree.
template <class T>
void read_message_mixing(const ModelFile& file, const std::string& prefix, const EngineParameters<T>& p,
                         LayerMessage<T>& message) {
  message.n_outputs = p.n_harmonics();
  const auto found = file.parameters.find(prefix + "mixing");
  if (found == file.parameters.end()) return;
  if (file.parameters.count(prefix + "blocks")) {
    message.n_outputs = 0;
    for (const double degree : file.parameter(prefix + "blocks", {-1}).values) {
      if (degree < 0 || degree > p.l_max) throw std::runtime_error(prefix + "blocks names a degree outside 0..l_max");
      message.degrees.push_back(static_cast<int32_t>(degree));
      message.n_outputs += 2 * message.degrees.back() + 1;
    }
  } else {
    for (int l = 0; l <= p.l_max; ++l) message.degrees.push_back(l);
  }
  const int64_t K = p.n_channels, n_blocks = static_cast<int64_t>(message.degrees.size()), S = p.density.n_species;
  message.mixing_by_species = found->second.shape.size() == 4;
  message.mixing = matrix_stack<T>(message.mixing_by_species ? file.parameter(prefix + "mixing", {S, n_blocks, K, K})
                                                             : file.parameter(prefix + "mixing", {n_blocks, K, K}));
}

/// The messages of layer t >= 1.
template <class T>
LayerMessage<T> read_message(const ModelFile& file, const std::string& prefix, const EngineParameters<T>& p) {
  LayerMessage<T> message;
  read_message_radial(file, prefix, p, message);
  read_message_mixing(file, prefix, p, message);
  const Array& indices = file.parameter(prefix + "terms", {-1, 4});
  const Array& couplings = file.parameter(prefix + "couplings", {indices.shape[0]});
  std::vector<MessageTerm> terms;
  for (std::size_t n = 0; n < couplings.values.size(); ++n) {
    const double* row = indices.values.data() + 4 * n;
    terms.push_back({static_cast<int32_t>(row[0]), static_cast<int32_t>(row[1]), static_cast<int32_t>(row[2]),
                     static_cast<int32_t>(row[3])});
  }
  const auto n_paths = static_cast<int>(file.parameters.at(prefix + "message").shape[0]);
  const std::string fault =
      message_fault(terms, n_paths, p.n_harmonics(), message.n_outputs, (p.message_l + 1) * (p.message_l + 1));
  if (!fault.empty()) throw std::runtime_error(prefix + fault);
  message.couplings = CouplingTable<T>(MessageTable<T>(terms, couplings.values.data(), n_paths));
  return message;
}

}  // namespace tesseral
