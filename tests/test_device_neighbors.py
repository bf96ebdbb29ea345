"""Neighbour lists searched on a device; without a GPU, vesin on the processor stands for vesin on the device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import CalculationFailed
from device_emulation import allow_foreign_memory
from tesseral.kernel._engine import Engine

from tesseral.calculator import TesseralCalculator, device_neighbors, evaluate, neighbor_list, vesin_library
from tesseral.calculator.device_neighbors import DeviceVerletList, verlet_list
from tesseral.calculator.native import NativeModel

SPECIES = ["H", "C", "O", "Si", "Cu"]
CUTOFF = 4.0
RESULTS = ("energies", "forces", "stress")


@pytest.fixture
def gpu(request, device: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device, on which every system is searched."""
    monkeypatch.setattr(device_neighbors, "FEWEST_ATOMS", 1)
    monkeypatch.setattr(device_neighbors, "_has_warned", False)
    if not torch.cuda.is_available():
        monkeypatch.setattr(vesin_library, "DEVICE_KIND", "VesinCPU")
        allow_foreign_memory(request.getfixturevalue("emulated_device"), True)  # vesin's pairs
    return device


pytestmark = [
    pytest.mark.parametrize("device", ["cuda"], indirect=True),
    pytest.mark.filterwarnings("error:the neighbour list is searched on the processor"),
]


@pytest.fixture(scope="module")
def model(write_random_model, tmp_path_factory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("model") / "model.pt", SPECIES)


