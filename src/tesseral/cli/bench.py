"""`tesseral bench`: speed on this machine."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

PACKAGES = ("tesseral", "torch", "numpy", "ase", "vesin", "lammps", "ipi", "mace-torch")
#: cubic cells per direction: of the system that is timed, and of those in LAMMPS up to --cells
CELLS, LAMMPS_CELLS = 5, (5, 10, 20, 30)


def bench(
    train: Annotated[bool, typer.Option("--train", help="Time optimisation steps instead.")] = False,
    lammps: Annotated[bool, typer.Option("--lammps", help="Time the LAMMPS pair style instead.")] = False,
    ipi: Annotated[bool, typer.Option("--ipi", help="Time path integrals of water in i-PI instead.")] = False,
    mace: Annotated[
        bool, typer.Option("--mace", help="Time imported MACE models beside mace-torch with the same weights instead.")
    ] = False,
    memory: Annotated[
        int | None,
        typer.Option(min=20, metavar="STEPS", help="Follow the memory of LAMMPS over so many steps instead."),
    ] = None,
    style: Annotated[str, typer.Option(help="Pair style of --memory: tesseral or tesseral/torch.")] = "tesseral",
    cells: Annotated[
        int | None,
        typer.Option(min=1, max=30, help="Cubic cells of 8 atoms per direction (5; with --lammps up to 30)."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=7, help="Timed calls; the median is shown.")] = 15,
    instruction_set: Annotated[
        str, typer.Option(metavar="SET", help="Time the engine with auto, baseline, avx2 or avx512.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="Time the engine on cuda or cuda:N instead of the processor.")] = "cpu",
    peers: Annotated[bool, typer.Option(help="Also time other codes that are installed.")] = True,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile/--no-compile", help="With --mace or --device: also mace-torch compiled; takes minutes."
        ),
    ] = True,
    model: Annotated[Path | None, typer.Option(help="With --mace: a model of your own, a .model file.")] = None,
    structure: Annotated[
        Path | None, typer.Option(help="With --model: what it is timed on (silicon and water, if it knows them).")
    ] = None,
    head: Annotated[str | None, typer.Option(help="With --model: its head, if it has several.")] = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="With --model: open it although a pickle can run any program.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Time energies, forces and stress of rattled silicon on one core, in microseconds per atom.

    With --train: one optimisation step, compiled kernel beside the plain-PyTorch reference and beside mace-torch.
    With --lammps: the pair style beside the bare engine, by size, on two ranks, and beside other codes.
    With --ipi: 64 water molecules with 32 beads, in one call and bead by bead, and with mace-torch.
    With --mace: MACE models of 1,000 silicon atoms and 512 water molecules, imported and in mace-torch.
    With --memory: the resident memory of LAMMPS in the course of a simulation of 216 atoms.
    With --device cuda: the engine on a GPU, by size and precision, its kernels, and beside mace-torch there.
    """
    from tesseral.benchmarks.timing import processor, versions

    if train + lammps + ipi + mace + (memory is not None) > 1:
        raise typer.BadParameter("choose one of --train, --lammps, --ipi, --mace and --memory")
    if (model is not None or structure is not None or head is not None) and not mace:
        raise typer.BadParameter("--model, --structure and --head belong to --mace")
    if device != "cpu" and (train or lammps or ipi or mace or memory is not None):
        raise typer.BadParameter("--device times the engine: leave out --train, --lammps, --ipi, --mace and --memory")
    report: dict[str, Any] = {"processor": processor(), "versions": versions(PACKAGES), "unit": "us/atom"}
    if train:
        from tesseral.benchmarks.training import measure_beside_mace, measure_training
        from tesseral.models.allocation import keep_freed_memory

        keep_freed_memory()  # as `tesseral train` does
        report["training"] = measure_training(repeats=repeats)
        rounds = max(1, repeats // 5)
        report["mace_training"] = measure_beside_mace(rounds=rounds) if peers else {"skipped": "--no-peers"}
    elif lammps:
        report.update(_measure_lammps(cells or LAMMPS_CELLS[-1], repeats, peers))
    elif ipi:
        report.update(_measure_ipi(repeats, peers))
    elif mace:
        from tesseral.cli.bench_mace import measure_mace_import

        report["mace_import"] = measure_mace_import(
            cells or CELLS,
            repeats,
            model=model,
            trust_pickle=trust_pickle,
            head=head,
            structure=structure,
            compiled=compiled,
            progress=_progress(),
        )
    elif memory is not None:
        report["memory"] = _measure_memory(memory, style)
    elif device != "cpu":
        from tesseral.cli.bench_device import measure_on_device

        progress = _progress()
        report |= measure_on_device(device, cells, repeats, peers=peers, compiled=compiled, progress=progress)
    else:
        from tesseral.benchmarks.inference import measure_inference
        from tesseral.benchmarks.peers import measure_mace

        report["inference"] = measure_inference(cells or CELLS, repeats, instruction_set)
        report["mace_torch"] = measure_mace(cells or CELLS) if peers else {"skipped": "--no-peers"}
    if as_json:
        typer.echo(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        _print(report)
    if mace:
        from tesseral.cli.bench_mace import mace_import_agrees

        if not mace_import_agrees(report["mace_import"]):
            raise typer.Exit(1)


def _measure_lammps(cells: int, repeats: int, peers: bool) -> dict[str, Any]:
    """Everything about the pair style: ``lammps`` and ``mace_torch``."""
    from tesseral.benchmarks.lammps import measure_ranks, measure_sizes, measure_snap
    from tesseral.benchmarks.lammps_engine import measure_engine
    from tesseral.benchmarks.peers import measure_mace
    from tesseral.calculator.lammps_process import lammps_missing

    reason = lammps_missing()
    if reason is not None:
        raise FileNotFoundError(reason)
    sizes = (*(n for n in LAMMPS_CELLS if n < cells), cells)
    middle, rounds = sizes[:2][-1], max(1, repeats // 5)
    result: dict[str, Any] = {"load": [os.getloadavg()[0]]}
    with _progress() as progress:

        def start(name: str, total: int) -> functools.partial[None]:
            return functools.partial(progress.advance, progress.add_task(name, total=total))

        result["engine"] = measure_engine(sizes[:2], repeats, start("beside the bare engine", 6 * len(sizes[:2])))
        result["sizes"] = measure_sizes(sizes, rounds, start("sizes", rounds * len(sizes)))
        result["ranks"] = measure_ranks(middle, repeats // 3, start("one and two ranks", repeats // 3))
        result["snap"] = mace = {"skipped": "--no-peers"}
        if peers:
            result["snap"] = measure_snap(middle, rounds, start("beside SNAP", 2 * rounds))
            advance = start("mace-torch", 1)
            mace = measure_mace(min(cells, CELLS), 3)
            advance()
    result["load"].append(os.getloadavg()[0])
    return {"lammps": result, "mace_torch": mace}


def _measure_ipi(repeats: int, peers: bool) -> dict[str, Any]:
    """Path integrals: ``ipi`` and ``mace_torch``."""
    from tesseral.benchmarks.path_integrals import WAYS, measure_mace, measure_ways
    from tesseral.calculator.ipi_process import ipi_missing

    reason = ipi_missing()
    if reason is not None:
        raise FileNotFoundError(reason)
    rounds = max(1, repeats // 5)
    with _progress() as progress:
        task = progress.add_task("i-PI", total=rounds * len(WAYS))
        result = measure_ways(4 * repeats, rounds, functools.partial(progress.advance, task))
        mace = {"skipped": "--no-peers"}
        if peers:
            task = progress.add_task("mace-torch", total=1)
            mace = measure_mace()
            progress.advance(task)
    return {"ipi": result, "mace_torch": mace}


def _measure_memory(steps: int, style: str) -> dict[str, Any]:
    from tesseral.benchmarks.lammps import SAMPLES, measure_memory

    with _progress() as progress:
        task = progress.add_task(f"pair_style {style}", total=SAMPLES)
        return measure_memory(steps, style=style, advance=functools.partial(progress.advance, task))


def _progress() -> Any:
    """A bar for each part, on stderr so that the report stays apart."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console

    typer.echo(report["processor"] + ", one thread")
    typer.echo(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    console = Console()
    if "training" in report:
        console.print(_training_table(report["training"]))
        console.print(_mace_training_table(report["mace_training"]))
    elif "lammps" in report:
        for table in _lammps_tables(report["lammps"], report["mace_torch"]):
            console.print(table)
    elif "ipi" in report:
        console.print(_ipi_table(report["ipi"], report["mace_torch"]))
    elif "mace_import" in report:
        from tesseral.cli.bench_mace import mace_import_tables

        for part in mace_import_tables(report["mace_import"]):
            console.print(part, soft_wrap=isinstance(part, str), highlight=False, markup=False)
    elif "memory" in report:
        console.print(_memory_table(report["memory"]))
    elif "device" in report:
        from tesseral.cli.bench_device import device_tables

        for part in device_tables(report):
            console.print(part, soft_wrap=isinstance(part, str), highlight=False, markup=False)
        console.print(_mace_training_table(report["device_training"]))
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
        rate = f"{100 * inference['of_peak'][dtype]:.0f} % of the core's multiply-adds"
        table.add_row(f"native engine, {dtype}, list given ({rate})", f"{value:.2f}")
    for dtype, value in inference["md_step"].items():
        table.add_row(f"ASE calculator with skin, {dtype}", f"{value:.2f}")
    for dtype, value in inference["two_layers"].items():
        table.add_row(f"two layers, 128 channels, native engine, {dtype}, list given", f"{value:.2f}")
    if "us_per_atom" in mace:
        table.add_row("mace-torch 128x0e, two layers, float32, list given", f"{mace['us_per_atom']:.0f}")
    return table


def _training_table(training: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(f"optimisation step, {training['n_structures']} structures, {training['n_atoms']} atoms", "µs/atom")
    table.add_row("compiled kernel, float32", f"{training['compiled']:.1f}")
    table.add_row("plain PyTorch (reference), float32", f"{training['reference']:.1f}")
    table.add_row("ratio", f"{training['ratio']:.1f}")
    table.add_row("compiled kernel, two layers, float32", f"{training['layered']:.1f}")
    return table


def _mace_training_table(training: dict[str, Any]) -> Any:
    from rich.table import Table

    if "skipped" in training:
        return f"beside mace-torch 128x0e: skipped, {training['skipped']}"
    title = f"two layers, 128 channels, float32, beside mace-torch {training['version']}"
    table = Table("optimisation step", "threads", "µs/atom", "mace-torch takes", title=title)
    for case in training["cases"]:
        system, threads = f"{case['system']}, {case['n_atoms']} atoms", str(case["threads"])
        for name, kind in (("layered model", "layered"), ("MACE 128x0e, imported", "imported")):
            factor = f"{case[f'{kind}_factor']:.1f} times as long"
            table.add_row(f"{system}: {name}", threads, f"{case[kind]:.1f}", factor)
        table.add_row(f"{system}: mace-torch 128x0e", threads, f"{case['mace_torch']:.0f}", "")
    return table


def _ipi_table(ipi: dict[str, Any], mace: dict[str, Any]) -> Any:
    from rich.table import Table

    title = f"{ipi['n_atoms'] // 3} water molecules, {ipi['n_beads']} beads"
    table = Table("i-PI", "ms/step", "steps/s", "factor", title=title)
    for way, seconds in ipi["step"].items():
        connection, call = way.split(", ")
        factor = f"{ipi['speedup'][connection]:.2f} times as fast" if call == "one call" else ""
        table.add_row(way, f"{1e3 * seconds:.1f}", f"{1 / seconds:.1f}", factor)
    one = ipi["step"]["ffdirect, one call"]
    table.add_row("  of which the engine", f"{1e3 * ipi['engine']:.1f}", "", "")
    table.add_row("  the driver besides", f"{1e3 * (ipi['driver'] - ipi['engine']):.1f}", "", "")
    table.add_row("  i-PI besides", f"{1e3 * (one - ipi['driver']):.1f}", "", "")
    name = "mace-torch 128x0e, float32, ffdirect"
    if "step" in mace:
        factor = f"{mace['step'] / one:.0f} times as long"
        table.add_row(f"{name}, batch {mace['batch']}", f"{1e3 * mace['step']:.0f}", f"{1 / mace['step']:.3f}", factor)
    else:
        table.add_row(name, "skipped: " + mace["skipped"], "", "")
    return table


def _lammps_tables(lammps: dict[str, Any], mace: dict[str, Any]) -> list[Any]:
    from rich.table import Table

    engine = Table("atoms", "precision", "virial", "pair style\nµs/atom", "bare engine\nµs/atom", "ratio")
    for case in lammps["engine"]:
        engine.add_row(
            f"{case['n_atoms']:,}",
            case["dtype"],
            "each step" if case["virial"] else "in the engine only",
            f"{case['pair']:.2f}",
            f"{case['engine']:.2f}",
            f"{case['ratio']:.3f}",
        )
    sizes = Table("atoms, mixed", "step\nµs/atom", "pair style\nµs/atom", "lists\nµs/atom", "relative", "memory\nMB")
    for system in lammps["sizes"]["systems"]:
        sizes.add_row(
            f"{system['n_atoms']:,}",
            *(f"{system[key]:.2f}" for key in ("step", "pair", "neighbor_list", "relative")),
            "unknown" if system["resident_mb"] is None else f"{system['resident_mb']:.0f}",
        )
    return [engine, sizes, _codes_table(lammps, mace), *_lammps_notes(lammps, mace)]


def _codes_table(lammps: dict[str, Any], mace: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("step", "atoms", "µs/atom", "factor")
    ranks, snap = lammps["ranks"], lammps["snap"]
    if "speedup" in ranks:
        table.add_row("one rank", f"{ranks['n_atoms']:,}", f"{ranks['one']:.2f}", "")
        table.add_row(
            "two ranks", f"{ranks['n_atoms']:,}", f"{ranks['two']:.2f}", f"{ranks['speedup']:.2f} times as fast"
        )
    if "factor" in snap:
        table.add_row("atoms held, tesseral", f"{snap['n_atoms']:,}", f"{snap['tesseral']:.2f}", "")
        factor = f"{snap['factor']:.1f} times as long"
        table.add_row("atoms held, snap twojmax 8", f"{snap['n_atoms']:,}", f"{snap['snap']:.1f}", factor)
    if "us_per_atom" in mace:
        own = lammps["sizes"]["systems"][0]["step"]
        factor = f"{mace['us_per_atom'] / own:.0f} times as long"
        table.add_row(
            "mace-torch 128x0e, float32, list given", f"{mace['n_atoms']:,}", f"{mace['us_per_atom']:.0f}", factor
        )
    return table


def _lammps_notes(lammps: dict[str, Any], mace: dict[str, Any]) -> list[str]:
    """Lines below the tables."""
    sizes, load = lammps["sizes"], lammps["load"]
    notes = [f"cost per atom varies by {100 * sizes['spread']:.0f} % with size; load {load[0]:.1f} to {load[1]:.1f}"]
    if sizes["bytes_per_atom"] is not None:
        notes.append(f"memory: {sizes['base_mb']:.0f} MB and {sizes['bytes_per_atom']:.0f} bytes per atom")
    for name, result in (("two ranks", lammps["ranks"]), ("snap", lammps["snap"]), ("mace-torch 128x0e", mace)):
        if "skipped" in result:
            notes.append(f"{name}: skipped, {result['skipped']}")
    return notes


def _memory_table(memory: dict[str, Any]) -> Any:
    from rich.table import Table

    title = f"pair_style {memory['style']}, {memory['n_atoms']} atoms, {memory['rebuilds']} neighbour lists"
    table = Table("step", "resident memory, MB", title=title)
    for step, resident in zip(memory["steps"], memory["resident_mb"], strict=True):
        table.add_row(f"{step:,}", f"{resident:.2f}")
    return table
