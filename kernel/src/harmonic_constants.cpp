// Normalised recursion constants of the real spherical harmonics.
#include <cmath>

#include "tesseral/operators.hpp"

namespace tesseral {
namespace {

/// N_lm = sqrt((2l+1)/(4 pi) (l-m)!/(l+m)!), times sqrt(2) for m > 0.
double norm(int l, int m) {
  constexpr double pi = 3.14159265358979323846;
  double ratio = (2.0 * l + 1.0) / (4.0 * pi);
  for (int k = l - m + 1; k <= l + m; ++k) ratio /= k;
  return std::sqrt(m > 0 ? 2.0 * ratio : ratio);
}

}  // namespace

template <class T>
HarmonicConstants<T>::HarmonicConstants(int order) : l_max(order), diagonal{}, rise{}, drop{}, slope{} {
  double double_factorial = 1.0;  // (2m-1)!!
  for (int m = 0; m <= l_max; ++m) {
    if (m > 0) double_factorial *= 2 * m - 1;
    diagonal[m] = static_cast<T>(double_factorial * norm(m, m));
    for (int l = m + 1; l <= l_max; ++l) {
      // (l-m) P_l^(m) = (2l-1) z P_{l-1}^(m) - (l+m-1) P_{l-2}^(m), P^(m) the m-th derivative of the Legendre polynomial
      rise[l][m] = static_cast<T>((2.0 * l - 1.0) / (l - m) * norm(l, m) / norm(l - 1, m));
      if (l > m + 1) drop[l][m] = static_cast<T>((l + m - 1.0) / (l - m) * norm(l, m) / norm(l - 2, m));
      slope[l][m] = static_cast<T>(norm(l, m) / norm(l, m + 1));
    }
  }
}

template struct HarmonicConstants<float>;
template struct HarmonicConstants<double>;

}  // namespace tesseral
