"""The ASE calculator and batched evaluation, against ASE's own Lennard-Jones potential.

The engine is replaced by a few lines of NumPy with the engine's signature, so that what is tested here is
everything
around it: graph, elements, cells, stress, caching, errors. The engine itself is tested in test_engine.py.
"""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import CalculationFailed, InputError, PropertyNotImplementedError
from ase.calculators.lj import LennardJones
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from tesseral.calculator import StructureError, TesseralCalculator, evaluate, native
from tesseral.models.file import ModelFileError

SIGMA, EPSILON, CUTOFF = 2.1, 0.3, 5.0
SPECIES = ["Si", "O"]


class LennardJonesEngine:
    """The native engine's interface around the pair potential that ASE's LennardJones(smooth=False)
    computes."""

    cutoff = CUTOFF
    species = SPECIES
    metadata = json.dumps({"species": SPECIES})
    instruction_set = "numpy"
    n_calls = 0

    def __init__(self, path: str, dtype: str, threads: int, instruction_set: str, device: str) -> None:
        self.device = device
        self.options = (path, dtype, threads)

    def compute(self, positions, species, first, neighbors, shifts, atom_virials=True, list=0):
        assert positions.dtype == shifts.dtype == np.float64 and positions.flags.c_contiguous
        assert species.dtype == neighbors.dtype == np.int32 and first.dtype == np.int64
        assert first[0] == 0 and first[-1] == len(neighbors) == len(shifts)
        type(self).n_calls += 1
        centers = np.repeat(np.arange(len(positions)), np.diff(first))
        vectors = positions[neighbors] - positions[centers] + shifts
        squared = (vectors**2).sum(axis=1)
        if (squared < 1e-6).any():
            raise RuntimeError(f"the energy of atom {centers[np.argmin(squared)]} is not finite")
        inside = squared < CUTOFF**2
        c6 = np.where(inside, (SIGMA**2 / squared) ** 3, 0.0)
        at_cutoff = (SIGMA / CUTOFF) ** 6
        pair_energies = np.where(inside, 4 * EPSILON * (c6**2 - c6 - at_cutoff**2 + at_cutoff), 0.0)
        gradients = (-12 * EPSILON * (2 * c6**2 - c6) / squared)[:, None] * vectors
        energies, forces = np.zeros(len(positions)), np.zeros((len(positions), 3))
        virials = np.zeros((len(positions), 3, 3))
        np.add.at(energies, centers, 0.5 * pair_energies)
        np.add.at(forces, centers, gradients)
        np.add.at(forces, neighbors, -gradients)
        np.add.at(virials, centers, vectors[:, :, None] * gradients[:, None, :])
        return energies, forces, virials


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    fake = type("Engine", (LennardJonesEngine,), {"n_calls": 0})
    monkeypatch.setitem(sys.modules, "tesseral.kernel._engine", SimpleNamespace(Engine=fake))
    monkeypatch.setattr(native, "resolve_model", Path)
    monkeypatch.setattr(
        native, "read_model", lambda path: SimpleNamespace(metadata=json.loads(LennardJonesEngine.metadata))
    )
    return fake


def reference() -> LennardJones:
    return LennardJones(sigma=SIGMA, epsilon=EPSILON, rc=CUTOFF, smooth=False)


def rattled(pbc=True, repeat=(2, 1, 1), amplitude=0.1) -> Atoms:
    atoms = bulk("Si", cubic=True) * repeat
    atoms.set_cell(atoms.cell[:] @ [[1, 0.05, 0], [0, 0.95, 0.1], [0.02, 0, 1.1]], scale_atoms=True)
    atoms.rattle(amplitude, seed=11)
    atoms.numbers[::3] = 8
    atoms.pbc = pbc
    return atoms


