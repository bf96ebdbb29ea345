"""`tesseral bench --device`: the engine on a device."""

from __future__ import annotations

import json
import re

import pytest
from tesseral.kernel._engine import device_memory_used
from typer.testing import CliRunner

from tesseral import cli
from tesseral.benchmarks import device as on_device

on_cuda = pytest.mark.parametrize("device", ["cuda"], indirect=True)


@pytest.fixture
def small(monkeypatch) -> None:
    """Small models: the emulation is slow."""
    sizes = {"channels": 4, "nu": 2, "l_max": 1, "n_radial": 2}
    monkeypatch.setattr(on_device, "MODELS", {"local": sizes, "two layers": {"layers": 2, **sizes}})


@on_cuda
def test_time_and_memory_of_all_models_and_precisions(device, small):
    report = on_device.measure_device(device, (1,), repeats=3)
    cases = {(case["model"], case["dtype"]): case for case in report["cases"]}
    assert set(cases) == {(m, d) for m in ("local", "two layers") for d in ("float64", "float32", "mixed")}
    for (model, _), case in cases.items():
        assert case["n_atoms"] == 8 and case["us_per_atom"] * case["atom_steps_per_second"] == pytest.approx(1e6)
        assert case["bytes_per_atom"] > 100
        assert ("of_peak" in case) == (model == "local")
    assert set(report["multiply_adds_per_second"]) == {"float64", "float32", "mixed"}


@on_cuda
def test_the_command_prints_json_and_a_table(device, small):
    command = ["bench", "--device", device, "--cells", "1", "--repeats", "7"]
    result = CliRunner().invoke(cli.app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["device"]["cases"]) == 6
    assert re.search(r"two layers .*mixed", CliRunner().invoke(cli.app, command).stdout)


def test_devices_are_timed_alone():
    result = CliRunner().invoke(cli.app, ["bench", "--device", "cuda", "--train"])
    assert result.exit_code == 2 and "--device times the engine" in result.output


def test_memory_of_no_device_is_refused():
    with pytest.raises(ValueError, match="device 'gpu' is unknown"):
        device_memory_used("gpu")
    with pytest.raises(ValueError, match="device cpu has no memory of its own"):
        device_memory_used("cpu")
