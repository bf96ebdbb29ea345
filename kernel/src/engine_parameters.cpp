// From a model file to the padded arrays of the native engine.
#include "tesseral/engine_parameters.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace tesseral {
namespace {

constexpr int most_layers = 3;

RadialKind radial_kind(const std::string& name) {
  if (name == "bessel") return RadialKind::bessel;
  if (name == "chebyshev") return RadialKind::chebyshev;
  if (name == "gaussian") return RadialKind::gaussian;
  if (name == "spline") return RadialKind::spline;
  throw std::runtime_error("radial basis '" + name + "' is unknown; update tesseral");
}

/// Spline tables [n_tables, n_intervals, n_radial, n_powers], or without the first index one; the cutoff is set before.
template <class T>
void read_spline(const ModelFile& file, const std::string& name, LayerRadial<T>& out, int n_species) {
  RadialBasis<T>& radial = out.basis;
  const auto found = file.parameters.find(name);
  const bool many = found != file.parameters.end() && found->second.shape.size() == 4;
  const Array& table = file.parameter(name, many ? std::vector<int64_t>{-1, -1, -1, -1} : std::vector<int64_t>{-1, -1, -1});
  const std::size_t d = many ? 1 : 0;
  radial.kind = RadialKind::spline;
  radial.n_tables = many ? static_cast<int>(table.shape[0]) : 1;
  radial.n_intervals = static_cast<int>(table.shape[d]);
  radial.n_radial = static_cast<int>(table.shape[d + 1]);
  radial.n_powers = static_cast<int>(table.shape[d + 2]);
  if (table.values.empty() || radial.n_radial > max_radial || radial.n_powers > max_spline_powers) {
    throw std::runtime_error(name + " must not be empty, with at most " + std::to_string(max_radial) + " functions of " +
                             std::to_string(max_spline_powers) + " coefficients");
  }
  if (radial.n_tables != 1 && radial.n_tables != n_species * n_species) {
    throw std::runtime_error(name + " must have one table, or one for each pair of species");
  }
  const std::vector<T> values =
      spline_table<T>(table.values.data(), int64_t{radial.n_tables} * radial.n_intervals, radial.n_radial, radial.n_powers);
  out.tables.assign(values.begin(), values.end());
  radial.table = out.tables.data();
  radial.table_row = padded_table_row(radial.n_radial);
}

/// An array [n_blocks, n, inner] with the first `kept` of n.
std::vector<double> first_of_blocks(const std::vector<double>& values, std::size_t n, std::size_t inner, std::size_t kept) {
  std::vector<double> out;
  for (auto at = values.begin(); at != values.end(); at += static_cast<std::ptrdiff_t>(n * inner)) {
    out.insert(out.end(), at, at + static_cast<std::ptrdiff_t>(kept * inner));
  }
  return out;
}

/// Largest magnitude by function of an array [n_blocks, n, inner].
std::vector<double> largest_of_functions(const std::vector<double>& values, std::size_t n, std::size_t inner) {
  std::vector<double> out(n, 0.0);
  for (std::size_t k = 0; k < values.size(); ++k) {
    const std::size_t q = k / inner % n;
    out[q] = std::max(out[q], std::abs(values[k]));
  }
  return out;
}

/// Number of functions of a spline density, largest first, that are more than rounding errors of float32 in what follows.
int functions_for_float32(const ModelFile& file, int n_radial) {
  const auto Q = static_cast<std::size_t>(n_radial);
  const Array& table = file.parameters.at("radial_table");
  const auto n_powers = static_cast<std::size_t>(table.shape.back());
  const std::vector<double> values = first_of_blocks(table.values, n_powers, 1, 1);  // at the pieces' ends
  const std::vector<double> sizes = largest_of_functions(values, Q, 1);
  std::size_t kept = 1;
  for (const char* name : {"mixing", "normaliser"}) {
    const auto found = file.parameters.find(name);
    if (found == file.parameters.end()) continue;
    const auto inner = static_cast<std::size_t>(name == std::string("mixing") ? found->second.shape.back() : 1);
    std::vector<double> parts = largest_of_functions(found->second.values, Q, inner);
    for (std::size_t q = 0; q < Q; ++q) parts[q] *= sizes[q];
    const double negligible = 1e-7 * *std::max_element(parts.begin(), parts.end());
    double rest = 0;
    std::size_t n = Q;
    while (n > kept && (rest += parts[n - 1]) <= negligible) --n;
    kept = std::max(kept, n);
  }
  return static_cast<int>(kept);
}

/// The file without the functions of its density that float32 does not see.
ModelFile narrowed(const ModelFile& file) {
  ModelFile out = file;
  Array& table = out.parameters.at("radial_table");
  const std::size_t at = table.shape.size() - 2;
  const auto Q = static_cast<std::size_t>(table.shape[at]);
  const auto kept = static_cast<std::size_t>(functions_for_float32(file, static_cast<int>(Q)));
  table.values = first_of_blocks(table.values, Q, static_cast<std::size_t>(table.shape.back()), kept);
  table.shape[at] = static_cast<int64_t>(kept);
  for (const char* name : {"mixing", "normaliser"}) {
    const auto found = out.parameters.find(name);
    if (found == out.parameters.end()) continue;
    Array& array = found->second;
    const std::size_t axis = name == std::string("mixing") ? 2 : array.shape.size() - 1;
    const auto inner = static_cast<std::size_t>(axis + 1 < array.shape.size() ? array.shape.back() : 1);
    array.shape[axis] = array.shape[axis] / static_cast<int64_t>(Q) * static_cast<int64_t>(kept);
    array.values = first_of_blocks(array.values, Q, inner, kept);
  }
  return out;
}

/// Rows of `length` numbers copied to rows of `row` numbers, the rest zero.
template <class T>
AlignedVector<T> pad_rows(const std::vector<double>& values, int length, int row) {
  const std::size_t n_rows = values.size() / static_cast<std::size_t>(length);
  AlignedVector<T> out(n_rows * static_cast<std::size_t>(row), T(0));
  for (std::size_t r = 0; r < n_rows; ++r) {
    for (int k = 0; k < length; ++k) {
      out[r * static_cast<std::size_t>(row) + static_cast<std::size_t>(k)] =
          static_cast<T>(values[r * static_cast<std::size_t>(length) + static_cast<std::size_t>(k)]);
    }
  }
  return out;
}

/// Blocks [n_rows, n_columns] transposed.
std::vector<double> transpose_blocks(const std::vector<double>& values, int n_rows, int n_columns) {
  std::vector<double> out(values.size());
  const auto size = static_cast<std::size_t>(n_rows) * static_cast<std::size_t>(n_columns);
  for (std::size_t block = 0; block < values.size(); block += size) {
    for (int r = 0; r < n_rows; ++r) {
      for (int c = 0; c < n_columns; ++c) {
        out[block + static_cast<std::size_t>(c * n_rows + r)] = values[block + static_cast<std::size_t>(r * n_columns + c)];
      }
    }
  }
  return out;
}

/// a [n, m] times b [m, p]
std::vector<double> multiply(const std::vector<double>& a, const std::vector<double>& b, int n, int m, int p) {
  std::vector<double> out(static_cast<std::size_t>(n * p), 0.0);
  for (int i = 0; i < n; ++i) {
    for (int k = 0; k < m; ++k) {
      for (int j = 0; j < p; ++j) {
        out[static_cast<std::size_t>(i * p + j)] +=
            a[static_cast<std::size_t>(i * m + k)] * b[static_cast<std::size_t>(k * p + j)];
      }
    }
  }
  return out;
}

int integer_between(const Json& json, const std::string& key, int low, int high) {
  const int value = json.at(key).integer();
  if (value < low || value > high) {
    throw std::runtime_error(key + " = " + std::to_string(value) + " is outside " + std::to_string(low) + ".." +
                             std::to_string(high));
  }
  return value;
}

/// Matrices [..., n_in, n_out] in both orientations.
template <class T>
MatrixStack<T> matrix_stack(const Array& array) {
  const auto n_in = static_cast<int>(array.shape[array.shape.size() - 2]), n_out = static_cast<int>(array.shape.back());
  return {n_in, n_out, pad_rows<T>(array.values, n_out, padded_row(n_out)),
          pad_rows<T>(transpose_blocks(array.values, n_in, n_out), n_in, padded_row(n_in))};
}

/// Monomial trees and weights of a product with outputs of degrees 0..output_l; the arrays' names start with `prefix`.
template <class T>
LayerProduct<T> read_product(const ModelFile& file, const std::string& prefix, const EngineParameters<T>& p, int output_l) {
  const std::string stem = prefix == "" ? "product_" : prefix;
  const Array& tree = file.parameter(stem + "tree", {-1, 3});
  const Array& roots = file.parameter(stem + "roots", {(output_l + 1) * (output_l + 1) + 1});
  LayerProduct<T> product;
  for (int64_t n = 0; n < tree.shape[0]; ++n) {
    const double* row = tree.values.data() + 3 * n;
    product.tree.push_back({static_cast<int32_t>(row[0]), static_cast<int32_t>(row[1]), static_cast<int32_t>(row[2])});
  }
  for (const double root : roots.values) product.roots.push_back(static_cast<int32_t>(root));
  const std::string fault = tree_fault(product.tree, product.roots, p.n_harmonics());
  if (!fault.empty()) throw std::runtime_error(stem + fault);
  const auto n_species = static_cast<int64_t>(p.density.n_species);
  const Array& weights = file.parameter(prefix + "product", {n_species, product.n_nodes(), p.n_channels});
  product.weights = pad_rows<T>(weights.values, p.n_channels, p.channel_row);
  return product;
}

/// Splines of each path and channel from those that the weights mix, [n_paths, n_radial, K].
template <class T>
AlignedVector<T> channel_tables(const Array& tables, const Array& weights, const RadialBasis<T>& basis, int row) {
  const std::size_t n_paths = static_cast<std::size_t>(weights.shape[0]), K = static_cast<std::size_t>(weights.shape[2]);
  const auto Q = static_cast<std::size_t>(basis.n_radial), n_powers = static_cast<std::size_t>(basis.n_powers);
  const std::size_t n_pieces = tables.values.size() / (Q * n_powers), padded_K = static_cast<std::size_t>(row);
  AlignedVector<T> out(n_pieces * n_paths * n_powers * padded_K, T(0));
  std::vector<double> sum(K);
  T* target = out.data();
  for (std::size_t piece = 0; piece < n_pieces; ++piece) {
    for (std::size_t path = 0; path < n_paths; ++path) {
      for (std::size_t power = 0; power < n_powers; ++power, target += padded_K) {
        std::fill(sum.begin(), sum.end(), 0.0);
        for (std::size_t q = 0; q < Q; ++q) {
          const double coefficient = tables.values[(piece * Q + q) * n_powers + power];
          for (std::size_t k = 0; k < K; ++k) sum[k] += coefficient * weights.values[(path * Q + q) * K + k];
        }
        for (std::size_t k = 0; k < K; ++k) target[k] = static_cast<T>(sum[k]);
      }
    }
  }
  return out;
}

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
  message.terms.emplace(terms, couplings.values.data(), n_paths);
  return message;
}

