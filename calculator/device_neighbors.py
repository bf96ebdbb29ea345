"""Neighbour lists that are searched on the engine's device and stay there."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from tesseral.calculator.native import NativeModel
from tesseral.calculator.neighbors import (
    Edges,
    VerletList,
    bounding_cell,
    periodic_vectors,
)

#: Smaller systems are searched on the processor: it takes milliseconds, compiling vesin's kernels takes seconds.
FEWEST_ATOMS = 1000
#: vesin counts the cells of its grid in 32 bits, before it reduces them.
MOST_GRID_CELLS = 2e9
#: Cells thinner than the radius by more than this have too many images to look at.
MOST_IMAGES = 10.0
#: Atoms are set apart by at most so much for the search (Å).
LARGEST_OFFSET = 1e-4

_has_warned = False


def verlet_list(model: NativeModel, skin: float) -> VerletList:
    """The neighbour list of a model: on its device, or on the processor.

    Raises:
        ValueError: the skin is negative or not finite.
    """
    if model.instruction_set == "cuda":
        return DeviceVerletList(model, skin)
    return VerletList(model.cutoff, skin, threads=model.threads)


class DeviceVerletList(VerletList):
    """A Verlet list that vesin searches on the device of a model's engine, which keeps it.

    Whether it still holds is decided on the processor, as in :class:`VerletList`. What vesin's search on a device is
    not made for (small systems, cells that do not suit its grid) is searched on the processor. If the search fails on
    the device, the processor takes it over for good, with a warning.

    Attributes:
        n_device_builds: how many of the searches were made on the device.
    """

    def __init__(self, model: NativeModel, skin: float) -> None:
        super().__init__(model.cutoff, skin, threads=model.threads)
        self.n_device_builds = 0
        self._model = model
        self._device_works = True
        self._own: object = None  # the model's device_list while it is this one

    def _still_valid(
        self, positions: NDArray[np.float64], cell: NDArray[np.float64], periodic: NDArray[np.bool_]
    ) -> bool:
        lost = self._own is not None and self._own is not self._model.device_list  # the engine was given another
        return not lost and super()._still_valid(positions, cell, periodic)

    def _search(self, positions: NDArray[np.float64], cell: NDArray[np.float64], periodic: NDArray[np.bool_]) -> None:
        self._own = None
        radius = self.cutoff + self.skin
        box, extents = bounding_cell(positions, cell, periodic, radius)
        if self._device_works and len(positions) >= FEWEST_ATOMS and _suits_device(extents, radius):
            try:
                self._search_on_device(positions, box, periodic_vectors(cell, periodic), radius)
                return
            except RuntimeError as error:
                self._device_works = False
                _warn(str(error))
        super()._search(positions, cell, periodic)

    def _search_on_device(
        self, positions: NDArray[np.float64], box: NDArray[np.float64], cell: NDArray[np.float64], radius: float
    ) -> None:
        """vesin leaves out pairs at a distance of exactly zero there, but the engine must see atoms on top of each
        other: each is set apart by another offset, and the radius is longer by the largest."""
        apart = positions.copy()
        apart[:, 0] += np.linspace(0.0, LARGEST_OFFSET, len(positions))
        self._model.search_list(apart, box, cell, radius + LARGEST_OFFSET)
        self._own = self._model.device_list
        self.n_device_builds += 1

    def _shift(self, cell: NDArray[np.float64], periodic: NDArray[np.bool_]) -> None:
        if self._own is None:
            return super()._shift(cell, periodic)
        self._model.move_list(periodic_vectors(cell, periodic))

    def _edges(self) -> Edges:
        return super()._edges() if self._own is None else (None, None, None)


def _suits_device(extents: NDArray[np.float64], radius: float) -> bool:
    """Whether vesin's grid on a device has a sensible number of cells and of images in a box with these heights."""
    cells = extents / radius
    return bool(cells.min() * MOST_IMAGES >= 1.0 and np.maximum(1.0, cells).prod() < MOST_GRID_CELLS)


def _warn(reason: str) -> None:
    """Warn once per process."""
    global _has_warned
    if not _has_warned:
        warnings.warn(
            f"the neighbour list is searched on the processor instead of the device: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )
        _has_warned = True
