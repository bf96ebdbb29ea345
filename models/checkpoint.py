"""Training checkpoints: one safetensors file whose header carries the scalar state as JSON.

Tensors and JSON in one file make the write atomic: after a crash at any moment there is a complete old or a
complete new checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from tesseral.models.file import write_atomically
from tesseral.models.optimisation import AveragedWeights, copy_into

FORMAT = "tesseral-checkpoint"
FORMAT_VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not belong to this run; the message says why."""


@dataclass
class Progress:
    """How far a training is; everything of its state that is not a tensor."""

    epoch: int = 0  # completed epochs
    batch: int = 0  # completed batches of the epoch under way
    step: int = 0  # completed optimisation steps
    epoch_sums: dict[str, list[float]] | None = None  # error sums of the epoch under way
    best_loss: float | None = None
    best_epoch: int = 0
    stale: int = 0  # validations since the best one
    finished: bool = False
    seconds: float = 0.0  # time spent training
    history: list[dict[str, Any]] = field(default_factory=list)  # one record per completed epoch


@dataclass
class TrainingState:
    """Everything that the rest of a training depends on."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedWeights
    best: dict[str, Tensor]
    progress: Progress


def save_checkpoint(path: Path, state: TrainingState, identity: dict[str, Any]) -> None:
    """Write the state atomically.

    Args:
        path: file, ``*.safetensors``.
        state: what is saved.
        identity: JSON data (configuration, elements, fingerprint of the data) that must be the same on resuming.

    Raises:
        OSError: the file cannot be written; the previous checkpoint is unchanged.
    """
    header = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "progress": json.dumps(asdict(state.progress)),
        "identity": json.dumps(identity),
    }
    write_atomically(path, safetensors.torch.save(_tensors(state), metadata=header))


def _read_header(path: Path) -> tuple[Progress, dict[str, Any]]:
    """Progress and identity of a checkpoint.

    Raises:
        CheckpointError: not a checkpoint, damaged, or written by a newer version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except Exception as error:  # safetensors raises its own type and OSError
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {error}") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a training checkpoint of Tesseral")
    if int(header["format_version"]) > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: written by a newer Tesseral: checkpoint version {header['format_version']}, this one reads up "
            f"to {FORMAT_VERSION}"
        )
    return Progress(**json.loads(header["progress"])), json.loads(header["identity"])


def load_checkpoint(path: Path, state: TrainingState, identity: dict[str, Any]) -> None:
    """Restore a state in place. No random state is needed: the order of the batches follows from seed and epoch.

    Raises:
        CheckpointError: the file is damaged, belongs to a run with another identity, or does not fit the model.
    """
    progress, saved_identity = _read_header(path)
    changed = differences(saved_identity, json.loads(json.dumps(identity)))
    if changed:
        raise CheckpointError(
            f"{path}: belongs to another run: {'; '.join(changed)}. Go back to the configuration and data of that "
            f"run, or use another output folder"
        )
    try:
        saved = safetensors.torch.load_file(path)
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {error}") from error
    expected = _tensors(state)
    for name in sorted(set(expected) | set(saved)):
        one, other = expected.get(name), saved.get(name)
        if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
            raise CheckpointError(f"{path}: does not fit this model: tensor {name} differs; remove it to start again")
    copy_into(expected, saved)
    state.progress = progress


def differences(saved: Any, current: Any, key: str = "") -> list[str]:
    """Lines ``key: saved value -> current value`` for two JSON values."""
    if isinstance(saved, dict) and isinstance(current, dict):
        names = [*saved, *(name for name in current if name not in saved)]
        pairs = ((f"{key}.{name}".lstrip("."), saved.get(name), current.get(name)) for name in names)
        return [line for name, one, other in pairs for line in differences(one, other, name)]
    return [] if saved == current else [f"{key}: {saved!r} -> {current!r}"]


def _tensors(state: TrainingState) -> dict[str, Tensor]:
    """All tensors of a state by name, not copied."""
    names: dict[Tensor, str] = {p: name for name, p in state.model.named_parameters()}
    tensors = {f"model/{name}": value.detach() for name, value in state.model.state_dict().items()}
    tensors |= {f"average/{name}": value for name, value in state.average.average.items()}
    tensors |= {f"best/{name}": value for name, value in state.best.items()}
    for parameter, moments in state.optimizer.state.items():
        tensors |= {f"optimizer/{names[parameter]}/{key}": value for key, value in moments.items()}
    return tensors