template <class T>
void read_layers(const ModelFile& file, int n_layers, EngineParameters<T>& p) {
  const int64_t n_species = p.density.n_species, K = p.n_channels;
  for (int t = 0; t < n_layers; ++t) {
    const std::string prefix = "layer" + std::to_string(t) + "_";
    const bool last = t == n_layers - 1;
    EngineLayer<T> layer;
    layer.output_l = last ? 0 : p.message_l;
    layer.product = read_product<T>(file, prefix, p, layer.output_l);
    const Array& update = file.parameter(prefix + "update", {layer.output_l + 1, K, last ? -1 : K});
    layer.update = matrix_stack<T>(update);
    const auto has = [&](const char* name) { return file.parameters.count(prefix + name) > 0; };
    if (t == 0 && has("constant")) {
      const Array& constant = file.parameter(prefix + "constant", {n_species, update.shape[2]});
      layer.constant = pad_rows<T>(constant.values, layer.update.n_out, padded_row(layer.update.n_out));
    }
    if (t > 0) layer.message = read_message(file, prefix, p);
    if (t > 0 && has("residual")) {
      layer.residual =
          matrix_stack<T>(file.parameter(prefix + "residual", {n_species, layer.output_l + 1, K, update.shape[2]}));
    }
    if (!last && has("handed")) layer.handed = matrix_stack<T>(file.parameter(prefix + "handed", {p.message_l + 1, K, K}));
    if (!last) layer.readout = pad_rows<T>(file.parameter(prefix + "readout", {K}).values, p.n_channels, p.channel_row);
    p.layers.push_back(std::move(layer));
    if (!last && p.layers[static_cast<std::size_t>(t)].handed.empty() == p.hands_on()) {
      throw std::runtime_error(prefix + "handed: all layers but the last must have it, or none");
    }
  }
  // a layer was moved, its tables with it
  for (EngineLayer<T>& layer : p.layers) {
    if (layer.message && !layer.message->radial.tables.empty()) {
      layer.message->radial.basis.table = layer.message->radial.tables.data();
    }
  }
}

