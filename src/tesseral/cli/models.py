"""`tesseral models`: the models that come with the package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """List the shipped models: name, elements, cutoff, errors, size and path.

    A name can be written wherever a model path is expected. Errors are root mean square errors on the test
    set, or on the validation set where there is no test set.
    """
    from tesseral.models.registry import list_models

    entries = [
        {
            "name": model.name,
            "path": str(model.path),
            "species": model.metadata["species"],
            "cutoff": model.metadata["cutoff"],
            "description": model.metadata.get("description", ""),
            "reference_method": model.metadata.get("reference_method", ""),
            "citation": model.metadata.get("citation", ""),
            "license": model.metadata.get("license", ""),
            "errors": model.metadata.get("training", {}).get("errors", {}),
            "size_bytes": model.path.stat().st_size,
        }
        for model in list_models()
    ]
    if as_json:
        typer.echo(json.dumps(entries, indent=1, ensure_ascii=False))
    else:
        _print_table(entries)


def _print_table(entries: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "elements", "cutoff\nÅ", "E RMSE\nmeV/atom", "F RMSE\nmeV/Å", "set", "kB")
    for entry in entries:
        chosen, errors = _headline_errors(entry["errors"])
        table.add_row(
            entry["name"],
            " ".join(entry["species"]),
            f"{entry['cutoff']:g}",
            _root_mean_square(errors, "energy_per_atom"),
            _root_mean_square(errors, "forces"),
            chosen,
            f"{entry['size_bytes'] / 1000:.0f}",
        )
    console = Console()
    console.print(table if entries else "No models are shipped with this installation.")
    for entry in entries:
        typer.echo(f"{entry['name']}: {entry['path']}")


def _headline_errors(errors: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The set whose errors say most about new structures, and its errors."""
    for kind in ("test", "validation", "train"):
        for name, entry in errors.items():
            if name.startswith(kind):
                return name, entry
    return "", {}


def _root_mean_square(errors: Mapping[str, Any], quantity: str) -> str:
    entry = errors.get(quantity)
    return f"{entry['rmse']:.3g}" if entry else "-"
