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

}  // namespace tesseral::cuda
