// Sums over atoms of outer products of rows: gradients of weights that map rows of channels.
#pragma once

#include <cstdint>
#include <vector>

#include "tesseral/operators.hpp"

namespace tesseral::cuda {

/// Numbers of atoms in rows: that of column c in row r of an atom lies at atom * atom_stride + r * row_stride + c *
/// column_stride.
template <class T>
struct StridedRows {
  const T* data;
  int64_t atom_stride, row_stride, column_stride;
};

/// out[z, b, c, n] += sum over the atoms of species z and the rows r of block b of x[block.in + r, c] G[block.out + r, n].
template <class T>
struct OuterProducts {
  StridedRows<T> x;        // n_inputs columns
  const T* G;              // [N, n_out, row]
  T* out;                  // [S, blocks, n_inputs, row]
  const int64_t* species;  // [N], or null: all the first
  int n_out, n_inputs, row;
};

template <class T>
void add_outer_products(const OuterProducts<T>& products, const std::vector<RowBlock>& blocks, Range range);

}  // namespace tesseral::cuda
