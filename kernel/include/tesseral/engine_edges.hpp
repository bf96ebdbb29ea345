// The edges of a block of atoms in the native engine: collected from the neighbour list, their geometry, and their gradients
// turned into forces.
#pragma once

#include <algorithm>
#include <type_traits>

#include "tesseral/engine_atoms.hpp"
#include "tesseral/harmonics.hpp"
#include "tesseral/message.hpp"
#include "tesseral/repulsion.hpp"
#include "tesseral/rows.hpp"

namespace tesseral::TESSERAL_ISA {

/// The numbers of a pack as packs of sums, which may be wider.
template <class Sum, class T>
struct Widened {
  static constexpr int n_parts = sizeof(Sum) / sizeof(T);
  Pack<Sum> parts[n_parts];

  explicit Widened(const Pack<T>& pack) {
    if constexpr (n_parts == 1) {
      parts[0] = pack;
    } else {
      typedef T Part __attribute__((vector_size(TESSERAL_VECTOR_BYTES / n_parts)));
      Part narrow[n_parts];
      __builtin_memcpy(narrow, &pack, sizeof pack);
      for (int n = 0; n < n_parts; ++n) parts[n] = __builtin_convertvector(narrow[n], Pack<Sum>);
    }
  }
};

/// Packs of edges count from the first of the block; lanes beyond the last edge hold a neighbour beyond the cutoff.
template <class T, class Sum>
class BlockEdges {
 public:
  BlockEdges(const EngineParameters<T>& parameters, const EngineInput& input, EngineScratch<T>& scratch,
             const EngineSums<Sum>& sums)
      : p_(parameters), input_(input), work_(scratch), sums_(sums), with_tables_(parameters.radial_by_pair()) {}

  /// What `take` found.
  struct Taken {
    int64_t count;
    bool on_top;  // a neighbour is closer than shortest_distance
  };

  /// Collects the edges of atom i within the cutoff into the scratch from edge `first` on, by species of the neighbour.
  Taken take(int64_t i, int64_t first) {
    const double cutoff = p_.density.radial.cutoff, cutoff2 = cutoff * cutoff;
    const double* ri = input_.positions + 3 * i;
    const NeighborRow& neighbors = input_.rows[i];
    int64_t n = first;
    double least2 = cutoff2;
    for (int32_t e = 0; e < neighbors.count; ++e) {
      const int32_t j = neighbors.first_atom + (neighbors.neighbors[e] & input_.index_bits);
      const double* rj = input_.positions + 3 * static_cast<int64_t>(j);
      double d[3] = {rj[0] - ri[0], rj[1] - ri[1], rj[2] - ri[2]};
      if (neighbors.shifts) {
        for (int axis = 0; axis < 3; ++axis) d[axis] += neighbors.shifts[3 * e + axis];
      }
      for (int axis = 0; axis < 3; ++axis) work_.vector(axis)[n] = static_cast<T>(d[axis]);
      work_.species[static_cast<std::size_t>(n)] = input_.species[j];
      work_.neighbors[static_cast<std::size_t>(n)] = j;
      // a distance that is not a number stays in, so that it shows in the results
      const double distance2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
      const bool taken = input_.species[j] != EngineInput::absent && !(distance2 >= cutoff2);
      if (taken) least2 = std::min(least2, distance2);
      n += taken;
    }
    if (p_.density.n_species > 1) sort_by_species({first, n});
    for (int64_t e = first; with_tables_ && e < n; ++e) {
      const auto at = static_cast<std::size_t>(e);
      work_.tables[at] = static_cast<int64_t>(input_.species[i]) * p_.density.n_species + work_.species[at];
    }
    return {n - first, least2 < shortest_distance * shortest_distance};
  }

  /// Fills the last pack of the edges of a block; after `take` for all its atoms.
  void close(int64_t n_edges) {
    for (int64_t e = n_edges; e < padded<T>(static_cast<int>(n_edges)); ++e) {
      work_.vector(0)[e] = T(2) * p_.density.radial.cutoff;
      work_.vector(1)[e] = work_.vector(2)[e] = 0;
      work_.species[static_cast<std::size_t>(e)] = 0;
      work_.tables[static_cast<std::size_t>(e)] = 0;
    }
  }

  /// Energy of the short-range repulsion along edges of a center, half of each pair; adds its gradients.
  double add_repulsion(int64_t z, Range edges) {
    double energy = 0;
    const auto n_species = static_cast<int64_t>(p_.atomic_energy.size());
    for (int64_t first = edges.begin; first < edges.end; first += lanes<T>) {
      const int count = count_of(first, edges);
      const auto pair_of = [&](int lane) {
        return static_cast<std::size_t>(z * n_species + work_.species[static_cast<std::size_t>(first + lane)]);
      };
      const Pack<T> x = load(work_.vector(0) + first), y = load(work_.vector(1) + first),
                    third = load(work_.vector(2) + first);
      const Pack<T> r = square_root(x * x + y * y + third * third);
      Pack<T> e, slope, strength = {}, inverse = broadcast<T>(1), outer = broadcast<T>(1);
      bool close = false;
      for (int lane = 0; lane < count; ++lane) {
        strength[lane] = p_.repulsion_strength[pair_of(lane)];
        inverse[lane] = p_.inverse_screening[pair_of(lane)];
        outer[lane] = p_.repulsion_outer[pair_of(lane)];
        close = close || !(r[lane] >= outer[lane]);
      }
      if (!close) continue;
      repulsion(r, strength, inverse, outer, p_.repulsion, e, slope);
      const Pack<T> per_length = slope / r;
      for (int lane = 0; lane < count; ++lane) {
        energy += static_cast<double>(e[lane]);
        work_.gradient(0)[first + lane] += per_length[lane] * x[lane];
        work_.gradient(1)[first + lane] += per_length[lane] * y[lane];
        work_.gradient(2)[first + lane] += per_length[lane] * third[lane];
      }
    }
    return energy;
  }

