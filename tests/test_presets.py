"""Presets: defaults under the keys of the file, written out when the configuration is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tesseral.models.config import ModelConfig, TrainingConfig
from tesseral.models.config_file import ConfigError, dump_config, load_config, parse_config
from tesseral.models.presets import PRESETS

DOCUMENTATION = Path(__file__).parent.parent / "docs" / "training.md"


def content(**keys: Any) -> dict[str, Any]:
    return {"name": "silicon", "data": {"train": "/data/train.xyz"}, **keys}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_its_keys_and_leaves_the_others_at_their_defaults(name: str) -> None:
    config = parse_config(content(preset=name))
    assert set(PRESETS[name]) <= {"model", "training"}
    assert config.model == ModelConfig(**PRESETS[name].get("model", {}))
    assert config.training == TrainingConfig(**PRESETS[name].get("training", {}))
    assert (config.model.layers == 1) == name.startswith("local-")


def test_without_a_preset_the_defaults_hold() -> None:
    assert parse_config(content(preset=None)) == parse_config(content())


def test_keys_of_the_file_and_of_the_command_line_win_over_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("name: a\npreset: layered-small\ndata: {train: x.xyz}\nmodel: {channels: 5, n_radial: 4}\n")
    model = load_config(path, ["model.l_max=1"]).model
    assert (model.layers, model.channels, model.n_radial, model.l_max) == (2, 5, 4, 1)
    model = load_config(path, ["preset=local-large"]).model
    assert (model.layers, model.channels, model.nu) == (1, 5, PRESETS["local-large"]["model"]["nu"])


def test_reading_a_configuration_changes_neither_it_nor_the_preset() -> None:
    given = content(preset="local-small", model={"channels": 5})
    parse_config(given)
    assert given == content(preset="local-small", model={"channels": 5})
    assert PRESETS["local-small"]["model"]["channels"] != 5


def test_a_written_configuration_has_the_values_in_place_of_the_preset(tmp_path: Path) -> None:
    config = parse_config(content(preset="layered-large"))
    text = dump_config(config)
    assert "preset" not in text and "message_l: 1" in text
    (tmp_path / "config.yaml").write_text(text)
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"preset": "local-smal"}, r"configuration: preset: no preset 'local-smal'; did you mean 'local-small'\? pres"),
        ({"preset": "qqq"}, r"preset: no preset 'qqq'; presets: local-small, local-medium"),
        ({"preset": 3}, r"preset: no preset 3; presets: "),
        ({"preset": ["local-small"]}, r"preset: no preset \['local-small'\]"),
        ({"presett": "local-small"}, r"presett: unknown key; did you mean 'preset'\? known keys here: name.*, preset"),
        ({"model": {"preset": "local-small"}}, r"model\.preset: unknown key; "),
        (
            {"preset": "layered-large", "model": {"layers": 1}},
            r"configuration with preset layered-large: model: message_l and message_mixing belong to models with",
        ),
    ],
)
def test_unusable_presets_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(content(**keys))


@pytest.mark.skipif(not DOCUMENTATION.exists(), reason="not in a source tree")
@pytest.mark.parametrize("name", PRESETS)
def test_the_documentation_lists_the_numbers_of_every_preset(name: str) -> None:
    lines = DOCUMENTATION.read_text(encoding="utf-8").splitlines()
    (row,) = [line for line in lines if line.startswith(f"| `{name}` |")]
    heading = next(line for line in lines if line.startswith("| preset |"))
    columns, cells = ([cell.strip(" `") for cell in line.split("|")] for line in (heading, row))
    shown = dict(zip(columns, cells, strict=True))
    for key, value in PRESETS[name].get("model", {}).items():
        assert shown[key] == str(value), f"docs/training.md: {key} of {name}"
