"""The error table shared by ``tesseral train`` (report) and ``tesseral eval``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tesseral.models.frames import Frame, matrix_to_voigt, voigt_to_matrix

#: quantity -> unit of its errors in the table
UNITS = {"energy_per_atom": "meV/atom", "forces": "meV/Å", "stress": "meV/Å^3"}


def label_errors(frame: Frame, prediction: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Predicted minus labelled values of one frame, for the labels it has.

    Args:
        frame: the structure with its labels.
        prediction: ``energy`` (eV), ``forces`` [n_atoms, 3] (eV/Å), ``stress`` ([3, 3] or Voigt [6], eV/Å^3, or None).

    Returns:
        ``energy_per_atom`` [1] in meV/atom, ``forces`` [n_atoms, 3] in meV/Å, ``stress`` [6] (xx, yy, zz, yz, xz, xy)
        in meV/Å^3; absent labels are left out.

    Raises:
        ValueError: a prediction is missing or not finite.
    """
    errors: dict[str, np.ndarray] = {}
    if frame.energy is not None:
        errors["energy_per_atom"] = np.array([float(prediction["energy"]) - frame.energy]) / len(frame)
    if frame.forces is not None:
        errors["forces"] = np.asarray(prediction["forces"], dtype=np.float64) - frame.forces
    if frame.stress is not None:
        if prediction["stress"] is None:
            raise ValueError(f"{frame.source}: has a stress label, but no stress was predicted")
        stress = np.asarray(prediction["stress"], dtype=np.float64)
        stress = voigt_to_matrix(stress) if stress.shape == (6,) else stress
        errors["stress"] = matrix_to_voigt(stress - frame.stress)
    for quantity, values in errors.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{frame.source}: the predicted {quantity} is not finite")
    return {quantity: 1000.0 * values for quantity, values in errors.items()}


def error_table(frames: Sequence[Frame], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Errors over all frames, per element and per config_type.

    Args:
        frames: structures with labels.
        predictions: one per frame, see :func:`label_errors`.

    Returns:
        ``n_frames``, ``n_atoms``; ``energy_per_atom`` (meV/atom), ``forces`` (meV/Å, over components) and ``stress``
        (meV/Å^3, over the six independent components), each ``{mae, rmse, max, count}`` or None without labels;
        ``per_element`` with the forces on the atoms of an element; ``per_config_type`` with the same keys as the
        whole table.

    Raises:
        ValueError: the numbers of frames and predictions differ, or a prediction is missing or not finite.
    """
    if len(frames) != len(predictions):
        raise ValueError(f"{len(frames)} frames, but {len(predictions)} predictions")
    errors = [label_errors(frame, prediction) for frame, prediction in zip(frames, predictions, strict=True)]
    table = _summary(frames, errors)
    table["per_element"] = _per_element(frames, errors)
    groups: dict[str, list[int]] = {}
    for index, frame in enumerate(frames):
        groups.setdefault(frame.config_type, []).append(index)
    table["per_config_type"] = {
        name: _summary([frames[i] for i in indices], [errors[i] for i in indices])
        for name, indices in sorted(groups.items())
    }
    return table


def statistics(values: Sequence[np.ndarray]) -> dict[str, float] | None:
    """Mean absolute, root mean square and largest absolute error of all numbers in ``values``; None without any."""
    flat = np.concatenate([np.zeros(0), *(np.ravel(v) for v in values)])
    if flat.size == 0:
        return None
    return {
        "mae": float(np.abs(flat).mean()),
        "rmse": float(np.sqrt((flat**2).mean())),
        "max": float(np.abs(flat).max()),
        "count": int(flat.size),
    }


def _summary(frames: Sequence[Frame], errors: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
    table: dict[str, Any] = {"n_frames": len(frames), "n_atoms": sum(map(len, frames))}
    for quantity in UNITS:
        table[quantity] = statistics([e[quantity] for e in errors if quantity in e])
    return table


def _per_element(frames: Sequence[Frame], errors: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
    elements = sorted(
        {(number, symbol) for f in frames for number, symbol in zip(f.atoms.numbers, f.atoms.symbols, strict=True)}
    )
    table = {}
    for number, symbol in elements:
        masks = [frame.atoms.numbers == number for frame in frames]
        table[symbol] = {
            "n_atoms": int(sum(mask.sum() for mask in masks)),
            "forces": statistics([e["forces"][mask] for e, mask in zip(errors, masks, strict=True) if "forces" in e]),
        }
    return table


def table_rows(table: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table as text: (group, frames, E mae, E rmse, F mae, F rmse, S mae, S rmse) with ``-`` where unlabelled.

    Groups: all, then each config_type, then each element (forces only), in the units of ``UNITS``.
    """

    def row(name: str, entry: Mapping[str, Any], count: str) -> tuple[str, ...]:
        cells = []
        for quantity in UNITS:
            values = entry.get(quantity)
            cells += ["-", "-"] if values is None else [_number(values["mae"]), _number(values["rmse"])]
        return (name, count, *cells)

    rows = [row("all", table, str(table["n_frames"]))]
    if len(table["per_config_type"]) > 1:
        rows += [row(name, entry, str(entry["n_frames"])) for name, entry in table["per_config_type"].items()]
    if len(table["per_element"]) > 1:
        rows += [row(f"atoms of {name}", entry, "") for name, entry in table["per_element"].items()]
    return rows


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def print_error_table(console: Console, title: str, table: dict[str, Any]) -> None:
    """Print errors over all frames, per config_type and per element, as MAE and RMSE."""
    grid = Table(title=title, title_justify="left")
    grid.add_column("", no_wrap=True)
    for heading in ("frames", "E MAE\nmeV/atom", "E RMSE", "F MAE\nmeV/Å", "F RMSE", "stress MAE\nmeV/Å^3", "RMSE"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for row in table_rows(table):
        grid.add_row(*row)
    console.print(grid)
