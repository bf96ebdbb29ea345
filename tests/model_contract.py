"""The physics that every model must obey, and its training graph: tests that the tests of each model inherit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from scipy.spatial.transform import Rotation

from tesseral.models.energy_model import EnergyModel

SPECIES = ["Si", "O"]
#: of a small model of two species
ARGUMENTS: dict[str, Any] = {
    "species": SPECIES,
    "cutoff": 3.6,
    "l_max": 2,
    "n_radial": 4,
    "channels": 6,
    "nu": 3,
    "features": 5,
    "readout": [7, 4],
    "e0": {"Si": -158.25, "O": -432.5},
    "shift": {"O": 0.75},
    "scale": 1.7,
    "zbl": (1.2, 2.4),
    "seed": 3,
}


def spline_table(n_intervals: int, n_radial: int) -> np.ndarray:
    """Radial functions proportional to (1-x)^3, exact in cubic pieces; the amplitudes are random."""
    x = np.linspace(0.0, 1.0, n_intervals, endpoint=False)[:, None]
    values = np.random.default_rng(0).normal(size=(1, n_radial)) * (1.0 - x) ** 3
    slope, curvature = -3.0 * values / (1.0 - x), 6.0 * values / (1.0 - x) ** 2
    third = -6.0 * values / (1.0 - x) ** 3
    powers = np.array([1.0, 1.0 / n_intervals, 0.5 / n_intervals**2, 1.0 / 6.0 / n_intervals**3])
    return np.stack([values, slope, curvature, third], axis=2) * powers


def crystal() -> Atoms:
    """Eight atoms in a sheared, rattled cell."""
    atoms = bulk("Si", cubic=True) * (1, 1, 1)
    atoms.set_cell(atoms.cell[:] @ np.array([[1.0, 0.05, 0.0], [0.0, 0.95, 0.1], [0.02, 0.0, 1.03]]), scale_atoms=True)
    atoms.rattle(0.2, seed=2)
    atoms.symbols[[1, 4, 6]] = "O"
    return atoms


def graph(atoms: Atoms, cutoff: float = 3.6) -> tuple[torch.Tensor, ...]:
    """vectors, centers, neighbors, species on torch's default device"""
    centers, neighbors, vectors = neighbor_list("ijD", atoms, cutoff)
    species = np.array([SPECIES.index(symbol) for symbol in atoms.symbols], dtype=np.int64)
    return tuple(torch.tensor(array) for array in (vectors.reshape(-1, 3), centers, neighbors, species))


def energy(model: EnergyModel, atoms: Atoms) -> float:
    return float(model(*graph(atoms))[0].sum())


