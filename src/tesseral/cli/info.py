"""`tesseral info`: what a model file says about itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

#: entries too long for the table; --json shows them
LONG = ("config",)


def info(
    model: Annotated[str, typer.Argument(help="Model file, or the name of a shipped model.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the metadata as JSON.")] = False,
) -> None:
    """Verify a model file and print its metadata: elements, cutoff, errors, origin, valid range,
    parameters."""
    from tesseral.models.file import read_model
    from tesseral.models.registry import resolve_model

    file = read_model(resolve_model(model))
    if as_json:
        typer.echo(json.dumps(file.metadata, indent=1, ensure_ascii=False))
        return
    n_parameters = sum(array.size for array in file.parameters.values())
    lines = [
        ("file", f"{file.path} ({file.path.stat().st_size / 1000:.0f} kB, checksums agree)"),
        *_flat(file.metadata),
        ("parameters", f"{n_parameters} numbers in {len(file.parameters)} arrays"),
    ]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        typer.echo(f"{name:<{width}}  {value}")


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested metadata as lines; lists and innermost mappings on one line, empty entries left out."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if key in LONG or value in (None, "", {}, []):
            continue
        if not isinstance(value, Mapping):
            yield name, _text(value)
        elif any(isinstance(inner, Mapping) for inner in value.values()):
            yield from _flat(value, f"{name}.")
        else:
            yield name, ", ".join(f"{k} {_text(v)}" for k, v in value.items() if v is not None)


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
