"""A picture of each case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tesseral.benchmarks.comparison.cases import Case
from tesseral.benchmarks.comparison.session import Record
from tesseral.benchmarks.comparison.summary import Row, memory_per_atom, rows
from tesseral.benchmarks.comparison.tables import number

#: of what is ours, and of others
OURS, OTHERS = "#c0392b", "#7f8c8d"
MARKERS = "os^vDPX*<>h"


def draw(case: Case, records: Sequence[Record], folder: Path) -> list[Path]:
    """Write CASE.png into the folder, and one for each further system or quantity.

    Returns the files; none without figures.
    """
    import matplotlib

    matplotlib.use("Agg")
    table = rows(case, records)
    if case.kind == "memory":
        mine = [record for record in records if record["case"] == case.name and record.get("resident_mb")]
        return [_memory(case, mine, folder / f"{case.name}.png")] if mine else []
    if not table:
        return []
    if case.kind == "lines":
        files = [_curves(case, table, folder / f"{case.name}.png")]
        memory = memory_per_atom(table) if case.name == "size" else {}
        positive = {code: value for code, value in memory.items() if value > 0}
        if positive:
            ours = {row.code: row.ours for row in table}
            bars = [(code, value, ours[code]) for code, value in positive.items()]
            files.append(_bars(bars, "bytes per atom", "Memory per atom", folder / "memory.png"))
        return files
    return [_point(case, table, point, folder) for point in dict.fromkeys(row.point for row in table)]


def _point(case: Case, table: Sequence[Row], point: str, folder: Path) -> Path:
    mine = [row for row in table if row.point == point]
    several = len({row.point for row in table}) > 1
    path = folder / (f"{case.name}-{mine[0].n_atoms}.png" if several else f"{case.name}.png")
    title = f"{case.title}, {mine[0].n_atoms:,} atoms"
    if case.kind == "steps":
        return _bars([(row.code, row.steps_per_second, row.ours) for row in mine], "steps/s", title, path)
    return _bars([(row.code, row.microseconds, row.ours) for row in mine], "µs/atom", title, path)


def _bars(bars: Sequence[tuple[str, float, bool]], unit: str, title: str, path: Path) -> Path:
    """Horizontal, on a logarithmic axis, the best on top."""
    from matplotlib import pyplot

    ordered = sorted(bars, key=lambda bar: bar[1], reverse=unit != "steps/s")
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.26 * len(ordered)))
    colors = [OURS if ours else OTHERS for _, _, ours in ordered]
    axes.barh([name for name, _, _ in ordered], [value for _, value, _ in ordered], color=colors)
    for index, (_, value, _) in enumerate(ordered):
        axes.annotate(f" {number(value)}", (value, index), va="center", fontsize=7)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.01)
    axes.set_xlabel(unit)
    axes.set_title(f"{title} (red: Tesseral)", fontsize=10)
    axes.tick_params(axis="y", labelsize=8)
    return _written(figure, path)


def _curves(case: Case, table: Sequence[Row], path: Path) -> Path:
    """Times of all codes on logarithmic axes, neighbours on a plain one; for threads and ranks the factor gained."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    scaling = case.name in ("threads", "ranks")
    ticks: set[float] = set()
    for index, code in enumerate(dict.fromkeys(row.code for row in table)):
        mine = [row for row in table if row.code == code]
        x = [row.n_neighbors if case.name == "neighbors" else row.x for row in mine]
        y = [mine[0].microseconds / row.microseconds if scaling else row.microseconds for row in mine]
        style: dict[str, Any] = {"marker": MARKERS[index % len(MARKERS)], "color": f"C{index % 10}"}
        style |= {"linestyle": "-", "linewidth": 2.5} if mine[0].ours else {"linestyle": "--"}
        axes.plot(x, y, label=code, **style)
        ticks.update(x)
    if scaling:
        axes.plot(sorted(ticks), sorted(ticks), color="black", linestyle=":", label="ideal")
    else:
        axes.set_yscale("log")
    if case.name == "size":
        axes.set_xscale("log")
    if case.name != "neighbors":
        axes.set_xticks(sorted(ticks), [f"{tick:,.0f}" for tick in sorted(ticks)])
        axes.minorticks_off()
    axes.set_xlabel(case.axis)
    axes.set_ylabel("times as fast" if scaling else "µs/atom")
    axes.set_title(f"{case.title} (solid: Tesseral)", fontsize=10)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.grid(alpha=0.3)
    return _written(figure, path)


def _memory(case: Case, records: Sequence[Record], path: Path) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4))
    for record in records:
        axes.plot(record["steps"], record["resident_mb"], marker=".", label=record["code"])
    axes.set_xlabel("steps")
    axes.set_ylabel("resident memory, MB")
    axes.set_ylim(bottom=0)
    axes.set_title(f"{case.title}, {records[0]['n_atoms']} atoms", fontsize=10)
    axes.legend(fontsize=8)
    return _written(figure, path)


def _written(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(path, dpi=140, bbox_inches="tight")
    pyplot.close(figure)
    return path
