"""A MACE model of mace-torch on the same system, as a process of its own: `python -m
tesseral.benchmarks.mace_torch`.

128 scalar channels, correlation 3, l_max 3, two layers, cutoff 5 Å (I. Batatia et al., NeurIPS 2022,
arXiv:2206.07697),
random weights: speed does not depend on training. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from tesseral.benchmarks.systems import CUTOFF, rattled_silicon
from tesseral.benchmarks.timing import median_seconds

HIDDEN, N_RADIAL, L_MAX, CORRELATION, LAYERS = "128x0e", 8, 3, 3, 2


def build_model(atomic_numbers: Sequence[int]) -> Any:
    """The model for these elements, in torch's default precision, random weights."""
    import torch
    from e3nn import o3
    from mace import modules

    torch.manual_seed(0)
    interaction = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    return modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=N_RADIAL,
        num_polynomial_cutoff=5,
        max_ell=L_MAX,
        interaction_cls=interaction,
        interaction_cls_first=interaction,
        num_interactions=LAYERS,
        num_elements=len(atomic_numbers),
        hidden_irreps=o3.Irreps(HIDDEN),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros(len(atomic_numbers)),
        avg_num_neighbors=28.0,
        atomic_numbers=list(atomic_numbers),
        correlation=CORRELATION,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )


def measure(cells: int, repeats: int) -> dict[str, Any]:
    """us/atom for energies, forces and stress on one thread, the neighbour list given."""
    import torch
    from mace import data
    from mace.tools import AtomicNumberTable
    from mace.tools.torch_geometric.dataloader import DataLoader

    torch.set_num_threads(1)
    atoms = rattled_silicon(cells)
    table = AtomicNumberTable([14])
    configuration = data.config_from_atoms(atoms)
    graph = data.AtomicData.from_config(configuration, z_table=table, cutoff=CUTOFF)
    batch = next(iter(DataLoader([graph], batch_size=1))).to_dict()
    model = build_model([14])

    def call() -> None:
        inputs = {key: value.clone() if torch.is_tensor(value) else value for key, value in batch.items()}
        inputs["positions"] = inputs["positions"] + 1e-3 * torch.rand_like(inputs["positions"])
        model(inputs, compute_force=True, compute_stress=True)

    seconds = median_seconds(call, repeats)
    return {"us_per_atom": 1e6 * seconds / len(atoms), "n_atoms": len(atoms), "version": version("mace-torch")}


def main() -> None:
    """Measure and print JSON, or write a model."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--write", metavar="FILE", help="write a model instead")
    parser.add_argument("--elements", type=int, nargs="+", default=[14], help="atomic numbers of the model to write")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of the other package
    torch.set_default_dtype(torch.float32)
    if options.write:
        torch.save(build_model(sorted(options.elements)), options.write)
    else:
        print(json.dumps(measure(options.cells, options.repeats)))


if __name__ == "__main__":
    main()
