"""`tesseral bench --lammps` and `--memory`: what they measure and report."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from typer.testing import CliRunner

from tesseral import cli
from tesseral.benchmarks import lammps, lammps_engine, peers
from tesseral.calculator import lammps_process
from tesseral.calculator.lammps_process import lammps_missing
from tesseral.calculator.native import NativeModel
from tesseral.calculator.neighbors import neighbor_list
from tesseral.models.registry import resolve_model

needs_lammps = pytest.mark.skipif(lammps_missing(2) is not None, reason=str(lammps_missing(2)))

OUTPUT = """
Loop time of 3.5 on 2 procs for 20 steps with 100 atoms

MPI task timing breakdown:
Section |  min time  |  avg time  |  max time  |%varavg| %total
---------------------------------------------------------------
Pair    | 2.5        | 3          | 3.5        |   0.0 | 98.99
Neigh   | 0.1        | 0.25       | 0.3        |   0.0 |  0.00
Neighbor list builds = 4
Loop time of 1 on 1 procs for 10 steps with 100 atoms
Pair    | 0.9        | 0.9        | 0.9        |   0.0 | 98.99
Neigh   | 0          | 0          | 0          |   0.0 |  0.00
"""


def run(*arguments: str, exit_code: int = 0):
    result = CliRunner().invoke(cli.app, ["bench", *arguments])
    unexpected = result.exception is not None and not isinstance(result.exception, SystemExit)
    assert not unexpected and result.exit_code == exit_code, result.output
    return result


def positive(*numbers: float) -> bool:
    return all(math.isfinite(number) and number > 0 for number in numbers)


def test_timings_are_read_from_the_output_of_lammps():
    first, second = lammps.breakdowns(OUTPUT)
    assert first == lammps.Breakdown(loop=3.5, n_steps=20, n_atoms=100, pair=3.0, neighbor_list=0.25)
    assert first.step == pytest.approx(1750) and first.pair_step == pytest.approx(1500)
    assert second.n_steps == 10 and second.pair == 0.9
    assert lammps.breakdowns("ERROR: Lost atoms\n") == []


def test_memory_is_read_from_proc_and_may_be_unknown(tmp_path):
    assert lammps.resident_megabytes(tmp_path) == []
    (tmp_path / "status").write_text("Name:\tlmp\nVmRSS:\t   2000 kB\nName:\tlmp\nVmRSS:\t   3000 kB\n")
    assert lammps.resident_megabytes(tmp_path) == pytest.approx([2.048, 3.072])


def test_ratios_are_of_one_turn_and_memory_is_the_slope(monkeypatch):
    """The machine is twice as slow in the second of three turns, and four times in the middle of the third."""
    slowness = iter([1, 1, 2, 2, 1, 4])

    def dynamics(cells: int, ranks: int = 1):
        n_atoms, slow = 8 * cells**3, next(slowness)
        seconds = 1e-6 * n_atoms * slow * (1.1 if cells == 4 else 1.0)
        return lammps.Breakdown(10 * seconds, 10, n_atoms, 9 * seconds, seconds), [30.0 + 2e-3 * n_atoms]

    monkeypatch.setattr(lammps, "_dynamics", dynamics)
    told = []
    result = lammps.measure_sizes((2, 4), 3, lambda: told.append(1))
    small, large = result["systems"]
    assert (small["n_atoms"], large["n_atoms"], len(told)) == (64, 512, 6)
    assert large["relative"] == pytest.approx(1.1) and result["spread"] == pytest.approx(0.1)
    assert small["step"] == pytest.approx(1.0) and small["pair"] == pytest.approx(0.9)
    assert small["neighbor_list"] == pytest.approx(0.1) and large["step"] == pytest.approx(2.2)
    assert result["bytes_per_atom"] == pytest.approx(2000) and result["base_mb"] == pytest.approx(30)


@pytest.mark.parametrize(
    "missing, cores, reason",
    [("there is no program mpirun", 2, "there is no program mpirun"), (None, 1, "there is one core only")],
)
def test_two_ranks_are_not_timed_where_that_means_nothing(missing, cores, reason, monkeypatch):
    monkeypatch.setattr(lammps, "lammps_missing", lambda ranks: missing)
    monkeypatch.setattr(lammps.os, "cpu_count", lambda: cores)
    assert lammps.measure_ranks(1, 1) == {"skipped": reason}


def test_the_engine_takes_none_for_no_shifts():
    """A cluster in a box so large that no edge is shifted."""
    atoms = bulk("Si", cubic=True)
    model = NativeModel(resolve_model("silicon"), "float64", 1)
    edges = neighbor_list(atoms.positions, 50.0 * np.eye(3), False, model.cutoff)
    graph = (atoms.positions, model.species_indices(atoms.numbers), edges.first, edges.neighbors)
    for found, expected in zip(
        model._engine.compute(*graph, None), model.compute(*graph, np.zeros((len(edges.neighbors), 3))), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


@needs_lammps
def test_bench_reports_the_pair_style_and_the_table_shows_it(monkeypatch):
    def missing(package: str) -> str:
        raise peers.PackageNotFoundError(package)

    monkeypatch.setattr(peers, "version", missing)
    result = run("--lammps", "--cells", "1", "--repeats", "7", "--json")
    report = json.loads(result.stdout)
    found = report["lammps"]
    assert "sizes" in result.stderr and report["versions"]["lammps"]

    cases = {(case["dtype"], case["virial"]) for case in found["engine"]}
    assert len(found["engine"]) == len(cases) == 6
    for case in found["engine"]:
        assert case["n_atoms"] == 8 and positive(case["pair"], case["engine"], case["ratio"])
        assert case["energy_difference"] < (1e-11 if case["dtype"] == "float64" else 1e-5)

    (system,) = found["sizes"]["systems"]
    assert system["n_atoms"] == 8 and system["relative"] == 1.0 and found["sizes"]["spread"] == 0.0
    assert positive(system["pair"], system["neighbor_list"]) and system["pair"] < system["step"]
    assert found["sizes"]["bytes_per_atom"] is None
    ranks, snap = found["ranks"], found["snap"]
    assert "skipped" in ranks or (ranks["n_atoms"] == 8 and positive(ranks["one"], ranks["two"], ranks["speedup"]))
    assert snap["n_atoms"] == 8 and positive(snap["tesseral"], snap["snap"]) and snap["factor"] > 1
    assert report["mace_torch"] == {"skipped": "mace-torch is not installed"}
    assert len(found["load"]) == 2

    monkeypatch.setattr(cli.bench, "_measure_lammps", lambda *_: {"lammps": found, "mace_torch": report["mace_torch"]})
    output = run("--lammps").stdout
    for text in ("float32", "in the engine only", "snap twojmax 8", "with size; load", "mace-torch 128x0e: skipped"):
        assert text in output


def test_sizes_end_at_the_given_one_and_peers_can_be_left_out(monkeypatch):
    seen = {}

    def fake(name, result=None):
        return lambda *arguments: seen.setdefault(name, arguments[:2]) and result

    monkeypatch.setattr(lammps_process, "lammps_missing", lambda ranks=1: None)
    monkeypatch.setattr(lammps_engine, "measure_engine", fake("engine", []))
    monkeypatch.setattr(lammps, "measure_ranks", fake("ranks", {"skipped": "there is one core only"}))
    small = {"n_atoms": 1000, "step": 5.0, "pair": 4.5, "neighbor_list": 0.2, "relative": 1.0, "resident_mb": 33.0}
    large = {**small, "n_atoms": 13824, "resident_mb": 40.0}
    sizes = {"systems": [small, large], "spread": 0.07, "bytes_per_atom": 512.0, "base_mb": 32.0}
    monkeypatch.setattr(lammps, "measure_sizes", fake("sizes", sizes))
    output = run("--lammps", "--cells", "12", "--no-peers").stdout
    assert seen == {"engine": ((5, 10), 15), "sizes": ((5, 10, 12), 3), "ranks": (10, 5)}
    assert "13,824" in output and "varies by 7 %" in output and "32 MB and 512 bytes per atom" in output
    for text in ("two ranks: skipped, there is one core only", "snap: skipped, --no-peers"):
        assert text in output


@needs_lammps
@pytest.mark.parametrize("style", ["tesseral", "tesseral/torch"])
def test_bench_follows_the_memory_of_a_hot_simulation(style):
    arguments = ("--memory", "400", "--style", style)
    report = json.loads(run(*arguments, "--json").stdout)["memory"]
    assert report["style"] == style and report["n_atoms"] == 216 and report["rebuilds"] > 0
    assert len(report["steps"]) == len(report["resident_mb"])
    if Path("/proc/self/status").exists():
        assert report["steps"] == list(range(20, 401, 20)) and min(report["resident_mb"]) > 1


def test_the_table_of_memory(monkeypatch):
    memory = {"style": "tesseral", "n_atoms": 216, "rebuilds": 9, "steps": [500, 1000], "resident_mb": [30.25, 30.5]}
    monkeypatch.setattr(lammps, "measure_memory", lambda steps, **options: memory)
    output = run("--memory", "1000").stdout
    assert "9 neighbour lists" in output and "1,000" in output and "30.50" in output


@pytest.mark.parametrize("option", [["--lammps"], ["--memory", "20"]])
def test_without_lammps_the_reason_is_given(option, monkeypatch):
    monkeypatch.setattr(lammps_process, "_program", lambda name: None)
    assert "tesseral: LAMMPS is not installed" in run(*option, exit_code=1).output


def test_only_one_thing_is_measured_at_a_time():
    assert "choose one of --train, --lammps, --ipi, --mace and --memory" in run("--lammps", "--ipi", exit_code=2).output


def test_a_process_that_fails_is_an_error_with_its_last_line(monkeypatch):
    class Failing(subprocess.Popen):
        def __init__(self, command, **options):
            super().__init__([sys.executable, "-c", "raise SystemExit('Traceback\\nOSError: no liblammps')"], **options)

    monkeypatch.setattr(lammps_engine.subprocess, "Popen", Failing)
    with pytest.raises(RuntimeError, match="LAMMPS does not run in Python here: OSError: no liblammps"):
        lammps_engine.measure_engine((1,), 1)
