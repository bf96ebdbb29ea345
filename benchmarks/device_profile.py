"""Where the time of the native engine on a GPU goes: its kernels beside what the device can do."""

from __future__ import annotations

from typing import Any

import numpy as np
from tesseral.kernel._engine import device_bytes_per_second, multiply_adds_per_second

from tesseral.benchmarks.device import MODELS
from tesseral.benchmarks.device_work import kernel_work
from tesseral.benchmarks.inference import MOVE
from tesseral.benchmarks.systems import CUTOFF, SILICON_SIZE, random_model_file, rattled_silicon
from tesseral.calculator import neighbor_list
from tesseral.calculator.native import NativeModel
from tesseral.calculator.neighbors import cartesian_shifts

DTYPE = "float32"
WARM_UP = 3


def measure_profile(device: str, cells: int = 13, repeats: int = 15) -> dict[str, Any]:
    """Time every kernel in calls with moved atoms and a list that stays on the device, in float32.

    Args:
        device: cuda or cuda:N.
        cells: size of the system, cubic cells of 8 atoms per direction.
        repeats: calls that are timed; times are means over them.

    Returns:
        ``bytes_per_second`` and ``multiply_adds_per_second`` of the device, ``n_atoms``, ``n_neighbors``, and
        ``models``: by name the rows of a profile, the longest first: ``name``, ``launches`` in a call, ``ns_per_atom``,
        and where they are known (`kernel_work`) ``bytes_per_atom``, ``multiply_adds_per_atom``, ``of_memory`` and
        ``of_peak``, the shares of what the device can do in that time.

    Raises:
        ValueError: there is no such device.
    """
    atoms = rattled_silicon(cells)
    edges = neighbor_list(atoms.positions, atoms.cell.array, True, CUTOFF)
    graph = (edges.first, edges.neighbors, cartesian_shifts(edges, atoms.cell.array, atoms.pbc))
    steps = np.random.default_rng(1).uniform(-MOVE, MOVE, (2, *atoms.positions.shape))
    n_neighbors = len(edges.neighbors) / len(atoms)
    rates = {"of_memory": device_bytes_per_second(device), "of_peak": multiply_adds_per_second(DTYPE, device)}
    models = {}
    for name, sizes in MODELS.items():
        with random_model_file(**sizes) as path:
            native = NativeModel(path, DTYPE, 1, device=device)
        species = native.species_indices(atoms.numbers)

        def call(n: int, native: NativeModel = native, species: Any = species) -> None:
            native.compute(atoms.positions + steps[n % 2], species, *graph, atom_virials=False)

        for n in range(WARM_UP):
            call(n)
        native.start_profile()
        for n in range(repeats):
            call(n)
        work = kernel_work({**SILICON_SIZE, **sizes}, n_neighbors, 4)
        rows = [
            _row(what, calls / repeats, seconds / repeats / len(atoms), work.get(what), rates)
            for what, calls, seconds in native.take_profile()
        ]
        models[name] = sorted(rows, key=lambda row: -row["ns_per_atom"])
    return {
        "dtype": DTYPE,
        "n_atoms": len(atoms),
        "n_neighbors": n_neighbors,
        "bytes_per_second": rates["of_memory"],
        "multiply_adds_per_second": rates["of_peak"],
        "models": models,
    }


def _row(
    name: str, launches: float, seconds: float, work: tuple[float, float] | None, rates: dict[str, float]
) -> dict[str, Any]:
    """seconds: per atom.  work: bytes and multiply-adds per atom, if known."""
    row: dict[str, Any] = {"name": name, "launches": launches, "ns_per_atom": 1e9 * seconds}
    if work is not None and seconds > 0:
        for key, share, amount in zip(("bytes_per_atom", "multiply_adds_per_atom"), rates, work, strict=True):
            row |= {key: amount, share: amount / (seconds * rates[share])}
    return row