@pytest.fixture(scope="module")
def layered(write_random_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "layered.pt"
    return write_random_model(path, SPECIES, messages={"n_layers": 2, "message_l": 1})


def rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    atoms.positions += np.random.default_rng(seed).normal(0, 0.1, atoms.positions.shape)
    return atoms


def structures() -> dict[str, Atoms]:
    random = np.random.default_rng(5)
    skewed = Atoms(
        "CO", positions=random.uniform(0, 2, (2, 3)), cell=[[2.9, 0, 0], [2.2, 3.1, 0], [-1, 0.7, 3.3]], pbc=True
    )
    many = bulk("Cu", cubic=True) * (3, 3, 2)
    many.symbols[:] = random.choice(SPECIES, len(many))
    outside = rattled(bulk("Si", cubic=True) * (2, 2, 2))
    outside.positions += random.integers(-3, 4, (len(outside), 3)) @ outside.cell.array
    chain = Atoms("C6", positions=np.arange(6)[:, None] * [[0.1, 0.2, 1.4]], cell=[0, 0, 8.4], pbc=[False, False, True])
    return {
        "molecule without a cell": molecule("CH3CH2OH"),
        "slab": rattled(fcc111("Cu", (3, 3, 4), vacuum=8.0)),
        "skewed cell smaller than the cutoff": skewed,
        "8 atoms": rattled(bulk("Si", cubic=True)),
        "many species": rattled(many),
        "atoms outside the cell": outside,
        "chain": chain,
        "alone": Atoms("O"),
        "left-handed": Atoms(
            "Si8", rattled(bulk("Si", cubic=True)).positions, cell=[[0, 5.43, 0], [5.43, 0, 0], [0, 0, 5.43]], pbc=True
        ),
    }


def assert_same_results(calculator: TesseralCalculator, expected: TesseralCalculator, atoms: Atoms) -> None:
    for each in (calculator, expected):
        each.calculate(atoms)
    assert calculator.results.keys() == expected.results.keys()
    for name in RESULTS:
        if name in expected.results:
            np.testing.assert_allclose(
                calculator.results[name], expected.results[name], rtol=0, atol=1e-9, err_msg=name
            )


@pytest.mark.parametrize("name", structures())
@pytest.mark.parametrize("skin", [0.0, 0.7])
def test_results_equal_those_of_the_processor(gpu, model, name, skin):
    calculator = TesseralCalculator(model, dtype="float64", device=gpu, skin=skin)
    assert_same_results(calculator, TesseralCalculator(model, dtype="float64", skin=skin), structures()[name])
    assert calculator._edges.n_device_builds == 1


def test_layered_models_take_the_list(gpu, layered):
    calculator = TesseralCalculator(layered, dtype="float64", device=gpu)
    expected = TesseralCalculator(layered, dtype="float64")
    for atoms in structures().values():
        assert_same_results(calculator, expected, atoms)


def test_the_list_follows_atoms_cell_and_number(gpu, model):
    """Kept within the skin and in a strained cell, searched anew beyond it and for other structures."""
    calculator, expected = (TesseralCalculator(model, dtype="float64", device=d, skin=1.0) for d in (gpu, "cpu"))
    atoms = rattled(bulk("Si", cubic=True) * (2, 2, 1))
    lists = calculator._edges
    steps = [
        (lambda: atoms.positions.__iadd__(0.02), 1),
        (lambda: atoms.set_cell(atoms.cell * 1.01, scale_atoms=True), 1),
        (lambda: atoms.positions.__setitem__(3, atoms.positions[3] + 0.9), 2),
        (lambda: atoms.positions.__setitem__(5, atoms.positions[5] + 7 * atoms.cell[0]), 3),
        (lambda: atoms.symbols.__setitem__(2, "C"), 3),
        (lambda: atoms.__delitem__(0), 4),
        (lambda: atoms.set_pbc([True, True, False]), 5),
        (lambda: atoms.set_cell(atoms.cell * 1.3, scale_atoms=True), 6),
    ]
    assert_same_results(calculator, expected, atoms)
    for change, n_builds in steps:
        change()
        assert_same_results(calculator, expected, atoms)
        assert (lists.n_builds, lists.n_device_builds) == (n_builds, n_builds)


def test_the_list_is_searched_again_after_another_use_of_the_engine(gpu, model):
    calculator, expected = (TesseralCalculator(model, dtype="float64", device=d) for d in (gpu, "cpu"))
    atoms = rattled(bulk("Si", cubic=True))
    assert_same_results(calculator, expected, atoms)
    other = molecule("CH4")
    edges = neighbor_list(other.positions, other.cell.array, False, CUTOFF)
    species = calculator.model.species_indices(other.numbers)
    calculator.model.compute(
        other.positions, species, edges.first, edges.neighbors, np.zeros((len(edges.neighbors), 3))
    )
    assert_same_results(calculator, expected, atoms)
    assert calculator._edges.n_device_builds == 2
    second = DeviceVerletList(calculator.model, 0.5)
    second.update(other.positions, other.cell.array, other.pbc)
    assert_same_results(calculator, expected, atoms)
    assert calculator._edges.n_device_builds == 3


def test_atoms_on_top_of_each_other_are_found(gpu, model):
    """vesin leaves out their pair on a GPU."""
    atoms = bulk("Si", cubic=True)
    atoms.positions[5] = atoms.positions[2] + atoms.cell[0]
    with pytest.raises(CalculationFailed, match="atoms on top of each other"):
        TesseralCalculator(model, device=gpu).calculate(atoms)


def test_small_systems_and_odd_cells_are_searched_on_the_processor(gpu, model, monkeypatch):
    native = NativeModel(model, "mixed", None, device=gpu)
    thin = Atoms("Si", cell=[0.1, 50.0, 50.0], pbc=True)
    sparse = Atoms("Si2", positions=[[0, 0, 0], [1e5, 1e5, 1e5]])
    for atoms in (thin, sparse, Atoms()):
        lists = verlet_list(native, 0.0)
        assert lists.update(atoms.positions, atoms.cell.array, atoms.pbc)[0] is not None
        assert (lists.n_builds, lists.n_device_builds) == (1, 0)
    monkeypatch.setattr(device_neighbors, "FEWEST_ATOMS", 9)
    calculator = TesseralCalculator(model, dtype="float64", device=gpu)
    for n, atoms in enumerate([bulk("Si", cubic=True), bulk("Si", cubic=True) * (2, 1, 1)]):
        assert_same_results(calculator, TesseralCalculator(model, dtype="float64"), atoms)
        assert calculator._edges.n_device_builds == n


def test_evaluate_searches_images_that_go_alone_on_the_device(gpu, model, monkeypatch):
    found = []
    search = NativeModel.search_list
    monkeypatch.setattr(
        NativeModel, "search_list", lambda self, points, *a: (found.append(len(points)), search(self, points, *a))
    )
    images = [*structures().values()]
    batches = {"batch_atoms": 30}
    results = evaluate(model, images, device=gpu, **batches)
    assert 36 in found and 8 not in found
    for result, expected in zip(results, evaluate(model, images, **batches), strict=True):
        for name in RESULTS:
            if expected[name] is not None:
                np.testing.assert_allclose(result[name], expected[name], rtol=0, atol=1e-9)


# ---- failures ----


@pytest.mark.filterwarnings("default:the neighbour list is searched on the processor")
def test_a_failed_search_goes_to_the_processor_with_one_warning(gpu, model, monkeypatch):
    monkeypatch.setattr(vesin_library, "DEVICE_KIND", "VesinUnknownDevice")
    atoms = rattled(bulk("Si", cubic=True))
    calculator, expected = (TesseralCalculator(model, dtype="float64", device=d) for d in (gpu, "cpu"))
    with pytest.warns(RuntimeWarning, match="searched on the processor .* got an unknown device") as caught:
        for step in range(3):
            atoms.positions[step] += 0.9
            assert_same_results(calculator, expected, atoms)
        assert_same_results(TesseralCalculator(model, dtype="float64", device=gpu), expected, atoms)
    assert [warning.category for warning in caught].count(RuntimeWarning) == 1
    assert calculator._edges.n_device_builds == 0
    assert calculator._edges.n_builds == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="vesin works here")
