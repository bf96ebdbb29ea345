"""Optimisation steps of the compiled models and of a plain-PyTorch twin on the same batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms

from tesseral.benchmarks.systems import CUTOFF, SILICON_SIZE, rattled_silicon
from tesseral.benchmarks.timing import median_seconds
from tesseral.models.config import LossConfig, TrainingConfig
from tesseral.models.data import Batch, build_structure, collate
from tesseral.models.energy_model import EnergyModel
from tesseral.models.frames import frames_from_atoms
from tesseral.models.layered import LayeredModel
from tesseral.models.local import LocalModel
from tesseral.models.loss import loss_value, predict, residuals
from tesseral.models.optimisation import make_optimizer
from tesseral.models.reference_model import ReferenceLocalModel


def measure_training(structures: int = 4, cells: int = 2, repeats: int = 7) -> dict[str, Any]:
    """Time one optimisation step (loss, gradient, update) on one thread in float32.

    Args:
        structures: in the batch.
        cells: cubic cells of 8 atoms per direction in each.
        repeats: timed steps of each.

    Returns:
        n_structures, n_atoms, and in us/atom per step ``compiled`` and ``reference``; ``ratio`` of the two;
        ``layered``, of the compiled model with two layers.
    """
    batch = labelled_batch(labelled_silicon(structures, cells))
    n_atoms = int(batch.n_atoms.sum())
    result: dict[str, Any] = {"n_structures": structures, "n_atoms": n_atoms}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        kinds = {"compiled": LocalModel, "reference": ReferenceLocalModel, "layered": LayeredModel}
        for name, kind in kinds.items():
            step = OptimisationStep(kind(**SILICON_SIZE).to(torch.float32), batch)
            result[name] = 1e6 * median_seconds(step, repeats) / n_atoms
    finally:
        torch.set_num_threads(threads)
    result["ratio"] = result["reference"] / result["compiled"]
    return result


class OptimisationStep:
    """One optimisation step as the training makes it."""

    def __init__(self, model: EnergyModel, batch: Batch) -> None:
        model.normalise(batch.vectors, batch.centers, batch.neighbors, batch.species)
        self.model, self.batch, self.parameters = model, batch, list(model.parameters())
        self.loss = LossConfig(energy=1.0, forces=100.0, stress=1.0)
        self.optimizer = make_optimizer(model, TrainingConfig(learning_rate=1e-4))

    def __call__(self) -> None:
        errors = residuals(predict(self.model, self.batch, True, True), self.batch)
        loss_value(errors, self.loss, self.loss).backward(inputs=self.parameters)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def labelled_silicon(structures: int, cells: int) -> list[Atoms]:
    """Rattled silicon with random labels of the usual size."""
    generator = np.random.default_rng(0)
    labelled = []
    for seed in range(structures):
        atoms = rattled_silicon(cells, seed=seed)
        atoms.info["REF_energy"] = -5.0 * len(atoms) + generator.normal()
        atoms.info["REF_stress"] = generator.normal(0.0, 0.01, 6)
        atoms.arrays["REF_forces"] = generator.normal(0.0, 0.5, atoms.positions.shape)
        labelled.append(atoms)
    return labelled


def labelled_batch(labelled: Sequence[Atoms]) -> Batch:
    """The batch of labelled silicon structures."""
    frames = frames_from_atoms(list(labelled))
    baseline = np.array([-5.0])
    return collate([build_structure(frame, ["Si"], CUTOFF, baseline, torch.float32) for frame in frames])
