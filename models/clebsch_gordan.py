"""Clebsch-Gordan coefficients of real spherical harmonics."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray


@cache
def real_clebsch_gordan(l1: int, l2: int, l3: int) -> NDArray[np.float64]:
    """Coupling of two real irreducible tensors of degrees l1 and l2 to one of degree l3.

    c_m3 = sum_{m1 m2} result[l1+m1, l2+m2, l3+m3] a_m1 b_m2 transforms like the real harmonics of degree l3
    when a and b transform like those of l1 and l2 (no Condon-Shortley phase). Rows are orthonormal:
    sum_{m1 m2} result[..., m3] result[..., m3'] = delta. It is zero outside |l1-l2| <= l3 <= l1+l2.

    Returns a read-only array [2*l1+1, 2*l2+1, 2*l3+1].
    """
    coupled = np.einsum(
        "pqr,ap,bq,cr->abc",
        _complex_clebsch_gordan(l1, l2, l3),
        _real_from_complex(l1).conj(),
        _real_from_complex(l2).conj(),
        _real_from_complex(l3),
        optimize=True,
    )
    # Real for even l1+l2+l3, purely imaginary for odd (there the factor i is dropped).
    result = np.ascontiguousarray(coupled.imag if (l1 + l2 + l3) % 2 else coupled.real)
    result[np.abs(result) < 1e-14] = 0.0
    result.setflags(write=False)
    return result


def _complex_clebsch_gordan(l1: int, l2: int, l3: int) -> NDArray[np.float64]:
    """<l1 m1 l2 m2 | l3 m3> (Condon-Shortley) by Racah's formula, exact integers but for one square root.

    Racah, Phys. Rev. 62, 438 (1942), 10.1103/PhysRev.62.438, equation 16, its sum written with binomials.
    """
    result = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        return result
    factorial, binomial = math.factorial, math.comb
    a, b, c = l1 + l2 - l3, l1 - l2 + l3, -l1 + l2 + l3
    denominator = factorial(l1 + l2 + l3 + 1) * factorial(a) * factorial(b) * factorial(c)
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            m3 = m1 + m2
            numerator = (2 * l3 + 1) * factorial(l3 + m3) * factorial(l3 - m3)
            numerator *= factorial(l1 + m1) * factorial(l1 - m1) * factorial(l2 + m2) * factorial(l2 - m2)
            total = sum(
                (-1) ** k * binomial(a, k) * binomial(b, l1 - m1 - k) * binomial(c, l2 + m2 - k)
                for k in range(min(a, l1 - m1, l2 + m2) + 1)
            )
            result[l1 + m1, l2 + m2, l3 + m3] = math.sqrt(numerator / denominator) * total
    return result


@cache
def _real_from_complex(degree: int) -> NDArray[np.complex128]:
    """Unitary matrix [real m, complex m] from complex harmonics (Condon-Shortley) to real ones (without)."""
    matrix = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=np.complex128)
    matrix[degree, degree] = 1.0
    for m in range(1, degree + 1):
        sign = (-1.0) ** m
        matrix[degree + m, degree + m] = sign / math.sqrt(2.0)
        matrix[degree + m, degree - m] = 1.0 / math.sqrt(2.0)
        matrix[degree - m, degree + m] = -1j * sign / math.sqrt(2.0)
        matrix[degree - m, degree - m] = 1j / math.sqrt(2.0)
    return matrix
