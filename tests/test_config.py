"""The training configuration: defaults, overrides, paths, and errors that name the key."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tesseral.models.config import Config, TrainingConfig
from tesseral.models.config_file import ConfigError, dump_config, load_config, parse_config

MINIMAL: dict[str, Any] = {"name": "silicon", "data": {"train": "train.xyz"}}


def with_key(key: str, value: Any) -> dict[str, Any]:
    """The minimal configuration with ``section.key`` set."""
    content = copy.deepcopy(MINIMAL)
    here = content
    *sections, last = key.split(".")
    for section in sections:
        here = here.setdefault(section, {})
    here[last] = value
    return content


def write(folder: Path, text: str) -> Path:
    path = folder / "train.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_key_has_a_default_except_name_and_training_data() -> None:
    config = parse_config(MINIMAL)
    assert config.data.train == ["train.xyz"]
    assert config.model.cutoff == 5.0
    with pytest.raises(ConfigError, match=r"configuration: name: missing\nconfiguration: data: missing"):
        parse_config({})


def test_written_configuration_reads_back_the_same(tmp_path: Path) -> None:
    content = with_key("model.zbl", {"inner": 0.5, "outer": 1.2})
    content["model"]["e0"] = {"Si": -0.5}
    content["training"] = {"loss": {"second_stage": {"start": 0.6, "energy": 500}}}
    content["data"] = {"train": str(tmp_path / "a.xyz"), "validation": 0.2, "stress_key": False}
    config = parse_config(content)
    assert load_config(write(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("modle", {}, r"modle: unknown key; did you mean 'model'\? known keys here: name, description"),
        ("model.cuttoff", 5, r"model\.cuttoff: unknown key; did you mean 'cutoff'\?"),
        ("model.qqq", 5, r"model\.qqq: unknown key; known keys here: cutoff, l_max"),
        ("training.loss.energ", 1, r"training\.loss\.energ: unknown key; did you mean 'energy'\?"),
        ("training.loss.second_stage", {"star": 0.5}, r"second_stage\.star: unknown key; did you mean 'start'"),
        ("model.zbl", {"inner": 1, "outr": 2}, r"model\.zbl\.outr: unknown key; did you mean 'outer'"),
        ("model.cutoff", True, r"model\.cutoff: expected a value other than yes, no, true or false, got true"),
        ("training.epochs", False, r"training\.epochs: expected a value other than yes, no, true or false"),
        ("model.cutoff", 0, r"model\.cutoff: must be larger than 0 Å, got 0"),
        ("model.cutoff", -3.5, r"model\.cutoff: must be larger than 0 Å, got -3\.5"),
        ("model.cutoff", float("nan"), r"model\.cutoff: input should be a finite number, got nan"),
        ("model.cutoff", "five", r"model\.cutoff: input should be a valid number.*got 'five'"),
        ("model.nu", 5, r"model\.nu: input should be less than or equal to 4, got 5"),
        ("model.radial_basis", "spline", r"model\.radial_basis: input should be 'bessel', 'chebyshev' or 'gaus"),
        ("model.e0", {"Xx": 1.0}, r"model\.e0: not the symbol of an element: 'Xx'"),
        ("model.e0", "isolated", r"model\.e0: input should be 'least_squares', 'isolated_atoms' or"),
        ("model.scale", -1, r"model\.scale: must be larger than 0 eV or auto, got -1"),
        ("model.readout", [0], r"model\.readout: hidden widths must be at least 1, got \[0\]"),
        ("model.zbl", {"inner": 2, "outer": 1}, r"model\.zbl: outer \(1 Å\) must be larger than inner \(2 Å\)"),
        ("model.zbl", {"inner": 2, "outer": 9}, r"zbl\.outer \(9 Å\) reaches beyond the cutoff \(5 Å\)"),
        ("model.layers", 4, r"model\.layers: input should be less than or equal to 3, got 4"),
        ("model.message_l", 1, r"message_l and message_mixing belong to models with layers: 2 or 3, got layers: 1"),
        ("model.message_mixing", True, r"message_l and message_mixing belong to models with layers: 2 or 3"),
        ("model", {"layers": 2, "message_l": 2, "l_max": 1}, r"message_l \(2\) must be at most l_max \(1\)"),
        ("data.train", [], r"data\.train: name at least one file to train on"),
        ("data.validation", 1.0, r"data\.validation: a fraction .* must be in \[0, 1\), got 1"),
        ("data.energy_key", 3, r"data\.energy_key: expected the name of a key, null .*got 3"),
        ("training.batch_size", 0, r"training\.batch_size: input should be greater than or equal to 1, got 0"),
        ("training.loss", {"energy": 0, "forces": 0}, r"training\.loss: .* all 0: nothing to learn from"),
        ("training.warmup_epochs", 600, r"training: warmup_epochs \(600\) must be less than epochs \(500\)"),
        ("name", "a/b", r"name: string should match pattern"),
    ],
)
def test_unusable_values_are_refused_by_key(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(with_key(key, value))


def test_file_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot read the configuration: No such file"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match=r"train\.yaml: not valid YAML"):
        load_config(write(tmp_path, "name: [1, 2"))
    with pytest.raises(ConfigError, match=r"train\.yaml: expected the keys name, data, model, training"):
        load_config(write(tmp_path, "just text"))
    with pytest.raises(ConfigError, match=r"train\.yaml: line 3: the key 'name' is given twice"):
        load_config(write(tmp_path, "name: a\ndata: {train: x}\nname: b\n"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml: not a text file in UTF-8"):
        load_config(tmp_path / "binary.yaml")


def test_relative_data_paths_start_at_the_file_or_at_the_data_root(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\ndata: {train: [x.xyz, /abs/y.xyz], validation: v.xyz, test: t.xyz}\n")
    data = load_config(path).data
    assert data.train == [str(tmp_path / "x.xyz"), "/abs/y.xyz"]
    assert data.validation == [str(tmp_path / "v.xyz")]
    assert load_config(path, data_root="/data").data.test == ["/data/t.xyz"]


def test_overrides_replace_keys_and_their_paths_start_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "name: a\ndata: {train: x.xyz, test: t.xyz}\nmodel: {e0: {Si: -1}}\n")
    monkeypatch.chdir("/")
    overrides = ["data.train=y.xyz", "data.validation=0.25", "training.loss.energy=1e-1", "model.e0={Si: -2}"]
    config = load_config(path, overrides)
    assert config.data.train == ["/y.xyz"]
    assert config.data.test == [str(tmp_path / "t.xyz")]
    assert config.data.validation == 0.25
    assert config.training.loss.energy == 0.1
    assert config.model.e0 == {"Si": -2.0}


def test_malformed_overrides_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\ndata: {train: x.xyz}\n")
    with pytest.raises(ConfigError, match=r"--set epochs: expected section\.key=value"):
        load_config(path, ["epochs"])
    with pytest.raises(ConfigError, match=r"--set name=\[: the value is not valid YAML"):
        load_config(path, ["name=["])
    with pytest.raises(ConfigError, match=r"training\.epoch: unknown key; did you mean 'epochs'"):
        load_config(path, ["training.epoch=3"])


def test_configuration_is_immutable() -> None:
    config = parse_config(MINIMAL)
    assert isinstance(config, Config) and isinstance(config.training, TrainingConfig)
    with pytest.raises(ValueError, match="frozen"):
        config.training.epochs = 3  # type: ignore[misc]


# --- fine-tuning


def fine_tuning(**keys: Any) -> dict[str, Any]:
    return {"name": "a", "init_from": "water", "data": {"train": "/data/train.xyz"}, **keys}


def test_the_initial_model_decides_the_architecture(tmp_path: Path) -> None:
    config = parse_config(fine_tuning(model={"e0": {"H": -1.0}}, training={"trainable": "readout"}))
    assert config.model.e0 == {"H": -1.0}
    assert parse_config(fine_tuning()).model.e0 == "init_from"
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config
    assert config.model_dump()["model"] == {"e0": {"H": -1.0}}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"model": {"cutoff": 4.0, "nu": 2}},
            r"model: with init_from the model is that of the file; remove cutoff, nu",
        ),
        ({"model": {"e": 1}}, r"model\.e: unknown key; did you mean 'e0'\?"),
        ({"preset": "local-small"}, r"preset: cannot be used with init_from: the model is that of the file"),
        ({"init_from": None, "model": {"e0": "init_from"}}, r"model: e0: init_from needs the key init_from"),
        ({"init_from": None, "training": {"trainable": "readout"}}, r"training: trainable: readout needs init_from"),
        (
            {"init_from": None, "data": {"train": "x", "replay": "y"}},
            r"data: replay needs init_from: only a model that",
        ),
        ({"init_from": ""}, r"init_from: string should have at least 1 character"),
        ({"init_fron": "water"}, r"init_fron: unknown key; did you mean 'init_from'\?"),
        ({"data": {"train": "x", "repaly": "y"}}, r"data\.repaly: unknown key; did you mean 'replay'\?"),
        ({"data": {"train": "x", "replay_weight": 0}}, r"data\.replay_weight: input should be greater than 0, got 0"),
        ({"training": {"trainable": "last"}}, r"training\.trainable: input should be 'all', 'last_layer' or 'readout'"),
    ],
)
def test_unusable_keys_of_a_fine_tuning_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(fine_tuning(**keys))


def test_paths_start_at_the_file_and_bare_words_are_shipped_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train.yaml"

    def start(value: str, overrides: list[str] | None = None) -> str | None:
        path.write_text(f"name: a\ninit_from: {value}\ndata: {{train: x.xyz, replay: y.xyz}}\n")
        config = load_config(path, overrides, data_root="/data")
        assert config.data.replay == ["/data/y.xyz"]
        return config.init_from

    assert start("water") == "water"
    assert start("old.pt") == str(tmp_path / "old.pt")
    assert start("run/model") == str(tmp_path / "run/model")
    assert start("/models/old.pt") == "/models/old.pt"
    monkeypatch.chdir("/")
    assert start("water", ["init_from=old.pt"]) == "/old.pt"
    (tmp_path / "water").touch()
    assert start("water") == str(tmp_path / "water")
