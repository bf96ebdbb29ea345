"""`tesseral bench --ipi`: what it measures and reports."""

from __future__ import annotations

import json
import math

from ipi_runs import needs_ipi
from typer.testing import CliRunner

from tesseral import cli
from tesseral.benchmarks import path_integrals, peers
from tesseral.calculator import ipi_process

OUTPUT = """
 @simulation.run: Average timings at MD step       0. t/step: 5.00000e-02
 @simulation.run: Average timings at MD step       1. t/step: 2.50000e-02
"""
RESULT = {
    "n_atoms": 192,
    "n_beads": 32,
    "step": dict.fromkeys(path_integrals.WAYS, 0.050),
    "speedup": {"ffdirect": 1.5, "socket": 1.6},
    "engine": 0.040,
    "driver": 0.042,
}


def run(*arguments: str, exit_code: int = 0):
    result = CliRunner().invoke(cli.app, ["bench", "--ipi", *arguments])
    assert result.exit_code == exit_code, result.output
    return result


def test_the_time_of_each_step_is_read_from_the_output_of_ipi():
    assert path_integrals.steps_timed(OUTPUT) == [0.05, 0.025]
    assert path_integrals.steps_timed("nothing") == []


@needs_ipi
def test_all_ways_are_measured(monkeypatch):
    monkeypatch.setattr(path_integrals, "N_BEADS", 2)
    monkeypatch.setattr(path_integrals, "WARM_UP", 1)
    advanced = []
    result = path_integrals.measure_ways(2, 1, lambda: advanced.append(1))
    assert len(advanced) == len(result["step"]) == 4 and result["n_atoms"] == 192 and result["n_beads"] == 2
    figures = (*result["step"].values(), *result["speedup"].values(), result["engine"], result["driver"])
    assert all(math.isfinite(figure) and figure > 0 for figure in figures)


def test_the_report_has_every_way_and_what_ipi_costs_itself(monkeypatch):
    monkeypatch.setattr(ipi_process, "ipi_missing", lambda: None)
    monkeypatch.setattr(path_integrals, "measure_ways", lambda steps, rounds, advance: RESULT)
    monkeypatch.setattr(path_integrals, "measure_mace", lambda: {"step": 5.0, "batch": 1, "version": "0.3"})
    report = json.loads(run("--json").stdout)
    assert report["ipi"] == RESULT and report["mace_torch"]["step"] == 5.0
    table = run().stdout
    assert "64 water molecules, 32 beads" in table and "1.60 times as fast" in table
    for row in ("of which the engine", "the driver besides", "i-PI besides", "100 times as long"):
        assert row in table
    assert "skipped: --no-peers" in " ".join(run("--no-peers").stdout.split())


def test_without_mace_torch_there_is_a_reason(monkeypatch):
    monkeypatch.setattr(peers, "mace_missing", lambda: "mace-torch is not installed")
    monkeypatch.setattr(path_integrals, "mace_missing", peers.mace_missing)
    assert path_integrals.measure_mace() == {"skipped": "mace-torch is not installed"}


def test_without_ipi_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(ipi_process, "ipi_missing", lambda: "i-PI is not installed: pip install 'tesseral[ipi]'")
    assert "tesseral: i-PI is not installed: pip install 'tesseral" in run(exit_code=1).stderr
