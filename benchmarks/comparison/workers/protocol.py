"""What a worker is given and what it answers: `python run_CODE.py task.json`.

The task is a JSON object: ``structures`` (paths of .npz files with numbers, positions, cell and pbc; for training also
energy, forces, stress), ``precision``, ``threads``, ``cutoff`` (Å), ``settings`` of the code, ``seconds`` to spend on
timed calls, ``least_calls`` and ``most_calls``. The answer is the last line of the output that is a JSON object.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

#: Å, by which positions change before each call, so that nothing is reused by accident
MOVE = 1e-3
WARM_UP = 3


@dataclass
class Prepared:
    """A code ready to be timed.

    Attributes:
        call: computes everything once, for the positions [n_atoms, 3] of the first structure.
        packages: whose versions are told.
        notes: further entries of the answer.
    """

    call: Callable[[np.ndarray], object]
    packages: tuple[str, ...]
    notes: dict[str, Any] = field(default_factory=dict)


Structure = dict[str, np.ndarray]


def run(prepare: Callable[[dict[str, Any], list[Structure]], Prepared]) -> None:
    """Read the task of the command line, time what `prepare` gives, print the answer; an error is one line of it."""
    warnings.simplefilter("ignore")  # of the other packages
    with open(sys.argv[1], encoding="utf-8") as stream:
        task = json.load(stream)
    structures = [dict(np.load(path)) for path in task["structures"]]
    try:
        answer = timed(prepare(task, structures), task, structures[0]["positions"])
    except Exception as error:
        traceback.print_exc()
        text = (str(error).strip() or "no message").splitlines()[0]
        answer = {"failed": f"{type(error).__name__}: {text}"}
    print("\n" + json.dumps(answer), flush=True)


def timed(code: Prepared, task: dict[str, Any], positions: np.ndarray) -> dict[str, Any]:
    """``seconds`` of each timed call, ``peak_mb``, ``versions`` and the notes."""
    generator = np.random.default_rng(1)

    def once() -> float:
        moved = positions + generator.uniform(-MOVE, MOVE, positions.shape)
        started = time.perf_counter()
        code.call(moved)
        return time.perf_counter() - started

    for _ in range(min(WARM_UP, task["least_calls"])):
        once()
    seconds: list[float] = []
    while len(seconds) < task["least_calls"] or (sum(seconds) < task["seconds"] and len(seconds) < task["most_calls"]):
        seconds.append(once())
    return {"seconds": seconds, "peak_mb": peak_megabytes(), "versions": versions(code.packages), **code.notes}


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peak_megabytes() -> float | None:
    """Most memory that this process has held, in 10^6 bytes; None where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")), None)


def atoms_of(structure: Structure) -> Any:
    """The structure for ase."""
    from ase import Atoms

    keys = ("numbers", "positions", "cell", "pbc")
    return Atoms(**{key: structure[key] for key in keys})


def ase_call(calculator: Any, structure: Structure) -> Callable[[np.ndarray], object]:
    """All that an ASE calculator does for new positions: neighbour list, energy, forces, and stress if periodic."""
    atoms = atoms_of(structure)
    properties = ["energy", "forces", *(["stress"] if all(structure["pbc"]) else [])]

    def call(positions: np.ndarray) -> None:
        atoms.positions[:] = positions
        calculator.calculate(atoms, properties, ["positions"])

    return call


def symbols_of(structures: list[Structure]) -> list[str]:
    """Element symbols in the order of atomic numbers."""
    from ase.data import chemical_symbols

    return [chemical_symbols[number] for number in sorted({int(n) for s in structures for n in s["numbers"]})]
