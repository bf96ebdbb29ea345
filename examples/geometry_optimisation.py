"""Relax cell and atoms of silicon, then a vacancy in it, and compare energies.

python geometry_optimisation.py
"""

from __future__ import annotations

from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from tesseral.calculator import TesseralCalculator


def lattice_constant(model: str = "silicon") -> float:
    """Relaxed lattice constant in Å; stress drives the cell."""
    atoms = bulk("Si", "diamond", a=5.6, cubic=True)
    atoms.rattle(0.05, seed=2)
    atoms.calc = TesseralCalculator(model, dtype="float64")
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4, steps=200)
    return float(atoms.get_volume() ** (1 / 3))


def vacancy_energy(model: str = "silicon", lattice: float = 5.43) -> float:
    """Formation energy of a relaxed vacancy in 64 sites, in eV."""
    crystal = bulk("Si", "diamond", a=lattice, cubic=True) * (2, 2, 2)
    crystal.calc = TesseralCalculator(model, dtype="float64")
    per_atom = crystal.get_potential_energy() / len(crystal)
    vacancy = crystal.copy()
    del vacancy[0]
    vacancy.rattle(0.05, seed=2)  # leaves the symmetric saddle
    vacancy.calc = TesseralCalculator(model, dtype="float64")
    BFGS(vacancy, logfile=None).run(fmax=1e-3, steps=200)
    return float(vacancy.get_potential_energy() - per_atom * len(vacancy))


if __name__ == "__main__":
    relaxed = lattice_constant()
    print(f"lattice constant: {relaxed:.3f} Å")
    print(f"vacancy formation energy: {vacancy_energy(lattice=relaxed):.2f} eV")
