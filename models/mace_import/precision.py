"""Models that were stored in single precision: their coupling coefficients, restored to full precision.

mace-torch rounds its Clebsch-Gordan coefficients with the weights. What is computed with them in double precision is
then not quite equivariant: the energy changes by up to 1e-6 eV when a molecule turns. No equivariant model can give
those numbers, and nobody wants them.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

from tesseral.models.mace_import.contractions import restore_couplings
from tesseral.models.mace_import.linear_maps import array, harmonic_frames
from tesseral.models.mace_import.source import MaceImportError

ROUNDING = 1e-6  # relative, of coefficients in single precision
WIGNER = re.compile(r"(?:.*\.)?_w3j_(\d+)_(\d+)_(\d+)$")  # names of e3nn's coefficients


def with_exact_couplings(model: Any, path: Path) -> Any:
    """A copy of a float64 MACE model whose coupling coefficients are no longer rounded; within `mace_session`.

    Raises MaceImportError, with `path`, for coefficients that differ from exact ones by more than rounding.
    """
    from e3nn.o3 import wigner_3j

    exact = copy.deepcopy(model)
    for name, buffer in exact.named_buffers():
        match = WIGNER.match(name)
        if match:
            coefficients = wigner_3j(*map(int, match.groups())).reshape(buffer.shape)
            if not abs(array(buffer - coefficients)).max() <= ROUNDING:
                raise MaceImportError(f"{path}: {name} holds no Clebsch-Gordan coefficients and cannot be imported")
            buffer.copy_(coefficients)
    frames = harmonic_frames(exact.spherical_harmonics, f"{path}")
    for index, product in enumerate(exact.products):
        restore_couplings(product, frames, ROUNDING, f"{path}: product {index}")
    return exact
