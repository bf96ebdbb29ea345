"""i-PI and its drivers as processes: found, started, watched, stopped, and their errors raised."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from numpy.typing import NDArray

#: the driver, and the script that saves what i-PI's last step has computed
DRIVER = Path(__file__).with_name("ipi_driver.py")
RESULTS = Path(__file__).with_name("ipi_results.py")
#: in i-PI's output once drivers can connect
LISTENING = "Starting the polling thread main loop"
#: of files of sockets, after which i-PI appends the address: in the working directory, so that nothing is left behind,
#: and relative, because the system allows 107 letters
SOCKETS_PREFIX = "./ipi_"
#: seconds between looks at the processes
INTERVAL = 0.02
#: seconds that drivers get to end after i-PI
GRACE = 5.0


class IpiError(RuntimeError):
    """i-PI or a driver stopped, or did not end in time."""


def ipi_missing() -> str | None:
    """Why i-PI cannot run here, or None if it can."""
    if importlib.util.find_spec("ipi") is None or not (_program("i-pi") and _program("i-pi-py_driver")):
        return "i-PI is not installed: pip install 'tesseral[ipi]'"
    return None


def xyz_frame(symbols: Sequence[str], h: NDArray, vectors: NDArray, quantity: str) -> str:
    """A frame of i-PI's XYZ files with all digits.

    Args:
        symbols: of the atoms.
        h: [3, 3] in Å, lattice vectors as columns; upper triangular.
        vectors: [n_atoms, 3].
        quantity: with its unit as i-PI names it, such as positions{angstrom}.
    """
    cell = " ".join(map(repr, h.ravel().tolist()))
    lines = [str(len(symbols)), f"# CELL{{H}}: {cell} {quantity} cell{{angstrom}}"]
    for symbol, vector in zip(symbols, vectors.tolist(), strict=True):
        lines.append(f"{symbol} {' '.join(map(repr, vector))}")
    return "\n".join(lines) + "\n"


class Program:
    """A process in a group of its own, with its output in a file.

    Attributes:
        process: it.
        log: the file, of both standard output and errors.
    """

    def __init__(
        self, command: Sequence[str | Path], folder: Path, log: str, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a command in `folder`; `log` is the name of the file there, `environment` is added to ours."""
        self.log = folder / log
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                cwd=folder,
                env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the process and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self) -> None:
        """Kill what is left of it."""
        self.kill()
        self.process.wait()


def server_command(*, saves_results: bool) -> list[str | Path]:
    """i-PI with input.xml: its program, or the script that saves the results of the last step (see ipi_results.py)."""
    if saves_results:
        return [sys.executable, RESULTS]
    return [_program("i-pi") or "i-pi", "input.xml"]


def driver_command(options: str, *connection: str, path: Path = DRIVER) -> list[str | Path]:
    """i-PI's client with our driver, or with another file.

    Args:
        options: model=FILE,template=FILE and so on, for -o.
        connection: the client's options, such as -u -a ADDRESS.
        path: of the driver.
    """
    return [_program("i-pi-py_driver") or "i-pi-py_driver", "-m", "custom", "-P", path, "-o", options, *connection]


def run_ipi(
    folder: Path,
    drivers: dict[str, str] | None = None,
    *,
    timeout: float,
    saves_results: bool = False,
    watch: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run input.xml in `folder`, and drivers at its UNIX sockets.

    Args:
        folder: working directory, with input.xml, whose `sockets_prefix` is SOCKETS_PREFIX, and what it names.
        drivers: their options by the address of the socket.
        timeout: in seconds, for all together.
        saves_results: with the script ipi_results.py instead of the program i-pi.
        watch: called every few hundredths of a second while i-PI runs, and once after its end; if it raises, all is
            stopped.
        environment: variables of all processes, besides those of this one.

    Returns:
        i-PI's output.

    Raises:
        IpiError: i-PI or a driver stopped (with its own message), or they took too long.
        FileNotFoundError: no i-PI; see :func:`ipi_missing`.
    """
    reason = ipi_missing()
    if reason is not None:
        raise FileNotFoundError(reason)
    deadline = time.monotonic() + timeout
    programs = [Program(server_command(saves_results=saves_results), folder, "ipi.log", environment)]
    server = programs[0]

    def wait_while(condition: Callable[[], bool]) -> None:
        while condition():
            for name, program in zip(["i-PI", *(drivers or ())], programs, strict=False):
                _check(name, program)
            if time.monotonic() > deadline:
                raise IpiError(f"i-PI did not end within {timeout:g} s")
            if watch is not None:
                watch()
            time.sleep(INTERVAL)

    try:
        if drivers:
            wait_while(lambda: server.running and LISTENING not in server.output)
            _check("i-PI", server)
        for index, (address, options) in enumerate((drivers or {}).items()):
            command = driver_command(options, "-u", "-a", address, "-S", SOCKETS_PREFIX)
            programs.append(Program(command, folder, f"driver_{index}.log", environment))
        wait_while(lambda: server.running)
        _check("i-PI", server)
        for program in programs[1:]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.process.wait(GRACE)
        if watch is not None:
            watch()
    finally:
        for program in programs:
            program.end()
    return server.output


def _program(name: str) -> str | None:
    """The program that belongs to this Python, or else the first on the PATH."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def _check(name: str, program: Program) -> None:
    """Raise IpiError if a program has ended with an error."""
    if program.process.poll():
        output = program.output
        explained = re.findall(r"^tesseral: (.*)", output, re.MULTILINE)
        said = explained[-1] if explained else " | ".join(line.strip() for line in output.splitlines()[-5:])
        who = name if name == "i-PI" else f"the driver at {name}"
        raise IpiError(f"{who} ended with exit code {program.process.returncode}: {said}")
