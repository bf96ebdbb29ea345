"""Plots what the inputs of this folder write, and prints the numbers.

python plot.py rdf classical.pos_0.extxyz pimd.pos_*.extxyz
python plot.py kinetic classical.out pimd.out piglet.out
python plot.py spectrum trpmd.vel.extxyz
python plot.py series npt_pimd.out --column density
python plot.py exchange ?_remd.out

Files whose names begin alike up to the first dot are beads of one run. The plot is written to rdf.png and so on.
"""

from __future__ import annotations

import argparse
import re
from itertools import combinations_with_replacement
from pathlib import Path

import ase.io
import matplotlib
import numpy as np
from ase import Atoms, units
from ase.io.extxyz import XYZError
from matplotlib.figure import Figure
from scipy.signal import find_peaks

matplotlib.use("Agg")

N_BLOCKS = 10
BIN = 0.05  # Å, of g(r)
PER_CM = units._c * 100 * 1e-15  # frequency in 1/fs of a wave number of 1/cm
PROMINENCE = 0.01  # of a peak that is reported, relative to the highest


def existing(path: Path) -> Path:
    """The path; ends the program if there is no such file."""
    if not path.is_file():
        raise SystemExit(f"plot.py: {path}: no such file")
    return path


def fraction(text: str) -> float:
    """A number from 0 to less than 1."""
    if not 0 <= (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in the range from 0 to less than 1")
    return value


def run_name(path: Path) -> str:
    """What the files of one run have in common: the prefix in i-PI's input."""
    return path.name.split(".")[0]


def properties(path: Path) -> dict[str, np.ndarray]:
    """Columns of i-PI's property file by name with unit, such as kinetic_cv{electronvolt}(H); a last line that is not
    complete is left out."""
    text = existing(path).read_text(encoding="utf-8")
    names = {name: int(number) for number, name in re.findall(r"^# column +(\d+) +--> (\S+)", text, re.MULTILINE)}
    lines = text[: text.rfind("\n") + 1].splitlines()
    rows = np.array([line.split() for line in lines if not line.startswith("#")], dtype=float)
    if not names or not rows.size:
        raise SystemExit(f"plot.py: {path}: no rows of properties under a header '# column 1 --> ...'")
    return {name: rows[:, number - 1] for name, number in names.items()}


def column(path: Path, name: str) -> np.ndarray:
    """One column; ends the program if it is missing."""
    table = properties(path)
    if name not in table:
        raise SystemExit(f"plot.py: {path}: no column {name}; it has {', '.join(table)}")
    return table[name]


def equilibrated(path: Path, values: np.ndarray, skip: float) -> np.ndarray:
    """Without the first part; enough rows for the blocks are left."""
    kept = values[int(skip * len(values)) :]
    if len(kept) < N_BLOCKS:
        raise SystemExit(f"plot.py: {path}: {len(kept)} rows are left, but {N_BLOCKS} blocks are to be averaged")
    return kept


def block_error(values: np.ndarray) -> float:
    """Standard error of the mean from the means of N_BLOCKS parts, each longer than the correlation time."""
    size = len(values) // N_BLOCKS
    means = values[-size * N_BLOCKS :].reshape(N_BLOCKS, size).mean(axis=1)
    return float(means.std(ddof=1) / np.sqrt(N_BLOCKS))


def frames(path: Path) -> list[Atoms]:
    """All frames of a trajectory of format 'ase'."""
    try:
        return ase.io.read(existing(path), ":", format="extxyz")
    except (XYZError, ValueError) as error:
        raise SystemExit(f"plot.py: {path}: not a whole trajectory of format 'ase' ({error})") from error


def pair_distribution(trajectory: list[Atoms]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """g(r) of each pair of elements, up to half the smallest width of the cell; 1 for an ideal gas.

    Returns:
        Middles of the bins in Å, [n_bins], and g by the names of the pairs, such as H-O, each [n_bins].
    """
    widths = [a.cell.volume / np.linalg.norm(np.cross(a.cell[i], a.cell[i - 1])) for a in trajectory for i in range(3)]
    edges = np.arange(0.0, min(widths) / 2, BIN)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    symbols = np.array(trajectory[0].get_chemical_symbols())
    result = {}
    for one, two in combinations_with_replacement(sorted(set(symbols)), 2):
        first, second = np.flatnonzero(symbols == one), np.flatnonzero(symbols == two)
        n_pairs = len(first) * len(second) - (len(first) if one == two else 0)
        g = np.zeros(len(shells))
        for atoms in trajectory:
            scaled = atoms.positions @ np.linalg.inv(atoms.cell.array)
            vectors = scaled[first, None] - scaled[None, second]
            distances = np.linalg.norm((vectors - np.round(vectors)) @ atoms.cell.array, axis=2)
            counts = np.histogram(distances[distances > 0], bins=edges)[0]
            g += counts * atoms.cell.volume / (max(n_pairs, 1) * shells)
        result[f"{one}-{two}"] = g / len(trajectory)
    return edges[:-1] + BIN / 2, result


def rdf(options: argparse.Namespace) -> tuple[Figure, str]:
    """Pair distribution functions of each run, averaged over the beads that are given."""
    runs: dict[str, list[Atoms]] = {}
    for path in options.files:
        trajectory = frames(path)
        runs.setdefault(run_name(path), []).extend(trajectory[int(options.skip * len(trajectory)) :])
    found = {name: pair_distribution(trajectory) for name, trajectory in runs.items()}
    pairs = list(next(iter(found.values()))[1])
    figure = Figure(figsize=(4 * len(pairs), 3.5), layout="constrained")
    lines = []
    for axes, pair in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        for name, (r, curves) in found.items():
            axes.plot(r, curves[pair], label=name)
            top = np.argmax(curves[pair])
            lines.append(f"{name}: {pair} highest at {r[top]:.2f} Å, g = {curves[pair][top]:.2f}")
        axes.set(xlabel="r / Å", ylabel=f"g({pair})", ylim=(0, 4))
    axes.legend()
    return figure, "\n".join(lines)


def kinetic(options: argparse.Namespace) -> tuple[Figure, str]:
    """Running mean of the centroid-virial kinetic energy per atom of each element, with the classical value."""
    symbols = frames(options.structure or options.files[0].with_name("start.extxyz"))[0].get_chemical_symbols()
    elements = sorted(set(symbols))
    figure = Figure(figsize=(5 * len(elements), 3.5), layout="constrained")
    lines = []
    for axes, element in zip(figure.subplots(1, len(elements), squeeze=False)[0], elements, strict=True):
        for path in options.files:
            total = equilibrated(path, column(path, f"kinetic_cv{{electronvolt}}({element})"), options.skip)
            time = equilibrated(path, column(path, "time{femtosecond}"), options.skip) / 1000
            values = 1000 * total / symbols.count(element)  # meV
            classical = 1500 * units.kB * column(path, "ensemble_temperature{kelvin}").mean()
            axes.plot(time, np.cumsum(values) / np.arange(1, len(values) + 1), label=run_name(path))
            axes.axhline(classical, color="black", linewidth=0.8, linestyle="--")
            lines.append(
                f"{run_name(path)}: {element} {values.mean():.1f} ± {block_error(values):.1f} meV per atom "
                f"(classical {classical:.1f})"
            )
        axes.set(xlabel="time / ps", ylabel=f"kinetic energy of {element}, running mean / meV")
    axes.legend()
    return figure, "\n".join(lines)


def frame_interval(path: Path, trajectory: list[Atoms]) -> float:
    """Time between frames in fs: their steps are in the comments, the timestep is in the properties of the run."""
    table = path.with_name(f"{run_name(path)}.out")
    time, step = column(table, "time{femtosecond}"), column(table, "step")
    steps = [int(found[1]) for a in trajectory if (found := re.search(r"Step: +(\d+)", a.info.get("ipi_comment", "")))]
    intervals = set(np.diff(steps).tolist())
    if len(steps) != len(trajectory) or len(intervals) != 1 or len(time) < 2:
        raise SystemExit(f"plot.py: {path}: at least two frames, and equal numbers of steps between them, are needed")
    return float(intervals.pop() * (time[-1] - time[0]) / (step[-1] - step[0]))


def density_of_states(
    velocities: np.ndarray, weights: np.ndarray, interval: float, length: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fourier transform of the velocity autocorrelation under a Hann window.

    Args:
        velocities: [n_frames, n_atoms, 3].
        weights: [n_atoms], the masses.
        interval: between frames in fs.
        length: in fs, where the window ends; the peaks are about 1/length wide.

    Returns:
        Wave numbers in 1/cm and intensities, both [n_lags]; the sum of the intensities is that of the mean of
        weight * velocity^2 over the atoms, times a constant.
    """
    n_frames = len(velocities)
    spectrum = np.zeros(n_frames + 1)
    for atom, weight in enumerate(weights):  # one by one: the transforms of all at once need much memory
        spectrum += weight * (np.abs(np.fft.rfft(velocities[:, atom], n=2 * n_frames, axis=0)) ** 2).sum(axis=1)
    n_lags = min(n_frames, max(2, round(length / interval)))
    correlation = np.fft.irfft(spectrum)[:n_lags] / (n_frames - np.arange(n_lags))
    windowed = correlation * 0.5 * (1 + np.cos(np.pi * np.arange(n_lags) / n_lags))
    intensity = np.fft.rfft(np.concatenate([windowed, [0.0], windowed[:0:-1]])).real
    return np.fft.rfftfreq(2 * n_lags, interval) / PER_CM, intensity


def spectrum(options: argparse.Namespace) -> tuple[Figure, str]:
    """Vibrational density of states, in total and of each element."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="wave number / 1/cm", ylabel="density of states", xlim=(0, 4500))
    lines = []
    for path in options.files:
        trajectory = frames(path)
        quantity = next((name for name in ("v_centroid", "velocities") if name in trajectory[0].arrays), None)
        if quantity is None:
            raise SystemExit(
                f"plot.py: {path}: no velocities; write <trajectory format='ase'> v_centroid </trajectory>"
            )
        interval = frame_interval(path, trajectory)
        velocities = np.array([atoms.arrays[quantity] for atoms in trajectory])
        masses, symbols = trajectory[0].get_masses(), np.array(trajectory[0].get_chemical_symbols())
        parts = {}
        for element in sorted(set(symbols)):
            of = symbols == element
            waves, parts[element] = density_of_states(velocities[:, of], masses[of], interval, options.length)
        total = np.sum(list(parts.values()), axis=0)
        scale = 1 / (total.sum() * waves[1])
        for label, curve in {"all": total, **parts}.items():
            axes.plot(
                waves, scale * curve, label=f"{run_name(path)}, {label}", linewidth=1.5 if label == "all" else 0.8
            )
        peaks = find_peaks(total, prominence=PROMINENCE * total.max())[0]
        lines.append(f"{run_name(path)}: peaks at {', '.join(f'{waves[k]:.0f}' for k in peaks)} 1/cm")
    axes.legend()
    return figure, "\n".join(lines)


def series(options: argparse.Namespace) -> tuple[Figure, str]:
    """One column in time."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="time / ps", ylabel=options.column)
    lines = []
    for path in options.files:
        names = [name for name in properties(path) if options.column in (name, re.sub(r"\{.*?\}", "", name))]
        values = column(path, names[0] if names else options.column)
        axes.plot(column(path, "time{femtosecond}") / 1000, values, label=run_name(path), linewidth=0.8)
        kept = equilibrated(path, values, options.skip)
        lines.append(f"{run_name(path)}: {names[0]} {kept.mean():.6g} ± {block_error(kept):.2g}")
    axes.legend()
    return figure, "\n".join(lines)


def exchange(options: argparse.Namespace) -> tuple[Figure, str]:
    """Temperature of each replica in time; potential energy at each temperature, whichever replica had it."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="time / ps", ylabel="temperature of the ensemble / K")
    rows = []
    for path in options.files:
        temperatures = column(path, "ensemble_temperature{kelvin}")
        axes.step(column(path, "time{femtosecond}") / 1000, temperatures, label=run_name(path), where="post")
        rows.append(
            [equilibrated(path, x, options.skip) for x in (temperatures, column(path, "potential{electronvolt}"))]
        )
    axes.legend()
    temperatures, potentials = np.array(rows).swapaxes(0, 1)  # each [n_replicas, n_rows]
    lines = []
    for temperature in np.unique(temperatures):
        here = temperatures == temperature
        lines.append(
            f"{temperature:.0f} K: potential energy {potentials[here].mean():.2f} eV, "
            f"{here.any(axis=1).sum()} of {len(rows)} replicas came here"
        )
    return figure, "\n".join(lines)


def main(arguments: list[str] | None = None) -> str:
    """Writes a plot; returns its numbers, a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for function in (rdf, kinetic, spectrum, series, exchange):
        kind = kinds.add_parser(function.__name__, description=function.__doc__, help=function.__doc__)
        kind.add_argument("files", type=Path, nargs="+")
        kind.add_argument("--output", type=Path, default=Path(f"{function.__name__}.png"))
        kind.set_defaults(function=function)
        if function is not spectrum:
            kind.add_argument("--skip", type=fraction, default=0.2, help="equilibration: a fraction of each run")
        if function is kinetic:
            kind.add_argument("--structure", type=Path, help="default: start.extxyz beside the first file")
        if function is spectrum:
            kind.add_argument("--length", type=float, default=500.0, help="of the correlation function, in fs")
        if function is series:
            kind.add_argument("--column", required=True, help="such as density, conserved or pressure_cv")
    options = parser.parse_args(arguments)
    figure, text = options.function(options)
    figure.savefig(options.output, dpi=150)
    return text


if __name__ == "__main__":
    print(main())
