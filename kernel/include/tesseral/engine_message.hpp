// Messages to the atoms of a block in the native engine: the same sums as in message.hpp, which knows further derivatives.
//
//   R_{p,k}(j) = sum_q g_q(r_ij) W_{p,q,k}, or splines of their own for each p, k
//   M_{o,k} = sum over the rows (p, x) of the coupling table and edges j of T_{p,x,o}(j) R_{p,k}(j) h_{j,x,k},
//   T_{p,x,o}(j) = sum over terms of coupling * Y(r_ij)
//
// Backwards, with G = dE/dM: S_x(j) = sum_o T_{p,x,o}(j) G_o, dE/dh_{j,x} += R_p(j) S_x(j), dE/dR_p(j) = sum_x h_{j,x}
// S_x(j), and dE/dT_{p,x,o}(j) = sum_k G_{o,k} R_{p,k}(j) h_{j,x,k}. Channels fill the lanes. R is worked out again
// backwards: that costs less than to keep it.
#pragma once

#include <algorithm>
#include <type_traits>

#include "tesseral/engine_geometry.hpp"

namespace tesseral::TESSERAL_ISA {

template <class T>
class BlockMessages {
 public:
  BlockMessages(const EngineParameters<T>& parameters, const LayerMessage<T>& message, const EnginePass<T>& pass,
                EngineScratch<T>& scratch)
      : p_(parameters),
        message_(message),
        pass_(pass),
        work_(scratch),
        row_(parameters.channel_row),
        entries_(padded<T>(static_cast<int>(message.couplings.entries.size()))) {}

  /// Radial functions and couplings of the edges in the scratch; before anything else.
  void set_edges(int64_t n_edges) {
    for (int64_t first = 0; first < n_edges; first += lanes<T>) {
      Pack<T> Y[max_harmonics];
      const auto unit = direction_at(work_, first);
      Harmonics<Pack<T>>(p_.density.harmonics, unit.x, unit.y, unit.z).values(Y);
      set_radial(first, unit.length);
      const CouplingTable<T>& table = message_.couplings;
      for (std::size_t n = 0; n < table.entries.size(); ++n) {
        Pack<T> sum = {};
        for (int32_t t = table.entries[n].first_term; t < table.entries[n].last_term; ++t) {
          const auto& term = table.terms[static_cast<std::size_t>(t)];
          sum += term.coupling * Y[term.harmonic];
        }
        store(work_.couplings.data() + static_cast<int64_t>(n) * work_.stride + first, sum);
      }
    }
  }

  /// Overwrites out [outputs, row] with the messages along some edges, those of one center.
  void set(Range edges, T* out) const {
    fill_zero(out, message_.n_outputs * row_);
    for (int path = 0; path < message_.n_paths(); ++path) {
      with_outputs(path, [&](auto n_outs) { add_path<decltype(n_outs)::value>(path, edges, out); });
    }
  }

  /// From G = dE/d(message) [outputs, row] along some edges to their gradients, and added to the adjoints of the features.
  void gradient(Range edges, const T* G) {
    int64_t e = edges.begin;
    for (; e + gradient_edges <= edges.end; e += gradient_edges) edge_gradients<gradient_edges>(e, G);
    for (; e < edges.end; ++e) edge_gradients<1>(e, G);
  }

  /// Gradients of all edges by their vectors, after `gradient` for all.
  void set_edge_gradients(int64_t n_edges) {
    for (int64_t first = 0; first < n_edges; first += lanes<T>) {
      Pack<T> by_harmonics[max_harmonics] = {}, by_distance[lanes<T>];
      const CouplingTable<T>& table = message_.couplings;
      const auto n_entries = static_cast<int>(table.entries.size());
      for (int block = 0; block < n_entries; block += lanes<T>) {
        Pack<T> sums[lanes<T>];
        for (int lane = 0; lane < lanes<T>; ++lane) sums[lane] = load(entries_of(first + lane) + block);
        transpose<T>(sums);
        for (int n = block; n < n_entries && n < block + lanes<T>; ++n) {
          const auto& entry = table.entries[static_cast<std::size_t>(n)];
          for (int32_t t = entry.first_term; t < entry.last_term; ++t) {
            const auto& term = table.terms[static_cast<std::size_t>(t)];
            by_harmonics[term.harmonic] += term.coupling * sums[n - block];
          }
        }
      }
      for (int lane = 0; lane < lanes<T>; ++lane) by_distance[lane] = load(entries_of(first + lane) + entries_);
      set_gradients(p_, work_, first, by_harmonics, fold_all<T>(by_distance));
    }
  }

