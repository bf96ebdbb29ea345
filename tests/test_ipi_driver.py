"""The driver for i-PI on its own, against i-PI's driver for ASE and the ASE calculator."""

from __future__ import annotations

import importlib.util
import json
import sys

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed
from ipi_runs import DRIVER, assert_close, crystal, internal, model, needs_ipi
from typer.testing import CliRunner

from tesseral import cli
from tesseral.calculator import StructureError, TesseralCalculator

__all__ = ["crystal", "model"]  # fixtures

pytestmark = needs_ipi


@pytest.fixture
def driver(tmp_path, model, crystal, monkeypatch):
    """make(**options): the driver of the random model for the crystal."""
    from tesseral.calculator.ipi_driver import TesseralDriver

    monkeypatch.chdir(tmp_path)
    ase.io.write("init.extxyz", crystal)

    def make(**options):
        return TesseralDriver(**{"model": "random.pt", "template": "init.extxyz", "dtype": "float64", **options})

    return make


def moved(atoms: Atoms, n: int, spread: float = 0.1) -> list[Atoms]:
    """Copies with other positions, such as beads."""
    copies = [atoms.copy() for _ in range(n)]
    for seed, copy in enumerate(copies):
        copy.rattle(spread, seed=seed)
    return copies


def test_results_equal_the_ase_driver_of_ipi(driver, model, crystal):
    from ipi.pes._ase import ASEDriver

    oracle = ASEDriver("init.extxyz")
    oracle.ase_calculator = TesseralCalculator(model, dtype="float64")
    for atoms in moved(crystal, 3):
        found, expected = driver().compute_structure(*internal(atoms)), oracle.compute_structure(*internal(atoms))
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-14)
        assert_close(found[1], expected[1], 1e-12)
        assert_close(found[2], expected[2].reshape(3, 3), 1e-12)
        assert found[3] == ""
        assert all(array.dtype == np.float64 for array in found[1:3])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("mixed", 1e-5)])
def test_a_batch_of_32_beads_equals_single_calls_and_searches_neighbours_once(driver, crystal, dtype, tolerance):
    batched, single = driver(dtype=dtype), driver(dtype=dtype)
    cells, positions = map(list, zip(*(internal(atoms) for atoms in moved(crystal, 32)), strict=True))
    for found, cell, pos in zip(batched.compute(cells, positions), cells, positions, strict=True):
        expected = single(cell, pos)
        np.testing.assert_allclose(found[0], expected[0], rtol=0.1 * tolerance)
        assert_close(found[1], expected[1], tolerance)
        assert_close(found[2], expected[2], tolerance)
    assert batched.beads.n_builds == 1


def test_padding_of_a_batch_is_computed_once_and_has_its_own_memory(driver, crystal):
    one, other = (internal(atoms) for atoms in moved(crystal, 2))
    pes = driver(atomic_energies=True)
    sizes = []
    compute_batch = pes.model.compute_batch
    pes.model.compute_batch = lambda group, species: (sizes.append(len(group.members)), compute_batch(group, species))[
        1
    ]
    results = pes.compute([one[0]] * 5, [one[1]] + [other[1]] * 4)
    assert sizes == [2] and len(results) == 5
    results[3][2][:] = 0.0
    for index in (2, 4):
        assert results[index][0] == results[1][0] and results[index][3] == results[1][3]
        np.testing.assert_array_equal(results[index][2], results[1][2])


def test_different_cells_in_one_batch_equal_single_calls(driver, crystal):
    structures = moved(crystal, 6)
    for index, atoms in enumerate(structures):
        atoms.set_cell(atoms.cell[:] * (1.0 + 0.01 * (index % 3)), scale_atoms=True)
    cells, positions = map(list, zip(*(internal(atoms) for atoms in structures), strict=True))
    pes = driver()
    for found, cell, pos in zip(pes.compute(cells, positions), cells, positions, strict=True):
        expected = driver()(cell, pos)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-13)
        assert_close(found[2], expected[2], 1e-12)


