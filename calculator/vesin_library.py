"""Call vesin's C interface without importing the Python package around it.

`import vesin` imports torch where torch is installed, which would cost every torch-free process seconds and
hundreds of megabytes. The shared library and the ctypes declarations that belong to it need neither.

What vesin 0.6.2 does on a GPU, from its header and the sources of its kernels, which the library contains as text:

- Positions, cell and the three flags of periodicity must be memory of the GPU, and so are pairs and shifts. The device
  is that of the calling thread. It works in the default stream and waits for its end.
- It compiles its kernels at the first call with NVRTC, and calls the shared libcudart: libraries that are loaded
  already, or that the system's loader finds. Without them, or where the driver is too old, the call fails and says so.
- Cell list (which we always ask for; the automatic choice is a brute force of small orthogonal cells): any number of
  atoms and any cell, also one smaller than the cutoff; at most 8192 grid cells. The number of grid cells before that
  limit is a 32-bit integer.
- It has room for max(128, cutoff^3) pairs per atom on average, or as many as the environment variable
  VESIN_CUDA_MAX_PAIRS_PER_POINT says; with more the call fails.
- Pairs come in no fixed order; `sorted` would sort them all, by center only. Pairs at a distance of exactly zero are
  left out: `DeviceVerletList` sees to that.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tesseral.kernel._engine import rows_of_pairs

#: What vesin calls the memory of a GPU; tests of a device that is compiled for the processor say VesinCPU.
DEVICE_KIND = "VesinCUDA"
#: Versions of CUDA's libraries that vesin looks for, in this order.
CUDA_VERSIONS = ("", ".11", ".12", ".13", ".14", ".15")
LIBRARY_NAMES = {"darwin": "lib/libvesin.dylib", "win32": "bin/vesin.dll"}


@functools.cache
def _load() -> tuple[ctypes.CDLL, ModuleType]:
    """The vesin library and its ctypes declarations (structs that match the installed version)."""
    package = importlib.util.find_spec("vesin")
    if package is None or not package.submodule_search_locations:
        raise ImportError("the neighbour lists need the package 'vesin': pip install vesin")
    folder = Path(package.submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("tesseral_vesin_declarations", folder / "_c_api.py")
    assert spec is not None and spec.loader is not None
    declarations = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(declarations)
    library = ctypes.CDLL(str(folder / LIBRARY_NAMES.get(sys.platform, "lib/libvesin.so")))
    declarations.setup_functions(library)
    return library, declarations


def _pointer(array: NDArray, ctype: type) -> object:
    return array.ctypes.data_as(ctypes.POINTER(ctype))


def _address(pointer: Any) -> int:
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


@contextlib.contextmanager
def _found_pairs(
    points: object, n_points: int, cell: object, periodic: object, device: tuple[str, int], options: dict[str, Any]
) -> Iterator[Any]:
    """A VesinNeighborList of pairs with shifts, freed in the end; arguments are pointers on the device.

    Raises:
        RuntimeError: vesin's message.
    """
    library, declarations = _load()
    pairs, message = declarations.VesinNeighborList(), ctypes.c_char_p()
    try:
        status = library.vesin_neighbors(
            points,
            n_points,
            cell,
            periodic,
            declarations.VesinDevice(getattr(declarations, device[0]), device[1]),
            declarations.VesinOptions(return_shifts=True, **options),
            ctypes.byref(pairs),
            ctypes.byref(message),
        )
        if status != 0:
            raise RuntimeError(f"vesin could not build the neighbour list: {(message.value or b'').decode()}")
        yield pairs
    finally:
        library.vesin_free(ctypes.byref(pairs))


def periodic_rows(
    positions: NDArray[np.float64], cell: NDArray[np.float64], cutoff: float, threads: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """All directed pairs closer than `cutoff` in a cell that is periodic in three directions.

    vesin finds each pair once and unsorted, in a third to half of the time that it takes for a sorted full list.

    Args:
        positions: [N, 3], contiguous, finite, in Å.
        cell: [3, 3] lattice vectors as rows, likewise.
        cutoff: in Å.
        threads: of the search.

    Returns:
        first [N + 1], neighbors [E] and cell shifts [E, 3] with r_ij = r_j - r_i + S @ cell, by center and neighbour.

    Raises:
        RuntimeError: vesin's message.
    """
    arrays = _pointer(positions, ctypes.c_double), len(positions), _pointer(cell, ctypes.c_double)
    periodic = (ctypes.c_bool * 3)(True, True, True)
    options = {"cutoff": cutoff, "full": False, "n_threads": threads}
    with _found_pairs(*arrays, periodic, ("VesinCPU", 0), options) as pairs:
        return rows_of_pairs(len(positions), pairs.length, _address(pairs.pairs), _address(pairs.shifts))


@contextlib.contextmanager
def device_pairs(
    arrays: tuple[int, int, int], n_atoms: int, cutoff: float, device: int
) -> Iterator[tuple[int, int, int]]:
    """The pairs of :func:`periodic_rows` in the memory of a device while the context lasts, in no fixed order.

    Each is there in both directions.

    Args:
        arrays: addresses of positions, cell and periodicity on the device, of `Engine.upload_points`.
        n_atoms: at least one.
        cutoff: in Å.
        device: its number.

    Returns:
        Number of pairs, address of the pairs [n_pairs, 2] uint64 and address of their cell shifts [n_pairs, 3] int32.

    Raises:
        RuntimeError: vesin's message.
    """
    declarations = _load()[1]
    if DEVICE_KIND == "VesinCUDA":
        _open_cuda_libraries()
    positions, cell = (ctypes.cast(address, ctypes.POINTER(ctypes.c_double)) for address in arrays[:2])
    periodic = ctypes.cast(arrays[2], ctypes.POINTER(ctypes.c_bool))
    options = {"cutoff": cutoff, "full": True, "algorithm": declarations.VesinCellList, "n_threads": 1}
    with _found_pairs(positions, n_atoms, cell, periodic, (DEVICE_KIND, device), options) as pairs:
        yield int(pairs.length), _address(pairs.pairs), _address(pairs.shifts)


@functools.cache
def _open_cuda_libraries() -> None:
    """Load libcudart and libnvrtc from where vesin would not find them: a toolkit, pip's packages (torch brings them).

    What cannot be loaded is named by vesin's message.
    """
    toolkits = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [Path(toolkit) / folder for toolkit in toolkits if toolkit for folder in ("lib64", "lib")]
    nvidia = importlib.util.find_spec("nvidia")
    for root in (nvidia.submodule_search_locations or ()) if nvidia else ():
        folders += sorted(Path(root).glob("*/lib"))
    loaded = Path("/proc/self/maps").read_text()
    for name in ("libcudart.so", "libnvrtc.so"):
        if f"/{name}" in loaded:
            continue
        places = [name + version for version in CUDA_VERSIONS]
        places += [str(path) for folder in folders for path in sorted(folder.glob(name + "*"))]
        for place in places:
            with contextlib.suppress(OSError):
                ctypes.CDLL(place)
                break
