"""Time of a step in LAMMPS: atoms held, no new neighbour lists, no virial."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers

from tesseral.benchmarks.comparison.lammps_potentials import POTENTIALS
from tesseral.benchmarks.lammps import MEMORY, SKIN, breakdowns, resident_megabytes
from tesseral.calculator.lammps_box import LammpsBox
from tesseral.calculator.lammps_process import run_lammps

#: parts of the timed run, each of which gives one figure
PARTS = 3
DECK = """
units metal
boundary {boundary}
box tilt large
read_data start.data
neighbor {skin} bin
neigh_modify every 1000000 delay 1000000 check no
thermo_style custom step pe
thermo 0
{potential}
run 2
fix stop all halt 1 tlimit > {seconds:g} error continue message no
"""


def time_steps(
    atoms: Atoms,
    potential: str,
    cutoff: float,
    *,
    model: Path | None = None,
    precision: str = "float64",
    ranks: int = 1,
    seconds: float = 1.5,
    timeout: float = 600.0,
) -> dict[str, Any]:
    """Steps of one potential on one structure.

    Args:
        atoms: the structure.
        potential: a key of POTENTIALS, or "tesseral" with `model` and `precision`.
        cutoff: Å.
        ranks: of MPI.
        seconds: of timed steps.
        timeout: LAMMPS is stopped after so many seconds.

    Returns:
        ``seconds`` of a step in each of PARTS parts, ``n_neighbors`` within the skin if LAMMPS tells, ``peak_mb``
        (resident memory at the end, one rank), ``versions``.

    Raises:
        LammpsError, FileNotFoundError: see `tesseral.calculator.lammps_process.run_lammps`.
    """
    elements = sorted(set(atoms.get_chemical_symbols()), key=lambda symbol: atomic_numbers[symbol])
    with TemporaryDirectory() as name:
        folder = Path(name)
        box = LammpsBox(atoms, cutoff + SKIN)
        types = np.array([elements.index(symbol) + 1 for symbol in atoms.get_chemical_symbols()])
        masses = [float(atomic_masses[atomic_numbers[symbol]]) for symbol in elements]
        (folder / "start.data").write_text(box.data_file(types, masses, 1.0), encoding="utf-8")
        commands = _commands(folder, potential, elements, cutoff, model, precision)
        deck = DECK.format(boundary=box.boundary, skin=SKIN, potential=commands, seconds=seconds / PARTS)
        output = run_lammps(deck + PARTS * "run 1000000\n" + MEMORY, folder, ranks=ranks, timeout=timeout)
        resident = resident_megabytes(folder) if ranks == 1 else []
    runs = breakdowns(output)[1:]
    version = re.search(r"^LAMMPS \(([^)]*)\)", output, re.MULTILINE)
    return {
        "seconds": [run.loop / run.n_steps for run in runs if run.n_steps > 0],
        "peak_mb": resident[-1] if resident else None,
        "versions": {"LAMMPS": version.group(1)} if version else {},
    }


def _commands(
    folder: Path, potential: str, elements: Sequence[str], cutoff: float, model: Path | None, precision: str
) -> str:
    """That choose the pair style."""
    if potential == "tesseral":
        return f"pair_style tesseral precision {precision}\npair_coeff * * {model} {' '.join(elements)}\n"
    return POTENTIALS[potential](folder, elements, cutoff)
