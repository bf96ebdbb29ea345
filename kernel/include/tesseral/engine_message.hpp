// Messages to one center of the native engine, all its edges at once: small matrix products with the channels in SIMD lanes.
// The same sums as in message.hpp, which works edge by edge and knows further derivatives:
//
//   R_{p,k}(j) = sum_q g_q(r_ij) W_{p,q,k}        [edges, channels], from [edges, Q] and [Q, channels], or as splines of
//                                                 their own for each p, k
//   M_{lm,k} = sum over rows (p, x) of the table and their entries n with output lm of sum_j T_n(j) R_{p,k}(j) h_{j,x,k},
//   T_n(j) = sum over terms of coupling * Y(r_ij)
//
// Backwards, with G = dE/dM: S(j) = sum_n T_n(j) G_{lm(n)}, dE/dh_{j,x} += R_p(j) S(j), dE/dR_p(j) += h_{j,x} S(j), and
// dE/dT_n(j) = sum_k G_{lm(n),k} R_{p,k}(j) h_{j,x,k}.
#pragma once

#include <type_traits>

#include "tesseral/density.hpp"
#include "tesseral/engine_atoms.hpp"
#include "tesseral/message.hpp"
#include "tesseral/rows.hpp"

namespace tesseral::TESSERAL_ISA {

template <class T>
class AtomMessages {
 public:
  AtomMessages(const EngineParameters<T>& parameters, const LayerMessage<T>& message, const EnginePass<T>& pass,
               EngineScratch<T>& scratch)
      : p_(parameters), message_(message), pass_(pass), work_(scratch), row_(parameters.channel_row) {}

  /// Overwrites out [outputs, row] with the messages along the edges in the scratch. `gradient` may be called only if
  /// wanted.
  void set(int64_t n_edges, bool gradient_wanted, T* out) {
    n_edges_ = static_cast<int>(n_edges);
    stride_ = padded<T>(n_edges_);
    set_functions();
    fill_zero(out, message_.n_outputs * row_);
    const MessageTable<T>& table = *message_.terms;
    for_each_tile([&](auto edges, auto packs, int path, int edge, int block) {
      constexpr int M = decltype(edges)::value, B = decltype(packs)::value;
      if (by_channel()) {
        set_spline_tile<M, B>(path, edge, block, gradient_wanted);
      } else {
        set_mixed_tile<M, B>(path, edge, block);
      }
      set_products<M, B>(path, edge, block);
    });
    for (const auto& row : table.rows) {
      multiply_matrix<T, true>(work_.couplings.data() + int64_t{row.first_entry} * stride_, stride_,
                               row.last_entry - row.first_entry, products(row), n_edges_, row_, [&](int n) {
                                 return out + table.entries[static_cast<std::size_t>(row.first_entry + n)].out * row_;
                               });
    }
  }

  /// After `set`: from G = dE/d(message) to the gradients of the edges, and added to the adjoints of the features.
  void gradient(const T* G) {
    std::fill(work_.by_distance.begin(), work_.by_distance.begin() + int64_t{stride_} * lanes<T>, T(0));
    std::fill(work_.by_harmonics.begin(), work_.by_harmonics.begin() + int64_t{stride_} * p_.n_harmonics(), T(0));
    for_each_tile([&](auto edges, auto packs, int path, int edge, int block) {
      add_gradients<decltype(edges)::value, decltype(packs)::value>(path, edge, block, G);
    });
    for (const auto& row : message_.terms->rows) {
      for (int32_t n = row.first_entry; n < row.last_entry; ++n) add_coupling_gradient(n, products(row), G);
    }
    set_edge_gradients();
  }

 private:
  /// Edges and packs of channels of a tile: what the registers hold.
  static constexpr int tile_edges = TESSERAL_VECTOR_BYTES == 64 ? 4 : 2;
  static constexpr int tile_packs = TESSERAL_VECTOR_BYTES == 64 ? 4 : 2;

  const EngineParameters<T>& p_;
  const LayerMessage<T>& message_;
  const EnginePass<T>& pass_;
  EngineScratch<T>& work_;
  int row_, n_edges_ = 0, stride_ = 0;  // stride: padded number of edges

  bool by_channel() const { return !message_.channel_tables.empty(); }

  /// Of a tile in arrays [paths, edges, row]
  int64_t offset_of(int path, int edge, int block) const { return (int64_t{path} * stride_ + edge) * row_ + block; }

