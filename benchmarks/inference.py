"""Energies, forces and virials of silicon by the native engine, and the neighbour list apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tesseral.benchmarks.systems import CUTOFF, random_model_file, rattled_silicon
from tesseral.benchmarks.timing import median_seconds
from tesseral.calculator import TesseralCalculator, neighbor_list
from tesseral.calculator.native import DTYPES, NativeModel
from tesseral.calculator.neighbors import cartesian_shifts

#: positions change by this much (Å) before each call, so that nothing can be reused by accident
MOVE = 1e-3
#: as the model of mace-torch that is timed beside it: two layers, 128 scalar channels mixed in the messages
LAYERED_SIZE: dict[str, Any] = {"layers": 2, "channels": 128, "message_mixing": True}


def measure_inference(cells: int = 5, repeats: int = 15) -> dict[str, Any]:
    """Time the native engine on one thread.

    Args:
        cells: cubic cells of 8 atoms per direction.
        repeats: timed calls of each.

    Returns:
        n_atoms, n_neighbors, instruction_set, and in us/atom: ``neighbor_list``; ``engine`` by dtype, the
        list given; ``md_step`` by dtype, a whole call of the ASE calculator with its skin; ``two_layers`` by dtype,
        the engine for LAYERED_SIZE, the list given.
    """
    atoms = rattled_silicon(cells)
    n_atoms = len(atoms)
    displacements = np.random.default_rng(1).uniform(-MOVE, MOVE, (repeats + 10, *atoms.positions.shape))
    edges = neighbor_list(atoms.positions, atoms.cell.array, True, CUTOFF)
    graph = (edges.first, edges.neighbors, cartesian_shifts(edges, atoms.cell.array, atoms.pbc))
    result: dict[str, Any] = {"n_atoms": n_atoms, "n_neighbors": len(edges.neighbors) / n_atoms}

    def microseconds(function: Any) -> float:
        moved = iter(atoms.positions + displacements)
        return 1e6 * median_seconds(lambda: function(next(moved)), repeats) / n_atoms

    result["neighbor_list"] = microseconds(lambda x: neighbor_list(x, atoms.cell.array, True, CUTOFF))
    result["engine"], result["md_step"] = {}, {}

    def engine(path: Path, dtype: str) -> float:
        native = NativeModel(path, dtype, 1)
        species = native.species_indices(atoms.numbers)
        result["instruction_set"] = native.instruction_set
        return microseconds(lambda x: native.compute(x, species, *graph))

    with random_model_file() as path:
        for dtype in DTYPES:
            result["engine"][dtype] = engine(path, dtype)
            atoms.calc = TesseralCalculator(path, dtype=dtype)
            result["md_step"][dtype] = microseconds(lambda x: (atoms.set_positions(x), atoms.get_forces()))
    with random_model_file(**LAYERED_SIZE) as path:
        result["two_layers"] = {dtype: engine(path, dtype) for dtype in DTYPES}
    return result
