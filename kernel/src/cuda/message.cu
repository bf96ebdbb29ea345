// Messages and, with tangents, their derivative along these (see message_edges.hpp).
//
// A warp has one center, one range of outputs and its channels: for each part that adds to these outputs it goes over the
// center's edges, with the part's weights and the sums of the outputs in registers, and writes the sums once. Warps of a
// block have the same center, so that what they read of h comes from the nearest cache. With scalar h, l_max 3, 128 channels
// and single precision the four warps of a block make one atom's message, each one path with four channels in a lane.
#include "message_edges.hpp"
#include "message_gradient.hpp"

namespace tesseral::cuda {
namespace {

/// Blocks that a multiprocessor has registers for.
template <class V>
constexpr int blocks_at_once = sizeof(V) == 4 ? 4 : 3;

/// The edges of a batch in shared memory, added to the sums of W outputs. With `single` the part has one component of h.
template <bool single, class V, int CH, int W>
__device__ void add_edges(const MessageWork<Element<V>>& work, const EdgeBatch<V>& batch, int count, const MessagePart& part,
                          const Channels<CH>& channels, const V (&weights)[radial_chunk][CH], V (&sums)[W][CH]) {
  const int n_components = single ? 1 : part.n_components;
  RowsOfH<V, CH> h(work, channels, part.component, batch.h);
  TESSERAL_UNROLL_BY(single ? 2 : 1)
  for (int e = 0; e < count; ++e) {
    V R[CH];
    h.next_edge(e);
    radial_channels(batch.radial + e * radial_chunk, weights, R);
    const V* couplings = batch.couplings + e * work.tables.couplings;
    TESSERAL_UNROLL_BY(1)
    for (int x = 0; x < n_components; ++x, couplings += coupling_row(W)) {
      V B[coupling_row(W)];
      h.look_ahead(x + 1 < n_components);
      load_shared<coupling_row(W)>(couplings, B);
      TESSERAL_UNROLL
      for (int c = 0; c < CH; ++c) {
        const V Rh = R[c] * h.now[c];
        TESSERAL_UNROLL
        for (int o = 0; o < W; ++o) sums[o][c] += B[o] * Rh;
      }
      h.next_component();
    }
  }
}

template <class V, int CH, int W>
__device__ void message_of_group(const MessageWork<Element<V>>& work, const EdgeBatch<V>& batch, const PartGroup& group,
                                 int64_t atom, const Channels<CH>& channels, Element<V>* out) {
  const int64_t begin = work.inputs.first[atom], end = work.inputs.first[atom + 1];
  V sums[W][CH];
  set_zero(sums);
  for (int p = group.first; p < group.last; ++p) {
    const MessagePart part = work.tables.parts[p];
    for (int chunk = 0; chunk < work.shape.n_radial; chunk += radial_chunk) {
      V weights[radial_chunk][CH];
      load_weights(work, part.path, chunk, channels, weights);
      for (int64_t edge = begin; edge < end; edge += work.batch) {
        const int count = static_cast<int>(end - edge < work.batch ? end - edge : work.batch);
        batch.template take<W>(work, edge, count, part, chunk);
        if (part.n_components == 1) {
          add_edges<true>(work, batch, count, part, channels, weights, sums);
        } else {
          add_edges<false>(work, batch, count, part, channels, weights, sums);
        }
      }
    }
  }
  if (!channels.exist) return;
  TESSERAL_UNROLL
  for (int o = 0; o < W; ++o) {
    if (o >= group.size) continue;
    Element<V> wanted[CH];
    take_wanted(sums[o], wanted);
    store_numbers(out + (atom * work.shape.n_outputs + group.begin + o) * work.shape.row + channels.first, wanted);
  }
}

template <class V, int CH>
__global__ void __launch_bounds__(most_warps* warp_size, blocks_at_once<V>)
    messages(MessageWork<Element<V>> work, WarpGrid grid, std::size_t warp_bytes, int64_t first_atom, Element<V>* out) {
  const int unit = grid.unit();
  if (unit >= grid.units) return;
  SharedParts memory(shared_memory<unsigned char>() + threadIdx.x / warp_size * warp_bytes);
  const EdgeBatch<V> batch(memory, work.batch, work.tables.couplings);
  const Channels<CH> channels(unit / work.tables.n_groups, work.shape.row);
  const PartGroup group = work.tables.groups[unit % work.tables.n_groups];
  const int64_t atom = first_atom + grid.place();
  with_width(group.size,
             [&](auto width) { message_of_group<V, CH, decltype(width)::value>(work, batch, group, atom, channels, out); });
}

template <class V>
void run_messages(const MessageShape<Element<V>>& shape, const MessageInputs<Element<V>>& inputs, Range atoms,
                  Element<V>* out) {
  using T = Element<V>;
  if (atoms.begin == atoms.end || shape.row == 0 || shape.n_outputs == 0) return;
  MessageWork<T> work{shape, inputs, part_tables(shape, PartOrder::by_outputs), 1};
  const auto bytes = [&] {
    SharedParts memory(nullptr);
    EdgeBatch<V>(memory, work.batch, work.tables.couplings);
    return memory.used();
  };
  work.batch = batch_of(64, bytes(), 6 * 1024);
  const int n = channels_per_lane(shape.row, most_channels<V>, sizeof(T),
                                  {inputs.h.values, inputs.h.tangents, inputs.weights.values, inputs.weights.tangents, out});
  const WarpGrid grid(work.tables.n_groups * static_cast<int>(blocks_for(shape.row, n * warp_size)));
  with_channels<V>(n, [&](auto count) {
    launch(messages<V, decltype(count)::value>, (atoms.end - atoms.begin) * grid.blocks_per_place, grid.threads(),
           grid.warps * bytes(), work, grid, bytes(), atoms.begin, out);
  });
}

template <class T>
void message(const MessageShape<T>& shape, const MessageInputs<T>& inputs, Range atoms, T* out) {
  run_messages<T>(shape, inputs, atoms, out);
}

template <class V>
void run_gradients(const MessageShape<Element<V>>& shape, const MessageInputs<Element<V>>& inputs, const Element<V>* G,
                   Range atoms, const MessageOutputs<Element<V>>& outputs) {
  if (atoms.begin == atoms.end) return;
  if (!outputs.radial || !scalar_edge_gradients<V>(shape, inputs, G, atoms, outputs)) {
    message_edge_gradients<V>(shape, inputs, G, atoms, outputs);
  }
  if (outputs.weights) message_weight_gradients<V>(shape, inputs, G, atoms, outputs.weights);
}

template <class T>
void message_gradient(const MessageShape<T>& shape, const MessageInputs<T>& inputs, const T* G, Range atoms,
                      const MessageOutputs<T>& outputs) {
  if (!inputs.h.tangents) return run_gradients<T>(shape, inputs, G, atoms, outputs);
  run_messages<Dual<T>>(shape, inputs, atoms, outputs.out);
  run_gradients<Dual<T>>(shape, inputs, G, atoms, outputs);
}

}  // namespace

template <class T>
void add_message(Kernels<T>& kernels) {
  kernels.message = message<T>;
  kernels.message_gradient = message_gradient<T>;
}
TESSERAL_INSTANTIATE(add_message)

}  // namespace tesseral::cuda