def structures() -> list[Atoms]:
    systems = [rattled(pbc) for pbc in itertools.product([False, True], repeat=3)]
    outside = rattled()
    outside.positions += np.random.default_rng(0).integers(-4, 5, outside.positions.shape) @ outside.cell[:]
    left_handed = rattled()
    left_handed.set_cell(left_handed.cell[:][[1, 0, 2]])
    small = bulk("Si", a=3.0) * (1, 1, 1)
    dimer = Atoms("SiO", [[0, 0, 0], [0, 0, 2.5]])
    return [
        *systems,
        outside,
        left_handed,
        small,
        dimer,
        Atoms("Si"),
        Atoms("SiO", [[0, 0, 0], [0, 0, 50.0]]),
        Atoms(),
    ]


@pytest.mark.parametrize("index", range(len(structures())))
def test_results_equal_ase_lennard_jones(index):
    atoms = structures()[index]
    expected = copy.deepcopy(atoms)
    expected.calc = reference()
    atoms.calc = TesseralCalculator("model.pt")
    assert atoms.get_potential_energy() == pytest.approx(expected.get_potential_energy(), rel=1e-12, abs=1e-12)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_potential_energies(), expected.get_potential_energies(), atol=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), expected.get_forces(), atol=1e-10)
    if len(atoms) and atoms.pbc.all():
        np.testing.assert_allclose(atoms.get_stress(), expected.get_stress(), atol=1e-12)
        np.testing.assert_allclose(atoms.get_stresses(), expected.get_stresses(), atol=1e-12)


def test_per_atom_results_sum_to_the_totals():
    atoms = rattled()
    atoms.calc = TesseralCalculator("model.pt")
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), rel=1e-14)
    np.testing.assert_allclose(atoms.get_stresses().sum(axis=0), atoms.get_stress(), rtol=1e-13, atol=1e-16)


def test_stress_is_the_strain_derivative_in_voigt_order():
    atoms = rattled()
    atoms.calc = TesseralCalculator("model.pt")
    stress, volume = atoms.get_stress(), atoms.get_volume()
    for component, (row, column) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        energies = []
        for sign in (-1, 1):
            strain = np.eye(3)
            strain[row, column] += 0.5 * sign * 2e-6
            strain[column, row] += 0.5 * sign * 2e-6
            strained = atoms.copy()
            strained.set_cell(atoms.cell[:] @ strain, scale_atoms=True)
            strained.calc = atoms.calc
            energies.append(strained.get_potential_energy())
        assert (energies[1] - energies[0]) / 4e-6 / volume == pytest.approx(stress[component], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("pbc", [False, (True, True, False), (False, False, True)])
@pytest.mark.parametrize("name", ["stress", "stresses"])
def test_stress_without_a_volume_is_refused_and_energies_stay(name, pbc):
    atoms = rattled(pbc)
    atoms.calc = TesseralCalculator("model.pt")
    energy = atoms.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError, match=f"{name} needs a system periodic in three directions"):
        atoms.calc.get_property(name, atoms)
    assert "stress" not in atoms.calc.results and atoms.get_potential_energy() == energy


def test_other_properties_are_not_implemented():
    atoms = rattled()
    atoms.calc = TesseralCalculator("model.pt")
    with pytest.raises(PropertyNotImplementedError, match="dipole"):
        atoms.get_dipole_moment()


def test_atoms_are_not_changed():
    atoms = structures()[8]
    before = atoms.copy()
    atoms.calc = TesseralCalculator("model.pt")
    atoms.get_stress()
    assert atoms == before and sorted(atoms.arrays) == sorted(before.arrays) and not atoms.info


def test_nothing_is_computed_twice(engine):
    atoms = rattled()
    atoms.calc = TesseralCalculator("model.pt")
    atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(), atoms.get_stresses()
    atoms.set_initial_magnetic_moments(np.ones(len(atoms)))
    atoms.get_forces()
    assert engine.n_calls == 1
    atoms.positions[0, 0] += 0.01
    atoms.get_forces()
    assert engine.n_calls == 2


