// Messages to one atom from the features h of its neighbours, and their gradient.
//
//   M_{lm,k} = sum over edges j of sum over terms (p, lm, l1m1, x) of c R_{p,k}(r_ij) Y_{l1m1}(r_ij/|r_ij|) h_{j,x,k},
//   R_{p,k}(r) = sum_q g_q(r) W_{p,q,k}
//
// One path p couples a degree of the harmonics to one of h. Channels k fill the SIMD lanes. What is the same for all
// channels is worked out before for a pack of edges, with the edges in lanes: the sums of coupling times harmonic that
// multiply R h.
#pragma once

#include "tesseral/operators.hpp"
#include "tesseral/pack.hpp"
#include "tesseral/rows.hpp"

namespace tesseral::TESSERAL_ISA {

/// Up to a pack of edges of one center. V is a pack or a dual of packs; unused lanes may hold anything.
template <class V>
struct MessageEdges {
  using T = Element<V>;
  int count;
  const V* radial;             // [Q] g_q, edges in lanes
  const V* angular;            // [LM] harmonics, edges in lanes
  Field<const T> h[lanes<T>];  // [HM, row] of each edge's neighbour
};

/// Number of gradients of one edge by the geometry: by its harmonics and radial functions, if they are wanted.
template <bool with_geometry, class T>
inline int geometry_size(const MessageShape<T>& shape) {
  return with_geometry ? shape.n_harmonics + shape.n_radial : 0;
}

/// Gradients of a pack of edges; of duals their tangents.
template <class T>
struct MessageGradients {
  T* h[lanes<T>];        // [HM, row] of each edge's neighbour, added to
  T* weights = nullptr;  // [P, Q, row], added to
  T* out = nullptr;      // duals only: tangent of the message [LM, row], added to
  // edges in lanes, overwritten: [LM] by the harmonics, then [Q] by the radial functions
  Pack<T> geometry[max_harmonics + max_radial];
};

/// Weights of a message and a working array of table->entries.size() packs.
template <class V>
struct MessageWeights {
  using T = Element<V>;
  const MessageShape<T>& shape;
  Field<const T> weights;  // [P, Q, row]; of duals the tangents may be null, for zeros
  V* scratch;
};

/// Of a result the part that is wanted: of duals the tangent.
template <class V>
inline const V& wanted_part(const V& x) {
  return x;
}
template <class V>
inline const V& wanted_part(const Dual<V>& x) {
  return x.tangent;
}

/// The pack of channels x times the number of one edge among `edges` in lanes.
template <class V>
inline V scaled(const V& edges, int lane, const V& x) {
  return edges[lane] * x;
}
template <class V>
inline Dual<V> scaled(const Dual<V>& edges, int lane, const Dual<V>& x) {
  return {edges.value[lane] * x.value, edges.value[lane] * x.tangent + edges.tangent[lane] * x.value};
}
template <class V>
inline Dual<V> scaled(const Dual<V>& edges, int lane, const V& x) {
  return {edges.value[lane] * x, edges.tangent[lane] * x};
}

template <class V>
inline V load_field(const Field<const Element<V>>& field, int64_t offset) {
  if constexpr (sizeof(V) == sizeof(Pack<Element<V>>)) {
    return load(field.values + offset);
  } else {
    return {load(field.values + offset), load(field.tangents + offset)};
  }
}

/// The same where the tangents may be null.
template <class V>
inline V load_weight(const Field<const Element<V>>& field, int64_t offset) {
  if constexpr (sizeof(V) == sizeof(Pack<Element<V>>)) {
    return load(field.values + offset);
  } else {
    return {load(field.values + offset), field.tangents ? load(field.tangents + offset) : Pack<Element<V>>{}};
  }
}

template <class V>
inline void add_to(Element<V>* target, const V& amount) {
  store(target, load(target) + wanted_part(amount));
}

/// Adds the sum over the lanes of packs[n] to lane `lane` of sums[n]; uses up `packs`.
template <class T>
inline void add_lane_sums(Pack<T>* packs, int count, int lane, Pack<T>* sums) {
  for (int first = 0; first < count; first += lanes<T>) {
    const int n_packs = count - first < lanes<T> ? count - first : lanes<T>;
    const Pack<T> total = fold_all<T>(packs + first, n_packs);
    for (int n = 0; n < n_packs; ++n) sums[first + n][lane] += total[n];
  }
}

/// For each entry of the table, sum over its terms of coupling * harmonic, edges in lanes.
template <class V>
inline void message_couplings(const MessageTable<Element<V>>& table, const V* angular, V* out) {
  const auto* terms = table.terms.data();
  for (std::size_t n = 0; n < table.entries.size(); ++n) {
    V sum = constant<V>(0);
    for (int32_t t = table.entries[n].first_term; t < table.entries[n].last_term; ++t) {
      sum += terms[t].coupling * angular[terms[t].harmonic];
    }
    out[n] = sum;
  }
}

/// B packs of channels for each of E edges, held in registers.
template <class V, int E, int B>
struct Tile {
  V at[E][B];