/// Linear and MLP readouts of `n_features` features x. With `map` [n_inputs, n_features] the features are x times map,
/// which is multiplied into the weights.
template <class T>
void read_readout(const ModelFile& file, int n_features, const std::vector<double>* map, EngineParameters<T>& p) {
  int n_in = n_features;
  const int n_inputs = map ? p.n_channels : n_features;
  const Array& linear = file.parameter("readout_linear", {n_features});
  p.linear = pad_rows<T>(map ? multiply(*map, linear.values, n_inputs, n_features, 1) : linear.values, n_inputs,
                         padded_row(n_inputs));
  for (int n = 0; file.parameters.count("readout_mlp_" + std::to_string(n) + "_weight"); ++n) {
    const std::string prefix = "readout_mlp_" + std::to_string(n);
    const Array& weight = file.parameter(prefix + "_weight", {n_in, -1});
    const auto n_out = static_cast<int>(weight.shape[1]);
    std::vector<double> values = weight.values;
    if (n == 0) {
      if (map) values = multiply(*map, values, n_inputs, n_features, n_out);
      n_in = n_inputs;
    }
    p.perceptron.push_back({n_in, n_out, pad_rows<T>(values, n_out, padded_row(n_out)),
                            pad_rows<T>(transpose_blocks(values, n_in, n_out), n_in, padded_row(n_in)),
                            pad_rows<T>(file.parameter(prefix + "_bias", {n_out}).values, n_out, padded_row(n_out))});
    n_in = n_out;
  }
  if (!p.perceptron.empty() && n_in != 1) throw std::runtime_error("the last readout layer must have one output");
}

