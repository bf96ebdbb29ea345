"""What a training leaves behind for people: the error table as JSON and plots of errors and of the learning curve."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tesseral.models.file import write_atomically
from tesseral.models.frames import Frame, matrix_to_voigt
from tesseral.models.metrics import UNITS, error_table, label_errors, statistics

#: points drawn per set in a parity plot; the rest would only thicken the cloud
MAX_POINTS = 20000
TITLES = {"energy_per_atom": "energy", "forces": "forces", "stress": "stress"}
LABEL_UNITS = {"energy_per_atom": "eV/atom", "forces": "eV/Å", "stress": "eV/Å³"}


@dataclass(frozen=True)
class EvaluatedSet:
    """Frames of a set, for instance the test frames, and a prediction (``energy``, ``forces``, ``stress``) of each."""

    frames: Sequence[Frame]
    predictions: Sequence[Mapping[str, Any]]

    @functools.cached_property
    def table(self) -> dict[str, Any]:
        """The error table of the set."""
        return error_table(self.frames, self.predictions)


def write_report(
    folder: Path,
    sets: Mapping[str, EvaluatedSet],
    e0: Mapping[str, float],
    history: Sequence[Mapping[str, Any]],
    before: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write metrics.json, parity plots, error distributions and the learning curve.

    Args:
        folder: where the files go; made if need be.
        sets: evaluated frames by name (``train``, ``validation``, ``test``, ``replay``).
        e0: energy of the free atoms in eV by element; parity plots show energies relative to them.
        history: one record per epoch, as in log.jsonl.
        before: error tables by set of the model that a fine-tuning started from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = {name: one.table for name, one in sets.items()}
    content = {"units": UNITS, **tables} | ({"before": before} if before else {})
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_atomically(folder / "metrics.json", text.encode("utf-8"))
    for quantity in UNITS:
        if any(table[quantity] for table in tables.values()):
            _save(_parity_plot(quantity, sets, e0), folder / f"parity_{TITLES[quantity]}.png")
    _save(_distribution_plot(sets), folder / "error_distributions.png")
    if history:
        _save(_learning_curve(history), folder / "learning_curve.png")


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())


def _pairs(quantity: str, one: EvaluatedSet, e0: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of all frames that carry the label, flat, in LABEL_UNITS."""
    labels, predictions = [np.zeros(0)], [np.zeros(0)]
    for frame, prediction in zip(one.frames, one.predictions, strict=True):
        errors = label_errors(frame, prediction).get(quantity)
        if errors is None:
            continue
        label = _label(quantity, frame, e0)
        labels.append(label)
        predictions.append(label + np.ravel(errors) / 1000.0)
    return np.concatenate(labels), np.concatenate(predictions)


def _label(quantity: str, frame: Frame, e0: Mapping[str, float]) -> np.ndarray:
    """A label that the frame carries, flat, in LABEL_UNITS; energies relative to the free atoms."""
    if quantity == "energy_per_atom" and frame.energy is not None:
        return np.array([frame.energy - sum(e0.get(symbol, 0.0) for symbol in frame.atoms.symbols)]) / len(frame)
    if quantity == "forces" and frame.forces is not None:
        return frame.forces.ravel()
    return matrix_to_voigt(np.asarray(frame.stress))


def _parity_plot(quantity: str, sets: Mapping[str, EvaluatedSet], e0: Mapping[str, float]) -> Figure:
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    low, high = np.inf, -np.inf
    for name, one in sets.items():
        labels, predictions = _pairs(quantity, one, e0)
        summary = statistics([predictions - labels])
        if summary is None:
            continue
        low, high = min(low, labels.min()), max(high, labels.max())
        if labels.size > MAX_POINTS:
            chosen = np.random.default_rng(0).choice(labels.size, MAX_POINTS, replace=False)
            labels, predictions = labels[chosen], predictions[chosen]
        text = f"{name}: MAE {1000 * summary['mae']:.3g}, RMSE {1000 * summary['rmse']:.3g} {UNITS[quantity]}"
        axes.plot(labels, predictions, ".", markersize=3, alpha=0.5, label=text, rasterized=True)
    axes.axline((low, low), slope=1.0, color="black", linewidth=0.7)
    margin = 0.05 * (high - low) or 1.0
    axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), aspect="equal")
    relative = " - E0" if quantity == "energy_per_atom" else ""
    axes.set_xlabel(f"reference {TITLES[quantity]}{relative} / {LABEL_UNITS[quantity]}")
    axes.set_ylabel(f"predicted {TITLES[quantity]}{relative} / {LABEL_UNITS[quantity]}")
    axes.legend(fontsize="small")
    return figure


def _distribution_plot(sets: Mapping[str, EvaluatedSet]) -> Figure:
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 3), UNITS, strict=True):
        for name, one in sets.items():
            errors = [
                label_errors(f, p).get(quantity, np.zeros(0)) for f, p in zip(one.frames, one.predictions, strict=True)
            ]
            flat = np.concatenate([np.zeros(0), *map(np.ravel, errors)])
            if flat.size:
                width = np.quantile(np.abs(flat), 0.99) or 1.0
                bins = np.linspace(-width, width, 61)
                axes.hist(np.clip(flat, -width, width), bins=bins, density=True, histtype="step", label=name)
        axes.set_xlabel(f"error of {TITLES[quantity]} / ({UNITS[quantity]})")
        axes.set_yticks([])
        if axes.patches:
            axes.legend(fontsize="small")
        else:
            axes.text(0.5, 0.5, "no labels", transform=axes.transAxes, ha="center")
    return figure


def _learning_curve(history: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, label, unit in zip(figure.subplots(1, 2), ("energy", "forces"), ("meV/atom", "meV/Å"), strict=True):
        for part in ("training", "validation", "replay validation"):
            _draw_curve(axes, history, part, f"{label}_rmse")
        axes.set(xlabel="epoch", ylabel=f"RMSE of {label} / ({unit})")
        if axes.lines:
            axes.set_yscale("log")
            axes.legend(fontsize="small")
    return figure


def _draw_curve(axes: Axes, history: Sequence[Mapping[str, Any]], part: str, key: str) -> None:
    points = [(record["epoch"], record[part][key]) for record in history if key in record.get(part, {})]
    if points:
        epochs, values = zip(*points, strict=True)
        axes.plot(epochs, values, label=part, marker="." if len(points) < 3 else None)
