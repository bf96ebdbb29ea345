"""Runs of the real i-PI with the driver, with LAMMPS and with ASE's client; kills, restarts and errors."""

from __future__ import annotations

import re
import signal
import socket
import struct
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.socketio import SocketClient
from ipi_runs import (
    NPT,
    PROGRAMS,
    SERVER,
    address,
    assert_close,
    crystal,
    ffdirect,
    ffsocket,
    free_port,
    internal,
    last_step,
    model,
    needs_ipi,
    runs,
    steps_written,
    write_input,
)
from lammps_decks import needs_lammps

from tesseral.calculator import TesseralCalculator
from tesseral.calculator.lammps_box import LammpsBox

__all__ = ["address", "crystal", "model", "runs"]  # fixtures

pytestmark = needs_ipi


def assert_equals_ase(
    results: dict[str, np.ndarray], calculator: TesseralCalculator, template: Atoms, tolerance: float
):
    """i-PI's last step against the ASE calculator, by i-PI's constants."""
    from ipi.utils.units import unit_to_internal, unit_to_user

    atoms = template.copy()
    atoms.calc = calculator
    for bead in range(len(results["q"])):
        atoms.positions = unit_to_user("length", "angstrom", results["q"][bead].reshape(-1, 3))
        atoms.set_cell(unit_to_user("length", "angstrom", results["h"].T))
        energy = unit_to_internal("energy", "electronvolt", atoms.get_potential_energy())
        np.testing.assert_allclose(results["pots"][bead], energy, rtol=tolerance)
        forces = unit_to_internal("force", "ev/ang", atoms.get_forces())
        assert_close(results["f"][bead].reshape(-1, 3), forces, tolerance)
        if atoms.pbc.all():
            virial = -atoms.get_volume() * unit_to_internal("energy", "electronvolt", atoms.get_stress(voigt=False))
            assert_close(results["virs"][bead], np.triu(virial), tolerance)  # i-PI keeps the upper triangle
        if len(results["extras"]):
            energies = unit_to_internal("energy", "electronvolt", atoms.get_potential_energies())
            np.testing.assert_allclose(results["extras"][bead], energies, rtol=tolerance)


BATCH = "<batch_size>{}</batch_size>"
EXTRAS = "<trajectory filename='e' extra_type='atomic_energies'> extras </trajectory>"


@pytest.mark.parametrize(
    ("mode", "batch_size", "n_drivers"), [("unix", 4, 1), ("inet", 1, 2), ("shm", 3, 2)], ids=["unix", "inet", "shm"]
)
def test_sockets_at_constant_pressure_equal_ase(runs, address, model, crystal, mode, batch_size, n_drivers):
    """Three ways to connect; four beads in one batch, shared by two drivers, or in a batch and a padded one."""
    port = free_port()
    socket_ = ffsocket("localhost" if mode == "inet" else address, mode=mode, port=port, extra=BATCH.format(batch_size))
    write_input(runs.folder, crystal, socket_, beads=4, dynamics=NPT, trajectory=EXTRAS)
    server = runs.server()
    connection = {"unix": ["-u", "-a", address], "inet": ["-p", str(port)], "shm": ["--shm", "-a", address]}[mode]
    options = "model=random.pt,template=init.xyz,dtype=float64,atomic_energies=true"
    drivers = [runs.driver(options, *connection) for _ in range(n_drivers)]
    assert server.wait() == 0, server.output
    for driver in drivers:
        assert driver.wait() == 0, driver.output
        assert "Bye bye" in driver.output and "Traceback" not in driver.output, driver.output
    results = last_step(runs.folder)
    assert not np.allclose(results["h"], internal(crystal)[0], rtol=1e-6)  # the cell has changed
    assert not np.allclose(results["q"][0], results["q"][1], rtol=0, atol=1e-6)
    assert_equals_ase(results, TesseralCalculator(model, dtype="float64"), crystal, 1e-9)


def test_a_molecule_in_shared_memory_equals_ase(runs, address):
    atoms = Atoms("C2O2H4", molecule("HCOOCH3").positions)
    write_input(runs.folder, atoms, ffsocket(address, mode="shm"), beads=2, cell=20 * np.eye(3))
    server = runs.server()
    driver = runs.driver("model=acac,template=init.xyz,dtype=float64,pbc=FFF", "--shm", "-a", address)
    assert server.wait() == driver.wait() == 0, server.output + driver.output
    assert_equals_ase(last_step(runs.folder), TesseralCalculator("acac", dtype="float64"), atoms, 1e-9)


