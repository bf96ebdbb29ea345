"""The study example trains variants, continues where it was stopped, and shows error against cost."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from tesseral.models import pipeline
from tesseral.models.config_file import ConfigError
from tesseral.models.presets import PRESETS

FOLDER = Path(__file__).parent.parent / "examples" / "study"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="not in a source tree")

BASE = """
name: copper
data: {train: copper.xyz, validation: 0.25, test: copper.xyz}
model: {cutoff: 4.0, l_max: 1, n_radial: 3, channels: 4, nu: 2, features: 4, readout: [4]}
training: {epochs: 2, batch_size: 4, threads: 1, learning_rate: 0.02}
"""
STUDY = """
base: base.yaml
variants:
  base: {}
  two layers: {model.layers: 2}
  layers 2: {model: {layers: 2}}
"""


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("example_study", FOLDER / "study.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def labelled_copper(seed: int) -> Atoms:
    """A rattled copper crystal labelled by ASE's effective-medium theory."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, rng=np.random.default_rng(seed))
    result = atoms.copy()
    atoms.calc = EMT()
    result.info["REF_energy"] = atoms.get_potential_energy()
    result.arrays["REF_forces"] = atoms.get_forces()
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ase.io.write(tmp_path / "copper.xyz", [labelled_copper(seed) for seed in range(8)], format="extxyz")
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


def arguments(folder: Path, *more: str) -> list[str]:
    return [str(folder / "study.yaml"), "--output", str(folder / "out"), *more]


