"""What the engines of `tesseral demo` share: the simulation, what they record, and how it starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from ase import Atoms, units


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


def picoseconds(step: int, simulation: Simulation) -> float:
    """Time after `step` steps."""
    return step * simulation.timestep / 1000.0


def record_energies(
    run: Run, step: int, potential_energy: float, kinetic_energy: float, simulation: Simulation
) -> None:
    """Add the energies (eV) after `step` steps to the run."""
    run.times.append(picoseconds(step, simulation))
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
