"""`tesseral verify`: checks that hold for every good model file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ase import Atoms

    from tesseral.calculator.verification import Check


def verify(
    model: Annotated[str, typer.Argument(help="Model file, or name of a shipped model.")],
    structure: Annotated[
        Path | None, typer.Argument(help="Structures to check beside the made-up ones: any file that ASE reads.")
    ] = None,
    all_frames: Annotated[
        bool, typer.Option("--all-frames", help="Check every frame of the file, not only the last.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the made-up structures.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Check that every way into a model gives the same, correct numbers; exit code 1 if one does not.

    Compares the ASE calculator in float64 with TorchScript, with central differences of its energy, with rotated,
    shifted, wrapped and reordered structures, with the other precisions, with LAMMPS on one, two and three ranks
    and through TorchScript, and with i-PI by a socket and with several beads in one call, for bulk, slab, wire and
    cluster made up from the model's elements.
    """
    from rich.console import Console

    from tesseral.calculator.verification import Check, Skipped
    from tesseral.calculator.verification import verify as run_checks

    structures = [] if structure is None else read_structures(structure, all_frames)
    outcomes: list[Check | Skipped] = []
    with Console(stderr=True).status("checking ...") as status:
        for outcome in run_checks(model, structures, seed):
            outcomes.append(outcome)
            status.update(f"checked: {outcome.name} ...")
    checks = [outcome for outcome in outcomes if isinstance(outcome, Check)]
    skipped = {outcome.name: outcome.reason for outcome in outcomes if isinstance(outcome, Skipped)}
    if as_json:
        typer.echo(json.dumps({"checks": [_row(check) for check in checks], "skipped": skipped}, indent=1))
    else:
        _print_table(checks, skipped)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


def read_structures(path: Path, all_frames: bool) -> list[Atoms]:
    """The last structure of a file, or all.

    Raises:
        FileNotFoundError: no such file.
        ValueError: ASE cannot read it, or a structure in it has no atoms.
    """
    import ase.io

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        content = ase.io.read(path, ":" if all_frames else "-1:")
    except Exception as error:  # the readers of ASE raise anything from KeyError to EOFError
        raise ValueError(f"{path}: cannot be read as structures: {type(error).__name__}: {error}") from error
    structures = content if isinstance(content, list) else [content]
    if not structures or not all(map(len, structures)):
        raise ValueError(f"{path}: holds {'a structure without atoms' if structures else 'no structures'}")
    return structures


def _row(check: Check) -> dict[str, object]:
    return {
        "name": check.name,
        "differences": check.differences,
        "tolerance": check.tolerance,
        "passed": check.passed,
        "error": check.error,
    }


def _print_table(checks: Sequence[Check], skipped: dict[str, str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from tesseral.calculator.verification import QUANTITIES

    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("largest difference from\nASE in float64, relative", no_wrap=True)
    for heading in ("energy", "forces", "stress", "atomic\nenergy", "atomic\nvirial", "limit", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for check in checks:
        numbers = [
            f"{check.differences[quantity]:.0e}" if quantity in check.differences else "–" for quantity in QUANTITIES
        ]
        verdict = "pass" if check.passed else "[bold red]FAIL[/bold red]"
        table.add_row(check.name, *numbers, f"{check.tolerance:.0e}", verdict)
    Console().print(table)
    for check in checks:
        if check.error:
            typer.echo(f"{check.name}: {check.error}")
    for name, reason in skipped.items():
        typer.echo(f"{name}: skipped, {reason}")
