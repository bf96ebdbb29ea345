"""From a configuration to checked data and a freshly initialised model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from tesseral.models.config import Config
from tesseral.models.data import Structure, build_structure, collate, species_indices, split_validation
from tesseral.models.e0 import atomic_energies, separate_isolated_atoms
from tesseral.models.energy_model import EnergyModel
from tesseral.models.frames import DataError, Frame, LabelKeys, read_frames
from tesseral.models.layered import LayeredModel
from tesseral.models.local import LocalModel

#: atoms whose densities set the fixed scales of the model
SCALE_SAMPLE_ATOMS = 3000
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class PreparedData:
    """Frames of a training, all read and checked before the first step.

    Attributes:
        elements: symbols, by atomic number.
        e0: energy of each free atom in eV.
        training, validation: frames without those of isolated atoms.
        tests: test frames by name of the set.
    """

    elements: list[str]
    e0: dict[str, float]
    training: list[Frame]
    validation: list[Frame]
    tests: dict[str, list[Frame]]

    @property
    def baseline(self) -> np.ndarray:
        """[n_elements] energies in eV that are subtracted from the labels."""
        return np.array([self.e0[element] for element in self.elements])

    def fingerprint(self) -> str:
        """SHA-256 of the training and validation frames with their labels."""
        digest = hashlib.sha256()
        for frame in (*self.training, *self.validation):
            atoms = frame.atoms
            digest.update(f"{atoms.pbc.tolist()} {frame.energy} {len(frame)}".encode())
            for array in (atoms.numbers, atoms.positions, atoms.cell.array, frame.forces, frame.stress):
                digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def structures(self, frames: Sequence[Frame], cutoff: float, dtype: torch.dtype) -> list[Structure]:
        """Frames as tensors; see :func:`tesseral.models.data.build_structure`."""
        return [build_structure(frame, self.elements, cutoff, self.baseline, dtype) for frame in frames]


def prepare_data(config: Config, say: Callable[[str], None]) -> PreparedData:
    """Read all files of a configuration, split off validation, and find E0.

    Args:
        config: the configuration.
        say: is told in a line per file which labels were found, and what was decided.

    Raises:
        DataError: see :func:`read_frames`, :func:`atomic_energies`; also an element in the validation or test
            data that the training data lacks, and loss weights without any label.
    """
    data, cutoff = config.data, config.model.cutoff
    keys = LabelKeys(data.energy_key, data.forces_key, data.stress_key, data.stress_offset)

    def read(paths: Sequence[str]) -> list[Frame]:
        frames, reports = read_frames(paths, keys)
        for report in reports:
            say(str(report))
        return frames

    training, isolated = separate_isolated_atoms(read(data.train), cutoff)
    training = _labelled(training, say)
    if not training:
        raise DataError(f"{', '.join(data.train)}: only isolated atoms; nothing to train on")
    validation: list[Frame] = []
    if isinstance(data.validation, list):
        validation, _ = separate_isolated_atoms(read(data.validation), cutoff)
    elif data.validation > 0:
        training, validation = split_validation(training, data.validation, config.training.seed)
    numbers = sorted({int(number) for frame in training for number in frame.atoms.numbers})
    elements = [chemical_symbols[number] for number in numbers]
    tests = {_test_name(path, data.test): read([path]) for path in data.test}
    for frame in (*validation, *(frame for frames in tests.values() for frame in frames)):
        species_indices(frame.atoms, elements, frame.source)
    _check_labels(config, training)
    e0 = atomic_energies(config.model.e0, training, isolated, elements)
    if isolated:
        say(f"{len(isolated)} isolated atoms give E0 or are left out: an isolated atom has E0 by construction")
    say(f"{len(training)} training and {len(validation)} validation frames; E0 / eV: {_listed(e0)}")
    return PreparedData(elements, e0, training, validation, tests)


def build_model(config: Config, data: PreparedData, structures: Sequence[Structure]) -> EnergyModel:
    """A model with random weights from the seed, normalised on a sample of the training structures.

    The energy scale ``auto`` is the root mean square of the force components times 1 Å, and 1 eV without forces.
    No constant is added to E0 (shift 0): with E0 from isolated atoms the network learns the whole binding energy,
    so that atoms that move apart end at E0; with least squares E0 already is the mean.
    """
    settings = config.model
    torch_dtype = DTYPES[config.training.precision]
    scale = force_scale(data.training) if settings.scale == "auto" else settings.scale
    arguments: dict[str, Any] = {
        "species": data.elements,
        "e0": data.e0,
        "scale": scale,
        "zbl": None if settings.zbl is None else (settings.zbl.inner, settings.zbl.outer),
        "seed": config.training.seed,
    }
    for name in ("cutoff", "l_max", "n_radial", "channels", "nu", "features", "readout", "radial_basis"):
        arguments[name] = getattr(settings, name)
    model: EnergyModel
    if settings.layers == 1:
        model = LocalModel(**arguments)
    else:
        arguments |= {name: getattr(settings, name) for name in ("message_l", "message_mixing")}
        model = LayeredModel(n_layers=settings.layers, **arguments)
    model.to(torch_dtype)
    sample = collate(_spread_sample(structures, SCALE_SAMPLE_ATOMS))
    model.normalise(sample.vectors, sample.centers, sample.neighbors, sample.species)
    return model


def force_scale(frames: Sequence[Frame]) -> float:
    """Root mean square of all force components in eV/Å; 1 without forces."""
    forces = [frame.forces.ravel() for frame in frames if frame.forces is not None]
    rms = float(np.sqrt(np.mean(np.concatenate(forces) ** 2))) if forces else 0.0
    return rms if rms > 0 else 1.0


def _spread_sample(structures: Sequence[Structure], n_atoms: int) -> list[Structure]:
    """Structures spread evenly over the list with about ``n_atoms`` atoms together."""
    total = sum(len(structure.species) for structure in structures)
    count = max(1, min(len(structures), round(len(structures) * n_atoms / total)))
    return [structures[int((k + 0.5) * len(structures) / count)] for k in range(count)]


def _check_labels(config: Config, frames: Sequence[Frame]) -> None:
    loss = config.training.loss
    stages = [loss] if loss.second_stage is None else [loss, loss.second_stage]
    for stage in stages:
        weights = {"energy": stage.energy, "forces": stage.forces, "stress": stage.stress}
        used = [label for label, weight in weights.items() if weight > 0]
        if not any(getattr(frame, label) is not None for frame in frames for label in used):
            raise DataError(
                f"training.loss: only {', '.join(used)} has a weight, and no training frame has such a label"
            )


def _labelled(frames: list[Frame], say: Callable[[str], None]) -> list[Frame]:
    """The frames that carry any label."""
    chosen = [frame for frame in frames if not (frame.energy is None and frame.forces is None and frame.stress is None)]
    if len(chosen) < len(frames):
        say(f"{len(frames) - len(chosen)} frames without any label are left out")
    return chosen


def _test_name(path: str, paths: Sequence[str]) -> str:
    return "test" if len(paths) == 1 else f"test {Path(path).name.split('.')[0]}"


def _listed(e0: Mapping[str, float]) -> str:
    return ", ".join(f"{symbol} {energy:.4f}" for symbol, energy in e0.items())
