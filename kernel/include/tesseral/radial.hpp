// Radial functions R_q(r) and their first derivative for one pack of distances; V is a pack or a dual of packs, and a
// dual gives second derivatives. Values and Slopes, where they go, are arrays of V or have their operator[].
#pragma once

#include "tesseral/operators.hpp"
#include "tesseral/pack.hpp"
#ifndef TESSERAL_SCALAR
#include "tesseral/rows.hpp"
#endif

namespace tesseral::TESSERAL_ISA {

/// Smooth cutoff f(x) = 1 - 28x^6 + 48x^7 - 21x^8 (Gasteiger et al., arXiv:2003.03123, p = 6), x <= 1, in the factored
/// form that does not cancel near x = 1; f, f', f'' vanish there.
template <class V>
TESSERAL_INLINE void envelope(const V& x, V& f, V& df) {
  using T = Element<V>;
  const V gap = T(1) - x;
  const V gap2 = gap * gap;
  const V x2 = x * x;
  f = gap2 * gap * (T(1) + x * (T(3) + x * (T(6) + x * (T(10) + x * (T(15) + x * T(21))))));
  df = T(-168) * (x2 * x2 * x * gap2);
}

/// sin and cos of pi x for 0 <= x <= 1, by Taylor series about pi/2.
template <class V>
TESSERAL_INLINE void sine_cosine_pi(const V& x, V& sine, V& cosine) {
  using T = Element<V>;
  constexpr int half_degree = sizeof(T) == sizeof(float) ? 6 : 11;
  const V t = T(3.14159265358979323846) * (x - T(0.5));
  const V t2 = t * t;
  V even = constant<V>(1), odd = constant<V>(1);
  for (int n = half_degree; n > 0; --n) {
    even = T(1) - even * t2 * (T(1) / T((2 * n - 1) * (2 * n)));
    odd = T(1) - odd * t2 * (T(1) / T((2 * n) * (2 * n + 1)));
  }
  sine = even;
  cosine = T(-1) * (t * odd);
}

/// sqrt(2/rc); a thread of a device, where doubles are dear, stays in T.
template <class T>
TESSERAL_INLINE T bessel_norm(T cutoff) {
  if constexpr (lanes<T> > 1) {
    return T(__builtin_sqrt(2.0 / static_cast<double>(cutoff)));
  } else {
    return square_root(T(2) / cutoff);
  }
}

/// R_n = sqrt(2/rc) sin(n pi r/rc)/r f, n = 1..n_radial.
template <class V, class Values, class Slopes>
TESSERAL_INLINE void bessel(const RadialBasis<Element<V>>& basis, const V& r, const V& x, Values R, Slopes dR) {
  using T = Element<V>;
  const T norm = bessel_norm(basis.cutoff);
  const T frequency = T(3.14159265358979323846) / basis.cutoff;
  V f, df, s1, c1;
  envelope(x, f, df);
  sine_cosine_pi(x, s1, c1);
  const V inverse = constant<V>(norm) / r;
  const V weight = inverse * f;
  const V dweight = inverse * ((T(1) / basis.cutoff) * df) - weight / r;
  V s = s1, c = c1;
  for (int n = 1; n <= basis.n_radial; ++n) {
    R[n - 1] = s * weight;
    dR[n - 1] = s * dweight + (T(n) * frequency) * (c * weight);
    const V next = s * c1 + c * s1;
    c = c * c1 - s * s1;
    s = next;
  }
}

/// R_q = T_q(y) f, y = 1 - 2 (1 - x)^2.
template <class V, class Values, class Slopes>
TESSERAL_INLINE void chebyshev(const RadialBasis<Element<V>>& basis, const V& x, Values R, Slopes dR) {
  using T = Element<V>;
  V f, df;
  envelope(x, f, df);
  const V gap = T(1) - x;
  const V y = T(1) - T(2) * (gap * gap);
  const V dy = (T(4) / basis.cutoff) * gap;
  const V df_dr = (T(1) / basis.cutoff) * df;
  V before = constant<V>(1), slope_before = constant<V>(0), now = y, slope = constant<V>(1);
  for (int q = 0; q < basis.n_radial; ++q) {
    R[q] = before * f;
    dR[q] = slope_before * dy * f + before * df_dr;
    const V next = T(2) * (y * now) - before;
    const V slope_next = T(2) * now + T(2) * (y * slope) - slope_before;
    before = now;
    slope_before = slope;
    now = next;
    slope = slope_next;
  }
}

/// R_q = exp(-(r - mu_q)^2 / 2 sigma^2) f, mu_q = rc (q + 1/2)/n_radial, sigma = rc/n_radial.
template <class V, class Values, class Slopes>
TESSERAL_INLINE void gaussian(const RadialBasis<Element<V>>& basis, const V& r, const V& x, Values R, Slopes dR) {
  using T = Element<V>;
  const T sigma = basis.cutoff / T(basis.n_radial);
  V f, df;
  envelope(x, f, df);
  const V df_dr = (T(1) / basis.cutoff) * df;
  for (int q = 0; q < basis.n_radial; ++q) {
    const V u = (T(1) / sigma) * (r - (T(q) + T(0.5)) * sigma);
    const V g = exponential(T(-0.5) * (u * u));
    R[q] = g * f;
    dR[q] = g * (df_dr - (T(1) / sigma) * (u * f));
  }
}

/// Spline table of each lane.
using LaneTables = const int64_t*;

#ifdef TESSERAL_SCALAR
/// Neighbouring functions in a row of a table: what a thread reads at once.
template <class T>
struct alignas(16) FunctionPack {
  static constexpr int count = 4;
  T of[count];

