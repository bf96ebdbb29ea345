"""`tesseral bench --mace`: what it measures and reports, and that it finds differences."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from typer.testing import CliRunner

from tesseral import cli
from tesseral.benchmarks import imported_mace, peers, timing
from tesseral.benchmarks.imported_mace import WAYS, Given, Timing, agreement, measure_imported
from tesseral.models.mace_import import importer

TIMED = {"us_per_atom": 2000.0, "factor": 40.0, "peak_mb": 900.0, "agrees": True}
TIMED |= {"energy_difference": 1e-9, "force_difference": 1e-8}
CASE = {
    "system": "silicon",
    "dtype": "float32",
    "n_atoms": 1000,
    "n_neighbors": 28.0,
    "instruction_set": "avx512",
    "us_per_atom": 50.0,
    "peak_mb": 100.0,
    "mace_torch": {"eager": TIMED, "compiled, tuned": {"skipped": "mace-torch does not run here: no compiler"}},
}
REPORT: dict[str, Any] = {"model": "128x0e", "notes": ["a note"], "cases": [CASE]}


def run(*arguments: str | Path, exit_code: int = 0):
    result = CliRunner().invoke(cli.app, ["bench", "--mace", *map(str, arguments)])
    unexpected = result.exception is not None and not isinstance(result.exception, SystemExit)
    assert not unexpected and result.exit_code == exit_code, result.output
    return result


@pytest.fixture
def measured(monkeypatch) -> dict[str, Any]:
    """What measure_imported was called with; it gives REPORT."""
    seen: dict[str, Any] = {}

    def fake(cells: int, repeats: int, **options: Any) -> dict[str, Any]:
        options.pop("start")(2)()
        seen.update(options, cells=cells, repeats=repeats)
        return REPORT

    monkeypatch.setattr(imported_mace, "measure_imported", fake)
    return seen


def test_a_model_of_ones_own_is_timed_in_both_and_gives_the_same(tmp_path):
    from mace_torch_models import mace_model, written

    heads = {"heads": ["rough", "fine"], "atomic_inter_scale": [9.0, 15.0], "atomic_inter_shift": [0.0, 0.1]}
    path = written(mace_model(**heads, atomic_energies=np.zeros((2, 3)), hidden="4x0e"), tmp_path)
    molecule, parts = Atoms("HOSiH", 1.6 * np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1]])), []
    result = measure_imported(
        1,
        7,
        given=Given(path, "fine", molecule),
        dtypes=["float64"],
        ways=["eager", "eager, tuned"],
        start=lambda n_parts: lambda: parts.append(n_parts),
    )
    assert parts == [2, 2] and result["model"] == "some.model" and result["notes"] == []
    (case,) = result["cases"]
    assert (case["system"], case["dtype"], case["n_atoms"]) == ("H2OSi", "float64", 4) and case["instruction_set"]
    assert list(case["mace_torch"]) == ["eager", "eager, tuned"]
    for timed in case["mace_torch"].values():
        assert timed["agrees"] is True and timed["energy_difference"] < 1e-9 and timed["force_difference"] < 1e-8
        assert timed["factor"] == pytest.approx(timed["us_per_atom"] / case["us_per_atom"])
        assert all(math.isfinite(one["us_per_atom"]) and one["us_per_atom"] > 0 for one in (timed, case))
        assert timed["peak_mb"] is None or timed["peak_mb"] > case["peak_mb"] > 1


def test_random_models_are_timed_on_silicon_and_water(monkeypatch, tmp_path):
    """Without the processes: which models and structures there are, in which order all is run, and with what."""
    runs: list[tuple[str, ...]] = []

    def imports(folder: Path, path: Path, head: str | None) -> tuple[Path, Any]:
        return folder / f"{path.stem}.pt", SimpleNamespace(notes=[f"of {path.stem}"], precision="float64")

    def engine(model: Path, structure: Path, dtype: str, results: Path, timing: Any) -> dict[str, Any]:
        assert timing.device == "cpu"
        runs.append(("engine", model.name, dtype))
        np.savez(results, energy=1.0, forces=np.zeros((2, 3)))
        return {"us_per_atom": float(len(runs))}

    def mace(*arguments: str, tuned: bool) -> dict[str, Any]:
        values, compiled = dict(itertools.pairwise(arguments)), "--compile" in arguments
        runs.append((Path(values["--model"]).name, values["--dtype"], values["--repeats"], tuned, compiled))
        np.savez(values["--results"], energy=1.0 + 3e-6, forces=np.zeros((2, 3)))
        return {"us_per_atom": 600.0} if tuned else {"skipped": "it is late"}

    monkeypatch.setattr(imported_mace, "write_mace_model", lambda path, numbers, dtype: runs.append((*numbers, dtype)))
    monkeypatch.setattr(imported_mace, "_imported", imports)
    monkeypatch.setattr(imported_mace, "_time_engine", engine)
    monkeypatch.setattr(imported_mace, "time_mace", mace)
    monkeypatch.setattr("tesseral.models.mace_import.source.mace_version", lambda: "0.3")
    result = measure_imported(1, 20)
    assert runs[:2] == [(14, "float64"), (1, 8, "float64")] and result["notes"] == ["of silicon", "of water"]
    assert runs[2:8] == [
        ("engine", "silicon.pt", "float32"),
        ("silicon.model", "float32", "4", False, False),
        ("engine", "silicon.pt", "float32"),
        ("silicon.model", "float32", "4", True, False),
        ("engine", "silicon.pt", "float32"),
        ("silicon.model", "float32", "4", True, True),
    ]
    assert [(case["system"], case["dtype"]) for case in result["cases"]] == [
        (system, dtype) for system in ("silicon", "water") for dtype in ("float32", "float64")
    ]
    case = result["cases"][0]
    assert case["us_per_atom"] == 5.0 and case["mace_torch"]["eager"] == {"skipped": "it is late"}
    assert case["mace_torch"]["eager, tuned"]["factor"] == 120.0
    assert [one["mace_torch"]["eager, tuned"]["agrees"] for one in result["cases"]] == [True, False, True, False]


def test_differences_are_found():
    ours = {"energy": np.float64(300.0), "forces": np.array([[0.0, 40.0, 0.0], [0.0, 0.0, 0.0]])}
    theirs = {"energy": np.float64(300.1), "forces": ours["forces"] + 0.01}
    found = agreement(ours, theirs, 4e-4)
    assert found["energy_difference"] == pytest.approx(0.05) and found["force_difference"] == pytest.approx(0.01)
    assert found["agrees"] is True
    assert agreement(ours, theirs, 3e-4)["agrees"] is False and agreement(ours, theirs, 2e-4)["agrees"] is False
    assert agreement(ours, {**theirs, "energy": np.float64("nan")}, 1.0)["agrees"] is False


def test_the_table_has_every_way_and_says_what_was_skipped(measured):
    output = " ".join(run("--cells", "2", "--no-compile").stdout.split())
    assert measured == {"cells": 2, "repeats": 15, "given": None, "ways": ["eager", "eager, tuned"]}
    for text in ("silicon, 1,000 atoms, 28 neighbours, float32", "2000", "40.0", "a note"):
        assert text in output
    assert "the same energies and forces" in output
    assert "mace-torch, compiled, tuned: skipped, mace-torch does not run here: no compiler" in output


def test_json_has_the_report_and_differences_are_a_failure(measured, monkeypatch):
    report = json.loads(run("--json").stdout)
    assert report["mace_import"]["cases"] == [CASE] and len(report["mace_import"]["load"]) == 2
    assert measured["ways"] == list(WAYS)
    monkeypatch.setitem(TIMED, "agrees", False)
    assert "ENERGIES OR FORCES DIFFER" in run(exit_code=1).stdout


def test_a_model_of_ones_own_needs_trust(measured, tmp_path):
    path, structure = tmp_path / "own.model", tmp_path / "own.xyz"
    assert "can run any program" in " ".join(run("--model", path, exit_code=1).stderr.split())
    Atoms("H2", [[0, 0, 0], [0, 0, 1]]).write(structure)
    run("--model", path, "--trust-pickle", "--head", "fine", "--structure", structure)
    assert measured["given"] == Given(path, "fine", Atoms("H2", [[0, 0, 0], [0, 0, 1]]))
    run("--model", path, "--trust-pickle")
    assert measured["given"] == Given(path)
    assert "--head and --structure belong to --model" in run("--head", "fine", exit_code=2).stderr
    other = CliRunner().invoke(cli.app, ["bench", "--model", str(path)])
    assert other.exit_code == 2 and "belong to --mace" in other.stderr


def test_a_model_that_knows_neither_silicon_nor_water_needs_a_structure(tmp_path):
    from mace_torch_models import mace_model, written

    path = written(mace_model(num_interactions=1, correlation=1, hidden="4x0e"), tmp_path)
    model, report = importer.import_mace(path, trust_pickle=True, species=["H", "O"])

    def imports(*arguments: Any, **options: Any) -> tuple[Any, Any]:
        return model, report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importer, "import_mace", imports)
        structures = {"silicon": Atoms("Si"), "water": Atoms("H2O")}
        (case,), _ = imported_mace._given_model(tmp_path, structures, Given(path))
        assert case.name == "water" and case.head is None and not case.rounded
        with pytest.raises(ValueError, match="knows H, O, which is not enough for CH4; give a structure of these"):
            imported_mace._given_model(tmp_path, structures, Given(path, None, Atoms("CH4")))


def test_processes_that_fail_are_named_by_their_error(monkeypatch):
    lines = "Traceback\nRuntimeError: no C++ compiler\n\nSet X=1 for more"
    failed = SimpleNamespace(returncode=1, stdout="", stderr=lines)
    monkeypatch.setattr(peers.subprocess, "run", lambda *arguments, **options: failed)
    assert peers.time_mace("--compile") == {"skipped": "mace-torch does not run here: RuntimeError: no C++ compiler"}
    with pytest.raises(RuntimeError, match="the native engine does not run here: RuntimeError: no C"):
        imported_mace._time_engine(Path("a"), Path("b"), "float32", Path("c"), Timing(7, "cpu", {}))


def test_malloc_is_tuned_only_where_the_way_says_so(monkeypatch):
    environments = []

    def fake_run(command: list[str], env: dict[str, str], **options: Any) -> Any:
        environments.append(env)
        return SimpleNamespace(returncode=0, stdout="{}", stderr="")

    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    monkeypatch.setattr(peers.subprocess, "run", fake_run)
    for tuned in (False, True):
        peers.time_mace(tuned=tuned)
    plain, tuned_one = environments
    assert not set(plain) & set(peers.MALLOC_SETTING) and plain["OMP_NUM_THREADS"] == "1"
    assert {name: tuned_one[name] for name in peers.MALLOC_SETTING} == peers.MALLOC_SETTING


def test_without_mace_torch_the_error_says_how_to_install_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "mace.calculators", None)
    assert "pip install 'tesseral[mace]'" in " ".join(run(exit_code=1).stderr.split())


def test_the_largest_memory_is_read_from_proc_and_may_be_unknown(tmp_path):
    (tmp_path / "status").write_text("VmPeak:\t 9 kB\nVmHWM:\t    2000 kB\n")
    assert timing.peak_megabytes(tmp_path / "status") == pytest.approx(2.048)
    assert timing.peak_megabytes(tmp_path / "absent") is None
