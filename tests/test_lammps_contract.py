"""ASE = LAMMPS native = LAMMPS TorchScript, on any number of ranks, also empty ones, in every unit system."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from lammps_decks import MODELS, needs_lammps

from tesseral.calculator import TesseralCalculator
from tesseral.calculator.lammps import evaluate_in_lammps

pytestmark = needs_lammps
ENERGY, FORCE, STRESS = 1e-9, 1e-9, 1e-10  # relative; eV/Å; eV/Å^3


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory, write_random_model):
    path = tmp_path_factory.mktemp("contract") / "random.pt"
    return write_random_model(path, ["O", "Si", "Cu"], scale=1.0, messages=MODELS[request.param])


def structures() -> dict[str, Atoms]:
    generator = np.random.default_rng(5)
    crystal = bulk("Si", cubic=True) * (2, 2, 2)
    crystal.numbers[::3] = 8
    crystal.rattle(0.1, seed=1)
    triclinic = bulk("Si", cubic=True) * (2, 1, 1)
    triclinic.set_cell(triclinic.cell[:] @ [[0.9, 0.05, 0], [0.2, 0.85, 0.1], [0.02, -0.3, 0.9]], scale_atoms=True)
    triclinic.numbers[1::2] = 29
    triclinic.rattle(0.15, seed=2)
    small = bulk("Si")  # cell vectors shorter than the cutoff
    small.rattle(0.1, seed=3)
    slab = fcc111("Cu", (3, 2, 4), vacuum=6.0)
    slab.numbers[::4] = 8
    slab.rattle(0.1, seed=4)
    corner = molecule("CH3CH2OH")
    corner.numbers[:] = generator.choice([8, 14, 29], len(corner))
    corner.set_cell(np.eye(3) * 40.0)
    corner.positions += 3.0  # all in one corner: most ranks have no atoms
    random = Atoms("Cu20O20", generator.uniform(0, 9, (40, 3)), cell=np.eye(3) * 9.0, pbc=True)
    far = corner[:2].copy()
    far.positions = [[2.0, 2, 2], [30.0, 30, 30]]  # no neighbours at all
    return {
        "crystal": crystal,
        "triclinic": triclinic,
        "small cell": small,
        "slab": slab,
        "molecule in a corner": corner,
        "random": random,
        "free atoms": far,
    }


def assert_equal(name: str, result: dict, atoms: Atoms, calculator: TesseralCalculator) -> None:
    calculator.calculate(atoms)
    expected = calculator.results
    np.testing.assert_allclose(result["energy"], expected["energy"], rtol=ENERGY, err_msg=name)
    np.testing.assert_allclose(result["energies"], expected["energies"], rtol=ENERGY, err_msg=name)
    np.testing.assert_allclose(result["energies"].sum(), result["energy"], rtol=ENERGY, err_msg=name)
    np.testing.assert_allclose(result["forces"], expected["forces"], rtol=0, atol=FORCE, err_msg=name)
    if "stress" in expected:
        np.testing.assert_allclose(result["stress"], expected["stress"], rtol=0, atol=STRESS, err_msg=name)
        np.testing.assert_allclose(result["stresses"], expected["stresses"], rtol=0, atol=STRESS, err_msg=name)
        np.testing.assert_allclose(result["stresses"].sum(0), result["stress"], rtol=0, atol=STRESS, err_msg=name)


def compare_all(model, **options) -> None:
    calculator = TesseralCalculator(model, dtype="float64", skin=0.0)
    cases = structures()
    results = evaluate_in_lammps(model, list(cases.values()), dtype="float64", **options)
    for (name, atoms), result in zip(cases.items(), results, strict=True):
        assert_equal(name, result, atoms, calculator)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("style", ["tesseral", "tesseral/torch"])
def test_ase_equals_lammps_on_any_number_of_ranks(model, style, ranks):
    compare_all(model, style=style, ranks=ranks)


@pytest.mark.parametrize("processors", [(4, 1, 1), (1, 2, 2), (1, 1, 4)])
def test_results_do_not_depend_on_the_processor_grid(model, processors):
    compare_all(model, ranks=4, processors=processors)


@pytest.mark.parametrize("model", ["local"], indirect=True)  # features have no units
@pytest.mark.parametrize("units", ["real", "si", "electron"])
def test_every_unit_system_gives_the_same(model, units):
    compare_all(model, units=units)


def test_threads_inside_ranks(model):
    compare_all(model, ranks=2, threads=2)


@pytest.mark.parametrize("style", ["tesseral", "tesseral/torch"])
def test_reduced_precision_is_near(model, style):
    atoms = structures()["crystal"]
    exact, mixed, single = (
        evaluate_in_lammps(model, [atoms], style=style, dtype=dtype, ranks=3)[0]
        for dtype in ("float64", "mixed", "float32")
    )
    scale = np.abs(exact["forces"]).max()
    for rough in (mixed, single):
        assert 0 < np.abs(rough["forces"] - exact["forces"]).max() < 1e-5 * scale
