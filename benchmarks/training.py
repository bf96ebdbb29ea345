"""Optimisation steps of the compiled models beside a plain-PyTorch twin and beside mace-torch, on the same batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms

from tesseral.benchmarks.mace_training import ENERGY_WEIGHT, FORCES_WEIGHT, LEARNING_RATE, MaceSteps
from tesseral.benchmarks.peers import mace_missing, write_mace_model
from tesseral.benchmarks.systems import CUTOFF, SILICON_SIZE, rattled_silicon, water_box
from tesseral.benchmarks.timing import median_seconds
from tesseral.models.config import LossConfig, TrainingConfig
from tesseral.models.data import Batch, build_structure, collate
from tesseral.models.energy_model import EnergyModel
from tesseral.models.frames import frames_from_atoms
from tesseral.models.layered import LayeredModel
from tesseral.models.local import LocalModel
from tesseral.models.loss import loss_value, predict, residuals
from tesseral.models.optimisation import make_optimizer
from tesseral.models.processes import training_device
from tesseral.models.reference_model import ReferenceLocalModel

THREADS = (1, 2)  # on which the models with messages are timed


def measure_training(structures: int = 4, cells: int = 2, repeats: int = 7) -> dict[str, Any]:
    """Time one optimisation step (loss, gradient, update) on one thread in float32, energies, forces and stress.

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
            model = kind(**SILICON_SIZE).to(torch.float32)
            model.normalise(batch.vectors, batch.centers, batch.neighbors, batch.species)
            result[name] = 1e6 * median_seconds(OptimisationStep(model, batch, 1.0), repeats) / n_atoms
    finally:
        torch.set_num_threads(threads)
    result["ratio"] = result["reference"] / result["compiled"]
    return result


def measure_beside_mace(structures: int = 4, cells: int = 2, rounds: int = 3, device: str = "cpu") -> dict[str, Any]:
    """Time a step of models of two layers and 128 scalar channels beside one of mace-torch 128x0e; they take turns.

    All see the same batch, rattled silicon or water, with energies and forces in float32. mace-torch makes the step of
    its own training program: its loss, Adam, clipping; ours are a layered model with mixed messages and the same MACE
    model imported, both with SOAP.

    Args:
        structures: in a batch.
        cells: of silicon per direction, see `measure_training`; one molecule of water more per direction.
        rounds: turns of each.
        device: cpu, or cuda or cuda:N, where data and models are moved before.

    Returns:
        ``skipped``, the reason; or ``version`` of mace-torch and ``cases``, each with ``system``, ``n_atoms``,
        ``threads``, medians ``layered``, ``imported`` and ``mace_torch`` in us/atom per step, and ``layered_factor``
        and ``imported_factor``, medians over the rounds of mace-torch's time beside theirs.
    """
    reason = mace_missing()
    if reason is not None:
        return {"skipped": reason}
    generator, side = np.random.default_rng(0), cells + 1
    systems = {
        "silicon": labelled_silicon(structures, cells),
        "water": _labelled([water_box(side, 1.0, generator) for _ in range(structures)]),
    }
    result: dict[str, Any] = {"cases": []}
    threads = torch.get_num_threads()
    try:
        place = training_device(device)
        with TemporaryDirectory() as folder:
            for name, atoms in systems.items():
                result["cases"] += _measure_system(Path(folder), name, atoms, rounds, place, result)
    except (ImportError, RuntimeError, ValueError) as error:
        return {"skipped": str(error)}
    finally:
        torch.set_num_threads(threads)
    return result


