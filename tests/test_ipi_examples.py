"""The i-PI inputs under examples/ipi run in a short form, from the thermostat and the start to the plots."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ipi_runs import PROGRAMS, Program, Runs, needs_ipi, runs

from tesseral.models.registry import shipped_names

__all__ = ["runs"]  # fixture

pytestmark = needs_ipi
ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "ipi"
INPUTS = sorted(path.stem for path in FOLDER.glob("*.xml"))
STEPS, STRIDE = 24, 2
OPTIONS = "model=small.pt,template=start.extxyz"
README = (FOLDER / "README.md").read_text(encoding="utf-8")


def prepare(folder: Path, token: str, *, steps: int = STEPS) -> None:
    """Copies of the inputs, with another length and addresses of their own, of run.sh and the start; bin/tesseral."""
    for name in INPUTS:
        text = (FOLDER / f"{name}.xml").read_text(encoding="utf-8")
        text = re.sub(r"<(properties|trajectory) stride='\d+'", rf"<\1 stride='{STRIDE}'", text)
        text = text.replace("<checkpoint stride='1000'", f"<checkpoint stride='{steps}'")
        text = re.sub(r"<total_steps> \d+ <", f"<total_steps> {steps} <", text)
        (folder / f"{name}.xml").write_text(text.replace("<address> water-", f"<address> {token}-"), encoding="utf-8")
    for name in ("run.sh", "start.extxyz"):
        (folder / name).write_bytes((FOLDER / name).read_bytes())
    program = folder / "bin" / "tesseral"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from tesseral.cli import main; main()" "$@"\n')
    program.chmod(0o755)


def start(runs: Runs, *arguments: str, log: str) -> Program:
    """run.sh as a user starts it."""
    path = os.pathsep.join([str(runs.folder / "bin"), str(PROGRAMS), os.environ["PATH"]])
    return runs.start("env", f"PATH={path}", "bash", "run.sh", *arguments, log=log)


@pytest.fixture
def token() -> Iterator[str]:
    """Begins the names of sockets that nobody else uses."""
    yield (name := f"test-{uuid.uuid4().hex[:8]}")
    for path in Path("/tmp").glob(f"ipi_{name}*"):
        path.unlink()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, write_random_model) -> Path:
    """A folder in which all inputs have run, with a small random model."""
    runs = Runs(tmp_path_factory.mktemp("ipi"))
    prepare(runs.folder, f"test-{uuid.uuid4().hex[:8]}")
    write_random_model(runs.folder / "small.pt", ["H", "O"], scale=1.0)
    try:
        first = {name: start(runs, f"{name}.xml", OPTIONS, log=f"{name}.txt") for name in INPUTS if name != "trpmd"}
        for name, program in first.items():
            assert program.wait() == 0, f"{name}: {program.output}"
        last = start(runs, "trpmd.xml", OPTIONS, log="trpmd.txt")
        assert last.wait() == 0, last.output
    finally:
        runs.end()
    return runs.folder


@pytest.fixture(scope="module")
def plotting() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ipi_plot", FOLDER / "plot.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def steps_written(file: Path) -> list[int]:
    """Of the complete rows of a property file."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [int(float(line.split()[0])) for line in text.split("\n")[:-1] if not line.startswith("#")]


def numbers(text: str) -> list[float]:
    return [float(word) for word in re.findall(r"-?\d+\.?\d*(?:e[-+]\d+)?", text)]


def test_the_table_has_every_input_and_its_run_line():
    assert INPUTS == ["classical", "npt_pimd", "piglet", "pimd", "remd", "trpmd"]
    for name in INPUTS:
        assert f"| [{name}.xml]({name}.xml) |" in README
        assert f"`./run.sh {name}.xml`" in README


def test_the_start_is_64_whole_molecules_at_the_density_of_water():
    atoms = ase.io.read(FOLDER / "start.extxyz")
    assert atoms.get_chemical_symbols() == ["O", "H", "H"] * 64 and atoms.pbc.all() and atoms.calc is None
    molecules = atoms.positions.reshape(64, 3, 3)
    assert np.linalg.norm(molecules[:, 1:] - molecules[:, :1], axis=2).max() < 1.2
    density = 64 * 18.015 / units.mol / (atoms.get_volume() * 1e-24)
    assert density == pytest.approx(0.997, abs=1e-3)


