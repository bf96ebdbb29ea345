// Radial functions and repulsion of edges by their distance, with one or two derivatives: one edge per thread. The radial
// functions of a block's edges are collected in shared memory, one column per edge, and written from there as whole rows.
#include "channels.hpp"
#include "geometry.hpp"
#include "tesseral/radial.hpp"
#include "tesseral/repulsion.hpp"

namespace tesseral::cuda {
namespace {

constexpr int repulsion_threads = 128;

/// V: Dual<T> for the second derivative too.
template <class T, class V>
__global__ void functions(const __grid_constant__ RadialBasis<T> basis, const T* distances, const int64_t* tables, Range all,
                          EdgeBlocks blocks, T* value, T* first, T* second) {
  const EdgesOfBlock edges(all, blocks.at_once);
  const int stride = blocks.stride, n_radial = basis.n_radial;
  V* R = shared_memory<V>();
  V* dR = R + n_radial * stride;
  if (edges.own < edges.count) {
    const int64_t e = edges.begin + edges.own;
    V r;
    if constexpr (is_dual<V>) {
      r = {distances[e], T(1)};
    } else {
      r = distances[e];
    }
    radial_functions(basis, r, tables ? tables + e : nullptr, Column<V>{R + edges.own, stride},
                     Column<V>{dR + edges.own, stride});
  }
  __syncthreads();
  const int64_t begin = edges.begin * n_radial;
  edges.for_entries_of_rows(n_radial, stride, [&](int at, int place) {
    value[begin + at] = value_of(R[place]);
    first[begin + at] = value_of(dR[place]);
    if constexpr (is_dual<V>) second[begin + at] = dR[place].tangent;
  });
}

template <class T, class V>
void run_functions(const RadialBasis<T>& basis, const T* distances, const int64_t* tables, Range edges, T* value, T* first,
                   T* second) {
  const EdgeBlocks blocks(edges, 2 * sizeof(V) * static_cast<std::size_t>(basis.n_radial));
  launch(functions<T, V>, blocks.count, blocks.threads, blocks.shared_bytes, basis, distances, tables, edges, blocks, value,
         first, second);
}

template <class T>
void radial(const RadialBasis<T>& basis, const T* distances, const int64_t* tables, Range edges, T* value, T* first,
            T* second) {
  if (second) return run_functions<T, Dual<T>>(basis, distances, tables, edges, value, first, second);
  run_functions<T, T>(basis, distances, tables, edges, value, first, nullptr);
}

template <class T>
__global__ void repulsions(const __grid_constant__ Repulsion options, const T* distances, const T* strength,
                           const T* inverse_screening, Range pairs, T* value, T* first, T* second) {
  using V = Dual<T>;
  const int64_t e = pairs.begin + global_thread();
  if (e >= pairs.end) return;
  V energy, slope;
  repulsion(V{distances[e], T(1)}, constant<V>(strength[e]), constant<V>(inverse_screening[e]),
            constant<V>(T(options.outer)), options, energy, slope);
  value[e] = energy.value;
  first[e] = slope.value;
  second[e] = slope.tangent;
}

template <class T>
void repulsion_of_pairs(const Repulsion& options, const T* distances, const T* strength, const T* inverse_screening,
                        Range pairs, T* value, T* first, T* second) {
  launch(repulsions<T>, blocks_for(pairs.end - pairs.begin, repulsion_threads), repulsion_threads, 0, options, distances,
         strength, inverse_screening, pairs, value, first, second);
}

}  // namespace

template <class T>
void add_radial(Kernels<T>& kernels) {
  kernels.radial = radial<T>;
  kernels.repulsion = repulsion_of_pairs<T>;
}
TESSERAL_INSTANTIATE(add_radial)

}  // namespace tesseral::cuda
