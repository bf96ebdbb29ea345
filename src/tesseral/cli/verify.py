"""`tesseral verify`: checks that hold for every good model file."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def verify(
    model: Annotated[str, typer.Argument(help="Model file, or name of a shipped model.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the made-up structures.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Check a model on made-up structures of its elements; exit code 1 if a check fails.

    Compares the native engine with TorchScript, forces and stresses with central differences, and rotated,
    shifted, wrapped and reordered structures with the original, for bulk, slab, wire and cluster.
    """
    from tesseral.calculator.verification import verify as run_checks

    checks = list(run_checks(model, seed))
    if as_json:
        rows = [
            {"name": c.name, "difference": c.difference, "tolerance": c.tolerance, "passed": c.passed} for c in checks
        ]
        typer.echo(json.dumps(rows, indent=1))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table("check", "largest\nrelative difference", "tolerance", "")
        for check in checks:
            verdict = "pass" if check.passed else "[bold red]FAIL[/bold red]"
            table.add_row(check.name, f"{check.difference:.1e}", f"{check.tolerance:.0e}", verdict)
        Console().print(table)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)
