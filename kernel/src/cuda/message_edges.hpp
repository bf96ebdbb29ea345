// What the kernels of messages share: rows of channels, sums of couplings times harmonics of a batch of edges in shared
// memory.
//
//   M_{o,k} = sum over edges e, parts (path p, outputs o, components x of h) of R_{p,k}(e) h_{x,k}(e) B_{x,o}(e),
//   R_{p,k} = sum_q g_q W_{p,q,k},   B_{x,o} = sum over terms of coupling * Y_harmonic
//
// The warps of all these kernels are independent of each other. A warp has 32 CH channels, CH neighbouring ones in each
// lane, and for a part keeps W (radial_chunk functions at a time) and sums or cotangents of at most most_width outputs in
// registers; g and B, which are the same for all channels, its lanes have worked out before into the warp's own shared
// memory, for a batch of edges.
#pragma once

#include <cstdint>
#include <type_traits>

#include "channels.hpp"
#include "message_work.hpp"

namespace tesseral::cuda {

#if defined(__CUDACC__) || defined(TESSERAL_EMULATE)

/// Rows of h that a part reads for one edge after the other, each asked for before it is needed: start and then, for every
/// edge, next_edge, and between its components next_component; `now` has the lane's channels.
template <class V, int CH>
class RowsOfH {
 public:
  V now[CH];

  /// `begins`: as take_neighbors writes it.
  __device__ RowsOfH(const MessageWork<Element<V>>& work, const Channels<CH>& channels, int component, const int64_t* begins)
      : first_(work.inputs.h, channels, static_cast<int64_t>(component) * work.shape.row),
        row_(first_),
        length_(work.shape.row),
        begins_(begins) {
    first_.moved(begins[0]).load(next_);
  }
  __device__ void next_edge(int e) {
    copy_numbers(next_, now);
    first_.moved(begins_[e + 1]).load(next_);
    row_ = first_.moved(begins_[e]);
  }
  /// Asks for the next component of the edge, if there is one.
  __device__ void look_ahead(bool more) {
    set_zero(ahead_);
    if (!more) return;
    row_.move(length_);
    row_.load(ahead_);
  }
  __device__ void next_component() { copy_numbers(ahead_, now); }

 private:
  const Row<V, CH> first_;
  Row<V, CH> row_;
  const int length_;
  const int64_t* begins_;
  V next_[CH], ahead_[CH];
};

/// Weights of up to radial_chunk functions of a path, from number `chunk` on; zeros for those that do not exist.
template <class V, int CH>
__device__ inline void load_weights(const MessageWork<Element<V>>& work, int path, int chunk, const Channels<CH>& channels,
                                    V (&weights)[radial_chunk][CH]) {
  const int Q = work.shape.n_radial;
  const Row<V, CH> row(work.inputs.weights, channels, (static_cast<int64_t>(path) * Q + chunk) * work.shape.row);
  set_zero(weights);
  if (!channels.exist) return;
  TESSERAL_UNROLL
  for (int q = 0; q < radial_chunk; ++q) {
    if (chunk + q < Q) row.moved(static_cast<int64_t>(q) * work.shape.row).load(weights[q]);
  }
}

/// R_{p,k} of an edge, or the share of these radial functions.
template <class V, int CH>
__device__ inline void radial_channels(const V* radial, const V (&weights)[radial_chunk][CH], V (&R)[CH]) {
  V g[radial_chunk];
  load_shared<radial_chunk>(radial, g);
  set_zero(R);
  TESSERAL_UNROLL
  for (int q = 0; q < radial_chunk; ++q) {
    TESSERAL_UNROLL
    for (int c = 0; c < CH; ++c) R[c] += g[q] * weights[q][c];
  }
}

/// g of a batch of edges from number `chunk` on, into rows of radial_chunk; zeros for those that do not exist.
template <class V>
__device__ inline void take_radial(const MessageWork<Element<V>>& work, int64_t edge, int count, int chunk, V* radial) {
  const int q = lane_of_warp() % radial_chunk, Q = work.shape.n_radial;
  const bool exists = chunk + q < Q;
  const Field<const Element<V>>& given = work.inputs.radial;
  int64_t at = (edge + lane_of_warp() / radial_chunk) * Q + chunk + q;
  for (int n = lane_of_warp(); n < count * radial_chunk; n += warp_size, at += warp_size / radial_chunk * Q) {
    radial[n] = exists ? element<V>(given.values, given.tangents, at) : constant<V>(0);
  }
}

/// Where the neighbours' rows begin in h; that of the last edge once more behind it.
template <class T>
__device__ inline void take_neighbors(const MessageWork<T>& work, int64_t edge, int count, int64_t* h) {
  const int64_t size = static_cast<int64_t>(work.shape.n_components) * work.shape.row;
  for (int e = lane_of_warp(); e <= count; e += warp_size) {
    h[e] = work.inputs.neighbors[edge + (e < count ? e : count - 1)] * size;
  }
}

/// What a warp has of a batch of edges in shared memory.
template <class V>
struct EdgeBatch {
  using T = Element<V>;
  int64_t* h;    // [batch + 1], as take_neighbors writes it
  V* radial;     // [batch][radial_chunk]
  V* couplings;  // [batch][tables.couplings] B of one part

