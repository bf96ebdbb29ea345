// The neighbour density of one atom and the gradient of a cotangent contracted with it.
//
//   A_{i,a q lm} = sum over neighbours j of species a of R_q(r_ij) Y_lm(r_ij/|r_ij|)
//
// Willatt, Musil, Ceriotti, J. Chem. Phys. 150, 154110 (2019); Drautz, Phys. Rev. B 99, 014104 (2019). Edges fill SIMD
// lanes; no parameters and no channels appear here. Lanes left empty hold a neighbour beyond the cutoff.
#pragma once

#include "tesseral/harmonics.hpp"
#include "tesseral/radial.hpp"
#include "tesseral/rows.hpp"

namespace tesseral::TESSERAL_ISA {

/// Edges that share a pack.
template <class T>
struct Lanes {
  int64_t edge[lanes<T>];
  int count = 0;
};

/// Spline tables of the edges in a pack; empty lanes have the first one.
template <class T>
class TablesOfPack {
 public:
  TablesOfPack(const int64_t* tables, const Lanes<T>& pack) : given_(tables != nullptr) {
    for (int lane = 0; given_ && lane < pack.count; ++lane) tables_[lane] = tables[pack.edge[lane]];
  }
  operator LaneTables() const { return given_ ? tables_ : nullptr; }

