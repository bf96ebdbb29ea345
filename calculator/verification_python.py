"""The checks of :mod:`tesseral.calculator.verification` that need no other program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tesseral.calculator.ase_calculator import TesseralCalculator, ase_results
from tesseral.calculator.evaluate import evaluate
from tesseral.calculator.native import voigt_stresses
from tesseral.calculator.neighbors import cartesian_shifts, neighbor_list
from tesseral.calculator.verification_reference import (
    SMALLEST_SCALE,
    Check,
    Differences,
    Reference,
    Results,
    ase_results_of,
    largest,
    relative_differences,
    without_free_atoms,
)
from tesseral.models.file import load_torchscript

#: steps of the central differences, of positions (Å) and of strains: short enough that crowded atoms, whose forces
#: change fast, lose nothing to the fifth derivative, long enough for the digits of a total energy of 10^4 eV
DISPLACEMENT, STRAIN = 1e-4, 2e-5
#: atoms whose forces are differentiated numerically
N_DIFFERENTIATED = 4


def python_checks(reference: Reference, generator: np.random.Generator) -> Iterator[Check]:
    """TorchScript, derivatives, invariances, batches and the other precisions."""
    exact = reference.calculator
    path = exact.model.path
    program = load_torchscript(path)
    checks: list[tuple[str, Callable[[Atoms, Results], Differences], float]] = [
        ("TorchScript in Python", lambda a, r: relative_differences(_torchscript(program, exact, a), r), 1e-9),
        ("finite differences", lambda a, r: _derivative_errors(exact, a, r, generator), 1e-6),
        ("rotation and inversion", lambda a, r: _rotation_errors(exact, a, r, generator), 1e-9),
        ("translation and wrapping", lambda a, r: relative_differences(_translated(exact, a, generator), r), 1e-9),
        ("permutation", lambda a, r: relative_differences(_permuted(exact, a, generator), r), 1e-9),
        ("batch", lambda a, r: relative_differences(_batched(exact, a), r), 1e-12),
    ]
    for name, compare, tolerance in checks:
        yield Check(name, reference.differences(compare), tolerance)
    for dtype in ("mixed", "float32"):
        rough = TesseralCalculator(path, dtype=dtype)
        differences = reference.differences(lambda a, r, c=rough: relative_differences(ase_results_of(c, a), r))  # type: ignore[misc]
        yield Check(f"ASE, {dtype}", differences, 1e-4)


def _torchscript(program: Any, calculator: TesseralCalculator, atoms: Atoms) -> Results:
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
    results = {**ase_results(atoms, energies, forces, virials), "virials": voigt_stresses(virials, 1.0)}
    return without_free_atoms(calculator, atoms, results)


def _batched(calculator: TesseralCalculator, atoms: Atoms) -> Results:
    """Results of a structure between others in one batch."""
    return without_free_atoms(calculator, atoms, evaluate(calculator.model.path, [atoms, atoms[:1], atoms])[2])


def _derivative_errors(
    calculator: TesseralCalculator, atoms: Atoms, expected: Results, generator: np.random.Generator
) -> Differences:
    """Forces of some atoms, and the stress where there is one, against central differences of the energy."""
    differences = {"forces": _force_error(calculator, atoms, expected["forces"], generator)}
    if "stress" in expected:
        differences["stress"] = _stress_error(calculator, atoms, expected["stress"])
    return differences


def _force_error(
    calculator: TesseralCalculator, atoms: Atoms, expected: NDArray[np.float64], generator: np.random.Generator
) -> float:
    worst = 0.0
    for atom in generator.choice(len(atoms), min(N_DIFFERENTIATED, len(atoms)), replace=False):
        for axis in range(3):

            def energy(step: float, atom: int = atom, axis: int = axis) -> float:
                moved = atoms.copy()
                moved.positions[atom, axis] += step
                return _energy(calculator, moved)

            worst = np.maximum(worst, abs(-_central_difference(energy, DISPLACEMENT) - expected[atom, axis]))
    return float(worst / max(np.abs(expected).max(), SMALLEST_SCALE))


def _stress_error(calculator: TesseralCalculator, atoms: Atoms, expected: NDArray[np.float64]) -> float:
    volume, worst = atoms.get_volume(), 0.0
    for component, (row, column) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):

        def energy(step: float, row: int = row, column: int = column) -> float:
            strain = np.eye(3)
            strain[row, column] += 0.5 * step
            strain[column, row] += 0.5 * step
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            return _energy(calculator, strained)

        worst = np.maximum(worst, abs(_central_difference(energy, STRAIN) / volume - expected[component]))
    return float(worst / max(np.abs(expected).max(), SMALLEST_SCALE))


def _energy(calculator: TesseralCalculator, atoms: Atoms) -> float:
    """Energy relative to the free atoms in eV."""
    calculator.calculate(atoms)
    return float(without_free_atoms(calculator, atoms, calculator.results)["energies"].sum())


def _central_difference(function: Callable[[float], float], step: float) -> float:
    """Derivative at 0, with an error of fourth order in the step."""
    near = function(step) - function(-step)
    far = function(2 * step) - function(-2 * step)
    return (8.0 * near - far) / (12.0 * step)


def _rotation_errors(
    calculator: TesseralCalculator, atoms: Atoms, expected: Results, generator: np.random.Generator
) -> Differences:
    """A rotation, proper or not as it comes, and the same with inversion."""
    rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    both = []
    for matrix in (rotation, -rotation):
        turned = atoms.copy()
        turned.positions = atoms.positions @ matrix
        turned.set_cell(atoms.cell.array @ matrix)
        results = ase_results_of(calculator, turned)
        results["forces"] = results["forces"] @ matrix.T
        for name in {"stress", "virials"} & set(results):
            results[name] = _voigt(matrix @ _matrices(results[name]) @ matrix.T)
        both.append(relative_differences(results, expected))
    return largest(both)


def _translated(calculator: TesseralCalculator, atoms: Atoms, generator: np.random.Generator) -> Results:
    """Results after a shift of all atoms, and of each by lattice vectors."""
    moved = atoms.copy()
    images = generator.integers(-3, 4, atoms.positions.shape) * atoms.pbc
    moved.positions += generator.uniform(-5.0, 5.0, 3) + images @ atoms.cell.array
    return ase_results_of(calculator, moved)


def _permuted(calculator: TesseralCalculator, atoms: Atoms, generator: np.random.Generator) -> Results:
    """Results of the atoms in another order, put back."""
    order = generator.permutation(len(atoms))
    results = ase_results_of(calculator, atoms[order])
    for name in ("forces", "energies", "virials"):
        results[name] = results[name][np.argsort(order)]
    return results


def _matrices(voigt: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric tensors [..., 3, 3] of components [..., 6] in ASE's order."""
    return voigt[..., [[0, 5, 4], [5, 1, 3], [4, 3, 2]]]


def _voigt(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Components [..., 6] in ASE's order of symmetric tensors [..., 3, 3]."""
    return matrices[..., (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
