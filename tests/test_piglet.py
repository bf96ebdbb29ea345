"""The PIGLET thermostat of examples/ipi gives harmonic oscillators their exact quantum energies with 8 beads."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from ase import units
from scipy.linalg import solve_continuous_lyapunov

FILE = Path(__file__).parent.parent / "examples/ipi/piglet.py"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="not in a source tree")


@pytest.mark.parametrize("temperature", [300.0, 600.0])
@pytest.mark.parametrize("wave_number", [200.0, 1650.0, 3500.0])
def test_piglet_gives_an_oscillator_its_quantum_energy(temperature, wave_number):
    specification = importlib.util.spec_from_file_location("piglet", FILE)
    piglet = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(piglet)
    drifts, covariances = piglet.matrices(temperature)
    thermal = units.kB * temperature / units.Hartree  # atomic units from here on
    frequency = wave_number * units.invcm / units.Hartree * temperature / 300
    potential = 0.0
    for k, (drift, covariance) in enumerate(zip(drifts, covariances * units.kB / units.Hartree, strict=True)):
        spring = frequency**2 + (2 * len(drifts) * thermal * np.sin(k * np.pi / len(drifts))) ** 2
        motion = np.zeros((10, 10))  # of position, momentum and the thermostat's variables: d/dt x = -motion x + noise
        motion[0, 1], motion[1, 0], motion[1:, 1:] = -1, spring, drift
        noise = np.zeros((10, 10))
        noise[1:, 1:] = drift @ covariance + covariance @ drift.T
        potential += 0.5 * frequency**2 * solve_continuous_lyapunov(motion, noise)[0, 0] / len(drifts)
    exact = frequency / 4 / np.tanh(frequency / (2 * thermal))
    assert potential == pytest.approx(exact, rel=5e-4)
    # centroid-virial kinetic energy: kT/2 and the virial without the part of the centroid, whose <q^2> is P kT / w^2
    centroid = 0.5 * thermal
    assert thermal / 2 + potential - centroid == pytest.approx(exact, rel=5e-4)
