"""`tesseral import mace`: a model file from a trained model of mace-torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def _import() -> None:
    """Models that were trained with other programs, as model files."""


@app.command("mace")
def import_mace(
    model: Annotated[Path, typer.Argument(help="The .model file that mace-torch wrote.")],
    output: Annotated[Path, typer.Argument(help="Model file to write, as out.pt.")],
    trust_pickle: Annotated[
        bool,
        typer.Option(
            "--trust-pickle",
            help="Open the file although it is a pickle, which can run any program with your rights.",
        ),
    ] = False,
    head: Annotated[str | None, typer.Option(help="Head that is wanted, of a file with several.")] = None,
    species: Annotated[
        str | None, typer.Option(help="Elements that are kept, as in --species 'H O' (default: all).")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model (default: that of the file).")] = None,
    accept_differences: Annotated[
        bool,
        typer.Option("--accept-differences", help="Write the file although it differs from mace-torch too much."),
    ] = False,
    reference_method: Annotated[
        str | None, typer.Option(help="Method of the reference data, for the metadata.")
    ] = None,
    license: Annotated[str, typer.Option(help="Licence of the weights, for the metadata.")] = "",
    citation: Annotated[str, typer.Option(help="What to cite, for the metadata.")] = "",
) -> None:
    """Turn a MACE model into a model file with the same energies, forces and stresses.

    The result is compared with mace-torch on random structures and refused if it differs. mace-torch is needed for the
    conversion only: pip install 'tesseral[mace]'.
    """
    from rich.console import Console

    from tesseral.models.mace_import.importer import REFERENCE_METHOD, save_imported
    from tesseral.models.mace_import.importer import import_mace as convert
    from tesseral.models.mace_import.radial import SMALLEST_DISTANCE

    console = Console()
    _check_output(model, output)
    imported, report = convert(
        model,
        trust_pickle=trust_pickle,
        head=head,
        species=None if species is None else species.replace(",", " ").split(),
        accept_differences=accept_differences,
        progress=lambda line: console.print(f"{line} ...", highlight=False),
    )
    n_radial = " + ".join(str(shape[2]) for shape in imported.architecture()["radial_tables"])
    lines = [
        f"{report.model_class}, head {report.head}, {report.precision}; {' '.join(imported.species)}; "
        f"cutoff {imported.cutoff:g} Å; {imported.n_layers} layers, {imported.channels} channels",
        f"radial functions: {n_radial}; error {report.radial_error:.1e} of the largest from {SMALLEST_DISTANCE} Å on",
        f"largest differences from mace-torch {report.mace_torch}: {report.differences}",
        *report.notes,
    ]
    if not report.agrees:
        lines.append(f"more than the tolerance, {report.tolerance}, and accepted")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
    save_imported(
        output,
        imported,
        report,
        name=name,
        reference_method=reference_method or REFERENCE_METHOD,
        citation=citation,
        license=license,
    )
    console.print(f"model: {output}; next: tesseral verify {output}", highlight=False, soft_wrap=True)


def _check_output(model: Path, output: Path) -> None:
    """Before the work begins; raises OSError or ValueError."""
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output}: there is no folder {output.parent}")
    if output.exists() and model.exists() and output.samefile(model):
        raise ValueError(f"{output}: would overwrite the MACE model; choose another name")
