// Spherical harmonics of edges and their gradient: one edge per thread.
#include "tesseral/harmonics.hpp"

#include "kernels.hpp"

namespace tesseral::cuda {
namespace {

constexpr int threads = 128;

template <class V>
__device__ Direction<V> direction_of(const Element<V>* vectors, const Element<V>* tangents, int64_t e) {
  return {element<V>(vectors, tangents, 3 * e), element<V>(vectors, tangents, 3 * e + 1),
          element<V>(vectors, tangents, 3 * e + 2)};
}

template <class T, class V>
__global__ void values(HarmonicConstants<T> constants, const T* vectors, const T* tangents, Range edges, T* out) {
  const int64_t e = edges.begin + global_thread();
  if (e >= edges.end) return;
  const auto unit = direction_of<V>(vectors, tangents, e);
  V Y[max_harmonics];
  Harmonics<V>(constants, unit.x, unit.y, unit.z).values(Y);
  const int n_harmonics = (constants.l_max + 1) * (constants.l_max + 1);
  for (int lm = 0; lm < n_harmonics; ++lm) out[e * n_harmonics + lm] = wanted_part(Y[lm]);
}

template <class T, class V>
__global__ void gradients(HarmonicConstants<T> constants, const T* vectors, const T* tangents, const T* G, Range edges,
                          T* out) {
  const int64_t e = edges.begin + global_thread();
  if (e >= edges.end) return;
  const auto unit = direction_of<V>(vectors, tangents, e);
  const int n_harmonics = (constants.l_max + 1) * (constants.l_max + 1);
  V cotangents[max_harmonics], gx, gy, gz;
  for (int lm = 0; lm < n_harmonics; ++lm) cotangents[lm] = lift_to<V>(G[e * n_harmonics + lm]);
  Harmonics<V>(constants, unit.x, unit.y, unit.z).contract_gradient(cotangents, gx, gy, gz);
  unit.project(gx, gy, gz, constant<V>(0));
  out[3 * e] = wanted_part(gx);
  out[3 * e + 1] = wanted_part(gy);
  out[3 * e + 2] = wanted_part(gz);
}

template <class T>
void harmonics(const HarmonicConstants<T>& constants, const T* vectors, const T* tangents, Range edges, T* out) {
  launch(tangents ? values<T, Dual<T>> : values<T, T>, blocks_for(edges.end - edges.begin, threads), threads, 0, constants,
         vectors, tangents, edges, out);
}

template <class T>
void harmonics_gradient(const HarmonicConstants<T>& constants, const T* vectors, const T* tangents, const T* G, Range edges,
                        T* out) {
  launch(tangents ? gradients<T, Dual<T>> : gradients<T, T>, blocks_for(edges.end - edges.begin, threads), threads, 0,
         constants, vectors, tangents, G, edges, out);
}

}  // namespace

template <class T>
void add_harmonics(Kernels<T>& kernels) {
  kernels.harmonics = harmonics<T>;
  kernels.harmonics_gradient = harmonics_gradient<T>;
}
TESSERAL_INSTANTIATE(add_harmonics)

}  // namespace tesseral::cuda
