"""The neighbour lists against ASE's, over cells, periodicities, cutoffs; Verlet lists against fresh lists."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list as ase_neighbor_list
from tesseral.kernel._engine import rows_of_pairs

from tesseral.calculator import neighbors as neighbors_module
from tesseral.calculator.errors import StructureError
from tesseral.calculator.neighbors import NeighborList, VerletList, neighbor_list

CELLS = {
    "cubic": np.eye(3) * 4.0,
    "triclinic": np.array([[4.0, 0, 0], [1.5, 3.5, 0], [-2.0, 1, 5]]),
    "left_handed": np.array([[0, 4.0, 0], [3.5, 1, 0], [0.3, 0.2, 4.5]]),
    "smaller_than_cutoff": np.array([[1.5, 0, 0], [0.7, 1.3, 0], [0.2, 0.4, 1.2]]),
    "flat": np.array([[10.0, 0, 0], [9.5, 1, 0], [0, 0, 5]]),
}
PERIODICITIES = list(itertools.product([False, True], repeat=3))


def sorted_edges(centers: np.ndarray, neighbors: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    rows = np.concatenate([centers[:, None], neighbors[:, None], shifts], axis=1).astype(int)
    return rows[np.lexsort(rows.T[::-1])]


def edges_of(edges: NeighborList) -> np.ndarray:
    return sorted_edges(edges.centers, edges.neighbors, edges.cell_shifts)


def assert_matches_ase(atoms: Atoms, cutoff: float) -> None:
    ours = neighbor_list(atoms.positions, atoms.cell[:], atoms.pbc, cutoff)
    assert np.all(np.diff(ours.centers) >= 0)
    np.testing.assert_array_equal(edges_of(ours), sorted_edges(*ase_neighbor_list("ijS", atoms, cutoff)))


def edge_vectors(first, neighbors, shifts, positions, cutoff):
    """Edge vectors within the cutoff in an order that does not depend on the list."""
    centers = np.repeat(np.arange(len(first) - 1), np.diff(first))
    vectors = positions[neighbors] - positions[centers] + shifts
    inside = np.linalg.norm(vectors, axis=1) < cutoff
    rows = np.column_stack([centers, neighbors, vectors])[inside]
    return rows[np.lexsort(np.round(rows, 6).T[::-1])]


@pytest.mark.parametrize("pbc", PERIODICITIES, ids=lambda pbc: "".join("FT"[p] for p in pbc))
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())
def test_edges_equal_ase_for_every_periodicity_and_cell(cell, pbc):
    generator = np.random.default_rng(1)
    for n_atoms, spread, cutoff in itertools.product((1, 2, 7), (1, 6), (1.0, 5.0)):
        fractional = spread * (generator.random((n_atoms, 3)) - 0.5 * (spread > 1))
        atoms = Atoms(f"H{n_atoms}", fractional @ cell, cell=cell, pbc=pbc)
        atoms.positions += 50 * ~np.array(pbc) * generator.random(3)  # far from the cell where that is allowed
        assert_matches_ase(atoms, cutoff)


@pytest.mark.parametrize("cutoff", [2.0, 5.0, 6.5])
def test_edges_equal_ase_in_rattled_silicon(cutoff):
    atoms = bulk("Si", cubic=True) * (4, 4, 4)
    atoms.rattle(0.05, seed=3)
    assert_matches_ase(atoms, cutoff)
    atoms.positions += np.random.default_rng(3).integers(-3, 4, (len(atoms), 3)) @ atoms.cell[:]
    assert_matches_ase(atoms, cutoff)


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, False), (False, True, False)])
def test_vectors_of_open_directions_may_be_zero(pbc):
    atoms = bulk("Si", cubic=True) * (2, 2, 2)
    atoms.rattle(0.1, seed=4)
    expected_atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=pbc)
    cell = np.where(np.array(pbc)[:, None], atoms.cell[:], 0.0)
    ours = neighbor_list(atoms.positions, cell, pbc, 4.0)
    np.testing.assert_array_equal(edges_of(ours), sorted_edges(*ase_neighbor_list("ijS", expected_atoms, 4.0)))


def test_a_parallel_vector_of_an_open_direction_is_ignored():
    positions = np.random.default_rng(5).random((6, 3)) * 4
    parallel = neighbor_list(positions, [[4, 0, 0], [0, 4, 0], [4, 0, 0]], [True, True, False], 3.0)
    upright = neighbor_list(positions, [[4, 0, 0], [0, 4, 0], [0, 0, 9]], [True, True, False], 3.0)
    np.testing.assert_array_equal(edges_of(parallel), edges_of(upright))


@pytest.mark.parametrize("pbc", [(True, True, False), (True, False, False), (False, False, False)])
@pytest.mark.parametrize("distance", [1e3, 1e5, 1e7])
def test_atoms_that_flew_away_in_open_directions_neither_crash_nor_interact(pbc, distance):
    away = distance * ~np.array(pbc)
    near = neighbor_list([[0, 0, 0], [1.0, 0, 0]], np.eye(3) * 20, pbc, 5.0)
    both = neighbor_list([[0, 0, 0], [1.0, 0, 0], away], np.eye(3) * 20, pbc, 5.0)
    np.testing.assert_array_equal(edges_of(both), edges_of(near))


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())
def test_tree_search_for_extreme_cells_equals_the_grid_search(cell, monkeypatch):
    positions = (np.random.default_rng(6).random((9, 3)) * 4 - 2) @ cell
    expected = edges_of(neighbor_list(positions, cell, True, 4.9))
    monkeypatch.setattr(neighbors_module, "_suits_grid", lambda extents, cutoff: False)
    np.testing.assert_array_equal(edges_of(neighbor_list(positions, cell, True, 4.9)), expected)


def test_no_atoms_and_no_edges():
    for pbc in (False, True):
        edges = neighbor_list(np.zeros((0, 3)), np.eye(3), pbc, 5.0)
        assert edges.first.tolist() == [0] and edges.neighbors.shape == (0,) and edges.cell_shifts.shape == (0, 3)
    edges = neighbor_list([[0, 0, 0], [9, 9, 9]], np.zeros((3, 3)), False, 5.0)
    assert edges.first.tolist() == [0, 0, 0] and len(edges.neighbors) == 0


def test_an_isolated_last_atom_has_an_empty_range():
    edges = neighbor_list([[0, 0, 0], [1, 0, 0], [9, 9, 9]], np.zeros((3, 3)), False, 5.0)
    assert edges.first.tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([[0, 0, 0]], np.eye(3), True, 0.0), "cutoff must be a positive, finite length in Å, got 0.0"),
        (([[0, 0, 0]], np.eye(3), True, np.nan), "cutoff must be a positive, finite length in Å, got nan"),
        (([[0, 0]], np.eye(3), True, 5.0), r"positions must have shape \[n_atoms, 3\], got \[1, 2\]"),
        (([[0, 0, 0]], np.eye(2), True, 5.0), r"cell must have shape \[3, 3\], got \[2, 2\]"),
        (([[0, 0, 0], [0, np.inf, 0]], np.eye(3), True, 5.0), r"atom 1 has the position \[0.0, inf, 0.0\]"),
        (([[0, 0, 0]], np.diag([1, np.nan, 1]), True, 5.0), r"cell vector 1 is \[0.0, nan, 0.0\]"),
        (([[0, 0, 0]], np.diag([1, 1, 0]), True, 5.0), r"direction 2 is periodic, but its cell vector is"),
        (
            ([[0, 0, 0]], [[1, 0, 0], [0, 1, 0], [1, 1, 0]], True, 5.0),
            r"directions \[0, 1, 2\] are linearly dependent",
        ),
        (
            ([[0, 0, 0]], [[1, 0, 0], [2, 0, 0], [0, 0, 1]], [1, 1, 0], 5.0),
            r"\[0, 1\] are linearly dependent",
        ),
    ],
)
def test_unusable_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        neighbor_list(*arguments)


@pytest.mark.parametrize("skin", [-0.1, np.nan, np.inf])
def test_an_unusable_skin_is_refused(skin):
    with pytest.raises(ValueError, match="skin must be a non-negative, finite length"):
        VerletList(5.0, skin)


@pytest.mark.parametrize("cells", [1, 6])  # one: the same neighbour in several images
def test_the_list_does_not_depend_on_the_number_of_threads(cells):
    atoms = bulk("Si", cubic=True) * (cells, cells, cells)
    atoms.rattle(0.05, seed=8)
    one, three = (neighbor_list(atoms.positions, atoms.cell[:], True, 5.0, threads=n) for n in (1, 3))
    for name in ("first", "neighbors", "cell_shifts"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))
    assert all(np.all(np.diff(row) >= 0) for row in np.split(one.neighbors, one.first[1:-1]))


def test_pairs_of_atoms_that_do_not_exist_are_refused():
    pairs, shifts = np.array([[0, 1], [2, 1]], dtype=np.uint64), np.zeros((2, 3), dtype=np.int32)
    with pytest.raises(ValueError, match=r"a pair has atom 2, outside 0\.\.1"):
        rows_of_pairs(2, 2, pairs.ctypes.data, shifts.ctypes.data)
    with pytest.raises(ValueError, match="nor addresses of pairs be 0"):
        rows_of_pairs(2, 2, 0, shifts.ctypes.data)
    with pytest.raises(ValueError, match="4294967296 atoms are too many"):
        rows_of_pairs(2**32, 2, pairs.ctypes.data, shifts.ctypes.data)
    first, neighbors, back = rows_of_pairs(3, 2, pairs.ctypes.data, shifts.ctypes.data)
    assert first.tolist() == [0, 1, 3, 4] and neighbors.tolist() == [1, 0, 2, 1] and not back.any()


def test_a_failure_inside_vesin_is_reported():
    from tesseral.calculator.vesin_library import periodic_rows

    with pytest.raises(RuntimeError, match=r"vesin could not build the neighbour list: .*cutoff"):
        periodic_rows(np.zeros((1, 3)), np.eye(3), -1.0, 1)


def test_a_missing_vesin_is_named(monkeypatch):
    from tesseral.calculator import vesin_library

    monkeypatch.setattr(vesin_library.importlib.util, "find_spec", lambda name: None)
    vesin_library._load.cache_clear()
    with pytest.raises(ImportError, match="pip install vesin"):
        vesin_library._load()
    monkeypatch.undo()
    vesin_library._load.cache_clear()


@pytest.mark.parametrize("pbc", [True, False, (True, True, False)], ids=["bulk", "cluster", "slab"])
def test_verlet_list_holds_every_pair_along_a_walk(pbc):
    generator = np.random.default_rng(7)
    atoms = bulk("Si", cubic=True) * (2, 2, 2)
    verlet = VerletList(4.0, 0.6)
    for _ in range(40):
        atoms.positions += generator.normal(0, 0.03, atoms.positions.shape)
        kept = verlet.update(atoms.positions, atoms.cell[:], pbc)
        fresh = VerletList(4.0, 0.0).update(atoms.positions, atoms.cell[:], pbc)
        np.testing.assert_array_equal(
            edge_vectors(*kept, atoms.positions, 4.0), edge_vectors(*fresh, atoms.positions, 4.0)
        )
    assert 1 < verlet.n_builds < 20


def test_verlet_list_holds_every_pair_while_the_cell_strains_and_shears():
    generator = np.random.default_rng(8)
    atoms = bulk("Si", cubic=True) * (2, 2, 2)
    verlet = VerletList(4.0, 0.6)
    for _ in range(60):
        strain = np.eye(3) + generator.normal(0, 0.004, (3, 3))
        atoms.set_cell(atoms.cell[:] @ strain, scale_atoms=True)
        atoms.positions += generator.normal(0, 0.01, atoms.positions.shape)
        kept = verlet.update(atoms.positions, atoms.cell[:], True)
        fresh = VerletList(4.0, 0.0).update(atoms.positions, atoms.cell[:], True)
        np.testing.assert_array_equal(
            edge_vectors(*kept, atoms.positions, 4.0), edge_vectors(*fresh, atoms.positions, 4.0)
        )
    assert 1 < verlet.n_builds < 40


def test_verlet_list_rebuilds_exactly_when_it_must():
    atoms = bulk("Si", cubic=True)
    verlet = VerletList(4.0, 1.0)

    def builds(positions, cell, pbc):
        verlet.update(positions, cell, pbc)
        return verlet.n_builds

    moved = atoms.positions.copy()
    assert builds(moved, atoms.cell[:], True) == 1
    moved[3, 0] += 0.499
    assert builds(moved, atoms.cell[:], True) == 1
    moved[3, 0] += 0.002  # beyond half of the skin since the build
    assert builds(moved, atoms.cell[:], True) == 2
    assert builds(moved, atoms.cell[:], (True, True, False)) == 3
    assert builds(moved, atoms.cell[:] * 1.001, (True, True, False)) == 4
    assert builds(moved[:7], atoms.cell[:] * 1.001, (True, True, False)) == 5
    assert builds(moved[:7], atoms.cell[:] * 1.3, True) == 6
    assert builds(moved[:7] / 1.3, atoms.cell[:], True) == 7


def test_cartesian_shifts_are_reused_only_while_the_cell_stays():
    atoms = bulk("Si", cubic=True)
    verlet = VerletList(4.0, 1.0)
    first_shifts = verlet.update(atoms.positions, atoms.cell[:], True)[2]
    assert verlet.update(atoms.positions + 0.01, atoms.cell[:], True)[2] is first_shifts
    strained = verlet.update(atoms.positions, atoms.cell[:] * 1.01, True)[2]
    assert verlet.n_builds == 1
    np.testing.assert_allclose(strained, first_shifts * 1.01, rtol=1e-14)


def test_atoms_absurdly_far_outside_the_cell_are_refused():
    """Shifts beyond 32 bits would be wrong neighbours, not an error."""
    positions = [[0.0, 0, 0], [1.3e10, 0, 0]]
    with pytest.raises(StructureError, match=r"atom 1 at .* is too many cells away: wrap the atoms"):
        neighbor_list(positions, 5.0 * np.eye(3), True, 4.0)
