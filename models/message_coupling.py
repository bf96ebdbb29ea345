"""Which harmonics and features of a neighbour couple to which message, as terms of the operator `message`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tesseral.models.clebsch_gordan import real_clebsch_gordan


@dataclass(frozen=True)
class MessageTable:
    """Couplings of harmonics Y_l1 and features h_L to messages of degree l.

    paths: (l1, L, l) of each path p; with scalar features path p is l1 = l = p.
    terms: int32 [n_terms, 4], (path, component of the message, of the harmonics, of the features), sorted by path,
    component of the features, component of the message.
    couplings: float64 [n_terms].  Both arrays are read-only.
    """

    paths: tuple[tuple[int, int, int], ...]
    terms: NDArray[np.int32]
    couplings: NDArray[np.float64]


@cache
def message_table(l_max: int, message_l: int) -> MessageTable:
    """All couplings of harmonics up to l_max and features up to message_l to true tensors up to l_max.

    M_lm = sum_{m1 M} C^{lm}_{l1 m1, L M} Y_{l1 m1} h_{L M} with real Clebsch-Gordan coefficients C, for which scalar
    features give C^{lm}_{l1 m1, 0 0} = delta. Paths have |l1 - L| <= l <= l1 + L and, for the parity (-1)^l, even
    l1 + L + l.

    Raises ValueError for a negative degree, or features of a higher degree than the harmonics.
    """
    if not 0 <= message_l <= l_max:
        raise ValueError(f"message_table: expected 0 <= message_l <= l_max, got {message_l} and {l_max}")
    paths: list[tuple[int, int, int]] = []
    rows: list[tuple[float, ...]] = []
    for feature_l in range(message_l + 1):
        for l1 in range(l_max + 1):
            for degree in range(abs(l1 - feature_l), min(l1 + feature_l, l_max) + 1, 2):
                coupling = real_clebsch_gordan(l1, feature_l, degree)
                for source, target, harmonic in np.argwhere(coupling.transpose(1, 2, 0)).tolist():
                    term = (len(paths), degree**2 + target, l1**2 + harmonic, feature_l**2 + source)
                    rows.append((*term, coupling[harmonic, source, target]))
                paths.append((l1, feature_l, degree))
    terms, couplings = np.array([row[:4] for row in rows], dtype=np.int32), np.array([row[4] for row in rows])
    terms.setflags(write=False)
    couplings.setflags(write=False)
    return MessageTable(tuple(paths), terms, couplings)


@cache
def terms_by_path(l_max: int, message_l: int) -> NDArray[np.int32]:
    """The terms of `message_table` with the components of each path kept apart.

    Component m of path p = (l1, L, l) is the output sum_{p' < p} (2 l' + 1) + l + m, instead of l*l + l + m.
    Raises ValueError as `message_table`.  Returns a read-only int32 array [n_terms, 4].
    """
    table = message_table(l_max, message_l)
    terms, start = table.terms.copy(), 0
    for path, (_, _, degree) in enumerate(table.paths):
        terms[terms[:, 0] == path, 1] += start - degree**2
        start += 2 * degree + 1
    terms.setflags(write=False)
    return terms