  /// [edges, row] R h of a row of the table
  T* products(const typename MessageTable<T>::Row& row) const {
    return work_.products.data() + (&row - message_.terms->rows.data()) * stride_ * row_;
  }

  /// visit(row of the table, R h [edges, row] of it) for the rows of a path
  template <class Visit>
  void for_each_row(int path, Visit visit) {
    const MessageTable<T>& table = *message_.terms;
    const auto p = static_cast<std::size_t>(path);
    for (int32_t n = table.path_rows[p]; n < table.path_rows[p + 1]; ++n) {
      const auto& row = table.rows[static_cast<std::size_t>(n)];
      visit(row, products(row));
    }
  }

  /// visit(constant number of edges, constant number of packs, path, first edge, first channel); the features of all edges
  /// in a few channels stay in the cache for all paths
  template <class Visit>
  void for_each_tile(Visit visit) {
    int block = 0;
    for (; block + tile_packs * lanes<T> <= row_; block += tile_packs * lanes<T>) {
      for_each_group(visit, std::integral_constant<int, tile_packs>(), block);
    }
    for (; block < row_; block += lanes<T>) for_each_group(visit, std::integral_constant<int, 1>(), block);
  }
  template <class Visit, class Packs>
  void for_each_group(Visit visit, Packs packs, int block) {
    for (int path = 0; path < message_.n_paths(); ++path) {
      int edge = 0;
      for (; edge + tile_edges <= n_edges_; edge += tile_edges) {
        visit(std::integral_constant<int, tile_edges>(), packs, path, edge, block);
      }
      for (; edge < n_edges_; ++edge) visit(std::integral_constant<int, 1>(), packs, path, edge, block);
    }
  }

  Direction<Pack<T>> direction(const Lanes<T>& pack) const {
    return direction_of<T>(work_.vectors.data(), nullptr, T(2) * p_.density.radial.cutoff, pack, Pack<T>{});
  }

  /// Radial functions, their slopes and the couplings of all edges, edges in lanes.
  void set_functions() {
    const std::size_t n_entries = message_.terms->entries.size();
    const RadialBasis<T>& basis = message_.radial.basis;
    for (std::size_t e = 0; e < static_cast<std::size_t>(n_edges_); ++e) {
      work_.offsets[e] = work_.neighbors[e] * p_.feature_row();
    }
    for_each_pack<T>(0, n_edges_, [&](const Lanes<T>& pack) {
      Pack<T> Y[max_harmonics];
      const auto unit = direction(pack);
      Harmonics<Pack<T>>(p_.density.harmonics, unit.x, unit.y, unit.z).values(Y);
      const int64_t first = pack.edge[0];
      if (by_channel()) {
        set_pieces(pack, (T(basis.n_intervals) / basis.cutoff) * unit.length);
      } else {
        Pack<T> R[max_radial], dR[max_radial];
        const int64_t* tables = message_.radial.by_pair() ? work_.tables.data() : nullptr;
        radial_functions(basis, unit.length, TablesOfPack<T>(tables, pack), R, dR);
        for (int q = 0; q < basis.n_radial; ++q) {
          store(work_.radial.data() + q * stride_ + first, R[q]);
          store(work_.slopes_of_radial.data() + q * stride_ + first, dR[q]);
        }
      }
      const MessageTable<T>& table = *message_.terms;
      for (std::size_t n = 0; n < n_entries; ++n) {
        Pack<T> sum = {};
        for (int32_t t = table.entries[n].first_term; t < table.entries[n].last_term; ++t) {
          const auto& term = table.terms[static_cast<std::size_t>(t)];
          sum += term.coupling * Y[term.harmonic];
        }
        store(work_.couplings.data() + static_cast<int64_t>(n) * stride_ + first, sum);
      }
    });
  }

  /// Where the edges of a pack lie in the channel tables.
  void set_pieces(const Lanes<T>& pack, const Pack<T>& distances) {
    const int n_intervals = message_.radial.basis.n_intervals;
    const int64_t size = int64_t{message_.n_paths()} * message_.radial.basis.n_powers * row_;
    for (int lane = 0; lane < pack.count; ++lane) {
      const auto e = static_cast<std::size_t>(pack.edge[lane]);
      // a distance that is not a number stays one in the position
      const int interval = distances[lane] >= 0 ? std::min(static_cast<int>(distances[lane]), n_intervals - 1) : 0;
      const int64_t table = message_.radial.by_pair() ? work_.tables[e] : 0;
      work_.pieces[e] = message_.channel_tables.data() + (table * n_intervals + interval) * size;
      work_.positions[e] = distances[lane] - T(interval);
    }
  }

