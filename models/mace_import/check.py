"""An imported model beside mace-torch's own calculator, both in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from torch import Tensor

from tesseral.models.data import find_edges, species_indices
from tesseral.models.energy_model import EnergyModel
from tesseral.models.mace_import.linear_maps import Array
from tesseral.models.mace_import.source import mace_session

LARGEST_FORCE = 50.0  # eV/Å in the structures of the check; beyond, differences measure nothing but rounding
STRETCH, MOST_STRETCHES = 1.06, 30  # factor of all lengths at a time
FEWEST_ATOMS = 8


@dataclass(frozen=True)
class Differences:
    """Largest differences: energy per atom in eV, force components in eV/Å, stress components in eV/Å^3."""

    energy_per_atom: float
    forces: float
    stress: float

    def within(self, tolerance: Differences) -> bool:
        """Whether none is larger than in `tolerance`; NaN is."""
        return all(value <= getattr(tolerance, name) for name, value in vars(self).items())

    def __str__(self) -> str:
        return (
            f"energy {self.energy_per_atom:.1e} eV/atom, forces {self.forces:.1e} eV/Å, stress {self.stress:.1e} eV/Å^3"
        )


TOLERANCE = Differences(energy_per_atom=1e-7, forces=1e-6, stress=1e-6)


@dataclass(frozen=True)
class Results:
    """energy: eV.  forces: [N, 3] eV/Å.  stress: array [3, 3] eV/Å^3, or None where not all directions are periodic."""

    energy: float
    forces: Array
    stress: Any


class MaceReference:
    """mace-torch's calculator.

    The Chebyshev polynomials of mace-torch have no derivative: its forces leave that part out and are not those of its
    energy. Here the same polynomials are computed by their recursion, which has one.

    Args:
        model: float64 MACE model on the CPU.
        head: name of the head.
    """

    def __init__(self, model: Any, head: str) -> None:
        with mace_session():
            from mace.calculators import MACECalculator

            if lacks_radial_derivative(model):
                model = copy.deepcopy(model)
                model.radial_embedding.bessel_fn = _Chebyshev(int(model.radial_embedding.bessel_fn.num_basis))
            several = {"head": head} if len(getattr(model, "heads", None) or [head]) > 1 else {}
            self.calculator = MACECalculator(models=[model], device="cpu", default_dtype="float64", **several)

    def results(self, atoms: Atoms) -> Results:
        """Of one structure."""
        with mace_session():
            self.calculator.calculate(atoms.copy())
        results = self.calculator.results
        xx, yy, zz, yz, xz, xy = results["stress"]
        stress = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) if atoms.pbc.all() else None
        return Results(float(results["energy"]), np.asarray(results["forces"]), stress)


class _Chebyshev(torch.nn.Module):
    """Chebyshev polynomials of the first kind, orders 1..n: [E, 1] -> [E, n]."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        polynomials = [torch.ones_like(x), x]
        while len(polynomials) <= self.n:
            polynomials.append(2.0 * x * polynomials[-1] - polynomials[-2])
        return torch.cat(polynomials[1 : self.n + 1], dim=1)


def lacks_radial_derivative(model: Any) -> bool:
    """Whether mace-torch leaves the derivative of the radial functions out of the forces."""
    return type(model.radial_embedding.bessel_fn).__name__ == "ChebychevBasis"


def model_results(model: EnergyModel, atoms: Atoms) -> Results:
    """The same from a model of this package."""
    centers, neighbors, edges = find_edges(atoms, model.cutoff, "check")
    indices = (centers, neighbors, species_indices(atoms, model.species, "check"))
    energies, gradients = model(torch.as_tensor(edges), *(torch.as_tensor(index).long() for index in indices))
    g = gradients.numpy()
    forces = np.zeros((len(atoms), 3))
    np.add.at(forces, centers, g)
    np.subtract.at(forces, neighbors, g)
    strain_derivative = edges.T @ g
    stress = 0.5 * (strain_derivative + strain_derivative.T) / atoms.get_volume() if atoms.pbc.all() else None
    return Results(float(energies.sum()), forces, stress)


def largest_differences(model: EnergyModel, reference: MaceReference, structures: Sequence[Atoms]) -> Differences:
    """Over structures, each stretched until no force is above LARGEST_FORCE."""
    worst = np.zeros(3)
    for atoms in structures:
        atoms, expected = loosened(reference, atoms)
        results = model_results(model, atoms)
        differences = [
            abs(results.energy - expected.energy) / len(atoms),
            np.abs(results.forces - expected.forces).max(),
            0.0 if expected.stress is None else np.abs(results.stress - expected.stress).max(),
        ]
        worst = np.maximum(worst, differences)  # NaN stays
    return Differences(*worst.tolist())


def loosened(reference: MaceReference, atoms: Atoms) -> tuple[Atoms, Results]:
    """A copy with longer distances where forces are large, and the reference's results for it."""
    stretched = atoms.copy()
    for _ in range(MOST_STRETCHES):
        results = reference.results(stretched)
        if np.abs(results.forces).max() <= LARGEST_FORCE:
            break
        stretched.set_cell(STRETCH * stretched.cell.array)
        stretched.positions *= STRETCH
    return stretched, results


def check_structures(species: Sequence[str], cutoff: float, seed: int = 0) -> list[Atoms]:
    """Random structures of all elements at about covalent distances.

    A crystal, the same sheared, as a slab and as a molecule; a cell of two atoms that is smaller than the cutoff; and
    each element as an isolated atom and as a pair with itself.
    """
    generator = np.random.default_rng(seed)
    numbers = np.array([atomic_numbers[symbol] for symbol in species])
    spacing = 2.4 * float(np.mean(covalent_radii[numbers]))
    side = math.ceil(max(FEWEST_ATOMS, len(species)) ** (1.0 / 3.0))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3), axis=-1).reshape(-1, 3)
    positions = spacing * (grid + generator.uniform(-0.1, 0.1, grid.shape))
    crystal = Atoms(
        generator.permutation(np.resize(numbers, len(grid))), positions, cell=[side * spacing] * 3, pbc=True
    )
    sheared = crystal.copy()
    sheared.set_cell(crystal.cell.array @ (np.eye(3) + generator.uniform(-0.15, 0.15, (3, 3))), scale_atoms=True)
    slab, molecule = crystal.copy(), crystal.copy()
    slab.pbc = (True, True, False)
    molecule.pbc = False
    small = Atoms(np.resize(numbers, 2), [[0.0] * 3, [0.45 * spacing] * 3], pbc=True)
    small.set_cell(min(1.2 * spacing, 0.8 * cutoff) * (np.eye(3) + generator.uniform(-0.1, 0.1, (3, 3))))
    pairs = [Atoms([number] * 2, [[0.0] * 3, [0.0, 0.0, 2.2 * covalent_radii[number]]]) for number in numbers]
    return [crystal, sheared, slab, molecule, small, *pairs, *(Atoms([number]) for number in numbers)]