 private:
  /// Outputs of a path that the compiler knows the number of; more are done in a loop.
  static constexpr int most_known_outputs = 7;
  static constexpr int most_outputs = 2 * max_l + 1;
  /// Edges that share the loads of a path's weights.
  static constexpr int message_edges = 4, gradient_edges = 2;

  const EngineParameters<T>& p_;
  const LayerMessage<T>& message_;
  const EnginePass<T>& pass_;
  EngineScratch<T>& work_;
  int row_;
  int entries_;  // padded; of an edge: gradient by its couplings, then a pack whose lanes sum up to that by its distance
  // of some edges, channels in lanes: by the couplings, by the distance
  Pack<T> sums_[gradient_edges][most_coupling_entries + lanes<T>];

  T* entries_of(int64_t edge) const { return work_.by_edge.data() + edge * (entries_ + lanes<T>); }
  bool by_channel() const { return !message_.channel_tables.empty(); }

  /// visit(number of outputs of the path), or 0 where it is not one of the common ones
  template <class Visit>
  void with_outputs(int path, Visit visit) const {
    switch (message_.couplings.paths[static_cast<std::size_t>(path)].n_outs) {
      case 1:
        return visit(std::integral_constant<int, 1>());
      case 3:
        return visit(std::integral_constant<int, 3>());
      case 5:
        return visit(std::integral_constant<int, 5>());
      case 7:
        return visit(std::integral_constant<int, most_known_outputs>());
      default:
        return visit(std::integral_constant<int, 0>());
    }
  }

  void set_radial(int64_t first, const Pack<T>& distances) {
    const RadialBasis<T>& basis = message_.radial.basis;
    if (by_channel()) return set_pieces(first, (T(basis.n_intervals) / basis.cutoff) * distances);
    Pack<T> R[max_radial], dR[max_radial];
    radial_functions(basis, distances, message_.radial.by_pair() ? work_.tables.data() + first : nullptr, R, dR);
    for (int q = 0; q < basis.n_radial; ++q) {
      store(work_.radial.data() + q * work_.stride + first, R[q]);
      store(work_.slopes.data() + q * work_.stride + first, dR[q]);
    }
  }

  /// Where the edges of a pack lie in the channel tables.
  void set_pieces(int64_t first, const Pack<T>& distances) {
    const int n_intervals = message_.radial.basis.n_intervals;
    const int64_t size = int64_t{message_.n_paths()} * message_.radial.basis.n_powers * row_;
    for (int lane = 0; lane < lanes<T>; ++lane) {
      const auto e = static_cast<std::size_t>(first + lane);
      // a distance that is not a number stays one in the position
      const int interval = distances[lane] >= 0 ? std::min(static_cast<int>(distances[lane]), n_intervals - 1) : 0;
      const int64_t table = message_.radial.by_pair() ? work_.tables[e] : 0;
      work_.pieces[e] = message_.channel_tables.data() + (table * n_intervals + interval) * size;
      work_.positions[e] = distances[lane] - T(interval);
    }
  }

