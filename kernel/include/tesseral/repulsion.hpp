// Ziegler-Biersack-Littmark screened nuclear repulsion of one pack of pairs, switched off smoothly.
// J. F. Ziegler, J. P. Biersack, U. Littmark, The Stopping and Range of Ions in Solids (1985).
#pragma once

#include "tesseral/operators.hpp"
#include "tesseral/pack.hpp"

namespace tesseral::TESSERAL_ISA {

/// 1 below `inner`, 0 beyond `outer`: 1 - 10 t^3 + 15 t^4 - 6 t^5 of t = (r - inner)/(outer - inner), in the factored form
/// that does not cancel near t = 1.
template <class V>
TESSERAL_INLINE void quintic_switch(const V& r, const Repulsion& options, V& s, V& ds) {
  using T = Element<V>;
  const T width = T(options.outer - options.inner);
  V t = (T(1) / width) * (r - T(options.inner));
  t = select(value_of(t) > T(0), t, constant<V>(0));
  t = select(value_of(t) < T(1), t, constant<V>(1));
  const V gap = T(1) - t;
  s = gap * gap * gap * (T(1) + t * (T(3) + T(6) * t));
  ds = (T(-30) / width) * (t * t * gap * gap);
}

/// 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2) of x = r/outer (arXiv:2003.03123, equation 8), 0 beyond, as
/// (1-x)^3 sum_{k<p} (k+1)(k+2)/2 x^k.
template <class V>
TESSERAL_INLINE void polynomial_switch(const V& r, const V& outer, int p, V& s, V& ds) {
  using T = Element<V>;
  V x = r / outer;
  x = select(value_of(x) < T(1), x, constant<V>(1));
  V sum = constant<V>(0), power = constant<V>(1), last = power;
  for (int k = 0; k < p; ++k) {
    sum += T((k + 1) * (k + 2) / 2) * power;
    last = power;
    power = power * x;
  }
  const V gap = T(1) - x;
  s = gap * gap * gap * sum;
  ds = T(-p * (p + 1) * (p + 2) / 2) * (last * gap * gap) / outer;
}

/// Energy and its derivative at distance r: strength/r phi(r/a) s(r). `outer` of each pair counts with options.power > 0.
template <class V>
TESSERAL_INLINE void repulsion(const V& r, const V& strength, const V& inverse_screening, const V& outer,
                               const Repulsion& options, V& energy, V& slope) {
  using T = Element<V>;
  V phi = constant<V>(0), dphi = constant<V>(0), s, ds;
  for (int n = 0; n < 4; ++n) {
    const V term = T(options.amplitude[n]) * exponential(T(-options.decay[n]) * (r * inverse_screening));
    phi += term;
    dphi += T(-options.decay[n]) * (term * inverse_screening);
  }
  if (options.power > 0) {
    polynomial_switch(r, outer, options.power, s, ds);
  } else {
    quintic_switch(r, options, s, ds);
  }
  const V coulomb = strength / r;
  energy = coulomb * phi * s;
  slope = coulomb * (dphi * s + phi * ds) - energy / r;
}

}  // namespace tesseral::TESSERAL_ISA
