// The neighbour densities of a block of atoms in the native engine, and their gradient: the same sums as in density.hpp,
// which knows further derivatives. Harmonics and radial functions are worked out once, for packs of edges of the whole
// block.
#pragma once

#include "tesseral/engine_geometry.hpp"

namespace tesseral::TESSERAL_ISA {

template <class T>
class BlockDensity {
 public:
  BlockDensity(const EngineParameters<T>& parameters, EngineScratch<T>& scratch)
      : p_(parameters),
        work_(scratch),
        n_radial_(parameters.density.radial.n_radial),
        harmonic_row_(padded<T>(parameters.n_harmonics())),
        entry_row_(harmonic_row_ + lanes<T>) {}

  /// Harmonics and radial functions of the edges in the scratch; before anything else.
  void set_edges(int64_t n_edges) {
    const int64_t* tables = p_.radial.by_pair() ? work_.tables.data() : nullptr;
    for (int64_t first = 0; first < n_edges; first += lanes<T>) {
      Pack<T> Y[padded<T>(max_harmonics)], R[max_radial], dR[max_radial];
      const auto unit = direction_at(work_, first);
      Harmonics<Pack<T>>(p_.density.harmonics, unit.x, unit.y, unit.z).values(Y);
      for (int lm = p_.n_harmonics(); lm < harmonic_row_; ++lm) Y[lm] = Pack<T>{};
      for (int block = 0; block < harmonic_row_; block += lanes<T>) {
        transpose<T>(Y + block);
        for (int lane = 0; lane < lanes<T>; ++lane) store(harmonics_of(first + lane) + block, Y[block + lane]);
      }
      radial_functions(p_.density.radial, unit.length, tables ? tables + first : nullptr, R, dR);
      for (int q = 0; q < n_radial_; ++q) {
        store(work_.radial.data() + q * work_.stride + first, R[q]);
        store(work_.slopes.data() + q * work_.stride + first, dR[q]);
      }
    }
  }

  /// Overwrites phi [n_inputs, harmonic_row] with the density of some edges, those of one center.
  void set(Range edges, T* phi) const {
    fill_zero(phi, p_.n_inputs * harmonic_row_);
    for_each_species(edges, [&](int64_t species, Range run) {
      T* rows = phi + species * n_radial_ * harmonic_row_;
      int q = 0;
      for (; q + 8 <= n_radial_; q += 8) sum_edges<8>(q, run, rows);
      for (; q + 4 <= n_radial_; q += 4) sum_edges<4>(q, run, rows);
      for (; q < n_radial_; ++q) sum_edges<1>(q, run, rows);
    });
  }

  /// From the gradient by the density, dphi, to those by the harmonics and the distances of some edges, those of one center;
  /// set_rows(species, rows) sets the rows [n_radial, harmonic_row] of dphi of a species of neighbours.
  template <class SetRows>
  void gradient(Range edges, SetRows set_rows) {
    for_each_species(edges, [&](int64_t species, Range run) {
      set_rows(species, work_.dphi.data());
      int64_t e = run.begin;
      for (; e + 4 <= run.end; e += 4) edge_gradients<4>(e);
      for (; e < run.end; ++e) edge_gradients<1>(e);
    });
  }

  /// Gradients of all edges by their vectors, after `gradient` for all.
  void set_edge_gradients(int64_t n_edges) {
    for (int64_t first = 0; first < n_edges; first += lanes<T>) {
      Pack<T> by_harmonics[padded<T>(max_harmonics)], by_distance[lanes<T>];
      for (int block = 0; block < harmonic_row_; block += lanes<T>) {
        for (int lane = 0; lane < lanes<T>; ++lane) by_harmonics[block + lane] = load(entries_of(first + lane) + block);
        transpose<T>(by_harmonics + block);
      }
      for (int lane = 0; lane < lanes<T>; ++lane) by_distance[lane] = load(entries_of(first + lane) + harmonic_row_);
      set_gradients(p_, work_, first, by_harmonics, fold_all<T>(by_distance));
    }
  }

 private:
  const EngineParameters<T>& p_;
  EngineScratch<T>& work_;
  int n_radial_, harmonic_row_;
  int entry_row_;  // of an edge: gradient by its harmonics, then a pack whose lanes sum up to that by its distance

  T* harmonics_of(int64_t edge) const { return work_.harmonics.data() + edge * harmonic_row_; }
  T* entries_of(int64_t edge) const { return work_.by_edge.data() + edge * entry_row_; }

  /// visit(species, edges) for the neighbours of each species; edges are sorted by it.
  template <class Visit>
  void for_each_species(Range edges, Visit visit) const {
    for (int64_t begin = edges.begin; begin < edges.end;) {
      const int64_t species = work_.species[static_cast<std::size_t>(begin)];
      int64_t end = p_.density.n_species == 1 ? edges.end : begin + 1;
      while (end < edges.end && work_.species[static_cast<std::size_t>(end)] == species) ++end;
      visit(species, Range{begin, end});
      begin = end;
    }
  }

  /// Q rows from q on: sums over the edges of R_q Y.
  template <int Q>
  void sum_edges(int q, Range edges, T* rows) const {
    const T* R = work_.radial.data() + q * work_.stride;
    for (int block = 0; block < harmonic_row_; block += lanes<T>) {
      Pack<T> sums[Q] = {};
      for (int64_t e = edges.begin; e < edges.end; ++e) {
        const Pack<T> y = load(harmonics_of(e) + block);
        TESSERAL_UNROLL for (int n = 0; n < Q; ++n) sums[n] += R[n * work_.stride + e] * y;
      }
      TESSERAL_UNROLL for (int n = 0; n < Q; ++n) store(rows + (q + n) * harmonic_row_ + block, sums[n]);
    }
  }

  /// Gradients of E edges from `first` on by their harmonics and distances.
  template <int E>
  void edge_gradients(int64_t first) {
    const T *R = work_.radial.data() + first, *dR = work_.slopes.data() + first;
    Pack<T> by_distance[E] = {};
    for (int block = 0; block < harmonic_row_; block += lanes<T>) {
      Pack<T> angular[E] = {}, slope[E] = {};
      for (int q = 0; q < n_radial_; ++q) {
        const Pack<T> row = load(work_.dphi.data() + q * harmonic_row_ + block);
        TESSERAL_UNROLL for (int e = 0; e < E; ++e) {
          angular[e] += R[q * work_.stride + e] * row;
          slope[e] += dR[q * work_.stride + e] * row;
        }
      }
      TESSERAL_UNROLL for (int e = 0; e < E; ++e) {
        store(entries_of(first + e) + block, angular[e]);
        by_distance[e] += slope[e] * load(harmonics_of(first + e) + block);
      }
    }
    TESSERAL_UNROLL for (int e = 0; e < E; ++e) store(entries_of(first + e) + harmonic_row_, by_distance[e]);
  }
};

}  // namespace tesseral::TESSERAL_ISA
