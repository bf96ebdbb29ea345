"""Every model of the package: what its file says of its origin, and that its programs agree on its own elements."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from tesseral.calculator import TesseralCalculator
from tesseral.models.config import Config
from tesseral.models.file import load_torchscript, read_metadata
from tesseral.models.registry import resolve_model, shipped_names


def cluster(symbols: list[str], seed: int) -> Atoms:
    """Twelve atoms at random places of a loose grid, every element among them."""
    rng = np.random.default_rng(seed)
    grid = 2.4 * np.stack(np.meshgrid(range(3), range(2), range(2)), axis=-1).reshape(-1, 3)
    numbers = [symbols[index % len(symbols)] for index in range(len(grid))]
    return Atoms(numbers, positions=grid + rng.uniform(-0.3, 0.3, grid.shape))


@pytest.mark.parametrize("name", shipped_names())
def test_the_file_says_where_it_comes_from(name: str) -> None:
    metadata = read_metadata(resolve_model(name))
    assert metadata["name"] == name
    assert all(metadata[key] for key in ("description", "reference_method", "citation", "license"))
    assert metadata["training"]["errors"]["train"]["forces"]["rmse"] > 0.0
    Config.model_validate(metadata["training"]["config"])


@pytest.mark.parametrize("name", shipped_names())
def test_a_free_atom_has_its_e0(name: str) -> None:
    for symbol, energy in read_metadata(resolve_model(name))["e0"].items():
        atom = Atoms(symbol, calculator=TesseralCalculator(name, dtype="float64"))
        assert atom.get_potential_energy() == pytest.approx(energy, abs=1e-9)


@pytest.mark.parametrize("name", shipped_names())
def test_engine_and_torchscript_agree(name: str) -> None:
    metadata = read_metadata(resolve_model(name))
    atoms = cluster(metadata["species"], seed=3)
    apart = atoms.positions[None, :, :] - atoms.positions[:, None, :]
    distances = np.linalg.norm(apart, axis=2)
    centers, neighbors = np.nonzero((distances > 0.0) & (distances < metadata["cutoff"]))
    vectors = apart[centers, neighbors]
    species = [metadata["species"].index(symbol) for symbol in atoms.symbols]
    program = load_torchscript(resolve_model(name))
    energies, gradients = program(*map(torch.tensor, (vectors, centers, neighbors, species)))
    forces = np.zeros((len(atoms), 3))
    np.add.at(forces, centers, gradients.numpy())
    np.subtract.at(forces, neighbors, gradients.numpy())
    atoms.calc = TesseralCalculator(name, dtype="float64")
    assert atoms.get_potential_energies() == pytest.approx(energies.numpy(), rel=1e-10, abs=1e-10)
    assert atoms.get_forces() == pytest.approx(forces, rel=1e-9, abs=1e-9)
    assert np.abs(forces).max() > 0.01
