"""Checks that any model file must pass, whatever it was trained on: every way into it gives the same numbers.

The reference is the ASE calculator in float64. Each check goes another way to the same numbers, on structures made up
from the model's elements and on the user's own, and gives the largest difference of each quantity relative to the
largest number of that quantity in the structure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import CalculationFailed
from ase.data import atomic_numbers, covalent_radii

from tesseral.calculator.ase_calculator import TesseralCalculator
from tesseral.calculator.errors import StructureError
from tesseral.calculator.verification_ipi import ipi_checks
from tesseral.calculator.verification_lammps import lammps_checks
from tesseral.calculator.verification_python import python_checks
from tesseral.calculator.verification_reference import QUANTITIES, Check, Reference, Skipped
from tesseral.models.registry import resolve_model

__all__ = ["QUANTITIES", "Check", "Skipped", "loosened", "made_up_structures", "verify"]

LARGEST_FORCE = 1000.0  # eV/Å, in made-up structures
STRETCH, MOST_STRETCHES = 1.1, 20  # factor of all lengths at a time


def verify(model: str | os.PathLike[str], structures: Sequence[Atoms] = (), seed: int = 0) -> Iterator[Check | Skipped]:
    """Run all checks on a model, one after the other.

    Args:
        model: path of a model file, or the name of a shipped model.
        structures: checked beside the made-up ones.
        seed: of the made-up structures.

    Raises:
        ValueError: the file is not a usable model.
        StructureError, CalculationFailed: a structure cannot be computed; names it and the atom.
        FileNotFoundError: no such file and no shipped model of that name.
    """
    path = resolve_model(model)
    calculator = TesseralCalculator(path, dtype="float64", skin=0.0)
    generator = np.random.default_rng(seed)
    made_up = [loosened(calculator, atoms) for atoms in made_up_structures(calculator.model.species, generator)]
    own = [Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc) for atoms in structures]
    for index, atoms in enumerate(own):
        try:
            calculator.calculate(atoms)
        except (StructureError, CalculationFailed) as error:
            raise type(error)(f"structure {index}: {error}") from error
    reference = Reference(calculator, made_up + own)
    yield from python_checks(reference, generator)
    yield from lammps_checks(reference)
    yield from ipi_checks(reference, generator)


def made_up_structures(species: list[str], generator: np.random.Generator) -> list[Atoms]:
    """A rattled, sheared crystal of all elements at covalent distances, as bulk, slab, wire and cluster, and as bulk in
    a left-handed cell."""
    radius = float(np.mean([covalent_radii[atomic_numbers[symbol]] for symbol in species]))
    atoms = bulk("X", "fcc", a=2.2 * radius * np.sqrt(2.0), cubic=True) * (2, 2, 1)
    atoms.numbers = generator.permutation([atomic_numbers[species[k % len(species)]] for k in range(len(atoms))])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + generator.uniform(-0.05, 0.05, (3, 3))), scale_atoms=True)
    atoms.positions += generator.normal(0.0, 0.08 * radius, atoms.positions.shape)
    structures = []
    for pbc in (True, (True, True, False), (False, True, False), False):
        structures.append(atoms.copy())
        structures[-1].pbc = pbc
    structures.append(atoms.copy())
    structures[-1].set_cell(atoms.cell.array[[1, 0, 2]])
    structures[-1].pbc = True
    return structures


def loosened(calculator: TesseralCalculator, atoms: Atoms) -> Atoms:
    """A copy, stretched until no force is above LARGEST_FORCE.

    Atoms of molecules at the density of a metal are far outside the training set: the energies of a polynomial of high
    degree are astronomical there and have no digits left for differences.
    """
    stretched = atoms.copy()
    for _ in range(MOST_STRETCHES):
        calculator.calculate(stretched)
        if np.abs(calculator.results["forces"]).max() <= LARGEST_FORCE:
            break
        stretched.set_cell(STRETCH * stretched.cell.array)
        stretched.positions *= STRETCH
    return stretched
