"""The native engine with layered models: equal to plain PyTorch, on however many threads, copies and processes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from layered_files import ISOLATED, LayeredOracle, random_layered, write_layered
from tesseral.kernel._engine import Engine

from tesseral.calculator.neighbors import neighbor_list

SPECIES = ["H", "C", "O"]
CUTOFF = 4.5
TOLERANCE = {"float64": 1e-12, "mixed": 2e-5, "float32": 2e-5}
CASES = {
    "two layers": {},
    "message mixing": {"message_mixing": True, "channels": 37},
    "vectors in messages": {"message_l": 1, "radial_basis": "chebyshev"},
    "tensors, three layers": {"message_l": 2, "n_layers": 3, "message_mixing": True, "l_max": 3, "channels": 21},
    "three layers, linear, repulsion": {"n_layers": 3, "readout": [], "zbl": {"inner": 0.9, "outer": 1.6}},
    "spline, order 2": {"radial_basis": "spline", "nu": 2, "channels": 70, "readout": [16, 40]},
    "one of each": {"nu": 1, "l_max": 0, "n_radial": 1, "channels": 1, "features": 1, "readout": [1]},
}


def structures() -> dict[str, Atoms]:
    random = np.random.default_rng(1)
    crystal = bulk("C", "diamond", a=3.57, cubic=True) * (2, 1, 1)
    crystal.symbols[[1, 5, 9]] = "O"
    crystal.positions += random.normal(0, 0.1, crystal.positions.shape)
    isolated = Atoms("HOC", positions=[[0, 0, 0], [0, 0, 1.1], [30, 0, 0]])
    return {"molecule": molecule("CH3CH2OH"), "small cell": crystal, "isolated last atom": isolated}


def arguments(atoms: Atoms, cutoff: float = CUTOFF) -> tuple[np.ndarray, ...]:
    edges = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    species = np.array([SPECIES.index(symbol) for symbol in atoms.symbols], dtype=np.int32)
    return atoms.positions, species, edges.first, edges.neighbors, edges.cell_shifts @ atoms.cell.array


def expected(oracle: LayeredOracle, atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Energies, forces, virials by center and by neighbor."""
    positions, species, first, neighbors, shifts = arguments(atoms)
    centers = np.repeat(np.arange(len(atoms)), np.diff(first))
    vectors = positions[neighbors] - positions[centers] + shifts
    energies, g = oracle.compute(vectors, centers, neighbors, species)
    forces, by_center, by_neighbor = (
        np.zeros((len(atoms), 3)),
        np.zeros((len(atoms), 3, 3)),
        np.zeros((len(atoms), 3, 3)),
    )
    np.add.at(forces, centers, g)
    np.add.at(forces, neighbors, -g)
    products = vectors[:, :, None] * g[:, None, :]
    np.add.at(by_center, centers, products)
    np.add.at(by_neighbor, neighbors, products)
    return energies, forces, by_center, by_neighbor


