// What the kernels of messages share: the table of a message cut into parts of bounded size, sums of couplings times
// harmonics of a batch of edges in shared memory, rows of channels.
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
#include <initializer_list>
#include <type_traits>

#include "kernels.hpp"

#ifdef __CUDACC__
#define TESSERAL_UNROLL_DEVICE _Pragma("unroll")
#else
#define TESSERAL_UNROLL_DEVICE
#endif

namespace tesseral::cuda {

constexpr int most_width = 7;    // outputs of a part, and components of h
constexpr int radial_chunk = 8;  // radial functions at a time
constexpr int most_warps = 4;    // of a block

/// Outputs that a kernel is compiled for: 1, 3, 5 or 7.
constexpr int compiled_width(int n_outs) {
  return n_outs | 1;
}
/// Length of a row of B in shared memory, so that most of it can be read 16 bytes at a time.
constexpr int coupling_row(int width) {
  return width == 1 ? 1 : width == 3 ? 4 : 8;
}

/// What a path adds to outputs out .. out+n_outs-1 from components component .. component+n_components-1 of h.
struct MessagePart {
  int32_t path;
  int32_t out, n_outs;
  int32_t component, n_components;
  int32_t first_entry;  // of n_components rows of coupling_row(compiled_width(n_outs))
  int32_t first_harmonic, last_harmonic;
};

/// Parts first .. last-1 have the same outputs (or components of h): begin .. begin+size-1.
struct PartGroup {
  int32_t begin, size;
  int32_t first, last;
};

struct Span {
  int32_t first, last;
};

/// A harmonic of a part and the shares that the entries of B have in its gradient.
struct HarmonicShares {
  int32_t harmonic;
  int32_t first, last;
};

/// The parts of a message on the device.
template <class T>
struct PartTables {
  int n_parts, n_groups;
  int most_components;  // of a part
  int couplings;        // of a part's B at most, a multiple of 4
  const MessagePart* parts;
  const PartGroup* groups;  // cover all outputs, or all components
  const Span* entries;      // terms of each
  const int32_t* term_harmonics;
  const T* term_couplings;
  const HarmonicShares* harmonics;
  const int32_t* share_entries;  // within the part
  const T* share_couplings;
};

enum class PartOrder { by_outputs, by_components };

/// Made on the host and copied to the device when it is not there yet.
template <class T>
PartTables<T> part_tables(const MessageShape<T>& shape, PartOrder order);

/// Whether this is the usual message of scalars to degrees 0 .. l_max: path l with outputs l*l .. l*l+2l, each of them the
/// harmonic of the same number times a coupling. Those [n_harmonics] on the device, or null.
template <class T>
const T* scalar_couplings(const MessageShape<T>& shape, int l_max);

/// What all kernels of messages take.
template <class T>
struct MessageWork {
  MessageShape<T> shape;
  MessageInputs<T> inputs;
  PartTables<T> tables;
  int batch;  // edges at a time
};

template <class V>
constexpr bool is_dual = sizeof(V) > sizeof(Element<V>);

/// Channels of a lane at most: 16 bytes of them.
template <class V>
constexpr int most_channels = 16 / static_cast<int>(sizeof(V));

/// Channels of a lane that suit this length of rows: few warps, each with many, but lanes without a channel do nothing.
/// All pointers must be multiples of so many numbers.
inline int channels_per_lane(int row, int most, std::size_t size, std::initializer_list<const void*> pointers) {
  int best = 1;
  const auto cost = [row](int n) { return (row + warp_size * n - 1) / (warp_size * n) * (n + 1); };
  for (int n = 2; n <= most; n *= 2) {
    bool fits = row % n == 0 && cost(n) <= cost(best);
    for (const void* pointer : pointers) fits = fits && reinterpret_cast<uintptr_t>(pointer) % (n * size) == 0;
    if (fits) best = n;
  }
  return best;
}

/// Calls visit(std::integral_constant<int, n>) for n = 1, 2 or 4 up to most_channels<V>.
template <class V, class Visit>
void with_channels(int n, Visit visit) {
  if constexpr (most_channels<V> >= 4) {
    if (n == 4) return visit(std::integral_constant<int, 4>());
  }
  if constexpr (most_channels<V> >= 2) {
    if (n == 2) return visit(std::integral_constant<int, 2>());
  }
  visit(std::integral_constant<int, 1>());
}

/// Hands out parts of shared memory, each aligned to 16 bytes; on the host only counts.
class SharedParts {
 public:
  __host__ __device__ explicit SharedParts(unsigned char* base) : base_(base) {}
  template <class T>
  __host__ __device__ T* take(int count) {
    T* part = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (count * sizeof(T) + 15) / 16 * 16;
    return part;
  }
  __host__ __device__ std::size_t used() const { return used_; }

