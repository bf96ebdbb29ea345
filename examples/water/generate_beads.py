"""Generate the second part of the water training set: beads of path integrals with GFN2-xTB labels.

    python generate_beads.py MODEL OTHER_MODEL OUTPUT.xyz [SEED]

runs path-integral molecular dynamics of 27 water molecules (300 K, 32 beads, three densities) in i-PI with MODEL, which
was trained on what there is so far, and labels beads of its snapshots with GFN2-xTB: of each pair of snapshots the one
on which the forces of MODEL and OTHER_MODEL (the same training data, another seed) differ more, as query by committee
has it. Prints how far both models are from the labels. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from generate_classical import labelled
from rich.progress import track

from tesseral.calculator import evaluate
from tesseral.calculator.ipi_driver import __file__ as DRIVER

CLASSICAL = Path(__file__).parent / "water_classical.xyz.xz"
DENSITIES = (0.95, 1.0, 1.05)  # g/cm^3
MASS = 27 * 18.015 * 1.66053906660  # of the molecules, in g/cm^3 Å^3
TEMPERATURE, N_BEADS = 300, 32
BEADS = (3, 19)  # whose snapshots are kept
STRIDE, N_SNAPSHOTS, N_EQUILIBRATION = 100, 24, 6  # steps of 0.5 fs; the first snapshots are dropped
INPUT = """
<simulation verbosity='quiet'>
  <output prefix='run'>
    {trajectories}
  </output>
  <total_steps> {steps} </total_steps>
  <prng> <seed> {seed} </seed> </prng>
  <ffdirect name='model' pbc='false'>
    <pes> custom </pes> <pes_path> {driver} </pes_path> <batch_size> {beads} </batch_size>
    <parameters> {{ model: {model}, template: {start}, pbc: TTT }} </parameters>
  </ffdirect>
  <system>
    <initialize nbeads='{beads}'>
      <file mode='ase' units='angstrom'> {start} </file>
      <velocities mode='thermal' units='kelvin'> {temperature} </velocities>
    </initialize>
    <forces> <force forcefield='model'/> </forces>
    <ensemble> <temperature units='kelvin'> {temperature} </temperature> </ensemble>
    <motion mode='dynamics'>
      <dynamics mode='nvt'>
        <timestep units='femtosecond'> 0.5 </timestep>
        <thermostat mode='pile_l'> <tau units='femtosecond'> 50 </tau> </thermostat>
      </dynamics>
    </motion>
  </system>
</simulation>
"""


def snapshots(model: Path, density: float, start: Atoms, seed: int) -> list[Atoms]:
    """Beads of one path-integral run, in the order of time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start.write(folder / "start.extxyz")
        one = "<trajectory filename='pos-{0}' stride='{1}' format='ase' bead='{0}'> positions </trajectory>"
        trajectories = "\n    ".join(one.format(bead, STRIDE) for bead in BEADS)
        text = INPUT.format(
            trajectories=trajectories,
            steps=STRIDE * N_SNAPSHOTS,
            seed=seed,
            driver=DRIVER,
            model=model.resolve(),
            start=folder / "start.extxyz",
            beads=N_BEADS,
            temperature=TEMPERATURE,
        )
        (folder / "input.xml").write_text(text)
        program = Path(sys.executable).parent / "i-pi"
        subprocess.run([program, "input.xml"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        frames = []
        for path in sorted(folder.glob("run.pos*")):
            for positions in (atoms.positions for atoms in ase.io.read(path, ":", format="extxyz")[N_EQUILIBRATION:]):
                frame = start.copy()
                frame.positions = positions
                frame.info = {"config_type": f"beads, {TEMPERATURE} K, {density} g/cm3"}
                frames.append(frame)
    return frames


def starts(density: float) -> Atoms:
    """The last classical snapshot of the training set at the nearest density, strained to the density."""
    frames = [a for a in ase.io.read(CLASSICAL, ":") if "300 K" in str(a.info)]
    target = MASS / density
    nearest = min(reversed(frames), key=lambda atoms: abs(atoms.get_volume() - target))
    start = Atoms(nearest.numbers, nearest.positions, cell=nearest.cell, pbc=True)
    start.set_cell(start.cell * (target / start.get_volume()) ** (1 / 3), scale_atoms=True)
    return start


def chosen(frames: list[Atoms], model: Path, other: Path) -> list[Atoms]:
    """Of each pair of frames that follow each other, the one on which the models differ more."""
    one, two = evaluate(model, frames), evaluate(other, frames)
    spread = [np.abs(a["forces"] - b["forces"]).max() for a, b in zip(one, two, strict=True)]
    pairs = range(0, len(frames) - 1, 2)
    return [frames[k] if spread[k] > spread[k + 1] else frames[k + 1] for k in pairs]


def main(model: Path, other: Path, output: Path, seed: int) -> None:
    """Write what is missing of the output."""
    frames: list[Atoms] = []
    for number, density in enumerate(DENSITIES):
        run = snapshots(model, density, starts(density), seed + number)
        frames += chosen(run, model, other)
    done = len(ase.io.read(output, ":")) if output.exists() else 0
    for atoms in track(frames[done:], f"GFN2-xTB, {done} of {len(frames)} done before"):
        ase.io.write(output, labelled(atoms), append=True)
    labels = ase.io.read(output, ":")
    for path in (model, other):
        results = evaluate(path, labels)
        pairs = list(zip(labels, results, strict=True))
        forces = np.array([atoms.arrays["REF_forces"] - result["forces"] for atoms, result in pairs])
        energies = np.array([(atoms.info["REF_energy"] - result["energy"]) / len(atoms) for atoms, result in pairs])
        print(
            f"{path} on the new frames, mean absolute errors: energy {1000 * np.abs(energies).mean():.2f} meV/atom, "
            f"forces {1000 * np.abs(forces).mean():.0f} meV/Å (largest {np.abs(forces).max():.1f} eV/Å)"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 1)
