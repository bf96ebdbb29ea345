"""MACE models with random weights: I. Batatia et al., NeurIPS 2022, arXiv:2206.07697."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

HIDDEN, N_RADIAL, L_MAX, CORRELATION, LAYERS = "128x0e", 8, 3, 3, 2


def build_model(atomic_numbers: Sequence[int], cutoff: float, hidden: str = HIDDEN, layers: int = LAYERS) -> Any:
    """The model for these elements, in torch's default precision, correlation 3, l_max 3."""
    import torch
    from e3nn import o3
    from mace import modules

    torch.manual_seed(0)
    interaction = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    return modules.ScaleShiftMACE(
        r_max=cutoff,
        num_bessel=N_RADIAL,
        num_polynomial_cutoff=5,
        max_ell=L_MAX,
        interaction_cls=interaction,
        interaction_cls_first=interaction,
        num_interactions=layers,
        num_elements=len(atomic_numbers),
        hidden_irreps=o3.Irreps(hidden),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros(len(atomic_numbers)),
        avg_num_neighbors=28.0,
        atomic_numbers=list(atomic_numbers),
        correlation=CORRELATION,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
