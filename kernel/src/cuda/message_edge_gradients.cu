// Gradients of <G, message> by h and by the radial functions and harmonics of edges, for every kind of message
// (see message_edges.hpp).
//
// With s_{x,k} = sum_o B_{x,o} G_{o,k} of an edge and a path: the gradient by h_{x,k} is R_k s_{x,k}, by R_k
// sum_x h_{x,k} s_{x,k} =: dR_k, by g_q sum_k W_qk dR_k, and by B_{x,o} sum_k R_k h_{x,k} G_{o,k}.
//
// A block has one center, each of its warps some of the center's edges, for which it works through all channels and parts.
// Gradients by h of the part's components gather in shared memory until all parts with these components are done and are
// then added to the neighbour's row by atomic additions, in any order: results vary by their rounding. Sums over channels go
// by shuffles.
#include "message_edges.hpp"
#include "message_gradient.hpp"
#include "warp_fold.hpp"

namespace tesseral::cuda {
namespace {

/// Shared memory of a warp of edge_gradients.
template <class V, int CH>
struct GradientMemory {
  using T = Element<V>;
  EdgeBatch<V> edges;
  T* h;          // [batch][most_components][warp_size][CH]
  T* couplings;  // [batch][tables.couplings] gradients by B, of one part
  T* radial;     // [batch][Q]
  T* angular;    // [batch][LM]

  __host__ __device__ GradientMemory(SharedParts& memory, const MessageWork<T>& work)
      : edges(memory, work.batch, work.tables.couplings),
        h(memory.take<T>(work.batch * work.tables.most_components * warp_size * CH)),
        couplings(memory.take<T>(work.batch * work.tables.couplings)),
        radial(memory.take<T>(work.batch * work.shape.n_radial)),
        angular(memory.take<T>(work.batch * work.shape.n_harmonics)) {}
};

/// One warp's batch of edges.
template <class V, int CH, bool with_geometry>
class EdgeGradients {
 public:
  using T = Element<V>;

  __device__ EdgeGradients(const MessageWork<T>& work, const GradientMemory<V, CH>& shared, const T* G,
                           const MessageOutputs<T>& outputs)
      : work_(work), shared_(shared), G_(G), outputs_(outputs) {}

  __device__ void run(int64_t atom, int64_t edge, int count) {
    atom_ = atom;
    edge_ = edge;
    count_ = count;
    __syncwarp();
    take_neighbors(work_, edge, count, shared_.edges.h);
    for (int n = lane(); with_geometry && n < count * work_.shape.n_radial; n += warp_size) shared_.radial[n] = T(0);
    for (int n = lane(); with_geometry && n < count * work_.shape.n_harmonics; n += warp_size) shared_.angular[n] = T(0);
    __syncwarp();
    for (int block = 0; block * warp_size * CH < work_.shape.row; ++block) {
      const Channels<CH> channels(block, work_.shape.row);
      for (int g = 0; g < work_.tables.n_groups; ++g) {
        const PartGroup group = work_.tables.groups[g];
        if (group.first == group.last) continue;
        for (int p = group.first; p < group.last; ++p) {
          const MessagePart part = work_.tables.parts[p];
          with_width(part.n_outs,
                     [&](auto width) { this->template add_part<decltype(width)::value>(part, p == group.first, channels); });
        }
        hand_on_h(group, channels);
      }
    }
    if constexpr (with_geometry) write_geometry();
  }

 private:
  const MessageWork<T>& work_;
  const GradientMemory<V, CH> shared_;
  const T* G_;
  const MessageOutputs<T>& outputs_;
  int64_t atom_, edge_;
  int count_;

  static __device__ int lane() { return lane_of_warp(); }
  /// This lane's sums of an edge's gradient by component x of h (counted from the group's first).
  __device__ T* h_sums(int e, int x) const {
    return shared_.h + ((e * work_.tables.most_components + x) * warp_size + lane()) * CH;
  }

