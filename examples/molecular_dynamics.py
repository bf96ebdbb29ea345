"""Langevin dynamics of crystalline silicon at 300 K with a shipped model.

python molecular_dynamics.py
"""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.md.langevin import Langevin

from tesseral.calculator import TesseralCalculator


def run(model: str = "silicon", n_steps: int = 1000, temperature: float = 300.0) -> tuple[Atoms, list[float]]:
    """The atoms after `n_steps` steps of 2 fs, and the temperature (K) every tenth step."""
    generator = np.random.default_rng(1)
    atoms = bulk("Si", "diamond", a=5.43, cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, rng=generator)
    atoms.calc = TesseralCalculator(model, dtype="mixed")
    dynamics = Langevin(
        atoms, 2.0 * units.fs, temperature_K=temperature, friction=0.01 / units.fs, fixcm=False, rng=generator
    )
    temperatures: list[float] = []
    dynamics.attach(lambda: temperatures.append(atoms.get_temperature()), interval=10)
    dynamics.run(n_steps)
    return atoms, temperatures


if __name__ == "__main__":
    final, recorded = run()
    print(f"mean temperature of the second half: {np.mean(recorded[len(recorded) // 2 :]):.0f} K")
    print(f"potential energy at the end: {final.get_potential_energy() / len(final):.4f} eV/atom")
