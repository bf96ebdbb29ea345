"""`tesseral bench --device cuda`: the engine on a GPU, its kernels, and mace-torch beside it."""

from __future__ import annotations

import functools
import os
from typing import Any

#: cubic cells of the profile, and of the systems that mace-torch computes too: 1,000 and 17,576 atoms
PROFILE_CELLS, MACE_CELLS = 13, (5, 13)
#: structures in a batch of the training step, and cubic cells of each: 1,728 atoms
TRAINING = (8, 3)


def measure_on_device(
    device: str, cells: int | None, repeats: int, *, peers: bool, compiled: bool, progress: Any
) -> dict[str, Any]:
    """Everything about a device.

    Args:
        device: cuda or cuda:N.
        cells: of the systems, cubic cells of 8 atoms per direction; None: several sizes.
        repeats: timed calls of each.
        peers: whether mace-torch is timed too, if it is installed.
        compiled: also in its compile mode.
        progress: bar of rich.

    Returns:
        ``device`` and ``device_profile``, of the modules of these names; ``device_mace``: reports of
        `measure_imported`, one for each size, or ``skipped``; ``device_training``: of `measure_beside_mace`.
    """
    from tesseral.benchmarks import device as on_device
    from tesseral.benchmarks.device_profile import measure_profile
    from tesseral.benchmarks.training import measure_beside_mace

    sizes = on_device.CELLS if cells is None else (cells,)
    report: dict[str, Any] = {"device": on_device.measure_device(device, sizes, repeats)}
    report["device_profile"] = measure_profile(device, cells or PROFILE_CELLS, repeats)
    report["device_mace"] = report["device_training"] = {"skipped": "--no-peers"}
    if peers:
        with progress:
            report["device_mace"] = _beside_mace(device, cells, repeats, compiled, progress)
        structures, side = (1, cells) if cells is not None else TRAINING
        report["device_training"] = measure_beside_mace(structures, side, max(1, repeats // 5), device)
    return report


def _beside_mace(device: str, cells: int | None, repeats: int, compiled: bool, progress: Any) -> Any:
    """Imported MACE models of silicon, or why there are none."""
    from tesseral.benchmarks.imported_mace import DEVICE_WAYS, measure_imported
    from tesseral.models.mace_import.source import MaceImportError

    ways = [way for way, (_, options) in DEVICE_WAYS.items() if compiled or "--compile" not in options]
    reports = []
    try:
        for side in MACE_CELLS if cells is None else (cells,):
            load = [os.getloadavg()[0]]
            task = progress.add_task(f"beside mace-torch, {8 * side**3:,} atoms", total=None)

            def start(n_parts: int, task: Any = task) -> functools.partial[None]:
                progress.update(task, total=n_parts)
                return functools.partial(progress.advance, task)

            measured = measure_imported(
                side, repeats, dtypes=["float32"], ways=ways, systems=["silicon"], device=device, start=start
            )
            reports.append({**measured, "load": [*load, os.getloadavg()[0]]})
    except (ImportError, MaceImportError, RuntimeError) as error:
        return {"skipped": str(error)}
    return reports


def device_tables(report: dict[str, Any]) -> list[Any]:
    """What `measure_on_device` gives, for the console of rich: tables and lines."""
    from tesseral.cli.bench_mace import mace_import_tables

    parts = [_sizes_table(report["device"]), *_failures(report["device"]), *_profile_tables(report["device_profile"])]
    if "skipped" in report["device_mace"]:
        return [*parts, f"beside mace-torch: skipped, {report['device_mace']['skipped']}"]
    for measured in report["device_mace"]:
        parts += mace_import_tables(measured)
    return parts


def _sizes_table(measured: dict[str, Any]) -> Any:
    from rich.table import Table

    title = f"energies, forces and the virial on {measured['device']}, list given"
    table = Table("model", "precision", "atoms", "million atoms/s", "µs/atom", "of peak", "kB/atom", title=title)
    for case in measured["cases"]:
        speed = f"{1e-6 * case['atom_steps_per_second']:.2f}", f"{case['us_per_atom']:.3f}"
        memory = f"{1e-3 * case['bytes_per_atom']:.1f}"
        table.add_row(case["model"], case["dtype"], f"{case['n_atoms']:,}", *speed, _share(case, "of_peak"), memory)
    return table


def _failures(measured: dict[str, Any]) -> list[str]:
    """Why there were no graphs, if there were none."""
    reasons = {case["graph_failure"] for case in measured["cases"]} - {""}
    return [f"no CUDA graph, each kernel was launched by itself: {reason}" for reason in sorted(reasons)]


def _profile_tables(profile: dict[str, Any]) -> list[Any]:
    from rich.table import Table

    adds, memory = (1e-12 * profile[f"{name}_per_second"] for name in ("multiply_adds", "bytes"))
    parts: list[Any] = [
        f"the device: {adds:.1f} T multiply-adds/s in {profile['dtype']}, {memory:.2f} TB/s read and written by a copy"
    ]
    for model, rows in profile["models"].items():
        title = f"{model}, {profile['n_atoms']:,} atoms, {profile['n_neighbors']:.0f} neighbours, {profile['dtype']}"
        columns = ("kernels", "calls", "ns/atom", "bytes\n/atom", "of\nmemory", "multiply-\nadds/atom", "of\npeak")
        table = Table(*columns, title=title, title_justify="left")
        for row in rows:
            amounts = [f"{row[key]:,.0f}" if key in row else "" for key in ("bytes_per_atom", "multiply_adds_per_atom")]
            of_memory, of_peak = _share(row, "of_memory"), _share(row, "of_peak")
            time = f"{row['launches']:.0f}", f"{row['ns_per_atom']:.2f}"
            table.add_row(row["name"], *time, amounts[0], of_memory, amounts[1], of_peak)
        table.add_row("all", "", f"{sum(row['ns_per_atom'] for row in rows):.2f}")
        parts.append(table)
    return parts


def _share(row: dict[str, Any], key: str) -> str:
    return f"{100 * row[key]:.0f} %" if key in row else ""