@pytest.mark.parametrize(("threaded", "batch_size"), [(False, 4), (True, 3)])
def test_the_driver_inside_ipi_equals_ase(runs, crystal, threaded, batch_size):
    parameters = "model: silicon, template: init.xyz, dtype: float64, threads: 1, skin: 0.5"
    crystal.numbers[:] = 14
    forcefield = ffdirect(parameters, threaded=threaded, batch_size=batch_size)
    write_input(runs.folder, crystal, forcefield, beads=4, dynamics=NPT)
    server = runs.start(sys.executable, "-c", SERVER)
    assert server.wait() == 0, server.output
    assert_equals_ase(last_step(runs.folder), TesseralCalculator("silicon", dtype="float64"), crystal, 1e-9)


def test_the_input_in_the_documentation_runs(runs, address):
    text = (Path(__file__).parent.parent / "docs" / "ipi.md").read_text()
    (runs.folder / "input.xml").write_text(
        text.split("```xml complete\n")[1].split("```")[0].replace("silicon-run", address)
    )
    (bulk("Si", a=5.469, cubic=True) * 2).write(runs.folder / "start.extxyz")
    server = runs.server(PROGRAMS / "i-pi", "input.xml")
    driver = runs.driver("model=silicon,template=start.extxyz", "-u", "-a", address)
    assert server.wait() == driver.wait() == 0, server.output + driver.output
    conserved = np.loadtxt(runs.folder / "silicon.out")[:, 2]
    assert len(conserved) == 21 and np.ptp(conserved) < 0.05  # eV


def test_the_socket_client_of_ase_with_the_calculator_serves_ipi(runs, address, crystal, model):
    write_input(runs.folder, crystal, ffsocket(address), beads=2, dynamics=NPT)
    server = runs.server()
    calculator = TesseralCalculator(model, dtype="float64")
    atoms = crystal.copy()
    atoms.calc = calculator
    SocketClient(unixsocket=address, timeout=60).run(atoms, use_stress=True)
    assert server.wait() == 0, server.output
    # ASE converts with constants of its own, which differ by 1e-7
    assert_equals_ase(last_step(runs.folder), calculator, crystal, 1e-6)


@needs_lammps
def test_lammps_with_the_pair_style_serves_ipi(runs, address, crystal, model):
    write_input(runs.folder, crystal, ffsocket(address), beads=2, dynamics=NPT)
    types = np.where(crystal.numbers == 8, 1, 2)
    (runs.folder / "start.data").write_text(LammpsBox(crystal, 5.0).data_file(types, [15.999, 28.0855], 1.0))
    (runs.folder / "in.lammps").write_text(
        "units metal\natom_style atomic\natom_modify map yes\nread_data start.data\n"
        "pair_style tesseral precision float64\npair_coeff * * random.pt O Si\n"
        f"fix 1 all ipi {address} 31415 unix\nrun 100000\n"
    )
    server = runs.server()
    runs.start(PROGRAMS / "lmp", "-in", "in.lammps", "-log", "none")
    assert server.wait() == 0, server.output
    # LAMMPS converts with constants of its own, which differ by 1e-7
    assert_equals_ase(last_step(runs.folder), TesseralCalculator(model, dtype="float64"), crystal, 1e-6)


#: the driver, with something to happen at one of its calls
SPECIAL = """
import time
from tesseral.calculator.ipi_driver import TesseralDriver

__DRIVER_NAME__ = "special"
__DRIVER_CLASS__ = "Special"

class Special(TesseralDriver):
    n_calls = 0

    def compute(self, cell, pos):
        self.n_calls += 1
        if self.n_calls == {call}:
            {event}
        return super().compute(cell, pos)
"""


def test_a_driver_killed_at_work_and_a_killed_server_can_be_started_again(runs, address, crystal, model):
    checkpoint = "<checkpoint filename='chk' stride='1' overwrite='true'/>"
    forcefield = ffsocket(address, extra=BATCH.format(2))
    write_input(runs.folder, crystal, forcefield, beads=2, steps=10**6, trajectory=checkpoint)
    options, connection = "model=random.pt,template=init.xyz", ("-u", "-a", address)
    (runs.folder / "special.py").write_text(SPECIAL.format(call=10, event="print('asleep'); time.sleep(1000)"))

    def progress(server, n_steps=5):
        target = max(steps_written(runs.folder), default=0) + n_steps
        server.wait_until(lambda: max(steps_written(runs.folder), default=0) >= target)

    server = runs.server(PROGRAMS / "i-pi", "input.xml")
    driver = runs.driver(options, *connection, path=runs.folder / "special.py")
    driver.wait_until(lambda: "asleep" in driver.output)
    driver.kill()
    driver.wait()
    assert steps_written(runs.folder) == list(range(9))
    driver = runs.driver(options, *connection)
    progress(server)
    driver.kill(signal.SIGTERM)
    assert driver.wait() == 143 and "Traceback" not in driver.output, driver.output
    driver = runs.driver(options, *connection)
    progress(server, n_steps=50)
    server.kill(signal.SIGTERM)
    assert server.wait() == driver.wait() == 0, server.output + driver.output

    server = runs.server(PROGRAMS / "i-pi", "RESTART")
    driver = runs.driver(options, *connection)
    progress(server)
    server.kill()
    server.wait()
    assert driver.wait() == 1, driver.output
    assert f"tesseral: i-PI at /tmp/ipi_{address} has gone: start it again with its last RESTART" in driver.output
    late = runs.driver(options, *connection)
    assert late.wait() == 1
    assert f"tesseral: no i-PI listens at /tmp/ipi_{address} (Connection refused): remove the file" in late.output
    assert "Traceback" not in driver.output + late.output
    steps = steps_written(runs.folder)
    assert sorted(set(steps)) == list(range(max(steps) + 1))


