"""Neighbour lists that many configurations of one system share, such as the beads of a path integral."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase.calculators.calculator import CalculationFailed
from numpy.typing import ArrayLike, NDArray

from tesseral.calculator.errors import StructureError
from tesseral.calculator.native import NativeModel
from tesseral.calculator.neighbors import cartesian_shifts, checked_geometry, neighbor_list, strain_since

#: A list reaches at most this many cutoffs beyond the cutoff; beads further apart get several lists.
LARGEST_SKIN = 1.0
#: At most this many lists are kept,
MOST_LISTS = 64
#: and those besides the newest have together at most this many edges, of 40 bytes each.
MOST_EDGES = 5_000_000
#: Added to the radius of a list, so that rounding does not end it (Å).
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class BeadGroup:
    """Configurations with the same cell that share a neighbour list.

    Attributes:
        n_batch: configurations in the batch.
        members: [n_members] index of each in the batch.
        positions: [n_members, n_atoms, 3] in Å; atoms may have been moved by lattice vectors.
        first, neighbors: the shared edges by center, as in NeighborList.
        shifts: [n_edges, 3] added to r_j - r_i in Å; None where no direction is periodic.
    """

    n_batch: int
    members: NDArray[np.int64]
    positions: NDArray[np.float64]
    first: NDArray[np.int64]
    neighbors: NDArray[np.int32]
    shifts: NDArray[np.float64] | None


class BeadModel(NativeModel):
    """A model file whose engine takes many configurations of one system at once."""

    def compute_batch(
        self, group: BeadGroup, species: NDArray[np.int32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Energies [n_members, n_atoms] (eV), forces [n_members, n_atoms, 3] (eV/Å), virials [n_members,
        n_atoms, 3, 3] (eV).

        Args:
            group: of :meth:`BeadList.update`.
            species: [n_atoms] of :meth:`species_indices`.

        Raises:
            CalculationFailed: an energy or a force is not finite; names the configuration and the atom.
        """
        edges = group.first, group.neighbors, group.shifts
        try:
            number = self.list_number(species, *edges, len(group.positions))
            return self._engine.compute_batch(group.positions, species, *edges, list=number)
        except RuntimeError as error:
            for member, positions in zip(group.members, group.positions, strict=True):
                try:
                    self._engine.compute(positions, species, *edges)
                except RuntimeError as single:
                    raise CalculationFailed(f"{self.path.name}: {_name(member, group.n_batch)}{single}") from single
            raise CalculationFailed(f"{self.path.name}: {error}") from error


