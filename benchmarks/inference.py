"""Energies, forces and virials of silicon by the native engine, and the neighbour list apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from tesseral.benchmarks.systems import CUTOFF, random_model_file, rattled_silicon
from tesseral.benchmarks.timing import median_seconds
from tesseral.calculator import TesseralCalculator, neighbor_list
from tesseral.calculator.native import DTYPES, NativeModel
from tesseral.calculator.neighbors import cartesian_shifts

#: positions change by this much (Å) before each call, so that nothing can be reused by accident
MOVE = 1e-3


def measure_inference(cells: int = 5, repeats: int = 15) -> dict[str, Any]:
    """Time the native engine on one thread.

    Args:
        cells: cubic cells of 8 atoms per direction.
        repeats: timed calls of each.

    Returns:
        n_atoms, n_neighbors, instruction_set, and in us/atom: ``neighbor_list``; ``engine`` by dtype, the
        list given; ``md_step`` by dtype, a whole call of the ASE calculator with its skin.
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
    with random_model_file() as path:
        for dtype in DTYPES:
            native = NativeModel(path, dtype, 1)
            species = native.species_indices(atoms.numbers)
            result["engine"][dtype] = microseconds(lambda x, n=native, s=species: n.compute(x, s, *graph))
            result["instruction_set"] = native.instruction_set
            atoms.calc = TesseralCalculator(path, dtype=dtype)
            result["md_step"][dtype] = microseconds(lambda x: (atoms.set_positions(x), atoms.get_forces()))
    return result
