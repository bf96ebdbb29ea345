"""What `tesseral demo` leaves behind: figures of merit, plots, trajectories."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tesseral.calculator import neighbor_list
from tesseral.cli.demo_simulation import Run, Simulation
from tesseral.models.file import write_atomically

#: the first part of a run, in which kinetic and potential energy share out, is left out of averages
EQUILIBRATION = 0.2
#: engines are compared with the first over this time (ps), in which the same forces give the same trajectory
START = 0.1
#: radial distribution functions reach this far (Å), in bins of this width
RDF_RADIUS, RDF_WIDTH = 8.0, 0.05


def summary(run: Run, simulation: Simulation, first: Run) -> dict[str, Any]:
    """Figures of merit of a run; `first` is the run of the first engine.

    Returns:
        engine; after the first fifth of the run energy_drift (eV/atom/ps, slope of the total energy),
        energy_fluctuation (eV/atom, root mean square about that line) and temperature (K); steps_per_second,
        microseconds_per_atom_step; start_difference (eV/atom), the largest difference of the potential
        energy from that of the first engine in the first tenth of a picosecond.
    """
    n_atoms = len(simulation.atoms)
    settled = slice(int(EQUILIBRATION * len(run.times)), None)
    times, energies = np.array(run.times)[settled], _total_energies(run)[settled] / n_atoms
    slope, offset = np.polyfit(times, energies, 1)
    start = sum(time <= START for time in first.times)
    differences = np.subtract(run.potential_energies[:start], first.potential_energies[:start]) / n_atoms
    residual = energies - (slope * times + offset)
    return {
        "engine": run.engine,
        "energy_drift": float(slope),
        "energy_fluctuation": float(np.sqrt(np.mean(residual**2))),
        "temperature": float(np.mean(run.temperatures[settled])),
        "steps_per_second": simulation.n_steps / run.seconds,
        "microseconds_per_atom_step": 1e6 * run.seconds / simulation.n_steps / n_atoms,
        "start_difference": float(np.max(np.abs(differences))),
    }


def _total_energies(run: Run) -> NDArray[np.float64]:
    """Change of the total energy since the start, [n_samples] in eV: small numbers keep their digits."""
    potential, kinetic = np.array(run.potential_energies), np.array(run.kinetic_energies)
    return (potential - potential[0]) + (kinetic - kinetic[0])


def radial_distribution(frames: Sequence[Atoms]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Radial distribution function averaged over frames that are periodic in three directions.

    Returns:
        Bin centres r [n_bins] in Å and g(r) [n_bins].
    """
    edges = np.arange(0.0, RDF_RADIUS + 0.5 * RDF_WIDTH, RDF_WIDTH)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    total = np.zeros(len(shells))
    for atoms in frames:
        pairs = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, edges[-1])
        vectors = (
            atoms.positions[pairs.neighbors] - atoms.positions[pairs.centers] + pairs.cell_shifts @ atoms.cell.array
        )
        counts, _ = np.histogram(np.linalg.norm(vectors, axis=1), edges)
        total += counts * atoms.get_volume() / (len(atoms) ** 2 * shells)
    return 0.5 * (edges[1:] + edges[:-1]), total / len(frames)


def write_files(folder: Path, runs: Sequence[Run], simulation: Simulation, metrics: dict[str, Any]) -> list[Path]:
    """Write trajectories, plots and metrics.json into `folder`, which must exist; returns the paths."""
    paths = []

    def save(name: str, content: bytes) -> None:
        write_atomically(folder / name, content)
        paths.append(folder / name)

    for run in runs:
        text = io.StringIO()
        ase.io.write(text, run.frames, format="extxyz")
        save(f"trajectory_{run.engine.lower()}.xyz", text.getvalue().encode())
    save("energy_drift.png", _png(_energy_plot(runs, len(simulation.atoms))))
    save("radial_distribution.png", _png(_distribution_plot(runs)))
    save("metrics.json", json.dumps(metrics, indent=1, ensure_ascii=False).encode())
    return paths


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _energy_plot(runs: Sequence[Run], n_atoms: int) -> Figure:
    """Change of total and potential energy per atom over time."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    total, potential = figure.subplots(2, 1, sharex=True)
    for run in runs:
        total.plot(run.times, 1e6 * _total_energies(run) / n_atoms, label=run.engine, linewidth=0.8)
        change = np.subtract(run.potential_energies, run.potential_energies[0])
        potential.plot(run.times, 1e3 * change / n_atoms, label=run.engine, linewidth=0.8)
    total.set_ylabel("total energy, change / (µeV/atom)")
    potential.set_ylabel("potential energy, change / (meV/atom)")
    potential.set_xlabel("time / ps")
    total.legend()
    return figure


def _distribution_plot(runs: Sequence[Run]) -> Figure:
    """Radial distribution function after equilibration."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        radii, values = radial_distribution(run.frames[int(EQUILIBRATION * len(run.frames)) :])
        axes.plot(radii, values, label=f"{run.engine}, {np.mean(run.temperatures):.0f} K")
    axes.set(xlabel="distance / Å", ylabel="radial distribution function", xlim=(0, RDF_RADIUS))
    axes.legend()
    return figure
