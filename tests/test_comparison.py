"""`tesseral compare`: what it measures, keeps, shows, and what it does with codes that are missing or fail."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from typer.testing import CliRunner

from tesseral import cli
from tesseral.benchmarks.comparison import cases, lammps_potentials, measure, processes, session, summary, tables
from tesseral.benchmarks.comparison.cases import Case, Point
from tesseral.benchmarks.comparison.codes import CALL, PEERS, STEP, Code
from tesseral.calculator.lammps_process import lammps_missing

needs_lammps = pytest.mark.skipif(lammps_missing() is not None, reason=str(lammps_missing()))

#: answers like a Python with any package, and like any worker: 2 ms a call, and a failure in float64
STUB = """#!{python}
import json, sys
import numpy as np
if sys.argv[1] == "-c":
    print("1.2.3")
else:
    with open(sys.argv[2]) as stream:
        task = json.load(stream)
    with open({log!r}, "a") as stream:
        stream.write(json.dumps(task) + "\\n")
    print("a line of its own")
    size = np.load(task["structures"][0])["numbers"].size
    good = {{"seconds": [0.001, 0.002, 0.003], "peak_mb": 50.0 + size, "versions": {{"peer": "1.2.3"}}}}
    print(json.dumps({{"failed": "ValueError: no float64"}} if task["precision"] == "float64" else good))
