"""An imported MACE model beside mace-torch with the same weights: time, memory, and whether both give the same.

One thread; every figure comes from a process of its own, with the neighbour list given. `python -m
tesseral.benchmarks.imported_mace` is the process of the native engine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from ase import Atoms

from tesseral.benchmarks.peers import failure, time_mace, write_mace_model
from tesseral.benchmarks.systems import rattled_silicon, water_box
from tesseral.benchmarks.timing import median_seconds, peak_megabytes
from tesseral.models.file import read_metadata

#: how mace-torch is run: whether glibc's malloc is tuned, see `tesseral.benchmarks.peers`, and options of
#: `tesseral.benchmarks.mace_torch`
WAYS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "eager": (False, ()),
    "eager, tuned": (True, ()),
    "compiled, tuned": (True, ("--compile",)),
}
#: the same on a GPU
DEVICE_WAYS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "eager": (True, ()),
    "compiled": (True, ("--compile",)),
    "cuEquivariance": (True, ("--cuequivariance",)),
}
SYSTEMS = ("silicon", "water")
DTYPES = ("float32", "float64")
#: largest differences by precision: energy in units of the energy per atom (at least 1 eV), forces in units of the
#: largest force (at least 1 eV/Å)
TOLERANCE = {"float32": 2e-5, "float64": 1e-7}

#: told how many parts there are, gives what is called after each
Start = Callable[[int], Callable[[], object]]


@dataclass(frozen=True)
class Given:
    """A model of the user's own: path of the .model file, its head if it has several, and a structure.

    Without a structure it is silicon, water, or both, depending on the elements of the model.
    """

    path: Path
    head: str | None = None
    atoms: Atoms | None = None


@dataclass(frozen=True)
class Case:
    """A model as mace-torch has it and imported, and a structure."""

    name: str
    atoms: Atoms
    source: Path
    imported: Path
    head: str | None
    rounded: bool  # the model was stored in single precision


@dataclass(frozen=True)
class Timing:
    """How cases are timed: calls of each, where, and the ways of mace-torch."""

    repeats: int
    device: str
    ways: dict[str, tuple[bool, tuple[str, ...]]]


def measure_imported(
    cells: int,
    repeats: int,
    *,
    given: Given | None = None,
    dtypes: Sequence[str] = DTYPES,
    ways: Sequence[str] | None = None,
    systems: Sequence[str] = SYSTEMS,
    device: str = "cpu",
    start: Start = lambda n_parts: lambda: None,
) -> dict[str, Any]:
    """Time MACE models in the native engine and in mace-torch; they take turns.

    Args:
        cells: of the structures: cubic cells of 8 silicon atoms per direction, and 1.6 times as many water molecules.
        repeats: timed calls of the engine; a fifth of them of mace-torch, at least 3 (all of them on a GPU).
        given: the user's own model instead, which must be trusted: it is a pickle.
        dtypes, systems: which of DTYPES and SYSTEMS.
        ways: which of WAYS, or of DEVICE_WAYS on a GPU; None: all.
        device: cpu, cuda or cuda:N, of both; ``peak_mb`` is then memory of the GPU.
        start: for a progress bar, see Start.

    Returns:
        ``model``: what it is; ``notes`` of the import; ``cases``, each with ``system``, ``n_atoms``, ``n_neighbors``,
        ``dtype``, ``instruction_set``, ``us_per_atom`` and ``peak_mb`` of the native engine, and ``mace_torch``: by
        way the same two, ``factor``: its time beside the engine's, ``energy_difference`` (eV/atom),
        ``force_difference`` (eV/Å) and ``agrees``; or ``skipped``, the reason.

    Raises:
        ImportError: mace-torch is not installed or does not run.
        MaceImportError: the model cannot be imported.
        ValueError: the model knows neither silicon nor water, and no structure is given.
    """
    from tesseral.models.mace_import.source import mace_version

    mace_version()
    known = WAYS if device == "cpu" else DEVICE_WAYS
    timing = Timing(repeats, device, {way: known[way] for way in (known if ways is None else ways)})
    with TemporaryDirectory() as name:
        folder = Path(name)
        water = water_box(max(1, round(1.6 * cells)), 1.0, np.random.default_rng(0))
        structures = {"silicon": rattled_silicon(cells), "water": water}
        structures = {name: structures[name] for name in systems}
        if given is None:
            cases, notes = _random_models(folder, structures)
        else:
            cases, notes = _given_model(folder, structures, given)
        advance = start(len(cases) * len(dtypes) * len(timing.ways))
        timed = [_measure_case(folder, case, dtype, timing, advance) for case in cases for dtype in dtypes]
    model = "128x0e, two layers, random weights" if given is None else given.path.name
    return {"model": model, "notes": notes, "cases": timed}


def agreement(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], tolerance: float) -> dict[str, float | bool]:
    """Differences of ``energy`` (eV) per atom and ``forces`` [n_atoms, 3] (eV/Å), and whether they are small.

    tolerance: see TOLERANCE.
    """
    energy = float(abs(ours["energy"] - theirs["energy"])) / len(ours["forces"])
    force = float(np.abs(ours["forces"] - theirs["forces"]).max())
    energy_unit = max(1.0, float(abs(ours["energy"])) / len(ours["forces"]))
    agrees = energy <= tolerance * energy_unit and force <= tolerance * max(1.0, float(np.abs(ours["forces"]).max()))
    return {"energy_difference": energy, "force_difference": force, "agrees": agrees}


def _random_models(folder: Path, structures: dict[str, Atoms]) -> tuple[list[Case], list[str]]:
    """Models of random weights in double precision, imported, for each structure."""
    cases, notes = [], []
    for name, atoms in structures.items():
        path = folder / f"{name}.model"
        reason = write_mace_model(path, sorted(set(atoms.numbers.tolist())), "float64")
        if reason is not None:
            raise ImportError(reason)
        imported, report = _imported(folder, path, None)
        cases.append(Case(name, atoms, path, imported, None, False))
        notes += report.notes
    return cases, notes


def _given_model(folder: Path, structures: dict[str, Atoms], given: Given) -> tuple[list[Case], list[str]]:
    """The user's own model, imported, for the structures that it knows."""
    imported, report = _imported(folder, given.path, given.head)
    species = read_metadata(imported)["species"]
    if given.atoms is not None:
        structures = {given.atoms.get_chemical_formula(): given.atoms}
    known = {name: atoms for name, atoms in structures.items() if set(atoms.symbols) <= set(species)}
    if not known:
        raise ValueError(
            f"{given.path}: knows {', '.join(species)}, which is not enough for {' or '.join(structures)}; give a "
            "structure of these elements: --structure FILE"
        )
    rounded = report.precision == "float32"
    cases = [Case(name, atoms, given.path, imported, given.head, rounded) for name, atoms in known.items()]
    return cases, report.notes


