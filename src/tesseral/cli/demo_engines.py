"""The engines that `tesseral demo` runs molecular dynamics in; one more class and one more entry adds an
engine."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

from tesseral.calculator import TesseralCalculator
from tesseral.calculator.ase_calculator import DEFAULT_SKIN
from tesseral.calculator.lammps_box import LammpsBox
from tesseral.calculator.lammps_process import lammps_missing, run_lammps

#: LAMMPS' unit of velocity in `units metal`, Å/ps, in ASE's unit
VELOCITY = 1.0 / (1000.0 * units.fs)


@dataclass(frozen=True)
class Simulation:
    """Constant-energy dynamics, the same in every engine.

    Attributes:
        model: model file.
        atoms: start, with momenta.
        n_steps: steps in all.
        timestep: in fs.
        steps_between_samples: energies are recorded this often.
        steps_between_frames: the structure is kept this often.
        dtype, threads: of the model.
    """

    model: Path
    atoms: Atoms
    n_steps: int
    timestep: float
    steps_between_samples: int
    steps_between_frames: int
    dtype: str
    threads: int


@dataclass
class Run:
    """What an engine recorded; all lists but frames have one entry per sample, the start included.

    Attributes:
        engine: its name.
        times: in ps.
        potential_energies, kinetic_energies: of the system, in eV.
        temperatures: in K.
        frames: structures with momenta, and with energy and forces as results.
        seconds: wall time of the steps alone, without start-up and recording.
    """

    engine: str
    times: list[float] = field(default_factory=list)
    potential_energies: list[float] = field(default_factory=list)
    kinetic_energies: list[float] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)
    frames: list[Atoms] = field(default_factory=list)
    seconds: float = 0.0


class Engine(Protocol):
    """An engine of the demo."""

    name: str

    def missing(self) -> str | None:
        """Why the engine cannot run here, or None if it can."""

    def run(self, simulation: Simulation, advance: Callable[[int], None]) -> Run:
        """Run all steps; `advance` is told how many steps were done since it was last called."""


class AseEngine:
    """Velocity Verlet in ASE, with the native engine as calculator."""

    name = "ASE"

    def missing(self) -> str | None:
        """ASE is always there."""
        return None

    def run(self, simulation: Simulation, advance: Callable[[int], None]) -> Run:
        """See :class:`Engine`."""
        atoms = simulation.atoms.copy()
        atoms.calc = TesseralCalculator(simulation.model, dtype=simulation.dtype, threads=simulation.threads)
        run = Run(self.name)

        def record(step: int) -> None:
            potential, kinetic = float(atoms.get_potential_energy()), float(atoms.get_kinetic_energy())
            _record(run, step, potential, kinetic, simulation)
            if step % simulation.steps_between_frames == 0:
                frame = atoms.copy()
                frame.info = {"step": step, "energy": potential}
                frame.arrays["forces"] = atoms.get_forces()
                run.frames.append(frame)

        record(0)
        with VelocityVerlet(atoms, timestep=simulation.timestep * units.fs) as dynamics:
            for done in range(0, simulation.n_steps, simulation.steps_between_samples):
                chunk = min(simulation.steps_between_samples, simulation.n_steps - done)
                started = time.perf_counter()
                dynamics.run(chunk)
                run.seconds += time.perf_counter() - started
                record(done + chunk)
                advance(chunk)
        return run


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
                _record(run, step, float(sample.group(2)), float(sample.group(3)), simulation)
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
        frame.info = {"step": step, "energy": energies[_picoseconds(step, simulation)]}
        frames.append(frame)
    return frames


def _loop_seconds(output: str) -> float:
    """Wall time of LAMMPS' steps without that of its output."""
    (loop,) = re.findall(r"^Loop time of (\S+)", output, re.MULTILINE)
    (writing,) = re.findall(r"^Output +\| +(\S+)", output, re.MULTILINE)
    return float(loop) - float(writing)


#: every engine that exists so far, in the order in which they run
ENGINES: tuple[Engine, ...] = (AseEngine(), LammpsEngine())


def _picoseconds(step: int, simulation: Simulation) -> float:
    return step * simulation.timestep / 1000.0


def _record(run: Run, step: int, potential_energy: float, kinetic_energy: float, simulation: Simulation) -> None:
    """Add the energies (eV) after `step` steps to the run."""
    run.times.append(_picoseconds(step, simulation))
    run.potential_energies.append(potential_energy)
    run.kinetic_energies.append(kinetic_energy)
    run.temperatures.append(2.0 * kinetic_energy / (3.0 * len(simulation.atoms) * units.kB))


def set_thermal_momenta(atoms: Atoms, temperature: float, seed: int) -> None:
    """Momenta of a Maxwell-Boltzmann distribution at `temperature` (K), without motion of the centre of
    mass."""
    generator = np.random.default_rng(seed)
    spread = np.sqrt(atoms.get_masses() * units.kB * temperature)
    momenta = generator.normal(size=(len(atoms), 3)) * spread[:, None]
    momenta -= atoms.get_masses()[:, None] * momenta.sum(axis=0) / atoms.get_masses().sum()
    atoms.set_momenta(momenta)
