"""Training: the loss against written-out sums, exact resume after a kill, interruption, the whole command."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from pretended_device import PRETENDED, Distant, PretendedDevice
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from tesseral.calculator import evaluate
from tesseral.models.checkpoint import CheckpointError, Progress
from tesseral.models.config import Config
from tesseral.models.config_file import dump_config, parse_config
from tesseral.models.file import read_model
from tesseral.models.frames import DataError, read_frames
from tesseral.models.loss import ErrorSums, predict, residuals
from tesseral.models.metrics import error_table
from tesseral.models.pipeline import predict_frames, train
from tesseral.models.prepare import build_model, prepare_data
from tesseral.models.training import CPU, Trainer, TrainingError, TrainingInterrupted

RUN = "import sys; from tesseral.cli import main; main()"


def copper(seed: int, n_cells: int = 1) -> Atoms:
    """A rattled, strained copper crystal labelled by ASE's effective-medium theory."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True) * (n_cells, 1, 1)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * rng.normal(size=(3, 3))), scale_atoms=True)
    atoms.rattle(0.1, rng=rng)
    atoms.calc = EMT()
    result = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    result.info = {
        "REF_energy": atoms.get_potential_energy() - 2.0 * len(atoms),
        "REF_stress": atoms.get_stress(voigt=False),
        "config_type": "strained" if seed % 2 else "rattled",
    }
    result.arrays["REF_forces"] = atoms.get_forces()
    return result


@pytest.fixture(scope="module")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "copper.xyz"
    structures = [copper(seed, 1 + seed % 2) for seed in range(16)]
    del structures[3].info["REF_energy"], structures[5].arrays["REF_forces"], structures[6].info["REF_stress"]
    ase.io.write(path, structures, format="extxyz")
    return path


#: further keys of the section model
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "local": {},
    "layered": {"layers": 2, "message_l": 1, "message_mixing": True},
}


def settings(data_file: Path, architecture: str = "local", **training: Any) -> Config:
    sizes = {"cutoff": 4.0, "l_max": 2, "n_radial": 4, "channels": 8, "features": 4, "readout": [4]}
    content = {
        "name": "copper",
        "data": {"train": str(data_file), "validation": 0.25, "test": str(data_file)},
        "model": {**sizes, **ARCHITECTURES[architecture]},
        "training": {
            "epochs": 6,
            "batch_size": 4,
            "threads": 1,
            "learning_rate": 0.02,
            "checkpoint_interval": 0,
            "loss": {"energy": 1.0, "forces": 10.0, "stress": 10.0},
            **training,
        },
    }
    return parse_config(content)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_writes_everything_and_learns(architecture: str, data_file: Path, tmp_path: Path) -> None:
    stage = {"energy": 1.0, "forces": 10.0, "stress": 10.0, "second_stage": {"start": 0.5, "energy": 100.0}}
    config = settings(data_file, architecture, epochs=40, loss=stage)
    console = Console(file=open(tmp_path / "screen", "w"), width=200)
    with console.file:
        tables = train(config, tmp_path / "run", console=console)
    energies = [f.energy / len(f) for f in read_frames(data_file)[0] if f.energy is not None]
    assert tables["test"]["energy_per_atom"]["rmse"] < 0.75 * 1000 * np.std(energies)
    files = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*") if p.is_file()}
    names = ("parity_energy", "parity_forces", "parity_stress", "error_distributions", "learning_curve")
    plots = {f"report/{name}.png" for name in names}
    assert files == {"model.pt", "checkpoint.safetensors", "config.yaml", "log.jsonl", "report/metrics.json"} | plots
    history = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in history] == list(range(1, 41))
    assert history[-1]["validation"]["forces_rmse"] < 0.5 * history[0]["validation"]["forces_rmse"]
    metrics = json.loads((tmp_path / "run" / "report" / "metrics.json").read_text())
    assert metrics["test"] == tables["test"]
    screen = (tmp_path / "screen").read_text()
    assert "REF_energy in 15, REF_forces in 15, REF_stress in 15" in screen
    assert "epoch 40/40" in screen and "meV/atom" in screen and "meV/Å" in screen


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_model_file_of_a_training_gives_the_errors_of_its_report(
    architecture: str, data_file: Path, tmp_path: Path
) -> None:
    tables = train(settings(data_file, architecture), tmp_path)
    frames, _ = read_frames(data_file)
    table = error_table(frames, evaluate(tmp_path / "model.pt", [frame.atoms for frame in frames]))
    for quantity in ("energy_per_atom", "forces", "stress"):
        assert table[quantity] == pytest.approx(tables["test"][quantity], rel=1e-8)
    metadata = read_model(tmp_path / "model.pt").metadata
    assert metadata["training"]["errors"]["test"]["forces"]["rmse"] == round(table["forces"]["rmse"], 4)
    assert metadata["training"]["config"]["data"]["train"] == ["copper.xyz"]
    assert metadata["valid_range"]["minimum_distance"]["Cu-Cu"] > 2.0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_isolated_atom_keeps_its_energy(architecture: str, data_file: Path, tmp_path: Path) -> None:
    atom = Atoms("Cu", info={"REF_energy": 1.25, "config_type": "IsolatedAtom"})
    ase.io.write(tmp_path / "atom.xyz", atom, format="extxyz")
    content = settings(data_file, architecture).model_dump()
    content["data"]["train"].append(str(tmp_path / "atom.xyz"))
    content["model"]["e0"] = "isolated_atoms"
    train(parse_config(content), tmp_path / "run")
    (result,) = evaluate(tmp_path / "run" / "model.pt", [Atoms("Cu")])
    assert result["energy"] == 1.25