  TESSERAL_INLINE FunctionPack operator*(T factor) const {
    return {of[0] * factor, of[1] * factor, of[2] * factor, of[3] * factor};
  }
  TESSERAL_INLINE FunctionPack operator+(const FunctionPack& other) const {
    return {of[0] + other.of[0], of[1] + other.of[1], of[2] + other.of[2], of[3] + other.of[3]};
  }
};
template <class T>
TESSERAL_INLINE FunctionPack<T> load_functions(const T* row) {
  return *reinterpret_cast<const FunctionPack<T>*>(row);
}
#else
template <class T>
using FunctionPack = Pack<T>;
template <class T>
TESSERAL_INLINE Pack<T> load_functions(const T* row) {
  return load(row);
}
#endif

/// Value, slope and half the second derivative of a polynomial, lowest power first, for a pack of functions; `row` from
/// power to power.
template <class T>
TESSERAL_INLINE void polynomial(const T* coefficients, int n_powers, int row, T t, FunctionPack<T>& value,
                                FunctionPack<T>& slope, FunctionPack<T>& bend) {
  value = load_functions(coefficients + (n_powers - 1) * row);
  slope = bend = FunctionPack<T>{};
  for (int power = n_powers - 2; power >= 0; --power) {
    bend = bend * t + slope;
    slope = slope * t + value;
    value = value * t + load_functions(coefficients + power * row);
  }
}

/// A function of x from its value and slope by x, and with the derivative of both along x's tangent.
template <class T>
TESSERAL_INLINE void set_function(const Pack<T>&, const Pack<T>& value, const Pack<T>& slope, const Pack<T>&, Pack<T>& f,
                                  Pack<T>& df) {
  f = value;
  df = slope;
}
template <class T>
TESSERAL_INLINE void set_function(const Dual<Pack<T>>& x, const Pack<T>& value, const Pack<T>& slope, const Pack<T>& second,
                                  Dual<Pack<T>>& f, Dual<Pack<T>>& df) {
  f = {value, slope * x.tangent};
  df = {slope, second * x.tangent};
}

/// Piecewise polynomials from tables on a uniform grid. Functions fill the lanes while they are evaluated, edges afterwards.
template <class V, class Values, class Slopes>
TESSERAL_INLINE void spline(const RadialBasis<Element<V>>& basis, const V& x, LaneTables tables, Values R, Slopes dR) {
  using T = Element<V>;
  using P = Pack<T>;
  const int n_intervals = basis.n_intervals, n_powers = basis.n_powers, row = basis.table_row;
  const T* pieces[lanes<T>];
  T positions[lanes<T>];
  for (int lane = 0; lane < lanes<T>; ++lane) {
    const T position = T(n_intervals) * lane_of(value_of(x), lane);
    const int interval = static_cast<int>(position) < n_intervals ? static_cast<int>(position) : n_intervals - 1;
    const int64_t piece = (tables ? tables[lane] * n_intervals : 0) + interval;
    pieces[lane] = basis.table + piece * n_powers * row;
    positions[lane] = position - T(interval);
  }
  const auto inside = value_of(x) < T(1);
  const P none = {};
  const T n = T(n_intervals);
  const auto set = [&](int q, const P& value, const P& slope, const P& bend) {
    V f, df;
    set_function<T>(x, inside ? value : none, n * (inside ? slope : none), T(2) * n * n * (inside ? bend : none), f, df);
    R[q] = f;
    dR[q] = (T(1) / basis.cutoff) * df;
  };
  if constexpr (lanes<T> == 1) {
    for (int block = 0; block < basis.n_radial; block += FunctionPack<T>::count) {
      FunctionPack<T> values, slopes, bends;
      polynomial(pieces[0] + block, n_powers, row, positions[0], values, slopes, bends);
      for (int q = 0; q < FunctionPack<T>::count; ++q) {
        if (block + q < basis.n_radial) set(block + q, values.of[q], slopes.of[q], bends.of[q]);
      }
    }
  } else {
    for (int block = 0; block < basis.n_radial; block += lanes<T>) {
      P values[lanes<T>], slopes[lanes<T>], bends[lanes<T>];
      for (int lane = 0; lane < lanes<T>; ++lane) {
        polynomial(pieces[lane] + block, n_powers, row, positions[lane], values[lane], slopes[lane], bends[lane]);
      }
      transpose<T>(values);
      transpose<T>(slopes);
      if constexpr (sizeof(V) > sizeof(P)) transpose<T>(bends);
      for (int q = 0; q < lanes<T> && block + q < basis.n_radial; ++q) set(block + q, values[q], slopes[q], bends[q]);
    }
  }
}

/// R_q and dR_q/dr [n_radial] at distances r; zero for r >= cutoff. `tables` of a spline may be null: the first.
template <class V, class Values, class Slopes>
TESSERAL_INLINE void radial_functions(const RadialBasis<Element<V>>& basis, const V& r, LaneTables tables, Values R,
                                      Slopes dR) {
  using T = Element<V>;
  const V scaled = (T(1) / basis.cutoff) * r;
  const V x = select(value_of(scaled) < T(1), scaled, constant<V>(1));
  switch (basis.kind) {
    case RadialKind::bessel:
      return bessel(basis, r, x, R, dR);
    case RadialKind::chebyshev:
      return chebyshev(basis, x, R, dR);
    case RadialKind::gaussian:
      return gaussian(basis, r, x, R, dR);
    case RadialKind::spline:
      return spline(basis, x, tables, R, dR);
  }
}

}  // namespace tesseral::TESSERAL_ISA