def _measure_system(
    folder: Path, name: str, structures: list[Atoms], rounds: int, device: torch.device, result: dict[str, Any]
) -> list[dict[str, Any]]:
    """The cases of one system; the version of mace-torch goes into `result`."""
    from tesseral.models.mace_import.importer import import_mace

    source, data = folder / f"{name}.model", folder / f"{name}.xyz"
    numbers = sorted({int(number) for atoms in structures for number in atoms.numbers})
    reason = write_mace_model(source, numbers)
    if reason is not None:
        raise ImportError(reason)
    ase.io.write(data, structures, format="extxyz")
    species = [ase.data.chemical_symbols[number] for number in numbers]
    batch = labelled_batch(structures, species)
    size = {**SILICON_SIZE, "channels": 128, "species": species, "e0": dict.fromkeys(species, 0.0)}
    layered = LayeredModel(**size, message_mixing=True).to(torch.float32)
    layered.normalise(batch.vectors, batch.centers, batch.neighbors, batch.species)
    imported = import_mace(source, trust_pickle=True)[0].to(torch.float32)
    there = batch.to(device)
    own = {
        "layered": OptimisationStep(layered.to(device), there),
        "imported": OptimisationStep(imported.to(device), there),
    }
    n_atoms = int(batch.n_atoms.sum())
    on_threads = THREADS if device.type == "cpu" else THREADS[:1]
    seconds: dict[int, dict[str, list[float]]] = {
        n: {"layered": [], "imported": [], "mace_torch": []} for n in on_threads
    }
    with MaceSteps(source, data, str(device)) as mace:
        result["version"] = mace.version
        for _ in range(rounds):
            for n, found in seconds.items():
                torch.set_num_threads(n)
                for kind, step in own.items():
                    found[kind].append(_turn(step))
                found["mace_torch"].append(mace.seconds(n))
    cases = []
    for n, found in seconds.items():
        case: dict[str, Any] = {"system": name, "n_atoms": n_atoms, "threads": n}
        case |= {kind: 1e6 * statistics.median(values) / n_atoms for kind, values in found.items()}
        for kind in own:
            ratios = [theirs / ours for theirs, ours in zip(found["mace_torch"], found[kind], strict=True)]
            case[f"{kind}_factor"] = statistics.median(ratios)
        cases.append(case)
    return cases


class OptimisationStep:
    """One optimisation step as the training makes it."""

    def __init__(self, model: EnergyModel, batch: Batch, stress_weight: float = 0.0) -> None:
        self.model, self.batch, self.parameters = model, batch, list(model.parameters())
        self.loss = LossConfig(energy=ENERGY_WEIGHT, forces=FORCES_WEIGHT, stress=stress_weight)
        self.optimizer = make_optimizer(model, TrainingConfig(learning_rate=LEARNING_RATE))

    def __call__(self) -> None:
        errors = residuals(predict(self.model, self.batch, self.loss.stress > 0, True), self.batch)
        loss_value(errors, self.loss, self.loss).backward(inputs=self.parameters)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _turn(step: OptimisationStep) -> float:
    """Seconds of a step, after one that is not timed."""
    step()
    _wait(step)
    started = time.perf_counter()
    step()
    _wait(step)
    return time.perf_counter() - started


def _wait(step: OptimisationStep) -> None:
    """Until a GPU has done what it was given."""
    if step.batch.vectors.is_cuda:
        torch.cuda.synchronize(step.batch.vectors.device)


def labelled_silicon(structures: int, cells: int) -> list[Atoms]:
    """Rattled silicon with random labels of the usual size."""
    return _labelled([rattled_silicon(cells, seed=seed) for seed in range(structures)])


def _labelled(structures: list[Atoms]) -> list[Atoms]:
    """The same with random labels of the usual size."""
    generator = np.random.default_rng(0)
    for atoms in structures:
        atoms.info["REF_energy"] = -5.0 * len(atoms) + generator.normal()
        atoms.info["REF_stress"] = generator.normal(0.0, 0.01, 6)
        atoms.arrays["REF_forces"] = generator.normal(0.0, 0.5, atoms.positions.shape)
    return structures


def labelled_batch(structures: list[Atoms], species: Sequence[str] = ("Si",)) -> Batch:
    """The batch of labelled structures, in float32."""
    frames = frames_from_atoms(structures)
    baseline = np.full(len(species), -5.0)
    return collate([build_structure(frame, species, CUTOFF, baseline, torch.float32) for frame in frames])