 private:
  unsigned char* base_;
  std::size_t used_ = 0;
};

#if defined(__CUDACC__) || defined(TESSERAL_EMULATE)

/// Numbers that are read and written together.
template <class T, int n>
struct alignas(n * sizeof(T) < 16 ? n * sizeof(T) : 16) Numbers {
  T at[n];
};

template <class T, int n>
__device__ inline void load_numbers(const T* source, T (&target)[n]) {
  const auto numbers = *reinterpret_cast<const Numbers<T, n>*>(source);
  TESSERAL_UNROLL_DEVICE
  for (int c = 0; c < n; ++c) target[c] = numbers.at[c];
}
template <class T, int n>
__device__ inline void store_numbers(T* target, const T (&source)[n]) {
  Numbers<T, n> numbers;
  TESSERAL_UNROLL_DEVICE
  for (int c = 0; c < n; ++c) numbers.at[c] = source[c];
  *reinterpret_cast<Numbers<T, n>*>(target) = numbers;
}
/// Adds to neighbouring numbers of global memory.
template <class T, int n>
__device__ inline void add_numbers(T* target, const T (&amount)[n]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  constexpr int at_once = sizeof(T) == 4 ? n : 1;
#else
  constexpr int at_once = 1;
#endif
  if constexpr (at_once == 1) {
    TESSERAL_UNROLL_DEVICE
    for (int c = 0; c < n; ++c) atomicAdd(target + c, amount[c]);
  }
#ifdef __CUDACC__
  if constexpr (at_once == 2) atomicAdd(reinterpret_cast<float2*>(target), float2{amount[0], amount[1]});
  if constexpr (at_once == 4) {
    atomicAdd(reinterpret_cast<float4*>(target), float4{amount[0], amount[1], amount[2], amount[3]});
  }
#endif
}

/// A row of n (possibly dual) numbers in shared memory.
template <int n, class V>
__device__ inline void load_shared(const V* source, V (&target)[n]) {
  using T = Element<V>;
  constexpr int per_load = n * sizeof(V) % 16 == 0 ? 16 / static_cast<int>(sizeof(T)) : 1;
  constexpr int size = n * static_cast<int>(sizeof(V) / sizeof(T));
  T numbers[size];
  TESSERAL_UNROLL_DEVICE
  for (int first = 0; first < size; first += per_load) {
    const auto loaded = *(reinterpret_cast<const Numbers<T, per_load>*>(source) + first / per_load);
    TESSERAL_UNROLL_DEVICE
    for (int c = 0; c < per_load; ++c) numbers[first + c] = loaded.at[c];
  }
  TESSERAL_UNROLL_DEVICE
  for (int c = 0; c < n; ++c) {
    if constexpr (is_dual<V>) {
      target[c] = {numbers[2 * c], numbers[2 * c + 1]};
    } else {
      target[c] = numbers[c];
    }
  }
}

/// The channels of a lane; lanes beyond a row's end have none and read zeros.
template <int CH>
struct Channels {
  int first;
  bool exist;

