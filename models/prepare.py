"""From a configuration to checked data and a model ready for its training."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
from tesseral.models.initial import InitialModel, freeze, initial_energies
from tesseral.models.layered import LayeredModel
from tesseral.models.local import LocalModel

#: atoms whose densities set the fixed scales of the model
SCALE_SAMPLE_ATOMS = 3000
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class PreparedData:
    """Frames of a training, all read and checked before the first step.

    Attributes:
        elements: symbols in the order of the species indices: by atomic number, or as in the model to start from.
        e0: energy of each free atom in eV.
        training, validation: frames, without those of isolated atoms unless the model to start from learns them.
        tests: test frames by name of the set.
        shift: further energy per atom of the model to start from, in eV; none otherwise.
        replay, replay_validation: old frames that are trained along, and those kept for validation.
    """

    elements: list[str]
    e0: dict[str, float]
    training: list[Frame]
    validation: list[Frame]
    tests: dict[str, list[Frame]]
    shift: dict[str, float] = field(default_factory=dict)
    replay: list[Frame] = field(default_factory=list)
    replay_validation: list[Frame] = field(default_factory=list)

    @property
    def baseline(self) -> np.ndarray:
        """[n_elements] energies in eV that are subtracted from the labels."""
        return np.array([self.e0[element] + self.shift.get(element, 0.0) for element in self.elements])

    @property
    def sets(self) -> dict[str, list[Frame]]:
        """All sets with frames, by the names they have in reports."""
        named = {
            "train": self.training,
            "replay": self.replay,
            "validation": self.validation,
            "replay validation": self.replay_validation,
            **self.tests,
        }
        return {name: frames for name, frames in named.items() if frames}

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of the frames with their labels: ``data`` of training and validation, ``replay`` if there is any."""
        sets = {"data": [*self.training, *self.validation], "replay": [*self.replay, *self.replay_validation]}
        return {name: _fingerprint(frames) for name, frames in sets.items() if frames}

    def structures(
        self, frames: Sequence[Frame], cutoff: float, dtype: torch.dtype, weight: float = 1.0
    ) -> list[Structure]:
        """Frames as tensors; see :func:`tesseral.models.data.build_structure`."""
        return [build_structure(frame, self.elements, cutoff, self.baseline, dtype, weight) for frame in frames]


def prepare_data(config: Config, say: Callable[[str], None], initial: InitialModel | None = None) -> PreparedData:
    """Read all files of a configuration, split off validation, and find E0.

    Args:
        config: the configuration.
        say: is told in a line per file which labels were found, and what was decided.
        initial: the model to start from, which has the elements and the cutoff.

    Raises:
        DataError: see :func:`read_frames`, :func:`atomic_energies`; also an element that the model to start from lacks,
            or one in the validation or test data that the training data lacks, and loss weights without any label.
    """
    data, cutoff = config.data, config.model.cutoff if initial is None else initial.model.cutoff
    read = _Reader(LabelKeys(data.energy_key, data.forces_key, data.stress_key, data.stress_offset), cutoff, say)
    training, replay, single, old_single = read.training(data.train, data.replay)
    learnt = initial is not None and initial.model.learns_isolated_atoms()
    validation: list[Frame] = []
    replay_validation: list[Frame] = []
    if isinstance(data.validation, list):
        validation, others = separate_isolated_atoms(read(data.validation)[0], cutoff)
        validation += others if learnt else []
    elif data.validation > 0:
        training, validation = split_validation(training, data.validation, config.training.seed)
        if replay:
            replay, replay_validation = split_validation(replay, data.validation, config.training.seed, "replay frames")
    if learnt:  # never split off: there may be one of each element
        training, replay = training + _labelled(single, say), replay + _labelled(old_single, say)
    tests = {_test_name(path, data.test): read([path])[0] for path in data.test}
    if initial is None:
        elements, owner = _elements(training), "the training data"
    else:
        elements, owner = initial.elements, f"the model {initial.name}, from which the training starts"
    for frame in (*training, *replay, *validation, *replay_validation, *itertools.chain(*tests.values())):
        species_indices(frame.atoms, elements, frame.source, owner)
    _check_labels(config, training + replay)
    isolated = single + old_single
    if initial is None:
        e0, shift = atomic_energies(config.model.e0, training, isolated, elements), {}
    else:
        e0, shift = initial_energies(config.model.e0, initial, training + replay, isolated), initial.shift
    if isolated:
        say(_about_isolated_atoms(len(isolated), learnt, any(shift.values())))
    old = f", {len(replay)} and {len(replay_validation)} of replay" if replay else ""
    say(f"{len(training)} training and {len(validation)} validation frames{old}; E0 / eV: {_listed(e0)}")
    return PreparedData(elements, e0, training, validation, tests, shift, replay, replay_validation)


