"""`tesseral demo`: the same dynamics in every engine, figures of merit, files."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from typer.testing import CliRunner

from tesseral import cli
from tesseral.calculator.ipi_process import IpiError, ipi_missing
from tesseral.calculator.lammps_process import lammps_missing
from tesseral.cli import demo_ipi, demo_lammps
from tesseral.cli.demo_engines import ENGINES, AseEngine
from tesseral.cli.demo_report import radial_distribution, summary
from tesseral.cli.demo_simulation import Run, Simulation, set_thermal_momenta

needs_ipi = pytest.mark.skipif(ipi_missing() is not None, reason=str(ipi_missing()))
needs_lammps = pytest.mark.skipif(lammps_missing() is not None, reason=str(lammps_missing()))


@pytest.fixture
def model(tmp_path, write_random_model) -> str:
    return str(write_random_model(tmp_path / "random.pt", ["Si"]))


def run(*arguments: str, exit_code: int = 0):
    result = CliRunner().invoke(cli.app, ["demo", *arguments])
    unexpected = result.exception is not None and not isinstance(result.exception, SystemExit)
    assert not unexpected and result.exit_code == exit_code, result.output
    return result


@needs_ipi
@needs_lammps
def test_demo_runs_every_engine_and_writes_trajectories_plots_and_metrics(model, tmp_path):
    out = tmp_path / "out"
    output = run("--model", model, "--steps", "105", "--repeat", "1", "--output", str(out)).output
    assert "energy drift" in output and str(out) in output.replace("\n", "")
    for engine in ("LAMMPS", "i-PI"):
        assert f"{engine}: potential energy within" in output and "ASE's in the first 0.1 ps" in output
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["n_steps"] == 105 and metrics["n_atoms"] == 8 and metrics["skipped"] == {}
    assert [row["engine"] for row in metrics["engines"]] == ["ASE", "LAMMPS", "i-PI"]
    for row in metrics["engines"]:
        assert abs(row["energy_drift"]) < 1e-3 and row["steps_per_second"] > 0
        assert row["start_difference"] < 1e-5
        frames = ase.io.read(out / f"trajectory_{row['engine'].lower()}.xyz", ":")
        assert [frame.info["step"] for frame in frames] == [0, 50, 100]
    for name in ("energy_drift.png", "radial_distribution.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_demo_tells_which_engines_are_missing(model, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_lammps, "lammps_missing", lambda: "it is not installed")
    monkeypatch.setattr(demo_ipi, "ipi_missing", lambda: "nor is this")
    output = run("--model", model, "--steps", "10", "--repeat", "1", "--output", str(tmp_path)).output
    assert "LAMMPS: skipped, it is not installed" in output and "i-PI: skipped, nor is this" in output
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["skipped"] == {"LAMMPS": "it is not installed", "i-PI": "nor is this"}
    (row,) = metrics["engines"]
    assert row["start_difference"] == 0.0


def test_demo_refuses_a_model_without_silicon(tmp_path, write_random_model):
    water = write_random_model(tmp_path / "water.pt", ["H", "O"])
    result = run("--model", str(water), "--output", str(tmp_path / "out"), exit_code=1)
    assert result.stderr == "tesseral: atom 0 is Si, but water.pt knows H, O\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [pytest.param("LAMMPS", marks=needs_lammps), pytest.param("i-PI", marks=needs_ipi)])
def test_every_engine_makes_the_same_trajectory_as_ase(model, name):
    """In a cell that the engine turns, with atoms that cross its faces and start outside of it."""
    atoms = bulk("Si", cubic=True)
    atoms.set_cell(atoms.cell.array[[1, 0, 2]] @ np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0], True)
    atoms.positions += [30.0, -20.0, 0.1]
    set_thermal_momenta(atoms, 1200.0, seed=2)
    simulation = Simulation(Path(model), atoms, 45, 1.0, 10, 20, "float64", 1)
    (engine,) = (engine for engine in ENGINES if engine.name == name)
    told: dict[str, list[int]] = {"ASE": [], name: []}
    ase_run = AseEngine().run(simulation, told["ASE"].append)
    other_run = engine.run(simulation, told[name].append)
    assert sum(told["ASE"]) == sum(told[name]) == 45 and len(told[name]) > 3
    assert ase_run.times == [0.0, 0.01, 0.02, 0.03, 0.04, 0.045]
    n_samples = len(other_run.times)
    assert other_run.times == ase_run.times[:n_samples] and n_samples == (5 if name == "i-PI" else 6)
    assert other_run.seconds > 0
    for quantity in ("potential_energies", "kinetic_energies", "temperatures"):  # their constants have few digits
        ours, theirs = getattr(other_run, quantity), getattr(ase_run, quantity)[:n_samples]
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, err_msg=quantity)
    for ours, theirs in zip(other_run.frames, ase_run.frames, strict=True):
        assert ours.info == {"step": theirs.info["step"], "energy": pytest.approx(theirs.info["energy"], abs=1e-5)}
        assert ours.cell == pytest.approx(theirs.cell) and (ours.numbers == theirs.numbers).all()
        np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-6)
        np.testing.assert_allclose(ours.get_momenta(), theirs.get_momenta(), atol=1e-4)
        np.testing.assert_allclose(ours.arrays["forces"], theirs.arrays["forces"], atol=1e-5)


@needs_ipi
def test_what_stops_ipi_is_told(model):
    simulation = Simulation(Path(model), bulk("Si", cubic=True), 10, 1.0, 10, 10, "float16", 1)
    with pytest.raises(IpiError, match=r"i-PI ended with exit code 1: dtype must be .*float16"):
        demo_ipi.IpiEngine().run(simulation, lambda steps: None)


def test_demo_metrics_recover_a_known_drift():
    atoms = bulk("Si", cubic=True)
    simulation = Simulation(Path("m.pt"), atoms, 1000, 1.0, 10, 50, "mixed", 1)
    times = np.linspace(0.0, 1.0, 101)
    kinetic = 1.0 + 0.5 * np.sin(40 * times)
    potential = -1e4 - kinetic + 8 * 2e-3 * times
    run_of_engine = Run("X", times.tolist(), potential.tolist(), kinetic.tolist(), [300.0] * 21 + [600.0] * 80, [], 2.0)
    earlier = Run("Y", times[:50].tolist(), [energy + 0.04 for energy in potential[:50]], [], [], [], 1.0)
    row = summary(run_of_engine, simulation, earlier)
    assert row["start_difference"] == pytest.approx(0.005)
    assert row["energy_drift"] == pytest.approx(2e-3, rel=1e-6)
    assert row["energy_fluctuation"] < 1e-9
    assert row["temperature"] == pytest.approx(600.0, abs=5)
    assert row["steps_per_second"] == 500.0
    assert row["microseconds_per_atom_step"] == pytest.approx(250.0)


def test_radial_distribution_counts_the_neighbours_of_diamond():
    atoms = bulk("Si", cubic=True) * (3, 3, 3)
    radii, values = radial_distribution([atoms, atoms])
    density = len(atoms) / atoms.get_volume()
    shell = (radii > 2.2) & (radii < 2.5)
    assert np.sum(4 * np.pi * radii**2 * values * 0.05 * density, where=shell) == pytest.approx(4.0, rel=1e-3)


def test_thermal_momenta_have_the_temperature_and_no_drift():
    atoms = bulk("SiC", "zincblende", a=4.36, cubic=True) * (6, 6, 6)
    set_thermal_momenta(atoms, 600.0, seed=1)
    assert atoms.get_temperature() == pytest.approx(600.0, rel=0.03)
    np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0.0, atol=1e-9)
