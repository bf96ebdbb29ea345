// Ziegler-Biersack-Littmark screened nuclear repulsion of one pack of pairs, switched off smoothly.
// J. F. Ziegler, J. P. Biersack, U. Littmark, The Stopping and Range of Ions in Solids (1985).
#pragma once

#include "tesseral/operators.hpp"
#include "tesseral/pack.hpp"

namespace tesseral::TESSERAL_ISA {

/// Energy and its derivative at distance r: strength/r phi(r/a) s(r), with s = 1 below `inner` and 0 beyond `outer`.
template <class V>
inline void repulsion(const V& r, const V& strength, const V& inverse_screening, const Repulsion& options, V& energy,
                      V& slope) {
  using T = Element<V>;
  constexpr double amplitude[4] = {0.18175, 0.50986, 0.28022, 0.02817};
  constexpr double decay[4] = {3.19980, 0.94229, 0.40290, 0.20162};
  V phi = constant<V>(0), dphi = constant<V>(0);
  for (int n = 0; n < 4; ++n) {
    const V term = T(amplitude[n]) * exponential(T(-decay[n]) * (r * inverse_screening));
    phi += term;
    dphi += T(-decay[n]) * (term * inverse_screening);
  }
  const T width = T(options.outer - options.inner);
  V t = (T(1) / width) * (r - T(options.inner));
  t = select(value_of(t) > T(0), t, constant<V>(0));
  t = select(value_of(t) < T(1), t, constant<V>(1));
  // 1 - 10 t^3 + 15 t^4 - 6 t^5 = (1-t)^3 (1 + 3t + 6t^2), which does not cancel near t = 1
  const V gap = T(1) - t;
  const V s = gap * gap * gap * (T(1) + t * (T(3) + T(6) * t));
  const V ds = (T(-30) / width) * (t * t * gap * gap);
  const V coulomb = strength / r;
  energy = coulomb * phi * s;
  slope = coulomb * (dphi * s + phi * ds) - energy / r;
}

}  // namespace tesseral::TESSERAL_ISA
