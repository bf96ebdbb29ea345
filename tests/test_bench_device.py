"""`tesseral bench --device`: the engine on a device."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from tesseral.kernel._engine import device_memory_used
from typer.testing import CliRunner

from tesseral import cli
from tesseral.benchmarks import device as on_device
from tesseral.benchmarks import device_profile
from tesseral.benchmarks.device_work import kernel_work
from tesseral.benchmarks.imported_mace import DEVICE_WAYS
from tesseral.benchmarks.inference import LAYERED_SIZE, multiply_adds
from tesseral.benchmarks.systems import SILICON_SIZE
from tesseral.cli import bench_device

on_cuda = pytest.mark.parametrize("device", ["cuda"], indirect=True)


@pytest.fixture
def small(monkeypatch) -> None:
    """Small models: the emulation is slow."""
    sizes = {"channels": 4, "nu": 2, "l_max": 1, "n_radial": 2}
    models = {"local": sizes, "two layers": {"layers": 2, **sizes}}
    monkeypatch.setattr(on_device, "MODELS", models)
    monkeypatch.setattr(device_profile, "MODELS", models)


@on_cuda
def test_time_and_memory_of_all_models_and_precisions(device, small):
    report = on_device.measure_device(device, (1,), repeats=3)
    cases = {(case["model"], case["dtype"]): case for case in report["cases"]}
    assert set(cases) == {(m, d) for m in ("local", "two layers") for d in ("float64", "float32", "mixed")}
    for (model, _), case in cases.items():
        assert case["n_atoms"] == 8 and case["us_per_atom"] * case["atom_steps_per_second"] == pytest.approx(1e6)
        assert case["bytes_per_atom"] > 100 and (case["graph_calls"], case["graph_failure"]) == (5, "")
        assert ("of_peak" in case) == (model == "local")
    assert set(report["multiply_adds_per_second"]) == {"float64", "float32", "mixed"}


@on_cuda
def test_the_command_prints_json_and_tables(device, small, monkeypatch):
    command = ["bench", "--device", device, "--cells", "1", "--repeats", "7", "--no-peers"]
    result = CliRunner().invoke(cli.app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert len(report["device"]["cases"]) == 6 and report["device_profile"]["bytes_per_second"] > 0
    for rows in report["device_profile"]["models"].values():
        assert {"density", "product", "forces", "fills"} <= {row["name"] for row in rows}
        times = [row["ns_per_atom"] for row in rows]
        assert times == sorted(times, reverse=True) and all(row["launches"] >= 1 for row in rows)
        assert all(row["of_peak"] > 0 for row in rows if row["name"] in ("density", "product"))
    report["device"]["cases"][0]["graph_failure"] = "capture: refused"
    monkeypatch.setattr(bench_device, "measure_on_device", lambda *arguments, **options: report)
    table = CliRunner().invoke(cli.app, command).stdout
    assert re.search(r"two layers .*mixed", table) and re.search(r"mixing .*%", table)
    assert "written by a copy" in table and "each kernel was launched by itself: capture: refused" in table
    assert table.count("skipped, --no-peers") == 2


def test_mace_torch_is_timed_on_the_device_too(monkeypatch):
    """Without a GPU: what is measured, and how what it cannot do is reported."""
    seen = []
    timed = {"us_per_atom": 30.0, "factor": 15.0, "peak_mb": 900.0, "agrees": True}
    ways = {
        "eager": {**timed, "energy_difference": 1e-9, "force_difference": 1e-8},
        "compiled": {"skipped": "mace-torch does not run here: torch.OutOfMemoryError: CUDA out of memory"},
    }

    def measured(cells: int, repeats: int, **options: Any) -> dict[str, Any]:
        options.pop("start")(3)()
        seen.append((cells, repeats, options))
        case = {"system": "silicon", "dtype": "float32", "n_atoms": 8 * cells**3, "n_neighbors": 28.0}
        return {
            "model": "128x0e",
            "notes": [],
            "cases": [{**case, "us_per_atom": 2.0, "peak_mb": 100.0, "mace_torch": ways}],
        }

    monkeypatch.setattr("tesseral.benchmarks.imported_mace.measure_imported", measured)
    monkeypatch.setattr(on_device, "measure_device", lambda *arguments: {"device": "cuda", "cases": []})
    profile = {"dtype": "float32", "bytes_per_second": 4e12, "multiply_adds_per_second": 3e13, "models": {}}
    monkeypatch.setattr(device_profile, "measure_profile", lambda *arguments: profile)
    monkeypatch.setattr("tesseral.benchmarks.training.measure_beside_mace", lambda *arguments: {"skipped": arguments})
    output = CliRunner().invoke(cli.app, ["bench", "--device", "cuda", "--no-compile"]).stdout
    assert [(cells, repeats) for cells, repeats, _ in seen] == [(5, 15), (13, 15)]
    assert seen[0][2] == {
        "dtypes": ["float32"],
        "ways": ["eager", "cuEquivariance"],
        "systems": ["silicon"],
        "device": "cuda",
    }
    text = " ".join(output.split())
    assert "silicon, 17,576 atoms, 28 neighbours, float32" in text and "15.0" in text
    assert "mace-torch, compiled: skipped, mace-torch does not run here: torch.OutOfMemoryError: CUDA out of" in text
    assert "skipped, (8, 3, 3, 'cuda')" in text

    def missing(*arguments: Any, **options: Any) -> None:
        raise ImportError("mace-torch is not installed")

    monkeypatch.setattr("tesseral.benchmarks.imported_mace.measure_imported", missing)
    output = CliRunner().invoke(cli.app, ["bench", "--device", "cuda"]).stdout
    assert "beside mace-torch: skipped, mace-torch is not installed" in output
    assert list(DEVICE_WAYS) == ["eager", "compiled", "cuEquivariance"]


def test_work_is_counted_from_the_shapes():
    """Against counts by hand for docs/performance.md, and the engine's own estimate of a whole atom."""
    local = kernel_work({**SILICON_SIZE, "n_radial": 16}, 50.0, 4)
    assert local["mixing"] == (4 * (16 * 16 + 16 * 64), 16 * 16 * 64)
    assert local["density"][0] == 50 * 12 + 4 * 16 * 16
    assert local["gradient of the product"][0] == 4 * (2 * 16 + 1) * 64
    layered = kernel_work({**SILICON_SIZE, **LAYERED_SIZE}, 40.0, 4)
    assert layered["messages"][1] == 40 * 128 * (8 * 4 + 4 + 16)
    assert layered["maps of rows"][1] == 2 * (128 * 128 * 17 + 2 * 128 * 32)
    assert kernel_work({**SILICON_SIZE, **LAYERED_SIZE}, 40.0, 8)["messages"][0] == 2 * layered["messages"][0]
    work = kernel_work(SILICON_SIZE, 28.0, 4)
    assert sum(adds for _, adds in work.values()) == pytest.approx(multiply_adds(28.0), rel=0.25)


def test_devices_are_timed_alone():
    result = CliRunner().invoke(cli.app, ["bench", "--device", "cuda", "--train"])
    assert result.exit_code == 2 and "--device times the engine" in result.output


def test_memory_of_no_device_is_refused():
    with pytest.raises(ValueError, match="device 'gpu' is unknown"):
        device_memory_used("gpu")
    with pytest.raises(ValueError, match="device cpu has no memory of its own"):
        device_memory_used("cpu")