class _Reader:
    """Reads files, telling of each which labels were found."""

    def __init__(self, keys: LabelKeys, cutoff: float, say: Callable[[str], None]) -> None:
        self.keys, self.cutoff, self.say = keys, cutoff, say

    def __call__(self, paths: Sequence[str]) -> tuple[list[Frame], list[int]]:
        """All frames, and how many each file has."""
        frames, reports = read_frames(paths, self.keys)
        for report in reports:
            self.say(str(report))
        return frames, [report.n_frames for report in reports]

    def training(self, new: list[str], old: list[str]) -> tuple[list[Frame], list[Frame], list[Frame], list[Frame]]:
        """Labelled frames of new data and of replay, and the isolated atoms of both; read together: labels must be of
        one kind."""
        frames, sizes = self([*new, *old])
        n_new = sum(sizes[: len(new)])
        training, isolated = separate_isolated_atoms(frames[:n_new], self.cutoff)
        replay, old_isolated = separate_isolated_atoms(frames[n_new:], self.cutoff)
        training, replay = _labelled(training, self.say), _labelled(replay, self.say)
        for paths, some in ((new, training), (old, replay)):
            if paths and not some:
                raise DataError(f"{', '.join(paths)}: only isolated atoms; nothing to train on")
        return training, replay, isolated, old_isolated


def build_model(
    config: Config, data: PreparedData, structures: Sequence[Structure], initial: InitialModel | None = None
) -> EnergyModel:
    """A model with random weights from the seed, normalised on a sample of the training structures.

    The energy scale ``auto`` is the root mean square of the force components times 1 Å, and 1 eV without forces.
    No constant is added to E0 (shift 0): with E0 from isolated atoms the network learns the whole binding energy,
    so that atoms that move apart end at E0; with least squares E0 already is the mean.

    With an initial model: this one, with the E0 of the data, all other scales as they are, and only the chosen
    parameters open to optimisation.
    """
    settings = config.model
    torch_dtype = DTYPES[config.training.precision]
    if initial is not None:
        model = initial.with_e0(data.e0).to(torch_dtype)
        freeze(model, config.training.trainable)
        return model
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
    if settings.layers == 1:
        model = LocalModel(**arguments)
    else:
        arguments |= {name: getattr(settings, name) for name in ("message_l", "message_mixing")}
        model = LayeredModel(n_layers=settings.layers, **arguments)
    model.to(torch_dtype)
    sample = collate(_spread_sample(structures, SCALE_SAMPLE_ATOMS))
    model.normalise(sample.vectors, sample.centers, sample.neighbors, sample.species)
    return model


def _about_isolated_atoms(count: int, learnt: bool, has_shift: bool) -> str:
    if learnt:
        return (
            f"{count} isolated atoms are trained on: to the model to start from, an isolated atom is more than its E0"
        )
    energy = "E0 and the shift of the model to start from" if has_shift else "E0"
    return f"{count} isolated atoms give E0 or are left out: an isolated atom has {energy} by construction"


def _elements(frames: Sequence[Frame]) -> list[str]:
    numbers = sorted({int(number) for frame in frames for number in frame.atoms.numbers})
    return [chemical_symbols[number] for number in numbers]


def _fingerprint(frames: Sequence[Frame]) -> str:
    digest = hashlib.sha256()
    for frame in frames:
        atoms = frame.atoms
        digest.update(f"{atoms.pbc.tolist()} {frame.energy} {len(frame)}".encode())
        for array in (atoms.numbers, atoms.positions, atoms.cell.array, frame.forces, frame.stress):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


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
