"""The checks of :mod:`tesseral.calculator.verification` that run LAMMPS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tesseral.calculator.lammps import evaluate_in_lammps
from tesseral.calculator.lammps_process import LammpsError, lammps_missing
from tesseral.calculator.verification_reference import (
    Check,
    Reference,
    Skipped,
    largest,
    relative_differences,
    without_free_atoms,
)

TOLERANCE = 1e-9
#: empty space around the atoms (Å) in directions that are not periodic
CLOSE, FAR = 5.0, 20.0


@dataclass(frozen=True)
class Way:
    """How LAMMPS is run; `margin` as in :func:`evaluate_in_lammps`."""

    style: str
    ranks: int
    margin: float


#: with three ranks and much empty space, the made-up slab, wire and cluster lie in the middle third of LAMMPS' box, and
#: the ranks on either side have no atoms
WAYS = (
    Way("tesseral", 1, CLOSE),
    Way("tesseral", 2, CLOSE),
    Way("tesseral", 3, FAR),
    Way("tesseral/torch", 1, CLOSE),
)


def lammps_checks(reference: Reference) -> Iterator[Check | Skipped]:
    """Both pair styles, and the native one on several ranks, or why they cannot be run here."""
    missing = lammps_missing()
    if missing is not None:
        yield Skipped("LAMMPS", missing)
        return
    for way in WAYS:
        missing = lammps_missing(way.ranks)
        yield _check(reference, way) if missing is None else Skipped(_name(way, False), missing)


def _check(reference: Reference, way: Way) -> Check:
    calculator, structures = reference.calculator, reference.structures
    path = calculator.model.path
    try:
        outcome = evaluate_in_lammps(path, structures, style=way.style, ranks=way.ranks, margin=way.margin)
    except LammpsError as error:
        return Check(_name(way, False), {}, TOLERANCE, str(error))
    differences = largest(
        relative_differences(without_free_atoms(calculator, atoms, results), expected)
        for atoms, results, expected in zip(structures, outcome, reference.results, strict=True)
    )
    some_empty = any(len(set(results["ranks"])) < way.ranks for results in outcome)
    return Check(_name(way, some_empty), differences, TOLERANCE)


def _name(way: Way, some_empty: bool) -> str:
    if way.style != "tesseral":
        return f"LAMMPS, {way.style}"
    ranks = "1 rank" if way.ranks == 1 else f"{way.ranks} ranks"
    return f"LAMMPS, {ranks}" + (", some empty" if some_empty else "")
