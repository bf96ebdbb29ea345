// Messages to one atom from the features h of its neighbours, and their gradient.
//
//   M_{lm,k} = sum over edges j of sum over terms (p, lm, l1m1, x) of c R_{p,k}(r_ij) Y_{l1m1}(r_ij/|r_ij|) h_{j,x,k},
//   R_{p,k}(r) = sum_q g_q(r) W_{p,q,k}
//
// One path p couples a degree of the harmonics to one of h. Channels k fill the SIMD lanes. What is the same for all
// channels is worked out before for a pack of edges, with the edges in lanes: the sums of coupling times harmonic that
// multiply R h.
#pragma once

#include <utility>

#include "tesseral/operators.hpp"
#include "tesseral/pack.hpp"

namespace tesseral::TESSERAL_ISA {

/// Up to a pack of edges of one center. V is a pack or a dual of packs; unused lanes may hold anything.
template <class V>
struct MessageEdges {
  using T = Element<V>;
  int count;
  const V* radial;             // [Q] g_q, edges in lanes
  const V* slopes;             // [Q] dg_q/dr, edges in lanes; only for MessageGeometry::distance
  const V* angular;            // [LM] harmonics, edges in lanes
  Field<const T> h[lanes<T>];  // [HM, row] of each edge's neighbour
};

/// Which gradients of the geometry are wanted: by the radial functions and harmonics, by the distance and the harmonics,
/// none.
enum class MessageGeometry { functions, distance, none };

/// Number of those gradients of one edge.
template <MessageGeometry geometry, class T>
inline int geometry_size(const MessageShape<T>& shape) {
  if (geometry == MessageGeometry::none) return 0;
  return shape.n_harmonics + (geometry == MessageGeometry::distance ? 1 : shape.n_radial);
}

/// Gradients of a pack of edges; of duals their tangents.
template <class T>
struct MessageGradients {
  T* h[lanes<T>];        // [HM, row] of each edge's neighbour, added to
  T* weights = nullptr;  // [P, Q, row], added to
  T* out = nullptr;      // duals only: tangent of the message [LM, row], added to
  // edges in lanes, overwritten: [LM] by the harmonics, then [Q] by the radial functions or [1] by the distance
  Pack<T> geometry[max_harmonics + max_radial];
};

/// Weights of a message and a working array of table->entries.size() packs.
template <class V>
struct MessageWeights {
  using T = Element<V>;
  const MessageShape<T>& shape;
  Field<const T> weights;  // [P, Q, row]
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

/// The pack of channels x times the number of one edge.
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

template <class V>
inline void add_to(Element<V>* target, const V& amount) {
  store(target, load(target) + wanted_part(amount));
}

/// Sums of neighbouring halves of segments of S lanes: lanes of a, then of b.
template <class T, int S, std::size_t... I>
inline Pack<T> fold(const Pack<T>& a, const Pack<T>& b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, (I / (S / 2) * S + I % (S / 2))...) +
         __builtin_shufflevector(a, b, (I / (S / 2) * S + I % (S / 2) + S / 2)...);
}
template <class T, int S = lanes<T>>
inline Pack<T> fold_all(Pack<T>* packs, int count) {
  if constexpr (S == 1) {
    return packs[0];
  } else {
    for (int n = 0; n < count; n += 2) {
      packs[n / 2] = fold<T, S>(packs[n], n + 1 < count ? packs[n + 1] : Pack<T>{}, std::make_index_sequence<lanes<T>>());
    }
    return fold_all<T, S / 2>(packs, (count + 1) / 2);
  }
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

/// out[b] = sum_q functions[q] W[q, block + b] for one edge and path.
template <class V, int B>
inline void radial_channels(const V* functions, int n_radial, int lane, const Field<const Element<V>>& weights,
                            int64_t offset, int row, V (&out)[B]) {
  using T = Element<V>;
  for (int b = 0; b < B; ++b) out[b] = constant<V>(0);
  for (int q = 0; q < n_radial; ++q) {
    for (int b = 0; b < B; ++b) {
      out[b] += scaled(functions[q], lane, load_field<V>(weights, offset + q * row + b * lanes<T>));
    }
  }
}

/// The message of one edge in B packs of channels, added to out [LM, row].
template <class V, int B>
inline void add_message_of_edge(const MessageWeights<V>& work, const MessageEdges<V>& edges, int lane, int block,
                                Element<V>* out) {
  using T = Element<V>;
  const int row = work.shape.row, n_radial = work.shape.n_radial;
  const MessageTable<T>& table = *work.shape.table;
  const auto* rows = table.rows.data();
  const auto* entries = table.entries.data();
  const int32_t* path_rows = table.path_rows.data();
  const V* couplings = work.scratch;
  const int n_paths = static_cast<int>(table.path_rows.size()) - 1;
  for (int p = 0; p < n_paths; ++p) {
    V R[B];
    radial_channels(edges.radial, n_radial, lane, work.weights, static_cast<int64_t>(p) * n_radial * row + block, row, R);
    for (int32_t x = path_rows[p]; x < path_rows[p + 1]; ++x) {
      V Rh[B];
      for (int b = 0; b < B; ++b) {
        Rh[b] = R[b] * load_field<V>(edges.h[lane], rows[x].component * row + block + b * lanes<T>);
      }
      for (int32_t n = rows[x].first_entry; n < rows[x].last_entry; ++n) {
        T* target = out + entries[n].out * row + block;
        for (int b = 0; b < B; ++b) add_to<V>(target + b * lanes<T>, scaled(couplings[n], lane, Rh[b]));
      }
    }
  }
}

/// Gradients of <G, message> of one edge in B packs of channels; G [LM, row] has no tangent.
template <class V, int B, MessageGeometry geometry, bool with_weights>
inline void add_gradient_of_edge(const MessageWeights<V>& work, const MessageEdges<V>& edges, int lane, int block,
                                 const Element<V>* G, MessageGradients<Element<V>>& gradients) {
  using T = Element<V>;
  constexpr bool dual = sizeof(V) > sizeof(Pack<T>);
  const int row = work.shape.row, n_radial = work.shape.n_radial, n_harmonics = work.shape.n_harmonics;
  const MessageTable<T>& table = *work.shape.table;
  const auto* rows = table.rows.data();
  const auto* entries = table.entries.data();
  const auto* terms = table.terms.data();
  const int32_t* path_rows = table.path_rows.data();
  const V* couplings = work.scratch;
  T* out = gradients.out;
  T* dh = gradients.h[lane];
  const int n_paths = static_cast<int>(table.path_rows.size()) - 1;
  Pack<T> by_geometry[max_harmonics + max_radial];  // as in MessageGradients, channels in lanes
  Pack<T>* by_radial = by_geometry + n_harmonics;
  const int n_geometry = geometry_size<geometry>(work.shape);
  for (int n = 0; n < n_geometry; ++n) by_geometry[n] = Pack<T>{};

  for (int p = 0; p < n_paths; ++p) {
    const int64_t offset = static_cast<int64_t>(p) * n_radial * row + block;
    V R[B], dR[B];  // R_{p,k} and the gradient by it
    radial_channels(edges.radial, n_radial, lane, work.weights, offset, row, R);
    for (int b = 0; b < B; ++b) dR[b] = constant<V>(0);
    for (int32_t x = path_rows[p]; x < path_rows[p + 1]; ++x) {
      V h[B], Rh[B], sum[B];  // sum: gradient by Rh
      const int offset_h = rows[x].component * row + block;
      for (int b = 0; b < B; ++b) {
        h[b] = load_field<V>(edges.h[lane], offset_h + b * lanes<T>);
        Rh[b] = R[b] * h[b];
        sum[b] = constant<V>(0);
      }
      for (int32_t n = rows[x].first_entry; n < rows[x].last_entry; ++n) {
        const T* g = G + entries[n].out * row + block;
        V by_coupling = constant<V>(0);
        for (int b = 0; b < B; ++b) {
          const Pack<T> cotangent = load(g + b * lanes<T>);
          sum[b] += scaled(couplings[n], lane, cotangent);
          by_coupling += Rh[b] * cotangent;
          if constexpr (dual) {
            add_to<V>(out + entries[n].out * row + block + b * lanes<T>, scaled(couplings[n], lane, Rh[b]));
          }
        }
        if constexpr (geometry != MessageGeometry::none) {
          for (int32_t t = entries[n].first_term; t < entries[n].last_term; ++t) {
            by_geometry[terms[t].harmonic] += terms[t].coupling * wanted_part(by_coupling);
          }
        }
      }
      for (int b = 0; b < B; ++b) {
        add_to<V>(dh + offset_h + b * lanes<T>, R[b] * sum[b]);
        dR[b] += h[b] * sum[b];
      }
    }
    if constexpr (geometry == MessageGeometry::distance) {
      V slope[B];
      radial_channels(edges.slopes, n_radial, lane, work.weights, offset, row, slope);
      for (int b = 0; b < B; ++b) by_radial[0] += wanted_part(slope[b] * dR[b]);
    }
    for (int q = 0; q < n_radial && (geometry == MessageGeometry::functions || with_weights); ++q) {
      for (int b = 0; b < B; ++b) {
        const int64_t at = offset + q * row + b * lanes<T>;
        if constexpr (geometry == MessageGeometry::functions) {
          by_radial[q] += wanted_part(load_field<V>(work.weights, at) * dR[b]);
        }
        if constexpr (with_weights) add_to<V>(gradients.weights + at, scaled(edges.radial[q], lane, dR[b]));
      }
    }
  }
  add_lane_sums<T>(by_geometry, n_geometry, lane, gradients.geometry);
}

/// Calls visit(integral constant of B, block) for blocks of B = 4 packs of channels, then of one.
template <class T, class Visit>
inline void for_each_block(int row, Visit visit) {
  int block = 0;
  for (; block + 4 * lanes<T> <= row; block += 4 * lanes<T>) visit(std::integral_constant<int, 4>(), block);
  for (; block < row; block += lanes<T>) visit(std::integral_constant<int, 1>(), block);
}

/// Adds the messages of a pack of edges to out [LM, row].
template <class V>
inline void add_message(const MessageWeights<V>& work, const MessageEdges<V>& edges, Element<V>* out) {
  message_couplings<V>(*work.shape.table, edges.angular, work.scratch);
  for_each_block<Element<V>>(work.shape.row, [&](auto packs, int block) {
    for (int lane = 0; lane < edges.count; ++lane) {
      add_message_of_edge<V, decltype(packs)::value>(work, edges, lane, block, out);
    }
  });
}

/// Adds the gradients of <G, message> of a pack of edges, G [LM, row], to `gradients`. V = Dual<Pack<T>>: their derivatives
/// along the tangents, and that of the message.
template <class V, MessageGeometry geometry, bool with_weights>
inline void add_message_gradient(const MessageWeights<V>& work, const MessageEdges<V>& edges, const Element<V>* G,
                                 MessageGradients<Element<V>>& gradients) {
  message_couplings<V>(*work.shape.table, edges.angular, work.scratch);
  for (int n = 0; n < geometry_size<geometry>(work.shape); ++n) gradients.geometry[n] = Pack<Element<V>>{};
  for_each_block<Element<V>>(work.shape.row, [&](auto packs, int block) {
    for (int lane = 0; lane < edges.count; ++lane) {
      add_gradient_of_edge<V, decltype(packs)::value, geometry, with_weights>(work, edges, lane, block, G, gradients);
    }
  });
}

}  // namespace tesseral::TESSERAL_ISA