  __device__ Channels(int channel_block, int row)
      : first((channel_block * warp_size + static_cast<int>(threadIdx.x) % warp_size) * CH), exist(first < row) {}
};

/// Channels of a row; null tangents are zeros.
template <class V, int CH>
__device__ inline void load_channels(const Field<const Element<V>>& field, int64_t row, const Channels<CH>& channels,
                                     V (&target)[CH]) {
  using T = Element<V>;
  T values[CH], tangents[CH];
  TESSERAL_UNROLL_DEVICE
  for (int c = 0; c < CH; ++c) values[c] = tangents[c] = T(0);
  if (channels.exist) {
    load_numbers(field.values + row + channels.first, values);
    if constexpr (is_dual<V>) {
      if (field.tangents) load_numbers(field.tangents + row + channels.first, tangents);
    }
  }
  TESSERAL_UNROLL_DEVICE
  for (int c = 0; c < CH; ++c) {
    if constexpr (is_dual<V>) {
      target[c] = {values[c], tangents[c]};
    } else {
      target[c] = values[c];
    }
  }
}

/// Weights of up to radial_chunk functions of a path, from number `chunk` on; zeros for those that do not exist.
template <class V, int CH>
__device__ inline void load_weights(const MessageWork<Element<V>>& work, int path, int chunk, const Channels<CH>& channels,
                                    V (&weights)[radial_chunk][CH]) {
  TESSERAL_UNROLL_DEVICE
  for (int q = 0; q < radial_chunk; ++q) {
    TESSERAL_UNROLL_DEVICE
    for (int c = 0; c < CH; ++c) weights[q][c] = constant<V>(0);
    if (chunk + q < work.shape.n_radial) {
      const int64_t row = (static_cast<int64_t>(path) * work.shape.n_radial + chunk + q) * work.shape.row;
      load_channels<V>(work.inputs.weights, row, channels, weights[q]);
    }
  }
}

/// R_{p,k} of an edge, or the part of it of these radial functions.
template <class V, int CH>
__device__ inline void radial_channels(const V* radial, const V (&weights)[radial_chunk][CH], V (&R)[CH]) {
  V g[radial_chunk];
  load_shared<radial_chunk>(radial, g);
  TESSERAL_UNROLL_DEVICE
  for (int c = 0; c < CH; ++c) R[c] = constant<V>(0);
  TESSERAL_UNROLL_DEVICE
  for (int q = 0; q < radial_chunk; ++q) {
    TESSERAL_UNROLL_DEVICE
    for (int c = 0; c < CH; ++c) R[c] += g[q] * weights[q][c];
  }
}

/// What a warp has of a batch of edges in shared memory.
template <class V>
struct EdgeBatch {
  int64_t* h;    // [batch] where the neighbour's rows begin in h
  V* radial;     // [batch][radial_chunk]
  V* couplings;  // [batch][tables.couplings]

  __host__ __device__ EdgeBatch(SharedParts& memory, int batch, int n_couplings)
      : h(memory.take<int64_t>(batch)),
        radial(memory.take<V>(batch * radial_chunk)),
        couplings(memory.take<V>(batch * n_couplings)) {}

