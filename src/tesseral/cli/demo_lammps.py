"""The engine of `tesseral demo` that is LAMMPS."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms, units

from tesseral.calculator.ase_calculator import DEFAULT_SKIN
from tesseral.calculator.lammps_box import LammpsBox
from tesseral.calculator.lammps_process import lammps_missing, run_lammps
from tesseral.cli.demo_simulation import Run, Simulation, picoseconds, record_energies

#: LAMMPS' unit of velocity in `units metal`, Å/ps, in ASE's unit
VELOCITY = 1.0 / (1000.0 * units.fs)


class LammpsEngine:
    """`fix nve` in LAMMPS on one rank, with the native pair style."""

    name = "LAMMPS"

    def missing(self) -> str | None:
        """See :class:`Engine`."""
        return lammps_missing()

    def run(self, simulation: Simulation, advance: Callable[[int], None]) -> Run:
        """See :class:`Engine`.

        Raises:
            LammpsError: LAMMPS stopped, with its own message.
        """
        run = Run(self.name)
        last_step = 0

        def watch(line: str) -> None:
            nonlocal last_step
            sample = re.fullmatch(r" *(\d+) +(\S+) +(\S+) *\n", line)  # the thermodynamic output
            if sample is not None:
                step = int(sample.group(1))
                record_energies(run, step, float(sample.group(2)), float(sample.group(3)), simulation)
                advance(step - last_step)
                last_step = step

        box = LammpsBox(simulation.atoms, margin=DEFAULT_SKIN)
        with tempfile.TemporaryDirectory(prefix="tesseral-demo-") as name:
            folder = Path(name)
            output = run_lammps(_deck(simulation, box, folder), folder, watch=watch)
            run.frames = _frames(folder / "frames.dump", simulation, box, run)
        run.seconds = _loop_seconds(output)
        return run


def _deck(simulation: Simulation, box: LammpsBox, folder: Path) -> str:
    """Input deck of the simulation; its data file is written to `folder`."""
    atoms = simulation.atoms
    elements, first, types = np.unique(atoms.get_chemical_symbols(), return_index=True, return_inverse=True)
    masses = atoms.get_masses()[first].tolist()
    data = box.data_file(types + 1, masses, 1.0, atoms.get_velocities() / VELOCITY)
    (folder / "start.data").write_text(data, encoding="utf-8")
    return f"""\
units metal
boundary {box.boundary}
read_data start.data
pair_style tesseral precision {simulation.dtype} threads {simulation.threads}
pair_coeff * * "{simulation.model.resolve()}" {" ".join(elements)}
neighbor {DEFAULT_SKIN} bin
neigh_modify every 1 delay 0 check yes
timestep {simulation.timestep / 1000.0}
fix dynamics all nve
thermo {simulation.steps_between_samples}
thermo_style custom step pe ke
thermo_modify format float %.17g flush yes
dump frames all custom {simulation.steps_between_frames} frames.dump id xu yu zu vx vy vz fx fy fz
dump_modify frames sort id format float %.17g
run {simulation.n_steps}
"""


def _frames(path: Path, simulation: Simulation, box: LammpsBox, run: Run) -> list[Atoms]:
    """Frames of LAMMPS' dump file in ASE's orientation and units."""
    lines = path.read_text(encoding="utf-8").splitlines()
    energies = dict(zip(run.times, run.potential_energies, strict=True))
    n_atoms, header = len(simulation.atoms), 9
    frames = []
    for start in range(0, len(lines), header + n_atoms):
        step = int(lines[start + 1])
        table = np.loadtxt(lines[start + header : start + header + n_atoms], ndmin=2)
        frame = simulation.atoms.copy()
        frame.positions = box.positions_in_ase(table[:, 1:4])
        frame.set_velocities(box.vectors_in_ase(table[:, 4:7]) * VELOCITY)
        frame.arrays["forces"] = box.vectors_in_ase(table[:, 7:10])
        frame.info = {"step": step, "energy": energies[picoseconds(step, simulation)]}
        frames.append(frame)
    return frames


def _loop_seconds(output: str) -> float:
    """Wall time of LAMMPS' steps without that of its output."""
    (loop,) = re.findall(r"^Loop time of (\S+)", output, re.MULTILINE)
    (writing,) = re.findall(r"^Output +\| +(\S+)", output, re.MULTILINE)
    return float(loop) - float(writing)
