"""`tesseral bench --mace`: an imported MACE model beside mace-torch."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, cast

import typer


def measure_mace_import(
    cells: int,
    repeats: int,
    *,
    model: Path | None,
    trust_pickle: bool,
    head: str | None,
    structure: Path | None,
    compiled: bool,
    progress: Any,
) -> dict[str, Any]:
    """The report of `tesseral.benchmarks.imported_mace`, and ``load`` before and after.

    Args:
        cells, repeats: size of the structures, and timed calls.
        model, trust_pickle, head, structure: the user's own model, and what it is timed on.
        compiled: whether mace-torch's compile mode is timed too.
        progress: bar of rich.

    Raises MaceImportError without trust in the file, and what `measure_imported` raises.
    """
    from tesseral.benchmarks.imported_mace import WAYS, measure_imported

    given = None
    if model is not None:
        given = _given(model, trust_pickle, head, structure)
    elif head is not None or structure is not None:
        raise typer.BadParameter("--head and --structure belong to --model")
    ways = [way for way, (_, options) in WAYS.items() if compiled or "--compile" not in options]
    load = [os.getloadavg()[0]]
    with progress:
        task = progress.add_task("importing, then beside mace-torch", total=None)

        def start(n_parts: int) -> functools.partial[None]:
            progress.update(task, total=n_parts)
            return functools.partial(progress.advance, task)

        report = measure_imported(cells, repeats, given=given, ways=ways, start=start)
    return {**report, "load": [*load, os.getloadavg()[0]]}


def _given(path: Path, trust_pickle: bool, head: str | None, structure: Path | None) -> Any:
    from ase import Atoms
    from ase.io import read

    from tesseral.benchmarks.imported_mace import Given
    from tesseral.models.mace_import.source import PICKLE, MaceImportError

    if not trust_pickle:
        raise MaceImportError(f"{path}: not opened: {PICKLE}")
    return Given(path, head, None if structure is None else cast(Atoms, read(structure)))


def mace_import_tables(report: dict[str, Any]) -> list[Any]:
    """What `measure_mace_import` gives, for the console of rich: a line, a table for each case, and lines below."""
    tables, skipped = [], []
    for case in report["cases"]:
        name = f"{case['system']}, {case['n_atoms']:,} atoms, {case['n_neighbors']:.0f} neighbours, {case['dtype']}"
        tables.append(_case_table(case, name))
        for way, result in case["mace_torch"].items():
            if "skipped" in result:
                skipped.append(f"{name}, mace-torch, {way}: skipped, {result['skipped']}")
    agrees = mace_import_agrees(report)
    return [
        f"{report['model']}: energies, forces and stress, neighbour list given; tuned: malloc neither maps nor trims",
        *tables,
        *skipped,
        *report["notes"],
        f"{'the same energies and forces' if agrees else 'ENERGIES OR FORCES DIFFER'}; "
        f"load {report['load'][0]:.1f} to {report['load'][1]:.1f}",
    ]


def _case_table(case: dict[str, Any], title: str) -> Any:
    from rich.table import Table

    columns = ("", "µs/atom", "factor", "memory\nMB", "differ by\neV/atom", "and by\neV/Å")
    table = Table(*columns, title=title, title_justify="left")
    table.add_row("imported, native engine", f"{case['us_per_atom']:.1f}", "1", _memory(case))
    for way, result in case["mace_torch"].items():
        if "skipped" in result:
            table.add_row(f"mace-torch, {way}", "skipped")
            continue
        table.add_row(
            f"mace-torch, {way}",
            f"{result['us_per_atom']:.0f}",
            f"{result['factor']:.1f}",
            _memory(result),
            *(f"{result[key]:.0e}" for key in ("energy_difference", "force_difference")),
        )
    return table


def mace_import_agrees(report: dict[str, Any]) -> bool:
    """Whether every way that has run gives the energies and forces of the native engine."""
    return all(result.get("agrees", True) for case in report["cases"] for result in case["mace_torch"].values())


def _memory(result: dict[str, Any]) -> str:
    return "unknown" if result["peak_mb"] is None else f"{result['peak_mb']:.0f}"
