// Linear maps of rows of channels, one matrix for each block of rows, compiled once per instruction set like operators.cpp.
#include <vector>

#include "tesseral/operators.hpp"
#include "tesseral/rows.hpp"

namespace tesseral::TESSERAL_ISA {
namespace {

/// Rows whose products with a matrix are summed at a time: what they take of a tile's columns fits into the nearest cache.
constexpr int64_t panel_rows = 64;

/// The atoms of each species in a range.
std::vector<std::vector<int64_t>> atoms_by_species(const RowMapShape& shape, Range range) {
  std::vector<std::vector<int64_t>> atoms(static_cast<std::size_t>(shape.n_species));
  for (int64_t i = range.begin; i < range.end; ++i) {
    atoms[shape.species ? static_cast<std::size_t>(shape.species[i]) : 0].push_back(i);
  }
  return atoms;
}

/// Where the rows of a block begin, those of one atom after the other, in an array [N, n_rows, length].
template <class T>
struct RowsOfAtoms {
  T* data;
  const int64_t* atoms;
  int n_rows, first, width, length;

  T* operator()(int64_t r) const { return data + (atoms[r / width] * n_rows + first + r % width) * length; }
};

/// Copies rows, one after the other.
template <class T, class Source>
void gather_rows(Source source, int64_t begin, int64_t end, int length, T* target) {
  for (int64_t r = begin; r < end; ++r, target += length) {
    const T* row = source(r);
    for (int k = 0; k < length; ++k) target[k] = row[k];
  }
}

}  // namespace

template <class T>
void map_rows(const RowMapShape& shape, const T* x, const T* weights, Range range, T* out) {
  for (const auto& atoms : atoms_by_species(shape, range)) {
    for (const RowBlock& block : shape.blocks) {
      const RowsOfAtoms<const T> source{x, atoms.data(), shape.n_in, block.in, block.width, shape.n_inputs};
      const RowsOfAtoms<T> target{out, atoms.data(), shape.n_out, block.out, block.width, shape.row};
      const int n_rows = static_cast<int>(atoms.size()) * block.width;
      if (block.adds) {
        multiply_rows<T, true>(n_rows, source, 1, weights, shape.n_inputs, shape.row, target);
      } else {
        multiply_rows<T, false>(n_rows, source, 1, weights, shape.n_inputs, shape.row, target);
      }
      weights += static_cast<int64_t>(shape.n_inputs) * shape.row;
    }
  }
}

template <class T>
void map_rows_weight_gradient(const RowMapShape& shape, const T* x, const T* G, Range range, T* out) {
  std::vector<T> x_panel(static_cast<std::size_t>(panel_rows) * shape.n_inputs);
  std::vector<T> G_panel(static_cast<std::size_t>(panel_rows) * shape.row);
  for (const auto& atoms : atoms_by_species(shape, range)) {
    for (const RowBlock& block : shape.blocks) {
      const RowsOfAtoms<const T> inputs{x, atoms.data(), shape.n_in, block.in, block.width, shape.n_inputs};
      const RowsOfAtoms<const T> cotangents{G, atoms.data(), shape.n_out, block.out, block.width, shape.row};
      const int64_t n_rows = static_cast<int64_t>(atoms.size()) * block.width;
      for (int64_t first = 0; first < n_rows; first += panel_rows) {
        const int64_t last = first + panel_rows < n_rows ? first + panel_rows : n_rows;
        gather_rows(inputs, first, last, shape.n_inputs, x_panel.data());
        gather_rows(cotangents, first, last, shape.row, G_panel.data());
        multiply_rows<T, true>(
            shape.n_inputs, [&](int c) { return x_panel.data() + c; }, shape.n_inputs, G_panel.data(),
            static_cast<int>(last - first), shape.row, [&](int c) { return out + static_cast<int64_t>(c) * shape.row; });
      }
      out += static_cast<int64_t>(shape.n_inputs) * shape.row;
    }
  }
}

template void map_rows<float>(const RowMapShape&, const float*, const float*, Range, float*);
template void map_rows<double>(const RowMapShape&, const double*, const double*, Range, double*);
template void map_rows_weight_gradient<float>(const RowMapShape&, const float*, const float*, Range, float*);
template void map_rows_weight_gradient<double>(const RowMapShape&, const double*, const double*, Range, double*);

}  // namespace tesseral::TESSERAL_ISA
