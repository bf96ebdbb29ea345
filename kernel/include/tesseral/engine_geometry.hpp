// Directions of packs of edges in the native engine, and gradients by their vectors.
#pragma once

#include "tesseral/engine_atoms.hpp"
#include "tesseral/harmonics.hpp"
#include "tesseral/message.hpp"
#include "tesseral/radial.hpp"
#include "tesseral/rows.hpp"

namespace tesseral::TESSERAL_ISA {

/// Directions of the pack of edges from `first` on.
template <class T>
inline Direction<Pack<T>> direction_at(const EngineScratch<T>& work, int64_t first) {
  return {load(work.vector(0) + first), load(work.vector(1) + first), load(work.vector(2) + first)};
}

/// Sets the gradients by the vectors of a pack of edges from those by their harmonics [LM] and distances.
template <class T>
inline void set_gradients(const EngineParameters<T>& p, EngineScratch<T>& work, int64_t first, const Pack<T>* by_harmonics,
                          const Pack<T>& by_distance) {
  Pack<T> g[3];
  const auto unit = direction_at(work, first);
  Harmonics<Pack<T>>(p.density.harmonics, unit.x, unit.y, unit.z).contract_gradient(by_harmonics, g[0], g[1], g[2]);
  unit.project(g[0], g[1], g[2], by_distance);
  for (int axis = 0; axis < 3; ++axis) store(work.gradient(axis) + first, g[axis]);
}

}  // namespace tesseral::TESSERAL_ISA
