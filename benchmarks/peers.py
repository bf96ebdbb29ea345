"""Other codes on the same system in the same run, where they are installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

#: glibc's malloc told neither to map nor to trim: worth up to a factor of 3 for models in eager PyTorch
MALLOC_SETTING = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
#: with that, and with leave to unpickle its own constants and models, which torch refuses since version 2.6
MACE_SETTING = {**MALLOC_SETTING, "OMP_NUM_THREADS": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}


def mace_missing() -> str | None:
    """Why there is no mace-torch here, or None if there is."""
    try:
        version("mace-torch")
    except PackageNotFoundError:
        return "mace-torch is not installed"
    return None


def measure_mace(cells: int = 5, repeats: int = 7) -> dict[str, Any]:
    """Time a MACE 128x0e of mace-torch on one thread, in a process of its own.

    Returns:
        ``us_per_atom`` (energies, forces and stress in float32, the neighbour list given), ``n_atoms`` and
        ``version``; or ``skipped``, the reason why there is no figure.
    """
    reason = mace_missing()
    if reason is not None:
        return {"skipped": reason}
    return time_mace("--cells", str(cells), "--repeats", str(repeats))


def time_mace(*arguments: str, tuned: bool = True) -> dict[str, Any]:
    """What `tesseral.benchmarks.mace_torch` prints, run in a process of its own with these arguments.

    tuned: with MALLOC_SETTING; otherwise malloc is as it comes.
    Returns ``skipped``, the reason, if it does not run.
    """
    finished = _run_mace(*arguments, tuned=tuned)
    if finished.returncode != 0:
        return {"skipped": failure(finished, "mace-torch does not run here")}
    result: dict[str, Any] = json.loads(finished.stdout.strip().splitlines()[-1])
    return result


def write_mace_model(path: Path, atomic_numbers: Sequence[int], dtype: str = "float32") -> str | None:
    """Write a MACE 128x0e with random weights for these elements, as mace-torch stores models.

    Returns:
        Why that is not possible, or None.
    """
    finished = _run_mace("--write", str(path), "--dtype", dtype, "--elements", *map(str, atomic_numbers))
    return failure(finished, "mace-torch does not run here") if finished.returncode != 0 else None


def failure(finished: subprocess.CompletedProcess[str], what: str) -> str:
    """Why a process has failed: `what` and the last line of its output that names an error, or its last line."""
    lines = finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Unsupported)\b", line)]
    return f"{what}: {(errors or lines)[-1]}"


def _run_mace(*arguments: str, tuned: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tesseral.benchmarks.mace_torch", *arguments]
    environment = {**os.environ, **MACE_SETTING}
    if not tuned:
        environment = {name: value for name, value in environment.items() if name not in MALLOC_SETTING}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
