"""`tesseral eval`: errors of a model on labelled structures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="Model file, or the name of a shipped model.")],
    data: Annotated[list[Path], typer.Argument(help="Labelled structures: extended XYZ, also .xz or .gz.")],
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the table here as JSON.")] = None,
    dtype: Annotated[str, typer.Option(help="float64, float32 or mixed.")] = "float64",
    threads: Annotated[int | None, typer.Option(help="Threads of the engine (default: 1).")] = None,
    energy_key: Annotated[
        str | None, typer.Option(help="Key of the energies (default: REF_energy, then energy; false: not read).")
    ] = None,
    forces_key: Annotated[
        str | None, typer.Option(help="Key of the forces (default: REF_forces, then forces; false: not read).")
    ] = None,
    stress_key: Annotated[
        str | None, typer.Option(help="Key of the stresses (default: REF_stress, then stress; false: not read).")
    ] = None,
    stress_offset: Annotated[
        float,
        typer.Option(help="Isotropic stress in eV/Å^3 subtracted from the labels, as in the training."),
    ] = 0.0,
) -> None:
    """Errors of a model on labelled structures, in all, per config_type and per element.

    Energies in meV/atom, forces (components) in meV/Å, stresses (six components) in meV/Å^3.
    """
    from ase.calculators.calculator import CalculationFailed
    from rich.console import Console

    from tesseral.calculator import StructureError
    from tesseral.calculator import evaluate as evaluate_structures
    from tesseral.models.file import write_atomically
    from tesseral.models.frames import LabelKeys, read_frames
    from tesseral.models.metrics import UNITS, error_table, print_error_table
    from tesseral.models.registry import resolve_model

    console = Console()
    path = resolve_model(model)
    keys = LabelKeys(_or_false(energy_key), _or_false(forces_key), _or_false(stress_key), stress_offset)
    frames, reports = read_frames(data, keys)
    for report in reports:
        console.print(str(report), soft_wrap=True, highlight=False)
    try:
        predictions = evaluate_structures(path, [frame.atoms for frame in frames], dtype=dtype, threads=threads)
    except (StructureError, CalculationFailed):
        for frame in frames:  # one by one, so that the message names file and frame
            try:
                evaluate_structures(path, [frame.atoms], dtype=dtype, threads=threads)
            except (StructureError, CalculationFailed) as error:
                raise type(error)(f"{frame.source}: {str(error).removeprefix('image 0: ')}") from error
        raise
    table = error_table(frames, predictions)
    print_error_table(console, path.name, table)
    if json_path is not None:
        content = {"model": str(path), "data": [str(name) for name in data], "units": UNITS, **table}
        write_atomically(json_path, json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8"))


def _or_false(key: str | None) -> str | Literal[False] | None:
    """A key as :class:`tesseral.models.frames.LabelKeys` takes it."""
    return False if key == "false" else key
