// Spline tables of a model file: as the kernel takes them, multiplied into the weights of messages, and without the
// functions that float32 does not see.
#pragma once

#include <algorithm>
#include <cmath>

#include "parameter_arrays.hpp"

namespace tesseral {

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

/// An array [n_blocks, n, inner] with the first `kept` of n.
inline std::vector<double> first_of_blocks(const std::vector<double>& values, std::size_t n, std::size_t inner,
                                           std::size_t kept) {
  std::vector<double> out;
  for (auto at = values.begin(); at != values.end(); at += static_cast<std::ptrdiff_t>(n * inner)) {
    out.insert(out.end(), at, at + static_cast<std::ptrdiff_t>(kept * inner));
  }
  return out;
}

/// Largest magnitude by function of an array [n_blocks, n, inner].
inline std::vector<double> largest_of_functions(const std::vector<double>& values, std::size_t n, std::size_t inner) {
  std::vector<double> out(n, 0.0);
  for (std::size_t k = 0; k < values.size(); ++k) {
    const std::size_t q = k / inner % n;
    out[q] = std::max(out[q], std::abs(values[k]));
  }
  return out;
}

/// Number of functions of a spline density, largest first, that are more than rounding errors of float32 in what follows.
inline int functions_for_float32(const ModelFile& file, int n_radial) {
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
inline ModelFile narrowed(const ModelFile& file) {
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

}  // namespace tesseral
