"""Plots what the input decks of this folder write.

python plot.py nvt|npt|melt|tensile|green_kubo|acac|hybrid_overlay [--folder .] [--output DECK.png]

Prints the number that the deck is about.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

matplotlib.use("Agg")

BOLTZMANN = 8.617333262e-5  # eV/K
EV_PER_PS_A_K = 1.602176634e3  # eV/(ps Å K) in W/(m K)


def blocks(path: Path) -> list[np.ndarray]:
    """The tables of a file by fix ave/time mode vector, fix ave/correlate or fix ave/chunk; each [rows, columns]."""
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    tables, start = [], 0
    while start < len(lines):
        n_rows = int(lines[start][1])
        tables.append(np.array(lines[start + 1 : start + 1 + n_rows], dtype=float))
        start += 1 + n_rows
    return tables


def nvt(folder: Path) -> tuple[Figure, str]:
    """g(r) and coordination number."""
    _, r, g, coordination = blocks(folder / "rdf.dat")[-1].T
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="r / Å", ylabel="g(r)")
    axes.plot(r, g)
    other = axes.twinx()
    other.plot(r, coordination, color="tab:orange", linewidth=1)
    other.set_ylabel("neighbours within r")
    return figure, f"first peak of g(r) at {r[np.argmax(g)]:.2f} Å"


def npt(folder: Path) -> tuple[Figure, str]:
    """Lattice constant against temperature, with the standard error of the blocks and a straight line."""
    rest = np.loadtxt(folder / "static.dat")[0]
    _, target, temperature, lattice, _ = np.loadtxt(folder / "lattice.dat").T
    targets = np.unique(target)
    means = np.array([[temperature[target == T].mean(), lattice[target == T].mean()] for T in targets])
    errors = [lattice[target == T].std(ddof=1) / np.sqrt((target == T).sum()) for T in targets]
    points = np.vstack([[0.0, rest], means])
    slope, intercept = np.polyfit(*points.T, 1)
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="temperature / K", ylabel="lattice constant / Å")
    axes.errorbar(means[:, 0], means[:, 1], errors, fmt="o", capsize=3)
    axes.plot(0.0, rest, "s", label="at rest")
    axes.plot(points[:, 0], intercept + slope * points[:, 0], linewidth=1)
    axes.legend()
    return figure, f"linear thermal expansion {slope / rest:.2e} 1/K"


def melt(folder: Path) -> tuple[Figure, str]:
    """Temperature in time, and the coordination number along the box at the beginning and at the end."""
    _, time, temperature, *_ = np.loadtxt(folder / "melt.dat").T
    profiles = blocks(folder / "profile.dat")
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(time, temperature, linewidth=0.8)
    left.set(xlabel="time / ps", ylabel="temperature / K")
    for label, table in (
        ("beginning", profiles[0]),
        ("end", np.mean(profiles[-max(1, len(profiles) // 10) :], axis=0)),
    ):
        right.plot(table[:, 1], table[:, 3], label=label)
    right.set(xlabel="height / box", ylabel="neighbours within 2.9 Å")
    right.legend()
    half = temperature[len(temperature) // 2 :]
    return figure, f"temperature in the second half of the run: {half.mean():.0f} K"


def tensile(folder: Path) -> tuple[Figure, str]:
    """Stress against strain; Young's modulus from strains up to 1 %."""
    _, strain, along, across, *_ = np.loadtxt(folder / "stress.dat").T
    small = strain <= 0.01
    modulus = np.polyfit(strain[small], along[small], 1)[0]
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="engineering strain", ylabel="stress / GPa")
    axes.plot(strain, along, label="along the axis")
    axes.plot(strain, across, linewidth=0.8, label="across")
    axes.legend()
    return figure, f"Young's modulus {modulus:.0f} GPa, largest stress {along.max():.1f} GPa"


def conductivities(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Time (ps), autocorrelation of the heat flux ((eV Å/ps)^2) and its integral up to each time as a thermal
    conductivity (W/(m K)); each [points]."""
    temperature, volume, interval = np.loadtxt(folder / "settings.dat")
    correlation = blocks(folder / "correlation.dat")[-1][:, 3:6].mean(axis=1)
    steps = 0.5 * (correlation[1:] + correlation[:-1]) * interval
    integral = np.concatenate([[0.0], np.cumsum(steps)])
    time = interval * np.arange(len(correlation))
    return time, correlation, EV_PER_PS_A_K * integral / (BOLTZMANN * temperature**2 * volume)


def green_kubo(folder: Path) -> tuple[Figure, str]:
    """Autocorrelation of the heat flux and its running integral."""
    time, correlation, conductivity = conductivities(folder)
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(time, correlation / correlation[0], linewidth=0.8)
    left.set(xlabel="time / ps", ylabel="⟨J(0)·J(t)⟩ / ⟨J(0)·J(0)⟩")
    right.plot(time, conductivity)
    right.set(xlabel="upper limit / ps", ylabel="thermal conductivity / W/(m K)")
    last = conductivity[len(conductivity) // 2 :]
    return figure, f"conductivity in the second half of the correlation time: {last.mean():.0f} W/(m K)"


def acac(folder: Path) -> tuple[Figure, str]:
    """Where the proton is: difference of its distances from the two oxygen atoms."""
    _, time, first, second, *_ = np.loadtxt(folder / "proton.dat").T
    place = first - second
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1), sharey=True)
    left.plot(time / 1000, place, linewidth=0.5)
    left.set(xlabel="time / ps", ylabel="d(O1-H) - d(O2-H) / Å")
    right.hist(place, bins=60, orientation="horizontal", density=True)
    right.set(xlabel="density / 1/Å")
    return figure, f"{100 * np.mean(place < 0):.0f} % of the time the proton is on the first oxygen"


def hybrid_overlay(folder: Path) -> tuple[Figure, str]:
    """Energy against lattice constant, without and with dispersion."""
    lattice, model, dispersion, _ = np.loadtxt(folder / "overlay.dat").T
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="lattice constant / Å", ylabel="energy above its minimum / eV/atom")
    found = []
    for label, energy in (("model (PBE)", model), ("model + D3(BJ)", model + dispersion)):
        (line,) = axes.plot(lattice, energy - energy.min(), "o", label=label)
        a, b, c, d = np.polyfit(lattice, energy, 3)
        fine = np.linspace(lattice[0], lattice[-1], 1000)
        curve = a * fine**3 + b * fine**2 + c * fine + d
        axes.plot(fine, curve - energy.min(), color=line.get_color(), linewidth=1)
        found.append(fine[np.argmin(curve)])
    axes.legend()
    return figure, f"lattice constant {found[0]:.3f} Å with the model, {found[1]:.3f} Å with D3 added"


DECKS = {function.__name__: function for function in (nvt, npt, melt, tensile, green_kubo, acac, hybrid_overlay)}


def main(arguments: list[str] | None = None) -> str:
    """Writes the plot of one deck; returns what it shows in a sentence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("deck", choices=DECKS)
    parser.add_argument("--folder", type=Path, default=Path("."), help="where the deck ran")
    parser.add_argument("--output", type=Path, help="default: DECK.png in the same folder")
    options = parser.parse_args(arguments)
    figure, sentence = DECKS[options.deck](options.folder)
    figure.savefig(options.output or options.folder / f"{options.deck}.png", dpi=150)
    return sentence


if __name__ == "__main__":
    print(main())
