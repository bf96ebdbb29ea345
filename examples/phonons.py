"""Phonon frequencies of silicon by finite displacements with ASE, along Gamma-X, and a plot of the bands.

python phonons.py
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ase import units
from ase.build import bulk
from ase.phonons import Phonons
from matplotlib.figure import Figure

from tesseral.calculator import TesseralCalculator

#: eV -> THz
THZ = 1.0 / (units._hplanck / units._e * 1e12)
LATTICE_CONSTANT = 5.47  # Å, that of the PBE functional


def bands(model: str = "silicon", n_points: int = 41) -> tuple[np.ndarray, np.ndarray]:
    """Fractions of the way from Gamma to X [n_points], and the frequencies there [n_points, 6] in THz."""
    crystal = bulk("Si", "diamond", a=LATTICE_CONSTANT)
    fractions = np.linspace(0.0, 1.0, n_points)
    with TemporaryDirectory() as folder:
        calculator = TesseralCalculator(model, dtype="float64")
        phonons = Phonons(crystal, calculator, supercell=(5, 5, 5), delta=0.02, name=str(Path(folder) / "phonons"))
        phonons.run()
        phonons.read(acoustic=True)
        energies = phonons.band_structure(np.outer(fractions, [0.5, 0.0, 0.5]), verbose=False)
    return fractions, np.real(energies) * THZ


def plot(fractions: np.ndarray, frequencies: np.ndarray, path: Path) -> None:
    """Save the bands as an image."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(fractions, frequencies, color="tab:blue")
    axes.set(xlim=(0, 1), ylim=(0, None), ylabel="frequency / THz", xticks=[0, 1], xticklabels=["Γ", "X"])
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    path_fractions, path_frequencies = bands()
    print(f"optical mode at Gamma: {path_frequencies[0, -1]:.2f} THz (experiment: 15.5)")
    print("modes at X / THz: " + ", ".join(f"{value:.2f}" for value in path_frequencies[-1]))
    plot(path_fractions, path_frequencies, Path("phonons.png"))
    print("written: phonons.png")