def test_memory_of_ipi_is_not_kept_nor_changed(driver, crystal):
    pes = driver()
    cells, positions = map(list, zip(*(internal(atoms) for atoms in moved(crystal, 2)), strict=True))
    before = [array.copy() for array in cells + positions]
    first = pes.compute(cells, positions)
    np.testing.assert_array_equal(np.stack(cells + positions[:0]), np.stack(before[:2]))
    np.testing.assert_array_equal(np.stack(positions), np.stack(before[2:]))
    forces = first[0][1].copy()
    for array in cells + positions:
        array[:] = 1e9
    np.testing.assert_array_equal(first[0][1], forces)
    np.testing.assert_array_equal(pes.compute(before[:2], before[2:])[0][1], forces)


def test_a_molecule_has_the_virial_of_itself_in_a_large_periodic_cell(tmp_path, write_random_model, driver):
    write_random_model(tmp_path / "random.pt", ["C", "H", "O"], scale=1.0)
    atoms = molecule("CH3CH2OH", cell=[30, 31, 32])
    ase.io.write("init.xyz", atoms, format="extxyz")
    open_, periodic = (
        driver(template="init.xyz", pbc=pbc).compute_structure(*internal(atoms)) for pbc in ("FFF", "TTT")
    )
    assert np.abs(open_[2]).max() > 1e-4
    for found, expected in zip(open_[:3], periodic[:3], strict=True):
        assert_close(found, expected, 1e-12)
    nonsense = driver(template="init.xyz", pbc="FFF").compute_structure(np.zeros((3, 3)), internal(atoms)[1])
    assert_close(nonsense[2], open_[2], 1e-12)


def test_atomic_energies_are_json_that_sums_to_the_potential(driver, crystal):
    potential, _, _, extras = driver(atomic_energies=True).compute_structure(*internal(crystal))
    assert sum(json.loads(extras)["atomic_energies"]) == pytest.approx(potential, rel=1e-14)
    assert list(json.loads(extras)) == ["atomic_energies"]


@pytest.mark.parametrize(
    ("name", "comment", "option", "expected", "assumed"),
    [
        ("ipi.xyz", "# CELL(abcABC): 9 9 9 90 90 90 positions{angstrom} cell{angstrom}", None, "TTT", True),
        ("plain.xyz", "a comment", None, "TTT", True),
        ("plain.xyz", "a comment", "FFF", "FFF", False),
        ("extended.xyz", 'Lattice="9 0 0 0 9 0 0 0 9"', None, "TTT", False),
        ("slab.extxyz", 'Lattice="9 0 0 0 9 0 0 0 9" pbc="T T F"', None, "TTF", False),
        ("slab.extxyz", 'Lattice="9 0 0 0 9 0 0 0 9" pbc="T T F"', "ftt", "FTT", False),
        ("molecule.extxyz", 'pbc="F F F"', None, "FFF", False),
    ],
)
def test_periodicity_of_the_template(driver, tmp_path, capsys, name, comment, option, expected, assumed):
    (tmp_path / name).write_text(f"2\n{comment}\nO 0 0 0\nSi 1.5 0 0\n")
    pes = driver(template=name, pbc=option)
    assert "".join("FT"[int(periodic)] for periodic in pes.pbc) == expected
    output = capsys.readouterr().out
    assert f"{name}, 2 atoms OSi, pbc {expected}" in output and "random.pt, " in output
    assert ("(assumed: " in output) == assumed


