"""The checks of :mod:`tesseral.calculator.verification` that run i-PI with the driver.

The virial takes the place of the stress: it exists without a volume too, where ASE's is the sum over the atoms.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tesseral.calculator.ipi_process import DRIVER, SOCKETS_PREFIX, IpiError, ipi_missing, run_ipi, xyz_frame
from tesseral.calculator.lammps_box import LammpsBox
from tesseral.calculator.verification_reference import (
    Check,
    Reference,
    Results,
    Skipped,
    ase_results_of,
    largest,
    relative_differences,
    without_free_atoms,
)

TOLERANCE = 1e-9
#: of a structure in one call: itself, and others whose atoms are this far away (Å, standard deviation per direction)
N_BEADS, SPREAD = 4, 0.02
#: empty space around the atoms (Å) in directions that are not periodic; the driver must not depend on it
MARGIN = 1.0
#: at most this many drivers run at a time; made-up structures need four
MOST_DRIVERS = 6
#: seconds for i-PI, and for each atom of each structure
PATIENCE, PATIENCE_PER_ATOM = 120.0, 0.02

INPUT = """\
<simulation verbosity='low' sockets_prefix='{prefix}'>
<output/>
<total_steps>1</total_steps>
{forcefields}
{systems}
</simulation>
"""
SOCKET = """\
<ffsocket name='{name}' mode='unix' pbc='false'>
  <address>{name}</address><latency>1e-3</latency>
</ffsocket>"""
DIRECT = """\
<ffdirect name='{name}' pbc='false'>
  <pes>custom</pes><pes_path>{driver}</pes_path>
  <parameters>{{ {options} }}</parameters><batch_size>{n_beads}</batch_size>
</ffdirect>"""
SYSTEM = """\
<system>
  <initialize nbeads='{n_beads}'><file mode='xyz'>{file}</file></initialize>
  <forces><force forcefield='{name}'/></forces>
  <motion mode='dummy'/>
  <ensemble><temperature units='kelvin'>300</temperature></ensemble>
