"""The runner that evaluates structures in LAMMPS: geometry, units, ranks, and what goes wrong."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from tesseral.calculator import TesseralCalculator, lammps_process
from tesseral.calculator.lammps import evaluate_in_lammps
from tesseral.calculator.lammps_box import LammpsBox
from tesseral.calculator.lammps_process import LammpsError, lammps_missing, run_lammps

#: relative to the largest number compared
TOLERANCE = {"float64": 1e-11, "mixed": 1e-4, "float32": 1e-4}
needs_lammps = pytest.mark.skipif(lammps_missing(3) is not None, reason=str(lammps_missing(3)))


@pytest.fixture(scope="module")
def model(tmp_path_factory, write_random_model) -> Path:
    """In a folder whose name LAMMPS must not split or substitute."""
    folder = tmp_path_factory.mktemp("a folder") / "of $HOME #1"
    folder.mkdir()
    return write_random_model(folder / "random.pt", ["O", "Si"], scale=1.0)


def sheared() -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.numbers[::3] = 8
    atoms.set_cell(atoms.cell[:] @ [[0.9, 0.05, 0.1], [0, 0.85, 0.1], [0.02, -0.3, 0.9]], scale_atoms=True)
    atoms.rattle(0.15, seed=4)
    return atoms


def partly_periodic(*pbc: bool) -> Atoms:
    """Vectors of directions that are not periodic are left at zero."""
    atoms = sheared()
    cell = np.where(np.array(pbc)[:, None], atoms.cell.array, 0.0)
    return Atoms(atoms.numbers, atoms.positions, cell=cell, pbc=pbc)


def far_outside() -> Atoms:
    atoms = sheared()
    images = np.random.default_rng(1).integers(-9, 10, (len(atoms), 3))
    atoms.positions += images @ atoms.cell.array + [0.3, -70.0, 11.0]
    return atoms


def left_handed(pbc=True) -> Atoms:
    atoms = sheared()
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    atoms.pbc = pbc
    return atoms


def skewed() -> Atoms:
    """The lattice of `sheared` by vectors of which two are nearly parallel."""
    atoms = sheared()
    atoms.set_cell([[1, 0, 0], [3, 1, 0], [-2, 4, 1]] @ atoms.cell.array)
    return atoms


def one_atom() -> Atoms:
    return Atoms("Si", positions=[[1.0, -2.0, 0.5]], cell=[[2.6, 0.1, 0], [0, 2.5, 0.2], [0.3, 0, 2.7]], pbc=True)


STRUCTURES = {
    "cubic": bulk("Si", cubic=True) * (2, 1, 1),
    "sheared": sheared(),
    "left-handed": left_handed(),
    "left-handed slab": left_handed((True, False, True)),
    "far outside": far_outside(),
    "skewed": skewed(),
    "one atom, smaller than the cutoff": one_atom(),
    "slab along a, b": partly_periodic(True, True, False),
    "slab along b, c": partly_periodic(False, True, True),
    "slab along a, c": partly_periodic(True, False, True),
    "wire along b": partly_periodic(False, True, False),
    "wire along c": partly_periodic(False, False, True),
    "cluster": partly_periodic(False, False, False),
    "single free atom": Atoms("O", positions=[[100.0, 0.0, -3.0]]),
}


def check(model: Path, results: list, structures: list[Atoms], tolerance: float = TOLERANCE["float64"]) -> None:
    """Every number that ASE has is the same, and LAMMPS' global numbers are sums of its per-atom numbers."""
    calculator = TesseralCalculator(model, dtype="float64", skin=0.0)
    for name, atoms, found in zip(STRUCTURES, structures, results, strict=True):
        calculator.calculate(atoms)
        expected = calculator.results
        for key in ("energy", "energies", "forces", "stress", "stresses"):
            if key not in expected:
                assert found[key] is None
                continue
            scale = max(float(np.abs(expected[key]).max()), 1e-2)
            np.testing.assert_allclose(
                found[key], expected[key], rtol=0, atol=tolerance * scale, err_msg=f"{name}: {key}"
            )
        assert found["energy"] == pytest.approx(found["energies"].sum(), rel=1e-6 if tolerance > 1e-8 else 1e-13)
        scale = max(float(np.abs(found["virial"]).max()), 1e-2)
        np.testing.assert_allclose(found["virials"].sum(axis=0), found["virial"], rtol=0, atol=tolerance * scale)


@needs_lammps
@pytest.mark.parametrize("ranks, processors", [(1, None), (2, None), (3, (1, 1, 3)), (2, (2, 1, 1))])
def test_lammps_gives_what_ase_gives_for_every_geometry_and_grid(model, ranks, processors):
    structures = list(STRUCTURES.values())
    copies = [atoms.copy() for atoms in structures]
    results = evaluate_in_lammps(model, structures, ranks=ranks, processors=processors)
    check(model, results, structures)
    assert all(before == after for before, after in zip(copies, structures, strict=True))
    assert any(set(found["ranks"]) == set(range(ranks)) for found in results)


@needs_lammps
@pytest.mark.parametrize("units", ["real", "si", "electron"])
def test_other_units_are_converted(model, units):
    structures = list(STRUCTURES.values())
    check(model, evaluate_in_lammps(model, structures, units=units), structures)


@needs_lammps
@pytest.mark.parametrize("dtype", ["mixed", "float32"])
def test_the_precision_reaches_lammps(model, dtype):
    structures = list(STRUCTURES.values())
    results = evaluate_in_lammps(model, structures, dtype=dtype, threads=2)
    check(model, results, structures, TOLERANCE[dtype])
    exact = evaluate_in_lammps(model, structures[:2])
    assert np.abs(results[1]["forces"] - exact[1]["forces"]).max() > 1e-9


