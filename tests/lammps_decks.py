"""Pieces of input decks that the LAMMPS tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tesseral.calculator.lammps_process import lammps_missing

needs_lammps = pytest.mark.skipif(lammps_missing(2) is not None, reason=str(lammps_missing(2)))

#: a model of each kind: arguments `messages` of the fixture write_random_model; 7 channels are an odd number of float32
MODELS: dict[str, dict[str, Any] | None] = {
    "local": None,
    "two layers": {"n_layers": 2},
    "two layers, vectors": {"n_layers": 2, "message_l": 1, "channels": 7},
    "three layers, tensors, mixing": {"n_layers": 3, "message_l": 2, "message_mixing": True, "channels": 4, "nu": 2},
}

#: a distorted crystal of two types, a different one for each seed; 64 atoms in a box of 10.8 Å
CRYSTAL = """
units {units}
{settings}
boundary {boundary}
lattice diamond {constant}
region box prism 0 2 0 2 0 2 0.1 0.05 -0.15
create_box 2 box
create_atoms 1 box
set type 1 type/fraction 2 0.4 {seed}
mass 1 15.999
mass 2 28.0855
displace_atoms all random {spread} {spread} {spread} {seed}
"""
FORMAT = "thermo_modify format float %.15g\n"


def crystal(*, units: str = "metal", settings: str = "", boundary: str = "p p p", seed: int = 7) -> str:
    """Commands that make the crystal; lengths fit the unit system."""
    length = {"metal": 1.0, "real": 1.0, "si": 1e-10, "electron": 1 / 0.529177210903}[units]
    constant, spread = (f"{value * length:.17g}" for value in (5.4, 0.1))
    return CRYSTAL.format(
        units=units, settings=settings, boundary=boundary, constant=constant, spread=spread, seed=seed
    )


def thermo_table(output: str) -> dict[str, np.ndarray]:
    """Columns of all thermo tables in LAMMPS' output, one after the other; they must have the same columns."""
    columns: list[str] = []
    rows = []
    inside = False
    for line in output.splitlines():
        words = line.split()
        if words[:1] == ["Step"]:
            columns, inside = words, True
        elif line.startswith("Loop time"):
            inside = False
        elif inside and len(words) == len(columns) and words[0].lstrip("-").isdigit():
            rows.append([float(word) for word in words])
    return dict(zip(columns, np.array(rows).T, strict=True))


def atoms_table(path: Path) -> np.ndarray:
    """Rows of the last frame of a custom dump whose first column is the id, sorted by it."""
    text = path.read_text().split("ITEM: ATOMS")[-1].splitlines()[1:]
    table = np.array([[float(word) for word in line.split()] for line in text])
    return table[np.argsort(table[:, 0])]
