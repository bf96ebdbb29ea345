"""Neighbour lists: full, sorted by center, in compressed (CSR) form.

The pairs come from vesin's cell list. Around it stands what vesin leaves open: directions that are not
periodic get a bounding cell of their own (the user's vectors there may be zero, parallel or shorter than
the system), and cells so thin or flat that vesin's grid would lose a dimension go through a k-d tree
instead.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tesseral.calculator.errors import StructureError
from tesseral.calculator.vesin_library import periodic_rows
from tesseral.kernel import _engine

#: A periodic direction thinner than this is taken as a mistake in the cell (Å).
SMALLEST_HEIGHT = 1e-3
#: Atoms lie at most this many cells outside (shifts are 32-bit integers, and digits of the distance would be lost).
MOST_CELLS = 1e8
#: vesin 0.6 reduces its grid to this many cells and divides by zero if a direction is then left with none.
VESIN_GRID_CELLS = 1e5


#: first, neighbors and shifts of a list as the engine takes them; None where the list is on the engine's device
Edges = tuple[NDArray[np.int64] | None, NDArray[np.int32] | None, NDArray[np.float64] | None]


@dataclass(frozen=True, eq=False)
class NeighborList:
    """Directed edges (center i, neighbor j), grouped by center.

    Attributes:
        first: [n_atoms + 1] int64; the edges of atom i are first[i] ... first[i + 1] - 1.
        neighbors: [n_edges] int32, index j.
        cell_shifts: [n_edges, 3] int32, S in r_ij = r_j - r_i + S @ cell.
    """

    first: NDArray[np.int64]
    neighbors: NDArray[np.int32]
    cell_shifts: NDArray[np.int32]

    @property
    def centers(self) -> NDArray[np.int64]:
        """[n_edges] index i of each edge."""
        return np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))


def neighbor_list(
    positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike, cutoff: float, *, threads: int = 1
) -> NeighborList:
    """All pairs closer than `cutoff`, each in both directions, periodic images included.

    Args:
        positions: [n_atoms, 3] in Å; atoms may lie outside the cell, and there may be none.
        cell: [3, 3] in Å, lattice vectors as rows, of either handedness. Vectors of directions that are not
            periodic are not looked at.
        pbc: [3] or one bool, which directions are periodic.
        cutoff: radius in Å.
        threads: threads of the search.

    Raises:
        ValueError: the cutoff is not positive and finite, or positions or cell are misshapen.
        StructureError: a position or cell vector is not finite, an atom is more than 10^8 cells away, or a periodic
            direction has no usable cell vector; names the atom or the vector.
    """
    if not (math.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"cutoff must be a positive, finite length in Å, got {cutoff}")
    return _search(*checked_geometry(positions, cell, pbc), cutoff, threads)


def _search(
    points: NDArray[np.float64],
    cell: NDArray[np.float64],
    periodic: NDArray[np.bool_],
    cutoff: float,
    threads: int,
) -> NeighborList:
    """:func:`neighbor_list` of a geometry that has been checked."""
    box, extents = bounding_cell(points, cell, periodic, cutoff)
    if _suits_grid(extents, cutoff):
        return NeighborList(*periodic_rows(points, box, cutoff, threads))
    return NeighborList(*_tree_rows(points, box, extents, cutoff))


def checked_geometry(
    positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Positions, cell and periodicity as contiguous float64 and bool arrays, checked.

    Raises:
        ValueError, StructureError: as :func:`neighbor_list`.
    """
    points = np.ascontiguousarray(positions, dtype=np.float64)
    vectors = np.ascontiguousarray(cell, dtype=np.float64)
    periodic = np.ascontiguousarray(np.broadcast_to(np.asarray(pbc, dtype=bool), 3))
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"positions must have shape [n_atoms, 3], got {list(points.shape)}")
    if vectors.shape != (3, 3):
        raise ValueError(f"cell must have shape [3, 3], got {list(vectors.shape)}")
    if not np.isfinite(points).all():
        atom = int(np.argmin(np.isfinite(points).all(axis=1)))
        raise StructureError(f"atom {atom} has the position {points[atom].tolist()}: every coordinate must be finite")
    _check_periodic_vectors(vectors, periodic)
    return points, vectors, periodic


