// Linear maps of rows of channels, one matrix for each block of rows and species: products of matrices. A block of threads
// takes a tile of rows of some atoms, all of one species, and of channels, 64 times 128 or 128 times 64; each thread sums 8
// times 8 of its numbers in registers, from panels of 128 bytes of each row in shared memory. The atoms are taken in chunks,
// which each block of threads sorts by species: parts of a tile that no row fills are lost, and each species of a chunk
// may leave one such part. Maps that write the same rows are worked out together.
//
// The gradient of the weights: outer_products.hpp.
#include <stdexcept>

#include "atoms_by_species.hpp"
#include "kernels.hpp"
#include "outer_products.hpp"
#include "tables.hpp"
#include "tile_product.hpp"

namespace tesseral::cuda {
namespace {

constexpr int chunk = 128;  // atoms

/// Rows of an atom that blocks of its input and their matrices give.
struct Target {
  int32_t out, width;
  int32_t adds;
  int32_t first_source, last_source;
  int32_t first_slot;  // of the tiles of a chunk
};

struct Source {
  int32_t in;
  int32_t matrix;  // of those of a species
};

template <class T>
struct MapArrays {
  const T* x;
  const T* weights;  // [S, n_matrices, n_inputs, row]
  T* out;
  const int64_t* species;
  const Target* targets;
  const Source* sources;
  Range range;
  int n_in, n_out, n_inputs, row;
  int n_matrices, n_targets;
  int n_slots, column_tiles;
};

/// Where the rows of a tile lie, -1 beyond them.
template <int rows>
struct TileRows {
  int64_t x[rows], out[rows];  // rows of x begin `in` rows later
};

template <class T, class Tile>
__device__ void map_tile(const MapArrays<T>& arrays, const Target& target, const T* weights,
                         const TileRows<Tile::rows>& rows, int first_column) {
  constexpr int depth = Tile::depth, depth_in_warp = 8, rows_in_warp = warp_size / depth_in_warp;
  constexpr int n_warps = Tile::n_threads / warp_size;
  const int lane = Tile::thread() % warp_size, warp = Tile::thread() / warp_size;
  const int n_columns = arrays.row - first_column;
  Tile tile;
  for (int s = target.first_source; s < target.last_source; ++s) {
    const Source source = arrays.sources[s];
    const T* x = arrays.x + static_cast<int64_t>(source.in) * arrays.n_inputs;
    const T* matrix = weights + static_cast<int64_t>(source.matrix) * arrays.n_inputs * arrays.row + first_column;
    for (int begin = 0; begin < arrays.n_inputs; begin += depth) {
      const int count = lesser(arrays.n_inputs - begin, depth);
      // a warp reads 8 numbers of 4 rows at a time, so that it writes them to different banks
      TESSERAL_UNROLL for (int r = 0; r < Tile::rows / (n_warps * rows_in_warp); ++r) {
        const int row = (r * n_warps + warp) * rows_in_warp + lane % rows_in_warp;
        const int64_t at = rows.x[row];
        TESSERAL_UNROLL for (int n = 0; n < depth / depth_in_warp; ++n) {
          const int k = n * depth_in_warp + lane / rows_in_warp;
          Tile::P()[k * Tile::row_stride + row] = at >= 0 && k < count ? x[at + begin + k] : T(0);
        }
      }
      const auto row_of_matrix = [&](int k) { return matrix + static_cast<int64_t>(begin + k) * arrays.row; };
      Tile::template set_Q<true>(row_of_matrix, count, n_columns);
      __syncthreads();
      tile.add_panels();
      __syncthreads();
    }
  }
  TESSERAL_UNROLL for (int m = 0; m < 8; ++m) {
    const int64_t at = rows.out[Tile::first_row() + m];
    if (at < 0) continue;
    TESSERAL_UNROLL for (int v = 0; v < Tile::vectors; ++v) {
      T* out = arrays.out + at + first_column + Tile::column(v);
      const int left = n_columns - Tile::column(v);
      Vector<T> sums{};
      if (target.adds) sums = load_vector(out, left, true);
      TESSERAL_UNROLL for (int n = 0; n < Tile::V; ++n) sums.of[n] += tile.sums[m][v * Tile::V + n];
      store_vector(out, sums, left, true);
    }
  }
}

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::n_threads, Tile::blocks_at_once) maps_of_rows(MapArrays<T> arrays) {
  __shared__ AtomsBySpecies<chunk> sorted;
  __shared__ TileRows<Tile::rows> rows;
  const int first_column = static_cast<int>(blockIdx.x % arrays.column_tiles) * Tile::columns;
  const int slot = static_cast<int>(blockIdx.x / arrays.column_tiles % arrays.n_slots);
  const int64_t first = arrays.range.begin + blockIdx.x / arrays.column_tiles / arrays.n_slots * chunk;
  const int count = arrays.range.end - first < chunk ? static_cast<int>(arrays.range.end - first) : chunk;
  int t = 0;
  while (t + 1 < arrays.n_targets && arrays.targets[t + 1].first_slot <= slot) ++t;
  const Target target = arrays.targets[t];
  const int next_slot = t + 1 < arrays.n_targets ? arrays.targets[t + 1].first_slot : arrays.n_slots;
  sort_by_species(arrays.species, first, count, sorted);
  PartOfSpecies part;
  for (int n = slot - target.first_slot; find_part(sorted, count, target.width, Tile::rows, n, part);
       n += next_slot - target.first_slot) {
    const int n_rows = (part.last - part.first) * target.width;
    for (int r = Tile::thread(); r < Tile::rows; r += Tile::n_threads) {
      const int row = part.begin + r, m = row % target.width;
      const int64_t atom = row < n_rows ? first + sorted.atom[part.first + row / target.width] : 0;
      rows.x[r] = row < n_rows ? (atom * arrays.n_in + m) * arrays.n_inputs : -1;
      rows.out[r] = row < n_rows ? (atom * arrays.n_out + target.out + m) * arrays.row : -1;
    }
    __syncthreads();
    const int64_t matrices = static_cast<int64_t>(sorted.species[part.first]) * arrays.n_matrices;
    map_tile<T, Tile>(arrays, target, arrays.weights + matrices * arrays.n_inputs * arrays.row, rows, first_column);
    __syncthreads();
  }
}

struct MapTable {
  std::vector<Target> targets;
  std::vector<Source> sources;
};

/// Blocks that add to what an earlier one has written become further sources of the same target.
MapTable map_table(const std::vector<RowBlock>& blocks) {
  MapTable table;
  std::vector<bool> taken(blocks.size(), false);
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    if (taken[b]) continue;
    Target target{blocks[b].out, blocks[b].width, blocks[b].adds, static_cast<int32_t>(table.sources.size()), 0, 0};
    for (std::size_t other = b; other < blocks.size(); ++other) {
      const RowBlock& block = blocks[other];
      if (other > b && (!block.adds || block.out + block.width <= target.out || target.out + target.width <= block.out)) {
        continue;
      }
      if (block.out != target.out || block.width != target.width) {
        throw std::logic_error("CUDA: blocks of a map of rows overlap in part");
      }
      taken[other] = true;
      table.sources.push_back({block.in, static_cast<int32_t>(other)});
    }
    target.last_source = static_cast<int32_t>(table.sources.size());
    table.targets.push_back(target);
  }
  return table;
}

