// Chunks of centers, on which the passes of the native engine on a device work.
#pragma once

#include "engine_parameters.hpp"
#include "kernels.hpp"

namespace tesseral::cuda {

/// Contiguous centers: where their numbers begin in arrays of all, their species, and whether they are the last.
struct Chunk {
  int64_t begin, size;
  const int64_t* species;
  bool last;
};

/// Arrays of one chunk.
template <class T>
struct ChunkArrays {
  DeviceArray<T> phi, dphi;            // [n, n_inputs, LM]
  DeviceArray<T> A, dA;                // [n, LM, row]
  DeviceArray<T> B, dB;                // [n, products, row]
  DeviceArray<T> features, dfeatures;  // of the last layer [n, F]; of others dfeatures [n, feature_row]
};

/// The array with room for `size` numbers of each center of the chunk.
template <class T>
T* sized(DeviceArray<T>& array, const Chunk& chunk, int64_t size) {
  array.resize(static_cast<std::size_t>(chunk.size * size));
  return array.data();
}

inline RowMapShape with_species(RowMapShape shape, const int64_t* species) {
  shape.species = shape.n_species > 1 ? species : nullptr;
  return shape;
}

/// out of x, rows of the chunk's centers.
template <class T>
void map_rows(const Kernels<T>& kernels, const DeviceMap<T>& map, const Chunk& chunk, const T* x, T* out) {
  const Label label("maps of rows");
  kernels.map_rows(with_species(map.forward, chunk.species), x, map.weights.data(), {0, chunk.size}, out);
}
/// The same backwards.
template <class T>
void map_rows_back(const Kernels<T>& kernels, const DeviceMap<T>& map, const Chunk& chunk, const T* x, T* out) {
  const Label label("maps of rows");
  kernels.map_rows(with_species(map.backward, chunk.species), x, map.transposed.data(), {0, chunk.size}, out);
}

/// Columns (EngineOutput::columns) of the chunk's centers from their products B [n, row].
template <class T>
void give_columns(const DeviceArray<T>& B, const Chunk& chunk, int row, int n_columns, const int32_t* species,
                  double* const* columns) {
  std::vector<T> host(static_cast<std::size_t>(chunk.size * row));
  B.download(host.data(), host.size());
  for (int n = 0; n < n_columns; ++n) {
    for (int64_t a = 0; columns[n] && a < chunk.size; ++a) {
      const bool absent = species[chunk.begin + a] == EngineInput::absent;
      columns[n][chunk.begin + a] = absent ? 0.0 : static_cast<double>(host[static_cast<std::size_t>(a * row + n)]);
    }
  }
}

}  // namespace tesseral::cuda