def checkpoint_tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "checkpoint.safetensors")


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_training_is_reproducible_and_depends_on_the_seed(data_file: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(settings(data_file, seed=seed), tmp_path / name)
    assert equal(checkpoint_tensors(tmp_path / "a"), checkpoint_tensors(tmp_path / "b"))
    assert not equal(checkpoint_tensors(tmp_path / "a"), checkpoint_tensors(tmp_path / "c"))


def run_and_kill(command: list[str], checkpoint: Path, n_checkpoints: int) -> None:
    """Start a training and SIGKILL it as soon as its checkpoint has been replaced a number of times."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    seen = {before}
    while process.poll() is None and len(seen) <= n_checkpoints:
        seen.add(checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0)
        time.sleep(0.0005)
    process.kill()
    process.wait(timeout=60)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_killed_again_and_again_ends_at_the_same_weights(
    architecture: str, data_file: Path, tmp_path: Path
) -> None:
    config = settings(data_file, architecture)
    train(config, tmp_path / "whole")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", RUN, "train", str(tmp_path / "config.yaml"), "-o", str(folder), "--resume"]
    for n_checkpoints in (1, 5, 4):  # of 18 steps
        run_and_kill(command, folder / "checkpoint.safetensors", n_checkpoints)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
    assert equal(checkpoint_tensors(tmp_path / "whole"), checkpoint_tensors(folder))
    whole, killed = (read_model(tmp_path / name / "model.pt") for name in ("whole", "killed"))
    assert whole.metadata["parameters_sha256"] == killed.metadata["parameters_sha256"]
    epochs = [json.loads(line)["epoch"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, 7))


class Interrupt:
    """Raises a signal in a step, as if it came from outside."""

    def __init__(self, number: signal.Signals, step: int) -> None:
        self.number, self.at = number, step

    def step(self, progress: Progress, n_batches: int, errors: ErrorSums) -> None:
        if progress.step == self.at:
            signal.raise_signal(self.number)

    def epoch(self, record: dict[str, Any]) -> None:
        pass


def trainer(config: Config, folder: Path, device: torch.device = CPU) -> Trainer:
    """A trainer as the pipeline makes it, without the rest."""
    folder.mkdir(exist_ok=True)
    data = prepare_data(config, lambda text: None)
    training, validation = (data.structures(f, 4.0, torch.float32) for f in (data.training, data.validation))
    model = build_model(config, data, training)
    identity = {"training": config.training.model_dump()}
    return Trainer(model, training, validation, config.training, folder, identity, device=device)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_training_saves_its_state_and_resumes(
    data_file: Path, tmp_path: Path, number: signal.Signals
) -> None:
    config = settings(data_file, checkpoint_interval=1e6)
    whole = trainer(config, tmp_path).fit([])
    before = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted, match=rf"stopped by {number.name}; the state is in .*checkpoint"):
        trainer(config, tmp_path).fit([Interrupt(number, step=8)])
    assert signal.getsignal(number) == before
    resumed = trainer(config, tmp_path)
    resumed.resume()
    assert resumed.state.progress.step == 8
    assert equal(whole, resumed.fit([]))


def test_interrupted_command_says_how_to_continue(data_file: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump_config(settings(data_file, epochs=100_000)))
    command = [sys.executable, "-c", RUN, "train", str(tmp_path / "config.yaml"), "-o", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "run" / "checkpoint.safetensors").exists():
        time.sleep(0.01)
    process.terminate()
    _, message = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert re.search(r"tesseral: stopped by SIGTERM; the state is in .*; continue with --resume", message)


def test_finished_training_resumes_to_its_end(data_file: Path, tmp_path: Path) -> None:
    first = train(settings(data_file), tmp_path)
    with pytest.raises(CheckpointError, match=r"already holds a training; continue it with --resume, or choose"):
        train(settings(data_file), tmp_path)
    assert train(settings(data_file), tmp_path, resume=True) == first


def test_resume_refuses_another_configuration_or_other_data(data_file: Path, tmp_path: Path) -> None:
    train(settings(data_file), tmp_path)
    with pytest.raises(CheckpointError, match=r"belongs to another run: training\.learning_rate: 0\.02 -> 0\.03\. Go"):
        train(settings(data_file, learning_rate=0.03), tmp_path, resume=True)
    other = tmp_path / "other.xyz"
    ase.io.write(other, [copper(seed) for seed in range(8)], format="extxyz")
    with pytest.raises(CheckpointError, match=r"belongs to another run: .*data: '"):
        train(settings(other), tmp_path, resume=True)
    train(settings(data_file, threads=2, checkpoint_interval=5.0), tmp_path, resume=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_on_a_device_gives_the_same_weights_and_its_checkpoint_resumes_anywhere(
    architecture: str, data_file: Path, tmp_path: Path
) -> None:
    config = settings(data_file, architecture)
    data = prepare_data(config, lambda text: None)
    whole = trainer(config, tmp_path / "cpu")
    best = whole.fit([])
    expected = predict_frames(copy.deepcopy(whole.model).double(), data, data.validation)
    with PretendedDevice():
        one = trainer(config, tmp_path / "device", PRETENDED)
        found = one.fit([])
        assert all(isinstance(tensor, Distant) for tensor in found.values())
        assert equal({name: tensor.cpu() for name, tensor in found.items()}, best)
        resumed = trainer(config, tmp_path / "cpu", PRETENDED)
        resumed.resume()
        assert all(isinstance(tensor, Distant) for tensor in resumed.state.best.values())
        predictions = predict_frames(copy.deepcopy(one.model).double(), data, data.validation)
    for prediction, other in zip(predictions, expected, strict=True):
        assert prediction["energy"] == other["energy"] and (prediction["forces"] == other["forces"]).all()
    assert equal(checkpoint_tensors(tmp_path / "cpu"), checkpoint_tensors(tmp_path / "device"))
    back = trainer(config, tmp_path / "device")
    back.resume()
    assert equal(back.fit([]), best)


def run_processes(script: str, folder: Path, count: int) -> None:
    """Run a Python program in so many processes of torchrun."""
    (folder / "program.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "program.py"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


PROCESSES = """
import os
from safetensors.torch import save_file
from tesseral.models import pipeline
from tesseral.models.config_file import load_config

fit = pipeline.Trainer.fit

def fit_and_save(trainer, monitors):
    best = fit(trainer, monitors)
    save_file(dict(trainer.model.state_dict()), f"weights{os.environ['RANK']}.safetensors")
    return best

pipeline.Trainer.fit = fit_and_save
"""


def test_processes_share_the_batches_and_take_the_same_steps(data_file: Path, tmp_path: Path) -> None:
    """Two steps at the same weights, since the first only starts the optimiser's averages: with 11 structures, and with
    1, of which the second process has none. The bases of the averages are not unique, so what follows may differ."""
    config = settings(data_file, precision="float64", batch_size=11, epochs=1, checkpoint_interval=60)
    train(config, tmp_path / "one")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    program = PROCESSES + 'tables = pipeline.train(load_config("config.yaml"), pipeline.Path("two"))\n'
    program += 'assert bool(tables) == (os.environ["RANK"] == "0")\n'
    run_processes(program, tmp_path, 2)
    assert equal(*[load_file(tmp_path / f"weights{rank}.safetensors") for rank in range(2)])
    files = [{path.name for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1]
    one, two = (json.loads((tmp_path / name / "log.jsonl").read_text()) for name in ("one", "two"))
    assert two["training"] == pytest.approx(one["training"], rel=1e-9)
    found = checkpoint_tensors(tmp_path / "two")
    for name, tensor in checkpoint_tensors(tmp_path / "one").items():
        if name.endswith("_average"):
            scale = float(tensor.abs().max())
            torch.testing.assert_close(found[name], tensor, rtol=0.0, atol=1e-9 * scale, msg=name)


def test_damaged_and_foreign_checkpoints_are_refused(data_file: Path, tmp_path: Path) -> None:
    one = trainer(settings(data_file, epochs=1), tmp_path)
    one.fit([])
    content = one.checkpoint.read_bytes()
    one.checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: cannot be read as a checkpoint"):
        one.resume()
    save_file({"a": torch.zeros(1)}, one.checkpoint)
    with pytest.raises(CheckpointError, match=r"not a training checkpoint of Tesseral"):
        one.resume()
    save_file({"a": torch.zeros(1)}, one.checkpoint, metadata={"format": "tesseral-checkpoint", "format_version": "9"})
    with pytest.raises(CheckpointError, match=r"newer Tesseral: checkpoint version 9, this one reads up to 1"):
        one.resume()
    one.checkpoint.write_bytes(content)
    one.state.model.extra = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(CheckpointError, match=r"does not fit this model: tensor model/extra differs"):
        one.resume()


def test_best_weights_are_those_of_the_lowest_validation_loss(data_file: Path, tmp_path: Path) -> None:
    one = trainer(settings(data_file, epochs=30, learning_rate=0.2, ema_decay=0.0), tmp_path)
    best = one.fit([])
    losses = [record["validation"]["loss"] for record in one.state.progress.history]
    assert one.state.progress.best_epoch == int(np.argmin(losses)) + 1
    assert equal(best, {name: p.detach() for name, p in one.state.model.named_parameters()})
    sums = ErrorSums()
    for batch in one.validation_batches:
        sums.add(residuals(predict(one.state.model, batch, True, False), batch), one.settings.loss)
    assert sums.loss(one.settings.loss) == pytest.approx(min(losses), rel=1e-6)


def test_patience_stops_early(data_file: Path, tmp_path: Path) -> None:
    one = trainer(settings(data_file, epochs=200, learning_rate=1.0, ema_decay=0.0, patience=2), tmp_path)
    one.fit([])
    progress = one.state.progress
    assert progress.finished and progress.epoch < 200
    assert progress.epoch == progress.best_epoch + 2


def test_without_validation_the_last_averaged_weights_are_the_result(data_file: Path, tmp_path: Path) -> None:
    config = settings(data_file).model_dump()
    config["data"]["validation"] = 0
    one = trainer(parse_config(config), tmp_path)
    assert equal(one.fit([]), one.state.average.average)
    assert one.state.progress.best_epoch == 6


def test_diverging_training_is_stopped(data_file: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"training diverged: the loss is (nan|inf) in epoch \d+, step \d+; use"):
        trainer(settings(data_file, learning_rate=1e9, gradient_clip=None, epochs=50), tmp_path).fit([])


def test_float64_training_runs(data_file: Path, tmp_path: Path) -> None:
    tables = train(settings(data_file, precision="float64"), tmp_path)
    assert np.isfinite(tables["test"]["forces"]["rmse"])


def test_frames_without_labels_are_left_out_and_counted(data_file: Path, tmp_path: Path) -> None:
    structures = [*ase.io.read(data_file, ":"), bulk("Cu")]
    ase.io.write(tmp_path / "data.xyz", structures, format="extxyz")
    lines: list[str] = []
    data = prepare_data(settings(tmp_path / "data.xyz"), lines.append)
    assert len(data.training) + len(data.validation) == 16
    assert "1 frames without any label are left out" in lines


def test_unusable_data_stops_before_the_first_step(data_file: Path, tmp_path: Path) -> None:
    gold = copper(0)
    gold.numbers[2] = 79
    ase.io.write(tmp_path / "gold.xyz", gold, format="extxyz")
    content = settings(data_file).model_dump()
    content["data"]["test"] = [str(tmp_path / "gold.xyz")]
    with pytest.raises(DataError, match=r"gold\.xyz, frame 0, atom 2: element Au is not among .* training data: Cu"):
        train(parse_config(content), tmp_path / "run")
    with pytest.raises(DataError, match=r"training\.loss: only stress has a weight, and no training frame has such"):
        content = settings(data_file, loss={"energy": 0, "forces": 0, "stress": 1}).model_dump()
        content["data"] |= {"stress_key": False}
        train(parse_config(content), tmp_path / "run")
    ase.io.write(tmp_path / "atom.xyz", Atoms("Cu", info={"REF_energy": 1.0}), format="extxyz")
    with pytest.raises(DataError, match=r"atom\.xyz: only isolated atoms; nothing to train on"):
        train(settings(tmp_path / "atom.xyz"), tmp_path / "run")
