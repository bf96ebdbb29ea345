"""The package's dependencies; torch in the version that the compiled operators are built with."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

ALWAYS = [
    "numpy>=1.26",
    "ase>=3.23",
    "vesin>=0.6,<0.7",
    "safetensors>=0.4",
    "pydantic>=2.6",
    "pyyaml>=6",
    "typer>=0.20",
    "rich>=13",
    "matplotlib>=3.8",
]


def dynamic_metadata(field: str, settings: Mapping[str, Any] | None = None) -> list[str]:
    """Dependencies for the field "dependencies": compiled operators load with the torch they were built with only."""
    if field != "dependencies" or settings:
        raise ValueError(f"cmake/dependencies.py gives dependencies without settings, not {field} with {settings}")
    return [f"torch=={version('torch').partition('+')[0]}", *ALWAYS]
