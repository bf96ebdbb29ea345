"""What the calculator owes its users whatever the model: derivatives, invariances, smoothness, extensivity.

With the native engine and a random model of two elements, in every mix of periodic directions.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from tesseral.calculator import TesseralCalculator, evaluate

CUTOFF = 4.0
PERIODICITIES = list(itertools.product([False, True], repeat=3))
NAMES = ["".join("FT"[p] for p in pbc) for pbc in PERIODICITIES]
#: relative to the largest number compared
TOLERANCE = {"float64": 1e-10, "mixed": 1e-5, "float32": 1e-5}
every_periodicity = pytest.mark.parametrize("pbc", PERIODICITIES, ids=NAMES)
every_dtype = pytest.mark.parametrize("dtype", list(TOLERANCE))


@pytest.fixture(scope="module")
def model(tmp_path_factory, write_random_model):
    return write_random_model(tmp_path_factory.mktemp("contract") / "random.pt", ["O", "Si"], scale=1.0)


def structure(pbc=True) -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.numbers[::3] = 8
    atoms.set_cell(atoms.cell[:] @ [[0.9, 0.05, 0], [0, 0.85, 0.1], [0.02, 0, 0.9]], scale_atoms=True)
    atoms.rattle(0.15, seed=4)
    atoms.pbc = pbc
    return atoms


def results(model, atoms: Atoms, dtype: str = "float64") -> dict[str, np.ndarray]:
    """Energy relative to the free atoms, forces and, where there is a volume, stress."""
    calculator = TesseralCalculator(model, dtype=dtype, skin=0.0)
    calculator.calculate(atoms)
    e0 = [calculator.metadata["e0"][symbol] for symbol in atoms.symbols]
    energies = calculator.results["energies"] - e0
    kept = {key: calculator.results[key] for key in ("forces", "stress") if key in calculator.results}
    return {"energy": energies.sum(), "energies": energies, **kept}


def assert_close(one: dict, other: dict, tolerance: float) -> None:
    assert one.keys() == other.keys()
    for key, value in other.items():
        np.testing.assert_allclose(
            one[key], value, rtol=0, atol=tolerance * max(np.abs(value).max(), 1e-2), err_msg=key
        )


def derivative(function, step: float) -> float:
    """At 0, with an error of fourth order in the step."""
    return (8 * (function(step) - function(-step)) - function(2 * step) + function(-2 * step)) / (12 * step)


@every_periodicity
def test_forces_match_finite_differences(model, pbc):
    atoms = structure(pbc)
    forces = results(model, atoms)["forces"]
    for atom, axis in itertools.product(range(len(atoms)), range(3)):

        def energy(step: float, atom: int = atom, axis: int = axis) -> float:
            moved = atoms.copy()
            moved.positions[atom, axis] += step
            return results(model, moved)["energy"]

        assert -derivative(energy, 1e-3) == pytest.approx(forces[atom, axis], abs=1e-6 * np.abs(forces).max())


def test_stress_matches_finite_differences(model):
    atoms = structure()
    stress = results(model, atoms)["stress"]
    for component, (row, column) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):

        def energy(step: float, row: int = row, column: int = column) -> float:
            strain = np.eye(3)
            strain[row, column] += 0.5 * step
            strain[column, row] += 0.5 * step
            strained = atoms.copy()
            strained.set_cell(atoms.cell[:] @ strain, scale_atoms=True)
            return results(model, strained)["energy"]

        numerical = derivative(energy, 2e-4) / atoms.get_volume()
        assert numerical == pytest.approx(stress[component], abs=1e-6 * np.abs(stress).max())


@every_dtype
@every_periodicity
def test_rotation_and_inversion_turn_forces_and_leave_energies(model, pbc, dtype):
    atoms = structure(pbc)
    expected = results(model, atoms, dtype)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    for matrix in (rotation, -rotation):
        turned = atoms.copy()
        turned.positions, turned.cell = atoms.positions @ matrix, atoms.cell[:] @ matrix
        found = results(model, turned, dtype)
        found["forces"] = found["forces"] @ matrix.T
        if "stress" in found:
            full = matrix @ found["stress"][[[0, 5, 4], [5, 1, 3], [4, 3, 2]]] @ matrix.T
            found["stress"] = full[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        assert_close(found, expected, TOLERANCE[dtype])


@every_dtype
@every_periodicity
def test_translation_and_image_wrapping_change_nothing(model, pbc, dtype):
    atoms = structure(pbc)
    generator = np.random.default_rng(2)
    moved = atoms.copy()
    moved.positions += generator.uniform(-9, 9, 3) + (generator.integers(-3, 4, (len(atoms), 3)) * pbc) @ atoms.cell[:]
    assert_close(results(model, moved, dtype), results(model, atoms, dtype), TOLERANCE[dtype])


@every_dtype
def test_permutation_permutes(model, dtype):
    atoms = structure()
    order = np.random.default_rng(3).permutation(len(atoms))
    expected = results(model, atoms, dtype)
    expected["forces"], expected["energies"] = expected["forces"][order], expected["energies"][order]
    assert_close(results(model, atoms[order], dtype), expected, TOLERANCE[dtype])


@every_dtype
def test_a_supercell_has_the_same_energy_per_atom_and_stress(model, dtype):
    atoms = structure()
    one, many = results(model, atoms, dtype), results(model, atoms * (2, 1, 3), dtype)
    assert many["energy"] == pytest.approx(6 * one["energy"], rel=TOLERANCE[dtype])
    scale = np.abs(one["stress"]).max()
    np.testing.assert_allclose(many["stress"], one["stress"], atol=TOLERANCE[dtype] * scale)


def test_distant_fragments_do_not_see_each_other(model):
    one = structure(False)
    both = one + Atoms("Si2", [[0, 0, 300.0], [0, 0, 302.3]])
    expected, found = results(model, one), results(model, both)
    np.testing.assert_allclose(found["forces"][: len(one)], expected["forces"], atol=1e-12)
    np.testing.assert_allclose(found["energies"][: len(one)], expected["energies"], atol=1e-12)


def test_an_isolated_atom_has_its_free_energy_and_no_force(model):
    calculator = TesseralCalculator(model)
    for symbol, energy in calculator.metadata["e0"].items():
        atom = Atoms(symbol)
        assert calculator.get_potential_energy(atom) == pytest.approx(energy, rel=1e-15)
        assert not calculator.get_forces(atom).any()


def test_energy_and_forces_are_smooth_at_the_cutoff(model):
    def pair(distance: float) -> dict[str, np.ndarray]:
        return results(model, Atoms("SiO", [[0, 0, 0], [0, 0, distance]]))

    inside, outside = pair(CUTOFF - 1e-3), pair(CUTOFF + 1e-12)
    assert outside["energy"] == 0.0 and not outside["forces"].any()
    assert abs(inside["energy"]) < 1e-7 and np.abs(inside["forces"]).max() < 1e-4  # third and second order in 1e-3
    slopes = [derivative(lambda x, d=d: pair(d + x)["energy"], 1e-4) for d in (CUTOFF - 1e-2, CUTOFF, CUTOFF + 1e-2)]
    assert abs(slopes[1]) < 1e-6 and slopes[2] == 0.0


@pytest.mark.parametrize("dtype", ["mixed", "float32"])
@every_periodicity
def test_lower_precisions_agree_with_float64(model, pbc, dtype):
    atoms = structure(pbc)
    assert_close(results(model, atoms, dtype), results(model, atoms), 1e-5)


@every_periodicity
def test_skin_threads_and_batches_give_the_same(model, pbc):
    atoms, expected = structure(pbc), results(model, structure(pbc))
    threaded = TesseralCalculator(model, dtype="float64", threads=2, skin=1.0)
    other = atoms.copy()
    other.rattle(0.05, seed=9)
    threaded.calculate(other)  # builds the list elsewhere
    threaded.calculate(atoms)
    assert threaded._edges.n_builds == 1
    batched = evaluate(model, [other, atoms, atoms[:0]])[1]
    np.testing.assert_allclose(threaded.results["forces"], expected["forces"], atol=1e-12)
    np.testing.assert_allclose(batched["forces"], expected["forces"], atol=1e-12)
    if "stress" in expected:
        np.testing.assert_allclose(batched["stress"], expected["stress"], atol=1e-14)
