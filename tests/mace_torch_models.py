"""Small MACE models of mace-torch with random weights; test modules that use them are skipped without mace-torch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from tesseral.models.mace_import.importer import import_mace, save_imported
from tesseral.models.mace_import.source import mace_session, mace_version

pytest.importorskip("mace", reason="mace-torch is not installed: pip install 'tesseral[mace]'")
mace_version()
from e3nn import o3  # noqa: E402
from mace import modules  # noqa: E402
from mace.calculators import MACECalculator  # noqa: E402

PLAIN, RESIDUAL = modules.RealAgnosticInteractionBlock, modules.RealAgnosticResidualInteractionBlock
DENSITY = modules.RealAgnosticDensityInteractionBlock
DENSITY_RESIDUAL = modules.RealAgnosticDensityResidualInteractionBlock
NUMBERS = [1, 8, 14]


def mace_model(hidden: str = "4x0e + 4x1o", scaled: bool = True, dtype: torch.dtype = torch.float64, **changes: Any):
    """A small MACE model with random weights and forces of some eV/Å."""
    settings: dict[str, Any] = {
        "r_max": 4.0,
        "num_bessel": 6,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls": RESIDUAL,
        "interaction_cls_first": RESIDUAL,
        "num_interactions": 2,
        "num_elements": 3,
        "hidden_irreps": o3.Irreps(hidden),
        "MLP_irreps": o3.Irreps("6x0e"),
        "atomic_energies": np.array([-13.6, -432.1, -289.0]),
        "avg_num_neighbors": 6.0,
        "atomic_numbers": NUMBERS,
        "correlation": 3,
        "gate": torch.nn.functional.silu,
        "radial_MLP": [16, 16],
    }
    if scaled:
        settings |= {"atomic_inter_scale": 15.0, "atomic_inter_shift": 0.3}
    torch.manual_seed(7)
    with mace_session():
        torch.set_default_dtype(dtype)
        model = (modules.ScaleShiftMACE if scaled else modules.MACE)(**settings | changes)
        for readout in model.readouts:  # biases are zero at first
            for name, parameter in readout.named_parameters():
                if name.endswith("bias"):
                    parameter.data.normal_()
    return model


def written(model: torch.nn.Module, folder: Path) -> Path:
    """The model as mace-torch writes it."""
    path = folder / "some.model"
    torch.save(model, path)
    return path


def mace_calculator(model: torch.nn.Module, **settings: Any) -> MACECalculator:
    """mace-torch's own calculator."""
    with mace_session():
        return MACECalculator(models=[copy.deepcopy(model).double()], default_dtype="float64", **settings)


def mace_results(calculator: MACECalculator, atoms: Atoms) -> dict[str, Any]:
    """What it gives."""
    with mace_session():
        calculator.calculate(atoms.copy())
    return calculator.results


def write_imported(path: Path, model: torch.nn.Module, **options: Any) -> Path:
    """The model file of a MACE model."""
    result, report = import_mace(written(model, path.parent), trust_pickle=True, **options)
    save_imported(path, result, report)
    return path
