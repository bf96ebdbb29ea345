// Spherical harmonics of edges and their gradient: one edge per thread. Rows [LM] of a block's edges pass through shared
// memory, one column per edge, so that neighbouring threads read and write neighbouring numbers.
#include "geometry.hpp"

namespace tesseral::cuda {
namespace {

template <class T, class V, int L>
__global__ void values(const __grid_constant__ HarmonicConstants<T> constants, const T* vectors, const T* tangents,
                       Range all, EdgeBlocks blocks, T* out) {
  const EdgesOfBlock edges(all, blocks.at_once);
  const int n_harmonics = harmonics_of<L>(constants.l_max), stride = blocks.stride;
  V* Y = shared_memory<V>();
  if (edges.own < edges.count) {
    const auto unit = direction_of<V>(vectors, tangents, edges.begin + edges.own);
    Harmonics<V, L>(constants, unit.x, unit.y, unit.z).values(Column<V>{Y + edges.own, stride});
  }
  __syncthreads();
  T* rows = out + edges.begin * n_harmonics;
  edges.for_entries_of_rows(n_harmonics, stride, [&](int at, int place) { rows[at] = wanted_part(Y[place]); });
}

template <class T, class V, int L>
__global__ void gradients(const __grid_constant__ HarmonicConstants<T> constants, const T* vectors, const T* tangents,
                          const T* G, Range all, EdgeBlocks blocks, T* out) {
  const EdgesOfBlock edges(all, blocks.at_once);
  const int n_harmonics = harmonics_of<L>(constants.l_max), stride = blocks.stride;
  T* columns = shared_memory<T>();
  const T* rows = G + edges.begin * n_harmonics;
  edges.for_entries_of_rows(n_harmonics, stride, [&](int at, int place) { columns[place] = rows[at]; });
  __syncthreads();
  if (edges.own >= edges.count) return;
  const int64_t e = edges.begin + edges.own;
  const auto unit = direction_of<V>(vectors, tangents, e);
  V cotangents[harmonics_of<L>(max_l)], gx, gy, gz;
  for (int lm = 0; lm < n_harmonics; ++lm) cotangents[lm] = lift_to<V>(columns[lm * stride + edges.own]);
  Harmonics<V, L>(constants, unit.x, unit.y, unit.z).contract_gradient(cotangents, gx, gy, gz);
  unit.project(gx, gy, gz, constant<V>(0));
  out[3 * e] = wanted_part(gx);
  out[3 * e + 1] = wanted_part(gy);
  out[3 * e + 2] = wanted_part(gz);
}

template <class T, class V>
void values_of_edges(const HarmonicConstants<T>& constants, const T* vectors, const T* tangents, Range edges, T* out) {
  const EdgeBlocks blocks(edges, sizeof(V) * static_cast<std::size_t>(harmonics_of<any_l>(constants.l_max)));
  with_l_max(constants.l_max, [&](auto l) {
    launch(values<T, V, decltype(l)::value>, blocks.count, blocks.threads, blocks.shared_bytes, constants, vectors, tangents,
           edges, blocks, out);
  });
}

template <class T, class V>
void gradients_of_edges(const HarmonicConstants<T>& constants, const T* vectors, const T* tangents, const T* G, Range edges,
                        T* out) {
  const EdgeBlocks blocks(edges, sizeof(T) * static_cast<std::size_t>(harmonics_of<any_l>(constants.l_max)));
  with_l_max(constants.l_max, [&](auto l) {
    launch(gradients<T, V, decltype(l)::value>, blocks.count, blocks.threads, blocks.shared_bytes, constants, vectors,
           tangents, G, edges, blocks, out);
  });
}

template <class T>
void harmonics(const HarmonicConstants<T>& constants, const T* vectors, const T* tangents, Range edges, T* out) {
  if (tangents) return values_of_edges<T, Dual<T>>(constants, vectors, tangents, edges, out);
  values_of_edges<T, T>(constants, vectors, tangents, edges, out);
}

template <class T>
void harmonics_gradient(const HarmonicConstants<T>& constants, const T* vectors, const T* tangents, const T* G, Range edges,
                        T* out) {
  if (tangents) return gradients_of_edges<T, Dual<T>>(constants, vectors, tangents, G, edges, out);
  gradients_of_edges<T, T>(constants, vectors, tangents, G, edges, out);
}

}  // namespace

template <class T>
void add_harmonics(Kernels<T>& kernels) {
  kernels.harmonics = harmonics<T>;
  kernels.harmonics_gradient = harmonics_gradient<T>;
}
TESSERAL_INSTANTIATE(add_harmonics)

}  // namespace tesseral::cuda
