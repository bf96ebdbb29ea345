"""The native engine on a GPU: time and memory by size of the system, beside mace-torch on the same GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tesseral.kernel._engine import device_memory_used, multiply_adds_per_second

from tesseral.benchmarks.inference import LAYERED_SIZE, MOVE, multiply_adds
from tesseral.benchmarks.systems import CUTOFF, random_model_file, rattled_silicon
from tesseral.benchmarks.timing import median_seconds
from tesseral.calculator import neighbor_list
from tesseral.calculator.native import DTYPES, NativeModel
from tesseral.calculator.neighbors import cartesian_shifts

#: cubic cells of 8 atoms per direction: 1,000, 17,576 and 97,336 atoms
CELLS = (5, 13, 23)
#: models by name; the layered one up to so many atoms
MODELS: dict[str, dict[str, Any]] = {"local": {}, "two layers": LAYERED_SIZE}
MOST_LAYERED_ATOMS = 20_000


def measure_device(device: str, cells: Sequence[int] = CELLS, repeats: int = 15) -> dict[str, Any]:
    """Time calls of the engine with moved atoms and a neighbour list that stays on the device: energies of atoms,
    forces and the virial.

    Args:
        device: cuda or cuda:N.
        cells: sizes of the systems, cubic cells of 8 atoms per direction.
        repeats: timed calls of each.

    Returns:
        ``multiply_adds_per_second`` of the device by dtype, and ``cases``: model, dtype, n_atoms, ``us_per_atom``,
        ``atom_steps_per_second``, ``bytes_per_atom`` that the engine has taken on the device, ``graph_calls`` that were
        launched as one CUDA graph, with ``graph_failure`` if CUDA refused to make one, and, of the local model,
        ``of_peak``, its multiply-adds beside the device's.

    Raises:
        ValueError: there is no such device.
    """
    cases = []
    rates: dict[str, float] = {}
    for name, sizes in MODELS.items():
        with random_model_file(**sizes) as path:
            for dtype in DTYPES:
                for n in cells:
                    if name == "local" or 8 * n**3 <= MOST_LAYERED_ATOMS:
                        case = _measure(path, dtype, device, n, repeats)
                        rates.setdefault(dtype, multiply_adds_per_second(dtype, device))
                        if name == "local":
                            work = multiply_adds(case["n_neighbors"]) * case["atom_steps_per_second"]
                            case["of_peak"] = work / rates[dtype]
                        cases.append({"model": name, **case})
    return {"device": device, "multiply_adds_per_second": rates, "cases": cases}


def _measure(path: Path, dtype: str, device: str, cells: int, repeats: int) -> dict[str, Any]:
    """One model and size."""
    atoms = rattled_silicon(cells)
    edges = neighbor_list(atoms.positions, atoms.cell.array, True, CUTOFF)
    native = NativeModel(path, dtype, 1, device=device)
    species = native.species_indices(atoms.numbers)
    graph = (edges.first, edges.neighbors, cartesian_shifts(edges, atoms.cell.array, atoms.pbc))
    steps = np.random.default_rng(1).uniform(-MOVE, MOVE, (2, *atoms.positions.shape))
    moved = [atoms.positions + step for step in steps]
    calls = iter(range(repeats + 10))
    before = device_memory_used(device)
    seconds = median_seconds(
        lambda: native.compute(moved[next(calls) % 2], species, *graph, atom_virials=False), repeats
    )
    graph_calls, graph_failure = native.graph_use
    return {
        "dtype": dtype,
        "n_atoms": len(atoms),
        "n_neighbors": len(edges.neighbors) / len(atoms),
        "us_per_atom": 1e6 * seconds / len(atoms),
        "atom_steps_per_second": len(atoms) / seconds,
        "bytes_per_atom": (device_memory_used(device) - before) / len(atoms),
        "graph_calls": graph_calls,
        "graph_failure": graph_failure,
    }
