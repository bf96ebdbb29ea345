// Gradients by h, radial functions and harmonics of the usual messages of scalars, path l with outputs and harmonics of
// degree l only: M_{lm,k} = sum_e R_{l,k} c_lm Y_lm h_k, R_{l,k} = sum_q g_q W_{l,q,k}. With s_{l,k} = sum_m c Y_lm
// G_{lm,k}:
//
//   dh_k = sum_l R_lk s_lk,   dg_q = sum_lk W_lqk h_k s_lk,   dY_lm = c sum_k R_lk h_k G_{lm,k}
//
// A block has one center, each of its warps some of the center's edges (see message_edges.hpp). A lane keeps the weights of
// all paths and the G of all outputs for its CH channels in registers, so that an edge takes one pass: its g and Y from
// shared memory, its h, one atomic addition to dh (in any order: results vary by its rounding), and one sum over the warp of
// all dg and dY, which for rows of more than 32 CH channels gather in shared memory.
#include "message_edges.hpp"
#include "message_gradient.hpp"
#include "warp_fold.hpp"

namespace tesseral::cuda {
namespace {

constexpr int most_edges = 16;  // of a warp at a time

/// Blocks that a multiprocessor has registers for.
template <class V>
constexpr int blocks_at_once = sizeof(Element<V>) == 4 ? 3 : 2;

/// Shared memory of a warp.
template <class V, int LM>
struct ScalarMemory {
  using T = Element<V>;
  static constexpr int row = fold_size(LM);  // of harmonics
  int64_t* h;                                // [most_edges + 1], as take_neighbors writes it
  V* radial;                                 // [most_edges][radial_chunk]
  V* angular;                                // [most_edges][row], times couplings
  T* by_radial;                              // [most_edges][radial_chunk] gradients
  T* by_angular;                             // [most_edges][row]

  __host__ __device__ explicit ScalarMemory(SharedParts& memory)
      : h(memory.take<int64_t>(most_edges + 1)),
        radial(memory.take<V>(most_edges * radial_chunk)),
        angular(memory.take<V>(most_edges * row)),
        by_radial(memory.take<T>(most_edges * radial_chunk)),
        by_angular(memory.take<T>(most_edges * row)) {}
};

/// One center and the channels of one lane.
template <class V, int CH, int l_max>
class ScalarGradients {
 public:
  using T = Element<V>;
  static constexpr int LM = (l_max + 1) * (l_max + 1);
  using Memory = ScalarMemory<V, LM>;

  __device__ ScalarGradients(const MessageWork<T>& work, int64_t atom, int channel_block, const T* G)
      : channels_(channel_block, work.shape.row) {
    TESSERAL_UNROLL
    for (int l = 0; l <= l_max; ++l) load_weights(work, l, 0, channels_, weights_[l]);
    set_zero(cotangents_);
    if (!channels_.exist) return;
    TESSERAL_UNROLL
    for (int lm = 0; lm < LM; ++lm) {
      load_numbers(G + (atom * LM + lm) * work.shape.row + channels_.first, cotangents_[lm]);
    }
  }

  /// `by_h`: where the row of number 0 of h has its gradient.
  __device__ void add_edges(const MessageWork<T>& work, const Memory& memory, int count, bool first_channels,
                            T* by_h) const {
    RowsOfH<V, CH> h(work, channels_, 0, memory.h);
    for (int e = 0; e < count; ++e) {
      h.next_edge(e);
      T dh[CH], by_radial[radial_chunk], by_angular[Memory::row];
      set_zero(dh);
      set_zero(by_radial);
      set_zero(by_angular);
      add_edge(memory.radial + e * radial_chunk, memory.angular + e * Memory::row, h.now, dh, by_radial, by_angular);
      if (channels_.exist) add_numbers(by_h + memory.h[e] + channels_.first, dh);
      add_sum(by_radial, memory.by_radial + e * radial_chunk, first_channels);
      add_sum(by_angular, memory.by_angular + e * Memory::row, first_channels);
    }
  }

 private:
  const Channels<CH> channels_;
  V weights_[l_max + 1][radial_chunk][CH];
  T cotangents_[LM][CH];

  __device__ void add_edge(const V* radial, const V* angular, const V (&h)[CH], T (&dh)[CH], T (&by_radial)[radial_chunk],
                           T (&by_angular)[Memory::row]) const {
    V g[radial_chunk], Y[Memory::row];
    load_shared<radial_chunk>(radial, g);
    load_shared<Memory::row>(angular, Y);
    TESSERAL_UNROLL
    for (int l = 0; l <= l_max; ++l) {
      TESSERAL_UNROLL
      for (int c = 0; c < CH; ++c) {
        V R = constant<V>(0), s = constant<V>(0);
        TESSERAL_UNROLL
        for (int q = 0; q < radial_chunk; ++q) R += g[q] * weights_[l][q][c];
        const T Rh = wanted_part(R * h[c]);
        TESSERAL_UNROLL
        for (int lm = l * l; lm < (l + 1) * (l + 1); ++lm) {
          s += Y[lm] * cotangents_[lm][c];
          by_angular[lm] += Rh * cotangents_[lm][c];
        }
        dh[c] += wanted_part(R * s);
        const V dR = h[c] * s;
        TESSERAL_UNROLL
        for (int q = 0; q < radial_chunk; ++q) by_radial[q] += wanted_part(weights_[l][q][c] * dR);
      }
    }
  }

