// The neighbour density of one atom and the gradient of a cotangent contracted with it.
//
//   A_{i,a q lm} = sum over neighbours j of species a of R_q(r_ij) Y_lm(r_ij/|r_ij|)
//
// Willatt, Musil, Ceriotti, J. Chem. Phys. 150, 154110 (2019); Drautz, Phys. Rev. B 99, 014104 (2019). Edges fill SIMD
// lanes; no parameters and no channels appear here. Lanes left empty hold a neighbour beyond the cutoff.
#pragma once

#include "tesseral/harmonics.hpp"
#include "tesseral/radial.hpp"

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

/// R_q Y_lm of one lane added to the rows [n_radial, stride] of its species; of duals the tangent is added.
template <class T, class V>
inline void add_lane(const V* R, const V* Y, int n_radial, int n_harmonics, int stride, int lane, T* rows) {
  T y[padded<T>(max_harmonics)] = {}, dy[padded<T>(max_harmonics)] = {};
  constexpr bool dual = sizeof(V) > sizeof(Pack<T>);
  for (int lm = 0; lm < n_harmonics; ++lm) {
    y[lm] = value_of(Y[lm])[lane];
    if constexpr (dual) dy[lm] = Y[lm].tangent[lane];
  }
  for (int q = 0; q < n_radial; ++q) {
    T* row = rows + q * stride;
    for (int block = 0; block < stride; block += lanes<T>) {
      Pack<T> sum = load(row + block);
      if constexpr (dual) {
        sum += R[q].value[lane] * load(dy + block) + R[q].tangent[lane] * load(y + block);
      } else {
        sum += R[q][lane] * load(y + block);
      }
      store(row + block, sum);
    }
  }
}

/// Adds the density of the edges begin..end-1 to phi [C, stride], stride = padded(LM). V = Dual<Pack<T>> adds its
/// derivative along edges.tangents instead.
template <class T, class V>
inline void add_density(const DensityOptions<T>& options, const Edges<T>& edges, int64_t begin, int64_t end, T* phi) {
  const int n_harmonics = (options.harmonics.l_max + 1) * (options.harmonics.l_max + 1);
  const int n_radial = options.radial.n_radial, stride = padded<T>(n_harmonics);
  const T beyond = T(2) * options.radial.cutoff;
  for_each_pack<T>(begin, end, [&](const Lanes<T>& pack) {
    V Y[max_harmonics], R[max_radial], dR[max_radial];
    const auto direction = direction_of(edges.vectors, edges.tangents, beyond, pack, V{});
    Harmonics<V>(options.harmonics, direction.x, direction.y, direction.z).values(Y);
    radial_functions(options.radial, direction.length, TablesOfPack<T>(edges.tables, pack), R, dR);
    for (int lane = 0; lane < pack.count; ++lane) {
      const int64_t species = edges.neighbor_species[pack.edge[lane]];
      add_lane<T>(R, Y, n_radial, n_harmonics, stride, lane, phi + species * n_radial * stride);
    }
  });
}

/// Gradient of sum dphi * density with respect to the edge vectors begin..end-1, written to out [E, 3]; with
/// V = Dual<Pack<T>> its derivative along edges.tangents.
template <class T, class V>
inline void density_gradient(const DensityOptions<T>& options, const Edges<T>& edges, int64_t begin, int64_t end,
                             const T* dphi, T* out) {
  const int n_harmonics = (options.harmonics.l_max + 1) * (options.harmonics.l_max + 1);
  const int n_radial = options.radial.n_radial, stride = padded<T>(n_harmonics);
  const T beyond = T(2) * options.radial.cutoff;
  for_each_pack_of_one_species<T>(edges.neighbor_species, begin, end, [&](const Lanes<T>& pack, int64_t species) {
    V Y[max_harmonics], t[max_harmonics], R[max_radial], dR[max_radial];
    const auto direction = direction_of(edges.vectors, edges.tangents, beyond, pack, V{});
    const Harmonics<V> harmonics(options.harmonics, direction.x, direction.y, direction.z);
    harmonics.values(Y);
    radial_functions(options.radial, direction.length, TablesOfPack<T>(edges.tables, pack), R, dR);
    const T* rows = dphi + species * n_radial * stride;
    V radial = constant<V>(0);
    for (int lm = 0; lm < n_harmonics; ++lm) {
      V angular = constant<V>(0), slope = constant<V>(0);
      for (int q = 0; q < n_radial; ++q) {
        const T weight = rows[q * stride + lm];
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
