// From a model file to the padded arrays of the native engine.
#include "tesseral/engine_parameters.hpp"

#include <cmath>
#include <stdexcept>
#include <utility>

#include "message_parameters.hpp"
#include "tesseral/common_trees.hpp"

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
  product.depth = tree_depth(product.tree.data(), product.roots.data(), product.n_outputs());
  product.common_tree = common_tree(product.tree, product.roots);
  const auto n_species = static_cast<int64_t>(p.density.n_species);
  const Array& weights = file.parameter(prefix + "product", {n_species, product.n_nodes(), p.n_channels});
  product.weights = in_blocks(pad_rows<T>(weights.values, p.n_channels, p.channel_row), product.n_nodes(), p.channel_row);
  return product;
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
  p.mixing = pad_rows<T>(mixing.values, p.n_channels, p.channel_row);
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

template EngineParameters<float> read_engine_parameters<float>(const ModelFile&);
template EngineParameters<double> read_engine_parameters<double>(const ModelFile&);

}  // namespace tesseral
