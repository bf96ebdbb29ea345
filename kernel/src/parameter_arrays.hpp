// Arrays of a model file in the arithmetic's type, with padded rows and in both orientations.
#pragma once

#include <stdexcept>

#include "tesseral/engine_atoms.hpp"
#include "tesseral/model_file.hpp"

namespace tesseral {

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

/// Blocks [n_rows, row] as [row / coefficient_block, n_rows, coefficient_block].
template <class T>
AlignedVector<T> in_blocks(const AlignedVector<T>& values, int n_rows, int row) {
  AlignedVector<T> out(values.size());
  const auto rows = static_cast<std::size_t>(n_rows), columns = static_cast<std::size_t>(row);
  for (std::size_t n = 0; n < values.size(); ++n) {
    const std::size_t whole = n / (rows * columns), r = n / columns % rows, k = n % columns;
    const std::size_t block = k / coefficient_block, within = k % coefficient_block;
    out[((whole * columns / coefficient_block + block) * rows + r) * coefficient_block + within] = values[n];
  }
  return out;
}

/// Blocks [n_rows, n_columns] transposed.
inline std::vector<double> transpose_blocks(const std::vector<double>& values, int n_rows, int n_columns) {
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
inline std::vector<double> multiply(const std::vector<double>& a, const std::vector<double>& b, int n, int m, int p) {
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

inline int integer_between(const Json& json, const std::string& key, int low, int high) {
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

}  // namespace tesseral