@pytest.mark.parametrize(("threaded", "call"), [(False, 1), (False, 7), (True, 1), (True, 7)])
def test_an_error_inside_ipi_ends_it_with_a_message_and_a_restart_file(runs, crystal, model, threaded, call):
    (runs.folder / "special.py").write_text(SPECIAL.format(call=call, event="pos = pos * float('nan')"))
    parameters = "model: random.pt, template: init.xyz"
    forcefield = ffdirect(parameters, threaded=threaded, path=runs.folder / "special.py")
    write_input(runs.folder, crystal, forcefield, steps=1000)
    server = runs.start(PROGRAMS / "i-pi", "input.xml")
    assert server.wait() == 1, server.output
    assert "tesseral: atom 0 has the position [nan, nan, nan]: every coordinate must be finite" in server.output
    assert "Traceback" not in server.output
    restart = (runs.folder / "RESTART").read_text()
    step = re.search(r"<step>\s*(\d+)\s*</step>", restart)  # not written for step 0
    assert (int(step[1]) if step else 0) == max(call - 2, 0)  # the first call is for step 0
    assert steps_written(runs.folder) == list(range(call - 1)) or call == 1


def test_errors_at_the_start_end_the_programs_with_one_line(runs, address, crystal, model):
    write_input(runs.folder, crystal, ffdirect("model: random.pt, template: no.xyz"))
    server = runs.start(PROGRAMS / "i-pi", "input.xml")
    port = free_port()
    drivers = {
        "template no.xyz: no such file": runs.driver("model=random.pt,template=no.xyz", "-u", "-a", address),
        f"there is no socket /tmp/ipi_{address}: start": runs.driver("random.pt,init.xyz", "-u", "-a", address),
        f"no i-PI listens at localhost:{port} (Connection refused): start i-PI first": runs.driver(
            "model=random.pt,template=init.xyz", "-p", str(port)
        ),
    }
    for message, program in [("template no.xyz: no such file", server), *drivers.items()]:
        assert program.wait() == 1
        assert f"tesseral: {message}" in program.output and "Traceback" not in program.output, program.output


def serve(server: socket.socket, pos: np.ndarray | None, batch_size: int = 1) -> None:
    """As i-PI up to one request; without positions it leaves after the handshake."""
    connection, _ = server.accept()
    with connection:
        connection.settimeout(60)
        connection.sendall(b"STATUS      ")
        assert connection.recv(12) == b"NEEDINIT    "
        if pos is None:
            return
        connection.sendall(b"INIT        " + struct.pack("ii", 0, 1) + b" ")
        cell = 10 * np.eye(3)
        connection.sendall(
            b"POSDATA     " + cell.tobytes() + cell.tobytes() + struct.pack("i", len(pos)) + pos.tobytes()
        )
        connection.recv(12)


@pytest.mark.parametrize(
    ("n_atoms", "value", "message"),
    [
        (8, np.nan, "atom 0 has the position [nan, nan, nan]: every coordinate must be finite"),
        (7, 1.0, "i-PI sends 7 atoms, but the template init.xyz has 8: use the structure of i-PI's input"),
        (0, 0.0, "has gone: start it again"),
    ],
)
def test_a_request_that_cannot_be_served_ends_the_driver(runs, address, crystal, model, n_atoms, value, message):
    write_input(runs.folder, crystal, "")
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(60)
        server.bind(f"/tmp/ipi_{address}")
        server.listen()
        thread = threading.Thread(target=serve, args=(server, np.full((n_atoms, 3), value) if n_atoms else None))
        thread.start()
        driver = runs.driver("model=random.pt,template=init.xyz", "-u", "-a", address)
        assert driver.wait() == 1, driver.output
        thread.join(60)
    assert message in driver.output and "Traceback" not in driver.output, driver.output