  template <int W>
  __device__ void add_part(const MessagePart& part, bool first_of_group, const Channels<CH>& channels) {
    T cotangents[W][CH];
    load_cotangents(work_.shape, G_, atom_, part, channels, cotangents);
    for (int chunk = 0; chunk == 0 || chunk < work_.shape.n_radial; chunk += radial_chunk) {
      V weights[radial_chunk][CH];
      load_weights(work_, part.path, chunk, channels, weights);
      __syncwarp();
      take_radial(work_, edge_, count_, chunk, shared_.edges.radial);
      if (chunk == 0) shared_.edges.template take_couplings<W>(work_, edge_, count_, part);
      __syncwarp();
      add_edges(part, chunk, first_of_group && chunk == 0, channels, cotangents, weights);
    }
    if constexpr (with_geometry) {
      __syncwarp();
      add_harmonics(part);
    }
  }

  template <int W>
  __device__ void add_edges(const MessagePart& part, int chunk, bool first_of_group, const Channels<CH>& channels,
                            const T (&cotangents)[W][CH], const V (&weights)[radial_chunk][CH]) {
    RowsOfH<V, CH> h(work_, channels, part.component, shared_.edges.h);
    TESSERAL_UNROLL_BY(1)
    for (int e = 0; e < count_; ++e) {
      V R[CH], dR[CH];
      h.next_edge(e);
      radial_channels(shared_.edges.radial + e * radial_chunk, weights, R);
      set_zero(dR);
      TESSERAL_UNROLL_BY(1)
      for (int x = 0; x < part.n_components; ++x) {
        const int entry = e * work_.tables.couplings + x * coupling_row(W);
        V s[CH];
        h.look_ahead(x + 1 < part.n_components);
        coupled_cotangents(shared_.edges.couplings + entry, cotangents, s);
        T sums[CH];
        set_zero(sums);
        if (!first_of_group) load_numbers(h_sums(e, x), sums);
        TESSERAL_UNROLL
        for (int c = 0; c < CH; ++c) {
          sums[c] += wanted_part(R[c] * s[c]);
          dR[c] += h.now[c] * s[c];
        }
        store_numbers(h_sums(e, x), sums);
        if constexpr (with_geometry) {
          T by_coupling[fold_size(W)];
          set_zero(by_coupling);
          TESSERAL_UNROLL
          for (int c = 0; c < CH; ++c) {
            const T Rh = wanted_part(R[c] * h.now[c]);
            TESSERAL_UNROLL
            for (int o = 0; o < W; ++o) by_coupling[o] += Rh * cotangents[o][c];
          }
          const T sum = warp_fold(by_coupling);
          const int o = folded_number<fold_size(W)>();
          if (o >= 0 && o < W) shared_.couplings[entry + o] = chunk == 0 ? sum : shared_.couplings[entry + o] + sum;
        }
        h.next_component();
      }
      if constexpr (with_geometry) {
        T by_radial[radial_chunk];
        TESSERAL_UNROLL
        for (int q = 0; q < radial_chunk; ++q) {
          by_radial[q] = T(0);
          TESSERAL_UNROLL
          for (int c = 0; c < CH; ++c) by_radial[q] += wanted_part(weights[q][c] * dR[c]);
        }
        const T sum = warp_fold(by_radial);
        const int q = folded_number<radial_chunk>();
        if (q >= 0 && chunk + q < work_.shape.n_radial) shared_.radial[e * work_.shape.n_radial + chunk + q] += sum;
      }
    }
  }

  /// From the gradients by B to those by the harmonics.
  __device__ void add_harmonics(const MessagePart& part) const {
    const auto& tables = work_.tables;
    const int n_harmonics = part.last_harmonic - part.first_harmonic;
    for (int n = lane(); n < count_ * n_harmonics; n += warp_size) {
      const int e = n / n_harmonics;
      const HarmonicShares own = tables.harmonics[part.first_harmonic + n - e * n_harmonics];
      T sum = T(0);
      TESSERAL_UNROLL_BY(1)
      for (int share = own.first; share < own.last; ++share) {
        sum += tables.share_couplings[share] * shared_.couplings[e * tables.couplings + tables.share_entries[share]];
      }
      shared_.angular[e * work_.shape.n_harmonics + own.harmonic] += sum;
    }
  }

