"""Calls of the native engine on a device that are launched as one CUDA graph, and its profile."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from layered_files import random_layered, write_layered
from tesseral.kernel._engine import Engine
from test_engine_layers import CUTOFF, SPECIES, TOLERANCE, arguments, assert_equal, structures

from tesseral.benchmarks.systems import write_random_model

on_cuda = pytest.mark.parametrize("device", ["cuda"], indirect=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    local, layered = folder / "local.pt", folder / "layered.pt"
    write_random_model(local, species=SPECIES, cutoff=CUTOFF, channels=8, l_max=2)
    options = {"n_layers": 3, "message_l": 1, "message_mixing": True, "seed": 4}
    write_layered(layered, *random_layered(SPECIES, CUTOFF, **options))
    return {"local": local, "layered": layered}


@pytest.fixture
def refused(request) -> Iterator[ctypes.c_int]:
    """What the emulation refuses, see emulation_runtime.hpp."""
    if torch.cuda.is_available():
        pytest.skip("a GPU refuses nothing when told to")
    library = ctypes.CDLL(str(request.getfixturevalue("emulated_device")))
    refusal = ctypes.c_int.in_dll(library, "tesseral_emulation_refuses")
    yield refusal
    refusal.value = 0


def moved(atoms: Atoms, seed: int) -> np.ndarray:
    return atoms.positions + np.random.default_rng(seed).normal(0, 0.05, atoms.positions.shape)


@on_cuda
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", ["local", "layered"])
def test_repeated_calls_are_one_launch_and_see_moved_atoms(kind, dtype, models, device):
    engine, plain = (Engine(str(models[kind]), dtype, device=device) for _ in range(2))
    atoms = molecule("CH3CH2OH")
    _, *system = arguments(atoms)
    for seed in range(4):
        positions = moved(atoms, seed)
        results = engine.compute(positions, *system, list=1)
        assert_equal(results, plain.compute(positions, *system), TOLERANCE[dtype])
        assert engine.graph_use == (max(0, seed), "")  # from the second call on
    assert plain.graph_use == (0, "")


@on_cuda
def test_another_list_other_sizes_and_other_results_are_launched_anew(models, device):
    engine, plain = (Engine(str(models["layered"]), "float64", device=device) for _ in range(2))
    small, large = molecule("CH3CH2OH"), structures()["small cell"]
    n_graphs = 0

    def compute(atoms: Atoms, number: int, by_graph: bool, by_neighbor: bool = False, by_atom: bool = True) -> None:
        nonlocal n_graphs
        n_graphs += by_graph
        positions, *system = arguments(atoms)
        further, wanted = (np.zeros((len(atoms), 3, 3)) if by_neighbor else None for _ in range(2))
        results = engine.compute(positions, *system, neighbor_virials=further, atom_virials=by_atom, list=number)
        assert_equal(results, plain.compute(positions, *system, neighbor_virials=wanted, atom_virials=by_atom), 1e-12)
        if by_neighbor:
            assert_equal([further], [wanted], 1e-12)
        assert engine.graph_use == (n_graphs, "")

    compute(small, 1, by_graph=False)
    compute(small, 1, by_graph=True)
    compute(large, 2, by_graph=False)  # arrays grow
    compute(small, 1, by_graph=False)
    compute(small, 1, by_graph=True)
    compute(small, 1, by_graph=False, by_neighbor=True)
    compute(small, 1, by_graph=True, by_neighbor=True)
    compute(small, 1, by_graph=True, by_neighbor=True)
    compute(small, 1, by_graph=False, by_atom=False)
    compute(small, 1, by_graph=True, by_atom=False)
    small.symbols[0] = "O"
    compute(small, 3, by_graph=False)
    compute(small, 3, by_graph=True)
    compute(small, 0, by_graph=False)  # no number: the list may be another one each time
    compute(small, 0, by_graph=False)
    compute(Atoms(), 4, by_graph=False)
    compute(Atoms(), 4, by_graph=False)
    compute(large, 5, by_graph=False)
    compute(large, 5, by_graph=True)


@on_cuda
def test_calls_with_an_exchange_or_a_failure_before_are_not_repeated(models, device):
    class Nothing:
        def forward(self, rows):
            pass

        reverse = forward

    engine, atoms = Engine(str(models["layered"]), "float64", device=device), molecule("CH3CH2OH")
    system = arguments(atoms)
    wanted = engine.compute(*system)
    for _ in range(3):
        assert_equal(engine.compute(*system, exchange=Nothing(), list=1), wanted, 1e-12)
    assert engine.graph_use == (0, "")
    for n_graphs in (0, 1, 2):
        assert_equal(engine.compute(*system, list=1), wanted, 1e-12)
        assert engine.graph_use == (n_graphs, "")
    with pytest.raises(ValueError, match="outside"):
        engine.compute(system[0], system[1] + 9, *system[2:], list=2)
    assert_equal(engine.compute(*system, list=1), wanted, 1e-12)


@on_cuda
@pytest.mark.parametrize("kind", ["local", "layered"])
def test_faulty_atoms_are_named_in_repeated_calls(kind, models, device):
    engine = Engine(str(models[kind]), "float64", device=device)
    chain = Atoms("C4", positions=[[0, 0, 0], [4.0, 0, 0], [8.0, 0, 0], [12.0, 0, 0]])
    _, *system = arguments(chain)
    wanted, _ = (engine.compute(chain.positions, *system, list=1) for _ in range(2))
    faulty = chain.positions.copy()
    faulty[3, 0] = 8.05
    for _ in range(2):
        with pytest.raises(RuntimeError, match="energy of atom 2 is not finite"):
            engine.compute(faulty, *system, list=1)
        assert_equal(engine.compute(chain.positions, *system, list=1), wanted, 1e-12)
    assert engine.graph_use == (5, "")


@on_cuda
def test_beads_are_one_launch(models, device):
    engine, atoms = Engine(str(models["layered"]), "float64", device=device), molecule("CH3CH2OH")
    _, *system = arguments(atoms)
    for seed in range(3):
        beads = np.stack([moved(atoms, seed), moved(atoms, seed + 10)])
        batch = engine.compute_batch(beads, *system, list=1)
        for index in range(2):
            assert_equal([part[index] for part in batch], engine_alone(models, device, beads[index], system), 1e-12)
    assert engine.graph_use == (2, "")


def engine_alone(models, device, positions, system):
    return Engine(str(models["layered"]), "float64", device=device).compute(positions, *system)


@on_cuda
@pytest.mark.parametrize(
    ("what", "message"),
    [(1, "begin of a capture: operation not"), (2, "capture: operation not"), (3, "launch of a graph: out of memory")],
)
def test_results_do_not_depend_on_what_cuda_refuses(what, message, models, device, refused):
    engine, atoms = Engine(str(models["layered"]), "float64", device=device), molecule("CH3CH2OH")
    _, *system = arguments(atoms)
    refused.value = what
    for seed in range(4):
        refused.value = what if seed < 2 else 0  # it is not tried again
        wanted = engine_alone(models, device, moved(atoms, seed), system)
        assert_equal(engine.compute(moved(atoms, seed), *system, list=1), wanted, 1e-12)
    assert engine.graph_use[0] == 0 and engine.graph_use[1].startswith(message)


@on_cuda
@pytest.mark.parametrize("kind", ["local", "layered"])
def test_a_profile_names_what_the_device_does(kind, models, device):
    engine, atoms = Engine(str(models[kind]), "float64", device=device), molecule("CH3CH2OH")
    system = arguments(atoms)
    wanted = engine.compute(*system, list=1)
    engine.start_profile()
    for _ in range(3):
        assert_equal(engine.compute(*system, list=1), wanted, 1e-12)
    rows = {name: (calls, seconds) for name, calls, seconds in engine.take_profile()}
    assert engine.take_profile() == []
    assert all(calls % 3 == 0 and calls > 0 and seconds >= 0.0 for calls, seconds in rows.values())
    expected = {"edges", "density", "gradient of the density", "mixing", "product", "gradient of the product", "forces"}
    if kind == "layered":
        expected |= {"harmonics", "radial functions", "messages", "gradients of messages", "maps of rows"}
    assert expected <= set(rows) and {"copies to the device", "copies from the device", "fills"} <= set(rows)
    assert sum(seconds for _, seconds in rows.values()) > 0
    engine.compute(*system, list=1)
    engine.compute(*system, list=1)
    assert engine.graph_use[0] > 0


def test_the_processor_has_neither_graphs_nor_a_profile(models):
    engine = Engine(str(models["local"]))
    assert engine.graph_use == (0, "")
    with pytest.raises(ValueError, match="device cpu has no profile"):
        engine.start_profile()
    assert engine.take_profile() == []