def forces_and_strain_derivative(model: EnergyModel, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    vectors, centers, neighbors, species = graph(atoms)
    gradients = model(vectors, centers, neighbors, species)[1]
    forces = torch.zeros(len(atoms), 3, dtype=torch.float64)
    forces = forces.index_add(0, centers, gradients).index_add(0, neighbors, -gradients)
    return forces.cpu().numpy(), (vectors.T @ gradients).cpu().numpy()


def loss(model: EnergyModel, atoms: Atoms) -> torch.Tensor:
    energies, gradients = model.training_energies_and_gradients(*graph(atoms))
    weights = torch.linspace(-1.0, 1.0, gradients.numel(), dtype=gradients.dtype).reshape(gradients.shape)
    return energies.sum() + (gradients * weights).sum() + gradients.square().sum()


def here(make: Callable[[], EnergyModel]) -> Any:
    """The model that `make` makes, on torch's default device, see the fixture `operator_device`."""
    with torch.device("cpu"):
        model = make()
    return model.to(torch.get_default_device())


def choose_emulated(request: pytest.FixtureRequest, chosen: bool) -> None:
    """Skips a test on `cuda` without a GPU, where the processor runs its code slowly, unless it is chosen."""
    if request.node.callspec.params["operator_device"] == "cuda" and not torch.cuda.is_available() and not chosen:
        pytest.skip("slow without a GPU")


class ModelContract:
    """Tests of a fixture `model`, whose ARGUMENTS are those above, on `atoms`, a `crystal`."""

    def isolated(self, model: EnergyModel) -> list[float]:
        """Energies of an isolated Si and an isolated O atom."""
        return [-158.25, -431.75]

    def test_forces_match_central_differences(self, model: EnergyModel, atoms: Atoms) -> None:
        forces, _ = forces_and_strain_derivative(model, atoms)
        step = 2e-4
        for index, axis in [(0, 0), (1, 2), (3, 1), (6, 0)]:
            energies = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[index, axis] += sign * step
                energies.append(energy(model, moved))
            numeric = -(energies[0] - energies[1]) / (2 * step)
            assert forces[index, axis] == pytest.approx(numeric, abs=1e-6 * np.abs(forces).max())

    def test_strain_derivative_matches_central_differences(self, model: EnergyModel, atoms: Atoms) -> None:
        _, derivative = forces_and_strain_derivative(model, atoms)
        np.testing.assert_allclose(derivative, derivative.T, atol=1e-10 * np.abs(derivative).max())
        step = 1e-4
        for row, column in [(0, 0), (1, 1), (0, 2), (1, 2)]:
            energies = []
            for sign in (1, -1):
                strain = np.eye(3)
                strain[row, column] += sign * step
                strained = atoms.copy()
                strained.set_cell(atoms.cell[:] @ strain.T, scale_atoms=True)
                energies.append(energy(model, strained))
            numeric = (energies[0] - energies[1]) / (2 * step)
            assert derivative[row, column] == pytest.approx(numeric, abs=2e-6 * np.abs(derivative).max())

    @pytest.mark.parametrize("determinant", [1, -1])
    def test_energy_is_invariant_and_forces_turn_with_rotation_and_inversion(
        self, model: EnergyModel, atoms: Atoms, determinant: int
    ) -> None:
        matrix = determinant * Rotation.random(random_state=8).as_matrix()
        turned = atoms.copy()
        turned.set_cell(atoms.cell[:] @ matrix.T)
        turned.positions = atoms.positions @ matrix.T
        assert energy(model, turned) == pytest.approx(energy(model, atoms), rel=1e-12)
        expected = forces_and_strain_derivative(model, atoms)[0] @ matrix.T
        forces = forces_and_strain_derivative(model, turned)[0]
        np.testing.assert_allclose(forces, expected, atol=1e-11 * np.abs(expected).max())

    def test_energy_is_invariant_to_translation_and_wrapping(self, model: EnergyModel, atoms: Atoms) -> None:
        moved = atoms.copy()
        moved.positions += [0.3, -1.2, 7.0]
        moved.wrap()
        assert energy(model, moved) == pytest.approx(energy(model, atoms), rel=1e-12)

    def test_atoms_can_be_permuted(self, model: EnergyModel, atoms: Atoms) -> None:
        order = np.random.default_rng(1).permutation(len(atoms))
        energies, permuted = model(*graph(atoms))[0], model(*graph(atoms[order]))[0]
        torch.testing.assert_close(permuted, energies[torch.tensor(order)], rtol=1e-12, atol=0.0)

    def test_energies_are_extensive(self, model: EnergyModel, atoms: Atoms) -> None:
        repeated = model(*graph(atoms * (2, 1, 1)))[0].reshape(2, -1)
        torch.testing.assert_close(repeated, model(*graph(atoms))[0].expand(2, -1), rtol=1e-12, atol=0.0)

    def test_isolated_atoms_have_e0_plus_shift(self, model: EnergyModel) -> None:
        energies, gradients = model(*graph(Atoms("SiO", [[0, 0, 0], [9, 9, 9]])))
        assert energies.tolist() == self.isolated(model)
        assert gradients.shape == (0, 3)

    def test_no_atoms_have_no_energies(self, model: EnergyModel) -> None:
        none = torch.zeros(0, dtype=torch.int64)
        energies, gradients = model(torch.zeros(0, 3, dtype=torch.float64), none, none, none)
        assert energies.shape == (0,)
        assert gradients.shape == (0, 3)

    def test_energy_and_forces_end_smoothly_at_the_cutoff(self, model: EnergyModel) -> None:
        isolated = sum(self.isolated(model))

        def pair(distance: float) -> tuple[float, float]:
            atoms = Atoms("SiO", [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3 + distance]])
            energies, gradients = model(*graph(atoms, 5.0))
            return float(energies.sum()) - isolated, float(gradients.abs().max())

        inside, outside = pair(3.6 - 1e-4), pair(3.6 + 1e-4)
        assert outside == (0.0, 0.0)
        assert abs(inside[0]) < 1e-9
        assert 0.0 <= inside[1] < 1e-5

    def test_model_is_the_same_within_no_grad(self, model: EnergyModel, atoms: Atoms) -> None:
        energies, gradients = model(*graph(atoms))
        with torch.no_grad():
            others = model(*graph(atoms))
            trained = model.training_energies_and_gradients(*graph(atoms))
        torch.testing.assert_close(others[0], energies)
        torch.testing.assert_close(others[1], gradients)
        torch.testing.assert_close(trained[1], gradients)
        assert not any(tensor.requires_grad for tensor in (energies, gradients, *others, *trained))

    def test_parameter_gradients_match_central_differences(self, model: EnergyModel, atoms: Atoms) -> None:
        parameters = dict(model.named_parameters())
        derivatives = torch.autograd.grad(loss(model, atoms), list(parameters.values()))
        generator = torch.Generator().manual_seed(0)
        for (name, parameter), derivative in zip(parameters.items(), derivatives, strict=True):
            direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64, device="cpu")
            direction = direction.to(parameter.device)
            values = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter.add_(direction, alpha=step)
                values.append(float(loss(model, atoms).detach()))
                with torch.no_grad():
                    parameter.sub_(direction, alpha=step)
            numeric = (values[0] - values[1]) / 2e-5
            assert float((derivative * direction).sum().detach()) == pytest.approx(numeric, rel=1e-6, abs=1e-6), name

    def test_training_energies_leave_out_e0_and_shift(self, model: EnergyModel, atoms: Atoms) -> None:
        species = graph(atoms)[3]
        baseline = torch.tensor([-158.25, -431.75], dtype=torch.float64)[species]
        energies = model(*graph(atoms))[0] - baseline
        trained = model.training_energies_and_gradients(*graph(atoms))[0]
        torch.testing.assert_close(trained.detach(), energies, rtol=1e-10, atol=1e-10)