@pytest.mark.parametrize("pbc", [True, False, (True, False, True)])
def test_results_with_a_skin_equal_those_without(pbc):
    atoms = rattled(pbc)
    with_skin, without = TesseralCalculator("m.pt", skin=0.8), TesseralCalculator("m.pt", skin=0.0)
    generator = np.random.default_rng(5)
    for step in range(25):
        atoms.positions += generator.normal(0, 0.03, atoms.positions.shape)
        if step % 3 == 0:
            atoms.set_cell(atoms.cell[:] * (1 + 0.003 * generator.normal()), scale_atoms=True)
        if step == 12:
            atoms.numbers[0] = 14 if atoms.numbers[0] == 8 else 8
        one, other = (
            {key: calc.get_property(key, atoms) for key in ("energy", "forces")} for calc in (with_skin, without)
        )
        assert one["energy"] == pytest.approx(other["energy"], rel=1e-12)
        np.testing.assert_allclose(one["forces"], other["forces"], atol=1e-11)
    assert without._edges.n_builds == 25
    assert with_skin._edges.n_builds < 25


def test_cell_relaxation_reaches_the_minimum_of_ase_lennard_jones():
    relaxed = []
    for calculator in (TesseralCalculator("model.pt"), reference()):
        atoms = bulk("Si", "fcc", a=3.3, cubic=True)
        atoms.calc = calculator
        BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-6, steps=60)
        relaxed.append(atoms.get_volume())
    assert relaxed[0] == pytest.approx(relaxed[1], rel=1e-6)


def test_metadata_and_options_are_visible():
    calculator = TesseralCalculator("model.pt", dtype="float32", threads=2, skin=1)
    assert calculator.metadata["species"] == SPECIES
    assert calculator.model._engine.options == ("model.pt", "float32", 2)
    assert calculator.todict() == {
        "model": "model.pt",
        "dtype": "float32",
        "device": "cpu",
        "threads": 2,
        "skin": 1.0,
    }


def test_the_device_reaches_the_engine():
    calculator = TesseralCalculator("model.pt", device="cuda:1")
    assert calculator.model._engine.device == calculator.todict()["device"] == "cuda:1"


def test_one_thread_and_mixed_precision_are_the_default():
    assert TesseralCalculator("model.pt").model._engine.options == ("model.pt", "mixed", 1)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda calc: pickle.loads(pickle.dumps(calc))])
def test_copies_and_pickles_compute_the_same(duplicate):
    calculator = TesseralCalculator("model.pt", dtype="float64", threads=2)
    atoms = rattled()
    twin = duplicate(calculator)
    assert twin.todict() == calculator.todict()
    assert twin.get_potential_energy(atoms) == calculator.get_potential_energy(atoms)


def test_copies_of_a_relative_path_work_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.pt").touch()
    calculator = TesseralCalculator("model.pt")
    monkeypatch.chdir("/")
    assert copy.deepcopy(calculator).todict()["model"] == str(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "options, error, message",
    [
        (
            {"dtpye": "float64"},
            TypeError,
            r"no keyword 'dtpye'; did you mean 'dtype'\? \(known: dtype, device, threads",
        ),
        ({"label": "x"}, TypeError, r"no keyword 'label' \(known"),
        (
            {"dtype": "float46"},
            ValueError,
            "dtype must be one of float64, float32, mixed, got 'float46'; did you mean",
        ),
        ({"threads": 0}, ValueError, "threads must be at least 1, got 0"),
        ({"threads": 1.5}, TypeError, "threads must be a whole number or None, got 1.5"),
        ({"threads": True}, TypeError, "threads must be a whole number or None, got True"),
        ({"skin": -1.0}, ValueError, "skin must be a non-negative, finite length"),
    ],
)
def test_unusable_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        TesseralCalculator("model.pt", **options)


def test_a_file_that_the_engine_refuses_is_a_model_file_error(engine, monkeypatch):
    def refuse(self, *options: object) -> None:
        raise RuntimeError("model.pt: product_tree does not fit product")

    monkeypatch.setattr(engine, "__init__", refuse)
    with pytest.raises(ModelFileError, match=r"model.pt: product_tree does not fit product"):
        TesseralCalculator("model.pt")


