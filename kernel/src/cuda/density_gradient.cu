// The gradient, by the edges, of a cotangent G contracted with the density.
//
// A group of lanes of a warp works on an atom, one edge per lane at a time. The radial functions of a lane's edge lie in
// shared memory, harmonics and their cotangents in registers. The numbers of G that multiply them are the same for all lanes
// of a group whose neighbours are of one species.
#include "geometry.hpp"
#include "tesseral/radial.hpp"
#include "unroll.hpp"

namespace tesseral::cuda {
namespace {

constexpr int most_threads = 128;  // of a block

/// Blocks that shall fit on a multiprocessor (0: as registers allow).
template <class V>
constexpr int blocks_at_once = sizeof(V) == sizeof(float) ? 5 : 0;

/// Numbers of a row of G: n from `first` on, of which those below n_harmonics exist. With L given and whole Words in a row
/// they are read as such.
template <class T, int L, int n>
__device__ inline void read_row(const T* row, int first, int n_harmonics, T* out) {
  if constexpr (L != any_l && n % Words<T>::count == 0) {
    for (int k = 0; k < n; k += Words<T>::count) {
      const auto words = *reinterpret_cast<const Words<T>*>(row + first + k);
      for (int w = 0; w < Words<T>::count; ++w) out[k + w] = words.of[w];
    }
  } else {
    for (int k = 0; k < n; ++k) out[k] = first + k < n_harmonics ? row[first + k] : T(0);
  }
}

/// t_lm = sum_q G_q,lm R_q; returns sum_q,lm G_q,lm R'_q Y_lm. G [Q, LM].
template <class T, class V, int L>
__device__ inline V contract(const T* G, int n_radial, int n_harmonics, Column<V> R, Column<V> dR, const V* Y, V* t) {
  constexpr int n = L == any_l ? 16 : harmonics_of<L>(L);  // harmonics at once, in registers
  V radial = constant<V>(0);
  for (int first = 0; first < n_harmonics; first += n) {
    V sums[n], y[n];
    for (int k = 0; k < n; ++k) {
      sums[k] = constant<V>(0);
      y[k] = first + k < n_harmonics ? Y[first + k] : constant<V>(0);
    }
    // several functions at once: else the compiler works out y again for each, to save registers
    TESSERAL_UNROLL_FOUR for (int q = 0; q < n_radial; ++q) {
      T g[n];
      read_row<T, L, n>(G + q * n_harmonics, first, n_harmonics, g);
      const V value = R[q];
      V slope = constant<V>(0);
      for (int k = 0; k < n; ++k) {
        sums[k] += g[k] * value;
        slope += g[k] * y[k];
      }
      radial += slope * dR[q];
    }
    for (int k = 0; k < n; ++k) {
      if (first + k < n_harmonics) t[first + k] = sums[k];
    }
  }
  return radial;
}

/// `lanes` of an atom, of which `batch` have an edge at a time.
template <class T, class V, int L>
__global__ void __launch_bounds__(most_threads, blocks_at_once<V>)
    gradients(const __grid_constant__ DensityOptions<T> options, const Edges<T> edges, const T* G, Range atoms, int lanes,
              int batch, T* out) {
  const int n_radial = options.radial.n_radial, n_harmonics = harmonics_of<L>(options.harmonics.l_max);
  const int group = static_cast<int>(threadIdx.x) / lanes, own = static_cast<int>(threadIdx.x) % lanes;
  const int groups = static_cast<int>(blockDim.x) / lanes;
  const int64_t i = atoms.begin + static_cast<int64_t>(blockIdx.x) * groups + group;
  if (i >= atoms.end || own >= batch) return;
  const int stride = groups * batch;
  const Column<V> R{shared_memory<V>() + group * batch + own, stride}, dR = R + n_radial;
  const T* G_of_atom = G + i * options.n_species * n_radial * n_harmonics;
  const int64_t end = edges.first[i + 1];
  for (int64_t e = edges.first[i] + own; e < end; e += batch) {
    const auto unit = direction_of<V>(edges.vectors, edges.tangents, e);
    const Harmonics<V, L> harmonics(options.harmonics, unit.x, unit.y, unit.z);
    V Y[harmonics_of<L>(max_l)], t[harmonics_of<L>(max_l)], gx, gy, gz;
    harmonics.values(static_cast<V*>(Y));
    radial_functions(options.radial, unit.length, edges.tables ? edges.tables + e : nullptr, R, dR);
    const V radial = contract<T, V, L>(G_of_atom + edges.neighbor_species[e] * n_radial * n_harmonics, n_radial, n_harmonics,
                                       R, dR, Y, t);
    harmonics.contract_gradient(t, gx, gy, gz);
    unit.project(gx, gy, gz, radial);
    out[3 * e] = wanted_part(gx);
    out[3 * e + 1] = wanted_part(gy);
    out[3 * e + 2] = wanted_part(gz);
  }
}

template <class T, class V>
void gradient_of_atoms(const DensityOptions<T>& options, const Edges<T>& edges, const T* G, Range atoms, T* out) {
  const int64_t n_atoms = atoms.end - atoms.begin;
  const int lanes = lanes_of_group(n_atoms, 8);
  int threads = most_threads, batch = lanes;
  const auto bytes = [&] {
    return 2 * sizeof(V) * static_cast<std::size_t>(options.radial.n_radial * (threads / lanes) * batch);
  };
  while (bytes() > usual_shared_bytes && threads > warp_size) threads /= 2;
  while (bytes() > usual_shared_bytes) batch /= 2;
  const bool whole_words = reinterpret_cast<uintptr_t>(G) % sizeof(Words<T>) == 0;
  with_l_max(whole_words ? options.harmonics.l_max : any_l, [&](auto l) {
    launch(gradients<T, V, decltype(l)::value>, blocks_for(n_atoms, threads / lanes), threads, bytes(), options, edges, G,
           atoms, lanes, batch, out);
  });
}

}  // namespace

template <class T>
void density_gradient(const DensityOptions<T>& options, const Edges<T>& edges, const T* G, Range atoms, T* out) {
  if (edges.tangents) return gradient_of_atoms<T, Dual<T>>(options, edges, G, atoms, out);
  gradient_of_atoms<T, T>(options, edges, G, atoms, out);
}
template void density_gradient(const DensityOptions<float>&, const Edges<float>&, const float*, Range, float*);
template void density_gradient(const DensityOptions<double>&, const Edges<double>&, const double*, Range, double*);

}  // namespace tesseral::cuda
