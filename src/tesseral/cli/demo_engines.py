"""The engines that `tesseral demo` runs molecular dynamics in; one more class and one more entry adds an
engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

from tesseral.calculator import TesseralCalculator


@dataclass(frozen=True)
class Simulation:
    """Constant-energy dynamics, the same in every engine.

    Attributes:
        model: model file.
        atoms: start, with momenta.
        n_steps: steps in all.
        timestep: in fs.
        steps_between_samples: energies are recorded this often.
        samples_between_frames: every so many samples the structure is kept.
        dtype, threads: of the model.
    """

    model: Path
    atoms: Atoms
    n_steps: int
    timestep: float
    steps_between_samples: int
    samples_between_frames: int
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
        _record(run, atoms, 0, simulation)
        with VelocityVerlet(atoms, timestep=simulation.timestep * units.fs) as dynamics:
            for done in range(0, simulation.n_steps, simulation.steps_between_samples):
                chunk = min(simulation.steps_between_samples, simulation.n_steps - done)
                started = time.perf_counter()
                dynamics.run(chunk)
                run.seconds += time.perf_counter() - started
                _record(run, atoms, done + chunk, simulation)
                advance(chunk)
        return run


#: every engine that exists so far, in the order in which they run
ENGINES: tuple[Engine, ...] = (AseEngine(),)


def _record(run: Run, atoms: Atoms, step: int, simulation: Simulation) -> None:
    """Add the state of `atoms` after `step` steps to the run."""
    if len(run.times) % simulation.samples_between_frames == 0:
        frame = atoms.copy()
        frame.info = {"step": step, "energy": atoms.get_potential_energy()}
        frame.arrays["forces"] = atoms.get_forces()
        run.frames.append(frame)
    run.times.append(step * simulation.timestep / 1000.0)
    run.potential_energies.append(float(atoms.get_potential_energy()))
    run.kinetic_energies.append(float(atoms.get_kinetic_energy()))
    run.temperatures.append(float(atoms.get_temperature()))


def set_thermal_momenta(atoms: Atoms, temperature: float, seed: int) -> None:
    """Momenta of a Maxwell-Boltzmann distribution at `temperature` (K), without motion of the centre of
    mass."""
    generator = np.random.default_rng(seed)
    spread = np.sqrt(atoms.get_masses() * units.kB * temperature)
    momenta = generator.normal(size=(len(atoms), 3)) * spread[:, None]
    momenta -= atoms.get_masses()[:, None] * momenta.sum(axis=0) / atoms.get_masses().sum()
    atoms.set_momenta(momenta)
