"""Energies, forces and virials of silicon by the native engine, and the neighbour list apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tesseral.kernel._engine import multiply_adds_per_second

from tesseral.benchmarks.systems import CUTOFF, SILICON_SIZE, random_model_file, rattled_silicon
from tesseral.benchmarks.timing import median_seconds
from tesseral.calculator import TesseralCalculator, neighbor_list
from tesseral.calculator.native import DTYPES, NativeModel
from tesseral.calculator.neighbors import cartesian_shifts
from tesseral.models.coupling import symmetric_basis

#: positions change by this much (Å) before each call, so that nothing can be reused by accident
MOVE = 1e-3
#: as the model of mace-torch that is timed beside it: two layers, 128 scalar channels mixed in the messages
LAYERED_SIZE: dict[str, Any] = {"layers": 2, "channels": 128, "message_mixing": True}


#: estimates for an edge: harmonics and radial functions; gradient of the harmonics, force and virial
EDGE_VALUES, EDGE_GRADIENTS = 150, 110


def multiply_adds(n_neighbors: float) -> float:
    """Multiply-adds that an atom of the model of SILICON_SIZE takes at least, for energies, forces and virials.

    The product counts two for each leaf of its tree and three for each inner node and channel, the rest as the shapes
    of its arrays; nothing is counted for padding, copies and the readout's SiLU.
    """
    sizes = SILICON_SIZE
    channels, n_radial, n_harmonics = sizes["channels"], sizes["n_radial"], (sizes["l_max"] + 1) ** 2
    tree = symmetric_basis(sizes["l_max"], sizes["nu"]).tree  # [n_nodes, 3]: component, first and last child
    density = n_neighbors * (EDGE_VALUES + n_radial * n_harmonics)
    mixing = 2 * n_harmonics * n_radial * channels
    product = channels * sum(3 if last > first else 2 for _, first, last in tree)
    readout = 2 * channels * sizes["readout"][0]
    return density + mixing + product + readout + n_neighbors * (EDGE_GRADIENTS + 2 * n_radial * n_harmonics)


def measure_inference(cells: int = 5, repeats: int = 15, instruction_set: str = "auto") -> dict[str, Any]:
    """Time the native engine on one thread.

    Args:
        cells: cubic cells of 8 atoms per direction.
        repeats: timed calls of each.
        instruction_set: of the engine: auto, baseline, avx2 or avx512.

    Returns:
        n_atoms, n_neighbors, instruction_set, and in us/atom: ``neighbor_list``; ``engine`` by dtype, the
        list given; ``md_step`` by dtype, a whole call of the ASE calculator with its skin (with "auto"); ``two_layers``
        by dtype, the engine for LAYERED_SIZE, the list given. ``multiply_adds`` of an atom, see `multiply_adds`, and
        ``of_peak`` by dtype, their rate in `engine` beside the machine's.
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
        native = NativeModel(path, dtype, 1, instruction_set)
        species = native.species_indices(atoms.numbers)
        result["instruction_set"] = native.instruction_set
        return microseconds(lambda x: native.compute(x, species, *graph))

    with random_model_file() as path:
        for dtype in DTYPES:
            result["engine"][dtype] = engine(path, dtype)
            if instruction_set == "auto":
                atoms.calc = TesseralCalculator(path, dtype=dtype)
                result["md_step"][dtype] = microseconds(lambda x: (atoms.set_positions(x), atoms.get_forces()))
    with random_model_file(**LAYERED_SIZE) as path:
        result["two_layers"] = {dtype: engine(path, dtype) for dtype in DTYPES}
    result["multiply_adds"] = multiply_adds(result["n_neighbors"])
    result["of_peak"] = {
        dtype: result["multiply_adds"] / (1e-6 * time * multiply_adds_per_second(dtype, instruction_set))
        for dtype, time in result["engine"].items()
    }
    return result
