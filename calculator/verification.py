"""Checks that any model file must pass, whatever it was trained on: the contract of the calculators.

Each check compares two ways to the same number on structures made up from the model's elements, and gives
the largest difference relative to the largest number compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import NDArray

from tesseral.calculator.ase_calculator import TesseralCalculator, ase_results
from tesseral.calculator.evaluate import evaluate
from tesseral.calculator.neighbors import cartesian_shifts, neighbor_list
from tesseral.models.file import load_torchscript
from tesseral.models.registry import resolve_model

#: steps of the central differences, of positions (Å) and of strains: short enough that crowded atoms, whose forces
#: change fast, lose nothing to the fifth derivative, long enough for the digits of a total energy of 10^4 eV
DISPLACEMENT, STRAIN = 1e-4, 2e-5
#: atoms whose forces are differentiated numerically
N_DIFFERENTIATED = 4
EXTENSIVE = ("energy", "forces", "stress")


@dataclass(frozen=True)
class Check:
    """Outcome of one check.

    Attributes:
        name: what was compared.
        difference: largest relative difference over all structures.
        tolerance: largest one allowed.
    """

    name: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; NaN is not."""
        return bool(self.difference <= self.tolerance)


def verify(model: str | os.PathLike[str], seed: int = 0) -> Iterator[Check]:
    """Run all checks on a model, one after the other.

    Args:
        model: path of a model file, or the name of a shipped model.
        seed: of the made-up structures.

    Raises:
        ValueError: the file is not a usable model.
        FileNotFoundError: no such file and no shipped model of that name.
    """
    path = resolve_model(model)
    exact = TesseralCalculator(path, dtype="float64", skin=0.0)
    generator = np.random.default_rng(seed)
    structures = made_up_structures(exact.model.species, generator)

    def largest(compare: Callable[[Atoms], float]) -> float:
        return float(np.max([compare(atoms) for atoms in structures]))  # NaN stays NaN

    program = load_torchscript(path)
    checks: list[tuple[str, Callable[[Atoms], float], float]] = [
        (
            "native = TorchScript",
            lambda a: _relative(_torchscript(program, exact, a), _all(exact, a)),
            1e-9,
        ),
        ("forces = central differences", lambda a: _force_error(exact, a, generator), 1e-6),
        ("stress = central differences", lambda a: _stress_error(exact, a), 1e-6),
        ("rotation and inversion", lambda a: _rotation_error(exact, a, generator), 1e-9),
        ("translation and image wrapping", lambda a: _translation_error(exact, a, generator), 1e-9),
        ("permutation", lambda a: _permutation_error(exact, a, generator), 1e-9),
        ("batched = single", lambda a: _batch_error(exact, a), 1e-12),
    ]
    for name, compare, tolerance in checks:
        yield Check(name, largest(compare), tolerance)
    for dtype, tolerance in (("mixed", 1e-4), ("float32", 1e-4)):
        rough = TesseralCalculator(path, dtype=dtype)
        difference = largest(lambda a, rough=rough: _relative(_all(rough, a), _all(exact, a)))  # type: ignore[misc]
        yield Check(f"{dtype} = float64", difference, tolerance)


def made_up_structures(species: list[str], generator: np.random.Generator) -> list[Atoms]:
    """A rattled, sheared crystal of all elements at covalent distances, as bulk, left-handed, slab, wire and
    cluster."""
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


def _all(calculator: TesseralCalculator, atoms: Atoms) -> dict[str, Any]:
    """All results of a calculator, see :func:`_without_free_atoms`."""
    calculator.calculate(atoms)
    return _without_free_atoms(calculator, atoms, calculator.results)


def _without_free_atoms(calculator: TesseralCalculator, atoms: Atoms, results: dict[str, Any]) -> dict[str, Any]:
    """Results with the energy relative to the free atoms, whose large energies would hide differences."""
    free = [calculator.metadata["e0"][symbol] for symbol in atoms.symbols]
    return {**results, "energy": float(np.sum(results["energies"] - free))}