template <class T, int TY, int TX>
void run(const RowMapShape& shape, MapArrays<T> arrays) {
  using Tile = TileProduct<T, 8, TY, TX>;
  MapTable table = map_table(shape.blocks);
  arrays.n_slots = 0;
  for (Target& target : table.targets) {
    target.first_slot = arrays.n_slots;
    arrays.n_slots += static_cast<int>(blocks_for(chunk * target.width, Tile::rows));
  }
  arrays.column_tiles = static_cast<int>(blocks_for(shape.row, Tile::columns));
  arrays.n_targets = static_cast<int>(table.targets.size());
  if (arrays.range.end == arrays.range.begin) return;
  arrays.targets = on_device(table.targets.data(), table.targets.size());
  arrays.sources = on_device(table.sources.data(), table.sources.size());
  launch(maps_of_rows<T, Tile>,
         blocks_for(arrays.range.end - arrays.range.begin, chunk) * arrays.n_slots * arrays.column_tiles, Tile::n_threads,
         Tile::shared_numbers * sizeof(T), arrays);
}

template <class T>
void map_rows(const RowMapShape& shape, const T* x, const T* weights, Range range, T* out) {
  if (!whole_vectors<T>(shape.row)) throw std::logic_error("CUDA: rows of a map are not padded");
  const auto n_matrices = static_cast<int>(shape.blocks.size());
  const MapArrays<T> arrays{x,           weights,        out,       shape.species, nullptr, nullptr, range, shape.n_in,
                            shape.n_out, shape.n_inputs, shape.row, n_matrices,    0,       0,       0};
  if (shape.row > 64) {
    run<T, 8, 16>(shape, arrays);
  } else {
    run<T, 16, 8>(shape, arrays);
  }
}

template <class T>
void map_rows_weight_gradient(const RowMapShape& shape, const T* x, const T* G, Range range, T* out) {
  const int64_t inputs = shape.n_inputs;
  add_outer_products(
      OuterProducts<T>{{x, shape.n_in * inputs, inputs, 1}, G, out, shape.species, shape.n_out, shape.n_inputs, shape.row},
      shape.blocks, range);
}

}  // namespace

template <class T>
void add_row_maps(Kernels<T>& kernels) {
  kernels.map_rows = map_rows<T>;
  kernels.map_rows_weight_gradient = map_rows_weight_gradient<T>;
}
TESSERAL_INSTANTIATE(add_row_maps)

}  // namespace tesseral::cuda