  /// F_i += g_ij, F_j -= g_ij; the virial r_ij (x) g_ij goes to i, and once more to j.
  void add_forces(int64_t i, Range edges) {
    Pack<Sum> sums[padded<Sum>(n_sums)] = {};  // force, then virial
    for (int64_t first = edges.begin; first < edges.end; first += lanes<T>) add_to_sums(first, count_of(first, edges), sums);
    const T *gx = work_.gradient(0), *gy = work_.gradient(1), *gz = work_.gradient(2);
    for (int64_t e = edges.begin; e < edges.end; ++e) {
      Sum* force = sums_.forces + 3 * static_cast<int64_t>(work_.neighbors[static_cast<std::size_t>(e)]);
      force[0] -= static_cast<Sum>(gx[e]);
      force[1] -= static_cast<Sum>(gy[e]);
      force[2] -= static_cast<Sum>(gz[e]);
    }
    Sum totals[padded<Sum>(n_sums)];
    for (int n = 0; n < n_sums; n += lanes<Sum>) store(totals + n, fold_all<Sum>(sums + n));
    for (int axis = 0; axis < 3; ++axis) sums_.forces[3 * i + axis] += totals[axis];
    if (sums_.neighbor_virials) add_neighbor_virials(edges);
    if (!sums_.virials) return;
    for (int n = 0; n < 9; ++n) sums_.virials[9 * i + n] += static_cast<double>(totals[3 + n]);
  }

 private:
  static constexpr int n_sums = 12;

  const EngineParameters<T>& p_;
  const EngineInput& input_;
  EngineScratch<T>& work_;
  const EngineSums<Sum>& sums_;
  bool with_tables_;

  static int count_of(int64_t first, Range edges) {
    return static_cast<int>(std::min<int64_t>(edges.end - first, lanes<T>));
  }

  /// Adds the gradients of a pack of edges and their virials.
  void add_to_sums(int64_t first, int count, Pack<Sum>* sums) const {
    using Wide = Widened<Sum, T>;
    Pack<T> r[3], g[3], present = {};
    for (int lane = 0; lane < lanes<T>; ++lane) present[lane] = T(lane < count);
    for (int axis = 0; axis < 3; ++axis) {
      r[axis] = select(present > T(0), load(work_.vector(axis) + first), Pack<T>{});
      g[axis] = select(present > T(0), load(work_.gradient(axis) + first), Pack<T>{});
    }
    const Wide wide_r[3] = {Wide(r[0]), Wide(r[1]), Wide(r[2])}, wide_g[3] = {Wide(g[0]), Wide(g[1]), Wide(g[2])};
    for (int part = 0; part < Wide::n_parts; ++part) {
      for (int axis = 0; axis < 3; ++axis) {
        sums[axis] += wide_g[axis].parts[part];
        for (int other = 0; other < 3; ++other) {
          sums[3 + 3 * axis + other] += wide_r[axis].parts[part] * wide_g[other].parts[part];
        }
      }
    }
  }

  void add_neighbor_virials(Range edges) {
    for (int64_t e = edges.begin; e < edges.end; ++e) {
      Sum* virial = sums_.neighbor_virials + 9 * static_cast<int64_t>(work_.neighbors[static_cast<std::size_t>(e)]);
      for (int axis = 0; axis < 3; ++axis) {
        for (int other = 0; other < 3; ++other) {
          virial[3 * axis + other] += static_cast<Sum>(work_.vector(axis)[e]) * static_cast<Sum>(work_.gradient(other)[e]);
        }
      }
    }
  }

  /// Counting sort, which keeps the order within a species.
  void sort_by_species(Range edges) {
    auto& places = work_.species_places;
    std::fill(places.begin(), places.end(), 0);
    for (int64_t e = edges.begin; e < edges.end; ++e) {
      const auto at = static_cast<std::size_t>(e);
      work_.unsorted[at] = {
          work_.species[at], work_.neighbors[at], {work_.vector(0)[e], work_.vector(1)[e], work_.vector(2)[e]}};
      ++places[static_cast<std::size_t>(work_.species[at]) + 1];
    }
    places[0] = edges.begin;
    for (std::size_t z = 1; z < places.size(); ++z) places[z] += places[z - 1];
    for (int64_t e = edges.begin; e < edges.end; ++e) {
      const auto& edge = work_.unsorted[static_cast<std::size_t>(e)];
      const int64_t place = places[static_cast<std::size_t>(edge.species)]++;
      const auto at = static_cast<std::size_t>(place);
      work_.species[at] = edge.species;
      work_.neighbors[at] = edge.neighbor;
      for (int axis = 0; axis < 3; ++axis) work_.vector(axis)[place] = edge.vector[axis];
    }
  }
};

}  // namespace tesseral::TESSERAL_ISA
