"""The engines that `tesseral demo` runs molecular dynamics in; one more class and one more entry adds an
engine."""

from __future__ import annotations

import time
from collections.abc import Callable

from ase import units
from ase.md.verlet import VelocityVerlet

from tesseral.calculator import TesseralCalculator
from tesseral.cli.demo_ipi import IpiEngine
from tesseral.cli.demo_lammps import LammpsEngine
from tesseral.cli.demo_simulation import Engine, Run, Simulation, record_energies


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
            record_energies(run, step, potential, kinetic, simulation)
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


#: every engine that exists so far, in the order in which they run
ENGINES: tuple[Engine, ...] = (AseEngine(), LammpsEngine(), IpiEngine())
