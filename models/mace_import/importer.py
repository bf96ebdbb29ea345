"""Importing a MACE model: conversion, check against mace-torch, and the model file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers

from tesseral.models.file import save_model
from tesseral.models.mace import MaceModel
from tesseral.models.mace_import.check import (
    TOLERANCE,
    Differences,
    MaceReference,
    check_structures,
    lacks_radial_derivative,
    largest_differences,
)
from tesseral.models.mace_import.convert import converted, heads_of
from tesseral.models.mace_import.precision import with_exact_couplings
from tesseral.models.mace_import.radial import SMALLEST_DISTANCE
from tesseral.models.mace_import.source import MaceImportError, load_mace, mace_session, mace_version
from tesseral.models.metadata import package_versions

REFERENCE_METHOD = "imported from a MACE model"


@dataclass(frozen=True)
class ImportReport:
    """What was imported and how well it agrees with mace-torch.

    Attributes:
        source: name of the file.
        sha256: its checksum.
        mace_torch: version that read it.
        model_class: MACE or ScaleShiftMACE.
        head: name of the head, and all heads of the file.
        heads: all heads of the file.
        precision: in which the file's numbers were stored.
        radial_error: largest error of the radial functions from SMALLEST_DISTANCE on, in units of the largest one.
        n_structures: number of structures compared.
        differences: largest ones from mace-torch's calculator.
        rounding: of a file in single precision, the same with the coupling coefficients as they were rounded in the
            file; otherwise None.
        tolerance: largest ones allowed.
        notes: what a user should know about this model.
    """

    source: str
    sha256: str
    mace_torch: str
    model_class: str
    head: str
    heads: list[str]
    precision: str
    radial_error: float
    n_structures: int
    differences: Differences
    rounding: Differences | None
    tolerance: Differences
    notes: list[str]

    @property
    def agrees(self) -> bool:
        """Whether the differences are within the tolerance."""
        return self.differences.within(self.tolerance)


def import_mace(
    path: str | Path,
    *,
    trust_pickle: bool = False,
    head: str | None = None,
    species: Sequence[str] | None = None,
    accept_differences: bool = False,
    progress: Callable[[str], None] | None = None,
) -> tuple[MaceModel, ImportReport]:
    """A trained model of mace-torch as a model of this package, with the same energies, forces and stresses.

    Args:
        path: ``.model`` file that mace-torch wrote.
        trust_pickle: that the file may be opened, though it is a pickle, which can run any program.
        head: name of the head that is wanted; needed for files of several heads.
        species: symbols of the elements that are kept, in this order; all by default.
        accept_differences: return the model although it differs from mace-torch by more than the tolerance.
        progress: called with a line before each step.

    Returns the model, in float64, and the report of the check.
    Raises:
        MaceImportError: the file may not be opened, or holds what cannot be imported; names it.
        ImportError: mace-torch is not installed.
        OSError: the file cannot be read.
    """
    path, tell = Path(path), progress or (lambda line: None)
    tell(f"reading {path.name}")
    source, is_single = load_mace(path, trust_pickle)
    tell("converting: radial functions, contractions, linear maps")
    with mace_session():
        exact = with_exact_couplings(source, path) if is_single else source
        conversion = converted(exact, path, head, species)
    model = MaceModel.from_network(conversion.network)
    structures = check_structures(model.species, model.cutoff)
    tell(f"comparing with mace-torch on {len(structures)} random structures")
    differences = largest_differences(model, MaceReference(exact, conversion.head), structures)
    rounding = None
    if is_single:
        rounding = largest_differences(model, MaceReference(source, conversion.head), structures)
    report = ImportReport(
        source=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        mace_torch=mace_version(),
        model_class=type(source).__name__,
        head=conversion.head,
        heads=heads_of(source),
        precision="float32" if is_single else "float64",
        radial_error=conversion.radial_error,
        n_structures=len(structures),
        differences=differences,
        rounding=rounding,
        tolerance=TOLERANCE,
        notes=_notes(source, rounding),
    )
    if not report.agrees and not accept_differences:
        raise MaceImportError(
            f"{path}: not imported: differs from mace-torch by {differences}; allowed are {TOLERANCE}; "
            "--accept-differences (accept_differences=True) imports it nevertheless"
        )
    return model, report


def _notes(source: Any, rounding: Differences | None) -> list[str]:
    notes = []
    if rounding is not None:
        notes.append(
            "The weights were stored in single precision, and coupling coefficients with them. These are exact here "
            f"and in the comparison; what mace-torch computes with the rounded ones differs by {rounding}."
        )
    if lacks_radial_derivative(source):
        notes.append(
            "mace-torch leaves the derivative of Chebyshev radial functions out of its forces. Forces and stresses "
            "here are the derivatives of its energy."
        )
    return notes


def save_imported(
    path: str | Path,
    model: MaceModel,
    report: ImportReport,
    *,
    name: str | None = None,
    reference_method: str = REFERENCE_METHOD,
    citation: str = "",
    license: str = "",  # as in the metadata
) -> None:
    """Write the model file of an imported model.

    Args:
        path: file to write.
        model, report: from `import_mace`.
        name: of the model; by default that of the file.
        reference_method, citation, license: of the reference data and the weights, for the metadata.

    Raises OSError when the file cannot be written.
    """
    metadata = {
        "name": name or Path(path).stem,
        "description": f"Imported from the MACE model {report.source}"
        + (f", head {report.head}" if len(report.heads) > 1 else ""),
        "model_type": model.model_type,
        "species": model.species,
        "atomic_numbers": [atomic_numbers[symbol] for symbol in model.species],
        "cutoff": model.cutoff,
        "n_layers": model.n_layers,
        "architecture": model.architecture(),
        "units": {"energy": "eV", "length": "Å", "stress": "eV/Å^3"},
        "e0": dict(zip(model.species, model.e0, strict=True)),
        "reference_method": reference_method,
        "citation": citation,
        "license": license,
        "import": {**asdict(report), "radial_error_from": SMALLEST_DISTANCE},
        "packages": package_versions(),
    }
    save_model(path, torch.jit.script(model), metadata, model.native_parameters())