def test_a_study_trains_each_configuration_once_and_reports_all(
    study: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study.main(arguments(folder)) == 0
    output = folder / "out"
    assert {path.name for path in output.iterdir() if path.is_dir()} == {"base", "two-layers"}
    content = json.loads((output / "results.json").read_text())
    assert [entry["names"] for entry in content["variants"]] == [["base"], ["two layers", "layers 2"]]
    assert [entry["kind"] for entry in content["variants"]] == ["local", "layered"]
    assert content["timing"]["atoms"] == 32
    for entry, name in zip(content["variants"], ("base", "two-layers"), strict=True):
        assert entry["microseconds_per_atom"] > 0 and entry["training_seconds"] > 0
        metrics = json.loads((output / name / "report" / "metrics.json").read_text())["test"]
        for quantity in ("energy_per_atom", "forces"):
            assert entry[quantity] == metrics[quantity]
    table = (output / "table.md").read_text()
    assert table.count("\n") == 4 and "two layers = layers 2" in table
    assert f"{content['variants'][0]['forces']['rmse']:.2f}" in table
    assert (output / "pareto.png").read_bytes().startswith(b"\x89PNG")
    screen = capsys.readouterr().out
    assert "[1/2] base: F RMSE" in screen and table in screen

    monkeypatch.setattr(study, "train", None)  # a second call trains nothing
    assert study.main(arguments(folder)) == 0
    assert "[2/2] two layers = layers 2: already trained" in capsys.readouterr().out


def test_an_interrupted_study_continues_with_the_same_command(
    study: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study.main(arguments(folder)) == 0
    whole = json.loads((folder / "out" / "results.json").read_text())
    shutil.rmtree(folder / "out")
    write_record = pipeline._Log.epoch

    def interrupt(log: Any, record: Any) -> None:
        write_record(log, record)
        if "two-layers" in str(log.path):
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline._Log, "epoch", interrupt)
        assert study.main(arguments(folder)) == 130
    assert "stopped by SIGINT" in (message := capsys.readouterr().err) and "the same command continues" in message
    assert (folder / "out" / "two-layers" / "checkpoint.safetensors").exists()
    assert not (folder / "out" / "two-layers" / "model.pt").exists()
    assert study.main(arguments(folder, "--report")) == 0
    assert (folder / "out" / "table.md").read_text().count("\n") == 3
    assert study.main(arguments(folder)) == 0
    continued = json.loads((folder / "out" / "results.json").read_text())
    for one, other in zip(whole["variants"], continued["variants"], strict=True):
        assert one["forces"] == other["forces"] and one["energy_per_atom"] == other["energy_per_atom"]


def test_a_variant_that_fails_does_not_stop_the_others(
    study: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diverging = "{training.learning_rate: 1.0e+9, training.gradient_clip: null, training.epochs: 50}"
    (folder / "study.yaml").write_text(f"base: base.yaml\nvariants:\n  wild: {diverging}\n  base: {{}}\n")
    assert study.main(arguments(folder)) == 1
    assert "[1/2] wild: failed: the training diverged" in capsys.readouterr().out
    assert (folder / "out" / "table.md").read_text().count("\n") == 3


def test_the_pareto_front_has_no_variant_that_another_one_beats(study: ModuleType, folder: Path) -> None:
    points = {"a": (1.0, 9.0), "b": (2.0, 5.0), "c": (3.0, 6.0), "d": (4.0, 5.0), "e": (5.0, 1.0), "f": (1.0, 10.0)}
    (folder / "study.yaml").write_text(STUDY)
    config = study.load_study(folder / "study.yaml", folder)[0].config
    results = {n: {"microseconds_per_atom": cost, "forces": {"rmse": rmse}} for n, (cost, rmse) in points.items()}
    variants = [study.Variant([name], folder, config, result) for name, result in results.items()]
    module = importlib.import_module("study_report")
    assert [variant.label for variant in module.pareto_front(variants)] == ["a", "b", "e"]


def test_the_preset_of_a_variant_wins_over_the_base_and_loses_to_the_other_keys(
    study: ModuleType, folder: Path
) -> None:
    (folder / "study.yaml").write_text(
        "base: base.yaml\nvariants: {small: {model.nu: 4, preset: layered-small}, large: {preset: layered-large}}"
    )
    small, large = (variant.config.model for variant in study.load_study(folder / "study.yaml", folder))
    preset = PRESETS["layered-small"]["model"]
    assert (small.layers, small.channels, small.nu, small.n_radial) == (2, preset["channels"], 4, 3)
    assert large.channels == PRESETS["layered-large"]["model"]["channels"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: base.yaml", r"study\.yaml: expected the keys base .* and variants"),
        ("base: base.yaml\nvariants: {}", r"variants: expected names with overrides, such as nu 2"),
        ("base: no.yaml\nvariants: {a: {}}", r"variant 'a': .*no\.yaml: cannot read the configuration"),
        ("base: base.yaml\nvariants: {a: 3}", r"variant 'a': expected overrides such as \{model\.nu: 2\}, got 3"),
        (
            "base: base.yaml\nvariants: {a: {model.nuu: 3}}",
            r"variant 'a': .*model\.nuu: unknown key; did you mean 'nu'",
        ),
        ("base: base.yaml\nvariants: {a: {preset: x}}", r"variant 'a': no preset 'x'; presets: local-small"),
        ("base: base.yaml\nvariants: {a: {}, a: {}}", r"study\.yaml: line 2: the key 'a' is given twice"),
        ("base: base.yaml\nvariants: {a b: {}, a-b: {model.nu: 3}}", r"variants 'a b' and 'a-b' would share a-b/"),
        ("base: base.yaml\nvariants: {a: {data.test: []}}", r"data\.test must name the same file for all variants"),
    ],
)
def test_unusable_studies_are_refused(study: ModuleType, folder: Path, text: str, message: str) -> None:
    (folder / "study.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        study.load_study(folder / "study.yaml", folder)


def test_a_study_needs_forces_in_the_test_set(
    study: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "base.yaml").write_text(BASE.replace("test: copper.xyz", "test: copper.xyz, forces_key: false"))
    assert study.main(arguments(folder)) == 1
    assert "copper.xyz: has no forces, and the study compares errors of forces" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["acac", "silicon"])
def test_the_shipped_studies_are_complete(study: ModuleType, name: str, tmp_path: Path) -> None:
    variants = study.load_study(FOLDER / f"{name}.yaml", tmp_path, Path("/data"))
    names = [one for variant in variants for one in variant.names]
    assert len(names) == 22 and sum(one.startswith(("local-", "layered-")) for one in names) == 6
    assert variants[0].names[0] == "base" and variants[0].config.model.layers == 2