  __device__ void hand_on_h(const PartGroup& group, const Channels<CH>& channels) const {
    if (!channels.exist) return;
    const int64_t row = work_.shape.row, first = outputs_.first_row * work_.shape.n_components * row;
    for (int e = 0; e < count_; ++e) {
      T* target = outputs_.h + (shared_.edges.h[e] - first) + group.begin * row + channels.first;
      for (int x = 0; x < group.size; ++x, target += row) {
        T sums[CH];
        load_numbers(h_sums(e, x), sums);
        add_numbers(target, sums);
      }
    }
  }

  __device__ void write_geometry() const {
    __syncwarp();
    const int Q = work_.shape.n_radial, LM = work_.shape.n_harmonics;
    for (int n = lane(); n < count_ * Q; n += warp_size) outputs_.radial[edge_ * Q + n] = shared_.radial[n];
    for (int n = lane(); n < count_ * LM; n += warp_size) outputs_.angular[edge_ * LM + n] = shared_.angular[n];
  }
};

template <class V, int CH, bool with_geometry>
__global__ void __launch_bounds__(most_warps* warp_size, 3)
    edge_gradients(MessageWork<Element<V>> work, std::size_t warp_bytes, const Element<V>* G, int64_t first_atom,
                   MessageOutputs<Element<V>> outputs) {
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  SharedParts memory(shared_memory<unsigned char>() + warp * warp_bytes);
  EdgeGradients<V, CH, with_geometry> gradients(work, GradientMemory<V, CH>(memory, work), G, outputs);
  const int64_t atom = first_atom + blockIdx.x;
  const EdgeShares shares(work.inputs.first[atom], work.inputs.first[atom + 1], work.batch);
  for (int64_t edge = shares.begin(warp); edge < shares.end; edge += shares.stride()) {
    gradients.run(atom, edge, shares.count(edge));
  }
}

template <class V, int CH, bool with_geometry>
void launch_edge_gradients(MessageWork<Element<V>> work, const Element<V>* G, Range atoms,
                           const MessageOutputs<Element<V>>& outputs) {
  const auto bytes = [&] {
    SharedParts memory(nullptr);
    GradientMemory<V, CH>(memory, work);
    return memory.used();
  };
  work.batch = batch_of(16, bytes(), 10 * 1024);
  launch(edge_gradients<V, CH, with_geometry>, atoms.end - atoms.begin, most_warps * warp_size, most_warps * bytes(), work,
         bytes(), G, atoms.begin, outputs);
}

}  // namespace

template <class V>
void message_edge_gradients(const MessageShape<Element<V>>& shape, const MessageInputs<Element<V>>& inputs,
                            const Element<V>* G, Range atoms, const MessageOutputs<Element<V>>& outputs) {
  using T = Element<V>;
  const MessageWork<T> work{shape, inputs, part_tables(shape, PartOrder::by_components), 1};
  const int n =
      channels_per_lane(shape.row, most_channels<V>, sizeof(T),
                        {inputs.h.values, inputs.h.tangents, inputs.weights.values, inputs.weights.tangents, G, outputs.h});
  with_channels<V>(n, [&](auto count) {
    if (outputs.radial) {
      launch_edge_gradients<V, decltype(count)::value, true>(work, G, atoms, outputs);
    } else {
      launch_edge_gradients<V, decltype(count)::value, false>(work, G, atoms, outputs);
    }
  });
}

#define TESSERAL_INSTANTIATE_GRADIENTS(T, V)                                                                \
  template void message_edge_gradients<V>(const MessageShape<T>&, const MessageInputs<T>&, const T*, Range, \
                                          const MessageOutputs<T>&);
TESSERAL_INSTANTIATE_GRADIENTS(float, float)
TESSERAL_INSTANTIATE_GRADIENTS(float, Dual<float>)
TESSERAL_INSTANTIATE_GRADIENTS(double, double)
TESSERAL_INSTANTIATE_GRADIENTS(double, Dual<double>)

}  // namespace tesseral::cuda
