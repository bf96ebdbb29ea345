"""`tesseral bench`: speed on this machine."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

PACKAGES = ("tesseral", "torch", "numpy", "ase", "vesin", "mace-torch")


def bench(
    train: Annotated[bool, typer.Option("--train", help="Time optimisation steps instead.")] = False,
    cells: Annotated[int, typer.Option(min=1, max=30, help="Cubic cells of 8 atoms per direction.")] = 5,
    repeats: Annotated[int, typer.Option(min=7, help="Timed calls; the median is shown.")] = 15,
    peers: Annotated[bool, typer.Option(help="Also time other codes that are installed.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Time energies, forces and stress of rattled silicon on one core, in microseconds per atom.

    With --train: one optimisation step, compiled kernel beside the plain-PyTorch reference.
    """
    from tesseral.benchmarks.timing import processor, versions

    report: dict[str, Any] = {"processor": processor(), "versions": versions(PACKAGES), "unit": "us/atom"}
    if train:
        from tesseral.benchmarks.training import measure_training

        report["training"] = measure_training(repeats=repeats)
    else:
        from tesseral.benchmarks.inference import measure_inference
        from tesseral.benchmarks.peers import measure_mace

        report["inference"] = measure_inference(cells, repeats)
        report["mace_torch"] = measure_mace(cells) if peers else {"skipped": "--no-peers"}
    if as_json:
        typer.echo(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        _print(report)


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console

    typer.echo(report["processor"] + ", one thread")
    typer.echo(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    console = Console()
    if "training" in report:
        console.print(_training_table(report["training"]))
    else:
        inference = report["inference"]
        typer.echo(
            f"rattled silicon, {inference['n_atoms']} atoms, {inference['n_neighbors']:.1f} neighbours within 5 Å; "
            f"64 channels, l_max 3, nu 3; {inference['instruction_set']}"
        )
        console.print(_inference_table(inference, report["mace_torch"]))
        if "skipped" in report["mace_torch"]:
            typer.echo(f"mace-torch 128x0e: skipped, {report['mace_torch']['skipped']}")


def _inference_table(inference: dict[str, Any], mace: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("energies, forces and stress", "µs/atom")
    table.add_row("neighbour list (vesin)", f"{inference['neighbor_list']:.2f}")
    for dtype, value in inference["engine"].items():
        table.add_row(f"native engine, {dtype}, list given", f"{value:.2f}")
    for dtype, value in inference["md_step"].items():
        table.add_row(f"ASE calculator with skin, {dtype}", f"{value:.2f}")
    if "us_per_atom" in mace:
        table.add_row("mace-torch 128x0e, float32, list given", f"{mace['us_per_atom']:.0f}")
    return table


def _training_table(training: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(f"optimisation step, {training['n_structures']} structures, {training['n_atoms']} atoms", "µs/atom")
    table.add_row("compiled kernel, float32", f"{training['compiled']:.1f}")
    table.add_row("plain PyTorch (reference), float32", f"{training['reference']:.1f}")
    table.add_row("ratio", f"{training['ratio']:.1f}")
    return table
