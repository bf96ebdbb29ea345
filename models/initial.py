"""Fine-tuning: the model that a training starts from (``init_from``), its E0 and what stays frozen."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tesseral.models.config import Config
from tesseral.models.data import batches_by_atoms, build_structure
from tesseral.models.e0 import atomic_energies, fitted_energies, frames_with_energy
from tesseral.models.energy_model import EnergyModel
from tesseral.models.file import read_metadata
from tesseral.models.frames import Frame
from tesseral.models.loss import predict
from tesseral.models.rebuild import rebuild_model
from tesseral.models.registry import resolve_model

#: atoms per batch of predictions
PREDICTION_ATOMS = 2000


@dataclass(frozen=True)
class InitialModel:
    """The model of a file, as it is before the training.

    Attributes:
        path: the file.
        model: in float64.
        metadata: contents of metadata.json.
        sha256: checksum of the whole file.
    """

    path: Path
    model: EnergyModel
    metadata: dict[str, Any]
    sha256: str

    @property
    def name(self) -> str:
        """What the file says, for messages."""
        return str(self.metadata["name"])

    @property
    def elements(self) -> list[str]:
        """Symbols in the order of the species indices."""
        return list(self.model.species)

    @property
    def e0(self) -> dict[str, float]:
        """Energy of each free atom in eV, as in the file."""
        return dict(zip(self.elements, self.model.e0, strict=True))

    @property
    def shift(self) -> dict[str, float]:
        """What the model adds to E0 for each atom, in eV."""
        return dict(zip(self.elements, self.model.shift, strict=True))

    def with_e0(self, e0: dict[str, float]) -> EnergyModel:
        """A copy of the model with other energies of the free atoms."""
        model = copy.deepcopy(self.model)
        model.e0 = [e0[element] for element in self.elements]
        return model

    def provenance(self) -> dict[str, Any]:
        """The entry "init_from" in the metadata of what comes out of the training."""
        names = ("name", "parameters_sha256", "reference_method", "citation", "license")
        return {name: self.metadata[name] for name in names if self.metadata.get(name)}


def open_initial_model(config: Config) -> InitialModel | None:
    """The model that a configuration starts from; None for a training from random weights.

    Raises:
        FileNotFoundError: neither a file nor the name of a shipped model.
        ModelFileError: the file cannot be rebuilt, see :func:`tesseral.models.rebuild.rebuild_model`.
    """
    if config.init_from is None:
        return None
    path = resolve_model(config.init_from)
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    return InitialModel(path, rebuild_model(path), read_metadata(path), checksum)


def initial_energies(
    setting: str | dict[str, float], initial: InitialModel, frames: Sequence[Frame], isolated: Sequence[Frame]
) -> dict[str, float]:
    """E0 in eV of every element of a model that a training starts from.

    Args:
        setting: ``init_from``: those of the file. ``least_squares``: these plus the smallest change with which the
            untrained model reproduces the labels best, see :func:`tesseral.models.e0.fitted_energies`.
            ``isolated_atoms`` or energies by symbol: these for every element in the frames. An element that the frames
            lack keeps the energy of the file.
        initial: the model.
        frames: all frames that are trained on.
        isolated: frames of isolated atoms.

    Raises:
        DataError: an element has no energy or two different ones; least squares without a single energy.
    """
    if setting == "init_from":
        return initial.e0
    if setting == "least_squares":
        labelled = frames_with_energy(frames)
        change = fitted_energies(labelled, _missing_energies(initial, labelled), initial.elements)
        return {element: energy + change[element] for element, energy in initial.e0.items()}
    symbols = {symbol for frame in frames for symbol in frame.atoms.symbols}
    present = [element for element in initial.elements if element in symbols]
    return initial.e0 | atomic_energies(setting, frames, isolated, present)


def _missing_energies(initial: InitialModel, frames: Sequence[Frame]) -> np.ndarray:
    """Label minus prediction of the total energy of each frame in eV: [n_frames]."""
    baseline = np.array(initial.model.e0) + np.array(initial.model.shift)
    cutoff, dtype = initial.model.cutoff, torch.float64
    structures = (build_structure(frame, initial.elements, cutoff, baseline, dtype) for frame in frames)
    differences = [
        batch.energy - predict(initial.model, batch, False, False).energy
        for batch in batches_by_atoms(list(structures), PREDICTION_ATOMS)
    ]
    return torch.cat(differences).numpy()


def freeze(model: EnergyModel, trainable: str) -> None:
    """Leave only the named part of the parameters open to optimisation, see `EnergyModel.trainable_parameters`."""
    model.requires_grad_(False)
    for parameter in model.trainable_parameters(trainable):
        parameter.requires_grad_(True)
