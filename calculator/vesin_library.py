"""Call vesin's C interface without importing the Python package around it.

`import vesin` imports torch where torch is installed, which would cost every torch-free process seconds and
hundreds of megabytes. The shared library and the ctypes declarations that belong to it need neither.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

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


def _view(pointer: object, ctype: type, length: int, width: int) -> NDArray:
    """A view of `length` x `width` numbers at a C pointer (no copy)."""
    return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctype)), (length, width))  # type: ignore[call-overload, arg-type]


def _pointer(array: NDArray, ctype: type) -> object:
    return array.ctypes.data_as(ctypes.POINTER(ctype))


def periodic_pairs(
    positions: NDArray[np.float64], cell: NDArray[np.float64], cutoff: float, threads: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """All directed pairs closer than `cutoff` in a cell that is periodic in three directions.

    positions [N, 3] and cell [3, 3] (rows) are contiguous, finite float64 arrays in Å. Returns centers [E]
    (ascending), neighbors [E] and cell shifts [E, 3] with r_ij = r_j - r_i + S @ cell.
    """
    library, declarations = _load()
    options = declarations.VesinOptions(cutoff=cutoff, full=True, sorted=True, return_shifts=True, n_threads=threads)
    periodic = np.ones(3, dtype=np.bool_)
    pairs, message = declarations.VesinNeighborList(), ctypes.c_char_p()
    try:
        status = library.vesin_neighbors(
            _pointer(positions, ctypes.c_double),
            len(positions),
            _pointer(cell, ctypes.c_double),
            _pointer(periodic, ctypes.c_bool),
            declarations.VesinDevice(declarations.VesinCPU, 0),
            options,
            ctypes.byref(pairs),
            ctypes.byref(message),
        )
        if status != 0:
            raise RuntimeError(f"vesin could not build the neighbour list: {(message.value or b'').decode()}")
        if pairs.length == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros((0, 3), np.int32)
        indices = _view(pairs.pairs, ctypes.c_size_t, pairs.length, 2)
        shifts = _view(pairs.shifts, ctypes.c_int32, pairs.length, 3)
        return indices[:, 0].astype(np.int64), indices[:, 1].astype(np.int32), shifts.copy()
    finally:
        library.vesin_free(ctypes.byref(pairs))