@pytest.mark.filterwarnings("default:the neighbour list is searched on the processor")
def test_the_warning_names_the_missing_library(gpu, model, monkeypatch):
    monkeypatch.setattr(vesin_library, "DEVICE_KIND", "VesinCUDA")
    with pytest.warns(RuntimeWarning, match="Failed to load lib"):
        TesseralCalculator(model, device=gpu).calculate(bulk("Si", cubic=True))


def test_cuda_libraries_are_found_in_toolkits_and_packages(device, tmp_path):
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    places = tmp_path / "toolkit/lib64/libcudart.so.12", tmp_path / "packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"
    for place in places:
        place.parent.mkdir(parents=True)
        subprocess.run(["c++", "-shared", "-x", "c++", "/dev/null", "-o", str(place)], check=True)
    script = (
        "from tesseral.calculator import vesin_library as v; v._open_cuda_libraries(); v._open_cuda_libraries();"
        "maps = open('/proc/self/maps').read(); print('/libcudart.so' in maps, '/libnvrtc.so' in maps)"
    )
    path = os.pathsep.join([str(tmp_path / "packages"), *filter(None, sys.path)])
    environment = os.environ | {"CUDA_HOME": str(tmp_path / "toolkit"), "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["True", "True"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="vesin's limit on a GPU")
@pytest.mark.filterwarnings("default:the neighbour list is searched on the processor")
def test_too_many_pairs_are_searched_on_the_processor(gpu, model, monkeypatch):
    monkeypatch.setenv("VESIN_CUDA_MAX_PAIRS_PER_POINT", "2")
    calculator, expected = (TesseralCalculator(model, dtype="float64", device=d) for d in (gpu, "cpu"))
    with pytest.warns(RuntimeWarning, match="VESIN_CUDA_MAX_PAIRS_PER_POINT"):
        assert_same_results(calculator, expected, bulk("Si", cubic=True) * (2, 2, 2))


# ---- the engine's part ----


class Pairs:
    """Pairs of a structure in the memory of the device, in random order."""

    def __init__(self, atoms: Atoms, seed: int) -> None:
        self.edges = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
        order = np.random.default_rng(seed).permutation(len(self.edges.neighbors))
        pairs = np.stack([self.edges.centers, self.edges.neighbors.astype(np.int64)], axis=1)[order]
        where = "cuda" if torch.cuda.is_available() else "cpu"
        self.pairs = torch.tensor(pairs, dtype=torch.int64, device=where)
        self.shifts = torch.tensor(self.edges.cell_shifts[order], dtype=torch.int32, device=where)
        self.cell = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)

    @property
    def arguments(self):
        return len(self.pairs), self.pairs.data_ptr(), self.shifts.data_ptr(), self.cell