def test_every_input_writes_finite_properties_and_a_checkpoint(outputs, plotting):
    names = [f"{k}_remd" for k in range(4)] + [name for name in INPUTS if name != "remd"]
    for name in names:
        table = plotting.properties(outputs / f"{name}.out")
        assert table["step"].tolist() == list(range(0, STEPS + 1, STRIDE))
        timestep = 0.5 if name in ("classical", *names[:4]) else 0.25
        assert table["time{femtosecond}"][-1] == pytest.approx(STEPS * timestep)
        assert all(np.isfinite(values).all() for values in table.values())
        for element, n_atoms in (("H", 128), ("O", 64)):
            kinetic = table[f"kinetic_cv{{electronvolt}}({element})"]
            classical = 1.5 * n_atoms * units.kB * table["ensemble_temperature{kelvin}"]
            if timestep == 0.5:  # one bead
                assert kinetic == pytest.approx(classical, rel=1e-5)
            else:
                assert kinetic[-1] != pytest.approx(classical[-1], rel=1e-5)
        assert (outputs / f"{name.split('_')[-1] if name[0].isdigit() else name}.checkpoint").exists()
    beads = sorted(path.name for path in outputs.glob("*.pos_*.extxyz") if not path.name[0].isdigit())
    n_beads = {name: sum(path.startswith(f"{name}.") for path in beads) for name in INPUTS}
    assert n_beads == {"classical": 1, "npt_pimd": 4, "piglet": 4, "pimd": 4, "remd": 0, "trpmd": 0}


def test_trpmd_goes_on_where_pimd_has_ended(outputs, plotting):
    end, begin = (plotting.column(outputs / f"{name}.out", "potential{electronvolt}") for name in ("pimd", "trpmd"))
    assert begin[0] == pytest.approx(end[-1], rel=1e-7)
    assert abs(end[0] - end[-1]) > 1e-6 * abs(end[-1])
    velocities = ase.io.read(outputs / "trpmd.vel.extxyz", ":", format="extxyz")
    thermal = [(a.get_masses()[:, None] * a.arrays["v_centroid"] ** 2).sum() / (576 * units.kB) for a in velocities]
    assert np.mean(thermal) == pytest.approx(300.0, abs=80.0)  # the centroid is classical


def test_constant_pressure_changes_the_density(outputs, plotting):
    density = plotting.column(outputs / "npt_pimd.out", "density{g/cm3}")
    assert density[0] == pytest.approx(0.997, abs=1e-3) and 1e-6 < np.ptp(density) < 0.1
    cells = [a.cell.array for a in ase.io.read(outputs / "npt_pimd.pos_00.extxyz", ":", format="extxyz")]
    assert not np.allclose(cells[0], cells[-1], rtol=1e-6)


def test_replicas_have_the_four_temperatures_at_every_step(outputs, plotting):
    rows = [plotting.column(outputs / f"{k}_remd.out", "ensemble_temperature{kelvin}") for k in range(4)]
    assert np.array_equal(np.sort(rows, axis=0).T, [[300.0, 312.0, 325.0, 338.0]] * len(rows[0]))


