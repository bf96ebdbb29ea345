"""The compiled descriptor kernel: torch operators, the native engine and their slow reference twins.

Importing this package loads nothing; `load_operators()` registers the torch operators, and
`tesseral.kernel._engine` is the torch-free native engine.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

__all__ = ["library_path", "load_operators"]


def library_path() -> Path:
    """Path of the shared library that registers the torch operators (for `dlopen` in a C++ process).

    Raises ImportError when the package was not built.
    """
    spec = importlib.util.find_spec("tesseral.kernel._engine")
    if spec is None or spec.origin is None:
        raise ImportError("tesseral.kernel is not compiled: install the package with `pip install .`")
    folder = Path(spec.origin).parent
    for name in ("libtesseral_torch.so", "libtesseral_torch.dylib"):
        if (folder / name).exists():
            return folder / name
    raise ImportError(f"{folder} holds no libtesseral_torch: reinstall the package with `pip install .`")


@functools.lru_cache(maxsize=1)
def load_operators() -> None:
    """Register the compiled operators as torch.ops.tesseral (once per process)."""
    import torch

    torch.ops.load_library(str(library_path()))
