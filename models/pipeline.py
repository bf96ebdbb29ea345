"""A whole training: data, model, optimisation, model file, report."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tesseral.models.checkpoint import CheckpointError
from tesseral.models.config import Config
from tesseral.models.config_file import dump_config
from tesseral.models.data import batches_by_atoms
from tesseral.models.energy_model import EnergyModel
from tesseral.models.file import save_model, write_atomically
from tesseral.models.frames import Frame
from tesseral.models.loss import predict
from tesseral.models.metadata import model_metadata
from tesseral.models.metrics import print_error_table
from tesseral.models.prepare import DTYPES, PreparedData, build_model, prepare_data
from tesseral.models.progress import ConsoleMonitor
from tesseral.models.report import EvaluatedSet, write_report
from tesseral.models.training import CHECKPOINT_NAME, EVALUATION_ATOMS, Trainer

MODEL_NAME = "model.pt"
CONFIG_NAME = "config.yaml"
LOG_NAME = "log.jsonl"


def train(config: Config, output: Path, resume: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Train a model and write everything into a folder.

    The folder receives ``config.yaml``, ``checkpoint.safetensors``, ``log.jsonl`` (one record per epoch), ``model.pt``
    and ``report/``.

    Args:
        config: see :func:`tesseral.models.config_file.load_config`.
        output: folder; made if need be.
        resume: continue from the checkpoint in the folder if there is one.
        console: where progress is shown; None: nowhere.

    Returns:
        Error tables by set (``train``, ``validation``, ``test``), see :func:`tesseral.models.metrics.error_table`.

    Raises:
        DataError, CheckpointError, TrainingError, TrainingInterrupted: see the modules of those names.
        OSError: something cannot be written.
    """
    console = console or Console(quiet=True)
    _open_folder(output, resume)
    with _threads(config.training.threads):
        data = prepare_data(config, lambda text: console.print(text, soft_wrap=True, highlight=False))
        structures = data.structures(data.training, config.model.cutoff, DTYPES[config.training.precision])
        validation = data.structures(data.validation, config.model.cutoff, DTYPES[config.training.precision])
        model = build_model(config, data, structures)
        trainer = Trainer(model, structures, validation, config.training, output, _identity(config, data))
        if trainer.checkpoint.exists():
            trainer.resume()
        write_atomically(output / CONFIG_NAME, dump_config(config).encode("utf-8"))
        progress = trainer.state.progress
        log = _Log(output / LOG_NAME, progress.history)
        with ConsoleMonitor(console, config.training.epochs, progress.epoch) as monitor:
            trainer.fit([monitor, log])
        return _conclude(config, output, data, model, trainer, console)


def predict_frames(model: EnergyModel, data: PreparedData, frames: Sequence[Frame]) -> list[dict[str, Any]]:
    """Predictions of a model in float64 for labelled frames.

    Returns:
        ``energy`` (eV), ``forces`` [n_atoms, 3] (eV/Å) and ``stress`` [3, 3] (eV/Å^3; None without a label) of each.
    """
    predictions: list[dict[str, Any]] = []
    structures = data.structures(frames, model.cutoff, torch.float64)
    baselines = [float(data.baseline[structure.species.numpy()].sum()) for structure in structures]
    for batch in batches_by_atoms(structures, EVALUATION_ATOMS):
        result = predict(model, batch, True, False)
        assert result.stress is not None
        forces = torch.split(result.forces, batch.n_atoms.tolist())
        for index in range(len(batch.n_atoms)):
            stress = result.stress[index].numpy() if batch.has_stress[index] else None
            energy = float(result.energy[index]) + baselines[len(predictions)]
            predictions.append({"energy": energy, "forces": forces[index].numpy(), "stress": stress})
    return predictions


def _open_folder(output: Path, resume: bool) -> None:
    """Make the folder; a training in it is continued only if asked."""
    output.mkdir(parents=True, exist_ok=True)
    if (output / CHECKPOINT_NAME).exists() and not resume:
        raise CheckpointError(
            f"{output}: already holds a training; continue it with --resume, or choose another --output"
        )


def _identity(config: Config, data: PreparedData) -> dict[str, Any]:
    """What must not change between the parts of a resumed training: all numbers that enter the result."""
    content = config.model_dump(mode="json")
    settings = {k: v for k, v in content["training"].items() if k not in ("threads", "checkpoint_interval")}
    return {
        "model": content["model"],
        "training": settings,
        "elements": data.elements,
        "e0": data.e0,
        "data": data.fingerprint(),
    }


def _conclude(
    config: Config, output: Path, data: PreparedData, model: EnergyModel, trainer: Trainer, console: Console
) -> dict[str, Any]:
    """Write the model file, then the report, from the best weights, which the trainer has left in the model."""
    exported = copy.deepcopy(model).double()
    frames = {"train": data.training, "validation": data.validation, **data.tests}
    sets = {name: EvaluatedSet(some, predict_frames(exported, data, some)) for name, some in frames.items() if some}
    progress = trainer.state.progress
    tables = {name: one.table for name, one in sets.items()}
    metadata = model_metadata(config, data, exported, progress, tables)
    save_model(output / MODEL_NAME, torch.jit.script(exported), metadata, exported.native_parameters())
    write_report(output / "report", sets, data.e0, progress.history)
    for name, table in tables.items():
        print_error_table(console, name, table)
    console.print(f"model: {output / MODEL_NAME}   report: {output / 'report'}", soft_wrap=True, highlight=False)
    return tables


class _Log:
    """JSON lines, one per epoch; on resuming it starts again from the history of the checkpoint."""

    def __init__(self, path: Path, history: Sequence[Mapping[str, Any]]) -> None:
        self.path = path
        lines = "".join(json.dumps(record) + "\n" for record in history)
        write_atomically(path, lines.encode("utf-8"))

    def step(self, *progress: object) -> None:
        """Nothing is written per step."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Append a record."""
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Set the threads of torch for a while; None leaves them alone."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