/// Repulsion of an imported MACE model: constants of its own and arrays by pair of species.
template <class T>
void read_mace_repulsion(const ModelFile& file, const Json& options, EngineParameters<T>& p) {
  p.repulsion.power = integer_between(options, "power", 1, 64);
  for (std::size_t n = 0; n < 4; ++n) {
    p.repulsion.amplitude[n] = options.at("amplitudes").items().at(n).number();
    p.repulsion.decay[n] = options.at("decays").items().at(n).number();
  }
  const int64_t n_species = p.density.n_species;
  const auto read = [&](const char* name) {
    const Array& array = file.parameter(std::string("repulsion_") + name, {n_species, n_species});
    return AlignedVector<T>(array.values.begin(), array.values.end());
  };
  p.repulsion_strength = read("strength");
  p.inverse_screening = read("inverse_screening");
  p.repulsion_outer = read("outer");
}

template <class T>
void read_repulsion(const ModelFile& file, EngineParameters<T>& p) {
  const Json &options = file.metadata.at("architecture").at("zbl"), &numbers = file.metadata.at("atomic_numbers");
  p.has_repulsion = !options.is_null();
  if (!p.has_repulsion) return;
  if (options.has("kind")) return read_mace_repulsion(file, options, p);
  p.repulsion.inner = options.at("inner").number();
  p.repulsion.outer = options.at("outer").number();
  p.repulsion_outer.assign(numbers.items().size() * numbers.items().size(), static_cast<T>(p.repulsion.outer));
  for (const Json& zi : numbers.items()) {
    for (const Json& zj : numbers.items()) {
      p.repulsion_strength.push_back(static_cast<T>(0.5 * coulomb_constant * zi.number() * zj.number()));
      p.inverse_screening.push_back(static_cast<T>(
          (std::pow(zi.number(), screening_exponent) + std::pow(zj.number(), screening_exponent)) / screening_length));
    }
  }
}