def _relative(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest relative difference of energy, forces and stress (where there is one)."""
    ratios = []
    for key in EXTENSIVE:
        if other.get(key) is not None:
            a, b = np.asarray(one[key]), np.asarray(other[key])
            ratios.append(np.max(np.abs(a - b)) / max(float(np.max(np.abs(b))), 1e-3))
    return float(np.max(ratios))


def _torchscript(program: Any, calculator: TesseralCalculator, atoms: Atoms) -> dict[str, Any]:
    """Results of the TorchScript program in the file, by the interface that every front end of it uses."""
    import torch

    edges = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, calculator.model.cutoff)
    centers, neighbors = edges.centers, edges.neighbors.astype(np.int64)
    shifts = cartesian_shifts(edges, atoms.cell.array, atoms.pbc)
    vectors = atoms.positions[neighbors] - atoms.positions[centers] + shifts
    species = calculator.model.species_indices(atoms.numbers).astype(np.int64)
    energies, gradients = (
        output.numpy() for output in program(*map(torch.from_numpy, (vectors, centers, neighbors, species)))
    )
    forces, virials = np.zeros((len(atoms), 3)), np.zeros((len(atoms), 3, 3))
    np.add.at(forces, centers, gradients)
    np.add.at(forces, neighbors, -gradients)
    np.add.at(virials, centers, vectors[:, :, None] * gradients[:, None, :])
    results = ase_results(atoms, energies, forces, virials)
    return _without_free_atoms(calculator, atoms, results)


def _batch_error(calculator: TesseralCalculator, atoms: Atoms) -> float:
    batched = evaluate(calculator.model.path, [atoms, atoms[:1], atoms])[2]
    return _relative(_without_free_atoms(calculator, atoms, batched), _all(calculator, atoms))


def _force_error(calculator: TesseralCalculator, atoms: Atoms, generator: np.random.Generator) -> float:
    expected = _all(calculator, atoms)["forces"]
    worst = 0.0
    for atom in generator.choice(len(atoms), N_DIFFERENTIATED, replace=False):
        for axis in range(3):

            def energy(step: float, atom: int = atom, axis: int = axis) -> float:
                moved = atoms.copy()
                moved.positions[atom, axis] += step
                return float(_all(calculator, moved)["energy"])

            worst = np.maximum(worst, abs(-_central_difference(energy, DISPLACEMENT) - expected[atom, axis]))
    return float(worst / max(np.abs(expected).max(), 1e-3))


def _stress_error(calculator: TesseralCalculator, atoms: Atoms) -> float:
    if not atoms.pbc.all():
        return 0.0
    expected = _all(calculator, atoms)["stress"]
    volume, worst = atoms.get_volume(), 0.0
    for component, (row, column) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):

        def energy(step: float, row: int = row, column: int = column) -> float:
            strain = np.eye(3)
            strain[row, column] += 0.5 * step
            strain[column, row] += 0.5 * step
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            return float(_all(calculator, strained)["energy"])

        worst = np.maximum(worst, abs(_central_difference(energy, STRAIN) / volume - expected[component]))
    return float(worst / max(np.abs(expected).max(), 1e-3))


def _central_difference(function: Callable[[float], float], step: float) -> float:
    """Derivative at 0, with an error of fourth order in the step."""
    near = function(step) - function(-step)
    far = function(2 * step) - function(-2 * step)
    return (8.0 * near - far) / (12.0 * step)


def _rotation_error(calculator: TesseralCalculator, atoms: Atoms, generator: np.random.Generator) -> float:
    rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))  # proper or not, as it comes
    worst = 0.0
    for matrix in (rotation, -rotation):
        turned = atoms.copy()
        turned.positions = atoms.positions @ matrix
        turned.set_cell(atoms.cell.array @ matrix)
        expected = _all(calculator, atoms)
        results = _all(calculator, turned)
        results["forces"] = results["forces"] @ matrix.T
        if "stress" in results:
            results["stress"] = _voigt(matrix @ _matrix(results["stress"]) @ matrix.T)
        worst = np.maximum(worst, _relative(results, expected))
    return float(worst)


def _translation_error(calculator: TesseralCalculator, atoms: Atoms, generator: np.random.Generator) -> float:
    moved = atoms.copy()
    images = generator.integers(-3, 4, atoms.positions.shape) * atoms.pbc
    moved.positions += generator.uniform(-5.0, 5.0, 3) + images @ atoms.cell.array
    return _relative(_all(calculator, moved), _all(calculator, atoms))


def _permutation_error(calculator: TesseralCalculator, atoms: Atoms, generator: np.random.Generator) -> float:
    order = generator.permutation(len(atoms))
    results = _all(calculator, atoms[order])
    results["forces"] = results["forces"][np.argsort(order)]
    return _relative(results, _all(calculator, atoms))


def _matrix(voigt: NDArray[np.float64]) -> NDArray[np.float64]:
    xx, yy, zz, yz, xz, xy = voigt
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def _voigt(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return matrix[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
