// Real spherical harmonics of one pack of unit vectors, and their gradient contracted with a cotangent.
#pragma once

#include "tesseral/operators.hpp"
#include "tesseral/pack.hpp"

namespace tesseral::TESSERAL_ISA {

/// l_max of harmonics that is known at run time only.
constexpr int any_l = -1;

/// The recursion's intermediate values for one pack of unit vectors; V is a pack or a dual of packs. With L = l_max the
/// loops have constant bounds: on a device the arrays are registers then.
template <class V, int L = any_l>
struct Harmonics {
  using T = Element<V>;
  static constexpr int most = L == any_l ? max_l : L;
  const HarmonicConstants<T>& constants;
  V cosine[most + 1];              // C_m = Re (x+iy)^m
  V sine[most + 1];                // S_m = Im (x+iy)^m
  V legendre[most + 1][most + 1];  // F_lm(z)

  TESSERAL_INLINE Harmonics(const HarmonicConstants<T>& table, const V& x, const V& y, const V& z) : constants(table) {
    const int l_max = degree();
    cosine[0] = constant<V>(1);
    sine[0] = constant<V>(0);
    for (int m = 1; m <= l_max; ++m) {
      cosine[m] = x * cosine[m - 1] - y * sine[m - 1];
      sine[m] = x * sine[m - 1] + y * cosine[m - 1];
    }
    for (int m = 0; m <= l_max; ++m) {
      legendre[m][m] = constant<V>(table.diagonal[m]);
      if (m < l_max) legendre[m + 1][m] = table.rise[m + 1][m] * (z * legendre[m][m]);
      for (int l = m + 2; l <= l_max; ++l) {
        legendre[l][m] = table.rise[l][m] * (z * legendre[l - 1][m]) - table.drop[l][m] * legendre[l - 2][m];
      }
    }
  }

  TESSERAL_INLINE int degree() const { return L == any_l ? constants.l_max : L; }

  /// Y [LM]; `out` is an array of V or counts as a pointer into one does.
  template <class Out>
  TESSERAL_INLINE void values(Out out) const {
    for (int l = 0; l <= degree(); ++l) {
      const Out row = out + l * l + l;
      row[0] = legendre[l][0];
      for (int m = 1; m <= l; ++m) {
        row[m] = legendre[l][m] * cosine[m];
        row[-m] = legendre[l][m] * sine[m];
      }
    }
  }

  /// Gradient of sum_lm t_lm Y_lm with x, y, z taken as independent variables.
  TESSERAL_INLINE void contract_gradient(const V* t, V& gx, V& gy, V& gz) const {
    gx = gy = gz = constant<V>(0);
    for (int m = 0; m <= degree(); ++m) {
      V with_cosine = constant<V>(0), with_sine = constant<V>(0);
      for (int l = m; l <= degree(); ++l) {
        const V* row = t + l * l + l;
        with_cosine += legendre[l][m] * row[m];
        if (m > 0) with_sine += legendre[l][m] * row[-m];
        if (l > m) {
          V angular = cosine[m] * row[m];
          if (m > 0) angular += sine[m] * row[-m];
          gz += constants.slope[l][m] * (legendre[l][m + 1] * angular);
        }
      }
      if (m > 0) {
        gx += T(m) * (with_cosine * cosine[m - 1] + with_sine * sine[m - 1]);
        gy += T(m) * (with_sine * cosine[m - 1] - with_cosine * sine[m - 1]);
      }
    }
  }
};

/// Unit vector and length of a pack of edge vectors.
template <class V>
struct Direction {
  V x, y, z, length, inverse;
  TESSERAL_INLINE Direction(const V& dx, const V& dy, const V& dz) {
    length = square_root(dx * dx + dy * dy + dz * dz);
    inverse = constant<V>(1) / length;
    x = dx * inverse;
    y = dy * inverse;
    z = dz * inverse;
  }

  /// Gradient with respect to the edge vector from that with respect to the unit vector (g) and the length (radial).
  TESSERAL_INLINE void project(V& gx, V& gy, V& gz, const V& radial) const {
    const V along = gx * x + gy * y + gz * z;
    gx = (gx - along * x) * inverse + radial * x;
    gy = (gy - along * y) * inverse + radial * y;
    gz = (gz - along * z) * inverse + radial * z;
  }
};

}  // namespace tesseral::TESSERAL_ISA
