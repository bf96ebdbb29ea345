"""The pair style in LAMMPS: cost by size, ranks side by side, SNAP on the same atoms, and memory.

Crystalline silicon, the shipped model `silicon`, one thread per rank. Systems and codes that are compared take
turns, and ratios are medians over the turns, so that a machine whose speed drifts does not favour one of them.
"""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tesseral.benchmarks.systems import CUTOFF
from tesseral.calculator.lammps_process import lammps_missing, run_lammps

MODEL = "silicon"
SKIN = 1.0  # Å
REBUILD = 10  # steps between new neighbour lists where dynamics are timed
SAMPLES = 20  # readings of the memory
#: rattled by up to 0.05 Å; half of the kinetic energy becomes potential, which leaves 600 K
CRYSTAL = """
units metal
lattice diamond 5.43
region box block 0 {cells} 0 {cells} 0 {cells}
create_box 1 box
create_atoms 1 box
mass 1 28.0855
displace_atoms all random 0.05 0.05 0.05 1 units box
velocity all create 1200 1
neighbor {skin} bin
thermo_style custom step pe
thermo 0
"""
STYLE = "pair_style {style} precision {dtype}\npair_coeff * * {model} Si\n"
SNAP = "pair_style snap\npair_coeff * * random.snapcoeff random.snapparam Si\n"
SNAP_COEFFICIENTS = 56  # twojmax 8: 55 bispectrum components and a constant
#: LAMMPS asks its shell, whose parent it is
MEMORY = 'shell "cat /proc/$PPID/status >> status"\n'

Advance = Callable[[], object]


@dataclass(frozen=True)
class Breakdown:
    """What LAMMPS tells of one `run`; seconds, averaged over ranks."""

    loop: float
    n_steps: int
    n_atoms: int
    pair: float
    neighbor_list: float

    @property
    def step(self) -> float:
        """us/atom for a step."""
        return 1e6 * self.loop / (self.n_steps * self.n_atoms)

    @property
    def pair_step(self) -> float:
        """us/atom for the pair style in a step."""
        return 1e6 * self.pair / (self.n_steps * self.n_atoms)


def crystal(cells: int, style: str = "tesseral", dtype: str = "mixed") -> str:
    """Commands that make the crystal, `cells` cubic cells of 8 atoms per direction, and choose the pair style."""
    return CRYSTAL.format(cells=cells, skin=SKIN) + STYLE.format(style=style, dtype=dtype, model=MODEL)


def breakdowns(output: str) -> list[Breakdown]:
    """The timings of every `run` in LAMMPS' output."""
    pattern = (
        r"^Loop time of (\S+) on \d+ procs for (\d+) steps with (\d+) atoms.*?"
        r"^Pair +\| *\S+ *\| *(\S+).*?^Neigh +\| *\S+ *\| *(\S+)"
    )
    return [
        Breakdown(float(loop), int(steps), int(atoms), float(pair), float(neighbor_list))
        for loop, steps, atoms, pair, neighbor_list in re.findall(pattern, output, re.MULTILINE | re.DOTALL)
    ]


def resident_megabytes(folder: Path) -> list[float]:
    """Resident memory at each MEMORY command, in MB; empty where the system has no /proc."""
    text = (folder / "status").read_text(encoding="utf-8") if (folder / "status").exists() else ""
    return [int(kilobytes) * 1024e-6 for kilobytes in re.findall(r"^VmRSS:\s*(\d+) kB", text, re.MULTILINE)]


def measure_sizes(cells: Sequence[int], rounds: int, advance: Advance = lambda: None) -> dict[str, Any]:
    """Constant-energy dynamics at 600 K on one rank, a new neighbour list every REBUILD steps.

    Args:
        cells: cubic cells of 8 atoms per direction of each system, the smallest first.
        rounds: times that each system is run; they take turns.
        advance: called after each run.

    Returns:
        ``systems``, for each n_atoms, and in us/atom per step ``step`` (all), ``pair`` and ``neighbor_list``
        (spread over the steps between lists), ``relative``: step beside that of the smallest system, and
        ``resident_mb``; ``spread``: the largest of ``relative`` over the smallest, less 1. ``bytes_per_atom`` and
        ``base_mb``, resident memory in proportion to the atoms and without any, or None where unknown.
    """
    found: dict[int, list[tuple[Breakdown, list[float]]]] = {n: [] for n in cells}
    for _ in range(rounds):
        for n in cells:
            found[n].append(_dynamics(n))
            advance()
    systems: list[dict[str, Any]] = []
    for n in cells:
        runs = [run for run, _ in found[n]]
        memory = [value for _, values in found[n] for value in values]
        systems.append(
            {
                "n_atoms": runs[0].n_atoms,
                "step": statistics.median(run.step for run in runs),
                "pair": statistics.median(run.pair_step for run in runs),
                "neighbor_list": statistics.median(run.step * run.neighbor_list / run.loop for run in runs),
                "relative": statistics.median(
                    run.step / smallest.step for run, (smallest, _) in zip(runs, found[cells[0]], strict=True)
                ),
                "resident_mb": max(memory) if memory else None,
            }
        )
    relative = [system["relative"] for system in systems]
    return {"systems": systems, "spread": max(relative) / min(relative) - 1, **_memory_per_atom(systems)}


