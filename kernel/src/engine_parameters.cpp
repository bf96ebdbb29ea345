// From a model file to the padded arrays of the native engine.
#include "tesseral/engine_parameters.hpp"

#include <cmath>
#include <stdexcept>

namespace tesseral {
namespace {

RadialKind radial_kind(const std::string& name) {
  if (name == "bessel") return RadialKind::bessel;
  if (name == "chebyshev") return RadialKind::chebyshev;
  if (name == "gaussian") return RadialKind::gaussian;
  if (name == "spline") return RadialKind::spline;
  throw std::runtime_error("radial basis '" + name + "' is unknown; update tesseral");
}

template <class T>
AlignedVector<T> convert(const std::vector<double>& values) {
  return AlignedVector<T>(values.begin(), values.end());
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

/// Monomial tree of one invariant output.
template <class T>
void read_tree(const ModelFile& file, EngineParameters<T>& p) {
  const Array& tree = file.parameter("product_tree", {-1, 3});
  const Array& roots = file.parameter("product_roots", {2});
  p.n_nodes = static_cast<int>(tree.shape[0]);
  for (int n = 0; n < p.n_nodes; ++n) {
    const double* row = tree.values.data() + 3 * n;
    p.tree.push_back({static_cast<int32_t>(row[0]), static_cast<int32_t>(row[1]), static_cast<int32_t>(row[2])});
  }
  p.roots = {static_cast<int32_t>(roots.values[0]), static_cast<int32_t>(roots.values[1])};
  const std::string fault = tree_fault(p.tree, p.roots, (p.l_max + 1) * (p.l_max + 1));
  if (!fault.empty()) throw std::runtime_error("product_" + fault);
}

/// Linear and MLP readouts. The linear map to features before them is multiplied into their first weights.
template <class T>
void read_readout(const ModelFile& file, EngineParameters<T>& p) {
  const Array& features = file.parameter("features", {p.n_channels, -1});
  const auto n_features = static_cast<int>(features.shape[1]);
  const Array& linear = file.parameter("readout_linear", {n_features});
  p.linear = pad_rows<T>(multiply(features.values, linear.values, p.n_channels, n_features, 1), p.n_channels, p.channel_row);
  int n_in = n_features;
  for (int n = 0; file.parameters.count("readout_mlp_" + std::to_string(n) + "_weight"); ++n) {
    const std::string prefix = "readout_mlp_" + std::to_string(n);
    const Array& weight = file.parameter(prefix + "_weight", {n_in, -1});
    const auto n_out = static_cast<int>(weight.shape[1]);
    std::vector<double> values = weight.values;
    if (n == 0) {
      values = multiply(features.values, values, p.n_channels, n_features, n_out);
      n_in = p.n_channels;
    }
    p.layers.push_back({n_in, n_out, pad_rows<T>(values, n_out, padded_row(n_out)),
                        pad_rows<T>(transpose_blocks(values, n_in, n_out), n_in, padded_row(n_in)),
                        pad_rows<T>(file.parameter(prefix + "_bias", {n_out}).values, n_out, padded_row(n_out))});
    n_in = n_out;
  }
  if (!p.layers.empty() && n_in != 1) throw std::runtime_error("the last readout layer must have one output");
}

template <class T>
void read_repulsion(const Json& options, const Json& numbers, EngineParameters<T>& p) {
  p.has_repulsion = !options.is_null();
  if (!p.has_repulsion) return;
  p.repulsion = {options.at("inner").number(), options.at("outer").number()};
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
  if (type != "local") throw std::runtime_error("model type '" + type + "' is unknown; update tesseral");
  const Json& architecture = metadata.at("architecture");
  const auto n_species = static_cast<int>(metadata.at("species").items().size());
  const int l_max = integer_between(architecture, "l_max", 0, max_l);
  const int n_radial = integer_between(architecture, "n_radial", 1, max_radial);

  EngineParameters<T> p;
  p.l_max = l_max;
  p.n_inputs = n_species * n_radial;
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
    const Array& table = file.parameter("radial_table", {-1, n_radial, 4});
    p.radial_table = convert<T>(table.values);
    p.density.radial.n_intervals = static_cast<int>(table.shape[0]);
    p.density.radial.table = p.radial_table.data();
  }
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
  read_tree(file, p);
  p.product =
      pad_rows<T>(file.parameter("product", {n_species, p.n_nodes, p.n_channels}).values, p.n_channels, p.channel_row);
  read_readout(file, p);
  p.scale = static_cast<T>(file.parameter("scale", {1}).values[0]);
  const Array& e0 = file.parameter("e0", {n_species});
  const Array& shift = file.parameter("shift", {n_species});
  for (std::size_t s = 0; s < e0.values.size(); ++s) p.atomic_energy.push_back(e0.values[s] + shift.values[s]);
  read_repulsion(architecture.at("zbl"), metadata.at("atomic_numbers"), p);
  return p;
}

}  // namespace

template <class T>
EngineParameters<T> read_engine_parameters(const ModelFile& file) {
  try {
    return read<T>(file);
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
  phi.resize(static_cast<std::size_t>(p.n_inputs) * harmonic_row);
  dphi.resize(phi.size());
  A.resize(n_harmonics * channel_row);
  dA.resize(A.size());
  B.resize(channel_row);
  dB.resize(channel_row);
  std::size_t hidden_size = 0, widest = channel_row;
  for (const DenseLayer<T>& layer : p.layers) {
    const auto width = static_cast<std::size_t>(padded_row(layer.n_out));
    hidden_size += width;
    widest = width > widest ? width : widest;
  }
  hidden.resize(hidden_size);
  slopes.resize(hidden_size);
  adjoint.resize(2 * widest);
}

template EngineParameters<float> read_engine_parameters<float>(const ModelFile&);
template EngineParameters<double> read_engine_parameters<double>(const ModelFile&);
template struct EngineScratch<float>;
template struct EngineScratch<double>;

}  // namespace tesseral