 private:
  bool given_;
  int64_t tables_[lanes<T>] = {};
};

/// Calls visit(lanes, species) for packs of the edges begin..end-1; each pack holds one neighbour species.
template <class T, class Visit>
inline void for_each_pack_of_one_species(const int64_t* species, int64_t begin, int64_t end, Visit visit) {
  int64_t seen = 0, current = -1;
  while (seen < end - begin) {
    int64_t next = INT64_MAX;
    for (int64_t e = begin; e < end; ++e) {
      if (species[e] > current && species[e] < next) next = species[e];
    }
    current = next;
    Lanes<T> pack;
    for (int64_t e = begin; e < end; ++e) {
      if (species[e] != current) continue;
      pack.edge[pack.count++] = e;
      if (pack.count == lanes<T>) {
        visit(pack, current);
        pack.count = 0;
      }
      ++seen;
    }
    if (pack.count > 0) visit(pack, current);
  }
}

/// Calls visit(lanes) for packs of consecutive edges.
template <class T, class Visit>
inline void for_each_pack(int64_t begin, int64_t end, Visit visit) {
  for (int64_t e = begin; e < end; e += lanes<T>) {
    Lanes<T> pack;
    pack.count = static_cast<int>(end - e < lanes<T> ? end - e : lanes<T>);
    for (int lane = 0; lane < pack.count; ++lane) pack.edge[lane] = e + lane;
    visit(pack);
  }
}

template <class T>
inline void gather(const T* source, const Lanes<T>& lanes_of_pack, T fill, Pack<T>& x, Pack<T>& y, Pack<T>& z) {
  x = broadcast<T>(fill);
  y = z = broadcast<T>(0);
  for (int lane = 0; lane < lanes_of_pack.count; ++lane) {
    const T* vector = source + 3 * lanes_of_pack.edge[lane];
    x[lane] = vector[0];
    y[lane] = vector[1];
    z[lane] = vector[2];
  }
}

/// Directions of a pack of edges: plain, or dual along `tangents`.
template <class T>
inline Direction<Pack<T>> direction_of(const T* vectors, const T*, T fill, const Lanes<T>& pack, Pack<T>) {
  Pack<T> x, y, z;
  gather(vectors, pack, fill, x, y, z);
  return {x, y, z};
}
template <class T>
inline Direction<Dual<Pack<T>>> direction_of(const T* vectors, const T* tangents, T fill, const Lanes<T>& pack,
                                             Dual<Pack<T>>) {
  Dual<Pack<T>> x, y, z;
  gather(vectors, pack, fill, x.value, y.value, z.value);
  gather(tangents, pack, T(0), x.tangent, y.tangent, z.tangent);
  return {x, y, z};
}

/// Adds sum_edges R_q Y_lm of a pack of edges, Q functions, to rows [Q, stride] from `block` on; y [lanes] holds a block of
/// harmonics of each edge. Of duals the tangent is added.
template <class T, int Q, class V>
inline void add_outer_products(const V* R, const V* y, int count, T* rows, int stride) {
  Pack<T> sums[Q];
  TESSERAL_UNROLL for (int q = 0; q < Q; ++q) sums[q] = load(rows + q * stride);
  for (int lane = 0; lane < count; ++lane) {
    TESSERAL_UNROLL for (int q = 0; q < Q; ++q) {
      if constexpr (sizeof(V) > sizeof(Pack<T>)) {
        sums[q] += R[q].value[lane] * y[lane].tangent + R[q].tangent[lane] * y[lane].value;
      } else {
        sums[q] += R[q][lane] * y[lane];
      }
    }
  }
  TESSERAL_UNROLL for (int q = 0; q < Q; ++q) store(rows + q * stride, sums[q]);
}

/// Adds sum_edges R_q Y_lm of a pack of edges to rows [n_radial, stride]; Y [stride] is used up.
template <class T, class V>
inline void add_products(const V* R, V* Y, int n_radial, int stride, int count, T* rows) {
  for (int block = 0; block < stride; block += lanes<T>) {
    transpose<T>(Y + block);
    int q = 0;
    for (; q + 8 <= n_radial; q += 8) {
      add_outer_products<T, 8>(R + q, Y + block, count, rows + q * stride + block, stride);
    }
    for (; q < n_radial; ++q) add_outer_products<T, 1>(R + q, Y + block, count, rows + q * stride + block, stride);
  }
}

/// Adds the density of the edges begin..end-1 to phi [C, stride], stride = padded(LM). V = Dual<Pack<T>> adds its
/// derivative along edges.tangents instead.
template <class T, class V>
inline void add_density(const DensityOptions<T>& options, const Edges<T>& edges, int64_t begin, int64_t end, T* phi) {
  const int n_harmonics = (options.harmonics.l_max + 1) * (options.harmonics.l_max + 1);
  const int n_radial = options.radial.n_radial, stride = padded<T>(n_harmonics);
  const T beyond = T(2) * options.radial.cutoff;
  for_each_pack_of_one_species<T>(edges.neighbor_species, begin, end, [&](const Lanes<T>& pack, int64_t species) {
    V Y[padded<T>(max_harmonics)], R[max_radial], dR[max_radial];
    const auto direction = direction_of(edges.vectors, edges.tangents, beyond, pack, V{});
    Harmonics<V>(options.harmonics, direction.x, direction.y, direction.z).values(Y);
    for (int lm = n_harmonics; lm < stride; ++lm) Y[lm] = constant<V>(0);
    radial_functions(options.radial, direction.length, TablesOfPack<T>(edges.tables, pack), R, dR);
    add_products<T>(R, Y, n_radial, stride, pack.count, phi + species * n_radial * stride);
  });
}

/// Gradient of sum dphi * density, dphi [LM, input_stride], with respect to the edge vectors begin..end-1, written to out
/// [E, 3]; with V = Dual<Pack<T>> its derivative along edges.tangents.
template <class T, class V>
inline void density_gradient(const DensityOptions<T>& options, const Edges<T>& edges, int64_t begin, int64_t end,
                             const T* dphi, int input_stride, T* out) {
  const int n_harmonics = (options.harmonics.l_max + 1) * (options.harmonics.l_max + 1);
  const int n_radial = options.radial.n_radial;
  const T beyond = T(2) * options.radial.cutoff;
  for_each_pack_of_one_species<T>(edges.neighbor_species, begin, end, [&](const Lanes<T>& pack, int64_t species) {
    V Y[max_harmonics], t[max_harmonics], R[max_radial], dR[max_radial];
    const auto direction = direction_of(edges.vectors, edges.tangents, beyond, pack, V{});
    const Harmonics<V> harmonics(options.harmonics, direction.x, direction.y, direction.z);
    harmonics.values(Y);
    radial_functions(options.radial, direction.length, TablesOfPack<T>(edges.tables, pack), R, dR);
    const T* rows = dphi + species * n_radial;
    V radial = constant<V>(0);
    for (int lm = 0; lm < n_harmonics; ++lm) {
      V angular = constant<V>(0), slope = constant<V>(0);
      for (int q = 0; q < n_radial; ++q) {
        const T weight = rows[lm * input_stride + q];
        angular += weight * R[q];
        slope += weight * dR[q];
      }
      t[lm] = angular;
      radial += slope * Y[lm];
    }
    V gx, gy, gz;
    harmonics.contract_gradient(t, gx, gy, gz);
    direction.project(gx, gy, gz, radial);
    for (int lane = 0; lane < pack.count; ++lane) {
      T* target = out + 3 * pack.edge[lane];
      if constexpr (sizeof(V) > sizeof(Pack<T>)) {
        target[0] = gx.tangent[lane];
        target[1] = gy.tangent[lane];
        target[2] = gz.tangent[lane];
      } else {
        target[0] = gx[lane];
        target[1] = gy[lane];
        target[2] = gz[lane];
      }
    }
  });
}

}  // namespace tesseral::TESSERAL_ISA