def _check_periodic_vectors(cell: NDArray[np.float64], periodic: NDArray[np.bool_]) -> None:
    """Refuse a periodic direction along which the system would repeat at no distance."""
    for direction in np.flatnonzero(periodic):
        vector = cell[direction]
        if not np.isfinite(vector).all():
            raise StructureError(f"cell vector {direction} is {vector.tolist()}: every component must be finite")
        if np.linalg.norm(vector) < SMALLEST_HEIGHT:
            raise StructureError(
                f"direction {direction} is periodic, but its cell vector is {vector.tolist()}: "
                f"set the cell, or pbc[{direction}] = False"
            )
    vectors = cell[periodic]
    if len(vectors) > 1 and heights(vectors).min() < SMALLEST_HEIGHT:
        raise StructureError(
            f"the cell vectors of the periodic directions {np.flatnonzero(periodic).tolist()} are linearly "
            f"dependent: {vectors.tolist()}"
        )


def heights(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Extent of the parallelepiped perpendicular to each of its faces, [n] in Å; zero if it is flat."""
    products = vectors @ vectors.T
    if np.linalg.det(products) <= 1e-14 * products.diagonal().prod():
        return np.zeros(len(vectors))
    return 1.0 / np.sqrt(np.linalg.inv(products).diagonal())


def bounding_cell(
    positions: NDArray[np.float64], cell: NDArray[np.float64], periodic: NDArray[np.bool_], cutoff: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A cell, periodic in three directions, that has the same pairs, and its heights (of :func:`heights`).

    Open directions get empty space wider than the cutoff: the new vectors are perpendicular to the
    periodic ones, so no pair closer than the cutoff crosses them.

    Raises:
        StructureError: an atom is too many cells away.
    """
    box = cell if periodic.all() else _with_empty_space(positions, cell, periodic, cutoff)
    extents = heights(box)
    if len(positions) and np.abs(positions).max() > MOST_CELLS * extents.min():
        atom = int(np.argmax(np.abs(positions).max(axis=1)))
        raise StructureError(
            f"atom {atom} at {positions[atom].tolist()} is too many cells away: wrap the atoms into the cell"
        )
    return box, extents


def _with_empty_space(
    positions: NDArray[np.float64], cell: NDArray[np.float64], periodic: NDArray[np.bool_], cutoff: float
) -> NDArray[np.float64]:
    """The cell with vectors of its own in the open directions."""
    n_periodic = int(periodic.sum())
    complement = np.eye(3) if n_periodic == 0 else np.linalg.svd(cell[periodic])[2][n_periodic:]
    box = cell.copy()
    extent = np.ptp(positions @ complement.T, axis=0) if len(positions) else np.zeros(3 - n_periodic)
    box[~periodic] = complement * (1.001 * extent + 1.01 * cutoff)[:, None]
    return box


def _suits_grid(extents: NDArray[np.float64], cutoff: float) -> bool:
    """Whether vesin's grid of cells keeps at least one cell in each direction of a box with these heights."""
    cells = [max(1.0, extent / cutoff) for extent in extents.tolist()]
    reduction = min(1.0, (VESIN_GRID_CELLS / math.prod(cells)) ** (1 / 3))
    return reduction == 1.0 or min(cells) * reduction >= 2.0


def _tree_rows(
    positions: NDArray[np.float64], cell: NDArray[np.float64], extents: NDArray[np.float64], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """The list of :func:`periodic_rows` from a k-d tree over explicit images: slower, any shape of cell."""
    from scipy.spatial import cKDTree

    fractional = positions @ np.linalg.inv(cell)
    home = np.floor(fractional).astype(np.int32)
    fractional -= home
    reach = cutoff / extents
    atoms, shifts = [], []
    for shift in itertools.product(*(range(-n, n + 1) for n in np.ceil(reach).astype(int))):
        moved = fractional + shift
        inside = np.flatnonzero(((moved > -reach) & (moved < 1 + reach)).all(axis=1))
        atoms.append(inside)
        shifts.append(np.broadcast_to(np.array(shift, dtype=np.int32), (len(inside), 3)))
    image_atoms, image_shifts = np.concatenate(atoms), np.concatenate(shifts)
    images = cKDTree((fractional[image_atoms] + image_shifts) @ cell)
    found = cKDTree(fractional @ cell).sparse_distance_matrix(images, cutoff, output_type="ndarray")
    centers, neighbors, shift = found["i"], image_atoms[found["j"]], image_shifts[found["j"]]
    keep = ((centers != neighbors) | shift.any(axis=1)) & (found["v"] < cutoff)
    order = np.flatnonzero(keep)[np.lexsort((neighbors[keep], centers[keep]))]
    centers, neighbors = centers[order], neighbors[order].astype(np.int32)
    first = np.zeros(len(positions) + 1, dtype=np.int64)
    np.cumsum(np.bincount(centers, minlength=len(positions)), out=first[1:])
    return first, neighbors, (shift[order] - home[neighbors] + home[centers]).astype(np.int32)


class VerletList:
    """A neighbour list that stays valid while atoms move little.

    Pairs are searched within cutoff + skin and kept until one might have entered the cutoff unseen. With
    atoms moved by at most u against the (strained) old lattice and the cell strained by the matrix F, a
    pair now within the cutoff was within |F^-1| (cutoff + 2 u) before; the list is kept while that is at
    most cutoff + skin. For a fixed cell this is the usual rule u <= skin / 2. A changed cell that is not
    periodic in three directions, another periodicity or another number of atoms always rebuild. Species
    do not matter: pairs are geometry.

    Attributes:
        n_builds: how often the pairs were searched.
    """

    def __init__(self, cutoff: float, skin: float, *, threads: int = 1) -> None:
        if not (math.isfinite(skin) and skin >= 0):
            raise ValueError(f"skin must be a non-negative, finite length in Å, got {skin}")
        self.cutoff, self.skin, self.threads = float(cutoff), float(skin), int(threads)
        self.n_builds = 0
        self._build: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]] | None = None

    def update(self, positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike) -> Edges:
        """Edges that hold every pair within the cutoff (and some beyond it).

        Args:
            positions, cell, pbc: as in :func:`neighbor_list`.

        Returns:
            first [n_atoms + 1], neighbors [n_edges] and Cartesian shifts S @ cell [n_edges, 3] in Å.

        Raises:
            ValueError, StructureError: as :func:`neighbor_list`.
        """
        points, vectors, periodic = checked_geometry(positions, cell, pbc)
        if not self._still_valid(points, vectors, periodic):
            self._build = None  # a search that fails leaves no list
            self._search(points, vectors, periodic)
            self._build = points.copy(), vectors.copy(), periodic.copy()
            self._shifted_cell: NDArray[np.float64] | None = None
            self.n_builds += 1
        if self._shifted_cell is None or not np.array_equal(self._shifted_cell, vectors):
            self._shift(vectors, periodic)
            self._shifted_cell = vectors.copy()
        return self._edges()

    def _search(self, positions: NDArray[np.float64], cell: NDArray[np.float64], periodic: NDArray[np.bool_]) -> None:
        self._list = _search(positions, cell, periodic, self.cutoff + self.skin, self.threads)

    def _shift(self, cell: NDArray[np.float64], periodic: NDArray[np.bool_]) -> None:
        self._shifts = cartesian_shifts(self._list, cell, periodic)

    def _edges(self) -> Edges:
        return self._list.first, self._list.neighbors, self._shifts

    def _still_valid(
        self, positions: NDArray[np.float64], cell: NDArray[np.float64], periodic: NDArray[np.bool_]
    ) -> bool:
        if self._build is None:
            return False
        old_positions, old_cell, old_periodic = self._build
        if positions.shape != old_positions.shape or not np.array_equal(periodic, old_periodic):
            return False
        strain = strain_since(old_cell, cell, periodic)
        if strain is None:
            return False
        deformation, shrinking = strain
        moved = positions - (old_positions if deformation is None else old_positions @ deformation)
        largest = math.sqrt(np.einsum("ij,ij->i", moved, moved).max(initial=0.0))
        return shrinking * (self.cutoff + 2 * largest) <= self.cutoff + self.skin


