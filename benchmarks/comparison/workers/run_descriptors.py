"""SOAP power spectra by featomic and by dscribe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import protocol

N_RADIAL, L_MAX, WIDTH = 8, 6, 0.3


def prepare(task: dict[str, Any], structures: list[protocol.Structure]) -> protocol.Prepared:
    """``settings``: ``code`` (featomic or dscribe) and for featomic ``gradients``."""
    if task["settings"]["code"] == "featomic":
        return protocol.Prepared(_featomic(task, structures), ("featomic",))
    return protocol.Prepared(_dscribe(task, structures), ("dscribe",))


def _featomic(task: dict[str, Any], structures: list[protocol.Structure]) -> Callable[[np.ndarray], object]:
    from featomic import SoapPowerSpectrum

    calculator = SoapPowerSpectrum(
        cutoff={"radius": task["cutoff"], "smoothing": {"type": "ShiftedCosine", "width": 0.5}},
        density={"type": "Gaussian", "width": WIDTH},
        basis={"type": "TensorProduct", "max_angular": L_MAX, "radial": {"type": "Gto", "max_radial": N_RADIAL - 1}},
    )
    atoms = protocol.atoms_of(structures[0])
    gradients = ["positions"] if task["settings"]["gradients"] else []

    def call(positions: np.ndarray) -> None:
        atoms.positions[:] = positions
        calculator.compute(atoms, gradients=gradients)

    return call


def _dscribe(task: dict[str, Any], structures: list[protocol.Structure]) -> Callable[[np.ndarray], object]:
    from dscribe.descriptors import SOAP

    soap = SOAP(
        species=protocol.symbols_of(structures),
        r_cut=task["cutoff"],
        n_max=N_RADIAL,
        l_max=L_MAX,
        sigma=WIDTH,
        periodic=bool(structures[0]["pbc"].all()),
    )
    atoms = protocol.atoms_of(structures[0])

    def call(positions: np.ndarray) -> None:
        atoms.positions[:] = positions
        soap.create(atoms)

    return call


if __name__ == "__main__":
    protocol.run(prepare)
