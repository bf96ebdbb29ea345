"""Generate a small training set: ethanol at 500 K with GFN2-xTB.

    pip install tblite && python generate_ethanol.py

writes ethanol_train.xyz (160 snapshots and the three isolated atoms) and ethanol_test.xyz (40 later
snapshots of the same trajectory) beside this script, in half a minute on one core. Energies and forces are
those of GFN2-xTB (C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory Comput. 15, 1652 (2019),
doi:10.1021/acs.jctc.8b01176) as tblite computes them; the snapshots are 12.5 fs apart on a Langevin
trajectory after 1 ps of equilibration. Everything is
seeded: the same versions of tblite and ASE give the same files.
"""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.md.langevin import Langevin
from tblite.ase import TBLite

TEMPERATURE = 500.0  # K
TIMESTEP = 0.5 * units.fs
FRICTION = 0.02 / units.fs
STEPS_BETWEEN_SNAPSHOTS = 25
N_EQUILIBRATION_STEPS = 2000
N_TRAIN, N_TEST = 160, 40
#: spin multiplicities of the free atoms
MULTIPLICITIES = {"H": 2, "C": 3, "O": 3}


def labelled(atoms: Atoms, config_type: str) -> Atoms:
    """A copy with the energy and forces of its calculator as REF_energy (eV) and REF_forces (eV/Å)."""
    frame = Atoms(atoms.numbers, atoms.positions - atoms.get_center_of_mass())
    frame.info = {"REF_energy": atoms.get_potential_energy(), "config_type": config_type}
    frame.arrays["REF_forces"] = atoms.get_forces()
    return frame


def isolated_atoms() -> list[Atoms]:
    """The free atoms, whose energies serve as E0."""
    frames = []
    for element, multiplicity in MULTIPLICITIES.items():
        atom = Atoms(element, calculator=TBLite(method="GFN2-xTB", multiplicity=multiplicity, verbosity=0))
        frames.append(labelled(atom, "isolated_atom"))
    return frames


def snapshots() -> list[Atoms]:
    """Snapshots of one Langevin trajectory, in the order of time."""
    generator = np.random.default_rng(2026)
    atoms = molecule("CH3CH2OH")
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    dynamics = Langevin(atoms, TIMESTEP, temperature_K=TEMPERATURE, friction=FRICTION, fixcm=False, rng=generator)
    dynamics.run(N_EQUILIBRATION_STEPS)
    frames = []
    for _ in range(N_TRAIN + N_TEST):
        dynamics.run(STEPS_BETWEEN_SNAPSHOTS)
        frames.append(labelled(atoms, f"ethanol_{TEMPERATURE:.0f}K"))
    return frames


def main() -> None:
    folder = Path(__file__).parent
    frames = snapshots()
    ase.io.write(folder / "ethanol_train.xyz", isolated_atoms() + frames[:N_TRAIN], format="extxyz")
    ase.io.write(folder / "ethanol_test.xyz", frames[N_TRAIN:], format="extxyz")


if __name__ == "__main__":
    main()
