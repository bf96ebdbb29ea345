"""LAMMPS as a process: found, started on any number of ranks, watched, stopped, and its errors raised."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tesseral import lammps_plugin

#: seconds that a stopped LAMMPS gets to end its ranks
GRACE = 5.0
#: makes waiting ranks of MPICH sleep instead of spin, unless the user decided otherwise: with more ranks than cores
#: small systems are evaluated ten times faster
SLEEPING_RANKS = {"MPIR_CVAR_CH4_PROGRESS_THROTTLE": "1", "MPIR_CVAR_CH4_PROGRESS_THROTTLE_NO_PROGRESS_COUNT": "10"}


class LammpsError(RuntimeError):
    """LAMMPS stopped, did not end in time, or did not run as it was asked to."""


def lammps_missing(ranks: int = 1) -> str | None:
    """Why LAMMPS cannot run the pair styles here on that many ranks, or None if it can."""
    if _program("lmp") is None:
        return "LAMMPS is not installed (there is no program lmp): pip install 'tesseral[lammps]'"
    if not any(Path(lammps_plugin.directory()).glob("*plugin.so")):
        return "Tesseral was installed without its LAMMPS plugin: install it again as 'tesseral[lammps]'"
    if ranks > 1 and _program("mpirun") is None:
        return "there is no program mpirun: pip install 'tesseral[lammps]'"
    return None


def run_lammps(
    deck: str,
    folder: Path,
    *,
    ranks: int = 1,
    timeout: float | None = None,
    watch: Callable[[str], None] | None = None,
) -> str:
    """Run an input deck in `folder`.

    Args:
        deck: text of the input deck, written to `folder`.
        folder: working directory.
        ranks: MPI ranks.
        timeout: in seconds; None waits for ever.
        watch: is given each line of LAMMPS' output when it comes; if it raises, LAMMPS is stopped.

    Returns:
        LAMMPS' output.

    Raises:
        LammpsError: LAMMPS stopped (with its own message), took too long, or ran on other ranks than asked.
        FileNotFoundError: no LAMMPS; see :func:`lammps_missing`.
    """
    reason = lammps_missing(ranks)
    if reason is not None:
        raise FileNotFoundError(reason)
    (folder / "in.lammps").write_text(deck, encoding="utf-8")
    launcher = [] if ranks == 1 else [str(_program("mpirun")), "-np", str(ranks)]
    process = subprocess.Popen(
        [*launcher, str(_program("lmp")), "-in", "in.lammps", "-log", "none"],
        cwd=folder,
        env={**SLEEPING_RANKS, **os.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # so that all ranks can be stopped together
    )
    overdue = threading.Event()

    def stop_overdue() -> None:
        overdue.set()
        _stop(process)

    timer = threading.Timer(0.0 if timeout is None else timeout, stop_overdue)
    if timeout is not None:
        timer.start()
    try:
        output = _watched(process, watch)
    finally:
        timer.cancel()
    if overdue.is_set():
        raise LammpsError(f"LAMMPS did not end within {timeout:g} s")
    _check(output, process.returncode, ranks)
    return output


def _program(name: str) -> str | None:
    """The program that belongs to this Python, or else the first on the PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(name)


def _watched(process: subprocess.Popen[str], watch: Callable[[str], None] | None) -> str:
    """Output of a process until it ends."""
    lines = []
    with process:
        try:
            assert process.stdout is not None  # a pipe was asked for
            for line in process.stdout:
                lines.append(line)
                if watch is not None:
                    watch(line)
        except BaseException:
            _stop(process)
            raise
    return "".join(lines)


def _stop(process: subprocess.Popen[str]) -> None:
    """End a process and what it started: by the signal on which mpirun ends its ranks, or else by force."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _check(output: str, exit_code: int, ranks: int) -> None:
    """Raise LammpsError unless LAMMPS ran to its end on the ranks that were asked for."""
    error = re.search(r"^ERROR.*", output, re.MULTILINE)
    if error is not None:
        raise LammpsError(f"LAMMPS stopped: {error.group().strip()}")
    if exit_code != 0:
        raise LammpsError(f"LAMMPS ended with exit code {exit_code}: {' | '.join(output.splitlines()[-5:])}")
    for grid in re.findall(r"^ *(\d+) by (\d+) by (\d+) MPI processor grid", output, re.MULTILINE):
        if math.prod(map(int, grid)) != ranks:
            raise LammpsError(
                f"LAMMPS ran on {math.prod(map(int, grid))} ranks instead of {ranks}: {_program('mpirun')} belongs to "
                f"another MPI than {_program('lmp')}"
            )
