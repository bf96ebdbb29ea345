"""Fine-tuning: frozen parameters, E0, replay of old data, resuming, what the file says, the example."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from tesseral.calculator import evaluate
from tesseral.models import pipeline
from tesseral.models.checkpoint import CheckpointError
from tesseral.models.config import Config
from tesseral.models.config_file import load_config, parse_config
from tesseral.models.e0 import least_squares_energies
from tesseral.models.file import read_metadata, read_model
from tesseral.models.frames import DataError, read_frames
from tesseral.models.initial import initial_energies, open_initial_model
from tesseral.models.metrics import error_table
from tesseral.models.pipeline import train
from tesseral.models.rebuild import rebuild_model
from tesseral.models.registry import resolve_model
from tesseral.models.training import TrainingInterrupted

SIZES: dict[str, Any] = {"cutoff": 4.0, "l_max": 2, "n_radial": 4, "channels": 16, "features": 4, "readout": [4]}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "local": {},
    "layered": {"layers": 2, "message_l": 1, "message_mixing": True},
}


def crystal(symbols: str, seed: int, stretch: float = 1.0) -> Atoms:
    """Four rattled atoms of a face-centred cubic crystal, labelled by ASE's effective-medium theory."""
    atoms = bulk("Cu", cubic=True)
    atoms.symbols = symbols
    atoms.set_cell(atoms.cell.array * stretch, scale_atoms=True)
    atoms.rattle(0.1, rng=np.random.default_rng(seed))
    result = atoms.copy()
    atoms.calc = EMT()
    result.info = {"REF_energy": atoms.get_potential_energy() - 2.0 * len(atoms)}
    result.arrays["REF_forces"] = atoms.get_forces()
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data that models know (old.xyz), data that they do not know (new.xyz, test.xyz), both of copper."""
    path = tmp_path_factory.mktemp("finetune")
    ase.io.write(path / "old.xyz", [crystal("Cu4", seed) for seed in range(20)], format="extxyz")
    ase.io.write(path / "new.xyz", [crystal("Cu4", 100 + seed, 1.1) for seed in range(16)], format="extxyz")
    ase.io.write(path / "test.xyz", [crystal("Cu4", 200 + seed, 1.1) for seed in range(8)], format="extxyz")
    return path


@pytest.fixture(scope="module")
def initial(folder: Path) -> Callable[[str], Path]:
    """initial(architecture): file of a model trained on old.xyz."""

    def path(architecture: str) -> Path:
        file = folder / architecture / "model.pt"
        if not file.exists():
            content = {
                "name": f"old-{architecture}",
                "citation": "Old, J. Old 1, 1 (2001)",
                "license": "MIT",
                "data": {"train": str(folder / "old.xyz")},
                "model": {**SIZES, **ARCHITECTURES[architecture]},
                "training": {"epochs": 60, "batch_size": 4, "threads": 1, "ema_decay": 0.9},
            }
            train(parse_config(content), file.parent)
        return file

    return path


def settings(folder: Path, start: Path | str, data: dict[str, Any] | None = None, **training: Any) -> Config:
    """A fine-tuning on new.xyz, tested on test.xyz."""
    content = {
        "name": "new",
        "citation": "New, J. New 2, 2 (2002)",
        "init_from": str(start),
        "data": {
            "train": str(folder / "new.xyz"),
            "test": str(folder / "test.xyz"),
            "validation": 0.25,
            **(data or {}),
        },
        "training": {"epochs": 20, "batch_size": 4, "threads": 1, "learning_rate": 0.01, "ema_decay": 0.9, **training},
    }
    return parse_config(content)


def errors(model: Path, data: Path) -> dict[str, float]:
    """Root mean square errors of a model file: energy in meV/atom, forces in meV/Å."""
    frames, _ = read_frames(data)
    table = error_table(frames, evaluate(model, [frame.atoms for frame in frames]))
    return {name: table[name]["rmse"] for name in ("energy_per_atom", "forces")}


# --- what a fine-tuning gives


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_new_data_are_learnt_and_replay_keeps_the_old(architecture: str, folder: Path, initial, tmp_path: Path) -> None:
    start = initial(architecture)
    before = {name: errors(start, folder / name) for name in ("old.xyz", "test.xyz")}
    replay = {"replay": str(folder / "old.xyz")}
    tables = {
        "alone": train(settings(folder, start, epochs=40), tmp_path / "alone"),
        "replay": train(settings(folder, start, replay, epochs=40), tmp_path / "replay"),
    }
    after = {name: errors(tmp_path / name / "model.pt", folder / "old.xyz") for name in tables}
    for quantity in ("energy_per_atom", "forces"):
        assert before["old.xyz"][quantity] < 0.5 * before["test.xyz"][quantity]
        assert tables["alone"]["test"][quantity]["rmse"] < 0.5 * before["test.xyz"][quantity]
        assert tables["replay"]["test"][quantity]["rmse"] < 0.5 * before["test.xyz"][quantity]
        assert after["replay"][quantity] < 0.5 * after["alone"][quantity]
    assert list(tables["replay"]) == ["train", "replay", "validation", "replay validation", "test"]
    assert [table["n_frames"] for table in tables["replay"].values()] == [12, 15, 4, 5, 8]


def test_the_file_says_where_it_comes_from_and_the_report_what_changed(folder: Path, initial, tmp_path: Path) -> None:
    start = initial("local")
    tables = train(settings(folder, start, {"replay": str(folder / "old.xyz")}, epochs=2), tmp_path)
    metadata, old = read_metadata(tmp_path / "model.pt"), read_metadata(start)
    assert metadata["init_from"] == {
        "name": "old-local",
        "parameters_sha256": old["parameters_sha256"],
        "citation": "Old, J. Old 1, 1 (2001)",
        "license": "MIT",
    }
    assert metadata["citation"] == "New, J. New 2, 2 (2002); initial model old-local: Old, J. Old 1, 1 (2001)"
    assert (metadata["architecture"], metadata["cutoff"]) == (old["architecture"], old["cutoff"])
    config = metadata["training"]["config"]
    assert (config["init_from"], config["model"], config["data"]["replay"]) == (
        "model.pt",
        {"e0": "init_from"},
        ["old.xyz"],
    )
    Config.model_validate(config)
    report = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert {name: report[name] for name in tables} == tables
    before = errors(start, folder / "test.xyz")
    for quantity in before:
        assert report["before"]["test"][quantity]["rmse"] == pytest.approx(before[quantity], rel=1e-8)
        assert metadata["training"]["errors_before"]["test"][quantity]["rmse"] == round(before[quantity], 4)
    history = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in history] == [0, 1, 2]
    for name in ("validation", "replay validation"):
        rmse = report["before"][name]["forces"]["rmse"]
        assert history[0][name]["forces_rmse"] == pytest.approx(rmse, rel=1e-3)  # training is in float32
    shortest = metadata["valid_range"]["minimum_distance"]["Cu-Cu"]
    frames = [frame for name in ("old.xyz", "new.xyz") for frame in ase.io.read(folder / name, ":")]
    distances = [np.min(f.get_all_distances(mic=True) + 9 * np.eye(len(f))) for f in frames]
    assert min(distances) - 1e-4 <= shortest < 2.6


def test_a_training_that_only_spoils_the_model_gives_the_initial_one(folder: Path, initial, tmp_path: Path) -> None:
    start = initial("local")
    data = {"train": str(folder / "old.xyz")}
    train(settings(folder, start, data, epochs=2, learning_rate=0.5, warmup_epochs=0), tmp_path)
    assert read_metadata(tmp_path / "model.pt")["training"]["best_epoch"] == 0
    one, other = rebuild_model(start).state_dict(), rebuild_model(tmp_path / "model.pt").state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


EXPECTED = {
    ("local", "readout"): ("readout.",),
    ("local", "last_layer"): ("readout.", "features_weight", "product_weights"),
    ("layered", "readout"): ("readout.", "layer_readouts"),
    ("layered", "last_layer"): ("readout.", "layer_readouts", "later.0."),
}


@pytest.mark.parametrize(("architecture", "trainable"), EXPECTED)
def test_frozen_parameters_do_not_change_in_a_single_bit(
    architecture: str, trainable: str, folder: Path, tmp_path: Path, write_random_model
) -> None:
    messages = {"n_layers": 2, "message_l": 1, "message_mixing": True} if architecture == "layered" else None
    start = write_random_model(tmp_path / "start.pt", ["Cu"], messages=messages)  # weights in full double precision
    train(settings(folder, start, trainable=trainable, epochs=3), tmp_path / "run")
    one, other = rebuild_model(start), rebuild_model(tmp_path / "run" / "model.pt")
    values, parameters = other.state_dict(), {name for name, _ in one.named_parameters()}
    for name, value in one.state_dict().items():
        trained = name in parameters and name.startswith(EXPECTED[architecture, trainable])
        assert torch.equal(value, values[name]) != trained, name


def test_trainable_parameters_are_named(write_random_model, tmp_path: Path) -> None:
    model = rebuild_model(write_random_model(tmp_path / "start.pt", ["Cu"]))
    assert len(model.trainable_parameters("all")) == len(list(model.parameters()))
    with pytest.raises(ValueError, match="model: trainable must be all, last_layer or readout, got 'first'"):
        model.trainable_parameters("first")


# --- elements and energies of the free atoms


def test_elements_are_those_of_the_file(folder: Path, tmp_path: Path, write_random_model) -> None:
    start = write_random_model(tmp_path / "start.pt", ["Cu", "Au", "Ni"])
    train(settings(folder, start, epochs=1), tmp_path / "run")
    assert read_metadata(tmp_path / "run" / "model.pt")["species"] == ["Cu", "Au", "Ni"]
    ase.io.write(tmp_path / "silver.xyz", [crystal("Cu3Ag", seed) for seed in range(4)], format="extxyz")
    silver = str(tmp_path / "silver.xyz")
    for data in ({"train": silver}, {"replay": silver}, {"validation": silver}, {"test": silver}):
        with pytest.raises(
            DataError, match=r"silver\.xyz, frame \d, atom 3: element Ag is not among those of the model "
        ):
            train(settings(folder, start, data), tmp_path / "other")


def test_free_atoms_keep_their_energies_get_new_ones_or_are_fitted(tmp_path: Path, write_random_model) -> None:
    path = write_random_model(tmp_path / "start.pt", ["Cu", "Au", "Ni"])
    start = open_initial_model(parse_config({"name": "a", "init_from": str(path), "data": {"train": "x"}}))
    assert start is not None
    structures = [crystal(symbols, seed) for seed, symbols in enumerate(("Cu4", "Cu3Au", "Cu2Au2", "Au4"))]
    offsets = {"Cu": 1.25, "Au": -0.5}
    for atoms, result in zip(structures, evaluate(path, structures), strict=True):
        atoms.info["REF_energy"] = result["energy"] + sum(offsets[symbol] for symbol in atoms.symbols)
    ase.io.write(tmp_path / "data.xyz", structures, format="extxyz")
    ase.io.write(tmp_path / "atom.xyz", Atoms("Cu", info={"REF_energy": -7.0}), format="extxyz")
    frames, isolated = read_frames(tmp_path / "data.xyz")[0], read_frames(tmp_path / "atom.xyz")[0]
    assert initial_energies("init_from", start, frames, []) == start.e0
    fitted = initial_energies("least_squares", start, frames, [])
    assert fitted == pytest.approx({"Cu": start.e0["Cu"] + 1.25, "Au": start.e0["Au"] - 0.5, "Ni": start.e0["Ni"]})
    assert fitted != pytest.approx(least_squares_energies(frames, start.elements), rel=1e-3)
    copper = [frame for frame in frames if set(frame.atoms.symbols) == {"Cu"}]
    assert initial_energies("isolated_atoms", start, copper, isolated) == {**start.e0, "Cu": -7.0}
    assert initial_energies({"Cu": -1.0, "Au": -2.0}, start, frames, []) == {**start.e0, "Cu": -1.0, "Au": -2.0}
    with pytest.raises(DataError, match=r"isolated atoms in the training data: no energy of Au; the data holds Cu, Au"):
        initial_energies("isolated_atoms", start, frames, isolated)


def test_new_energies_of_free_atoms_are_in_the_file(folder: Path, tmp_path: Path, write_random_model) -> None:
    start = write_random_model(tmp_path / "start.pt", ["Cu"])
    content = settings(folder, start, epochs=1).model_dump()
    train(parse_config(content | {"model": {"e0": {"Cu": -3.5}}}), tmp_path / "run")
    (result,) = evaluate(tmp_path / "run" / "model.pt", [Atoms("Cu")])
    assert result["energy"] == -3.5
    assert read_metadata(tmp_path / "run" / "model.pt")["e0"] == {"Cu": -3.5}


def test_labels_of_new_and_old_data_must_be_of_one_kind(folder: Path, initial, tmp_path: Path) -> None:
    atoms = crystal("Cu4", 0)
    atoms.info["energy"] = atoms.info.pop("REF_energy")
    atoms.arrays["forces"] = atoms.arrays.pop("REF_forces")
    ase.io.write(tmp_path / "plain.xyz", [atoms], format="extxyz")
    with pytest.raises(
        DataError, match=r"two kinds of energy labels: REF_energy in .*new\.xyz, energy in .*plain\.xyz"
    ):
        train(settings(folder, initial("local"), {"replay": str(tmp_path / "plain.xyz")}), tmp_path / "run")


def test_replay_needs_frames(folder: Path, initial, tmp_path: Path) -> None:
    ase.io.write(tmp_path / "atom.xyz", Atoms("Cu", info={"REF_energy": -7.0}), format="extxyz")
    with pytest.raises(DataError, match=r"atom\.xyz: only isolated atoms; nothing to train on"):
        train(settings(folder, initial("local"), {"replay": str(tmp_path / "atom.xyz")}), tmp_path / "run")
    ase.io.write(tmp_path / "one.xyz", crystal("Cu4", 0), format="extxyz")
    with pytest.raises(DataError, match=r"data\.validation: 0\.25 of 1 replay frames is 0; training and validation"):
        train(settings(folder, initial("local"), {"replay": str(tmp_path / "one.xyz")}), tmp_path / "run")


# --- resuming


def test_an_interrupted_fine_tuning_ends_at_the_same_weights(
    folder: Path, initial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"replay": str(folder / "old.xyz"), "replay_weight": 0.5}
    config = settings(folder, initial("layered"), data, trainable="last_layer", epochs=4)
    train(config, tmp_path / "whole")
    step = pipeline.ConsoleMonitor.step

    def interrupt(self: Any, progress: Any, n_batches: int, errors: Any) -> None:
        if progress.step == 10:
            signal.raise_signal(signal.SIGTERM)
        step(self, progress, n_batches, errors)

    with monkeypatch.context() as patch, pytest.raises(TrainingInterrupted):
        patch.setattr(pipeline.ConsoleMonitor, "step", interrupt)
        train(config, tmp_path / "stopped")
    train(config, tmp_path / "stopped", resume=True)
    whole, stopped = (read_model(tmp_path / name / "model.pt").metadata for name in ("whole", "stopped"))
    assert whole["parameters_sha256"] == stopped["parameters_sha256"]
    assert whole["training"]["errors_before"] == stopped["training"]["errors_before"]
    lines = (tmp_path / "stopped" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2, 3, 4]


def test_resuming_refuses_another_initial_model_or_other_replay(
    folder: Path, tmp_path: Path, write_random_model
) -> None:
    start = write_random_model(tmp_path / "start.pt", ["Cu"])
    data = {"replay": str(folder / "old.xyz")}
    train(settings(folder, start, data, epochs=1), tmp_path / "run")
    changes: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"replay_weight": 0.5}, {}, r"replay_weight: 1\.0 -> 0\.5"),
        ({"replay": []}, {}, r"replay: '\w+' -> None"),
        ({"replay": str(folder / "test.xyz")}, {}, r"replay: '\w+' -> '\w+'"),
        ({}, {"trainable": "readout"}, r"training\.trainable: 'all' -> 'readout'"),
    ]
    for some, training, message in changes:
        with pytest.raises(CheckpointError, match=message):
            train(settings(folder, start, data | some, **{"epochs": 1} | training), tmp_path / "run", resume=True)
    write_random_model(start, ["Cu"], seed=1)
    with pytest.raises(CheckpointError, match=r"belongs to another run: init_from: '\w{64}' -> '\w{64}'"):
        train(settings(folder, start, data, epochs=1), tmp_path / "run", resume=True)


def test_the_initial_model_is_not_overwritten(folder: Path, tmp_path: Path, write_random_model) -> None:
    start = write_random_model(tmp_path / "model.pt", ["Cu"])
    with pytest.raises(
        CheckpointError, match=r"model\.pt: the model of init_from would be overwritten; choose another"
    ):
        train(settings(folder, start), tmp_path)


def test_a_missing_initial_model_is_answered_with_the_shipped_ones(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"watr: no such model file, .*; did you mean 'water'\?"):
        train(settings(folder, "watr"), tmp_path)


# --- the example


EXAMPLE = Path(__file__).parent.parent / "examples" / "finetune"


@pytest.mark.skipif(not EXAMPLE.exists(), reason="not in a source tree")
def test_the_example_teaches_clusters_to_the_model_of_the_liquid(tmp_path: Path) -> None:
    config = load_config(EXAMPLE / "train.yaml")
    assert len(config.data.replay) == 3 and all(Path(path).exists() for path in config.data.replay)
    config = load_config(EXAMPLE / "train.yaml", ["data.replay=[]", "training.epochs=4"])
    tables = train(config, tmp_path)
    before = errors(resolve_model("water"), EXAMPLE / "clusters_test.xyz.xz")
    for quantity in before:
        assert tables["test"][quantity]["rmse"] < 0.4 * before[quantity]
    frames = [f for name in ("train", "test") for f in ase.io.read(EXAMPLE / f"clusters_{name}.xyz.xz", ":")]
    assert sorted({len(atoms) // 3 for atoms in frames}) == [2, 3, 4, 5, 6]
    for atoms in frames:
        assert str(atoms.symbols[:6]) == "OH2OH2" and not atoms.pbc.any()
        assert np.abs(atoms.arrays["REF_forces"].sum(0)).max() < 1e-3  # eV/Å
