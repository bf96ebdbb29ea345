"""The native engine as the front ends use it: options checked, elements mapped, failures explained."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import CalculationFailed
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from tesseral.calculator.errors import StructureError
from tesseral.calculator.vesin_library import device_pairs
from tesseral.models.file import ModelFileError, read_model
from tesseral.models.registry import nearest, resolve_model

DTYPES = ("float64", "float32", "mixed")


class NativeModel:
    """A model file opened by the torch-free engine.

    Attributes:
        path: the model file.
        metadata: contents of its metadata.json.
        dtype: float64, float32, or mixed (float32 kernel, float64 accumulation).
        threads: threads of the engine.
        cutoff: radius of the neighbour list in Å.
        species: element symbols in the order of the model's species indices.
        instruction_set: what the engine chose on this processor, or cuda.
        device_list: stands for the neighbour list that :meth:`search_list` left on the device; another object for
            each, None without.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        dtype: str,
        threads: int | None,
        instruction_set: str = "auto",
        device: str = "cpu",
    ) -> None:
        """Open a model.

        Args:
            model: path of a model file, or the name of a shipped model.
            dtype: one of :data:`DTYPES`.
            threads: at least 1; None is 1.
            instruction_set: auto (the best of this machine), baseline, avx2 or avx512.
            device: cpu, cuda (the first NVIDIA GPU) or cuda:N.

        Raises:
            TypeError: threads is not a whole number.
            ValueError: dtype, threads, instruction_set or device is not usable, or the file is not a usable model.
            FileNotFoundError: no such file and no shipped model of that name.
        """
        from tesseral.kernel._engine import Engine

        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}{nearest(dtype, DTYPES)}")
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, (int, np.integer))):
            raise TypeError(f"threads must be a whole number or None, got {threads!r}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.path: Path = resolve_model(model)
        self.metadata: dict[str, Any] = read_model(self.path).metadata
        self.dtype, self.threads = dtype, int(threads or 1)
        try:
            self._engine = Engine(str(self.path), dtype, self.threads, instruction_set, device)
        except RuntimeError as error:  # the engine's word for a file it cannot use
            raise ModelFileError(str(error)) from error
        self.cutoff = float(self._engine.cutoff)
        self.species = list(self._engine.species)
        self.instruction_set = str(self._engine.instruction_set)
        self._device_number = int(device.partition(":")[2] or 0)
        self.device_list: object = None
        self._list: tuple[Any, ...] = ()
        self._list_number = 0
        self._index_of_number = np.full(len(chemical_symbols), -1, dtype=np.int32)
        for index, symbol in enumerate(self.species):
            if symbol not in atomic_numbers:
                raise ModelFileError(
                    f"{self.path}: its species {symbol!r} is no element; export or copy the model again"
                )
            self._index_of_number[atomic_numbers[symbol]] = index

    def species_indices(self, numbers: NDArray[np.integer]) -> NDArray[np.int32]:
        """The model's species index of each atom, [n_atoms] int32.

        Args:
            numbers: [n_atoms] atomic numbers.

        Raises:
            StructureError: an element that the model does not know; names the first such atom.
        """
        exists = (numbers >= 0) & (numbers < len(chemical_symbols))
        indices = np.where(exists, self._index_of_number[np.where(exists, numbers, 0)], np.int32(-1))
        if (indices < 0).any():
            atom = int(np.argmax(indices < 0))
            element = chemical_symbols[numbers[atom]] if exists[atom] else f"of atomic number {numbers[atom]}"
            raise StructureError(f"atom {atom} is {element}, but {self.path.name} knows {', '.join(self.species)}")
        return indices

    def list_number(self, species: NDArray[np.int32], *arrays: object) -> int:
        """A number that changes with a neighbour list, by which a device knows whether it has it already.

        Args:
            species: [n_atoms] of :meth:`species_indices`.
            arrays: what else belongs to the list; unchanged if they are the same objects as before.
        """
        same = len(self._list) == len(arrays) + 1 and all(
            old is new for old, new in zip(self._list[1:], arrays, strict=True)
        )
        if not same or not np.array_equal(self._list[0], species):
            self._list = (species.copy(), *arrays)
            self._list_number += 1
        return self._list_number

    def compute(
        self,
        positions: NDArray[np.float64],
        species: NDArray[np.int32],
        first: NDArray[np.int64] | None,
        neighbors: NDArray[np.int32] | None,
        shifts: NDArray[np.float64] | None,
        *,
        atom_virials: bool = True,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Energies [n_atoms] (eV), forces [n_atoms, 3] (eV/Å), virials [n_atoms, 3, 3] (eV, sum is V *
        stress; or the sum [3, 3] itself).

        Args:
            positions: [n_atoms, 3] in Å.
            species: [n_atoms] of :meth:`species_indices`.
            first, neighbors, shifts: edges by center, of :meth:`VerletList.update`; None for the list on the device.
            atom_virials: without them the sum of the virials [3, 3] takes their place.

        Raises:
            CalculationFailed: the energy or a force is not finite; names the atom.
        """
        points = np.ascontiguousarray(positions, dtype=np.float64)
        if first is not None:
            self.device_list = None  # these edges take its place
        try:
            number = self.list_number(species, first, neighbors, shifts, self.device_list)
            return self._engine.compute(
                points, species, first, neighbors, shifts, atom_virials=atom_virials, list=number
            )
        except RuntimeError as error:
            raise CalculationFailed(f"{self.path.name}: {error}") from error

    def search_list(
        self, points: NDArray[np.float64], box: NDArray[np.float64], cell: NDArray[np.float64], radius: float
    ) -> None:
        """Search a neighbour list on the engine's device and leave it there for :meth:`compute` without edges.

        Args:
            points: [n_atoms, 3] in Å, at least one.
            box: [3, 3] in Å, which contains all pairs if it is periodic in three directions.
            cell: [3, 3] in Å, for the shifts; zeros for directions that are not periodic.
            radius: in Å.

        Raises:
            RuntimeError: it cannot be searched there; says why.
        """
        self.device_list, self._list = None, ()  # whatever comes next has a new number
        arrays = self._engine.upload_points(points, np.ascontiguousarray(box))
        with device_pairs(arrays, len(points), radius, self._device_number) as pairs:
            self._engine.set_list(len(points), *pairs, cell)
        self.device_list = object()

    def move_list(self, cell: NDArray[np.float64]) -> None:
        """Give the list on the device the shifts of another cell, as in :meth:`search_list`."""
        self._engine.set_cell(cell)

    @property
    def graph_use(self) -> tuple[int, str]:
        """Calls that were launched as one CUDA graph, and why CUDA refused to make one, if it did."""
        return self._engine.graph_use

    def start_profile(self) -> None:
        """Let a device time the following calls kernel by kernel.  Raises ValueError on the processor."""
        self._engine.start_profile()

    def take_profile(self) -> list[tuple[str, int, float]]:
        """End that; returns what was done, how often, and in how many seconds of the device."""
        return self._engine.take_profile()


def refuse_unknown_keywords(function: str, unknown: Mapping[str, object], known: Iterable[str]) -> None:
    """Raise for keywords that a function does not have.

    Raises:
        TypeError: names the first unknown keyword and the nearest known one.
    """
    for keyword in unknown:
        raise TypeError(f"{function} has no keyword {keyword!r}{nearest(keyword, known)} (known: {', '.join(known)})")


def voigt_stresses(virials: NDArray[np.float64], volume: float) -> NDArray[np.float64]:
    """Per-atom stresses [n_atoms, 6] in eV/Å^3 in ASE's order xx, yy, zz, yz, xz, xy; they sum to the stress.

    Args:
        virials: [n_atoms, 3, 3] in eV, sum_j r_ij (x) dE/dr_ij. Only their sum is symmetric by itself.
        volume: of the cell, in Å^3.
    """
    symmetric = (virials + virials.transpose(0, 2, 1)) / (2.0 * volume)
    return symmetric[:, (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