def measure_ranks(cells: int, rounds: int, advance: Advance = lambda: None) -> dict[str, Any]:
    """The same dynamics on one rank and on two, in turns.

    Returns:
        n_atoms, us/atom per step on ``one`` and on ``two`` ranks, and ``speedup``, the median ratio; or
        ``skipped``, the reason why there are no figures.
    """
    cores = os.cpu_count() or 1
    reason = lammps_missing(2) or ("there is one core only" if cores < 2 else None)
    if reason is not None:
        return {"skipped": reason}
    turns = []
    for _ in range(rounds):
        turns.append([_dynamics(cells, ranks)[0] for ranks in (1, 2)])
        advance()
    return {
        "n_atoms": turns[0][0].n_atoms,
        "one": statistics.median(one.step for one, _ in turns),
        "two": statistics.median(two.step for _, two in turns),
        "speedup": statistics.median(one.step / two.step for one, two in turns),
    }


def measure_snap(cells: int, rounds: int, advance: Advance = lambda: None) -> dict[str, Any]:
    """Steps of the pair style (mixed) and of LAMMPS' SNAP (twojmax 8, the same cutoff, random coefficients), in
    turns on the same atoms, which are held.

    Returns:
        n_atoms, us/atom per step of ``tesseral`` and ``snap``, and ``factor``, the median ratio of SNAP's time to ours.
    """
    style = STYLE.format(style="tesseral", dtype="mixed", model=MODEL)
    turn = f"{style}run 10\n{SNAP}run 2\n"
    with TemporaryDirectory() as name:
        folder = Path(name)
        _write_snap_files(folder)
        runs = breakdowns(
            run_lammps(crystal(cells) + rounds * turn, folder, watch=lambda line: _after_a_run(line, advance))
        )
    ours, theirs = runs[::2], runs[1::2]
    return {
        "n_atoms": runs[0].n_atoms,
        "tesseral": statistics.median(run.step for run in ours),
        "snap": statistics.median(run.step for run in theirs),
        "factor": statistics.median(snap.step / own.step for own, snap in zip(ours, theirs, strict=True)),
    }


def measure_memory(
    steps: int, *, style: str = "tesseral", cells: int = 3, samples: int = SAMPLES, advance: Advance = lambda: None
) -> dict[str, Any]:
    """Resident memory of LAMMPS while it simulates liquid silicon (3,000 K, lists renewed whenever needed).

    Args:
        steps: of 1 fs, in all; at least `samples`.
        style: pair style.
        cells: cubic cells of 8 atoms per direction.
        samples: memory is read so many times, at equal intervals.
        advance: called after each interval.

    Returns:
        style, n_atoms, ``rebuilds`` of the neighbour list, ``steps`` and ``resident_mb`` at each sample (empty where
        the system has no /proc).
    """
    interval = steps // samples
    deck = crystal(cells, style) + "velocity all create 6000 1\nfix 1 all nvt temp 3000 3000 0.1\n"
    with TemporaryDirectory() as name:
        folder = Path(name)
        output = run_lammps(
            deck + samples * (f"run {interval}\n" + MEMORY), folder, watch=lambda line: _after_a_run(line, advance)
        )
        resident = resident_megabytes(folder)
    return {
        "style": style,
        "n_atoms": breakdowns(output)[0].n_atoms,
        "rebuilds": sum(map(int, re.findall(r"^Neighbor list builds = (\d+)", output, re.MULTILINE))),
        "steps": [interval * (n + 1) for n in range(len(resident))],
        "resident_mb": resident,
    }


def _dynamics(cells: int, ranks: int = 1) -> tuple[Breakdown, list[float]]:
    """Some seconds of constant-energy dynamics: timings, and resident memory at the end."""
    steps = REBUILD * min(40, max(1, round(40_000 / (8 * cells**3))))
    deck = crystal(cells) + f"neigh_modify every {REBUILD} delay 0 check no\nfix 1 all nve\nrun {steps}\n"
    with TemporaryDirectory() as name:
        output = run_lammps(deck + MEMORY, Path(name), ranks=ranks)
        return breakdowns(output)[0], resident_megabytes(Path(name))


def _memory_per_atom(systems: list[dict[str, Any]]) -> dict[str, Any]:
    """Slope and intercept of resident memory between the smallest and the largest system."""
    small, large = systems[0], systems[-1]
    if large is small or large["resident_mb"] is None:
        return {"bytes_per_atom": None, "base_mb": None}
    slope = (large["resident_mb"] - small["resident_mb"]) / (large["n_atoms"] - small["n_atoms"])
    return {"bytes_per_atom": 1e6 * slope, "base_mb": small["resident_mb"] - slope * small["n_atoms"]}


def _after_a_run(line: str, advance: Advance) -> None:
    """Call `advance` when LAMMPS tells that a run has ended."""
    if line.startswith("Loop time"):
        advance()


def _write_snap_files(folder: Path) -> None:
    """A SNAP model of silicon with CUTOFF and random coefficients, on which its speed does not depend."""
    coefficients = np.random.default_rng(0).normal(0.0, 1e-3, SNAP_COEFFICIENTS)
    lines = [f"1 {SNAP_COEFFICIENTS}", "Si 0.5 1.0", *(f"{value:.8f}" for value in coefficients)]
    (folder / "random.snapcoeff").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "random.snapparam").write_text(f"rcutfac {CUTOFF}\ntwojmax 8\n", encoding="utf-8")
