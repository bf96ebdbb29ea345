"""What i-PI's programs leave undone when a run goes wrong: one clear message, an exit code, a last RESTART.

In i-PI 3.3, `i-pi-py_driver` spins for ever when the server has gone without a goodbye, and shows a traceback for
everything else. `i-pi` hangs when a driver ends with anything unread in its socket: i-PI sends the request for the
result in advance, and does not expect the error by which the system reports that it was lost. It also hangs when an
exception ends the thread of a threaded <ffdirect>, and leaves no RESTART behind when one ends the main thread. All of
that is mended here for our driver, but for a driver that is killed by SIGKILL while a request comes in. Other programs
that load the driver see ordinary exceptions.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: errors that are the user's to mend, or the model's: a message says it all
EXPLAINED = (ValueError, TypeError, OSError, RuntimeError, ImportError)
#: of i-PI's messages, in bytes
HEADER_LENGTH = 12
#: how long to wait for a header that i-PI has always sent already (s)
READ_AHEAD_TIMEOUT = 0.1
#: how long to wait for the server to close the connection before the driver does (s)
LEAVE_TIMEOUT = 2.0


@contextlib.contextmanager
def explained_start() -> Iterator[None]:
    """While the driver is set up in one of i-PI's programs, errors end the program with one line.

    Raises:
        SystemExit: in place of the error, in i-PI's programs.
    """
    try:
        yield
    except EXPLAINED as error:
        if Path(sys.argv[0]).name in ("i-pi", "i-pi-py_driver"):
            raise SystemExit(f"tesseral: {error}") from None
        raise


def guard_client() -> None:
    """In `i-pi-py_driver`, turn a lost connection or a failed calculation into a message and exit code 1."""
    program: Any = sys.modules["__main__"]
    run_driver = getattr(program, "run_driver", None)
    if Path(sys.argv[0]).name != "i-pi-py_driver" or run_driver is None:
        return
    connections: list[_ServerConnection] = []

    def connection(*kind: int) -> _ServerConnection:
        connections.append(_ServerConnection(*kind))
        return connections[-1]

    def guarded(driver: Callable[[Any, Any], Any], **options: Any) -> None:
        def evaluate(cell: Any, pos: Any) -> Any:
            connections[-1].read_ahead()
            return driver(cell, pos)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _exit_by_signal)
        try:
            run_driver(driver=evaluate, **options)
        except EXPLAINED as error:
            raise SystemExit(f"tesseral: {_explanation(error, options)}") from None
        finally:
            for used in connections:
                used.leave()

    program.socket = types.SimpleNamespace(**{**vars(socket), "socket": connection})
    program.run_driver = guarded


class _ServerConnection(socket.socket):
    """A socket that can read ahead, and that notices the end of the connection."""

    _ahead = b""

    def read_ahead(self) -> None:
        """Take the header that the server sends behind a structure without waiting for the result."""
        if select.select([self], [], [], READ_AHEAD_TIMEOUT)[0]:
            self._ahead += super().recv(HEADER_LENGTH)

    def leave(self) -> None:
        """Close the connection with nothing unread in it."""
        with contextlib.suppress(OSError):
            self.settimeout(LEAVE_TIMEOUT)
            self.shutdown(socket.SHUT_WR)
            while super().recv(1 << 16):
                pass
        self.close()

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Exactly `size` bytes: a whole header.

        Raises:
            ConnectionResetError: the server has gone, which the driver's loop would take for an empty header.
        """
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        if len(data) < size:
            data += super().recv(size - len(data), flags | socket.MSG_WAITALL)
        if len(data) < size:
            raise ConnectionResetError("no goodbye")
        return data


def _exit_by_signal(number: int, frame: object) -> None:
    """End the driver in order, with the exit code that shells expect."""
    raise SystemExit(128 + number)


def _explanation(error: BaseException, options: dict[str, Any]) -> str:
    """What a user can do about an error in the driver's loop."""
    by_file = options.get("unix") or options.get("shm")
    address = f"{options['sockets_prefix']}{options['address']}" if by_file else "{address}:{port}".format(**options)
    if isinstance(error, FileNotFoundError) and by_file:
        return f"there is no socket {address}: start i-PI first, and give the address that its input has"
    if isinstance(error, (ConnectionRefusedError, socket.gaierror, TimeoutError)):
        remedy = "remove the file, which a killed i-PI left behind, and start" if by_file else "start"
        return f"no i-PI listens at {address} ({error.strerror or error}): {remedy} i-PI first"
    if isinstance(error, ConnectionError) or str(error) == "Socket disconnected!":
        return f"i-PI at {address} has gone: start it again with its last RESTART or checkpoint, and then this driver"
    return str(error)


def stop_ipi(error: Exception) -> None:
    """In the program `i-pi`, stop the run after an error in the driver; elsewhere do nothing.

    i-PI's own soft exit writes RESTART as of the last complete step and closes the output files, but ends with exit
    code 0; here it ends with 1.
    """
    from ipi.utils.softexit import softexit

    if not softexit.hard_exit:
        return

    def leave() -> None:
        if not softexit.flist and not softexit.exiting:  # else the main thread completes the exit
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        sys.exit(1)

    softexit.kill = leave
    print(f"tesseral: {error}", file=sys.stderr, flush=True)
    softexit.trigger(status="restartable", message=f"tesseral: {error}.")
