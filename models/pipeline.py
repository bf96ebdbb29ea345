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
from tesseral.models.initial import InitialModel, open_initial_model
from tesseral.models.loss import predict
from tesseral.models.metadata import model_metadata, with_origin
from tesseral.models.metrics import print_error_table
from tesseral.models.optimisation import copy_into
from tesseral.models.prepare import DTYPES, PreparedData, build_model, prepare_data
from tesseral.models.processes import Processes, joined_processes, training_device
from tesseral.models.progress import ConsoleMonitor, error_text
from tesseral.models.report import EvaluatedSet, write_report
from tesseral.models.training import CHECKPOINT_NAME, EVALUATION_ATOMS, Trainer

MODEL_NAME = "model.pt"
CONFIG_NAME = "config.yaml"
LOG_NAME = "log.jsonl"
#: keys of the section training that may change when a training is resumed
NO_PART_OF_THE_RESULT = ("device", "threads", "checkpoint_interval")


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
        Error tables by set (``train``, ``replay``, ``validation``, ``replay validation``, ``test``), see
        :func:`tesseral.models.metrics.error_table`.

    Under torchrun the processes train one model together; the first of them writes, shows progress and returns errors.

    Raises:
        DataError, CheckpointError, TrainingError, TrainingInterrupted, ModelFileError: see the modules of those names.
        FileNotFoundError: there is no model ``init_from``.
        OSError: something cannot be written.
        ValueError, RuntimeError: see :func:`tesseral.models.processes.training_device`.
    """
    device = training_device(config.training.device)
    initial = open_initial_model(config)
    with joined_processes(device) as processes, _threads(config.training.threads):
        if console is None or not processes.is_first:
            console = Console(quiet=True)
        if processes.is_first:
            _open_folder(output, resume, initial)
        return _train(config, output, initial, console, device, processes)


def _train(
    config: Config,
    output: Path,
    initial: InitialModel | None,
    console: Console,
    device: torch.device,
    processes: Processes,
) -> dict[str, Any]:
    """The training in an open folder."""

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False)

    data = prepare_data(config, say, initial)
    trainer = _trainer(config, output, data, initial, device, processes)
    if trainer.checkpoint.exists():
        trainer.resume()
    elif initial is not None:
        start = trainer.validate_start()
        for name in [name for name in data.sets if name in start]:
            say(f"{initial.name} before the first step: {name} {error_text(start[name])}")
    processes.wait()  # until all have seen whether there is a checkpoint
    if not processes.is_first:
        trainer.fit([])
        return {}
    write_atomically(output / CONFIG_NAME, dump_config(config).encode("utf-8"))
    progress = trainer.state.progress
    log = _Log(output / LOG_NAME, progress.history)
    with ConsoleMonitor(console, config.training.epochs, progress.epoch) as monitor:
        trainer.fit([monitor, log])
    return _conclude(config, output, data, trainer, initial, console)


def predict_frames(model: EnergyModel, data: PreparedData, frames: Sequence[Frame]) -> list[dict[str, Any]]:
    """Predictions of a model in float64 for labelled frames, made on the device of the model.

    Returns:
        ``energy`` (eV), ``forces`` [n_atoms, 3] (eV/Å) and ``stress`` [3, 3] (eV/Å^3; None without a label) of each.
    """
    predictions: list[dict[str, Any]] = []
    structures = data.structures(frames, model.cutoff, torch.float64)
    baselines = [float(data.baseline[structure.species.numpy()].sum()) for structure in structures]
    for batch in batches_by_atoms(structures, EVALUATION_ATOMS):
        result = predict(model, batch.to(model.density_scale.device), True, False)
        assert result.stress is not None
        energies, stresses = result.energy.tolist(), result.stress.cpu().numpy()
        forces = torch.split(result.forces.cpu(), batch.n_atoms.tolist())
        for index, energy in enumerate(energies):
            stress = stresses[index] if batch.has_stress[index] else None
            total = energy + baselines[len(predictions)]
            predictions.append({"energy": total, "forces": forces[index].numpy(), "stress": stress})
    return predictions


def _open_folder(output: Path, resume: bool, initial: InitialModel | None) -> None:
    """Make the folder; a training in it is continued only if asked, and the model to start from stays."""
    output.mkdir(parents=True, exist_ok=True)
    if initial is not None and (output / MODEL_NAME).exists() and initial.path.samefile(output / MODEL_NAME):
        raise CheckpointError(f"{initial.path}: the model of init_from would be overwritten; choose another --output")
    if (output / CHECKPOINT_NAME).exists() and not resume:
        raise CheckpointError(
            f"{output}: already holds a training; continue it with --resume, or choose another --output"
        )


def _trainer(
    config: Config,
    output: Path,
    data: PreparedData,
    initial: InitialModel | None,
    device: torch.device,
    processes: Processes,
) -> Trainer:
    """The trainer of a model before its first step; replay frames are among those it trains on."""
    cutoff, dtype = config.model.cutoff if initial is None else initial.model.cutoff, DTYPES[config.training.precision]
    weight = config.data.replay_weight
    training = data.structures(data.training, cutoff, dtype)
    model = build_model(config, data, training, initial)
    training += data.structures(data.replay, cutoff, dtype, weight)
    validation = data.structures(data.validation, cutoff, dtype)
    replay_validation = data.structures(data.replay_validation, cutoff, dtype, weight)
    identity = _identity(config, data, initial)
    rest = (replay_validation, device, processes)
    return Trainer(model, training, validation, config.training, output, identity, *rest)


def _identity(config: Config, data: PreparedData, initial: InitialModel | None) -> dict[str, Any]:
    """What must not change between the parts of a resumed training: all numbers that enter the result."""
    content = config.model_dump(mode="json")
    settings = {k: v for k, v in content["training"].items() if k not in NO_PART_OF_THE_RESULT}
    start = {} if initial is None else {"init_from": initial.sha256, "replay_weight": config.data.replay_weight}
    return {
        **start,
        "model": content["model"],
        "training": settings,
        "elements": data.elements,
        "e0": data.e0,
        **data.fingerprints(),
    }


def _conclude(
    config: Config,
    output: Path,
    data: PreparedData,
    trainer: Trainer,
    initial: InitialModel | None,
    console: Console,
) -> dict[str, Any]:
    """Write the model file, then the report, from the best weights, which the trainer has left in the model.

    What was not trained is taken from the initial model in full precision.
    """
    exported = copy.deepcopy(trainer.model).double() if initial is None else initial.with_e0(data.e0)
    exported.to(trainer.device)
    parameters = dict(exported.named_parameters())
    copy_into({name: parameters[name] for name in trainer.state.best}, trainer.state.best)
    progress = trainer.state.progress
    sets = _evaluated(exported, data)
    tables = {name: one.table for name, one in sets.items()}
    metadata = model_metadata(config, data, exported, progress, tables)
    before: dict[str, Any] = {}
    if initial is not None:
        start = initial.with_e0(data.e0).to(trainer.device)
        before = {name: one.table for name, one in _evaluated(start, data).items()}
        metadata = with_origin(metadata, initial, before)
    exported.cpu()
    save_model(output / MODEL_NAME, torch.jit.script(exported), metadata, exported.native_parameters())
    write_report(output / "report", sets, data.e0, progress.history, before)
    for name, table in tables.items():
        print_error_table(console, name, table)
    console.print(f"model: {output / MODEL_NAME}   report: {output / 'report'}", soft_wrap=True, highlight=False)
    return tables


def _evaluated(model: EnergyModel, data: PreparedData) -> dict[str, EvaluatedSet]:
    return {name: EvaluatedSet(frames, predict_frames(model, data, frames)) for name, frames in data.sets.items()}


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
