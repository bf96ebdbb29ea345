"""ASE and LAMMPS give the same physics: energy drift, pressure and structure of the liquid, volume of the crystal.

`python -m tesseral.benchmarks.agreement [PICOSECONDS]` runs the same silicon in both engines, each with its own
integrators, thermostats and barostats, and prints averages with standard errors of block averages, and how many
standard errors lie between the engines.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray

from tesseral.calculator import TesseralCalculator
from tesseral.calculator.lammps_box import LammpsBox
from tesseral.calculator.lammps_process import run_lammps
from tesseral.cli.demo_simulation import set_thermal_momenta

MODEL = "silicon"
LIQUID, SOLID = 2500.0, 1000.0  # K
LIQUID_DENSITY = 2.5  # g/cm^3
SAMPLE = 20  # steps of 1 fs
N_BLOCKS = 10
RADII = np.linspace(1.8, 6.0, 43)  # Å, edges of the histogram


@dataclass
class Estimate:
    """An average and its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, series: NDArray[np.float64]) -> Estimate:
        """From a time series [n], by block averages."""
        blocks = np.array([block.mean() for block in np.array_split(series, N_BLOCKS)])
        return cls(float(blocks.mean()), float(blocks.std(ddof=1) / np.sqrt(N_BLOCKS)))

    def sigmas_from(self, other: Estimate) -> float:
        """Difference in units of its standard error."""
        return float(abs(self.value - other.value) / np.hypot(self.error, other.error))


@dataclass
class Samples:
    """What one engine's run gave.

    Attributes:
        energies: total energy [n] in eV, one per SAMPLE steps.
        pressures: [n] in GPa, kinetic part included.
        volumes: [n] in Å^3.
        distribution: pair distribution function [n, 42] on RADII.
    """

    energies: NDArray[np.float64]
    pressures: NDArray[np.float64]
    volumes: NDArray[np.float64]
    distribution: NDArray[np.float64]


def run_ase(atoms: Atoms, dynamics: MolecularDynamics, n_steps: int) -> Samples:
    """Run `dynamics` of `atoms`, which have a calculator."""
    rows: list[tuple[float, float, float]] = []
    distribution = []
    for _ in range(n_steps // SAMPLE):
        dynamics.run(SAMPLE)
        pressure = -atoms.get_stress(include_ideal_gas=True)[:3].mean() / units.GPa
        rows.append((atoms.get_total_energy(), pressure, atoms.get_volume()))
        distribution.append(pair_distribution(atoms.positions, atoms.cell.lengths()))
    energies, pressures, volumes = np.array(rows).T
    return Samples(energies, pressures, volumes, np.array(distribution))


def run_in_lammps(atoms: Atoms, fixes: str, n_steps: int) -> Samples:
    """Run LAMMPS from the same atoms and velocities; `fixes` are its integrators."""
    box = LammpsBox(atoms, 0.0)
    velocities = atoms.get_velocities() * (1000.0 * units.fs)  # Å/ps
    types = np.ones(len(atoms), dtype=np.int64)
    deck = f"""
units metal
read_data start.data
pair_style tesseral
pair_coeff * * {MODEL} Si
neighbor 1.0 bin
timestep 0.001
{fixes}
thermo_style custom step etotal press vol lx
thermo_modify format float %.15g
thermo {SAMPLE}
dump frames all custom {SAMPLE} frames id x y z
dump_modify frames sort id first no
run {n_steps}
"""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "start.data").write_text(box.data_file(types, [atoms.get_masses()[0]], 1.0, velocities))
        output = run_lammps(deck, folder)
        rows = np.array([line.split() for line in _table(output)], dtype=np.float64)[1:]
        lengths = rows[:, 4]
        frames = _frames(folder / "frames", len(atoms))
        distribution = [pair_distribution(x, np.full(3, a)) for x, a in zip(frames, lengths, strict=False)]
    return Samples(rows[:, 1], rows[:, 2] * 1e-4, rows[:, 3], np.array(distribution))


def _table(output: str) -> list[str]:
    lines = output.splitlines()
    start = next(k for k, line in enumerate(lines) if line.split()[:1] == ["Step"])
    end = next(k for k, line in enumerate(lines) if line.startswith("Loop time"))
    return lines[start + 1 : end]


def _frames(path: Path, n_atoms: int) -> Iterator[NDArray[np.float64]]:
    lines = path.read_text().splitlines()
    for start in range(0, len(lines), n_atoms + 9):
        block = lines[start + 9 : start + 9 + n_atoms]
        yield np.array([line.split()[1:] for line in block], dtype=np.float64)


