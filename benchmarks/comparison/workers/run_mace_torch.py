"""mace-torch: its ASE calculator, or one step of its own training; models with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import protocol
from mace_model import build_model


def prepare(task: dict[str, Any], structures: list[protocol.Structure]) -> protocol.Prepared:
    """``settings``: ``hidden`` (irreps), ``layers``, ``compile``, and ``training``."""
    import torch
    from mace.calculators import MACECalculator

    torch.set_num_threads(task["threads"])
    torch.set_default_dtype(getattr(torch, task["precision"]))
    settings = task["settings"]
    numbers = sorted({int(n) for structure in structures for n in structure["numbers"]})
    model = build_model(numbers, task["cutoff"], settings["hidden"], settings["layers"])
    packages = ("mace-torch", "torch", "e3nn")
    if settings.get("training"):
        return protocol.Prepared(_training_step(model, numbers, structures), packages, {"optimizer": "Adam, AMSGrad"})
    mode = {"compile_mode": "default"} if settings.get("compile") else {}
    calculator = MACECalculator(models=[model], device="cpu", default_dtype=task["precision"], **mode)
    return protocol.Prepared(protocol.ase_call(calculator, structures[0]), packages)


def _training_step(
    model: Any, numbers: list[int], structures: list[protocol.Structure]
) -> Callable[[np.ndarray], None]:
    """Loss of energies, forces and stresses, its gradient, clipping and update, as mace-torch's `take_step`."""
    import torch
    from mace import data, modules
    from mace.tools import AtomicNumberTable, torch_geometric

    table = AtomicNumberTable(numbers)
    graphs = []
    for structure in structures:
        atoms = protocol.atoms_of(structure)
        labels = {"energy": float(structure["energy"]), "forces": structure["forces"], "stress": structure["stress"]}
        weights = dict.fromkeys(labels, 1.0)
        configuration = data.Configuration(
            atomic_numbers=atoms.numbers,
            positions=atoms.positions,
            cell=atoms.cell.array,
            pbc=tuple(atoms.pbc),
            properties=labels,
            property_weights=weights,
        )
        graphs.append(data.AtomicData.from_config(configuration, z_table=table, cutoff=float(model.r_max)))
    batch = torch_geometric.Batch.from_data_list(graphs)
    loss = modules.WeightedEnergyForcesStressLoss(energy_weight=1.0, forces_weight=100.0, stress_weight=1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, amsgrad=True)

    def step(positions: np.ndarray) -> None:
        optimizer.zero_grad(set_to_none=True)
        output = model(batch.to_dict(), training=True, compute_force=True, compute_virials=False, compute_stress=True)
        loss(pred=output, ref=batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0)
        optimizer.step()

    return step


if __name__ == "__main__":
    protocol.run(prepare)
