"""What the checks of :mod:`tesseral.calculator.verification` share: the reference and how results are compared.

The reference is the ASE calculator in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms

from tesseral.calculator.ase_calculator import TesseralCalculator
from tesseral.calculator.native import voigt_stresses
from tesseral.calculator.neighbors import cartesian_shifts, neighbor_list

#: what is compared: energy [] relative to the free atoms, forces [n_atoms, 3], stress [6] where there is a volume,
#: per-atom energies [n_atoms] and per-atom virials [n_atoms, 6] (stresses times volume, and without a volume too)
QUANTITIES = ("energy", "forces", "stress", "energies", "virials")
#: numbers smaller than this (eV, Å) count as differences in themselves
SMALLEST_SCALE = 1e-3

#: results of one structure by the names of QUANTITIES
Results = dict[str, Any]
#: relative differences by the names of QUANTITIES
Differences = dict[str, float]


@dataclass(frozen=True)
class Check:
    """Outcome of one check.

    Attributes:
        name: the way that was compared with the reference.
        differences: largest relative difference over all structures, of each quantity that was compared.
        tolerance: largest one allowed.
        error: why the way gave no numbers, or empty.
    """

    name: str
    differences: Differences
    tolerance: float
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether there are differences and all are within the tolerance; NaN is not."""
        within = [difference <= self.tolerance for difference in self.differences.values()]
        return bool(within) and all(within)


@dataclass(frozen=True)
class Skipped:
    """A check that cannot be made here.

    Attributes:
        name: the way that would be compared.
        reason: what is missing.
    """

    name: str
    reason: str


@dataclass
class Reference:
    """The ASE calculator in float64, and what it gives for the structures of the checks.

    Attributes:
        calculator: it.
        structures: of the checks.
        results: of each structure.
    """

    calculator: TesseralCalculator
    structures: list[Atoms]
    results: list[Results] = field(init=False)

    def __post_init__(self) -> None:
        self.results = [ase_results_of(self.calculator, atoms) for atoms in self.structures]

    def differences(self, compare: Callable[[Atoms, Results], Differences]) -> Differences:
        """Largest differences over all structures; `compare` is given each and the reference's results."""
        pairs = zip(self.structures, self.results, strict=True)
        return largest(compare(atoms, expected) for atoms, expected in pairs)


def ase_results_of(calculator: TesseralCalculator, atoms: Atoms) -> Results:
    """Results of the calculator, with per-atom virials, which ASE has only as stresses."""
    calculator.calculate(atoms)
    results = dict(calculator.results)
    if "stresses" in results:
        results["virials"] = results["stresses"] * abs(np.linalg.det(atoms.cell.array))
    else:
        edges = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, calculator.model.cutoff)
        shifts = cartesian_shifts(edges, atoms.cell.array, atoms.pbc)
        species = calculator.model.species_indices(atoms.numbers)
        virials = calculator.model.compute(atoms.positions, species, edges.first, edges.neighbors, shifts)[2]
        results["virials"] = voigt_stresses(virials, 1.0)
    return without_free_atoms(calculator, atoms, results)


def without_free_atoms(calculator: TesseralCalculator, atoms: Atoms, results: Results) -> Results:
    """Results with energies relative to the free atoms, whose large energies would hide differences."""
    free = np.array([calculator.metadata["e0"][symbol] for symbol in atoms.symbols])
    return {**results, "energy": results["energy"] - free.sum(), "energies": results["energies"] - free}


def relative_differences(one: Results, other: Results) -> Differences:
    """Largest relative difference of each quantity that both have; `other` gives the scale."""
    differences = {}
    for name in QUANTITIES:
        if one.get(name) is not None and other.get(name) is not None:
            a, b = np.asarray(one[name]), np.asarray(other[name])
            differences[name] = float(np.max(np.abs(a - b)) / max(float(np.max(np.abs(b))), SMALLEST_SCALE))
    return differences


def largest(all_differences: Iterable[Differences]) -> Differences:
    """Largest difference of each quantity; NaN stays NaN."""
    worst: Differences = {}
    for differences in all_differences:
        for name, difference in differences.items():
            worst[name] = float(np.maximum(worst.get(name, 0.0), difference))
    return worst