def pair_distribution(positions: NDArray[np.float64], lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """g(r) [42] of atoms in an orthogonal box whose edges are at least twice the largest radius."""
    vectors = positions[:, None] - positions[None]
    vectors -= lengths * np.round(vectors / lengths)
    distances = np.sqrt((vectors**2).sum(-1))[np.triu_indices(len(positions), 1)]
    counts, _ = np.histogram(distances, RADII)
    shells = 4.0 / 3.0 * np.pi * np.diff(RADII**3)
    return counts / (shells * len(positions) ** 2 / 2.0 / np.prod(lengths))


def start_of(atoms: Atoms, temperature: float, seed: int) -> Atoms:
    """A copy with momenta and the calculator."""
    started = atoms.copy()
    set_thermal_momenta(started, temperature, seed)
    started.calc = TesseralCalculator(MODEL)
    return started


def liquid() -> Atoms:
    """216 atoms of liquid silicon, molten for 10 ps at 4000 K and cooled for 5 ps."""
    volume_per_atom = 28.0855 * 1.66053906660 / LIQUID_DENSITY
    atoms = start_of(bulk("Si", a=(8.0 * volume_per_atom) ** (1 / 3), cubic=True) * 3, 8000.0, 1)
    generator = np.random.default_rng(2)
    for temperature, n_steps in ((4000.0, 10_000), (LIQUID, 5_000)):
        Langevin(atoms, units.fs, temperature_K=temperature, friction=0.02 / units.fs, fixcm=False, rng=generator).run(
            n_steps
        )
    return atoms


def report(name: str, one: NDArray[np.float64], other: NDArray[np.float64], unit: str) -> None:
    """Print the averages of two time series."""
    a, b = Estimate.of(one), Estimate.of(other)
    print(
        f"{name}: ASE {a.value:.5g} +- {a.error:.2g}, LAMMPS {b.value:.5g} +- {b.error:.2g} {unit}, "
        f"{a.sigmas_from(b):.1f} standard errors apart",
        flush=True,
    )


def drift(samples: Samples, n_atoms: int) -> str:
    """Change of the fitted total energy over the run, per atom, and the noise about the fit."""
    times = np.arange(len(samples.energies))
    slope, offset = np.polyfit(times, samples.energies, 1)
    noise = np.std(samples.energies - slope * times - offset)
    return f"{slope * len(times) / n_atoms:.1e} eV/atom (noise {noise / n_atoms:.1e})"


def main(picoseconds: float) -> None:
    """Run and print everything; `picoseconds` is the length of each production run."""
    n_steps = int(picoseconds * 1000)
    crystal = bulk("Si", a=5.47, cubic=True)

    atoms = start_of(crystal * 5, 2 * SOLID, 3)
    lammps = run_in_lammps(atoms, "fix 1 all nve", min(n_steps, 20_000))
    ase = run_ase(atoms, VelocityVerlet(atoms, units.fs), min(n_steps, 20_000))
    for engine, samples in (("ASE", ase), ("LAMMPS", lammps)):
        print(f"drift of 1,000 atoms in {min(picoseconds, 20):g} ps, {engine}: {drift(samples, 1000)}", flush=True)

    atoms = liquid()
    lammps = run_in_lammps(atoms, f"fix 1 all nve\nfix 2 all langevin {LIQUID} {LIQUID} 0.1 17", n_steps)
    generator = np.random.default_rng(4)
    langevin = Langevin(atoms, units.fs, temperature_K=LIQUID, friction=0.01 / units.fs, fixcm=False, rng=generator)
    ase = run_ase(atoms, langevin, n_steps)
    report(f"pressure of the liquid at {LIQUID:g} K", ase.pressures, lammps.pressures, "GPa")
    apart = [
        Estimate.of(a).sigmas_from(Estimate.of(b))
        for a, b in zip(ase.distribution.T, lammps.distribution.T, strict=True)
        if a.any() and b.any()
    ]
    difference = np.abs(ase.distribution.mean(0) - lammps.distribution.mean(0)).max()
    print(
        f"g(r) of the liquid: largest difference {difference:.3f} (first peak {ase.distribution.mean(0).max():.2f}), "
        f"standard errors apart: {np.sqrt(np.mean(np.square(apart))):.2f} (root mean square of {len(apart)} radii), "
        f"{max(apart):.1f} (largest)",
        flush=True,
    )

    atoms = start_of(crystal * 3, 2 * SOLID, 5)
    fix = f"fix 1 all npt temp {SOLID} {SOLID} 0.1 iso 0 0 1.0"
    lammps = run_in_lammps(atoms, fix, n_steps + 10_000)
    barostat = IsotropicMTKNPT(atoms, units.fs, SOLID, 0.0, tdamp=100 * units.fs, pdamp=1000 * units.fs)
    ase = run_ase(atoms, barostat, n_steps + 10_000)
    skip = 10_000 // SAMPLE
    report(f"volume per atom at {SOLID:g} K, 0 GPa", ase.volumes[skip:] / 216, lammps.volumes[skip:] / 216, "Å^3")
    report("its pressure", ase.pressures[skip:], lammps.pressures[skip:], "GPa")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 100.0)
