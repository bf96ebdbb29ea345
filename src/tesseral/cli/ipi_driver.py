"""`tesseral ipi-driver`: where the driver for i-PI is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import typer


def ipi_driver() -> None:
    """Print the path of the driver file, for i-PI's option -P and its <pes_path>.

    i-pi-py_driver -m custom -P $(tesseral ipi-driver) -o model=water.pt,template=init.xyz -u -a ADDRESS
    """
    import tesseral

    if importlib.util.find_spec("ipi") is None:
        raise ImportError("i-PI is not installed: pip install 'tesseral[ipi]'")
    typer.echo(Path(tesseral.__file__).parent / "calculator" / "ipi_driver.py")
