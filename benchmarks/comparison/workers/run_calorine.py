"""NEP (Z. Fan et al., doi:10.1103/PhysRevB.104.104309) by calorine's CPU calculator, random parameters."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import protocol

#: GPUMD's defaults: radial functions, basis functions, degrees of three-body and four-body terms, neurons
N_MAX, BASIS_SIZE, L_MAX, FOUR_BODY, NEURONS = 4, 8, 4, 2, 30
ANGULAR_CUTOFF = 4.0  # Å, GPUMD's default


def parameter_file(symbols: list[str], cutoff: float) -> str:
    """A model `nep4`; angular terms reach ANGULAR_CUTOFF or the cutoff if that is less."""
    radial, angular, basis = N_MAX + 1, N_MAX + 1, BASIS_SIZE + 1
    descriptors = radial + angular * L_MAX + angular
    pairs = len(symbols) ** 2
    count = len(symbols) * NEURONS * (descriptors + 2) + 1 + pairs * basis * (radial + angular)
    values = np.random.default_rng(0).normal(0.0, 0.1, count)
    lines = [
        f"nep4 {len(symbols)} {' '.join(symbols)}",
        f"cutoff {cutoff:g} {min(cutoff, ANGULAR_CUTOFF):g} 500 300",
        f"n_max {N_MAX} {N_MAX}",
        f"basis_size {BASIS_SIZE} {BASIS_SIZE}",
        f"l_max {L_MAX} {FOUR_BODY} 0",
        f"ANN {NEURONS} 0",
        *(f"{value:.7e}" for value in values),
        *["1.0000000e-01"] * descriptors,
    ]
    return "\n".join(lines) + "\n"


def prepare(task: dict[str, Any], structures: list[protocol.Structure]) -> protocol.Prepared:
    """No settings."""
    from calorine.calculators import CPUNEP

    with TemporaryDirectory() as folder:
        path = Path(folder) / "nep.txt"
        path.write_text(parameter_file(protocol.symbols_of(structures), task["cutoff"]), encoding="utf-8")
        calculator = CPUNEP(str(path))
        call = protocol.ase_call(calculator, structures[0])
        call(structures[0]["positions"])  # it may read its file only now
    return protocol.Prepared(call, ("calorine",))


if __name__ == "__main__":
    protocol.run(prepare)