class BeadList:
    """Neighbour lists for batches of configurations of one system, kept while atoms move little.

    A list is searched around a reference, the mean of the configurations that will share it, with the radius
    cutoff + skin + 2 s, where s is the longest way of an atom in any of them to the reference. It holds for every
    configuration whose atoms are at most u away from the reference (strained with the cell, atoms shifted by lattice
    vectors where that is shorter) with |F^-1| (cutoff + 2 u) <= radius, whichever it is and whenever it comes:
    beads that arrive one at a time find their lists again. Lists that have not been used for a while are dropped.

    Attributes:
        n_builds: how often pairs were searched.
    """

    def __init__(self, cutoff: float, skin: float, pbc: ArrayLike, *, threads: int = 1) -> None:
        """Start without lists.

        Args:
            cutoff: of the model, in Å.
            skin: how far lists reach beyond what the beads' spread needs, in Å.
            pbc: [3] or one bool, which directions are periodic.
            threads: threads of the search.

        Raises:
            ValueError: the skin is negative or not finite.
        """
        if not (math.isfinite(skin) and skin >= 0):
            raise ValueError(f"skin must be a non-negative, finite length in Å, got {skin}")
        self.cutoff, self.skin, self.threads = float(cutoff), float(skin), int(threads)
        self.pbc = np.ascontiguousarray(np.broadcast_to(np.asarray(pbc, dtype=bool), 3))
        self.n_builds = 0
        self._n_calls = 0
        self._lists: list[_SharedList] = []  # the one used last is last

    def update(self, positions: ArrayLike, cells: ArrayLike) -> list[BeadGroup]:
        """Groups that hold every configuration once, each with every pair within the cutoff.

        Args:
            positions: [n_batch, n_atoms, 3] in Å.
            cells: [n_batch, 3, 3] in Å, lattice vectors as rows.

        Raises:
            ValueError, StructureError: as :func:`neighbor_list`; names the configuration.
        """
        points = np.ascontiguousarray(positions, dtype=np.float64)
        vectors = np.ascontiguousarray(cells, dtype=np.float64)
        if points.ndim != 3 or points.shape[2] != 3 or vectors.shape != (len(points), 3, 3):
            raise ValueError(
                "positions and cells must have the shapes [n_batch, n_atoms, 3] and [n_batch, 3, 3], "
                f"got {list(points.shape)} and {list(vectors.shape)}"
            )
        self._n_calls += 1
        groups: list[BeadGroup] = []
        for members in _of_one_cell(vectors):
            cell = self._checked_cell(points, vectors, members)
            groups += self._groups(points[members], members, cell, len(points))
        self._drop_unused()
        return groups

    def _checked_cell(
        self, points: NDArray[np.float64], cells: NDArray[np.float64], members: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The members' cell; their positions are finite and their cell is usable."""
        finite = np.isfinite(points[members]).all(axis=(1, 2))
        member = members[np.argmin(finite)]
        try:
            return checked_geometry(points[member], cells[member].copy(), self.pbc)[1]
        except StructureError as error:
            raise StructureError(f"{_name(member, len(points))}{error}") from error

    def _groups(
        self, points: NDArray[np.float64], members: NDArray[np.int64], cell: NDArray[np.float64], n_batch: int
    ) -> Iterator[BeadGroup]:
        """Members of one cell with the lists they share: lists at hand where they fit, new ones otherwise."""
        near = points.copy()
        owner = np.full(len(points), -1)
        owners: list[_SharedList] = []

        def offer(shared: _SharedList, candidates: NDArray[np.int64]) -> None:
            fits, moved = shared.fitting(points[candidates], cell)
            near[candidates[fits]] = moved[fits]
            owner[candidates[fits]] = len(owners)
            owners.append(shared)

        for shared in self._lists[-1:] + self._lists[:-1]:  # most often the last again, or each in its turn
            if (owner < 0).any():
                offer(shared, np.flatnonzero(owner < 0))
        while (owner < 0).any():
            shared = self._new_list(points, int(np.argmin(owner)), cell)
            offer(shared, np.arange(len(points)))  # to all, so that few lists remain
        for index, shared in enumerate(owners):
            mine = np.flatnonzero(owner == index)
            if len(mine):
                self._lists = [other for other in self._lists if other is not shared] + [shared]
                shared.last_use = self._n_calls
                edges = shared.edges
                yield BeadGroup(n_batch, members[mine], near[mine], edges.first, edges.neighbors, shared.shifts(cell))

    def _new_list(self, points: NDArray[np.float64], leader: int, cell: NDArray[np.float64]) -> _SharedList:
        """A list around the mean of the leader and all that are near enough."""
        reach = max(0.0, LARGEST_SKIN * self.cutoff - self.skin) / 2
        moves = points - points[leader]
        moves -= _lattice_vectors(moves, cell, self.pbc)
        near = _longest(moves) <= reach
        reference = moves[near].mean(axis=0)
        spreads = _longest(moves - reference)
        if spreads[leader] > reach:  # a single configuration in the middle of the others
            reference, spreads = np.zeros_like(reference), _longest(moves)
        spread = float(spreads[near & (spreads <= reach)].max(initial=0.0))
        radius = self.cutoff + self.skin + 2 * spread + ROUNDING
        self.n_builds += 1
        return _SharedList(points[leader] + reference, cell, self.pbc, self.cutoff, radius, self.threads)

    def _drop_unused(self) -> None:
        """Keep what beads coming one at a time may need again, and memory within bounds."""
        patience = 2 * len(self._lists)
        kept: list[_SharedList] = []
        n_edges = 0
        for shared in reversed(self._lists):
            n_edges += len(shared.edges.neighbors) if kept else 0
            if len(kept) < MOST_LISTS and n_edges <= MOST_EDGES and self._n_calls - shared.last_use <= patience:
                kept.insert(0, shared)
        self._lists = kept


class _SharedList:
    """One list, with the reference it was built around."""

    def __init__(
        self,
        reference: NDArray[np.float64],
        cell: NDArray[np.float64],
        pbc: NDArray[np.bool_],
        cutoff: float,
        radius: float,
        threads: int,
    ) -> None:
        self.edges = neighbor_list(reference, cell, pbc, radius, threads=threads)
        self.last_use = 0
        self._reference, self._cell, self._pbc = reference, cell, pbc
        self._cutoff, self._radius = cutoff, radius
        self._shifts: NDArray[np.float64] | None = None
        self._shifted_cell: NDArray[np.float64] | None = None

    def fitting(
        self, points: NDArray[np.float64], cell: NDArray[np.float64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """For which configurations [n, n_atoms, 3] the list holds, and their atoms moved near the reference."""
        none = np.zeros(len(points), dtype=bool)
        strain = strain_since(self._cell, cell, self._pbc)
        if strain is None or points.shape[1:] != self._reference.shape:
            return none, points
        deformation, shrinking = strain
        allowed = (self._radius / shrinking - self._cutoff) / 2
        reference = self._reference if deformation is None else self._reference @ deformation
        moves = points - reference
        fits = _longest(moves) <= allowed
        if fits.all() or not self._pbc.any() or allowed < 0:
            return fits, points
        moves -= _lattice_vectors(moves, cell, self._pbc)
        return _longest(moves) <= allowed, reference + moves

    def shifts(self, cell: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """[n_edges, 3] in Å for a cell like the one of the list; None without periodic directions."""
        if self._pbc.any() and (self._shifted_cell is None or not np.array_equal(self._shifted_cell, cell)):
            self._shifts = cartesian_shifts(self.edges, cell, self._pbc)
            self._shifted_cell = cell
        return self._shifts


def _name(member: int, n_batch: int) -> str:
    """Which configuration an error message is about."""
    return f"configuration {member} of {n_batch}: " if n_batch > 1 else ""


def _of_one_cell(cells: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Indices of configurations with the same cell, in order of appearance."""
    members: dict[bytes, list[int]] = {}
    for index, cell in enumerate(cells):
        members.setdefault(cell.tobytes(), []).append(index)
    return [np.array(group) for group in members.values()]


def _longest(moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """The longest of the vectors [n, n_atoms, 3] of each configuration, [n]."""
    return np.sqrt(np.einsum("bij,bij->bi", moves, moves).max(axis=1, initial=0.0))


def _lattice_vectors(
    moves: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Sums of lattice vectors that, taken away, leave (nearly) the shortest moves; [n, n_atoms, 3] in Å."""
    periodic = cell[pbc]
    return np.round(moves @ np.linalg.pinv(periodic)) @ periodic
