"""Generate water clusters in vacuum with GFN2-xTB: new data for the shipped model `water`, which knows only the liquid.

    pip install tblite tesseral && python generate_clusters.py

runs Langevin dynamics of clusters of 2 to 6 molecules at 250 K with GFN2-xTB (C. Bannwarth, S. Ehlert, S. Grimme,
J. Chem. Theory Comput. 15, 1652 (2019), doi:10.1021/acs.jctc.8b01176) as tblite computes it: eight trajectories for
each size, of each three snapshots 250 fs apart after 0.5 ps. Clusters of 2, 3, 4 and 6 molecules go to
clusters_train.xyz.xz, those of 5 to clusters_test.xyz.xz beside this script. A few minutes on one core; everything is
seeded.
"""

from __future__ import annotations

import lzma
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.optimize import FIRE
from tblite.ase import TBLite

from tesseral.benchmarks.systems import water_box

TEMPERATURE = 250.0  # K
TIMESTEP = 0.5 * units.fs
FRICTION = 0.01 / units.fs
N_EQUILIBRATION_STEPS, STEPS_BETWEEN_SNAPSHOTS = 1000, 500
N_TRAJECTORIES, N_SNAPSHOTS = 8, 3
#: numbers of molecules
TRAIN, TEST = (2, 3, 4, 6), (5,)


def cluster(n_molecules: int, generator: np.random.Generator) -> Atoms:
    """The molecules of a random box that are closest to one of them, relaxed a little."""
    box = water_box(3, 1.0, generator)
    oxygens = box.positions[::3]
    chosen = np.argsort(np.linalg.norm(oxygens - oxygens[13], axis=1))[:n_molecules]
    atoms = Atoms("OH2" * n_molecules, box.positions.reshape(-1, 3, 3)[chosen].reshape(-1, 3))
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    FIRE(atoms, logfile=None).run(fmax=0.5, steps=200)
    return atoms


def snapshots(n_molecules: int, seed: int) -> list[Atoms]:
    """Labelled snapshots of one trajectory (REF_energy in eV, REF_forces in eV/Å), in the order of time."""
    generator = np.random.default_rng([n_molecules, seed])
    atoms = cluster(n_molecules, generator)
    dynamics = Langevin(atoms, TIMESTEP, temperature_K=TEMPERATURE, friction=FRICTION, fixcm=False, rng=generator)
    dynamics.run(N_EQUILIBRATION_STEPS)
    frames = []
    for _ in range(N_SNAPSHOTS):
        dynamics.run(STEPS_BETWEEN_SNAPSHOTS)
        frame = Atoms(atoms.numbers, atoms.positions - atoms.get_center_of_mass())
        frame.info = {"REF_energy": atoms.get_potential_energy(), "config_type": f"{n_molecules} molecules"}
        frame.arrays["REF_forces"] = atoms.get_forces()
        frames.append(frame)
    return frames


def main() -> None:
    """Write both files."""
    for name, sizes in (("train", TRAIN), ("test", TEST)):
        runs = [(n_molecules, seed) for n_molecules in sizes for seed in range(N_TRAJECTORIES)]
        frames = [frame for n_molecules, seed in runs for frame in snapshots(n_molecules, seed)]
        with lzma.open(Path(__file__).parent / f"clusters_{name}.xyz.xz", "wt", encoding="utf-8") as stream:
            ase.io.write(stream, frames, format="extxyz")


if __name__ == "__main__":
    main()
