"""Tesseral: equivariant machine-learned potentials for molecular dynamics.

`tesseral.calculator` holds the ASE calculator, `tesseral.models` training and the model file,
`tesseral.kernel` the compiled descriptor kernel, and `tesseral.cli` the command line. Importing this package
loads none of them.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tesseral")
except PackageNotFoundError:  # a source tree on PYTHONPATH, not installed
    __version__ = "0+not-installed"