</system>"""
OPTIONS = {"model": "model.pt", "dtype": "float64", "atomic_energies": "true"}


@dataclass(frozen=True, eq=False)
class Beads:
    """A structure in i-PI's orientation, with copies whose atoms are elsewhere.

    Attributes:
        structures: of the beads in ASE.
        box: i-PI's cell is the transpose of LAMMPS'.
        expected: results of the beads.
    """

    structures: list[Atoms]
    box: LammpsBox
    expected: list[Results]


def ipi_checks(reference: Reference, generator: np.random.Generator) -> Iterator[Check | Skipped]:
    """Single calls by UNIX sockets, and several beads in one call inside i-PI; or why they cannot be run here."""
    missing = ipi_missing()
    if missing is not None:
        yield Skipped("i-PI", missing)
        return
    yield _check("i-PI, UNIX socket", reference, [_beads(reference, k) for k in _few_kinds(reference)], sockets=True)
    several = [_beads(reference, k, N_BEADS, generator) for k in range(len(reference.structures))]
    yield _check(f"i-PI, {N_BEADS} beads at once", reference, several, sockets=False)


def _few_kinds(reference: Reference) -> list[int]:
    """Indices of structures that need no more than MOST_DRIVERS drivers."""
    kinds: list[bytes] = []
    chosen = []
    for index, atoms in enumerate(reference.structures):
        kind = _kind(atoms)
        if kind not in kinds and len(kinds) < MOST_DRIVERS:
            kinds.append(kind)
        if kind in kinds:
            chosen.append(index)
    return chosen


def _kind(atoms: Atoms) -> bytes:
    """What structures that one driver can serve have in common."""
    return atoms.pbc.tobytes() + atoms.numbers.tobytes()


def _beads(reference: Reference, index: int, n_beads: int = 1, generator: np.random.Generator | None = None) -> Beads:
    """A structure of the reference as the first bead."""
    atoms, expected = reference.structures[index], [reference.results[index]]
    structures = [atoms]
    for _ in range(n_beads - 1):
        assert generator is not None  # of several beads
        structures.append(atoms.copy())
        structures[-1].positions += generator.normal(0.0, SPREAD, atoms.positions.shape)
        expected.append(ase_results_of(reference.calculator, structures[-1]))
    return Beads(structures, LammpsBox(atoms, MARGIN), expected)


def _check(name: str, reference: Reference, systems: list[Beads], *, sockets: bool) -> Check:
    n_atoms = sum(len(atoms) for beads in systems for atoms in beads.structures)
    with tempfile.TemporaryDirectory(prefix="tesseral-verify-") as folder:
        drivers = _write_files(Path(folder), reference.calculator.model.path, systems, sockets)
        try:
            run_ipi(Path(folder), drivers, timeout=PATIENCE + PATIENCE_PER_ATOM * n_atoms, saves_results=True)
        except IpiError as error:
            return Check(name, {}, TOLERANCE, str(error))
        with np.load(Path(folder) / "last.npz") as saved:
            last = dict(saved)
    differences = largest(
        relative_differences(
            without_free_atoms(reference.calculator, atoms, _in_ase(last, index, bead, beads.box)),
            _with_virial(expected),
        )
        for index, beads in enumerate(systems)
        for bead, (atoms, expected) in enumerate(zip(beads.structures, beads.expected, strict=True))
    )
    return Check(name, differences, TOLERANCE)


def _write_files(folder: Path, model: Path, systems: list[Beads], sockets: bool) -> dict[str, str]:
    """i-PI's input for all systems, one forcefield for each kind; returns the options of drivers by address."""
    (folder / OPTIONS["model"]).symlink_to(model.resolve())  # whatever letters are in its name
    names: dict[bytes, str] = {}
    forcefields, texts, drivers = [], [], {}
    for index, beads in enumerate(systems):
        first = beads.structures[0]
        kind = _kind(first)
        if kind not in names:
            names[kind] = name = f"kind{len(names)}"
            first.write(folder / f"{name}.extxyz")
            options = {**OPTIONS, "template": f"{name}.extxyz"}
            if sockets:
                forcefields.append(SOCKET.format(name=name))
                drivers[name] = ",".join(f"{option}={value}" for option, value in options.items())
            else:
                pairs = ", ".join(f"{option}: {value}" for option, value in options.items())
                n_beads = len(beads.structures)
                forcefields.append(DIRECT.format(name=name, driver=escape(str(DRIVER)), options=pairs, n_beads=n_beads))
        (folder / f"{index}.xyz").write_text(_frames(beads), encoding="utf-8")
        texts.append(SYSTEM.format(n_beads=len(beads.structures), file=f"{index}.xyz", name=names[kind]))
    text = INPUT.format(prefix=SOCKETS_PREFIX, forcefields="\n".join(forcefields), systems="\n".join(texts))
    (folder / "input.xml").write_text(text, encoding="utf-8")
    return drivers


def _frames(beads: Beads) -> str:
    """All beads for i-PI, which takes one frame for each."""
    first, box = beads.structures[0], beads.box
    positions = [box.positions + (atoms.positions - first.positions) @ box.frame.T for atoms in beads.structures]
    symbols = first.get_chemical_symbols()
    return "".join(xyz_frame(symbols, box.cell.T, points, "positions{angstrom}") for points in positions)


def _in_ase(last: dict[str, NDArray[np.float64]], index: int, bead: int, box: LammpsBox) -> Results:
    """Results of a bead in ASE's units and orientation; virials are put as volume times stress."""
    upper = last[f"virs_{index}"][bead] / last["electronvolt"]  # i-PI keeps nothing else
    virial = box.tensors_in_ase(upper + np.triu(upper, 1).T)
    return {
        "energy": last[f"pots_{index}"][bead] / last["electronvolt"],
        "forces": box.vectors_in_ase(last[f"f_{index}"][bead].reshape(-1, 3) / last["force"]),
        "stress": -virial[(0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)],
        "energies": last[f"extras_{index}"][bead] / last["electronvolt"],
    }


def _with_virial(expected: Results) -> Results:
    """Results with volume times stress in place of the stress."""
    return {**expected, "stress": expected["virials"].sum(axis=0)}
