// The edges of one atom in the native engine: collected from the neighbour list, and their gradients turned into forces.
#pragma once

#include <algorithm>

#include "tesseral/density.hpp"
#include "tesseral/engine_atoms.hpp"
#include "tesseral/repulsion.hpp"

namespace tesseral::TESSERAL_ISA {

template <class T, class Sum>
class AtomEdges {
 public:
  AtomEdges(const EngineParameters<T>& parameters, const EngineInput& input, EngineScratch<T>& scratch,
            const EngineSums<Sum>& sums)
      : p_(parameters), input_(input), work_(scratch), sums_(sums) {}

  /// What `take` found.
  struct Taken {
    int64_t count;
    bool on_top;  // a neighbour is closer than shortest_distance
  };

  /// Collects the edges of atom i within the cutoff into the scratch from edge `first` on.
  Taken take(int64_t i, int64_t first) {
    const double cutoff = p_.density.radial.cutoff, cutoff2 = cutoff * cutoff;
    const double* ri = input_.positions + 3 * i;
    const NeighborRow& neighbors = input_.rows[i];
    int64_t count = 0;
    double least2 = cutoff2;
    for (int32_t e = 0; e < neighbors.count; ++e) {
      const int32_t j = neighbors.first_atom + (neighbors.neighbors[e] & input_.index_bits);
      const double* rj = input_.positions + 3 * static_cast<int64_t>(j);
      double d[3] = {rj[0] - ri[0], rj[1] - ri[1], rj[2] - ri[2]};
      if (neighbors.shifts) {
        for (int axis = 0; axis < 3; ++axis) d[axis] += neighbors.shifts[3 * e + axis];
      }
      const auto n = static_cast<std::size_t>(first + count);
      for (std::size_t axis = 0; axis < 3; ++axis) work_.vectors[3 * n + axis] = static_cast<T>(d[axis]);
      work_.species[n] = input_.species[j];
      work_.tables[n] = static_cast<int64_t>(input_.species[i]) * p_.density.n_species + input_.species[j];
      work_.neighbors[n] = j;
      // a distance that is not a number stays in, so that it shows in the results
      const double distance2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
      const bool taken = input_.species[j] != EngineInput::absent && !(distance2 >= cutoff2);
      if (taken) least2 = std::min(least2, distance2);
      count += taken;
    }
    return {count, least2 < shortest_distance * shortest_distance};
  }

  /// Energy of the short-range repulsion along edges of a center, half of each pair; adds its gradients.
  double add_repulsion(int64_t z, Range edges) {
    double energy = 0;
    const auto n_species = static_cast<int64_t>(p_.atomic_energy.size());
    for_each_pack<T>(edges.begin, edges.end, [&](const Lanes<T>& pack) {
      const auto pair_of = [&](int lane) {
        return static_cast<std::size_t>(z * n_species + work_.species[static_cast<std::size_t>(pack.edge[lane])]);
      };
      Pack<T> x, y, e, slope, strength = {}, inverse = broadcast<T>(1), outer = broadcast<T>(1), third;
      gather(work_.vectors.data(), pack, T(1), x, y, third);
      const Pack<T> r = square_root(x * x + y * y + third * third);
      bool close = false;
      for (int lane = 0; lane < pack.count; ++lane) {
        strength[lane] = p_.repulsion_strength[pair_of(lane)];
        inverse[lane] = p_.inverse_screening[pair_of(lane)];
        outer[lane] = p_.repulsion_outer[pair_of(lane)];
        close = close || !(r[lane] >= outer[lane]);
      }
      if (!close) return;
      repulsion(r, strength, inverse, outer, p_.repulsion, e, slope);
      const Pack<T> per_length = slope / r;
      for (int lane = 0; lane < pack.count; ++lane) {
        energy += static_cast<double>(e[lane]);
        T* target = work_.gradients.data() + 3 * pack.edge[lane];
        target[0] += per_length[lane] * x[lane];
        target[1] += per_length[lane] * y[lane];
        target[2] += per_length[lane] * third[lane];
      }
    });
    return energy;
  }

  /// F_i += g_ij, F_j -= g_ij; the virial r_ij (x) g_ij goes to i, and once more to j.
  void add_forces(int64_t i, Range edges) {
    Sum own[3] = {}, virial[9] = {};
    for (int64_t e = edges.begin; e < edges.end; ++e) {
      const T* g = work_.gradients.data() + 3 * e;
      const T* r = work_.vectors.data() + 3 * e;
      const auto j = static_cast<int64_t>(work_.neighbors[static_cast<std::size_t>(e)]);
      Sum* force = sums_.forces + 3 * j;
      for (int axis = 0; axis < 3; ++axis) {
        own[axis] += static_cast<Sum>(g[axis]);
        force[axis] -= static_cast<Sum>(g[axis]);
        for (int other = 0; other < 3; ++other) {
          virial[3 * axis + other] += static_cast<Sum>(r[axis]) * static_cast<Sum>(g[other]);
        }
      }
      if (sums_.neighbor_virials) add_neighbor_virial(r, g, sums_.neighbor_virials + 9 * j);
    }
    for (int axis = 0; axis < 3; ++axis) sums_.forces[3 * i + axis] += own[axis];
    if (!sums_.virials) return;
    for (int n = 0; n < 9; ++n) sums_.virials[9 * i + n] += static_cast<double>(virial[n]);
  }

 private:
  const EngineParameters<T>& p_;
  const EngineInput& input_;
  EngineScratch<T>& work_;
  const EngineSums<Sum>& sums_;

  static void add_neighbor_virial(const T* r, const T* g, Sum* virial) {
    for (int axis = 0; axis < 3; ++axis) {
      for (int other = 0; other < 3; ++other) {
        virial[3 * axis + other] += static_cast<Sum>(r[axis]) * static_cast<Sum>(g[other]);
      }
    }
  }
};

}  // namespace tesseral::TESSERAL_ISA