def test_the_piglet_input_has_the_thermostat_that_piglet_prints():
    output = subprocess.run(
        [sys.executable, FOLDER / "piglet.py", "300"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert output.strip() in (FOLDER / "piglet.xml").read_text(encoding="utf-8")


def test_the_plot_lines_of_the_table_run(outputs, plotting, monkeypatch):
    monkeypatch.chdir(outputs)
    lines = re.findall(r"`python plot.py (.*?)`", README)
    assert {line.split()[0] for line in lines} == {"rdf", "kinetic", "spectrum", "series", "exchange"}
    for line in lines:
        words = [p for word in shlex.split(line) for p in (sorted(map(str, Path(".").glob(word))) or [word])]
        assert numbers(plotting.main([*words, "--output", "plot.png"]))
        assert (outputs / "plot.png").read_bytes().startswith(b"\x89PNG")
        (outputs / "plot.png").unlink()


def test_run_ends_with_the_error_of_the_driver_or_of_ipi(runs, token):
    prepare(runs.folder, token)
    (runs.folder / "broken.xml").write_text(f"<simulation> <address> {token} </address> </simulation>")
    driver = start(runs, "classical.xml", "model=no.pt,template=start.extxyz", log="driver.txt")
    broken, missing = start(runs, "broken.xml", log="broken.txt"), start(runs, log="missing.txt")
    assert driver.wait() == 1 and "tesseral: no.pt" in driver.output, driver.output
    assert "SOFTEXIT" in (runs.folder / "classical.log").read_text()  # i-PI does not wait for another driver
    assert broken.wait() != 0 and "Tag name 'address' is not a recognized" in broken.output, broken.output
    assert missing.wait() != 0 and "usage: ./run.sh INPUT.xml" in missing.output, missing.output


def test_an_interrupted_run_goes_on(runs, token, write_random_model):
    prepare(runs.folder, token, steps=10**6)
    write_random_model(runs.folder / "small.pt", ["H", "O"])
    first = start(runs, "classical.xml", OPTIONS, log="first.txt")
    first.wait_until(lambda: len(steps_written(runs.folder / "classical.out")) > 10)
    first.kill(signal.SIGINT)  # Ctrl-C
    assert first.wait() != 0
    n_rows = len(steps_written(runs.folder / "classical.out"))
    second = start(runs, "RESTART", OPTIONS, log="second.txt")
    second.wait_until(lambda: len(steps_written(runs.folder / "classical.out")) > n_rows + 10)
    second.kill(signal.SIGINT)
    assert second.wait() != 0
    steps = steps_written(runs.folder / "classical.out")
    assert sorted(set(steps)) == list(range(0, max(steps) + 1, STRIDE))


@pytest.mark.skipif("water" not in shipped_names(), reason="the package has no model named water")
def test_the_shipped_model_conserves_the_constant_of_motion(runs, token, plotting):
    prepare(runs.folder, token, steps=60)
    program = start(runs, "classical.xml", log="run.txt")
    assert program.wait() == 0, program.output
    conserved = plotting.column(runs.folder / "classical.out", "conserved{electronvolt}")
    assert np.ptp(conserved) < 192 * 0.2e-3  # eV


def write_trajectory(path: Path, all_frames: list[Atoms], stride: int = 4) -> None:
    """As i-PI writes it, with zeros for the positions of velocities."""
    for index, atoms in enumerate(all_frames):
        atoms.info["ipi_comment"] = f"Step:  {index * stride:10d}  Bead:       0 v_centroid{{ase}}  cell{{ase}}"
    ase.io.write(path, all_frames, format="extxyz")


def write_properties(path: Path, **columns: np.ndarray) -> None:
    """As i-PI writes them; names have _ in place of brackets."""
    names = {"time": "time{femtosecond}", "T": "ensemble_temperature{kelvin}"}
    names |= {x: f"kinetic_cv{{electronvolt}}({x})" for x in "HO"} | {"potential": "potential{electronvolt}"}
    header = [f"# column {k:3d}     --> {names.get(name, name)} : what it is." for k, name in enumerate(columns, 1)]
    rows = ["".join(f"{value:16.8e}   " for value in row) for row in np.transpose(list(columns.values()))]
    path.write_text("\n".join([*header, *rows]) + "\n", encoding="utf-8")


def test_rdf_is_one_for_an_ideal_gas_and_has_a_peak_for_molecules(tmp_path, plotting):
    generator = np.random.default_rng(1)
    cell = np.array([[10.0, 0, 0], [2.0, 9.0, 0], [-3.0, 1.0, 11.0]])
    gas = [Atoms("O60H60", scaled_positions=generator.random((120, 3)), cell=cell, pbc=True) for _ in range(150)]
    r, curves = plotting.pair_distribution(gas)
    assert sorted(curves) == ["H-H", "H-O", "O-O"] and r[-1] < 4.5
    for g in curves.values():
        assert g[r > 2].mean() == pytest.approx(1.0, abs=0.01)
    box = 8.0
    lattice = np.array(list(np.ndindex(2, 2, 2))) * 4.0 + 7.9
    molecules = Atoms("O8H8", np.vstack([lattice, lattice + np.array([0, 0, 0.97 - box])]), cell=[box] * 3, pbc=True)
    write_trajectory(tmp_path / "a.pos_0.extxyz", [molecules] * 2)
    write_trajectory(tmp_path / "a.pos_1.extxyz", [molecules] * 2)
    text = plotting.main(["rdf", *map(str, tmp_path.glob("a.*")), "--output", str(tmp_path / "rdf.png")])
    shell = 4 / 3 * np.pi * (1.0**3 - 0.95**3)
    assert f"a: H-O highest at 0.97 Å, g = {box**3 / (8 * shell):.2f}" in text.replace("0.98", "0.97")


def test_kinetic_energy_is_per_atom_with_the_error_of_the_blocks(tmp_path, plotting):
    ase.io.write(tmp_path / "start.extxyz", Atoms("OH2" * 2))
    noise = np.random.default_rng(2).normal(size=20_000)
    values = 0.6 + 0.04 * noise
    values[:4000] = 100.0  # not equilibrated
    columns = {"time": np.arange(20_000.0), "T": np.full(20_000, 300.0), "H": values, "O": np.full(20_000, 0.1)}
    write_properties(tmp_path / "pimd.out", **columns)
    with (tmp_path / "pimd.out").open("a") as file:
        file.write("  2.0e4  3.0")  # i-PI is writing
    text = plotting.main(["kinetic", str(tmp_path / "pimd.out"), "--output", str(tmp_path / "kinetic.png")])
    hydrogen, oxygen = text.splitlines()
    mean, error, classical = numbers(hydrogen)
    assert mean == pytest.approx(150.0, abs=0.4) and classical == pytest.approx(38.8)
    assert error == pytest.approx(10.0 / np.sqrt(16_000), abs=0.06)
    assert oxygen == "pimd: O 50.0 ± 0.0 meV per atom (classical 38.8)"


def test_block_error_is_right_for_correlated_values(plotting):
    generator, memory, n_values = np.random.default_rng(3), 0.95, 20_000
    found = []
    for _ in range(20):
        values = np.zeros(n_values)
        for index, kick in enumerate(generator.normal(size=n_values - 1)):
            values[index + 1] = memory * values[index] + kick
        found.append(plotting.block_error(values) ** 2)
    exact = 1 / ((1 - memory) ** 2 * n_values)  # for many values
    assert np.mean(found) == pytest.approx(exact, rel=0.25)


def test_spectrum_has_peaks_at_the_frequencies_of_the_velocities(tmp_path, plotting):
    waves, timestep, stride = {"H": 3400.0, "O": 600.0}, 0.25, 8
    generator = np.random.default_rng(4)
    phases = generator.uniform(0, 2 * np.pi, (3, 3))
    all_frames = []
    for index in range(1500):
        atoms = Atoms("OH2", cell=[9.0] * 3, pbc=True)
        time = index * stride * timestep  # fs
        angular = np.array([2 * np.pi * 2.99792458e-5 * waves[symbol] for symbol in atoms.get_chemical_symbols()])
        atoms.arrays["v_centroid"] = np.cos(angular[:, None] * time + phases)
        all_frames.append(atoms)
    write_trajectory(tmp_path / "trpmd.vel.extxyz", all_frames, stride)
    write_properties(tmp_path / "trpmd.out", step=np.array([0.0, 20.0]), time=np.array([0.0, 20 * timestep]))
    arguments = ["spectrum", str(tmp_path / "trpmd.vel.extxyz"), "--output", str(tmp_path / "spectrum.png")]
    peaks = numbers(plotting.main([*arguments, "--length", "1000"]).split(" at ")[1].replace(" 1/cm", ""))
    assert peaks == pytest.approx([600.0, 3400.0], abs=12.0)
    velocities = np.array([a.arrays["v_centroid"] for a in all_frames])
    single = [plotting.density_of_states(velocities[:, k : k + 1], np.ones(1), 2.0, 500.0)[1].sum() for k in range(3)]
    both = plotting.density_of_states(velocities, np.ones(3), 2.0, 500.0)[1].sum()
    assert both == pytest.approx(sum(single))


def test_exchange_sorts_the_energies_by_temperature(tmp_path, plotting):
    time = np.arange(20.0)
    swapped = np.where(time < 10, 300.0, 330.0)
    for name, temperatures in (("0_remd", swapped), ("1_remd", 630.0 - swapped)):
        write_properties(tmp_path / f"{name}.out", time=time, T=temperatures, potential=-temperatures)
    files = map(str, sorted(tmp_path.glob("*.out")))
    text = plotting.main(["exchange", *files, "--output", str(tmp_path / "exchange.png")])
    assert text.splitlines() == [f"{t} K: potential energy -{t}.00 eV, 2 of 2 replicas came here" for t in (300, 330)]


def test_plot_errors_name_the_file_and_what_is_missing(tmp_path, plotting, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_properties(tmp_path / "short.out", time=np.arange(3.0), step=np.arange(3.0))
    (tmp_path / "empty.out").write_text("# column   1     --> step : number\n")
    one = Atoms("OH2", cell=[9.0] * 3, pbc=True)
    one.arrays["v_centroid"] = np.ones((3, 3))
    write_trajectory(tmp_path / "short.vel.extxyz", [one])
    write_trajectory(tmp_path / "short.pos.extxyz", [Atoms("O")])
    write_trajectory(tmp_path / "other.vel.extxyz", [one])
    for arguments, message in [
        ("rdf no.pos_0.extxyz", "no.pos_0.extxyz: no such file"),
        ("rdf short.out", "short.out: not a whole trajectory of format 'ase'"),
        ("kinetic short.out", "start.extxyz: no such file"),
        ("kinetic short.out --structure short.pos.extxyz", "short.out: no column kinetic_cv{electronvolt}(O); it has"),
        ("series short.out --column density", "short.out: no column density; it has time{femtosecond}, step"),
        ("series short.out --column step", "short.out: 3 rows are left, but 10 blocks"),
        ("series empty.out --column step", "empty.out: no rows of properties"),
        ("spectrum short.pos.extxyz", "short.pos.extxyz: no velocities"),
        ("spectrum short.vel.extxyz", "short.vel.extxyz: at least two frames"),
        ("spectrum other.vel.extxyz", "other.out: no such file"),
    ]:
        with pytest.raises(SystemExit, match=re.escape(f"plot.py: {message}")):
            plotting.main(arguments.split())
    with pytest.raises(SystemExit):
        plotting.main(["series", "short.out", "--column", "step", "--skip", "1"])
    assert "argument --skip: 1 is not in the range from 0 to less than 1" in capsys.readouterr().err