  __device__ void take_neighbors(const MessageWork<Element<V>>& work, int64_t edge, int count) const {
    for (int e = threadIdx.x % warp_size; e < count; e += warp_size) {
      h[e] = work.inputs.neighbors[edge + e] * work.shape.n_components * work.shape.row;
    }
  }
  __device__ void take_radial(const MessageWork<Element<V>>& work, int64_t edge, int count, int chunk) const {
    const int Q = work.shape.n_radial;
    const Field<const Element<V>>& given = work.inputs.radial;
    for (int n = threadIdx.x % warp_size; n < count * radial_chunk; n += warp_size) {
      const int q = chunk + n % radial_chunk;
      radial[n] = q < Q ? element<V>(given.values, given.tangents, (edge + n / radial_chunk) * Q + q) : constant<V>(0);
    }
  }
  /// B of a part with n_entries = n_components * coupling_row entries, zero where it has no terms.
  __device__ void take_couplings(const MessageWork<Element<V>>& work, int64_t edge, int count, const MessagePart& part,
                                 int n_entries) const {
    const auto& tables = work.tables;
    const Field<const Element<V>>& given = work.inputs.angular;
    const float per_entry = 1.0f / static_cast<float>(n_entries);
    for (int n = threadIdx.x % warp_size; n < count * n_entries; n += warp_size) {
      const int e = static_cast<int>((static_cast<float>(n) + 0.5f) * per_entry);  // n / n_entries, for such small numbers
      const int entry = n - e * n_entries;
      const Span terms = tables.entries[part.first_entry + entry];
      const int64_t harmonics = (edge + e) * work.shape.n_harmonics;
      V sum = constant<V>(0);
      for (int t = terms.first; t < terms.last; ++t) {
        sum += tables.term_couplings[t] * element<V>(given.values, given.tangents, harmonics + tables.term_harmonics[t]);
      }
      couplings[e * tables.couplings + entry] = sum;
    }
  }
};

/// Rows of h one after the other, first all components of an edge, then those of the next: each is asked for one step before
/// it is needed. Use: start, then `next` for every row in this order.
template <class V, int CH>
class HRows {
 public:
  __device__ HRows(const MessageWork<Element<V>>& work, const Channels<CH>& channels, const MessagePart& part,
                   const int64_t* offsets, int count)
      : field_(work.inputs.h),
        channels_(channels),
        row_(work.shape.row),
        first_(static_cast<int64_t>(part.component) * row_),
        n_components_(part.n_components),
        left_(part.n_components),
        offsets_(offsets),
        end_(offsets + count),
        at_(*offsets + first_) {
    load_channels<V>(field_, at_, channels_, ahead_);
  }
  __device__ void next(V (&h)[CH]) {
    TESSERAL_UNROLL_DEVICE
    for (int c = 0; c < CH; ++c) h[c] = ahead_[c];
    if (--left_ > 0) {
      at_ += row_;
    } else {
      left_ = n_components_;
      if (++offsets_ < end_) at_ = *offsets_ + first_;  // else the last row once more
    }
    load_channels<V>(field_, at_, channels_, ahead_);
  }

 private:
  const Field<const Element<V>> field_;
  const Channels<CH> channels_;
  const int row_;
  const int64_t first_;
  const int n_components_;
  int left_;
  const int64_t *offsets_, *end_;
  int64_t at_;
  V ahead_[CH];
};

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

/// The warps of a grid: `units` for each of `n_places` places (centers or groups of them), in whole blocks for each place.
struct WarpGrid {
  int units;
  int blocks_per_place;
  int warps;  // of a block

  explicit WarpGrid(int n_units)
      : units(n_units),
        blocks_per_place((n_units + most_warps - 1) / most_warps),
        warps((n_units + blocks_per_place - 1) / blocks_per_place) {}
  int threads() const { return warps * warp_size; }

#if defined(__CUDACC__) || defined(TESSERAL_EMULATE)
  __device__ int64_t place() const { return blockIdx.x / static_cast<unsigned>(blocks_per_place); }
  /// Some last warps have none: at least `units`.
  __device__ int unit() const {
    const unsigned block = blockIdx.x % static_cast<unsigned>(blocks_per_place);
    return static_cast<int>(block * warps + threadIdx.x / warp_size);
  }
#endif
};

/// How the warps of a block share the edges of one center: in turns of equal sizes of at most `batch`.
class EdgeShares {
 public:
  __host__ __device__ EdgeShares(int64_t first, int64_t last, int batch) : end(last), first_(first) {
    const int n = static_cast<int>(last - first), turns = (n + most_warps * batch - 1) / (most_warps * batch);
    size_ = turns > 0 ? (n + most_warps * turns - 1) / (most_warps * turns) : 1;
  }
  __host__ __device__ int64_t begin(int warp) const { return first_ + warp * size_; }
  __host__ __device__ int stride() const { return most_warps * size_; }
  __host__ __device__ int count(int64_t edge) const { return static_cast<int>(end - edge < size_ ? end - edge : size_); }
  const int64_t end;

 private:
  int64_t first_;
  int size_;
};

/// Edges at a time: at most `most`, of which each takes so many bytes of the warp's share of the usual 48 kB.
inline int batch_of(int most, std::size_t bytes_per_edge) {
  const std::size_t room = 10 * 1024 / bytes_per_edge;
  return room >= static_cast<std::size_t>(most) ? most : room > 0 ? static_cast<int>(room) : 1;
}

}  // namespace tesseral::cuda