"""

OWN = Code("ours", "tesseral", "mixed", CALL, {"way": "calculator", "model": "local-small", "skin": 0.0}, ours=True)
PEER = Code("peer", "calorine", "float32")
FAILS = Code("peer in float64", "calorine", "float64")
MISSING = Code("absent", "dscribe", "float64")


@pytest.fixture
def stub(tmp_path) -> str:
    """A Python that has every package."""
    path = tmp_path / "python-of-the-peer"
    path.write_text(STUB.format(python=sys.executable, log=str(tmp_path / "tasks")))
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


@pytest.fixture
def small(monkeypatch) -> None:
    """One case with our model, a peer, one that fails and one that is missing; and one with lines."""
    monkeypatch.setitem(
        PEERS, "dscribe", processes.PEERS["dscribe"].__class__("no-such-package", "x.py", "pip install x")
    )
    one = [Point(8.0, "silicon", 1)]
    many = [Point(8.0, "silicon", 1), Point(64.0, "silicon", 2)]
    bars = Case("silicon", "Silicon", "bars", lambda quick: one, (OWN, PEER, FAILS, MISSING), 2)
    lines = Case("size", "Sizes", "lines", lambda quick: many, (OWN, PEER), 1, "atoms")
    monkeypatch.setattr(cases, "CASES", {"silicon": bars, "size": lines})


def run(*arguments: str | Path, exit_code: int = 0):
    result = CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])
    unexpected = result.exception is not None and not isinstance(result.exception, SystemExit)
    assert not unexpected and result.exit_code == exit_code, result.output
    return result


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_tables_and_pictures_are_written_and_codes_that_do_not_run_have_a_reason(small, stub, tmp_path):
    out = tmp_path / "out"
    result = run("--quick", "--out", out, "--peer-python", f"calorine={stub}")
    assert "table.md and 3 pictures" in " ".join(result.stdout.split())
    for name in ("silicon.png", "size.png", "memory.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    text = (out / "table.md").read_text()
    assert "| **ours** | mixed |" in text and "| peer | float32 | 250 | 125 |" in text  # 2 ms, 1 ms for 8 atoms
    assert "- peer in float64: ValueError: no float64" in text
    assert "- absent: not installed in this Python: pip install x" in text
    assert "8 atoms, 28.0 neighbours within 5 Å, one thread." in text and "µs/atom by atoms" in text
    assert "`silicon` | 1, 64" in text and "2.91, 0.07" in text  # errors beside published ones
    machine, *records = lines_of(out / "results.jsonl")
    assert machine["quick"] and machine["processor"] and machine["versions"]["numpy"] == np.__version__
    assert all(record["load"] >= 0 and record["time"] for record in records)
    (own,) = [r for r in records if r["case"] == "silicon" and r["code"] == "ours"]
    assert own["n_atoms"] == 8 and own["seconds"] and own["peak_mb"] > 0 and own["includes"] == CALL


def test_a_worker_is_told_the_same_as_ours(small, stub, tmp_path):
    run("--quick", "--out", tmp_path / "out", "--only", "silicon", "--peer-python", f"calorine={stub}")
    tasks = lines_of(tmp_path / "tasks")
    assert [task["precision"] for task in tasks] == ["float32", "float64"]
    assert all(task["cutoff"] == 5.0 and task["threads"] == 1 for task in tasks)


def test_the_same_folder_goes_on_and_only_repeats(small, stub, tmp_path, monkeypatch):
    out, asked = tmp_path / "out", []

    def fake(self, code: Code, point: Point) -> dict[str, Any]:
        asked.append((code.name, point.size))
        if len(asked) == 4:
            raise KeyboardInterrupt
        return {"failed": "no"} if code is FAILS else {"n_atoms": 8, "n_neighbors": 28.0, "seconds": [1e-3]}

    monkeypatch.setattr(measure.Bench, "measure", fake)
    arguments = ("--quick", "--out", out)
    CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])
    assert asked == [("ours", 1), ("peer", 1), ("peer in float64", 1), ("absent", 1)]
    with (out / "results.jsonl").open("a") as stream:
        stream.write('{"case": "silicon", "po')  # stopped while writing
    del asked[:]
    asked += [("", 0)] * 10
    run(*arguments)
    assert asked[10:] == [("peer in float64", 1), ("absent", 1), ("ours", 1), ("peer", 1), ("ours", 2), ("peer", 2)]
    run(*arguments, "--only", "size")
    assert asked[16:] == [("ours", 1), ("peer", 1), ("ours", 2), ("peer", 2)]
    kept = [(r["case"], r["code"]) for r in lines_of(out / "results.jsonl")[1:]]
    assert kept.count(("size", "ours")) == 2 and kept.count(("silicon", "ours")) == 1
    assert (out / "table.md").read_text().count("- peer in float64: no") == 1


def test_results_of_another_kind_or_machine_are_not_mixed(tmp_path):
    session.Results(tmp_path, quick=True)
    with pytest.raises(ValueError, match="holds a quick comparison, this is a full one: choose another --out"):
        session.Results(tmp_path, quick=False)
    path = tmp_path / "results.jsonl"
    path.write_text(path.read_text().replace(lines_of(path)[0]["processor"], "Z80"))
    with pytest.raises(ValueError, match=r"is of another machine \(Z80\)"):
        session.Results(tmp_path, quick=True)
    path.write_text("something else\n")
    with pytest.raises(ValueError, match="is not a file of results of this version"):
        session.Results(tmp_path, quick=True)


def test_wrong_arguments_are_refused_with_the_nearest_name(tmp_path):
    assert "no case 'memory-size'" in run("--only", "memory-size", exit_code=1).stderr
    assert "did you mean 'silicon'?" in run("--only", "silcon", exit_code=1).stderr
    assert "did you mean 'calorine'?" in run("--peer-python", "calorin=/bin/true", exit_code=1).stderr
    assert "is not a program" in run("--peer-python", "calorine=/no/such/python", exit_code=1).stderr
    assert "takes NAME=PYTHON" in run("--peer-python", "calorine", exit_code=2).stderr


def test_the_list_names_every_case_and_peer(stub):
    text = run("--list", "--peer-python", f"sevenn={stub}").stdout
    assert all(name in text for name in (*cases.CASES, *PEERS, "symmetrix", "1.2.3"))


def test_rounds_take_turns_and_factors_are_of_one_round():
    points = [Point(8.0, "silicon", 1)]
    step = Code("step", "LAMMPS", "float64", STEP, ours=True)
    case = Case("silicon", "", "bars", lambda quick: points, (OWN, PEER, step), 3)
    planned = [(m.code.name, m.round) for m in session.plan([case], quick=False)]
    assert planned == [(name, turn) for turn in range(3) for name in ("ours", "peer", "step")]
    base = {"case": "silicon", "point": "a", "x": 8.0, "n_atoms": 8, "n_neighbors": 28.0, "precision": "mixed"}
    base |= {"includes": CALL, "ours": True, "threads": 1, "ranks": 1, "cutoff": 5.0}
    slow = [1, 4, 2]  # the machine, by round
    records = [
        base | {"code": name, "round": turn, "seconds": [8e-6 * cost * slow[turn]] * 3}
        for turn in range(3)
        for name, cost in (("ours", 1), ("peer", 10))
    ]
    own, peer = summary.rows(case, records)
    assert own.microseconds == pytest.approx(2) and own.least == pytest.approx(1) and own.ratio == 1
    assert peer.ratio == pytest.approx(10) and peer.reference == "ours"
    assert peer.steps_per_second == pytest.approx(1e6 / (20 * 8)) and summary.reference_of(case, "step") == "step"


def test_every_case_has_systems_that_its_codes_take():
    names = [code.name for case in cases.CASES.values() for code in case.codes]
    assert set(names) and all(len({c.name for c in case.codes}) == len(case.codes) for case in cases.CASES.values())
    for quick in (True, False):
        for case in cases.CASES.values():
            points = case.points(quick)
            assert len({point.name for point in points}) == len(points)
            assert summary.reference_of(case, case.codes[-1].name) is not None
    planned = list(session.plan(list(cases.CASES.values()), quick=True))
    assert len({m.key for m in planned}) == len(planned)
    assert not any(m.code.name == "LAMMPS sw" and m.point.system == "water" for m in planned)
    assert {m.code.peer for m in planned} == {"tesseral", "LAMMPS", "i-PI", "memory", *PEERS}


@needs_lammps
@pytest.mark.parametrize("potential", lammps_potentials.POTENTIALS)
def test_lammps_takes_the_potentials_that_are_written(potential):
    from tesseral.benchmarks.comparison.lammps_steps import time_steps

    silicon = bulk("Si", cubic=True)
    found = time_steps(silicon, potential, 4.0, seconds=0.01)
    assert found["seconds"] and found["versions"]["LAMMPS"]
    if potential != "sw":
        cell = np.eye(3) * 6.0
        water = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], cell=cell, pbc=True)
        assert time_steps(water, potential, 4.0, seconds=0.01)["seconds"]


def test_our_worker_times_calls_the_engine_and_training(tmp_path):
    bench = measure.Bench(processes.Interpreters({}), quick=True)
    try:
        for way in ("calculator", "engine"):
            settings = {"way": way, "model": "local-small", "skin": 0.0}
            found = bench.measure(Code("x", "tesseral", "float32", CALL, settings), Point(8.0, "silicon"))
            assert found["n_atoms"] == 8 and min(found["seconds"]) > 0 and found["instruction_set"]
        settings = {"way": "training", "sizes": {"layers": 1, "channels": 4}}
        found = bench.measure(Code("x", "tesseral", "float32", CALL, settings), Point(1.0, "training", 1))
        assert found["n_atoms"] == 32 and found["seconds"]
        wrong = bench.measure(
            Code("x", "tesseral", "float16", CALL, {"way": "engine", "model": "local-small"}), Point(8, "silicon")
        )
        assert wrong["failed"].startswith("ValueError: dtype must be one of")
    finally:
        bench.close()


def test_numbers_have_three_digits():
    assert [tables.number(value) for value in (0.12345, 12.345, 99.97, 12345.6)] == ["0.123", "12.3", "100", "12,346"]