def test_options_cannot_be_changed_later():
    with pytest.raises(TypeError, match=r"set\(dtype\): options are fixed; make a new calculator"):
        TesseralCalculator("model.pt").set(dtype="float64")


def unusable_structures() -> list[tuple[Atoms, str]]:
    unknown = Atoms("SiOXe", np.eye(3) * 3)
    not_a_number = rattled()
    not_a_number.positions[5, 1] = np.nan
    infinite = rattled()
    infinite.positions[2, 0] = np.inf
    flat = rattled()
    flat.cell[1] = flat.cell[0]
    missing = Atoms("Si", cell=[3, 3, 0], pbc=True)
    return [
        (unknown, "atom 2 is Xe, but model.pt knows Si, O"),
        (
            Atoms(numbers=[14, 200], positions=np.eye(3)[:2] * 3),
            "atom 1 is of atomic number 200, but model.pt knows Si, O",
        ),
        (not_a_number, r"atom 5 has the position .*nan.*: every coordinate must be finite"),
        (infinite, r"atom 2 has the position .*inf"),
        (flat, r"the cell vectors of the periodic directions \[0, 1, 2\] are linearly dependent"),
        (
            missing,
            r"direction 2 is periodic, but its cell vector is \[0.0, 0.0, 0.0\]: set the cell, or pbc\[2\]",
        ),
    ]


@pytest.mark.parametrize("index", range(len(unusable_structures())))
def test_unusable_structures_are_refused_as_input_and_value_errors(index):
    atoms, message = unusable_structures()[index]
    atoms.calc = TesseralCalculator("model.pt")
    with pytest.raises(StructureError, match=message) as caught:
        atoms.get_potential_energy()
    assert isinstance(caught.value, InputError) and isinstance(caught.value, ValueError)
    with pytest.raises(StructureError, match="image 1: " + message):
        evaluate("model.pt", [Atoms("Si"), atoms])


def test_results_that_are_not_finite_stop_the_run():
    coincident = Atoms("Si3", [[0, 0, 0], [3, 0, 0], [3, 0, 0]])
    coincident.calc = TesseralCalculator("model.pt")
    with pytest.raises(CalculationFailed, match=r"model.pt: the energy of atom 1 is not finite"):
        coincident.get_potential_energy()
    with pytest.raises(CalculationFailed, match=r"image 2: model.pt: the energy of atom 1 is not finite"):
        evaluate("model.pt", [Atoms("Si"), Atoms("Si2", np.eye(3)[:2] * 3), coincident])


@pytest.mark.parametrize("batch_atoms", [1, 20, 10_000])
def test_batched_results_equal_single_ones(engine, batch_atoms):
    images = structures()
    copies = [atoms.copy() for atoms in images]
    batched = evaluate("model.pt", iter(images), batch_atoms=batch_atoms)
    assert engine.n_calls == {1: len(images), 20: 11, 10_000: 1}[batch_atoms]
    assert images == copies
    calculator = TesseralCalculator("model.pt", skin=0.0)
    for atoms, result in zip(images, batched, strict=True):
        assert sorted(result) == ["energies", "energy", "forces", "stress"]
        assert result["energy"] == pytest.approx(calculator.get_potential_energy(atoms), rel=1e-12, abs=1e-12)
        np.testing.assert_allclose(result["forces"], calculator.get_forces(atoms), atol=1e-12)
        np.testing.assert_allclose(result["energies"], calculator.get_property("energies", atoms), atol=1e-12)
        if atoms.pbc.all():
            np.testing.assert_allclose(result["stress"], calculator.get_stress(atoms), atol=1e-14)
        else:
            assert result["stress"] is None


def test_evaluating_nothing_gives_nothing():
    assert evaluate("model.pt", []) == []


def test_importing_the_calculator_does_not_import_torch():
    script = "import sys, tesseral.calculator; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="batch_atoms must be at least 1, got 0"):
        evaluate("model.pt", [molecule("H2O")], batch_atoms=0)
