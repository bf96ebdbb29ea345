// Gradient of <G, message> by the weights (see message_edges.hpp): sum_e g_q dR_k, with dR as in message_edge_gradients.cu.
//
// A warp has one part, its channels and a range of centers, sums over all their edges in registers, and adds the sums at the
// end by atomic additions, in any order: results vary by their rounding.
#include <algorithm>

#include "message_edges.hpp"
#include "message_gradient.hpp"

namespace tesseral::cuda {
namespace {

/// The edges of a batch in shared memory, added to the sums of one part. With `single` it has one component of h.
template <bool single, class V, int CH, int W>
__device__ void add_weight_gradients(const MessageWork<Element<V>>& work, const EdgeBatch<V>& batch, int count,
                                     const MessagePart& part, const Channels<CH>& channels,
                                     const Element<V> (&cotangents)[W][CH], V (&sums)[radial_chunk][CH]) {
  RowsOfH<V, CH> h(work, channels, part.component, batch.h);
  const int n_components = single ? 1 : part.n_components;
  TESSERAL_UNROLL_BY(single ? 2 : 1)
  for (int e = 0; e < count; ++e) {
    V dR[CH], g[radial_chunk];
    h.next_edge(e);
    set_zero(dR);
    TESSERAL_UNROLL_BY(1)
    for (int x = 0; x < n_components; ++x) {
      V s[CH];
      h.look_ahead(x + 1 < n_components);
      coupled_cotangents(batch.couplings + e * work.tables.couplings + x * coupling_row(W), cotangents, s);
      TESSERAL_UNROLL
      for (int c = 0; c < CH; ++c) dR[c] += h.now[c] * s[c];
      h.next_component();
    }
    load_shared<radial_chunk>(batch.radial + e * radial_chunk, g);
    TESSERAL_UNROLL
    for (int q = 0; q < radial_chunk; ++q) {
      TESSERAL_UNROLL
      for (int c = 0; c < CH; ++c) sums[q][c] += g[q] * dR[c];
    }
  }
}

template <class V, int CH, int W>
__device__ void weight_gradients_of_part(const MessageWork<Element<V>>& work, const EdgeBatch<V>& batch,
                                         const MessagePart& part, int chunk, const Channels<CH>& channels,
                                         const Element<V>* G, Range atoms, Element<V>* out) {
  using T = Element<V>;
  V sums[radial_chunk][CH];
  set_zero(sums);
  for (int64_t atom = atoms.begin; atom < atoms.end; ++atom) {
    const int64_t end = work.inputs.first[atom + 1];
    T cotangents[W][CH];
    load_cotangents(work.shape, G, atom, part, channels, cotangents);
    for (int64_t edge = work.inputs.first[atom]; edge < end; edge += work.batch) {
      const int count = static_cast<int>(end - edge < work.batch ? end - edge : work.batch);
      batch.template take<W>(work, edge, count, part, chunk);
      if (part.n_components == 1) {
        add_weight_gradients<true>(work, batch, count, part, channels, cotangents, sums);
      } else {
        add_weight_gradients<false>(work, batch, count, part, channels, cotangents, sums);
      }
    }
  }
  if (!channels.exist) return;
  const int Q = work.shape.n_radial;
  TESSERAL_UNROLL
  for (int q = 0; q < radial_chunk; ++q) {
    if (chunk + q >= Q) continue;
    T wanted[CH];
    take_wanted(sums[q], wanted);
    add_numbers(out + (static_cast<int64_t>(part.path) * Q + chunk + q) * work.shape.row + channels.first, wanted);
  }
}

template <class V, int CH>
__global__ void __launch_bounds__(most_warps* warp_size, 3)
    weight_gradients(MessageWork<Element<V>> work, WarpGrid grid, std::size_t warp_bytes, const Element<V>* G, Range atoms,
                     int64_t n_places, Element<V>* out) {
  const int unit = grid.unit();
  if (unit >= grid.units) return;
  SharedParts memory(shared_memory<unsigned char>() + threadIdx.x / warp_size * warp_bytes);
  const EdgeBatch<V> batch(memory, work.batch, work.tables.couplings);
  const MessagePart part = work.tables.parts[unit % work.tables.n_parts];
  const int rest = unit / work.tables.n_parts, n_chunks = (work.shape.n_radial + radial_chunk - 1) / radial_chunk;
  const Channels<CH> channels(rest / n_chunks, work.shape.row);
  const int64_t n_atoms = atoms.end - atoms.begin, place = grid.place();
  const Range own{atoms.begin + n_atoms * place / n_places, atoms.begin + n_atoms * (place + 1) / n_places};
  with_width(part.n_outs, [&](auto width) {
    weight_gradients_of_part<V, CH, decltype(width)::value>(work, batch, part, rest % n_chunks * radial_chunk, channels, G,
                                                            own, out);
  });
}

}  // namespace

template <class V>
void message_weight_gradients(const MessageShape<Element<V>>& shape, const MessageInputs<Element<V>>& inputs,
                              const Element<V>* G, Range atoms, Element<V>* out) {
  using T = Element<V>;
  MessageWork<T> work{shape, inputs, part_tables(shape, PartOrder::by_outputs), 1};
  const auto bytes = [&] {
    SharedParts memory(nullptr);
    EdgeBatch<V>(memory, work.batch, work.tables.couplings);
    return memory.used();
  };
  work.batch = batch_of(64, bytes(), 6 * 1024);
  const int n = channels_per_lane(shape.row, most_channels<V>, sizeof(T), {inputs.h.values, inputs.h.tangents, G, out});
  const int n_chunks = (shape.n_radial + radial_chunk - 1) / radial_chunk;
  const int units = work.tables.n_parts * n_chunks * static_cast<int>(blocks_for(shape.row, n * warp_size));
  const int64_t n_atoms = atoms.end - atoms.begin;
  if (units == 0 || n_atoms == 0) return;
  const WarpGrid grid(units);
  constexpr int64_t enough_warps = 8192;  // to keep a large GPU busy
  const int64_t n_places = std::clamp<int64_t>(enough_warps / units, 1, n_atoms);
  with_channels<V>(n, [&](auto count) {
    launch(weight_gradients<V, decltype(count)::value>, n_places * grid.blocks_per_place, grid.threads(),
           grid.warps * bytes(), work, grid, bytes(), G, atoms, n_places, out);
  });
}

#define TESSERAL_INSTANTIATE_GRADIENTS(T, V) \
  template void message_weight_gradients<V>(const MessageShape<T>&, const MessageInputs<T>&, const T*, Range, T*);
TESSERAL_INSTANTIATE_GRADIENTS(float, float)
TESSERAL_INSTANTIATE_GRADIENTS(float, Dual<float>)
TESSERAL_INSTANTIATE_GRADIENTS(double, double)
TESSERAL_INSTANTIATE_GRADIENTS(double, Dual<double>)

}  // namespace tesseral::cuda