  // Of a tile: M edges, B packs of channels. Everything is copied from members first: the compiler cannot know that a stored
  // pack does not change them. Loops over M and B are unrolled, so that their packs stay in registers.

  /// out[m][b] = sum_q functions[q, edge m] W[path, q, pack b]
  template <int M, int B>
  void radial_tile(const AlignedVector<T>& functions, int path, int edge, int block, Pack<T> (&out)[M][B]) const {
    const int n_radial = message_.radial.basis.n_radial, row = row_, stride = stride_;
    const T* weights = message_.weights.data() + int64_t{path} * n_radial * row + block;
    const T* x = functions.data() + edge;
    TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) out[m][b] = Pack<T>{};
    }
    for (int q = 0; q < n_radial; ++q, x += stride, weights += row) {
      Pack<T> w[B];
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) w[b] = load(weights + b * lanes<T>);
      TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
        TESSERAL_UNROLL for (int b = 0; b < B; ++b) out[m][b] += x[m] * w[b];
      }
    }
  }

  /// R of a path from the weights.
  template <int M, int B>
  void set_mixed_tile(int path, int edge, int block) {
    Pack<T> R[M][B];
    radial_tile<M, B>(work_.radial, path, edge, block, R);
    T* channels = work_.channels.data() + offset_of(path, edge, block);
    TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) store(channels + m * row_ + b * lanes<T>, R[m][b]);
    }
  }

  /// R of a path and, if wanted, its slopes from the channel tables.
  template <int M, int B>
  void set_spline_tile(int path, int edge, int block, bool with_slopes) {
    const int n_powers = message_.radial.basis.n_powers, row = row_;
    const T per_length = T(message_.radial.basis.n_intervals) / message_.radial.basis.cutoff;
    const int64_t offset = offset_of(path, edge, block);
    TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
      const T* piece = work_.pieces[static_cast<std::size_t>(edge + m)] + int64_t{path} * n_powers * row + block;
      const T t = work_.positions[static_cast<std::size_t>(edge + m)];
      Pack<T> value[B], slope[B];
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
        value[b] = load(piece + (n_powers - 1) * row + b * lanes<T>);
        slope[b] = Pack<T>{};
      }
      for (int power = n_powers - 2; power >= 0; --power) {
        TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
          slope[b] = slope[b] * t + value[b];
          value[b] = value[b] * t + load(piece + power * row + b * lanes<T>);
        }
      }
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
        store(work_.channels.data() + offset + m * row + b * lanes<T>, value[b]);
        if (with_slopes) store(work_.slopes.data() + offset + m * row + b * lanes<T>, per_length * slope[b]);
      }
    }
  }

  /// dR/dr of a tile.
  template <int M, int B>
  void slope_tile(int path, int edge, int block, Pack<T> (&out)[M][B]) const {
    if (!by_channel()) return radial_tile<M, B>(work_.slopes_of_radial, path, edge, block, out);
    const T* slopes = work_.slopes.data() + offset_of(path, edge, block);
    TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) out[m][b] = load(slopes + m * row_ + b * lanes<T>);
    }
  }

  /// Products of R and h.
  template <int M, int B>
  void set_products(int path, int edge, int block) {
    const int row = row_;
    const T* before = pass_.before + block;
    const int64_t* offsets = work_.offsets.data() + edge;
    const T* channels = work_.channels.data() + offset_of(path, edge, block);
    Pack<T> R[M][B];
    TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) R[m][b] = load(channels + m * row + b * lanes<T>);
    }
    for_each_row(path, [&](const auto& table_row, T* products) {
      const T* h = before + table_row.component * row;
      T* target = products + int64_t{edge} * row + block;
      TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
        TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
          store(target + m * row + b * lanes<T>, R[m][b] * load(h + offsets[m] + b * lanes<T>));
        }
      }
    });
  }

  /// Adds to the adjoints of h and to the gradient by the distance (channels in lanes).
  template <int M, int B>
  void add_gradients(int path, int edge, int block, const T* G) {
    const int row = row_, stride = stride_;
    const T* before = pass_.before + block;
    T* adjoints_before = pass_.adjoints_before + block;
    const int64_t* offsets = work_.offsets.data() + edge;
    const T* channels = work_.channels.data() + offset_of(path, edge, block);
    const T* all_couplings = work_.couplings.data() + edge;
    const auto* entries = message_.terms->entries.data();
    Pack<T> by_radial[M][B];
    TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) by_radial[m][b] = Pack<T>{};
    }
    for_each_row(path, [&](const auto& table_row, const T*) {
      Pack<T> S[M][B];
      TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
        TESSERAL_UNROLL for (int b = 0; b < B; ++b) S[m][b] = Pack<T>{};
      }
      const int32_t first = table_row.first_entry, last = table_row.last_entry;
      const T* couplings = all_couplings + int64_t{first} * stride;
      for (int32_t n = first; n < last; ++n, couplings += stride) {
        const T* g = G + entries[n].out * row + block;
        Pack<T> cotangent[B];
        TESSERAL_UNROLL for (int b = 0; b < B; ++b) cotangent[b] = load(g + b * lanes<T>);
        TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
          TESSERAL_UNROLL for (int b = 0; b < B; ++b) S[m][b] += couplings[m] * cotangent[b];
        }
      }
      const T* h = before + table_row.component * row;
      T* dh = adjoints_before + table_row.component * row;
      TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
        const int64_t offset = offsets[m];
        TESSERAL_UNROLL for (int b = 0; b < B; ++b) {
          const Pack<T> R = load(channels + m * row + b * lanes<T>), feature = load(h + offset + b * lanes<T>);
          T* adjoint = dh + offset + b * lanes<T>;
          store(adjoint, load(adjoint) + R * S[m][b]);
          by_radial[m][b] += feature * S[m][b];
        }
      }
    });
    Pack<T> slope[M][B];
    slope_tile<M, B>(path, edge, block, slope);
    T* by_distance = work_.by_distance.data() + int64_t{edge} * lanes<T>;
    TESSERAL_UNROLL for (int m = 0; m < M; ++m) {
      Pack<T> sum = load(by_distance + m * lanes<T>);
      TESSERAL_UNROLL for (int b = 0; b < B; ++b) sum += slope[m][b] * by_radial[m][b];
      store(by_distance + m * lanes<T>, sum);
    }
  }

  /// dE/dT of an entry, passed on to the harmonics of its terms; edges in lanes.
  void add_coupling_gradient(int32_t n, const T* products, const T* G) {
    const auto& entry = message_.terms->entries[static_cast<std::size_t>(n)];
    const int row = row_;
    const T* g = G + entry.out * row;
    for (int first = 0; first < stride_; first += lanes<T>) {
      Pack<T> sums[lanes<T>];
      TESSERAL_UNROLL for (int lane = 0; lane < lanes<T>; ++lane) sums[lane] = Pack<T>{};
      const T* rows = products + int64_t{first} * row;
      for (int block = 0; block < row; block += lanes<T>) {
        const Pack<T> cotangent = load(g + block);
        TESSERAL_UNROLL for (int lane = 0; lane < lanes<T>; ++lane) {
          sums[lane] += cotangent * load(rows + lane * row + block);
        }
      }
      const Pack<T> by_coupling = fold_all<T>(sums, lanes<T>);
      for (int32_t t = entry.first_term; t < entry.last_term; ++t) {
        const auto& term = message_.terms->terms[static_cast<std::size_t>(t)];
        T* target = work_.by_harmonics.data() + term.harmonic * stride_ + first;
        store(target, load(target) + term.coupling * by_coupling);
      }
    }
  }

  void set_edge_gradients() {
    for_each_pack<T>(0, n_edges_, [&](const Lanes<T>& pack) {
      Pack<T> by_harmonics[max_harmonics], by_distance[lanes<T>], gx, gy, gz;
      const int64_t first = pack.edge[0];
      for (int lm = 0; lm < p_.n_harmonics(); ++lm) {
        by_harmonics[lm] = load(work_.by_harmonics.data() + lm * stride_ + first);
      }
      for (int lane = 0; lane < lanes<T>; ++lane) {
        by_distance[lane] = load(work_.by_distance.data() + (first + lane) * lanes<T>);
      }
      const auto unit = direction(pack);
      Harmonics<Pack<T>>(p_.density.harmonics, unit.x, unit.y, unit.z).contract_gradient(by_harmonics, gx, gy, gz);
      unit.project(gx, gy, gz, fold_all<T>(by_distance, lanes<T>));
      for (int lane = 0; lane < pack.count; ++lane) {
        T* target = work_.gradients.data() + 3 * pack.edge[lane];
        target[0] = gx[lane];
        target[1] = gy[lane];
        target[2] = gz[lane];
      }
    });
  }
};

}  // namespace tesseral::TESSERAL_ISA
