"""Potentials of LAMMPS' own packages with random parameters of published size: their speed does not depend on these.

Each writes its files into a folder and returns the commands that choose it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: parameters that LAMMPS calls epsilon, sigma, a, lambda, gamma, cos(theta), A, B, p, q, tolerance:
#: F. H. Stillinger and T. A. Weber, doi:10.1103/PhysRevB.31.5262
STILLINGER_WEBER = "2.1683 2.0951 1.80 21.0 1.20 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0"
#: number of bispectrum components by twojmax
SNAP_COMPONENTS = {6: 30, 8: 55}
#: radial functions of the two-, three- and four-body terms and degrees of the last two: as in LAMMPS' example InP
POD_TWO, POD_THREE, POD_THREE_DEGREE, POD_FOUR, POD_FOUR_DEGREE = 6, 5, 4, 4, 2
POD = """species {species}
pbc 1 1 1
rin 0.8
rcut {cutoff:g}
bessel_polynomial_degree 4
inverse_polynomial_degree 8
onebody 1
twobody_number_radial_basis_functions {two}
threebody_number_radial_basis_functions {three}
threebody_angular_degree {three_degree}
fourbody_number_radial_basis_functions {four}
fourbody_angular_degree {four_degree}
fivebody_number_radial_basis_functions 0
fivebody_angular_degree 0
sixbody_number_radial_basis_functions 0
sixbody_angular_degree 0
sevenbody_number_radial_basis_functions 0
sevenbody_angular_degree 0
"""
#: of UF3, as of the file Nb.uf3 that comes with LAMMPS: reach of three-body terms in Å, and spline intervals
UF3_THREE_BODY, UF3_PAIR_INTERVALS, UF3_INTERVALS = 4.0, 24, 8
SIZE = 1e-3  # of random coefficients

Writer = Callable[[Path, Sequence[str], float], str]


def stillinger_weber(folder: Path, elements: Sequence[str], cutoff: float) -> str:
    """Silicon only; `cutoff` is not used: the potential has its own, 3.77 Å."""
    (folder / "random.sw").write_text(f"Si Si Si {STILLINGER_WEBER}\n", encoding="utf-8")
    return "pair_style sw\npair_coeff * * random.sw Si\n"


def snap(folder: Path, elements: Sequence[str], cutoff: float, twojmax: int) -> str:
    """A. P. Thompson et al., doi:10.1016/j.jcp.2014.12.018."""
    count = SNAP_COMPONENTS[twojmax] + 1
    lines = [f"{len(elements)} {count}"]
    for element in elements:
        lines += [f"{element} 0.5 1.0", *_coefficients(count)]
    (folder / "random.snapcoeff").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "random.snapparam").write_text(f"rcutfac {cutoff}\ntwojmax {twojmax}\n", encoding="utf-8")
    return f"pair_style snap\npair_coeff * * random.snapcoeff random.snapparam {' '.join(elements)}\n"


def pod(folder: Path, elements: Sequence[str], cutoff: float) -> str:
    """N.-C. Nguyen and A. Rohskopf, doi:10.1016/j.jcp.2023.112030; 48 descriptors of one element, 304 of two."""
    n = len(elements)
    pairs, triples = n * (n + 1) // 2, n * (n + 1) * (n + 2) // 6
    # angular functions: one for each degree of the three-body terms, four for degrees up to 2 of the four-body terms
    count = n * (1 + POD_TWO * n + POD_THREE * (POD_THREE_DEGREE + 1) * pairs + POD_FOUR * 4 * triples)
    sizes = {"two": POD_TWO, "three": POD_THREE, "three_degree": POD_THREE_DEGREE}
    sizes |= {"four": POD_FOUR, "four_degree": POD_FOUR_DEGREE}
    text = POD.format(species=" ".join(elements), cutoff=cutoff, **sizes)
    (folder / "parameters.pod").write_text(text, encoding="utf-8")
    lines = [f"model_coefficients: {count} 0 0", *_coefficients(count)]
    (folder / "coefficients.pod").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"pair_style pod\npair_coeff * * parameters.pod coefficients.pod {' '.join(elements)}\n"


def uf3(folder: Path, elements: Sequence[str], cutoff: float) -> str:
    """S. R. Xie et al., doi:10.1038/s41524-023-01092-7; `cutoff` is that of the two-body terms."""
    generator = np.random.default_rng(0)
    reach = min(UF3_THREE_BODY, cutoff)
    blocks = []
    for pair in combinations_with_replacement(elements, 2):
        knots = _knots(cutoff, UF3_PAIR_INTERVALS)
        values = generator.normal(0.0, SIZE, len(knots) - 4)
        values[-3:] = 0.0  # smooth at the cutoff
        blocks.append([f"2B {' '.join(pair)} 0 3 uk", f"{cutoff:g} {len(knots)}", _row(knots), str(len(values))])
        blocks[-1].append(_row(values))
    near, far = _knots(reach, UF3_INTERVALS), _knots(2 * reach, 2 * UF3_INTERVALS)
    shape = (len(near) - 4, len(near) - 4, len(far) - 4)
    for center in elements:
        for pair in combinations_with_replacement(elements, 2):
            tensor = generator.normal(0.0, SIZE, shape)
            if pair[0] == pair[1]:
                tensor = (tensor + tensor.transpose(1, 0, 2)) / 2
            sizes = f"{2 * reach:g} {reach:g} {reach:g} {len(far)} {len(near)} {len(near)}"
            blocks.append([f"3B {center} {' '.join(pair)} 0 3 uk", sizes, _row(far), _row(near), _row(near)])
            blocks[-1] += [" ".join(map(str, shape)), *(_row(row) for row in tensor.reshape(-1, shape[2]))]
    header = "#UF3 POT UNITS: metal DATE: 2026-01-01 AUTHOR: random CITATION:"
    text = "".join("\n".join([header, *block, "#"]) + "\n" for block in blocks)
    (folder / "random.uf3").write_text(text, encoding="utf-8")
    return f"pair_style uf3 3\npair_coeff * * random.uf3 {' '.join(elements)}\n"


def _knots(cutoff: float, intervals: int) -> NDArray[np.float64]:
    """Equidistant, the first and the last four times."""
    inner = np.linspace(0.001, cutoff, intervals + 1)
    return np.concatenate([np.full(3, inner[0]), inner, np.full(3, cutoff)])


def _row(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.10g}" for value in values)


def _coefficients(count: int) -> list[str]:
    return [f"{value:.8f}" for value in np.random.default_rng(0).normal(0.0, SIZE, count)]


#: by the name of LAMMPS' pair style, with twojmax for SNAP
POTENTIALS: dict[str, Writer] = {
    "sw": stillinger_weber,
    "snap 6": lambda folder, elements, cutoff: snap(folder, elements, cutoff, 6),
    "snap 8": lambda folder, elements, cutoff: snap(folder, elements, cutoff, 8),
    "pod": pod,
    "uf3": uf3,
}
