"""Records put together: one row for each code on each system."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tesseral.benchmarks.comparison.cases import Case
from tesseral.benchmarks.comparison.session import Record


@dataclass(frozen=True)
class Row:
    """One code on one system.

    Attributes:
        code, precision, includes, ours: of the code.
        point: name of the system and settings.
        x, threads, ranks, n_atoms, n_neighbors, cutoff: of the point.
        microseconds: per atom; the median over rounds of the median call.
        least: per atom; the fastest call of all rounds.
        ratio: time beside the reference's in the same round, the median over rounds; None without a reference.
        reference: name of that code.
        peak_mb: largest memory of its process.
        rounds: how many.
    """

    code: str
    precision: str
    includes: str
    ours: bool
    point: str
    x: float
    threads: int
    ranks: int
    cutoff: float
    n_atoms: int
    n_neighbors: float
    microseconds: float
    least: float
    ratio: float | None
    reference: str | None
    peak_mb: float | None
    rounds: int

    @property
    def steps_per_second(self) -> float:
        """Calls of the whole system in a second."""
        return 1e6 / (self.microseconds * self.n_atoms)


def rows(case: Case, records: Iterable[Record]) -> list[Row]:
    """One for each code on each system that has figures, in the order of the points and codes."""
    timed = [record for record in records if record["case"] == case.name and "seconds" in record]
    order = {code.name: index for index, code in enumerate(case.codes)}
    timed = [record for record in timed if record["code"] in order]
    timed.sort(key=lambda record: (record["x"], order[record["code"]]))
    places = dict.fromkeys((record["point"], record["code"]) for record in timed)
    return [_row(case, timed, point, code) for point, code in places]


def not_run(case: Case, records: Iterable[Record]) -> dict[str, str]:
    """Why codes have no figures, by name."""
    reasons = {}
    for record in records:
        if record["case"] == case.name and ("missing" in record or "failed" in record):
            reasons[record["code"]] = record.get("missing") or record["failed"]
    return reasons


def reference_of(case: Case, code: str) -> str | None:
    """Ours that includes the same, or else the first of ours."""
    includes = {c.name: c.includes for c in case.codes}
    ours = [c for c in case.codes if c.ours]
    same = [c.name for c in ours if c.includes == includes.get(code)]
    names = same or [c.name for c in ours]
    return names[0] if names else None


def memory_per_atom(table: Sequence[Row]) -> dict[str, float]:
    """Bytes by code: peak memory of the largest system less that of the smallest, over the difference in atoms."""
    found = {}
    for code in dict.fromkeys(row.code for row in table):
        known = sorted((row.n_atoms, row.peak_mb) for row in table if row.code == code and row.peak_mb is not None)
        if len(known) > 1 and known[-1][0] > known[0][0]:
            found[code] = 1e6 * (known[-1][1] - known[0][1]) / (known[-1][0] - known[0][0])
    return found


def _row(case: Case, timed: Sequence[Record], point: str, code: str) -> Row:
    mine = [record for record in timed if (record["point"], record["code"]) == (point, code)]
    reference = reference_of(case, code)
    others = {r["round"]: _median(r) for r in timed if (r["point"], r["code"]) == (point, reference)}
    ratios = [_median(record) / others[record["round"]] for record in mine if record["round"] in others]
    first, n_atoms = mine[0], mine[0]["n_atoms"]
    peaks = [record["peak_mb"] for record in mine if record.get("peak_mb") is not None]
    kept = ("precision", "includes", "ours", "x", "threads", "ranks", "cutoff", "n_neighbors")
    return Row(
        code=code,
        point=point,
        n_atoms=n_atoms,
        microseconds=1e6 * statistics.median(map(_median, mine)) / n_atoms,
        least=1e6 * min(min(record["seconds"]) for record in mine) / n_atoms,
        ratio=statistics.median(ratios) if ratios else None,
        reference=reference,
        peak_mb=max(peaks) if peaks else None,
        rounds=len(mine),
        **{key: first[key] for key in kept},
    )


def _median(record: dict[str, Any]) -> float:
    return statistics.median(record["seconds"])