def species_of(atoms: Atoms) -> np.ndarray:
    return np.array([SPECIES.index(symbol) for symbol in atoms.symbols], dtype=np.int32)


@pytest.mark.parametrize("name", structures())
def test_pairs_in_any_order_make_the_same_list(gpu, model, name):
    """Energies do not even differ by rounding, as sums over neighbours have one order."""
    atoms, species = structures()[name], species_of(structures()[name])
    engine = Engine(str(model), "float64", device=gpu)
    shuffled = []
    for seed in range(2):
        pairs = Pairs(atoms, seed)
        engine.set_list(len(atoms), *pairs.arguments)
        shuffled.append(engine.compute(atoms.positions, species, None, None, None, list=seed + 1))
    np.testing.assert_array_equal(shuffled[0][0], shuffled[1][0])
    edges = pairs.edges
    given = engine.compute(atoms.positions, species, edges.first, edges.neighbors, edges.cell_shifts @ pairs.cell)
    for found, expected in zip(shuffled[0], given, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_rows_of_hundreds_of_neighbours_are_sorted(gpu, model):
    atoms = rattled(bulk("Cu", cubic=True, a=2.0) * (3, 3, 3))
    engine = Engine(str(model), "float64", device=gpu)
    energies = []
    for seed in range(2):
        pairs = Pairs(atoms, seed)
        assert np.diff(pairs.edges.first).max() > 100
        engine.set_list(len(atoms), *pairs.arguments)
        energies.append(engine.compute(atoms.positions, species_of(atoms), None, None, None, list=seed + 1)[0])
    np.testing.assert_array_equal(*energies)


def test_faults_of_lists_on_the_device_are_named(gpu, model):
    atoms = bulk("Si", cubic=True)
    species, engine = species_of(atoms), Engine(str(model), device=gpu)
    with pytest.raises(ValueError, match="no neighbour list of 8 atoms on the device"):
        engine.compute(atoms.positions, species, None, None, None)
    with pytest.raises(RuntimeError, match="no list that was found on the device"):
        engine.set_cell(np.eye(3))
    pairs = Pairs(atoms, 0)
    engine.set_list(8, *pairs.arguments)
    with pytest.raises(ValueError, match="no neighbour list of 7 atoms on the device"):
        engine.compute(atoms.positions[1:], species[1:], None, None, None)
    with pytest.raises(ValueError, match="belong together"):
        engine.compute(atoms.positions, species, None, pairs.edges.neighbors, None)
    engine.compute(atoms.positions, species, pairs.edges.first, pairs.edges.neighbors, None)
    with pytest.raises(ValueError, match="no neighbour list of 8 atoms on the device"):  # the rows have taken its place
        engine.compute(atoms.positions, species, None, None, None)
    with pytest.raises(RuntimeError, match="a pair has an atom that does not exist"):
        engine.set_list(7, *pairs.arguments)
    with pytest.raises(ValueError, match="must not be negative, nor addresses of pairs be 0"):
        engine.set_list(8, 3, 0, 0, np.eye(3))


def test_the_processor_has_no_list_of_a_device(gpu, model):
    engine = Engine(str(model))
    for call in (
        lambda: engine.upload_points(np.zeros((1, 3)), np.eye(3)),
        lambda: engine.set_list(1, 0, 0, 0, np.eye(3)),
        lambda: engine.set_cell(np.eye(3)),
    ):
        with pytest.raises(ValueError, match="needs an engine on a device"):
            call()
    with pytest.raises(ValueError, match="there is no neighbour list, and no device that has one"):
        engine.compute(np.zeros((1, 3)), np.zeros(1, dtype=np.int32), None, None, None)
