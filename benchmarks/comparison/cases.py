"""What is measured: for each case the systems, and the codes that take turns on each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from ase import Atoms
from ase.build import molecule

from tesseral.benchmarks.comparison import codes
from tesseral.benchmarks.comparison.codes import Code
from tesseral.benchmarks.systems import CUTOFF, rattled_silicon, water_box
from tesseral.models.registry import nearest

RSS_STEPS = 100_000


@dataclass(frozen=True)
class Point:
    """One system as one case takes it.

    Attributes:
        x: what a plot shows it at.
        system: "silicon", "water", "ethanol", or "training" for labelled silicon.
        size: cubic cells of silicon, water molecules per direction.
        cutoff: Å.
        threads, ranks: of each code.
    """

    x: float
    system: str
    size: int = 1
    cutoff: float = CUTOFF
    threads: int = 1
    ranks: int = 1

    @property
    def name(self) -> str:
        """For the file of results; unique within a case."""
        return f"{self.system} {self.size}, {self.cutoff:g} Å, {self.threads} threads, {self.ranks} ranks"

    def structures(self) -> list[Atoms]:
        """The system; several for training."""
        return _structures(self.system, self.size)

    def takes(self, code: Code) -> bool:
        """Whether a code is run here: its elements and size."""
        structures = self.structures()
        fits = code.elements is None or all(set(atoms.symbols) <= code.elements for atoms in structures)
        return fits and sum(map(len, structures)) <= code.most_atoms


@lru_cache(maxsize=4)
def _structures(system: str, size: int) -> list[Atoms]:
    if system == "silicon":
        return [rattled_silicon(size)]
    if system == "water":
        return [water_box(size, 1.0, np.random.default_rng(0))]
    if system == "ethanol":
        ethanol = molecule("CH3CH2OH")
        ethanol.center(vacuum=6.0)  # not periodic, but some codes want a cell
        return [ethanol]
    from tesseral.benchmarks.training import labelled_silicon

    return labelled_silicon(4, size)


@dataclass(frozen=True)
class Case:
    """A question, and who is asked.

    Attributes:
        name: for --only and the names of the plots.
        title: of its table.
        kind: "bars", "lines" (against `axis`), "steps" (steps/s as bars) or "memory" (against steps).
        points: told whether the comparison is a quick one.
        codes: that take turns on each point.
        rounds: of turns.
        axis: what `x` of the points is.
    """

    name: str
    title: str
    kind: str
    points: Callable[[bool], list[Point]]
    codes: tuple[Code, ...]
    rounds: int = 3
    axis: str = ""


def _silicon(sizes: Iterable[int], quick: Iterable[int]) -> Callable[[bool], list[Point]]:
    return lambda short: [Point(8.0 * n**3, "silicon", n) for n in (quick if short else sizes)]


def _water(sizes: Iterable[int], quick: Iterable[int]) -> Callable[[bool], list[Point]]:
    return lambda short: [Point(3.0 * n**3, "water", n) for n in (quick if short else sizes)]


def _cutoffs(short: bool) -> list[Point]:
    values = (4.0, 5.0) if short else (4.0, 4.5, 5.0, 5.5, 6.0, 6.5)
    return [Point(value, "silicon", 2 if short else 5, cutoff=value) for value in values]


def _workers() -> list[int]:
    """1, 2, 4, ... and the number of cores."""
    cores = os.cpu_count() or 1
    return sorted({*(2**k for k in range(cores.bit_length())), cores})


def _threads(short: bool) -> list[Point]:
    return [Point(float(n), "silicon", 2 if short else 5, threads=n) for n in _workers()[: 2 if short else None]]


def _ranks(short: bool) -> list[Point]:
    return [Point(float(n), "silicon", 2 if short else 10, ranks=n) for n in _workers()[: 2 if short else None]]


ALL_CODES = (*codes.OWN_CALLS, *codes.OWN_PARTS, *codes.OWN_STEPS, *codes.PYTHON_PEERS, *codes.LAMMPS_PEERS)
FIRST_CALLS = (codes.OWN_CALLS[0], next(c for c in codes.OWN_CALLS if c.settings["model"] == codes.LAYERED))
CURVES = (
    *FIRST_CALLS,
    codes.OWN_STEPS[0],
    codes.OWN_STEPS[2],
    *(code for code in codes.LAMMPS_PEERS if code.name != "LAMMPS snap 6"),
    codes.NEP,
    codes.PACE,
    codes.PACE_EVALUATOR,
    codes.MACE,
)
#: UF3's three-body terms do not follow the cutoff, nor does Stillinger-Weber's anything
BY_CUTOFF = tuple(code for code in CURVES if code.name not in ("LAMMPS sw", "LAMMPS uf3"))
BEADS = "step of i-PI with 32 beads"
PIMD = (
    *(
        Code(f"model water, {way}", "i-PI", "mixed", BEADS, {"way": way}, ours=True)
        for way in ("ffdirect, one call", "ffdirect, a call for each bead", "socket, one call")
    ),
    Code("mace-torch 128x0e, ffdirect", "i-PI", "float32", BEADS, {"way": "mace-torch"}, slow=True),
)
RSS = tuple(
    Code(f"pair_style {style}", "memory", "mixed", "liquid silicon, 3,000 K", {"style": style}, ours=True)
    for style in ("tesseral", "tesseral/torch")
)

CASES = {
    case.name: case
    for case in (
        Case("silicon", "Rattled silicon", "bars", _silicon((3, 5), (2,)), ALL_CODES),
        Case("water", "Liquid water", "bars", _water((4, 8), (3,)), ALL_CODES),
        Case("size", "System size", "lines", _silicon((2, 3, 5, 10, 20), (2, 3)), CURVES, 2, "atoms"),
        Case("neighbors", "Neighbours", "lines", _cutoffs, BY_CUTOFF, 2, "neighbours per atom"),
        Case("threads", "Threads", "lines", _threads, (*FIRST_CALLS, codes.MACE_SMALL, codes.MACE), 3, "threads"),
        Case(
            "ranks",
            "Ranks of MPI in LAMMPS",
            "lines",
            _ranks,
            (codes.OWN_STEPS[0], codes.OWN_STEPS[2], *codes.LAMMPS_PEERS[1:3], codes.LAMMPS_PEERS[4]),
            3,
            "ranks",
        ),
        Case(
            "molecule",
            "A molecule of ethanol, 9 atoms",
            "steps",
            lambda short: [Point(9.0, "ethanol")],
            (
                *FIRST_CALLS,
                *codes.OWN_PARTS[:2],
                *codes.OWN_STEPS,
                codes.MACE_SMALL,
                codes.MACE,
                codes.NEQUIP,
                codes.ALLEGRO,
                codes.NEP,
                codes.PACE,
            ),
        ),
        Case("pimd", "Path integrals of 64 water molecules", "steps", lambda short: [Point(192.0, "water", 4)], PIMD),
        Case(
            "training",
            "Training",
            "bars",
            lambda short: [Point(1.0, "training", 1 if short else 2)],
            codes.TRAINERS,
        ),
        Case("descriptors", "Descriptors", "bars", _silicon((3,), (2,)), codes.DESCRIPTORS),
        Case("rss", "Memory of LAMMPS in a long run", "memory", _silicon((3,), (2,)), RSS, 1, "steps"),
    )
}


def chosen(names: Iterable[str]) -> list[Case]:
    """These cases, or all without names, in the order of CASES.

    Raises:
        ValueError: an unknown name; names the nearest one.
    """
    names = list(names)
    for name in names:
        if name not in CASES:
            raise ValueError(f"there is no case {name!r}{nearest(name, CASES)} (cases: {', '.join(CASES)})")
    return [case for case in CASES.values() if not names or case.name in names]
