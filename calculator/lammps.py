"""Structures evaluated by LAMMPS: a tool for verification and tests.

It starts LAMMPS, writes decks and reads files, so that LAMMPS' own way from an input deck to numbers is what is
checked. Molecular dynamics belongs in LAMMPS input decks.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tesseral.calculator.ase_calculator import ase_results
from tesseral.calculator.lammps_box import UNITS, LammpsBox, Units
from tesseral.calculator.lammps_process import run_lammps
from tesseral.calculator.native import voigt_stresses
from tesseral.models.registry import nearest, resolve_model

#: skin of LAMMPS' neighbour list (Å), so that the lists hold pairs beyond the cutoff, as in dynamics
SKIN = 1.0


def evaluate_in_lammps(
    model: str | os.PathLike[str],
    structures: Sequence[Atoms],
    *,
    style: str = "tesseral",
    dtype: str = "float64",
    ranks: int = 1,
    processors: tuple[int, int, int] | None = None,
    units: str = "metal",
    threads: int = 1,
    margin: float = 5.0,
    timeout: float = 600.0,
) -> list[dict[str, Any]]:
    """Evaluate a model on structures in one LAMMPS process, one after the other.

    Args:
        model: path of a model file, or the name of a shipped model.
        structures: not empty; each may have any elements, cell and periodicity, and atoms outside the cell.
        style: pair style, "tesseral" or "tesseral/torch".
        dtype: "float64", "float32" or "mixed".
        ranks: MPI ranks.
        processors: grid of the ranks in LAMMPS' box; None leaves it to LAMMPS.
        units: LAMMPS' units: metal, real, si or electron.
        threads: of each rank.
        margin: empty space of LAMMPS' box (Å) around the atoms in directions that are not periodic; a large
            one leaves ranks without atoms.
        timeout: in seconds.

    Returns:
        For each structure, in the order of its atoms and in ASE's orientation: ``energy`` (eV), ``energies``
        [n_atoms] (eV), ``forces`` [n_atoms, 3] (eV/Å); ``stress`` [6] and ``stresses`` [n_atoms, 6]
        (eV/Å^3, tensile positive; xx, yy, zz, yz, xz, xy), None unless periodic in three directions; ``virial``
        [6] and ``virials`` [n_atoms, 6] (eV, the same as stress times volume, and without a volume too); ``ranks``
        [n_atoms], the rank that owned each atom. LAMMPS' global and per-atom numbers are read
        separately: energies need not sum to the energy by construction.

    Raises:
        LammpsError: LAMMPS stopped (with its own message), took too long, or ran on other ranks than asked.
        FileNotFoundError: no LAMMPS, or no such model.
        StructureError: a structure has a position or cell that is not usable.
        ValueError: unknown units, or a structure without atoms.
    """
    if units not in UNITS:
        raise ValueError(f"units must be one of {', '.join(UNITS)}, got {units!r}{nearest(units, UNITS)}")
    for index, atoms in enumerate(structures):
        if len(atoms) == 0:
            raise ValueError(f"structure {index} has no atoms")
    boxes = [LammpsBox(atoms, margin) for atoms in structures]
    settings = [f"neighbor {SKIN / UNITS[units].length:.17g} bin", "box tilt large"]
    if processors is not None:
        settings.append("processors {} {} {}".format(*processors))
    pair_style = f"pair_style {style} precision {dtype} threads {threads}"
    path = resolve_model(model)
    with tempfile.TemporaryDirectory(prefix="tesseral-lammps-") as name:
        folder = Path(name)
        shutil.copyfile(path, folder / "model.pt")  # LAMMPS reads no path with letters beyond ASCII
        deck: list[str] = []
        for index, (atoms, box) in enumerate(zip(structures, boxes, strict=True)):
            elements, types = np.unique(atoms.get_chemical_symbols(), return_inverse=True)
            data = box.data_file(types + 1, [1.0] * len(elements), UNITS[units].length)
            (folder / f"{index}.data").write_text(data, encoding="utf-8")
            deck += ["clear", f"units {units}", f"boundary {box.boundary}", *settings, f"read_data {index}.data"]
            deck += [pair_style, f"pair_coeff * * model.pt {' '.join(elements)}", *_measurement(index)]
        run_lammps("\n".join(deck) + "\n", folder, ranks=ranks, timeout=timeout)
        return [
            _results(folder, index, atoms, box, UNITS[units])
            for index, (atoms, box) in enumerate(zip(structures, boxes, strict=True))
        ]


def _measurement(index: int) -> list[str]:
    """Commands that evaluate the present structure and write two files."""
    atom_columns = "id proc c_energies fx fy fz " + " ".join(f"c_stresses[{k}]" for k in range(1, 7))
    pressure = [f"c_pressures[{k}]" for k in range(1, 7)]
    numbers = " ".join(f"$({name}:%.17g)" for name in ("pe", "vol", *pressure))
    return [
        "compute energies all pe/atom",
        "compute stresses all stress/atom NULL virial",
        "compute pressures all pressure NULL virial",
        f"dump atoms all custom 1 {index}.atoms {atom_columns}",
        "dump_modify atoms sort id format float %.17g",
        f"thermo_style custom step pe vol {' '.join(pressure)}",
        "run 0",
        f'print "{numbers}" file {index}.system',
    ]


def _results(folder: Path, index: int, atoms: Atoms, box: LammpsBox, units: Units) -> dict[str, Any]:
    """The files of :func:`_measurement` as ASE's results."""
    energy, volume, *pressures = np.loadtxt(folder / f"{index}.system")
    table = np.loadtxt(folder / f"{index}.atoms", skiprows=9, ndmin=2)
    # LAMMPS' stress/atom is -virial in units of pressure * volume: with the sign that ASE has
    virials = box.tensors_in_ase(_matrices(table[:, 6:])) * units.energy / units.pressure
    virial = -box.tensors_in_ase(_matrices(np.array(pressures))) * volume * units.energy / units.pressure
    forces = box.vectors_in_ase(table[:, 3:6]) * units.energy / units.length
    complete = ase_results(atoms, table[:, 2] * units.energy, forces, virials)
    stress = voigt_stresses(virial[None], atoms.get_volume())[0] if atoms.pbc.all() else None
    return complete | {
        "energy": energy * units.energy,
        "free_energy": energy * units.energy,
        "stress": stress,
        "stresses": complete.get("stresses"),
        "virial": voigt_stresses(virial[None], 1.0)[0],
        "virials": voigt_stresses(virials, 1.0),
        "ranks": table[:, 1].astype(int),
    }


def _matrices(components: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric tensors [..., 3, 3] of LAMMPS' components xx, yy, zz, xy, xz, yz in the last dimension."""
    return components[..., [[0, 3, 4], [3, 1, 5], [4, 5, 2]]]