@needs_lammps
def test_the_torch_style_gives_what_ase_gives(model):
    structures = list(STRUCTURES.values())
    check(model, evaluate_in_lammps(model, structures, style="tesseral/torch"), structures)


@needs_lammps
def test_much_empty_space_leaves_ranks_without_atoms(model):
    (results,) = evaluate_in_lammps(model, [STRUCTURES["cluster"]], ranks=3, processors=(3, 1, 1), margin=30.0)
    assert set(results["ranks"]) == {1}


# --- geometry


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_box_is_the_same_structure_turned(name):
    atoms = STRUCTURES[name]
    box = LammpsBox(atoms, margin=2.0)
    np.testing.assert_allclose(box.frame @ box.frame.T, np.eye(3), atol=1e-14)
    assert np.linalg.det(box.frame) == pytest.approx(1.0), "turned, not mirrored"
    assert (box.cell == np.tril(box.cell)).all() and (box.cell.diagonal() > 0).all()
    assert (box.cell[~box.periodic] == np.diag(box.cell.diagonal())[~box.periodic]).all(), "open edges are not tilted"
    in_ase = box.vectors_in_ase(box.cell)
    lattice = np.linalg.lstsq(atoms.cell.array[box.periodic].T, in_ase[box.periodic].T, rcond=None)[0]
    np.testing.assert_allclose(np.abs(lattice), np.eye(box.periodic.sum()), atol=1e-12)
    inside = np.linalg.solve(box.cell.T, (box.positions - box.origin).T)
    assert inside.min() > -1e-12 and inside.max() < 1.0 + 1e-12
    np.testing.assert_allclose(box.positions_in_ase(box.positions), atoms.positions, atol=1e-11)


# --- what goes wrong


def test_a_missing_lammps_is_told(monkeypatch, tmp_path, model):
    monkeypatch.setattr(lammps_process, "_program", lambda name: None)
    assert "there is no program lmp" in str(lammps_missing())
    with pytest.raises(FileNotFoundError, match="LAMMPS is not installed"):
        evaluate_in_lammps(model, [sheared()])


def test_a_missing_mpirun_or_plugin_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(lammps_process, "_program", lambda name: None if name == "mpirun" else name)
    monkeypatch.setattr(lammps_process.lammps_plugin, "directory", lambda: str(tmp_path))
    assert "without its LAMMPS plugin" in str(lammps_missing())
    (tmp_path / "someplugin.so").touch()
    assert lammps_missing() is None
    assert "no program mpirun" in str(lammps_missing(2))


def test_programs_beside_python_come_first(monkeypatch, tmp_path):
    program = tmp_path / "lmp"
    program.touch()
    monkeypatch.setattr(lammps_process.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(lammps_process.shutil, "which", lambda name: f"/elsewhere/{name}")
    assert lammps_process._program("lmp") == "/elsewhere/lmp"
    program.chmod(stat.S_IRWXU)
    assert lammps_process._program("lmp") == str(program)


def test_unusable_arguments_are_refused(model):
    with pytest.raises(ValueError, match="units must be one of metal, real, si, electron, got 'metl'; did you mean"):
        evaluate_in_lammps(model, [sheared()], units="metl")
    with pytest.raises(ValueError, match="structure 1 has no atoms"):
        evaluate_in_lammps(model, [sheared(), Atoms()])
    with pytest.raises(FileNotFoundError, match="no such model file"):
        evaluate_in_lammps("absent.pt", [sheared()])


@needs_lammps
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_message_of_lammps_is_raised(model, ranks):
    with pytest.raises(LammpsError, match=r"LAMMPS stopped: ERROR.*pair_coeff.*Ge"):
        evaluate_in_lammps(model, [bulk("Ge")], ranks=ranks)


@needs_lammps
@pytest.mark.parametrize("ranks", [1, 2])
def test_lammps_is_stopped_after_its_time(tmp_path, ranks):
    endless = "variable i loop 1000000000\nlabel again\nnext i\njump SELF again\n"
    with pytest.raises(LammpsError, match=r"did not end within 0\.5 s"):
        run_lammps(endless, tmp_path, ranks=ranks, timeout=0.5)


@needs_lammps
def test_lines_come_while_lammps_runs_and_a_watcher_may_stop_it(tmp_path):
    def interrupt(line: str) -> None:
        if "seen" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_lammps(
            "print seen\nvariable i loop 1000000000\nlabel again\nnext i\njump SELF again\n", tmp_path, watch=interrupt
        )


@needs_lammps
def test_ranks_that_do_not_know_of_each_other_are_noticed(model, tmp_path, monkeypatch):
    launcher = tmp_path / "mpirun"
    launcher.write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
    launcher.chmod(stat.S_IRWXU)
    find = lammps_process._program
    monkeypatch.setattr(lammps_process, "_program", lambda name: str(launcher) if name == "mpirun" else find(name))
    with pytest.raises(LammpsError, match=r"ran on 1 ranks instead of 2: .*mpirun belongs to another MPI"):
        evaluate_in_lammps(model, [sheared()], ranks=2)


def test_an_end_without_a_message_is_an_error():
    with pytest.raises(LammpsError, match=r"exit code -11: Setting up \| Segmentation fault"):
        lammps_process._check("Setting up\nSegmentation fault\n", -11, 1)