  __host__ __device__ EdgeBatch(SharedParts& memory, int batch, int n_couplings)
      : h(memory.take<int64_t>(batch + 1)),
        radial(memory.take<V>(batch * radial_chunk)),
        couplings(memory.take<V>(batch * n_couplings)) {}

  /// Everything, for one part and chunk of radial functions.
  template <int W>
  __device__ void take(const MessageWork<T>& work, int64_t edge, int count, const MessagePart& part, int chunk) const {
    __syncwarp();
    take_neighbors(work, edge, count, h);
    take_radial(work, edge, count, chunk, radial);
    take_couplings<W>(work, edge, count, part);
    __syncwarp();
  }

  /// Each lane has an entry and takes it for one edge after the other.
  template <int W>
  __device__ void take_couplings(const MessageWork<T>& work, int64_t edge, int count, const MessagePart& part) const {
    const auto& tables = work.tables;
    const Field<const T>& given = work.inputs.angular;
    const int n_entries = part.n_components * coupling_row(W);
    for (int first = 0; first < n_entries; first += warp_size) {
      const int here = n_entries - first < warp_size ? n_entries - first : warp_size, at_once = warp_size / here;
      const int begin = lane_of_warp() / here, entry = first + lane_of_warp() % here;
      if (begin >= at_once) continue;
      const Span terms = tables.entries[part.first_entry + entry];
      const bool any = terms.first < terms.last;
      const int harmonic = any ? tables.term_harmonics[terms.first] : 0;
      const T coupling = any ? tables.term_couplings[terms.first] : T(0);
      TESSERAL_UNROLL_BY(2)
      for (int e = begin; e < count; e += at_once) {
        const int64_t harmonics = (edge + e) * work.shape.n_harmonics;
        V sum = constant<V>(0);
        if (any) sum = coupling * element<V>(given.values, given.tangents, harmonics + harmonic);
        TESSERAL_UNROLL_BY(1)
        for (int t = terms.first + 1; t < terms.last; ++t) {
          sum += tables.term_couplings[t] * element<V>(given.values, given.tangents, harmonics + tables.term_harmonics[t]);
        }
        couplings[e * tables.couplings + entry] = sum;
      }
    }
  }
};

/// G of the outputs of a part; zeros for those of W that it lacks.
template <class T, int CH, int W>
__device__ void load_cotangents(const MessageShape<T>& shape, const T* G, int64_t atom, const MessagePart& part,
                                const Channels<CH>& channels, T (&cotangents)[W][CH]) {
  set_zero(cotangents);
  TESSERAL_UNROLL
  for (int o = 0; o < W; ++o) {
    if (o < part.n_outs && channels.exist) {
      load_numbers(G + (atom * shape.n_outputs + part.out + o) * shape.row + channels.first, cotangents[o]);
    }
  }
}

/// s of one component of h.
template <class V, int CH, int W>
__device__ void coupled_cotangents(const V* couplings, const Element<V> (&cotangents)[W][CH], V (&s)[CH]) {
  V B[coupling_row(W)];
  load_shared<coupling_row(W)>(couplings, B);
  set_zero(s);
  TESSERAL_UNROLL
  for (int o = 0; o < W; ++o) {
    TESSERAL_UNROLL
    for (int c = 0; c < CH; ++c) s[c] += B[o] * cotangents[o][c];
  }
}

/// Calls visit(std::integral_constant<int, compiled_width(n_outs)>).
template <class Visit>
__device__ inline void with_width(int n_outs, Visit visit) {
  switch (compiled_width(n_outs)) {
    case 1:
      return visit(std::integral_constant<int, 1>());
    case 3:
      return visit(std::integral_constant<int, 3>());
    case 5:
      return visit(std::integral_constant<int, 5>());
    default:
      return visit(std::integral_constant<int, 7>());
  }
}

#endif

}  // namespace tesseral::cuda