  Tile() {
    for (int e = 0; e < E; ++e) {
      for (int b = 0; b < B; ++b) at[e][b] = constant<V>(0);
    }
  }
};

/// Where a tile lies: edges from `lane` on, channels from `block` on.
struct TilePlace {
  int lane;
  int block;
};

/// R_{p,k} of a tile.
template <class V, int E, int B>
inline Tile<V, E, B> radial_channels(const MessageWeights<V>& work, const MessageEdges<V>& edges, int path,
                                     TilePlace place) {
  using T = Element<V>;
  const int n_radial = work.shape.n_radial, row = work.shape.row;
  const V* radial = edges.radial;
  const Field<const T> weights = work.weights;
  int64_t offset = static_cast<int64_t>(path) * n_radial * row + place.block;
  Tile<V, E, B> R;
  const auto add_functions = [&](auto weight_at) {
    for (int q = 0; q < n_radial; ++q, offset += row) {
      for (int b = 0; b < B; ++b) {
        const auto weight = weight_at(offset + b * lanes<T>);
        for (int e = 0; e < E; ++e) R.at[e][b] += scaled(radial[q], place.lane + e, weight);
      }
    }
  };
  if (sizeof(V) > sizeof(Pack<T>) && weights.tangents) {
    add_functions([&](int64_t at) { return load_field<V>(weights, at); });
  } else {
    add_functions([&](int64_t at) { return load(weights.values + at); });
  }
  return R;
}

/// The message of a tile, added to out [LM, row].
template <class V, int E, int B>
inline void add_message_of_tile(const MessageWeights<V>& work, const MessageEdges<V>& edges, TilePlace place,
                                Element<V>* out) {
  using T = Element<V>;
  const int row = work.shape.row;
  const MessageTable<T>& table = *work.shape.table;
  const auto* rows = table.rows.data();
  const auto* entries = table.entries.data();
  const int32_t* path_rows = table.path_rows.data();
  const V* couplings = work.scratch;
  const int n_paths = static_cast<int>(table.path_rows.size()) - 1;
  for (int p = 0; p < n_paths; ++p) {
    const Tile<V, E, B> R = radial_channels<V, E, B>(work, edges, p, place);
    for (int32_t x = path_rows[p]; x < path_rows[p + 1]; ++x) {
      Tile<V, E, B> Rh;
      for (int e = 0; e < E; ++e) {
        for (int b = 0; b < B; ++b) {
          const int at = rows[x].component * row + place.block + b * lanes<T>;
          Rh.at[e][b] = R.at[e][b] * load_field<V>(edges.h[place.lane + e], at);
        }
      }
      for (int32_t n = rows[x].first_entry; n < rows[x].last_entry; ++n) {
        T* target = out + entries[n].out * row + place.block;
        for (int b = 0; b < B; ++b) {
          V sum = scaled(couplings[n], place.lane, Rh.at[0][b]);
          for (int e = 1; e < E; ++e) sum += scaled(couplings[n], place.lane + e, Rh.at[e][b]);
          add_to<V>(target + b * lanes<T>, sum);
        }
      }
    }
  }
}

/// Gradients of <G, message> of a tile; G [LM, row] has no tangent.
template <class V, int E, int B, bool with_geometry, bool with_weights>
inline void add_gradient_of_tile(const MessageWeights<V>& work, const MessageEdges<V>& edges, TilePlace place,
                                 const Element<V>* G, MessageGradients<Element<V>>& gradients) {
  using T = Element<V>;
  constexpr bool dual = sizeof(V) > sizeof(Pack<T>);
  const int row = work.shape.row, n_radial = work.shape.n_radial, n_harmonics = work.shape.n_harmonics;
  const int lane = place.lane, block = place.block;
  const MessageTable<T>& table = *work.shape.table;
  const auto* rows = table.rows.data();
  const auto* entries = table.entries.data();
  const auto* terms = table.terms.data();
  const int32_t* path_rows = table.path_rows.data();
  const V* couplings = work.scratch;
  T* out = gradients.out;
  const int n_paths = static_cast<int>(table.path_rows.size()) - 1;
  Pack<T> by_geometry[E][padded<T>(max_harmonics + max_radial)];  // as in MessageGradients, channels in lanes
  const int n_geometry = geometry_size<with_geometry>(work.shape);
  for (int e = 0; e < E; ++e) {
    for (int n = 0; n < n_geometry; ++n) by_geometry[e][n] = Pack<T>{};
  }

  for (int p = 0; p < n_paths; ++p) {
    const Tile<V, E, B> R = radial_channels<V, E, B>(work, edges, p, place);
    Tile<V, E, B> dR;  // gradient by R
    for (int32_t x = path_rows[p]; x < path_rows[p + 1]; ++x) {
      Tile<V, E, B> Rh, sum;  // sum: gradient by Rh
      const int offset_h = rows[x].component * row + block;
      for (int e = 0; e < E; ++e) {
        for (int b = 0; b < B; ++b) {
          Rh.at[e][b] = R.at[e][b] * load_field<V>(edges.h[lane + e], offset_h + b * lanes<T>);
        }
      }
      for (int32_t n = rows[x].first_entry; n < rows[x].last_entry; ++n) {
        const int offset_out = entries[n].out * row + block;
        V by_coupling[E];
        for (int b = 0; b < B; ++b) {
          const Pack<T> cotangent = load(G + offset_out + b * lanes<T>);
          for (int e = 0; e < E; ++e) {
            sum.at[e][b] += scaled(couplings[n], lane + e, cotangent);
            const V product = Rh.at[e][b] * cotangent;
            by_coupling[e] = b == 0 ? product : by_coupling[e] + product;
            if constexpr (dual) {
              add_to<V>(out + offset_out + b * lanes<T>, scaled(couplings[n], lane + e, Rh.at[e][b]));
            }
          }
        }
        if constexpr (with_geometry) {
          for (int32_t t = entries[n].first_term; t < entries[n].last_term; ++t) {
            for (int e = 0; e < E; ++e) {
              by_geometry[e][terms[t].harmonic] += terms[t].coupling * wanted_part(by_coupling[e]);
            }
          }
        }
      }
      for (int e = 0; e < E; ++e) {
        for (int b = 0; b < B; ++b) {
          const int at = offset_h + b * lanes<T>;
          add_to<V>(gradients.h[lane + e] + at, R.at[e][b] * sum.at[e][b]);
          dR.at[e][b] += load_field<V>(edges.h[lane + e], at) * sum.at[e][b];
        }
      }
    }
    for (int q = 0; q < n_radial && (with_geometry || with_weights); ++q) {
      for (int b = 0; b < B; ++b) {
        const int64_t at = (static_cast<int64_t>(p) * n_radial + q) * row + block + b * lanes<T>;
        V by_weight = constant<V>(0);
        for (int e = 0; e < E; ++e) {
          if constexpr (with_geometry) {
            by_geometry[e][n_harmonics + q] += wanted_part(load_weight<V>(work.weights, at) * dR.at[e][b]);
          }
          by_weight += scaled(edges.radial[q], lane + e, dR.at[e][b]);
        }
        if constexpr (with_weights) add_to<V>(gradients.weights + at, by_weight);
      }
    }
  }
  for (int e = 0; e < E; ++e) add_lane_sums<T>(by_geometry[e], n_geometry, lane + e, gradients.geometry);
}

/// Calls visit(E, B, place) with integral constants for tiles that cover the edges 0..count-1 and all channels. The weights
/// of one block of channels stay in the nearest cache for all edges.
template <class T, int B, class Visit>
inline void for_each_tile(int count, int row, Visit visit) {
  constexpr int E = lanes<T> < 4 ? lanes<T> : 4;
  const auto cover = [&](auto packs, int block) {
    int lane = 0;
    for (; lane + E <= count; lane += E) visit(std::integral_constant<int, E>(), packs, TilePlace{lane, block});
    for (; lane < count; ++lane) visit(std::integral_constant<int, 1>(), packs, TilePlace{lane, block});
  };
  int block = 0;
  for (; block + B * lanes<T> <= row; block += B * lanes<T>) cover(std::integral_constant<int, B>(), block);
  for (; block < row; block += lanes<T>) cover(std::integral_constant<int, 1>(), block);
}

/// Adds the messages of a pack of edges to out [LM, row].
template <class V>
inline void add_message(const MessageWeights<V>& work, const MessageEdges<V>& edges, Element<V>* out) {
  message_couplings<V>(*work.shape.table, edges.angular, work.scratch);
  for_each_tile<Element<V>, 4>(edges.count, work.shape.row, [&](auto n_edges, auto n_packs, TilePlace place) {
    add_message_of_tile<V, decltype(n_edges)::value, decltype(n_packs)::value>(work, edges, place, out);
  });
}

/// Adds the gradients of <G, message> of a pack of edges, G [LM, row], to `gradients`. V = Dual<Pack<T>>: their derivatives
/// along the tangents, and that of the message.
template <class V, bool with_geometry, bool with_weights>
inline void add_message_gradient(const MessageWeights<V>& work, const MessageEdges<V>& edges, const Element<V>* G,
                                 MessageGradients<Element<V>>& gradients) {
  message_couplings<V>(*work.shape.table, edges.angular, work.scratch);
  for (int n = 0; n < geometry_size<with_geometry>(work.shape); ++n) gradients.geometry[n] = Pack<Element<V>>{};
  // with twice the numbers, or with the sums of the weights' gradient, smaller tiles are faster
  constexpr int B = sizeof(V) > sizeof(Pack<Element<V>>) || !with_geometry ? 2 : 4;
  for_each_tile<Element<V>, B>(edges.count, work.shape.row, [&](auto n_edges, auto n_packs, TilePlace place) {
    add_gradient_of_tile<V, decltype(n_edges)::value, decltype(n_packs)::value, with_geometry, with_weights>(
        work, edges, place, G, gradients);
  });
}

}  // namespace tesseral::TESSERAL_ISA
