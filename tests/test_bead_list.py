"""Neighbour lists that beads share, against a fresh list for each bead."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from tesseral.calculator import bead_list as module
from tesseral.calculator.bead_list import BeadList
from tesseral.calculator.errors import StructureError
from tesseral.calculator.neighbors import cartesian_shifts, neighbor_list

CUTOFF = 3.2
CELL = np.array([[6.0, 0, 0], [1.2, 6.5, 0], [-0.8, 0.7, 7.0]])
PERIODICITIES = [(True, True, True), (True, False, True), (False, False, False)]


def system(n_atoms: int = 25, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n_atoms, 3)) @ CELL


def beads_around(center: np.ndarray, n_beads: int, spread: float, seed: int = 1) -> np.ndarray:
    return center + spread * np.random.default_rng(seed).normal(size=(n_beads, *center.shape))


def edge_vectors(first, neighbors, shifts, positions):
    """Edge vectors within the cutoff by center, neighbor and length; they do not depend on where images lie."""
    centers = np.repeat(np.arange(len(first) - 1), np.diff(first))
    vectors = positions[neighbors] - positions[centers] + (0.0 if shifts is None else shifts)
    lengths = np.linalg.norm(vectors, axis=1)
    rows = np.column_stack([centers, neighbors, lengths, vectors])[lengths < CUTOFF]
    return rows[np.lexsort(np.round(rows, 6).T[::-1])]


def assert_equals_fresh_lists(beads: BeadList, positions: np.ndarray, cells: np.ndarray) -> int:
    """Returns the number of groups."""
    groups = beads.update(positions, cells)
    assert sorted(np.concatenate([group.members for group in groups])) == list(range(len(positions)))
    for group in groups:
        assert group.positions.flags.c_contiguous
        for member, moved in zip(group.members, group.positions, strict=True):
            fresh = neighbor_list(positions[member], cells[member], beads.pbc, CUTOFF)
            shifts = cartesian_shifts(fresh, cells[member], beads.pbc)
            expected = edge_vectors(fresh.first, fresh.neighbors, shifts, positions[member])
            found = edge_vectors(group.first, group.neighbors, group.shifts, moved)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    return len(groups)


@pytest.mark.parametrize("pbc", PERIODICITIES, ids=lambda pbc: "".join("FT"[p] for p in pbc))
def test_beads_that_move_equal_fresh_lists_with_few_searches(pbc):
    beads = BeadList(CUTOFF, 1.0, pbc)
    generator = np.random.default_rng(3)
    center = system()
    for step in range(40):
        center = center + 0.03 * generator.normal(size=center.shape)
        positions = beads_around(center, 6, 0.08, seed=step)
        assert assert_equals_fresh_lists(beads, positions, np.broadcast_to(CELL, (6, 3, 3))) == 1
    assert 1 < beads.n_builds < 12


@pytest.mark.parametrize("pbc", PERIODICITIES[:2], ids=lambda pbc: "".join("FT"[p] for p in pbc))
def test_atoms_that_are_wrapped_bead_by_bead_share_the_list(pbc):
    beads = BeadList(CUTOFF, 1.0, pbc)
    generator = np.random.default_rng(4)
    cells = np.broadcast_to(CELL, (5, 3, 3))
    positions = beads_around(system(), 5, 0.05)
    for _ in range(4):
        images = generator.integers(-3, 4, positions.shape) * np.array(pbc)
        assert assert_equals_fresh_lists(beads, positions + images @ CELL, cells) == 1
    assert beads.n_builds == 1


def test_a_cell_that_changes_keeps_the_list_while_it_may():
    beads = BeadList(CUTOFF, 1.0, True)
    positions = beads_around(system(), 4, 0.05)
    for step in range(60):
        strain = np.eye(3) + 0.008 * step * np.array([[1.0, 0.3, 0], [0.3, -0.8, 0], [0, 0, -0.5]])
        strained = np.broadcast_to(CELL @ strain, (4, 3, 3))
        assert assert_equals_fresh_lists(beads, positions @ strain, strained) == 1
    assert 1 < beads.n_builds < 12


def test_different_cells_in_one_batch():
    beads = BeadList(CUTOFF, 1.0, True)
    positions = beads_around(system(), 6, 0.05)
    scales = np.array([1.0, 1.02, 1.0, 0.7, 1.02, 1.0])  # the list of the first fits the second, not the fourth
    cells = scales[:, None, None] * CELL
    assert assert_equals_fresh_lists(beads, scales[:, None, None] * positions, cells) == 3
    assert beads.n_builds == 2
    assert assert_equals_fresh_lists(beads, scales[:, None, None] * positions, cells) == 3
    assert beads.n_builds == 2


def test_a_cell_of_a_slab_that_changes_builds_a_new_list():
    beads = BeadList(CUTOFF, 1.0, (True, True, False))
    positions = beads_around(system(), 2, 0.05)
    for scale in (1.0, 1.01):
        assert_equals_fresh_lists(beads, scale * positions, np.broadcast_to(scale * CELL, (2, 3, 3)))
    assert beads.n_builds == 2


def test_the_skin_grows_to_the_spread_of_the_beads_within_bounds():
    center = system()
    cells = np.broadcast_to(CELL, (8, 3, 3))
    wide = BeadList(CUTOFF, 0.5, True)
    assert assert_equals_fresh_lists(wide, beads_around(center, 8, 0.2), cells) == 1  # up to 0.8 Å from the mean
    assert assert_equals_fresh_lists(wide, beads_around(center, 8, 0.15, seed=9), cells) == 1
    assert wide.n_builds == 1
    n_edges = len(wide.update(beads_around(center, 8, 0.2), cells)[0].neighbors)
    limit = CUTOFF * (1 + module.LARGEST_SKIN)
    assert n_edges <= len(neighbor_list(center, CELL, True, limit + 0.5).neighbors)
    far = BeadList(CUTOFF, 0.5, True)
    assert assert_equals_fresh_lists(far, beads_around(center, 8, 2.0), cells) == 8  # a list for each
    assert far.n_builds == 8


def test_replicas_far_apart_get_a_list_for_each_set_of_beads():
    beads = BeadList(CUTOFF, 1.0, True)
    cells = np.broadcast_to(CELL, (8, 3, 3))
    for step in range(5):
        one, other = (beads_around(system(seed=seed), 4, 0.05, seed=step) for seed in (0, 1))
        assert assert_equals_fresh_lists(beads, np.stack([one, other], axis=1).reshape(8, -1, 3), cells) == 2
    assert beads.n_builds == 2


def test_beads_that_come_one_at_a_time_find_their_lists_again():
    beads = BeadList(CUTOFF, 0.4, True)
    positions = beads_around(system(), 16, 0.15)
    for _ in range(4):
        for bead in positions:
            assert assert_equals_fresh_lists(beads, bead[None], CELL[None]) == 1
    assert beads.n_builds <= 16


def test_lists_out_of_use_are_dropped(monkeypatch):
    def builds_for(n_visits: int, *, between: int) -> int:
        """Searches for visits of one structure with others between them, new ones each time."""
        beads = BeadList(CUTOFF, 0.4, True)
        others = (system(seed=seed) for seed in range(1, 1000))
        for _ in range(n_visits):
            beads.update(system()[None], CELL[None])
            for _ in range(between):
                beads.update(next(others)[None], CELL[None])
        return beads.n_builds - n_visits * between

    assert builds_for(3, between=10) == 1
    monkeypatch.setattr(module, "MOST_LISTS", 10)
    assert builds_for(3, between=9) == 1
    assert builds_for(3, between=10) == 3
    monkeypatch.setattr(module, "MOST_EDGES", 0)
    assert builds_for(3, between=1) == 3

    beads = BeadList(CUTOFF, 0.4, True)
    monkeypatch.undo()
    for step in range(12):  # one structure stays, the other leaves
        beads.update(system()[None], CELL[None])
        if step == 0:
            beads.update(system(seed=1)[None], CELL[None])
    beads.update(system(seed=1)[None], CELL[None])
    assert beads.n_builds == 3


def test_another_number_of_atoms_and_none_and_an_empty_batch():
    beads = BeadList(CUTOFF, 1.0, True)
    for n_atoms in (25, 7, 1, 0, 25):
        positions = np.stack([system(n_atoms)] * 2)
        assert assert_equals_fresh_lists(beads, positions, np.broadcast_to(CELL, (2, 3, 3))) == 1
    assert beads.update(np.zeros((0, 5, 3)), np.zeros((0, 3, 3))) == []


def test_cells_smaller_than_the_cutoff():
    atoms = bulk("Si", a=3.9)
    positions = beads_around(atoms.positions, 4, 0.1)
    beads = BeadList(CUTOFF, 1.0, True)
    assert assert_equals_fresh_lists(beads, positions, np.broadcast_to(atoms.cell[:], (4, 3, 3))) == 1


def test_memory_of_the_caller_is_not_kept():
    positions, cells = beads_around(system(), 3, 0.05), np.stack([CELL] * 3)
    beads = BeadList(CUTOFF, 1.0, True)
    beads.update(positions, cells)
    before = positions.copy()
    positions[:], cells[:] = 1e3, 1e3
    assert assert_equals_fresh_lists(beads, before, np.stack([CELL] * 3)) == 1
    assert beads.n_builds == 1


def test_no_skin_is_right_too():
    beads = BeadList(CUTOFF, 0.0, True)
    for step in range(3):
        positions = beads_around(system(), 3, 0.1, seed=step)
        assert assert_equals_fresh_lists(beads, positions, np.broadcast_to(CELL, (3, 3, 3))) >= 1


def test_errors_name_the_configuration():
    positions, cells = beads_around(system(), 3, 0.05), np.stack([CELL] * 3)
    beads = BeadList(CUTOFF, 1.0, True)
    broken = positions.copy()
    broken[2, 4, 1] = np.nan
    with pytest.raises(StructureError, match=r"configuration 2 of 3: atom 4 has the position \["):
        beads.update(broken, cells)
    with pytest.raises(StructureError, match=r"^atom 4 has the position"):
        beads.update(broken[2:], cells[2:])
    flat = cells.copy()
    flat[1, 2] = 0.0
    with pytest.raises(StructureError, match="configuration 1 of 3: direction 2 is periodic, but its cell vector"):
        beads.update(positions, flat)
    with pytest.raises(ValueError, match=r"must have the shapes .* got \[3, 25, 3\] and \[2, 3, 3\]"):
        beads.update(positions, cells[:2])
    with pytest.raises(ValueError, match=r"skin must be a non-negative, finite length in Å, got -1"):
        BeadList(CUTOFF, -1, True)