template <class T>
EngineParameters<T> read(const ModelFile& file) {
  const Json& metadata = file.metadata;
  const std::string& type = metadata.at("model_type").text();
  if (type != "local" && type != "layered" && type != "mace")
    throw std::runtime_error("model type '" + type + "' is unknown; update tesseral");
  const Json& architecture = metadata.at("architecture");
  const auto n_species = static_cast<int>(metadata.at("species").items().size());
  const int l_max = integer_between(architecture, "l_max", 0, max_l);
  const int n_radial = integer_between(architecture, "n_radial", 1, max_radial);

  EngineParameters<T> p;
  p.l_max = l_max;
  p.density.n_species = n_species;
  p.density.harmonics = HarmonicConstants<T>(l_max);
  p.density.radial.kind = radial_kind(architecture.at("radial_basis").text());
  p.density.radial.n_radial = n_radial;
  p.density.radial.cutoff = static_cast<T>(metadata.at("cutoff").number());
  if (!(p.density.radial.cutoff > 0)) throw std::runtime_error("the cutoff must be positive");
  if (metadata.at("atomic_numbers").items().size() != static_cast<std::size_t>(n_species)) {
    throw std::runtime_error("atomic_numbers and species differ in length");
  }
  if (p.density.radial.kind == RadialKind::spline) {
    p.radial.basis = p.density.radial;
    read_spline(file, "radial_table", p.radial, n_species);
    p.density.radial = p.radial.basis;
  }
  p.n_inputs = n_species * p.density.radial.n_radial;
  const Array& mixing = file.parameter("mixing", {n_species, l_max + 1, p.n_inputs, -1});
  p.n_channels = static_cast<int>(mixing.shape[3]);
  p.channel_row = padded_row(p.n_channels);
  p.input_row = padded_row(p.n_inputs);
  p.mixing = pad_rows<T>(mixing.values, p.n_channels, p.channel_row);
  // [.., n_inputs, K] to [.., K, n_inputs], then K padded with zero rows
  const AlignedVector<T> transposed =
      pad_rows<T>(transpose_blocks(mixing.values, p.n_inputs, p.n_channels), p.n_inputs, p.input_row);
  const auto block = static_cast<std::size_t>(p.n_channels * p.input_row);
  for (std::size_t at = 0; at < transposed.size(); at += block) {
    p.mixing_transposed.insert(p.mixing_transposed.end(), transposed.begin() + static_cast<std::ptrdiff_t>(at),
                               transposed.begin() + static_cast<std::ptrdiff_t>(at + block));
    p.mixing_transposed.resize(p.mixing_transposed.size() +
                               static_cast<std::size_t>((p.channel_row - p.n_channels) * p.input_row));
  }
  if (type == "local") {
    const Array& features = file.parameter("features", {p.n_channels, -1});
    p.layers.emplace_back();
    p.layers.back().product = read_product<T>(file, "", p, 0);
    read_readout(file, static_cast<int>(features.shape[1]), &features.values, p);
  } else {
    p.message_l = integer_between(architecture, "message_l", 0, max_l);
    if (file.parameters.count("normaliser")) {
      const Array& normaliser = file.parameter("normaliser", {architecture.at("n_layers").integer(), n_species, p.n_inputs});
      p.normaliser.assign(normaliser.values.begin(), normaliser.values.end());
    }
    read_layers(file, integer_between(architecture, "n_layers", type == "mace" ? 1 : 2, most_layers), p);
    read_readout(file, p.layers.back().update.n_out, nullptr, p);
  }
  p.scale = static_cast<T>(file.parameter("scale", {1}).values[0]);
  const Array& e0 = file.parameter("e0", {n_species});
  const Array& shift = file.parameter("shift", {n_species});
  for (std::size_t s = 0; s < e0.values.size(); ++s) p.atomic_energy.push_back(e0.values[s] + shift.values[s]);
  read_repulsion(file, p);
  return p;
}

}  // namespace

template <class T>
EngineParameters<T> read_engine_parameters(const ModelFile& file) {
  try {
    const bool spline = file.parameters.count("radial_table") > 0;
    return sizeof(T) == sizeof(float) && spline ? read<T>(narrowed(file)) : read<T>(file);
  } catch (const std::runtime_error& error) {
    const std::string what = error.what();
    throw std::runtime_error(what.rfind(file.path, 0) == 0 ? what : file.path + ": " + what);
  }
}

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

template EngineParameters<float> read_engine_parameters<float>(const ModelFile&);
template EngineParameters<double> read_engine_parameters<double>(const ModelFile&);
template struct EngineScratch<float>;
template struct EngineScratch<double>;

}  // namespace tesseral
