"""`tesseral demo`: molecular dynamics with a shipped model in every engine."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tesseral.cli.demo_simulation import Engine, Run, Simulation

LATTICE_CONSTANT = 5.43  # Å, diamond silicon


def demo(
    model: Annotated[str, typer.Option(help="A model that knows Si: name of a shipped one, or path.")] = "silicon",
    steps: Annotated[int, typer.Option(min=10, help="Steps of 1 fs.")] = 5000,
    repeat: Annotated[int, typer.Option(min=1, max=20, help="Cubic cells of 8 atoms per direction.")] = 3,
    temperature: Annotated[float, typer.Option(min=0.0, help="Temperature to reach, in K.")] = 600.0,
    output: Annotated[Path, typer.Option(help="Folder for trajectories, plots and metrics.")] = Path("tesseral-demo"),
    dtype: Annotated[str, typer.Option(help="float64, float32 or mixed.")] = "mixed",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the model.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the initial velocities.")] = 0,
) -> None:
    """Run constant-energy molecular dynamics of crystalline silicon in every engine that is installed.

    Prints how well the energy is conserved, the temperature and the speed, and writes trajectories and plots.
    """
    from tesseral.cli.demo_engines import ENGINES
    from tesseral.cli.demo_report import summary, write_files

    simulation = _simulation(model, steps, repeat, temperature, dtype, threads, seed)
    output.mkdir(parents=True, exist_ok=True)
    runs, skipped = _run_all(ENGINES, simulation)
    rows = [summary(run, simulation, runs[0]) for run in runs]
    _print_table(rows, simulation)
    for name, reason in skipped.items():
        typer.echo(f"{name}: skipped, {reason}")
    paths = write_files(output, runs, simulation, _metrics(rows, skipped, simulation))
    typer.echo("Written:")
    for path in paths:
        typer.echo(f"  {path}")


def _simulation(
    model: str, steps: int, repeat: int, temperature: float, dtype: str, threads: int, seed: int
) -> Simulation:
    """Diamond silicon with momenta that leave about `temperature` once half of their energy is potential."""
    from ase.build import bulk

    from tesseral.calculator.native import NativeModel
    from tesseral.cli.demo_simulation import Simulation, set_thermal_momenta

    native = NativeModel(model, dtype, threads)
    atoms = bulk("Si", "diamond", a=LATTICE_CONSTANT, cubic=True) * (repeat, repeat, repeat)
    native.species_indices(atoms.numbers)  # refuses a model that does not know silicon
    set_thermal_momenta(atoms, 2.0 * temperature, seed)
    return Simulation(native.path, atoms, steps, 1.0, 10, 50, dtype, threads)


def _run_all(engines: tuple[Engine, ...], simulation: Simulation) -> tuple[list[Run], dict[str, str]]:
    """The runs of all engines that are installed, and why the others were left out."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    runs, skipped = [], {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
    )
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        for engine in engines:
            reason = engine.missing()
            if reason is not None:
                skipped[engine.name] = reason
                continue
            task = progress.add_task(engine.name, total=simulation.n_steps)
            runs.append(engine.run(simulation, functools.partial(progress.advance, task)))
    return runs, skipped


def _print_table(rows: list[dict[str, Any]], simulation: Simulation) -> None:
    from rich.console import Console
    from rich.table import Table

    from tesseral.cli.demo_report import START

    typer.echo(
        f"{len(simulation.atoms)} Si atoms, {simulation.n_steps} steps of {simulation.timestep:g} fs at constant "
        f"energy; {simulation.model.name}, {simulation.dtype}, threads: {simulation.threads}"
    )
    headings = (
        "energy drift\neV/atom/ps",
        "energy noise\neV/atom",
        "temperature\nK",
        "steps/s",
        "µs/atom/step",
    )
    table = Table("engine", *headings)
    for row in rows:
        table.add_row(
            row["engine"],
            f"{row['energy_drift']:.1e}",
            f"{row['energy_fluctuation']:.1e}",
            f"{row['temperature']:.0f}",
            f"{row['steps_per_second']:.0f}",
            f"{row['microseconds_per_atom_step']:.2f}",
        )
    Console().print(table)
    for row in rows[1:]:
        typer.echo(
            f"{row['engine']}: potential energy within {row['start_difference']:.0e} eV/atom of {rows[0]['engine']}'s "
            f"in the first {START:g} ps"
        )


def _metrics(rows: list[dict[str, Any]], skipped: dict[str, str], simulation: Simulation) -> dict[str, Any]:
    """Contents of metrics.json."""
    from tesseral import __version__
    from tesseral.cli.demo_report import START

    return {
        "version": __version__,
        "model": simulation.model.name,
        "n_atoms": len(simulation.atoms),
        "n_steps": simulation.n_steps,
        "timestep_fs": simulation.timestep,
        "dtype": simulation.dtype,
        "threads": simulation.threads,
        "units": {
            "energy_drift": "eV/atom/ps",
            "energy_fluctuation": "eV/atom",
            "temperature": "K",
            "microseconds_per_atom_step": "us/atom/step",
            "start_difference": f"eV/atom, from {rows[0]['engine']} in the first {START:g} ps",
        },
        "engines": rows,
        "skipped": skipped,
    }
