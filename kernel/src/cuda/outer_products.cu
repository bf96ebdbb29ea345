// Sums over atoms of outer products of rows. A block takes a tile of the matrix of one block of rows (inputs times channels)
// and sums over the rows of some atoms, those of one species after the other; then each thread adds its part of the sums, 8
// times 8 or 2 times 8 numbers, to those of other blocks. That happens in any order: results may differ by rounding from run
// to run.
#include <algorithm>

#include "atoms_by_species.hpp"
#include "kernels.hpp"
#include "outer_products.hpp"
#include "tables.hpp"
#include "tile_product.hpp"

namespace tesseral::cuda {
namespace {

constexpr int most_atoms = 256;  // of a block
constexpr int fewest_atoms = 32;
constexpr int64_t enough_blocks = 600;

/// A RowBlock on the device.
struct OuterBlock {
  int32_t in, out, width;
};

struct OuterLayout {
  Range range;
  const OuterBlock* blocks;
  int n_blocks;
  int input_tiles, column_tiles;
  int atoms;  // of a block
};

/// Where the rows of a panel lie.
template <int depth>
struct PanelRows {
  int64_t x[depth], G[depth];
};

template <class T, class Tile, bool whole>
__device__ void add_species(const OuterProducts<T>& products, const OuterBlock& block,
                            const AtomsBySpecies<most_atoms>& sorted, int64_t first_atom, PartOfSpecies part,
                            int first_input, int first_column, PanelRows<Tile::depth>& panel, T* out) {
  constexpr int depth = Tile::depth;
  const int thread = Tile::thread(), n_rows = (part.last - part.first) * block.width;
  const int n_inputs = lesser(products.n_inputs - first_input, Tile::rows), n_columns = products.row - first_column;
  const bool along_columns = products.x.column_stride == 1;
  Tile tile;
  for (int begin = 0; begin < n_rows; begin += depth) {
    const int count = lesser(n_rows - begin, depth);
    if (thread < count) {
      const int row = begin + thread, m = row % block.width;
      const int64_t atom = first_atom + sorted.atom[part.first + row / block.width];
      panel.x[thread] =
          atom * products.x.atom_stride + (block.in + m) * products.x.row_stride + first_input * products.x.column_stride;
      panel.G[thread] = (atom * products.n_out + block.out + m) * products.row + first_column;
    }
    __syncthreads();
    TESSERAL_UNROLL_FOUR for (int n = 0; n < depth * Tile::rows / Tile::n_threads; ++n) {
      // neighbouring threads take neighbouring numbers of the array
      const int own = n * Tile::n_threads + thread;
      const int k = along_columns ? own / Tile::rows : own % depth, c = along_columns ? own % Tile::rows : own / depth;
      const bool exists = k < count && c < n_inputs;
      Tile::P()[k * Tile::row_stride + c] = exists ? products.x.data[panel.x[k] + c * products.x.column_stride] : T(0);
    }
    Tile::template set_Q<whole>([&](int k) { return products.G + panel.G[k]; }, count, n_columns);
    __syncthreads();
    tile.add_panels();
    __syncthreads();
  }
  TESSERAL_UNROLL for (int m = 0; m < Tile::rows / (Tile::n_threads / (Tile::columns / 8)); ++m) {
    const int c = Tile::first_row() + m;
    if (c >= n_inputs) continue;
    T* target = out + static_cast<int64_t>(first_input + c) * products.row + first_column;
    TESSERAL_UNROLL for (int v = 0; v < Tile::vectors; ++v) {
      TESSERAL_UNROLL for (int n = 0; n < Tile::V; ++n) {
        if (Tile::column(v) + n < n_columns) atomicAdd(target + Tile::column(v) + n, tile.sums[m][v * Tile::V + n]);
      }
    }
  }
}

template <class T, class Tile, bool whole>
__global__ void __launch_bounds__(Tile::n_threads, Tile::blocks_at_once)
    outer_products(OuterProducts<T> products, OuterLayout layout) {
  __shared__ AtomsBySpecies<most_atoms> sorted;
  __shared__ PanelRows<Tile::depth> panel;
  int64_t rest = blockIdx.x;
  const auto next = [&](int size) {
    const auto own = static_cast<int>(rest % size);
    rest /= size;
    return own;
  };
  const int first_column = next(layout.column_tiles) * Tile::columns, first_input = next(layout.input_tiles) * Tile::rows;
  const int b = next(layout.n_blocks);
  const OuterBlock block = layout.blocks[b];
  const int64_t first = layout.range.begin + rest * layout.atoms, left = layout.range.end - first;
  const int count = left < layout.atoms ? static_cast<int>(left) : layout.atoms;
  sort_by_species(products.species, first, count, sorted);
  for (PartOfSpecies part{0, 0, 0}; part.first < count; part.first = part.last) {
    part.last = end_of_species(sorted, part.first, count);
    const int64_t matrix = static_cast<int64_t>(sorted.species[part.first]) * layout.n_blocks + b;
    add_species<T, Tile, whole>(products, block, sorted, first, part, first_input, first_column, panel,
                                products.out + matrix * products.n_inputs * products.row);
  }
}

template <class T, int M, int TY, int TX, bool whole = true>
void run(const OuterProducts<T>& products, const std::vector<RowBlock>& blocks, Range range) {
  using Tile = TileProduct<T, M, TY, TX>;
  const int64_t n = range.end - range.begin, input_tiles = blocks_for(products.n_inputs, Tile::rows),
                column_tiles = blocks_for(products.row, Tile::columns);
  const auto n_blocks = static_cast<int64_t>(blocks.size());
  const int64_t tiles = input_tiles * column_tiles * n_blocks;
  if (n == 0 || tiles == 0) return;
  const int64_t atoms = std::clamp<int64_t>(n * tiles / enough_blocks, fewest_atoms, most_atoms);
  std::vector<OuterBlock> own;
  for (const RowBlock& block : blocks) own.push_back({block.in, block.out, block.width});
  launch(outer_products<T, Tile, whole>, blocks_for(n, atoms) * tiles, Tile::n_threads, Tile::shared_numbers * sizeof(T),
         products,
         OuterLayout{range, on_device(own.data(), own.size()), static_cast<int>(n_blocks), static_cast<int>(input_tiles),
                     static_cast<int>(column_tiles), static_cast<int>(atoms)});
}

}  // namespace

template <class T>
void add_outer_products(const OuterProducts<T>& products, const std::vector<RowBlock>& blocks, Range range) {
  if (!whole_vectors<T>(products.row)) return run<T, 2, 16, 8, false>(products, blocks, range);
  const bool wide = products.row > 64, few = products.n_inputs <= 32;
  if (few) return wide ? run<T, 2, 8, 16>(products, blocks, range) : run<T, 2, 16, 8>(products, blocks, range);
  wide ? run<T, 8, 8, 16>(products, blocks, range) : run<T, 8, 16, 8>(products, blocks, range);
}
template void add_outer_products(const OuterProducts<float>&, const std::vector<RowBlock>&, Range);
template void add_outer_products(const OuterProducts<double>&, const std::vector<RowBlock>&, Range);

}  // namespace tesseral::cuda
