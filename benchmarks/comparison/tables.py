"""The report: Markdown tables with units and what each figure includes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tesseral.benchmarks.comparison.accuracy import accuracy_table
from tesseral.benchmarks.comparison.cases import Case
from tesseral.benchmarks.comparison.codes import NOT_TIMED
from tesseral.benchmarks.comparison.session import Record
from tesseral.benchmarks.comparison.summary import Row, memory_per_atom, not_run, rows

INTRODUCTION = """Random weights or coefficients of published size: speed does not depend on training. Every figure is
of a process of its own; within a round all codes take turns, times are medians over the calls of a round and then over
the rounds, factors are medians of the ratios within a round. Positions move by up to 0.001 Å before each call of a
calculator; in LAMMPS atoms are held. glibc's malloc is told neither to map nor to trim, which helps PyTorch most. MB is
the most that the process has held, imports included (LAMMPS: at the end of the run).
"""


def report(cases: Sequence[Case], machine: dict[str, Any], records: Sequence[Record]) -> str:
    """The whole report.

    Args:
        cases: that are shown.
        machine: first line of the results.
        records: the others.
    """
    loads = [record["load"] for record in records]
    versions = dict(machine["versions"])
    for record in records:
        versions |= record.get("versions", {})
    lines = ["# Comparison", "", f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']:g} GB.", ""]
    if machine["quick"]:
        lines += ["**A quick run: it shows that everything works. Its figures mean nothing.**", ""]
    lines += [", ".join(f"{name} {version}" for name, version in versions.items()) + ".", ""]
    if loads:
        lines += [f"Load {min(loads):.1f} to {max(loads):.1f} (1 is one busy core).", ""]
    lines += [INTRODUCTION]
    for case in cases:
        lines += [f"## {case.title}", "", *_case(case, records)]
    lines += [
        "## Accuracy",
        "",
        "Mean absolute errors on test sets: of the shipped models, and as published for the same",
    ]
    lines += ["data (Y. Zuo et al., J. Phys. Chem. A 124, 731 (2020)).", "", *markdown(accuracy_table())]
    lines += ["## Never timed here", "", *(f"- {name}: {reason}" for name, reason in NOT_TIMED.items())]
    return "\n".join(lines) + "\n"


def markdown(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, the first row its header, and an empty line."""
    header, *body = [[cell.replace("|", "\\|") for cell in row] for row in table]
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [*("| " + " | ".join(row) + " |" for row in (header, rule, *body)), ""]


def _case(case: Case, records: Sequence[Record]) -> list[str]:
    table = rows(case, records)
    if case.kind == "memory":
        lines = _memory_lines(case, records)
    elif case.kind == "lines":
        lines = _curves(case, table)
    else:
        lines = [line for point in dict.fromkeys(row.point for row in table) for line in _bars(case, table, point)]
    if not table and not lines:
        lines = ["No figures.", ""]
    missing = not_run(case, records)
    if missing:
        lines += ["Not run:", "", *(f"- {code}: {reason}" for code, reason in missing.items()), ""]
    return lines


def _bars(case: Case, table: Sequence[Row], point: str) -> list[str]:
    """A table for each thing that figures include, the fastest first."""
    mine = [row for row in table if row.point == point]
    first = mine[0]
    lines = [
        f"{first.n_atoms:,} atoms, {first.n_neighbors:.1f} neighbours within {first.cutoff:g} Å, {_workers(first)}."
    ]
    lines.append("")
    order = [code.includes for code in case.codes]
    for includes in sorted({row.includes for row in mine}, key=order.index):
        group = sorted((row for row in mine if row.includes == includes), key=lambda row: row.microseconds)
        lines += markdown(_group(case, includes, group))
    return lines


def _group(case: Case, includes: str, group: Sequence[Row]) -> list[list[str]]:
    """Of codes that include the same."""
    unit = "steps/s" if case.kind == "steps" else "µs/atom"
    table = [[includes, "precision", unit, "best", f"beside {group[0].reference}", "MB"]]
    for row in group:
        figures = (row.microseconds, row.least)
        if case.kind == "steps":
            figures = (row.steps_per_second, 1e6 / (row.least * row.n_atoms))
        factor = "" if row.ratio is None else f"{number(row.ratio)} times as long"
        memory = "" if row.peak_mb is None else f"{row.peak_mb:.0f}"
        table.append([_bold(row), row.precision, *map(number, figures), factor, memory])
    return table


def _bold(row: Row) -> str:
    return f"**{row.code}**" if row.ours else row.code


def _curves(case: Case, table: Sequence[Row]) -> list[str]:
    """A column for each point, in µs/atom; speed-ups for threads and ranks, memory for sizes."""
    if not table:
        return []
    points = dict.fromkeys(row.point for row in table)
    cells = {(row.code, row.point): row for row in table}
    heads = []
    for point in points:
        row = next(row for row in table if row.point == point)
        heads.append(f"{row.n_neighbors:.1f}" if case.name == "neighbors" else f"{row.x:,.0f}")
    memory = memory_per_atom(table) if case.name == "size" else {}
    scaling = case.name in ("threads", "ranks")
    header = [f"µs/atom by {case.axis}", *heads, *(["times as fast"] if scaling else [])]
    header += [*(["bytes/atom"] if memory else []), "includes"]
    body = []
    for code in dict.fromkeys(row.code for row in table):
        mine = [cells.get((code, point)) for point in points]
        known = [row for row in mine if row is not None]
        line = [_bold(known[0])]
        line += ["" if row is None else number(row.microseconds) for row in mine]
        if scaling:
            line.append(number(known[0].microseconds / known[-1].microseconds))
        if memory:
            line.append(f"{memory[code]:,.0f}" if code in memory else "")
        body.append([*line, known[0].includes])
    first = table[0]
    note = f"{first.n_atoms:,} atoms of silicon" if case.name != "size" else "Silicon"
    if case.name != "neighbors":
        note += f", {first.n_neighbors:.1f} neighbours within {first.cutoff:g} Å"
    if not scaling:
        note += f", {_workers(first)}"
    return [note + ".", "", *markdown([header, *body])]


def _memory_lines(case: Case, records: Sequence[Record]) -> list[str]:
    mine = [record for record in records if record["case"] == case.name and "resident_mb" in record]
    if not mine:
        return []
    header = ["", "atoms", "steps", "neighbour lists", "MB at the first reading", "least", "most", "at the last"]
    body = []
    for record in mine:
        resident = record["resident_mb"]
        if resident:
            figures = (resident[0], min(resident), max(resident), resident[-1])
            counts = (record["n_atoms"], record["steps"][-1], record["rebuilds"])
            body.append([record["code"], *(f"{n:,}" for n in counts), *(f"{value:.2f}" for value in figures)])
    return markdown([header, *body])


def _workers(row: Row) -> str:
    if row.ranks > 1:
        return f"{row.ranks} ranks"
    return "one thread" if row.threads == 1 else f"{row.threads} threads"


def number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