def test_periodicity_of_a_trajectory_file_is_taken_literally(driver, tmp_path):
    ase.io.write("molecule.traj", [Atoms("SiO", [[0, 0, 0], [0, 0, 1.5]])] * 2)
    assert not driver(template="molecule.traj").pbc.any()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"template": None}, TypeError, "needs model=FILE,template=FILE; all other options have names"),
        ({"template": "no.xyz"}, FileNotFoundError, "template no.xyz: no such file"),
        ({"template": "random.pt"}, ValueError, "template random.pt: ASE cannot read it"),
        ({"template": "empty.xyz"}, ValueError, "template empty.xyz: there are no atoms in it"),
        ({"template": "heavy.xyz"}, ValueError, "template heavy.xyz: ASE cannot read it .KeyError: 'D'"),
        ({"template": "xenon.xyz"}, StructureError, "template xenon.xyz: atom 1 is Xe, but random.pt knows O, Si"),
        ({"model": "no.pt"}, FileNotFoundError, "no.pt: no such model file, and the shipped models are"),
        ({"dtype": "mixd"}, ValueError, "dtype must be one of .* got 'mixd'; did you mean 'mixed'"),
        ({"device": "gpu"}, ValueError, "device 'gpu' is unknown: choose cpu, cuda or cuda:N"),
        ({"threads": 1.5}, TypeError, "threads must be a whole number or None, got 1.5"),
        ({"skin": "wide"}, TypeError, "skin must be a length in Å, got 'wide'"),
        ({"skin": -1.0}, ValueError, "skin must be a non-negative, finite length in Å, got -1.0"),
        ({"pbc": "TT"}, ValueError, "pbc must be three letters T or F such as TTT or FFF, got 'TT'"),
        ({"atomic_energies": "yes"}, TypeError, "atomic_energies must be true or false, got 'yes'"),
        ({"skn": 1.0}, TypeError, "the i-PI driver has no keyword 'skn'; did you mean 'skin'"),
    ],
)
def test_options_that_cannot_be_used(driver, tmp_path, options, kind, message):
    (tmp_path / "empty.xyz").write_text("0\n\n")
    (tmp_path / "heavy.xyz").write_text("1\n\nD 0 0 0\n")
    (tmp_path / "xenon.xyz").write_text("2\n\nO 0 0 0\nXe 2 0 0\n")
    with pytest.raises(kind, match=message):
        driver(**options)


def test_a_third_nameless_option_is_refused(driver):
    from tesseral.calculator.ipi_driver import TesseralDriver

    with pytest.raises(TypeError, match="all other options have names"):
        TesseralDriver("random.pt", "init.extxyz", "mixed")


def test_structures_that_cannot_be_computed(driver, crystal):
    pes = driver()
    cell, pos = internal(crystal)
    with pytest.raises(StructureError, match=r"i-PI sends 7 atoms, but the template init.extxyz has 8: use the"):
        pes(cell, pos[:7])
    broken = pos.copy()
    broken[3] = np.nan
    with pytest.raises(StructureError, match=r"^atom 3 has the position \[nan"):
        pes(cell, broken)
    with pytest.raises(StructureError, match=r"^configuration 1 of 2: atom 3 has the position"):
        pes.compute([cell] * 2, [pos, broken])
    with pytest.raises(StructureError, match="direction 0 is periodic, but its cell vector is"):
        pes(0 * cell, pos)
    with pytest.raises(ValueError, match="i-PI sends 2 cells and 1 configurations"):
        pes.compute([cell] * 2, [pos])
    pos[4] = pos[5]
    with pytest.raises(
        CalculationFailed, match=r"^random.pt: configuration 1 of 2: the energy of atom [45] is not finite"
    ):
        pes.compute([cell] * 2, [internal(crystal)[1], pos])
    with pytest.raises(CalculationFailed, match=r"^random.pt: the energy of atom [45] is not finite"):
        pes(cell, pos)


def test_ipi_loads_the_file_by_its_path_and_reads_its_names():
    from ipi.pes import load_pes, scan_pes_file

    assert scan_pes_file(DRIVER) == ("TesseralDriver", "tesseral")
    assert load_pes("custom", str(DRIVER)).__name__ == "TesseralDriver"
    del sys.modules["ipi_driver"]


def test_without_ipi_a_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipi.pes.dummy", None)
    spec = importlib.util.spec_from_file_location("ipi_driver", DRIVER)
    with pytest.raises(ImportError, match=r"pip install 'tesseral\[ipi\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_the_command_prints_the_path(monkeypatch):
    assert CliRunner().invoke(cli.app, ["ipi-driver"]).output == f"{DRIVER}\n"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(cli.app, ["ipi-driver"])
    assert result.exit_code == 1 and "pip install 'tesseral[ipi]'" in result.output