  template <int n>
  static __device__ void add_sum(T (&numbers)[n], T* sums, bool first) {
    const T sum = warp_fold(numbers);
    const int own = folded_number<n>();
    if (own >= 0) sums[own] = first ? sum : sums[own] + sum;
  }
};

/// The edges of a batch into shared memory.
template <class V, int LM>
__device__ void take_edges(const MessageWork<Element<V>>& work, const ScalarMemory<V, LM>& memory,
                           const Element<V>* couplings, int64_t edge, int count) {
  constexpr int row = ScalarMemory<V, LM>::row;
  const Field<const Element<V>>& angular = work.inputs.angular;
  take_neighbors(work, edge, count, memory.h);
  take_radial(work, edge, count, 0, memory.radial);
  for (int n = lane_of_warp(); n < count * row; n += warp_size) {
    const int lm = n % row;
    memory.angular[n] =
        lm < LM ? couplings[lm] * element<V>(angular.values, angular.tangents, (edge + n / row) * LM + lm) : constant<V>(0);
  }
}

template <class V, int LM>
__device__ void write_geometry(const MessageWork<Element<V>>& work, const ScalarMemory<V, LM>& memory,
                               const Element<V>* couplings, int64_t edge, int count,
                               const MessageOutputs<Element<V>>& outputs) {
  const int lane = lane_of_warp(), Q = work.shape.n_radial;
  for (int n = lane; n < count * radial_chunk; n += warp_size) {
    const int q = n % radial_chunk;
    if (q < Q) outputs.radial[(edge + n / radial_chunk) * Q + q] = memory.by_radial[n];
  }
  for (int n = lane; n < count * LM; n += warp_size) {
    const int e = n / LM, lm = n % LM;
    outputs.angular[edge * LM + n] = couplings[lm] * memory.by_angular[e * ScalarMemory<V, LM>::row + lm];
  }
}

template <class V, int CH, int l_max>
__global__ void __launch_bounds__(most_warps* warp_size, blocks_at_once<V>)
    scalar_gradients(MessageWork<Element<V>> work, const Element<V>* couplings, std::size_t warp_bytes, const Element<V>* G,
                     int64_t first_atom, MessageOutputs<Element<V>> outputs) {
  using Gradients = ScalarGradients<V, CH, l_max>;
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  SharedParts parts(shared_memory<unsigned char>() + warp * warp_bytes);
  const typename Gradients::Memory memory(parts);
  const int64_t atom = first_atom + blockIdx.x;
  const EdgeShares shares(work.inputs.first[atom], work.inputs.first[atom + 1], most_edges);
  Element<V>* by_h = outputs.h - outputs.first_row * work.shape.row;
  for (int64_t edge = shares.begin(warp); edge < shares.end; edge += shares.stride()) {
    const int count = shares.count(edge);
    __syncwarp();
    take_edges(work, memory, couplings, edge, count);
    __syncwarp();
    for (int block = 0; block * warp_size * CH < work.shape.row; ++block) {
      Gradients(work, atom, block, G).add_edges(work, memory, count, block == 0, by_h);
    }
    __syncwarp();
    write_geometry(work, memory, couplings, edge, count, outputs);
  }
}

}  // namespace

template <class V>
bool scalar_edge_gradients(const MessageShape<Element<V>>& shape, const MessageInputs<Element<V>>& inputs,
                           const Element<V>* G, Range atoms, const MessageOutputs<Element<V>>& outputs) {
  using T = Element<V>;
  int l_max = 0;
  while ((l_max + 1) * (l_max + 1) < shape.n_harmonics) ++l_max;
  if (shape.row == 0 || l_max < 1 || l_max > 3 || shape.n_radial > radial_chunk) return false;
  const T* couplings = scalar_couplings(shape, l_max);
  if (!couplings) return false;
  const MessageWork<T> work{shape, inputs, {}, most_edges};
  const auto run = [&](auto degree, auto channels) {
    constexpr int l = decltype(degree)::value, CH = decltype(channels)::value;
    SharedParts memory(nullptr);
    ScalarMemory<V, (l + 1) * (l + 1)>{memory};
    launch(scalar_gradients<V, CH, l>, atoms.end - atoms.begin, most_warps * warp_size, most_warps * memory.used(), work,
           couplings, memory.used(), G, atoms.begin, outputs);
  };
  // more channels would not leave enough registers
  constexpr int most = sizeof(V) == 4 ? 2 : 1;
  const int n =
      channels_per_lane(shape.row, most, sizeof(T),
                        {inputs.h.values, inputs.h.tangents, inputs.weights.values, inputs.weights.tangents, G, outputs.h});
  const auto run_degree = [&](auto degree) {
    if (most == 2 && n == 2) return run(degree, std::integral_constant<int, most>());
    run(degree, std::integral_constant<int, 1>());
  };
  if (l_max == 1) run_degree(std::integral_constant<int, 1>());
  if (l_max == 2) run_degree(std::integral_constant<int, 2>());
  if (l_max == 3) run_degree(std::integral_constant<int, 3>());
  return true;
}

#define TESSERAL_INSTANTIATE_SCALARS(T, V)                                                                 \
  template bool scalar_edge_gradients<V>(const MessageShape<T>&, const MessageInputs<T>&, const T*, Range, \
                                         const MessageOutputs<T>&);
TESSERAL_INSTANTIATE_SCALARS(float, float)
TESSERAL_INSTANTIATE_SCALARS(float, Dual<float>)
TESSERAL_INSTANTIATE_SCALARS(double, double)
TESSERAL_INSTANTIATE_SCALARS(double, Dual<double>)

}  // namespace tesseral::cuda
