"""Inputs, processes and results of i-PI for the tests; nothing that is started here outlives its test."""

from __future__ import annotations

import importlib.util
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from tesseral.calculator import ipi_process
from tesseral.calculator.ipi_process import DRIVER, LISTENING, RESULTS, driver_command, xyz_frame

needs_ipi = pytest.mark.skipif(importlib.util.find_spec("ipi") is None, reason="i-PI is not installed")

PROGRAMS = Path(sys.executable).parent
PATIENCE = 60.0  # s; far beyond what anything here takes

INPUT = """
<simulation verbosity='low' floatformat='%24.16e'>
  <output prefix='sim'>
    <properties stride='1' filename='out'> [ step, conserved, potential ] </properties>
    {trajectory}
  </output>
  <total_steps>{steps}</total_steps>
  <prng><seed>31415</seed></prng>
  {forcefield}
  <system>
    <initialize nbeads='{beads}'>
      <file mode='xyz'> init.xyz </file>
      <velocities mode='thermal' units='kelvin'> 400 </velocities>
    </initialize>
    <forces><force forcefield='model'/></forces>
    <motion mode='dynamics'>{dynamics}</motion>
    <ensemble><temperature units='kelvin'>400</temperature><pressure units='megapascal'>100</pressure></ensemble>
  </system>
</simulation>
"""
NVE = "<dynamics mode='nve'><timestep units='femtosecond'>0.5</timestep></dynamics>"
NPT = """<dynamics mode='npt'><timestep units='femtosecond'>0.5</timestep>
  <barostat mode='isotropic'><tau units='femtosecond'>20</tau>
    <thermostat mode='langevin'><tau units='femtosecond'>20</tau></thermostat></barostat>
  <thermostat mode='pile_g'><tau units='femtosecond'>20</tau></thermostat></dynamics>"""

#: runs input.xml and saves the last step with all digits
SERVER = RESULTS.read_text()


def write_input(
    folder: Path, atoms: Atoms, forcefield: str, *, beads=1, steps=4, dynamics=NVE, trajectory="", cell=None
) -> None:
    """input.xml and init.xyz; i-PI's cell is upper triangular: the first vector along x, the second in the xy plane."""
    text = INPUT.format(forcefield=forcefield, beads=beads, steps=steps, dynamics=dynamics, trajectory=trajectory)
    (folder / "input.xml").write_text(text)
    h = atoms.cell.array.T if cell is None else cell
    text = xyz_frame(atoms.get_chemical_symbols(), h, atoms.positions, "positions{angstrom}")
    (folder / "init.xyz").write_text(text)


def ffsocket(address: str, *, mode: str = "unix", port: int = 12345, extra: str = "") -> str:
    """A socket for force providers."""
    return (
        f"<ffsocket name='model' mode='{mode}' pbc='false'><address>{address}</address><port>{port}</port>"
        f"<latency>1e-4</latency>{extra}</ffsocket>"
    )


def ffdirect(parameters: str, *, threaded: bool = False, batch_size: int = 1, path: Path = DRIVER) -> str:
    """The driver inside i-PI."""
    return (
        f"<ffdirect name='model' threaded='{threaded}'><pes>custom</pes><pes_path>{path}</pes_path>"
        f"<parameters>{{{parameters}}}</parameters><batch_size>{batch_size}</batch_size></ffdirect>"
    )


@pytest.fixture
def address() -> Iterator[str]:
    """The name of a UNIX socket that nobody else uses."""
    name = f"tesseral-test-{uuid.uuid4().hex[:12]}"
    yield name
    Path(f"/tmp/ipi_{name}").unlink(missing_ok=True)


def free_port() -> int:
    """A TCP port of this machine that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


class Program(ipi_process.Program):
    """A process that is waited for."""

    def wait(self) -> int:
        """Exit code."""
        return self.process.wait(timeout=PATIENCE)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Until something has happened; fails if the process ends before."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)


class Runs:
    """Starts programs in a folder and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._programs: list[Program] = []

    def start(self, *command: str | Path, log: str | None = None) -> Program:
        program = Program(command, self.folder, log or f"{len(self._programs)}.log")
        self._programs.append(program)
        return program

    def server(self, *command: str | Path) -> Program:
        """i-PI (or another program with its engine), once it listens."""
        server = self.start(*(command or (sys.executable, "-c", SERVER)))
        server.wait_until(lambda: LISTENING in server.output)
        return server

    def driver(self, options: str, *connection: str, path: Path = DRIVER) -> Program:
        """i-pi-py_driver with our driver."""
        return self.start(*driver_command(options, *connection, path=path))

    def end(self) -> None:
        for program in self._programs:
            program.end()


@pytest.fixture
def runs(tmp_path) -> Iterator[Runs]:
    """Processes that work in tmp_path."""
    started = Runs(tmp_path)
    try:
        yield started
    finally:
        started.end()


def last_step(folder: Path) -> dict[str, np.ndarray]:
    """What SERVER saved: q and f [beads, 3 n_atoms], h [3, 3], pots [beads], virs [beads, 3, 3], extras."""
    with np.load(folder / "last.npz") as saved:
        return {name.removesuffix("_0"): array for name, array in saved.items()}


def steps_written(folder: Path) -> list[int]:
    """Steps in sim.out, complete lines only."""
    file = folder / "sim.out"
    text = file.read_text() if file.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [int(float(line.split()[0])) for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture
def crystal() -> Atoms:
    """Eight atoms in a triclinic cell with the vectors as i-PI has them."""
    atoms = bulk("Si", cubic=True)
    atoms.numbers[::3] = 8
    atoms.set_cell([[5.4, 0, 0], [0.4, 5.5, 0], [-0.3, 0.5, 5.3]], scale_atoms=True)
    atoms.rattle(0.1, seed=1)
    return atoms


@pytest.fixture
def model(tmp_path, write_random_model):
    return write_random_model(tmp_path / "random.pt", ["O", "Si"], scale=1.0)


def internal(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Cell (vectors as columns) and positions in Bohr."""
    from ipi.utils.units import unit_to_internal

    return tuple(unit_to_internal("length", "angstrom", x) for x in (atoms.cell.array.T.copy(), atoms.positions))


def assert_close(found, expected, tolerance):
    """Difference relative to the largest element."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)