def _imported(folder: Path, path: Path, head: str | None) -> tuple[Path, Any]:
    """The model file, and the report of the import."""
    from tesseral.models.mace_import.importer import import_mace, save_imported

    model, report = import_mace(path, trust_pickle=True, head=head)
    output = folder / f"{path.stem}.pt"
    save_imported(output, model, report)
    return output, report


def _measure_case(
    folder: Path, case: Case, dtype: str, timing: Timing, advance: Callable[[], object]
) -> dict[str, Any]:
    """One structure in one precision."""
    structure, own, other = folder / "structure.traj", folder / "own.npz", folder / "other.npz"
    case.atoms.write(structure)
    turns, found = [], {}
    repeats = max(3, timing.repeats // 5) if timing.device == "cpu" else timing.repeats
    for way, (tuned, options) in timing.ways.items():
        turns.append(_time_engine(case.imported, structure, dtype, own, timing))
        arguments = ["--model", str(case.source), "--structure", str(structure), "--dtype", dtype]
        arguments += ["--repeats", str(repeats), "--results", str(other), "--device", timing.device]
        arguments += [] if case.head is None else ["--head", case.head]
        found[way] = time_mace(*arguments, *options, tuned=tuned)
        if "skipped" not in found[way]:
            tolerance = TOLERANCE["float32" if case.rounded else dtype]
            with np.load(own) as ours, np.load(other) as theirs:
                found[way] |= agreement(dict(ours), dict(theirs), tolerance)
        advance()
    microseconds = statistics.median(turn["us_per_atom"] for turn in turns)
    for result in found.values():
        if "us_per_atom" in result:
            result["factor"] = result["us_per_atom"] / microseconds
    return {"system": case.name, "dtype": dtype, **turns[-1], "us_per_atom": microseconds, "mace_torch": found}


def _time_engine(model: Path, structure: Path, dtype: str, results: Path, timing: Timing) -> dict[str, Any]:
    """What `main` prints.  Raises RuntimeError if it fails."""
    command = [sys.executable, "-m", __name__, str(model), str(structure), dtype, str(timing.repeats), str(results)]
    command += ["--device", timing.device]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise RuntimeError(failure(finished, "the native engine does not run here"))
    result: dict[str, Any] = json.loads(finished.stdout)
    return result


def main() -> None:
    """Time energies, forces and virials in the native engine, write energy and forces, and print JSON."""
    from ase.io import read

    from tesseral.benchmarks.mace_torch import MOVE
    from tesseral.calculator.native import NativeModel
    from tesseral.calculator.neighbors import cartesian_shifts, neighbor_list

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("structure")
    parser.add_argument("dtype")
    parser.add_argument("repeats", type=int)
    parser.add_argument("results", help=".npz file for energy and forces")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    before = _device_bytes(options.device)
    atoms = cast(Atoms, read(options.structure))
    model = NativeModel(options.model, options.dtype, 1, device=options.device)
    edges = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, model.cutoff)
    graph = (edges.first, edges.neighbors, cartesian_shifts(edges, atoms.cell.array, atoms.pbc))
    species, generator = model.species_indices(atoms.numbers), np.random.default_rng(0)
    energies, forces, _ = model.compute(atoms.positions, species, *graph)
    np.savez(options.results, energy=energies.sum(), forces=forces)

    def call() -> None:
        model.compute(atoms.positions + MOVE * generator.random(atoms.positions.shape), species, *graph)

    seconds = median_seconds(call, options.repeats)
    result = {
        "n_atoms": len(atoms),
        "n_neighbors": len(edges.neighbors) / len(atoms),
        "instruction_set": model.instruction_set,
        "us_per_atom": 1e6 * seconds / len(atoms),
        "peak_mb": peak_megabytes() if options.device == "cpu" else (_device_bytes(options.device) - before) / 1e6,
    }
    print(json.dumps(result))


def _device_bytes(device: str) -> int:
    """Taken of a GPU's memory; 0 of the processor's."""
    from tesseral.kernel._engine import device_memory_used

    return 0 if device == "cpu" else int(device_memory_used(device))


if __name__ == "__main__":
    main()
