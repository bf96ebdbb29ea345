"""What a study makes of its trained variants: cost in the native engine, table, Pareto plot."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from tesseral.benchmarks.timing import processor, versions
from tesseral.calculator.evaluate import joined_graph
from tesseral.calculator.native import NativeModel
from tesseral.models.config import Config
from tesseral.models.file import write_atomically
from tesseral.models.pipeline import MODEL_NAME

COST_ATOMS = 1000  # about so many atoms of the test set are timed as one batch
REPEATS = 30
MOVE = 1e-3  # positions change by this much (Å) before each call, so that nothing can be reused by accident
COLORS = {"local": "tab:orange", "layered": "tab:blue"}


@dataclass
class Variant:
    """One configuration; several names where variants of the study come to the same."""

    names: list[str]
    folder: Path
    config: Config
    result: dict[str, Any] = field(default_factory=dict)  # empty until trained

    @property
    def label(self) -> str:
        return " = ".join(self.names)

    @property
    def kind(self) -> str:
        return "local" if self.config.model.layers == 1 else "layered"

    @property
    def point(self) -> tuple[float, float]:
        """Cost in us/atom and root mean square force error in meV/Å."""
        return self.result["microseconds_per_atom"], self.result["forces"]["rmse"]


def report(variants: Sequence[Variant], images: Sequence[Atoms], output: Path) -> None:
    """Measure the costs and write results.json, table.md and pareto.png."""
    timing = measure_costs(variants, images)
    results = []
    for variant in variants:
        config = variant.result["config"]
        sections = {"model": config["model"], "training": config["training"]}  # not the paths of the data
        measured = {key: value for key, value in variant.result.items() if key != "config"}
        results.append({"names": variant.names, "kind": variant.kind, **measured, **sections})
    units = {"energy_per_atom": "meV/atom", "forces": "meV/Å"}
    write_json(output / "results.json", {"units": units, "timing": timing, "variants": results})
    write_atomically(output / "table.md", table_text(variants).encode("utf-8"))
    plot(variants, output / "pareto.png")
    print(f"\n{table_text(variants)}\n{output}: results.json, table.md, pareto.png")


def measure_costs(variants: Sequence[Variant], images: Sequence[Atoms]) -> dict[str, Any]:
    """Time the native engine in float32 on one thread, neighbour list given; returns what was timed on what.

    All variants take turns, and the best of the repeats counts: what else runs on the machine slows all of them alike.
    """
    count = max(1, min(len(images), round(COST_ATOMS * len(images) / sum(map(len, images)))))
    batch = [images[(2 * k + 1) * len(images) // (2 * count)] for k in range(count)]  # evenly spread
    natives = [NativeModel(variant.folder / MODEL_NAME, "float32", 1) for variant in variants]
    graphs = [joined_graph(native, batch) for native in natives]
    n_atoms = len(graphs[0][0])
    best = np.full(len(variants), np.inf)
    for moves in np.random.default_rng(0).uniform(-MOVE, MOVE, (REPEATS + 1, n_atoms, 3)):  # the first is a warm-up
        for index, (native, (positions, *rest)) in enumerate(zip(natives, graphs, strict=True)):
            moved = positions + moves
            started = time.perf_counter()
            native.compute(moved, *rest)
            best[index] = min(best[index], time.perf_counter() - started)
    for variant, seconds in zip(variants, best, strict=True):
        variant.result["microseconds_per_atom"] = float(1e6 * seconds / n_atoms)
    packages = versions(["tesseral", "torch"])
    return {"atoms": n_atoms, "processor": processor(), "instructions": natives[0].instruction_set, **packages}


def pareto_front(variants: Sequence[Variant]) -> list[Variant]:
    """Those than which no other is both cheaper and more accurate, from the cheapest on."""
    front: list[Variant] = []
    for variant in sorted(variants, key=lambda variant: variant.point):
        if not front or variant.point[1] < front[-1].point[1]:
            front.append(variant)
    return front


def table_text(variants: Sequence[Variant]) -> str:
    """The results in Markdown; variants of the Pareto front are bold."""
    front = pareto_front(variants)
    lines = [
        "| variant | E RMSE, meV/atom | E MAE | F RMSE, meV/Å | F MAE | us/atom | training, min |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for variant in variants:
        result = variant.result
        cells = [f"**{variant.label}**" if variant in front else variant.label]
        for quantity, digits in (("energy_per_atom", 3), ("forces", 2)):
            errors = result[quantity]
            cells += [f"{errors[kind]:.{digits}f}" if errors else "-" for kind in ("rmse", "mae")]
        cells += [f"{result['microseconds_per_atom']:.2f}", f"{result['training_seconds'] / 60:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(variants: Sequence[Variant], path: Path) -> None:
    """Force error against cost with the Pareto front, both logarithmic."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log", xlabel="cost / (µs/atom)", ylabel="RMSE of forces / (meV/Å)")
    costs, errors = zip(*(variant.point for variant in pareto_front(variants)), strict=True)
    axes.plot(costs, errors, color="grey", linewidth=1, drawstyle="steps-post", zorder=1, label="Pareto front")
    for kind, color in COLORS.items():
        points = [variant.point for variant in variants if variant.kind == kind]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=color, markersize=5, label=kind)
    for axis, values in zip((axes.xaxis, axes.yaxis), zip(*(v.point for v in variants), strict=True), strict=True):
        wide = max(values) > 10 * min(values)
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if wide else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.margins(0.12)
    axes.legend()
    write_names(figure, variants)
    figure.savefig(path, dpi=150)


def write_names(figure: Figure, variants: Sequence[Variant]) -> None:
    """Names beside the points, each where it covers no other name and no point if there is such a place."""
    (axes,), canvas = figure.axes, FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    places = [(x, y) for far in (4, 12, 22, 32, 42) for x in (far, -far) for y in (far, -far)]
    taken: list[Any] = []
    points = [axes.transData.transform(variant.point) for variant in variants]
    for variant in variants:
        for place in places:
            align = {"ha": "left" if place[0] > 0 else "right", "va": "bottom" if place[1] > 0 else "top"}
            style: dict[str, Any] = {"color": COLORS[variant.kind], "fontsize": 8, "ma": align["ha"], **align}
            name = variant.label.replace(" = ", "\n= ")
            text = axes.annotate(name, variant.point, place, textcoords="offset points", **style)
            box = text.get_window_extent(canvas.get_renderer())
            if place == places[-1] or not (box.count_overlaps(taken) or any(box.contains(*point) for point in points)):
                taken.append(box)
                line = {"arrowstyle": "-", "color": COLORS[variant.kind], "linewidth": 0.5}
                axes.annotate("", variant.point, place, textcoords="offset points", arrowprops=line)
                break
            text.remove()


def write_json(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8"))