def strain_since(
    old_cell: NDArray[np.float64], cell: NDArray[np.float64], periodic: NDArray[np.bool_]
) -> tuple[NDArray[np.float64] | None, float] | None:
    """How a cell has been deformed since a list was built.

    Args:
        old_cell, cell: [3, 3], lattice vectors as rows.
        periodic: [3], which directions are periodic.

    Returns:
        F [3, 3] with cell = old_cell @ F (None for an unchanged cell) and the spectral norm of its inverse, by which
        distances have shrunk at most; or None for a changed cell that is not periodic in three directions.
    """
    if np.array_equal(cell[periodic], old_cell[periodic]):
        return None, 1.0
    if not periodic.all():
        return None
    deformation = np.asarray(np.linalg.solve(old_cell, cell), dtype=np.float64)
    return deformation, float(np.linalg.norm(np.linalg.inv(deformation), ord=2))


def cartesian_shifts(
    edges: NeighborList, cell: NDArray[np.float64], periodic: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """S @ cell of each edge, [n_edges, 3] in Å; vectors of directions that are not periodic do not enter."""
    return _engine.cartesian_shifts(edges.cell_shifts, periodic_vectors(cell, periodic))


def periodic_vectors(cell: NDArray[np.float64], periodic: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The cell [3, 3] with zeros for the vectors of directions that are not periodic."""
    return np.where(periodic[:, None], cell, 0.0)
