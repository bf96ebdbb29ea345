"""Timing one function: warm-up, repeats, median; and the machine it was timed on."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

#: fewest timed calls, and calls before them
REPEATS, WARM_UP = 7, 3


def median_seconds(function: Callable[[], object], repeats: int = REPEATS, warm_up: int = WARM_UP) -> float:
    """Median wall time of a call, after `warm_up` calls that are not timed."""
    for _ in range(warm_up):
        function()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def peak_megabytes(status: Path = Path("/proc/self/status")) -> float | None:
    """Most memory that this process has held, in 10^6 bytes; None where the system does not tell."""
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")), None)


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
