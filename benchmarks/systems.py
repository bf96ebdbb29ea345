"""The system and the models that are timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import atomic_numbers

CUTOFF = 5.0  # Å; 28 neighbours in silicon
#: the size of the shipped silicon model; its speed does not depend on its weights
SILICON_SIZE: dict[str, Any] = {
    "species": ["Si"],
    "cutoff": CUTOFF,
    "l_max": 3,
    "n_radial": 8,
    "channels": 64,
    "nu": 3,
    "features": 32,
    "readout": [32],
    "e0": {"Si": 0.0},
}


def rattled_silicon(cells: int = 5, amplitude: float = 0.05, seed: int = 0) -> Atoms:
    """Diamond silicon (5.43 Å), `cells` cubic cells of 8 atoms per direction, normal displacements of
    `amplitude` Å."""
    atoms = bulk("Si", "diamond", a=5.43, cubic=True) * (cells, cells, cells)
    atoms.positions += np.random.default_rng(seed).normal(0.0, amplitude, atoms.positions.shape)
    return atoms


def water_box(side: int, density: float, generator: np.random.Generator) -> Atoms:
    """Molecules O, H, H on a cubic lattice of `side` points per direction, turned at random; density in g/cm^3."""
    spacing = (18.015 * 1.66053906660 / density) ** (1 / 3)
    atoms = Atoms(cell=np.eye(3) * side * spacing, pbc=True)
    for place in np.ndindex(side, side, side):
        water = molecule("H2O")
        water.rotate(generator.uniform(0, 360), generator.normal(size=3), center="COM")
        water.positions += spacing * (np.array(place) + 0.5) - water.get_center_of_mass()
        atoms += water
    return atoms


def write_random_model(path: Path, layers: int = 1, **sizes: Any) -> None:
    """Write a model file of silicon size, or with other sizes (for other species too), with random weights."""
    import torch

    from tesseral.models.file import save_model
    from tesseral.models.layered import LayeredModel
    from tesseral.models.local import LocalModel

    arguments = {**SILICON_SIZE, **sizes}
    species = arguments["species"]
    arguments["e0"] = dict.fromkeys(species, 0.0)
    model = LocalModel(**arguments) if layers == 1 else LayeredModel(n_layers=layers, **arguments)
    metadata = {
        "name": "random",
        "model_type": "local" if layers == 1 else "layered",
        "species": species,
        "atomic_numbers": [atomic_numbers[symbol] for symbol in species],
        "cutoff": arguments["cutoff"],
        "n_layers": layers,
        "architecture": model.architecture(),
        "units": {"energy": "eV", "length": "Å", "stress": "eV/Å^3"},
        "e0": arguments["e0"],
    }
    save_model(path, torch.jit.script(model), metadata, model.native_parameters())


@contextmanager
def random_model_file(layers: int = 1, **sizes: Any) -> Iterator[Path]:
    """The file of :func:`write_random_model`, deleted afterwards."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "random.pt"
        write_random_model(path, layers, **sizes)
        yield path