  /// R of a path and of E edges from `first` on in B packs of channels, and dR/dr.
  template <int E, int B, bool with_slope>
  [[gnu::always_inline]] void radial(int path, int64_t first, int block, Pack<T> (&R)[E][B], Pack<T> (&slope)[E][B]) const {
    if (by_channel()) {
      TESSERAL_UNROLL for (int e = 0; e < E; ++e) radial_by_channel<B, with_slope>(path, first + e, block, R[e], slope[e]);
      return;
    }
    const int n_radial = message_.radial.basis.n_radial, row = row_;
    const T* weights = message_.weights.data() + int64_t{path} * n_radial * row + block;
    const T *g = work_.radial.data() + first, *dg = work_.slopes.data() + first;
    TESSERAL_UNROLL for (int e = 0; e < E; ++e) {
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) R[e][b] = slope[e][b] = Pack<T>{};
    }
    for (int q = 0; q < n_radial; ++q, weights += row, g += work_.stride, dg += work_.stride) {
      Pack<T> w[B];
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) w[b] = load(weights + b * lanes<T>);
      TESSERAL_UNROLL for (int e = 0; e < E; ++e) {
        TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
          R[e][b] += g[e] * w[b];
          if constexpr (with_slope) slope[e][b] += dg[e] * w[b];
        }
      }
    }
  }

  template <int B, bool with_slope>
  [[gnu::always_inline]] void radial_by_channel(int path, int64_t edge, int block, Pack<T> (&R)[B],
                                                Pack<T> (&slope)[B]) const {
    const RadialBasis<T>& basis = message_.radial.basis;
    const int row = row_;
    const T* piece = work_.pieces[static_cast<std::size_t>(edge)] + int64_t{path} * basis.n_powers * row + block;
    const T t = work_.positions[static_cast<std::size_t>(edge)];
    TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
      R[b] = load(piece + (basis.n_powers - 1) * row + b * lanes<T>);
      slope[b] = Pack<T>{};
    }
    for (int power = basis.n_powers - 2; power >= 0; --power) {
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
        if constexpr (with_slope) slope[b] = slope[b] * t + R[b];
        R[b] = R[b] * t + load(piece + power * row + b * lanes<T>);
      }
    }
    const T per_length = T(basis.n_intervals) / basis.cutoff;
    TESSERAL_UNROLL for (int b = 0; b < B; ++b) slope[b] = per_length * slope[b];
  }

  /// Adds the messages of a path. `known` outputs, or if 0 as many as it has; their sums stay in registers.
  template <int known>
  void add_path(int path, Range edges, T* out) const {
    constexpr int packs = known == 0 ? 1 : 2;  // of channels at once
    int block = 0;
    for (; block + packs * lanes<T> <= row_; block += packs * lanes<T>)
      add_path_block<known, packs>(path, edges, block, out);
    for (; block < row_; block += lanes<T>) add_path_block<known, 1>(path, edges, block, out);
  }

  template <int known, int B>
  void add_path_block(int path, Range edges, int block, T* out) const {
    const auto& of_path = message_.couplings.paths[static_cast<std::size_t>(path)];
    const int n_outs = known ? known : of_path.n_outs, row = row_;
    Pack<T> sums[known ? known : most_outputs][B];
    TESSERAL_UNROLL for (int o = 0; o < n_outs; ++o) {
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) sums[o][b] = Pack<T>{};
    }
    int64_t e = edges.begin;
    for (; e + message_edges <= edges.end; e += message_edges)
      add_edges<known, B, message_edges>(path, e, block, n_outs, sums);
    for (; e < edges.end; ++e) add_edges<known, B, 1>(path, e, block, n_outs, sums);
    TESSERAL_UNROLL for (int o = 0; o < n_outs; ++o) {
      T* target = out + (of_path.first_out + o) * row + block;
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
        store(target + b * lanes<T>, load(target + b * lanes<T>) + sums[o][b]);
      }
    }
  }

  /// Adds the messages along E edges from `first` on to the sums of a path's outputs.
  template <int known, int B, int E, std::size_t n_sums>
  [[gnu::always_inline]] void add_edges(int path, int64_t first, int block, int n_outputs,
                                        Pack<T> (&sums)[n_sums][B]) const {
    const auto& of_path = message_.couplings.paths[static_cast<std::size_t>(path)];
    const int n_outs = known ? known : n_outputs;
    const int64_t stride = work_.stride;
    Pack<T> R[E][B], slope[E][B];
    radial<E, B, false>(path, first, block, R, slope);
    for (int32_t x = of_path.first_row; x < of_path.last_row; ++x) {
      const auto& of_row = message_.couplings.rows[static_cast<std::size_t>(x)];
      const T* couplings = work_.couplings.data() + int64_t{of_row.first_entry} * stride + first;
      TESSERAL_UNROLL for (int e = 0; e < E; ++e) {
        const T* h = neighbor_row(pass_.before, first + e, of_row.component) + block;
        Pack<T> Rh[B];
        TESSERAL_UNROLL for (int b = 0; b < B; ++b) Rh[b] = R[e][b] * load(h + b * lanes<T>);
        TESSERAL_UNROLL for (int o = 0; o < n_outs; ++o) {
          const T coupling = couplings[o * stride + e];
          TESSERAL_UNROLL for (int b = 0; b < B; ++b) sums[o][b] += coupling * Rh[b];
        }
      }
    }
  }

  /// [row] of the features that the neighbour of an edge hands on, or of their adjoints.
  template <class Number>
  Number* neighbor_row(Number* rows, int64_t edge, int component) const {
    return rows + work_.neighbors[static_cast<std::size_t>(edge)] * p_.feature_row() + int64_t{component} * row_;
  }

  /// Gradients of E edges from `first` on.
  template <int E>
  void edge_gradients(int64_t first, const T* G) {
    for (int e = 0; e < E; ++e) std::fill_n(sums_[e], entries_ + 1, Pack<T>{});
    for (int path = 0; path < message_.n_paths(); ++path) {
      with_outputs(path, [&](auto n_outs) { add_path_gradient<decltype(n_outs)::value, E>(path, first, G); });
    }
    for (int e = 0; e < E; ++e) {
      T* entries = entries_of(first + e);
      store(entries + entries_, sums_[e][entries_]);
      for (int n = 0; n < entries_; n += lanes<T>) store(entries + n, fold_all<T>(sums_[e] + n));
    }
  }

  /// Adds to sums_ and to the adjoints of the neighbours' features.
  template <int known, int E>
  void add_path_gradient(int path, int64_t first, const T* G) {
    constexpr int packs = known == 0 ? 1 : known <= 3 ? 4 : 2;  // of channels at once
    const auto& of_path = message_.couplings.paths[static_cast<std::size_t>(path)];
    for (int32_t x = of_path.first_row; x < of_path.last_row; ++x) {
      const auto& of_row = message_.couplings.rows[static_cast<std::size_t>(x)];
      RowGradient<known, E> row{known ? known : of_path.n_outs,
                                G + of_path.first_out * row_,
                                work_.couplings.data() + int64_t{of_row.first_entry} * work_.stride + first,
                                {},
                                {}};
      for (int e = 0; e < E; ++e) {
        row.h[e] = neighbor_row(pass_.before, first + e, of_row.component);
        row.dh[e] = neighbor_row(pass_.adjoints_before, first + e, of_row.component);
      }
      int block = 0;
      for (; block + packs * lanes<T> <= row_; block += packs * lanes<T>) {
        add_row_gradient<known, packs>(path, first, block, row);
      }
      for (; block < row_; block += lanes<T>) add_row_gradient<known, 1>(path, first, block, row);
      for (int e = 0; e < E; ++e) {
        for (int o = 0; o < row.n_outs; ++o) sums_[e][of_row.first_entry + o] = row.by_coupling[e][o];
        sums_[e][entries_] += row.by_distance[e];
      }
    }
  }

  /// One component of h along E edges: its part of a message's gradient.
  template <int known, int E>
  struct RowGradient {
    int n_outs;
    const T* cotangents;                                        // [n_outs, row]
    const T* couplings;                                         // [n_outs, stride], of the edges from the first on
    const T* h[E];                                              // [row]
    T* dh[E];                                                   // [row]
    Pack<T> by_coupling[E][known ? known : most_outputs] = {};  // channels in lanes
    Pack<T> by_distance[E] = {};
  };

  template <int known, int B, int E>
  [[gnu::always_inline]] void add_row_gradient(int path, int64_t first, int block, RowGradient<known, E>& x) const {
    const int n_outs = known ? known : x.n_outs, row = row_;
    const int64_t stride = work_.stride;
    Pack<T> R[E][B], slope[E][B];
    radial<E, B, true>(path, first, block, R, slope);
    TESSERAL_UNROLL for (int e = 0; e < E; ++e) {
      Pack<T> h[B], Rh[B], S[B];
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
        h[b] = load(x.h[e] + block + b * lanes<T>);
        Rh[b] = R[e][b] * h[b];
        S[b] = Pack<T>{};
      }
      TESSERAL_UNROLL for (int o = 0; o < n_outs; ++o) {
        const T coupling = x.couplings[o * stride + e];
        TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
          const Pack<T> g = load(x.cotangents + o * row + block + b * lanes<T>);
          S[b] += coupling * g;
          x.by_coupling[e][o] += g * Rh[b];
        }
      }
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
        T* dh = x.dh[e] + block + b * lanes<T>;
        store(dh, load(dh) + R[e][b] * S[b]);
        x.by_distance[e] += slope[e][b] * (h[b] * S[b]);
      }
    }
  }
};

}  // namespace tesseral::TESSERAL_ISA
