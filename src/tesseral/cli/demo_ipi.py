"""The engine of `tesseral demo` that is i-PI."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from tesseral.calculator.ase_calculator import DEFAULT_SKIN
from tesseral.calculator.ipi_process import DRIVER, SOCKETS_PREFIX, ipi_missing, run_ipi, xyz_frame
from tesseral.calculator.lammps_box import LammpsBox
from tesseral.cli.demo_simulation import Run, Simulation, picoseconds, record_energies

#: seconds for i-PI, and for each atom in each step; far more than a slow machine needs
PATIENCE, PATIENCE_PER_ATOM = 300.0, 1e-3
INPUT = """\
<simulation verbosity='high' floatformat='%24.16e' sockets_prefix='{prefix}'>
<output prefix='run'>
  <properties stride='{sample}' filename='out'>
    [ step, potential{{electronvolt}}, kinetic_md{{electronvolt}} ]
  </properties>
  <trajectory stride='{frame}' filename='positions' format='ase'> positions </trajectory>
  <trajectory stride='{frame}' filename='velocities' format='ase'> velocities </trajectory>
  <trajectory stride='{frame}' filename='forces' format='ase'> forces </trajectory>
</output>
<total_steps>{steps}</total_steps>
<ffdirect name='tesseral' pbc='false'>
  <pes>custom</pes><pes_path>{driver}</pes_path>
  <parameters>
    {{ model: model.pt, template: template.extxyz, dtype: {dtype}, threads: {threads}, skin: {skin} }}
  </parameters>
</ffdirect>
<system>
  <initialize nbeads='1'>
    <file mode='xyz'>start.xyz</file>
    <masses mode='manual' units='dalton'>{masses}</masses>
    <velocities mode='xyz' units='m/s'>velocities.xyz</velocities>
  </initialize>
  <forces><force forcefield='tesseral'/></forces>
  <motion mode='dynamics'>
    <fixcom>False</fixcom>
    <dynamics mode='nve'><timestep units='femtosecond'>{timestep}</timestep></dynamics>
  </motion>
  <ensemble><temperature units='kelvin'>300</temperature></ensemble>
</system>
</simulation>
"""


class IpiEngine:
    """Constant-energy dynamics of one bead in i-PI, with the driver inside it."""

    name = "i-PI"

    def missing(self) -> str | None:
        """See :class:`Engine`."""
        return ipi_missing()

    def run(self, simulation: Simulation, advance: Callable[[int], None]) -> Run:
        """See :class:`Engine`.

        Raises:
            IpiError: i-PI stopped, with its own message.
        """
        run = Run(self.name)
        last_step = n_read = 0

        def watch() -> None:
            nonlocal last_step, n_read
            new = _complete_lines(folder / "run.out", n_read)
            n_read += len(new)
            for line in new.decode().splitlines():
                if not line.startswith("#"):
                    step, potential, kinetic = map(float, line.split())
                    record_energies(run, int(step), potential, kinetic, simulation)
                    advance(int(step) - last_step)
                    last_step = int(step)

        box = LammpsBox(simulation.atoms, margin=DEFAULT_SKIN)
        patience = PATIENCE + PATIENCE_PER_ATOM * simulation.n_steps * len(simulation.atoms)
        with tempfile.TemporaryDirectory(prefix="tesseral-demo-") as name:
            folder = Path(name)
            _write_files(folder, simulation, box)
            output = run_ipi(folder, timeout=patience, watch=watch)
            run.frames = _frames(folder, simulation, box, run)
        advance(simulation.n_steps - last_step)
        run.seconds = _seconds(output, simulation)
        return run


def _complete_lines(path: Path, start: int) -> bytes:
    """Complete lines behind the byte `start` of a file that is still being written, or does not exist yet."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(start)
        text = file.read()
    return text[: text.rfind(b"\n") + 1]


def _write_files(folder: Path, simulation: Simulation, box: LammpsBox) -> None:
    """i-PI's input and the structure."""
    atoms, cell = simulation.atoms, box.cell.T
    symbols = atoms.get_chemical_symbols()
    velocities = atoms.get_velocities() @ box.frame.T / (units.m / units.s)
    (folder / "model.pt").symlink_to(simulation.model.resolve())  # whatever letters are in its name
    Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc).write(folder / "template.extxyz")
    (folder / "start.xyz").write_text(xyz_frame(symbols, cell, box.positions, "positions{angstrom}"))
    (folder / "velocities.xyz").write_text(xyz_frame(symbols, cell, velocities, "velocities{m/s}"))
    text = INPUT.format(
        prefix=SOCKETS_PREFIX,
        sample=simulation.steps_between_samples,
        frame=simulation.steps_between_frames,
        steps=simulation.n_steps,
        driver=escape(str(DRIVER)),
        dtype=simulation.dtype,
        threads=simulation.threads,
        skin=DEFAULT_SKIN,
        masses=atoms.get_masses().tolist(),
        timestep=simulation.timestep,
    )
    (folder / "input.xml").write_text(text, encoding="utf-8")


def _frames(folder: Path, simulation: Simulation, box: LammpsBox, run: Run) -> list[Atoms]:
    """Frames of i-PI's trajectories, which have ASE's units, in ASE's orientation."""
    energies = dict(zip(run.times, run.potential_energies, strict=True))
    names = ("positions", "velocities", "forces")
    vectors = [_trajectory(folder / f"run.{name}_0.extxyz", len(simulation.atoms)) for name in names]
    frames = []
    for index, (positions, velocities, forces) in enumerate(zip(*vectors, strict=True)):
        step = index * simulation.steps_between_frames
        frame = simulation.atoms.copy()
        frame.positions = box.positions_in_ase(positions)
        frame.set_velocities(box.vectors_in_ase(velocities))
        frame.arrays["forces"] = box.vectors_in_ase(forces)
        frame.info = {"step": step, "energy": energies[picoseconds(step, simulation)]}
        frames.append(frame)
    return frames


def _trajectory(path: Path, n_atoms: int) -> NDArray[np.float64]:
    """Last three columns of extended XYZ, [n_frames, n_atoms, 3]."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.split()[-3:] for number, line in enumerate(lines) if number % (n_atoms + 2) >= 2]
    return np.array(rows, dtype=np.float64).reshape(-1, n_atoms, 3)


def _seconds(output: str, simulation: Simulation) -> float:
    """Wall time of all steps, as long as those are that write nothing."""
    timings = re.findall(r"Average timings at MD step +(\d+)\. t/step: (\S+)", output)
    silent = [float(seconds) for step, seconds in timings if (int(step) + 1) % simulation.steps_between_samples]
    return float(np.mean(silent)) * simulation.n_steps
