"""The native engine: equal to the TorchScript program in the same file, whatever the instruction set and threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import atomic_numbers
from tesseral.kernel._engine import Engine, use_cuda_library

from tesseral.calculator.neighbors import neighbor_list
from tesseral.models.file import load_torchscript, save_model
from tesseral.models.local import LocalModel

SPECIES = ["H", "C", "O"]
TOLERANCE = {"float64": 1e-12, "mixed": 2e-5, "float32": 2e-5}
CASES = {
    "default": {},
    "repulsion": {"zbl": (0.9, 1.6)},
    "chebyshev, 37 channels, linear": {
        "radial_basis": "chebyshev",
        "l_max": 4,
        "channels": 37,
        "readout": [],
    },
    "gaussian, order 4, deep": {"radial_basis": "gaussian", "nu": 4, "l_max": 2, "readout": [16, 40, 8]},
    "spline, order 2": {"radial_basis": "spline", "nu": 2},
    "order 1, l_max 6": {"nu": 1, "l_max": 6, "n_radial": 3, "channels": 4},
    "one of each": {"nu": 1, "l_max": 0, "n_radial": 1, "channels": 1, "features": 1, "readout": [1]},
}


def write_model(path: Path, species: list[str] = SPECIES, **options) -> Path:
    sizes = {
        "l_max": 3,
        "n_radial": 8,
        "channels": 64,
        "nu": 3,
        "features": 24,
        "readout": [32],
        "radial_basis": "bessel",
    }
    sizes |= options
    if sizes["radial_basis"] == "spline":
        sizes["radial_table"] = np.random.default_rng(0).normal(size=(32, sizes["n_radial"], 4))
    e0 = {symbol: -13.0 * n for n, symbol in enumerate(species)}
    model = LocalModel(species=species, cutoff=4.5, e0=e0, shift={species[0]: 0.25}, scale=1.7, seed=3, **sizes)
    metadata = {
        "name": "test",
        "model_type": "local",
        "species": species,
        "cutoff": 4.5,
        "n_layers": 1,
        "units": {},
        "e0": e0,
        "atomic_numbers": [atomic_numbers[s] for s in species],
        "architecture": model.architecture(),
    }
    save_model(path, torch.jit.script(model), metadata, model.native_parameters())
    return path


@pytest.fixture(scope="module")
def default_model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.pt")


def structures() -> dict[str, Atoms]:
    random = np.random.default_rng(1)
    crystal = bulk("C", "diamond", a=3.57, cubic=True) * (2, 1, 1)
    crystal.symbols[[1, 5, 9]] = "O"
    crystal.positions += random.normal(0, 0.1, crystal.positions.shape)
    isolated = Atoms("HOC", positions=[[0, 0, 0], [0, 0, 1.1], [30, 0, 0]])
    return {
        "molecule": molecule("CH3CH2OH"),
        "small cell": crystal,
        "isolated last atom": isolated,
        "one": Atoms("O"),
    }


def graph(atoms: Atoms, species: list[str], cutoff: float):
    edges = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    indices = np.array([species.index(s) for s in atoms.symbols], dtype=np.int32)
    return indices, edges, edges.cell_shifts @ atoms.cell.array


def native(engine: Engine, atoms: Atoms, species: list[str], cutoff: float = 4.5, **options):
    indices, edges, shifts = graph(atoms, species, cutoff)
    return engine.compute(atoms.positions, indices, edges.first, edges.neighbors, shifts, **options)


def torchscript(path: Path, atoms: Atoms, species: list[str]):
    indices, edges, shifts = graph(atoms, species, 4.5)
    centers = edges.centers
    vectors = atoms.positions[edges.neighbors] - atoms.positions[centers] + shifts
    energies, gradients = load_torchscript(path)(
        torch.tensor(vectors).reshape(-1, 3),
        torch.tensor(centers, dtype=torch.int64),
        torch.tensor(edges.neighbors, dtype=torch.int64),
        torch.tensor(indices, dtype=torch.int64),
    )
    g = gradients.numpy()
    forces, virials = np.zeros((len(atoms), 3)), np.zeros((len(atoms), 3, 3))
    np.add.at(forces, centers, g)
    np.add.at(forces, edges.neighbors, -g)
    np.add.at(virials, centers, vectors[:, :, None] * g[:, None, :])
    return energies.numpy(), forces, virials


def assert_results_equal(actual, expected, tolerance: float) -> None:
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= tolerance * max(1.0, np.abs(b).max())


@pytest.mark.parametrize("case", CASES)
def test_native_equals_torchscript(case, device, tmp_path):
    path = write_model(tmp_path / "model.pt", **CASES[case])
    for atoms in structures().values():
        expected = torchscript(path, atoms, SPECIES)
        for dtype, tolerance in TOLERANCE.items():
            assert_results_equal(native(Engine(str(path), dtype, device=device), atoms, SPECIES), expected, tolerance)


def test_virials_are_summed_where_only_their_sum_is_wanted(default_model, device):
    atoms = bulk("C", "diamond", a=3.57, cubic=True) * (3, 2, 1)  # more than a warp's
    atoms.positions += np.random.default_rng(3).normal(0, 0.1, atoms.positions.shape)
    engine = Engine(str(default_model), "float64", threads=1 if device == "cuda" else 2, device=device)
    energies, forces, virials = native(engine, atoms, SPECIES)
    for _ in range(3):  # the last ones of a device are one launch
        results = native(engine, atoms, SPECIES, atom_virials=False, list=1)
        assert_results_equal(results, (energies, forces, virials.sum(axis=0)), 1e-12)
    nothing = native(engine, Atoms(), SPECIES, atom_virials=False)[2]
    assert nothing.tolist() == np.zeros((3, 3)).tolist()


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_instruction_sets_and_threads_agree(dtype, default_model):
    atoms = bulk("C", "diamond", a=3.57, cubic=True) * (3, 2, 2)
    atoms.positions += np.random.default_rng(2).normal(0, 0.1, atoms.positions.shape)
    expected = native(Engine(str(default_model), dtype), atoms, SPECIES)
    best = Engine(str(default_model)).instruction_set
    available = ["baseline", "avx2", "avx512"]
    for name in available[: available.index(best) + 1]:
        engine = Engine(str(default_model), dtype, 1, name)
        assert engine.instruction_set == name
        assert_results_equal(native(engine, atoms, SPECIES), expected, TOLERANCE[dtype])
    threaded = Engine(str(default_model), dtype, 3)
    first = native(threaded, atoms, SPECIES)
    assert_results_equal(first, expected, TOLERANCE[dtype])
    for a, b in zip(first, native(threaded, atoms, SPECIES), strict=True):
        assert np.array_equal(a, b)  # no dependence on timing


def test_edges_beyond_the_cutoff_are_ignored(default_model, device):
    engine = Engine(str(default_model), "float64", device=device)
    atoms = structures()["small cell"]
    assert_results_equal(native(engine, atoms, SPECIES, 6.5), native(engine, atoms, SPECIES), 1e-13)


def test_no_atoms_and_ghosts(default_model, device):
    engine = Engine(str(default_model), "float64", 2, device=device)
    empty = engine.compute(
        np.zeros((0, 3)),
        np.zeros(0, np.int32),
        np.zeros(1, np.int64),
        np.zeros(0, np.int32),
        np.zeros((0, 3)),
    )
    assert [part.shape for part in empty] == [(0,), (0, 3), (0, 3, 3)]
    # one center, its neighbour a ghost without energy: forces on both
    energies, forces, _ = engine.compute(
        np.array([[0.0, 0, 0], [0, 0, 1.2]]),
        np.array([1, 2], np.int32),
        np.array([0, 1]),
        np.array([1], np.int32),
        np.zeros((1, 3)),
    )
    assert energies.shape == (1,)
    assert np.abs(forces[0]).max() > 0 and np.array_equal(forces[0], -forces[1])


def test_batch_shares_one_neighbour_list(default_model, device):
    engine = Engine(str(default_model), "float64", device=device)
    generator = np.random.default_rng(3)
    species, first = np.array([0, 1, 2], np.int32), np.array([0, 2, 4, 5])
    neighbors, shifts = np.array([1, 2, 0, 0, 0], np.int32), np.zeros((5, 3))
    shifts[3] = 3.0, 0.0, 0.0
    positions = np.array([[0, 0, 0], [0, 0, 1.1], [1.0, 0, 0]]) + generator.normal(0, 0.1, (4, 3, 3))
    batch = engine.compute_batch(positions, species, first, neighbors, shifts)
    for index, single in enumerate(positions):
        for together, alone in zip(batch, engine.compute(single, species, first, neighbors, shifts), strict=True):
            # on a device, forces are summed in no fixed order
            np.testing.assert_allclose(together[index], alone, rtol=0, atol=0 if device == "cpu" else 1e-12)
    assert engine.compute_batch(np.zeros((0, 3, 3)), species, first, neighbors, None)[1].shape == (0, 3, 3)
    with pytest.raises(ValueError, match="species has length 3, expected 2"):
        engine.compute_batch(positions[:, :2].copy(), species, first, neighbors, shifts)


def test_input_is_checked(default_model, device):
    engine = Engine(str(default_model), device=device)
    positions, species = np.array([[0.0, 0, 0], [0, 0, 1.0]]), np.array([0, 1], np.int32)
    first, neighbors, shifts = np.array([0, 1, 2]), np.array([1, 0], np.int32), np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"species\[1\] = 3 is outside 0..2"):
        engine.compute(positions, np.array([0, 3], np.int32), first, neighbors, shifts)
    with pytest.raises(ValueError, match=r"neighbor 0 of atom 0 is 2, outside 0..1"):
        engine.compute(positions, species, first, np.array([2, 0], np.int32), shifts)
    with pytest.raises(ValueError, match="first must not decrease"):
        engine.compute(positions, species, np.array([0, 3, 2]), neighbors, shifts)
    with pytest.raises(ValueError, match="neighbors has length 2, expected 1"):
        engine.compute(positions, species, np.array([0, 0, 1]), neighbors, shifts)
    with pytest.raises(RuntimeError, match="energy of atom 0 is not finite"):
        engine.compute(np.zeros((2, 3)), species, first, neighbors, shifts)
    with pytest.raises(RuntimeError, match="not finite"):
        engine.compute(np.array([[0.0, 0, 0], [0, np.nan, 1.0]]), species, first, neighbors, shifts)


def test_a_list_is_kept_while_its_number_stays(default_model, device):
    """By a device; the processor reads it in every call."""
    engine, atoms = Engine(str(default_model), "float64", device=device), structures()["small cell"]
    indices, edges, shifts = graph(atoms, SPECIES, 4.5)
    moved = atoms.positions + np.random.default_rng(5).normal(0, 0.05, atoms.positions.shape)
    system = indices, edges.first, edges.neighbors, shifts
    wanted = [engine.compute(positions, *system) for positions in (atoms.positions, moved)]
    for positions, results in zip((atoms.positions, moved), wanted, strict=True):
        assert_results_equal(engine.compute(positions, *system, list=1), results, 1e-13)
    fewer = indices[:2], np.array([0, 1, 2]), np.array([1, 0], np.int32), None
    assert_results_equal(
        engine.compute(atoms.positions[:2], *fewer, list=2), engine.compute(atoms.positions[:2], *fewer), 1e-13
    )
    assert_results_equal(engine.compute(moved, *system, list=1), wanted[1], 1e-13)


def test_devices_that_are_not_there_are_refused(default_model, device):
    with pytest.raises(ValueError, match="device 'gpu' is unknown: choose cpu, cuda or cuda:N"):
        Engine(str(default_model), device="gpu")
    if device == "cuda":
        assert Engine(str(default_model), device="cuda:0").instruction_set == "cuda"
        with pytest.raises(ValueError, match=r"device 'cuda:999' does not exist: there are \d+, the first is cuda:0"):
            Engine(str(default_model), device="cuda:999")


def test_a_missing_or_foreign_cuda_library_is_told(default_model, tmp_path):
    try:
        use_cuda_library(str(tmp_path / "absent.so"))
        with pytest.raises(ValueError, match=r"this build of tesseral has no CUDA library: .*\n.*absent\.so"):
            Engine(str(default_model), device="cuda")
        use_cuda_library("libm.so.6")
        with pytest.raises(ValueError, match="the CUDA library belongs to another version of tesseral"):
            Engine(str(default_model), device="cuda")
    finally:
        use_cuda_library("")


def test_options_are_checked(default_model):
    with pytest.raises(ValueError, match="dtype 'double' is unknown"):
        Engine(str(default_model), "double")
    with pytest.raises(ValueError, match="threads = 0"):
        Engine(str(default_model), "mixed", 0)
    with pytest.raises(ValueError, match="instruction set 'sse9' is not available: this machine has auto, baseline"):
        Engine(str(default_model), "mixed", 1, "sse9")


def test_damaged_files_are_refused(default_model, tmp_path):
    whole = default_model.read_bytes()
    broken = tmp_path / "broken.pt"
    cases = {
        b"": "not a Tesseral model file",
        b"just some text, no archive at all": "not a Tesseral model file",
        whole[: len(whole) // 2]: "truncated or damaged",
    }
    index = whole.index(b"parameters.safetensors") + 4000
    cases[whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :]] = "checksum of parameters.safetensors"
    for content, message in cases.items():
        broken.write_bytes(content)
        with pytest.raises(RuntimeError, match=rf"broken\.pt: .*{message}"):
            Engine(str(broken))
    with pytest.raises(RuntimeError, match="cannot be opened"):
        Engine(str(tmp_path / "absent.pt"))


def test_every_truncation_is_refused(default_model, tmp_path):
    """No prefix of a file is taken for a model, and none crashes the reader."""
    whole = default_model.read_bytes()
    path = tmp_path / "short.pt"
    for size in np.random.default_rng(0).integers(0, len(whole), 40):
        path.write_bytes(whole[:size])
        with pytest.raises(RuntimeError, match=r"short\.pt"):
            Engine(str(path))


def rewrite(path: Path, target: Path, change) -> Path:
    """Copy a model file with changed metadata and parameters, as plain stored zip entries."""
    import json
    import zipfile

    import safetensors.numpy

    with zipfile.ZipFile(path) as archive:
        entries = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    metadata = json.loads(entries["extra/metadata.json"])
    parameters = safetensors.numpy.load(entries["extra/parameters.safetensors"])
    change(metadata, parameters)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model/extra/metadata.json", json.dumps(metadata))
        archive.writestr("model/extra/parameters.safetensors", safetensors.numpy.save(parameters))
    return target


def drop(key):
    return lambda metadata, parameters: parameters.pop(key)


def set_tree(metadata, parameters):
    parameters["product_tree"] = parameters["product_tree"].copy()
    parameters["product_tree"][0, 2] = 10**6


def chain_tree(metadata, parameters):
    """A product of order five, one node below the other."""
    tree = parameters["product_tree"].copy()
    tree[:, 1:] = 0
    tree[:4, 1:] = [[1, 2], [2, 3], [3, 4], [4, 5]]
    parameters.update(product_tree=tree, product_roots=np.array([0, 1], np.int32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, p: m.update(format_version=99), "format version 99 is newer"),
        (lambda m, p: m.update(format="other"), "does not say format"),
        (lambda m, p: m.pop("cutoff"), "key 'cutoff' is missing"),
        (lambda m, p: m.update(cutoff=-1.0), "cutoff must be positive"),
        (lambda m, p: m.update(model_type="other"), "model type 'other' is unknown"),
        (lambda m, p: m["architecture"].update(radial_basis="other"), "radial basis 'other' is unknown"),
        (lambda m, p: m["architecture"].update(l_max=12), "l_max = 12 is outside"),
        (drop("mixing"), "parameter 'mixing' is missing"),
        (
            lambda m, p: p.update(product=np.zeros((1, 2, 3))),
            r"parameter 'product' has shape \[1, 2, 3\], expected",
        ),
        (set_tree, r"product_tree\[0\] leads outside the tree"),
        (lambda m, p: p.update(mixing=p["mixing"][..., :0]), "parameter 'mixing' has shape"),
        (lambda m, p: p.update(readout_mlp_0_weight=np.zeros((24, 0))), "parameter 'readout_mlp_0_weight' has shape"),
        (lambda m, p: m.update(atomic_numbers=[1]), "atomic_numbers and species differ in length"),
        (lambda m, p: m.update(cutoff=float("inf")), "JSON: expected a value"),
        (lambda m, p: p.update(mixing=p["mixing"].astype(np.float16)), "tensor 'mixing' has dtype F16"),
        (chain_tree, r"product_tree\[3\] is deeper than order 4"),
    ],
)
def test_inconsistent_files_are_refused(change, message, default_model, tmp_path):
    path = rewrite(default_model, tmp_path / "changed.pt", change)
    with pytest.raises(RuntimeError, match=rf"changed\.pt: .*{message}"):
        Engine(str(path))


def test_unchanged_rewrite_is_read(default_model, tmp_path):
    """The helper of the test above writes files that are good but for the change."""
    path = rewrite(default_model, tmp_path / "same.pt", lambda metadata, parameters: None)
    atoms = molecule("CH3CH2OH")
    assert_results_equal(
        native(Engine(str(path)), atoms, SPECIES), native(Engine(str(default_model)), atoms, SPECIES), 0.0
    )


def test_calls_from_several_threads_wait_for_each_other(default_model):
    from concurrent.futures import ThreadPoolExecutor

    engine = Engine(str(default_model), "float64", 2)
    atoms = list(structures().values())
    expected = [native(engine, a, SPECIES) for a in atoms]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda n: native(engine, atoms[n % 4], SPECIES), range(80)))
    for n, result in enumerate(results):
        assert_results_equal(result, expected[n % 4], 0.0)


def test_threads_work_after_a_fork(default_model):
    script = f"""
import multiprocessing, os
import numpy as np
from tesseral.kernel._engine import Engine, use_cuda_library
engine = Engine({str(default_model)!r}, "float64", 2)
arguments = (np.zeros((1, 3)), np.zeros(1, np.int32), np.zeros(2, np.int64), np.zeros(0, np.int32), np.zeros((0, 3)))
expected = engine.compute(*arguments)[0]
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(engine.compute(*arguments)[0], expected) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
child = os.fork()
if child == 0:
    del engine  # has no threads to wait for
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
