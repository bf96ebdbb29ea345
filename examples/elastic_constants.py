"""Elastic constants of silicon from stresses under small strains, with clamped and with relaxed atoms.

python elastic_constants.py
"""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from tesseral.calculator import TesseralCalculator

STRAIN = 0.005


def relaxed_crystal(model: str) -> Atoms:
    """Diamond silicon at zero stress."""
    atoms = bulk("Si", "diamond", a=5.43, cubic=True)
    atoms.calc = TesseralCalculator(model, dtype="float64")
    BFGS(FrechetCellFilter(atoms, hydrostatic_strain=True), logfile=None).run(fmax=1e-5, steps=100)
    return atoms


def stress_slopes(atoms: Atoms, strain: np.ndarray, relax: bool) -> np.ndarray:
    """Derivative of the stress (GPa; xx, yy, zz, yz, xz, xy) along a strain [3, 3], by a central
    difference."""
    stresses = []
    for sign in (-1, 1):
        strained = atoms.copy()
        strained.set_cell(atoms.cell[:] @ (np.eye(3) + sign * STRAIN * strain), scale_atoms=True)
        strained.calc = atoms.calc
        if relax:
            BFGS(strained, logfile=None).run(fmax=1e-4, steps=100)
        stresses.append(strained.get_stress())
    return (stresses[1] - stresses[0]) / (2 * STRAIN) / units.GPa


def elastic_constants(model: str = "silicon", relax: bool = True) -> dict[str, float]:
    """C11, C12 and C44 in GPa; `relax` lets the atoms follow the strain."""
    atoms = relaxed_crystal(model)
    uniaxial = stress_slopes(atoms, np.diag([1.0, 0.0, 0.0]), relax)
    shear = stress_slopes(atoms, np.array([[0, 0, 0], [0, 0, 0.5], [0, 0.5, 0]]), relax)
    return {"C11": float(uniaxial[0]), "C12": float(uniaxial[1]), "C44": float(shear[3])}


if __name__ == "__main__":
    for label, relax in (("clamped", False), ("relaxed", True)):
        values = elastic_constants(relax=relax)
        print(f"{label} atoms: " + ", ".join(f"{name} = {value:.0f} GPa" for name, value in values.items()))
