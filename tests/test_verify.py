"""`tesseral verify`: good models pass, bad ones are found, and what cannot be checked is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from typer.testing import CliRunner

from tesseral import cli
from tesseral.calculator import TesseralCalculator, ipi_process, verification, verification_ipi, verification_lammps
from tesseral.calculator.ipi_process import IpiError, ipi_missing
from tesseral.calculator.lammps_process import LammpsError, lammps_missing
from tesseral.calculator.verification import QUANTITIES, Check, loosened, made_up_structures, verify
from tesseral.calculator.verification_reference import Reference, largest

IN_PYTHON = [
    "TorchScript in Python",
    "finite differences",
    "rotation and inversion",
    "translation and wrapping",
    "permutation",
    "batch",
    "ASE, mixed",
    "ASE, float32",
]
IN_LAMMPS = ["LAMMPS, 1 rank", "LAMMPS, 2 ranks", "LAMMPS, 3 ranks, some empty", "LAMMPS, tesseral/torch"]
IN_IPI = ["i-PI, UNIX socket", "i-PI, 4 beads at once"]
needs_ipi = pytest.mark.skipif(ipi_missing() is not None, reason=str(ipi_missing()))
needs_lammps = pytest.mark.skipif(lammps_missing(3) is not None, reason=str(lammps_missing(3)))


@pytest.fixture
def no_lammps(monkeypatch) -> None:
    monkeypatch.setattr(verification_lammps, "lammps_missing", lambda ranks=1: "it is not installed")


@pytest.fixture
def no_ipi(monkeypatch) -> None:
    monkeypatch.setattr(verification_ipi, "ipi_missing", lambda: "it is not there")


@pytest.fixture
def model(tmp_path, write_random_model) -> Path:
    return write_random_model(tmp_path / "random.pt", ["O", "Si"])


def run(*arguments: str | Path, exit_code: int = 0):
    result = CliRunner().invoke(cli.app, ["verify", *map(str, arguments)])
    unexpected = result.exception is not None and not isinstance(result.exception, SystemExit)
    assert not unexpected and result.exit_code == exit_code, result.output
    return result


@needs_ipi
@needs_lammps
def test_a_good_model_passes_every_way_into_it(model):
    report = json.loads(run(model, "--json").stdout)
    assert [check["name"] for check in report["checks"]] == IN_PYTHON + IN_LAMMPS + IN_IPI, "with empty ranks"
    assert all(check["passed"] and not check["error"] for check in report["checks"]) and report["skipped"] == {}
    compared = {check["name"]: tuple(check["differences"]) for check in report["checks"]}
    assert {compared[name] for name in [*IN_LAMMPS, "TorchScript in Python"]} == {QUANTITIES}
    assert compared["finite differences"] == ("forces", "stress")
    assert {compared[name] for name in IN_IPI} == {QUANTITIES[:4]}


@pytest.mark.parametrize("messages", [{}, {"n_layers": 3, "message_l": 1, "message_mixing": True}])
def test_layered_models_pass_the_checks_in_python(tmp_path, write_random_model, no_lammps, no_ipi, messages):
    path = write_random_model(tmp_path / "layered.pt", ["O", "Si"], messages=messages)
    report = json.loads(run(path, "--json").stdout)
    assert [check["name"] for check in report["checks"]] == IN_PYTHON
    assert all(check["passed"] for check in report["checks"])


@needs_lammps
def test_parameters_that_do_not_belong_to_the_program_are_found(tmp_path, write_random_model, no_ipi):
    path = write_random_model(tmp_path / "bad.pt", ["Si"], native_seed=1)
    result = run(path, exit_code=1)
    rows = [line.split() for line in result.output.splitlines() if "pass" in line or "FAIL" in line]
    assert [row[-1] for row in rows] == ["FAIL"] + 10 * ["pass"] + ["FAIL"]
    assert rows[-1][:2] == ["LAMMPS,", "tesseral/torch"]


@needs_lammps
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_each_wrong_number_of_lammps_is_found_and_named(model, monkeypatch, quantity):
    evaluate = verification_lammps.evaluate_in_lammps

    def evaluate_wrongly(*arguments, **options):
        results = evaluate(*arguments, **options)
        results[0][quantity] = results[0][quantity] * (1.0 + 1e-6)
        return results

    monkeypatch.setattr(verification_lammps, "WAYS", verification_lammps.WAYS[:1])
    monkeypatch.setattr(verification_lammps, "evaluate_in_lammps", evaluate_wrongly)
    calculator = TesseralCalculator(model, dtype="float64", skin=0.0)
    structures = made_up_structures(["O", "Si"], np.random.default_rng(0))
    (check,) = verification_lammps.lammps_checks(Reference(calculator, structures))
    assert [name for name, difference in check.differences.items() if difference > check.tolerance] == [quantity]
    assert not check.passed


@needs_lammps
def test_what_stops_lammps_is_told_and_fails(model, monkeypatch, no_ipi):
    def stop(*arguments: object, style: str, **options: object) -> None:
        raise LammpsError(f"LAMMPS stopped: ERROR: no {style} today")

    monkeypatch.setattr(verification_lammps, "evaluate_in_lammps", stop)
    output = run(model, exit_code=1).output
    assert "LAMMPS, 2 ranks: LAMMPS stopped: ERROR: no tesseral today" in output
    assert output.count("FAIL") == 4


def test_without_lammps_and_ipi_a_line_says_so_and_the_exit_code_is_that_of_the_other_checks(
    model, tmp_path, write_random_model, no_lammps, no_ipi
):
    output = run(model).output
    assert output.count("pass") == len(IN_PYTHON) and "LAMMPS: skipped, it is not installed" in output
    assert "i-PI: skipped, it is not there" in output
    report = json.loads(run(model, "--json").stdout)
    assert report["skipped"] == {"LAMMPS": "it is not installed", "i-PI": "it is not there"}
    run(write_random_model(tmp_path / "bad.pt", ["Si"], native_seed=1), exit_code=1)


@needs_lammps
def test_without_mpirun_one_rank_is_checked(model, monkeypatch, no_ipi):
    monkeypatch.setattr(verification_lammps, "lammps_missing", lambda ranks=1: "no mpirun" if ranks > 1 else None)
    report = json.loads(run(model, "--json").stdout)
    assert [check["name"] for check in report["checks"][-2:]] == ["LAMMPS, 1 rank", "LAMMPS, tesseral/torch"]
    assert report["skipped"] == {
        "LAMMPS, 2 ranks": "no mpirun",
        "LAMMPS, 3 ranks": "no mpirun",
        "i-PI": "it is not there",
    }


@needs_ipi
@pytest.mark.parametrize("quantity", QUANTITIES[:4])
def test_each_wrong_number_of_the_last_bead_in_ipi_is_found_and_named(model, monkeypatch, quantity):
    in_ase = verification_ipi._in_ase

    def convert_wrongly(last: object, index: int, bead: int, box: object):
        results = in_ase(last, index, bead, box)
        return {**results, quantity: results[quantity] * (1.0 + 1e-6 * (bead == 3))}

    monkeypatch.setattr(verification_ipi, "_in_ase", convert_wrongly)
    _, alone, together = ipi_outcomes(model, n_structures=1)
    assert [name for name, difference in together.differences.items() if difference > 1e-9] == [quantity]
    assert alone.passed and not together.passed


def ipi_outcomes(model: Path, n_structures: int | None = None) -> list:
    """The structures, and the checks in i-PI."""
    generator = np.random.default_rng(0)
    structures = made_up_structures(["O", "Si"], generator)[:n_structures]
    reference = Reference(TesseralCalculator(model, dtype="float64", skin=0.0), structures)
    return [structures, *verification_ipi.ipi_checks(reference, generator)]


@needs_ipi
def test_what_stops_ipi_or_a_driver_is_told_and_fails_and_nothing_is_left(model, tmp_path, monkeypatch):
    started = []

    class Recorded(ipi_process.Program):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            started.append(self)

    monkeypatch.setattr(ipi_process, "Program", Recorded)
    monkeypatch.setattr(verification_ipi, "OPTIONS", {**verification_ipi.OPTIONS, "dtype": "float16"})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "files"))
    (tmp_path / "files").mkdir()
    _, by_socket, inside = ipi_outcomes(model, n_structures=2)
    assert not by_socket.passed and not inside.passed and len(started) == 4
    assert re.match("the driver at kind[01] ended with exit code 1: dtype must be .*float16", by_socket.error)
    assert re.match("i-PI ended with exit code 1: dtype must be .*float16", inside.error)
    monkeypatch.setattr(verification_ipi, "PATIENCE", 0.1)
    monkeypatch.setattr(verification_ipi, "PATIENCE_PER_ATOM", 0.0)
    for check in ipi_outcomes(model, n_structures=1)[1:]:
        assert re.match("i-PI did not end within 0.1 s", check.error)
    assert not any(program.running for program in started)
    assert list((tmp_path / "files").iterdir()) == []


def test_errors_of_ipi_are_shown_below_the_table(model, monkeypatch, no_lammps):
    def stop(*arguments: object, **options: object) -> None:
        raise IpiError("i-PI ended with exit code 3: not today")

    monkeypatch.setattr(verification_ipi, "ipi_missing", lambda: None)
    monkeypatch.setattr(verification_ipi, "run_ipi", stop)
    output = run(model, exit_code=1).output
    assert "i-PI, UNIX socket: i-PI ended with exit code 3: not today" in output and output.count("FAIL") == 2


def test_only_so_many_drivers_are_started(model, monkeypatch):
    monkeypatch.setattr(verification_ipi, "MOST_DRIVERS", 2)
    structures = made_up_structures(["O", "Si"], np.random.default_rng(0))
    reference = Reference(TesseralCalculator(model, dtype="float64", skin=0.0), structures)
    assert verification_ipi._few_kinds(reference) == [0, 1, 4]  # the last is a bulk again


# --- the user's own structures


@pytest.mark.parametrize("arguments, checked", [([], [3]), (["--all-frames"], [2, 3])])
def test_structures_of_a_file_are_checked_too(model, tmp_path, monkeypatch, no_lammps, no_ipi, arguments, checked):
    atoms = bulk("Si", cubic=True)
    ase.io.write(tmp_path / "own.traj", [atoms[:2], atoms[:3]])
    seen = []
    evaluate = verification.TesseralCalculator.calculate

    def calculate(self, structure: Atoms, *arguments: object) -> None:
        seen.append(len(structure))
        evaluate(self, structure, *arguments)

    monkeypatch.setattr(verification.TesseralCalculator, "calculate", calculate)
    run(model, tmp_path / "own.traj", *arguments)
    assert sorted(set(seen)) == [*checked, len(made_up_structures(["O", "Si"], np.random.default_rng(0))[0])]


@needs_lammps
@needs_ipi
def test_a_structure_goes_through_lammps_and_ipi(model, tmp_path):
    atoms = Atoms("SiO", positions=[[0, 0, 0], [0, 0.4, 1.5]], cell=[9.0, 0, 0], pbc=[True, False, False])
    ase.io.write(tmp_path / "wire.xyz", atoms)
    report = json.loads(run(model, tmp_path / "wire.xyz", "--json").stdout)
    assert all(check["passed"] for check in report["checks"])
    assert {"LAMMPS, 2 ranks", *IN_IPI} <= {check["name"] for check in report["checks"]}


@pytest.mark.parametrize(
    "content, message",
    [
        (None, r"own.xyz: no such file"),
        ("", r"own.xyz: (holds no structures|cannot be read as structures)"),
        ("1\n\nSi 0 x 0\n", r"own.xyz: cannot be read as structures: \w+"),
        ("0\n\n", r"own.xyz: holds a structure without atoms"),
        ("1\n\nGe 0 0 0\n", r"structure 0: atom 0 is Ge, but random.pt knows O, Si"),
    ],
)
def test_unusable_structures_are_refused_in_one_line(model, tmp_path, content, message):
    if content is not None:
        (tmp_path / "own.xyz").write_text(content)
    result = run(model, tmp_path / "own.xyz", exit_code=1)
    assert re.search(message, result.stderr) and result.stderr.count("\n") == 1


def test_made_up_structures_are_stretched_until_forces_are_of_this_world():
    calculator = TesseralCalculator("acac", dtype="float64")
    crowded = made_up_structures(["C", "H", "O"], np.random.default_rng(0))[0]
    loose = loosened(calculator, crowded)
    factor = loose.positions[1, 0] / crowded.positions[1, 0]
    assert factor > 1.05 and np.allclose(loose.cell.array, factor * crowded.cell.array)
    crowded.calc = loose.calc = calculator
    assert np.abs(crowded.get_forces()).max() > 1e6
    assert 1.0 < np.abs(loose.get_forces()).max() <= 1000.0
    assert loosened(calculator, loose) == loose


# --- the checks themselves


@pytest.mark.parametrize("name, seed", [("silicon", 0), ("acac", 0), ("acac", 5)])  # atoms of acac are crowded in these
def test_shipped_models_pass_the_comparison_with_finite_differences(name, seed):
    check = next(check for check in verify(name, seed=seed) if check.name == "finite differences")
    assert check.passed, check


def test_a_check_that_gives_nan_or_nothing_fails():
    assert Check("x", {"energy": 1.0, "forces": 0.5}, 1.0).passed
    assert not Check("x", {"energy": 1.0, "forces": float("nan")}, 1.0).passed
    assert not Check("x", {}, 1.0).passed
    assert not Check("x", largest([{"energy": 0.1}, {"energy": float("nan")}, {"energy": 0.2}]), 1.0).passed