def assert_equal(actual, wanted, tolerance: float) -> None:
    for a, b in zip(actual, wanted, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max(initial=0.0) <= tolerance * max(1.0, np.abs(b).max(initial=0.0))


def write(folder: Path, **options) -> Path:
    return write_layered(folder / "model.pt", *random_layered(SPECIES, CUTOFF, **options))


@pytest.fixture(scope="module")
def tensor_model(tmp_path_factory) -> Path:
    """Three layers with messages of degree 1: everything in one model."""
    return write(tmp_path_factory.mktemp("model"), n_layers=3, message_l=1, message_mixing=True, seed=4)


@pytest.mark.parametrize("case", CASES)
def test_layered_equals_plain_torch(case, tmp_path, device):
    metadata, parameters = random_layered(SPECIES, CUTOFF, **CASES[case])
    path = str(write_layered(tmp_path / "model.pt", metadata, parameters))
    oracle = LayeredOracle(metadata, parameters)
    for atoms in structures().values():
        wanted = expected(oracle, atoms)
        for dtype, tolerance in TOLERANCE.items():
            by_neighbor = np.full((len(atoms), 3, 3), np.nan)
            results = Engine(path, dtype, device=device).compute(*arguments(atoms), neighbor_virials=by_neighbor)
            assert_equal((*results, by_neighbor), wanted, tolerance)


def test_messages_matter(tensor_model, device):
    """An atom feels what is beyond its own cutoff but inside that of a neighbour."""
    engine = Engine(str(tensor_model), "float64", device=device)
    assert engine.n_layers == 3 and engine.feature_row == 4 * 16
    chain = Atoms("C3", positions=[[0, 0, 0], [3.0, 0, 0], [6.0, 0.3, 0]])
    energies = engine.compute(*arguments(chain))[0]
    chain.positions[2] += 0.3, 0.4, 0.0
    assert abs(engine.compute(*arguments(chain))[0][0] - energies[0]) > 1e-8


def test_forces_match_finite_differences(tensor_model):
    engine, atoms = Engine(str(tensor_model), "float64"), structures()["small cell"]
    forces, step = engine.compute(*arguments(atoms))[1], 1e-4
    for atom, axis in ((0, 0), (5, 1), (11, 2)):
        totals = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            totals.append(engine.compute(*arguments(moved))[0].sum())
        assert forces[atom, axis] == pytest.approx(-(totals[0] - totals[1]) / (2 * step), abs=1e-7)


def test_energy_is_invariant(tensor_model, device):
    engine, atoms = Engine(str(tensor_model), "float64", device=device), molecule("CH3CH2OH")
    energies, forces, _ = engine.compute(*arguments(atoms))
    turned = atoms.copy()
    turned.rotate(37.0, (1, 2, 3))
    turned.positions *= -1.0
    again, turned_forces, _ = engine.compute(*arguments(turned))
    np.testing.assert_allclose(again, energies, atol=1e-11)
    np.testing.assert_allclose(np.linalg.norm(turned_forces, axis=1), np.linalg.norm(forces, axis=1), atol=1e-11)


def test_isolated_atom_has_its_own_energy(tensor_model, device):
    energies = Engine(str(tensor_model), "float64", device=device).compute(*arguments(Atoms("O")))[0]
    assert energies.tolist() == pytest.approx([2 * ISOLATED + 0.25], abs=1e-14)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_instruction_sets_and_threads_agree(dtype, tensor_model):
    atoms = bulk("C", "diamond", a=3.57, cubic=True) * (2, 2, 1)
    atoms.positions += np.random.default_rng(2).normal(0, 0.1, atoms.positions.shape)
    system = arguments(atoms)
    wanted = Engine(str(tensor_model), dtype).compute(*system)
    available = ["baseline", "avx2", "avx512"]
    for name in available[: available.index(Engine(str(tensor_model)).instruction_set) + 1]:
        assert_equal(Engine(str(tensor_model), dtype, 1, name).compute(*system), wanted, TOLERANCE[dtype])
    threaded = Engine(str(tensor_model), dtype, 3)
    first = threaded.compute(*system)
    assert_equal(first, wanted, TOLERANCE[dtype])
    for a, b in zip(first, threaded.compute(*system), strict=True):
        assert np.array_equal(a, b)  # no dependence on timing


def test_working_arrays_serve_systems_of_any_order(tensor_model, device):
    """Arrays kept from a call leave no trace in the next, smaller or larger."""
    engine, systems = Engine(str(tensor_model), "float64", 2, device=device), list(structures().values())
    wanted = [Engine(str(tensor_model), "float64", 2, device=device).compute(*arguments(atoms)) for atoms in systems]
    for n in (0, 1, 2, 1, 0, 2):
        # on a device, forces are summed in no fixed order
        assert_equal(engine.compute(*arguments(systems[n])), wanted[n], 0.0 if device == "cpu" else 1e-12)


def test_edges_beyond_the_cutoff_are_ignored(tensor_model, device):
    engine, atoms = Engine(str(tensor_model), "float64", device=device), structures()["small cell"]
    assert_equal(engine.compute(*arguments(atoms, 6.5)), engine.compute(*arguments(atoms)), 1e-12)


def test_absent_atoms_do_not_take_part(tensor_model, device):
    engine, atoms = Engine(str(tensor_model), "float64", device=device), molecule("CH3CH2OH")
    positions, species, first, neighbors, shifts = arguments(atoms)
    kept = np.ones(len(atoms), dtype=bool)
    kept[[1, 4]] = False
    species = np.where(kept, species, -1).astype(np.int32)
    energies, forces, virials = engine.compute(positions, species, first, neighbors, shifts)
    for part in (energies, forces, virials):
        assert not part[~kept].any()
    assert_equal((energies[kept], forces[kept], virials[kept]), engine.compute(*arguments(atoms[kept])), 1e-12)


def test_batch_shares_one_neighbour_list(tensor_model, device):
    engine, atoms = Engine(str(tensor_model), "float64", device=device), structures()["small cell"]
    positions, *rest = arguments(atoms, CUTOFF + 1.0)
    copies = positions + np.random.default_rng(3).normal(0, 0.05, (2, *positions.shape))
    batch = engine.compute_batch(copies, *rest)
    for index, single in enumerate(copies):
        for together, alone in zip(batch, engine.compute(single, *rest), strict=True):
            # the order of sums depends on the blocks of atoms, which go across the copies
            np.testing.assert_allclose(
                together[index], alone, rtol=0, atol=(1e-14 if device == "cpu" else 1e-12) * np.abs(alone).max()
            )
    assert engine.compute_batch(copies[:0], *rest)[1].shape == (0, len(atoms), 3)


class Ranks:
    """Processes that share a system, as threads: each owns some atoms and has all others, and images, as ghosts."""

    def __init__(self, atoms: Atoms, owners: list[np.ndarray]) -> None:
        self.barrier = threading.Barrier(len(owners))
        self.rows: list[np.ndarray | None] = [None] * len(owners)
        self.atoms, self.owners = atoms, owners
        self.n_calls = {"forward": 0, "reverse": 0}
        self.ghosts = [self.ghosts_of(rank) for rank in range(len(owners))]  # (owner, its row) of each ghost

    def ghosts_of(self, rank: int) -> list[tuple[int, int]]:
        """Each edge of a center has a ghost of its own: then shifts are none."""
        home = {int(atom): (owner, row) for owner, own in enumerate(self.owners) for row, atom in enumerate(own)}
        _, _, first, neighbors, _ = arguments(self.atoms)
        return [home[int(j)] for atom in self.owners[rank] for j in neighbors[first[atom] : first[atom + 1]]]

    def local(self, rank: int) -> tuple:
        positions, species, first, neighbors, shifts = arguments(self.atoms)
        own = self.owners[rank]
        edges = np.concatenate([np.arange(first[i], first[i + 1]) for i in own] or [[]]).astype(int)
        all_atoms = np.concatenate([own, neighbors[edges]]).astype(int)
        all_positions = np.concatenate([positions[own], positions[neighbors[edges]] + shifts[edges]])
        counts = [first[i + 1] - first[i] for i in own]
        list_first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        local_neighbors = (len(own) + np.arange(len(edges))).astype(np.int32)
        return all_positions, species[all_atoms], list_first, local_neighbors, None

    def exchange(self, rank: int) -> Ranks.Exchange:
        return Ranks.Exchange(self, rank)

    class Exchange:
        def __init__(self, ranks: Ranks, rank: int) -> None:
            self.ranks, self.rank = ranks, rank

        def forward(self, rows: np.ndarray) -> None:
            self.together("forward", rows)
            n_own = len(self.ranks.owners[self.rank])
            for ghost, (owner, row) in enumerate(self.ranks.ghosts[self.rank]):
                rows[n_own + ghost] = self.ranks.rows[owner][row]
            self.ranks.barrier.wait()

        def reverse(self, rows: np.ndarray) -> None:
            self.together("reverse", rows)
            for other, ghosts in enumerate(self.ranks.ghosts):
                n_own = len(self.ranks.owners[other])
                for ghost, (owner, row) in enumerate(ghosts):
                    if owner == self.rank:
                        rows[row] += self.ranks.rows[other][n_own + ghost]
            self.ranks.barrier.wait()

        def together(self, what: str, rows: np.ndarray) -> None:
            self.ranks.rows[self.rank] = rows
            self.ranks.n_calls[what] += self.rank == 0
            self.ranks.barrier.wait(timeout=60)


@pytest.mark.parametrize("dtype", ["float64", "mixed"])
def test_ranks_with_an_exchange_equal_one_process(dtype, tensor_model, device):
    """Also with a rank that has no atoms."""
    atoms = structures()["small cell"]
    owners = [np.arange(0, 16, 2), np.arange(1, 16, 2), np.zeros(0, dtype=int)]
    ranks = Ranks(atoms, owners)

    def run(rank: int):
        return Engine(str(tensor_model), dtype, device=device).compute(
            *ranks.local(rank), exchange=ranks.exchange(rank)
        )

    with ThreadPoolExecutor(len(owners)) as pool:
        results = list(pool.map(run, range(len(owners))))
    assert ranks.n_calls == {"forward": 2, "reverse": 2}
    energies, forces, virials = np.zeros(16), np.zeros((16, 3)), np.zeros((16, 3, 3))
    for rank, (own, (e, f, v)) in enumerate(zip(owners, results, strict=True)):
        energies[own], virials[own] = e, v
        forces[own] += f[: len(own)]
        for ghost, (owner, row) in enumerate(ranks.ghosts[rank]):
            forces[owners[owner][row]] += f[len(own) + ghost]
    assert_equal(
        (energies, forces, virials),
        Engine(str(tensor_model), dtype, device=device).compute(*arguments(atoms)),
        TOLERANCE[dtype],
    )


def test_neighbors_without_features_are_refused(tensor_model, device):
    engine = Engine(str(tensor_model), "float64", device=device)
    positions, species = np.array([[0.0, 0, 0], [0, 0, 1.2]]), np.array([1, 2], np.int32)
    first, neighbors = np.array([0, 1]), np.array([1], np.int32)
    with pytest.raises(ValueError, match="neighbor 0 of atom 0 is atom 1, which is not one of the 1 centers"):
        engine.compute(positions, species, first, neighbors, None)
    absent = np.array([1, -1], np.int32)
    energies, forces, _ = engine.compute(positions, absent, first, neighbors, None)
    assert energies.tolist() == pytest.approx([ISOLATED + 0.25]) and not forces.any()
    assert engine.compute(positions, species, np.array([0, 0]), neighbors[:0], None)[0].tolist() == pytest.approx(
        [ISOLATED + 0.25]
    )
    with pytest.raises(ValueError, match="neighbor_virials has length 1, expected 2"):
        engine.compute(positions, absent, first, neighbors, None, neighbor_virials=np.zeros((1, 3, 3)))


def test_errors_of_an_exchange_come_through(tensor_model, device):
    class Broken:
        def forward(self, rows):
            raise ArithmeticError("the line is cut")

    with pytest.raises(ArithmeticError, match="the line is cut"):
        Engine(str(tensor_model), "float64", device=device).compute(*arguments(Atoms("O")), exchange=Broken())


def test_faulty_atoms_are_named_after_all_exchanges(tensor_model, device):
    """Not those that a message makes faulty; and no process is left waiting."""
    calls = []

    class Counting:
        def forward(self, rows):
            calls.append("forward")

        def reverse(self, rows):
            calls.append("reverse")

    engine = Engine(str(tensor_model), "float64", device=device)
    chain = Atoms("C4", positions=[[0, 0, 0], [4.0, 0, 0], [8.0, 0, 0], [8.05, 0, 0]])
    with pytest.raises(RuntimeError, match="energy of atom 2 is not finite"):
        engine.compute(*arguments(chain), exchange=Counting())
    assert calls == ["forward", "forward", "reverse", "reverse"]
    system = list(arguments(chain))
    system[0] = np.where(np.arange(4)[:, None] == 3, np.nan, system[0])
    with pytest.raises(RuntimeError, match="not finite"):
        engine.compute(*system)
    chain.positions[3, 0] = 12.0
    assert np.isfinite(engine.compute(*arguments(chain))[0]).all()  # nothing of the fault is left


def set_term(metadata, parameters):
    parameters["layer1_terms"] = parameters["layer1_terms"].copy()
    parameters["layer1_terms"][0, 3] = 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, p: p.pop("layer1_message"), "parameter 'layer1_message' is missing"),
        (lambda m, p: p.pop("layer0_readout"), "parameter 'layer0_readout' is missing"),
        (lambda m, p: p.update(layer1_mixing=np.zeros((2, 16, 16))), r"'layer1_mixing' has shape \[2, 16, 16\]"),
        (lambda m, p: p.update(layer0_update=np.zeros((1, 16, 15))), r"'layer0_update' has shape \[1, 16, 15\]"),
        (lambda m, p: p.update(layer1_residual=np.zeros((3, 1, 16, 11))), "parameter 'layer1_residual' has shape"),
        (lambda m, p: p.update(layer1_couplings=p["layer1_couplings"][:-1]), "parameter 'layer1_couplings' has shape"),
        (set_term, r"layer1_terms\[0\] names component 7 of h, which has 1"),
        (lambda m, p: p.update(layer0_tree=p["layer0_tree"] + np.int32(50)), r"layer0_tree\[0\] leads outside"),
        (lambda m, p: m["architecture"].update(n_layers=4), "n_layers = 4 is outside 2..3"),
        (lambda m, p: m["architecture"].pop("message_l"), "key 'message_l' is missing"),
    ],
)
def test_inconsistent_files_are_refused(change, message, tmp_path):
    metadata, parameters = random_layered(SPECIES)
    change(metadata, parameters)
    path = write_layered(tmp_path / "changed.pt", metadata, parameters)
    with pytest.raises(RuntimeError, match=rf"changed\.pt: .*{message}"):
        Engine(str(path))
