"""LAMMPS with the pair style is a client of the i-PI protocol; ASE is the server here."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.socketio import SocketIOCalculator
from lammps_decks import needs_lammps

from tesseral.calculator import TesseralCalculator
from tesseral.calculator.lammps_box import LammpsBox

pytestmark = needs_lammps


@pytest.mark.parametrize("units", ["metal", "real"])
def test_fix_ipi_serves_energies_forces_and_stress(tmp_path, write_random_model, units):
    model = write_random_model(tmp_path / "random.pt", ["O", "Si"], scale=1.0)
    atoms = bulk("Si", cubic=True) * (2, 1, 1)
    atoms.numbers[::3] = 8
    atoms.rattle(0.1, seed=1)
    types = np.where(atoms.numbers == 8, 1, 2)
    (tmp_path / "start.data").write_text(LammpsBox(atoms, 5.0).data_file(types, [15.999, 28.0855], 1.0))
    name = f"tesseral-{uuid.uuid4().hex[:8]}"
    (tmp_path / "in.ipi").write_text(
        f"units {units}\natom_style atomic\nread_data start.data\npair_style tesseral precision float64\n"
        f"pair_coeff * * random.pt O Si\nfix client all ipi {name} 31415 unix\nrun 100000\n"
    )
    lmp = [str(Path(sys.executable).parent / "lmp"), "-in", "in.ipi", "-log", "none"]
    expected = atoms.copy()
    expected.calc = TesseralCalculator(model, dtype="float64")
    with SocketIOCalculator(unixsocket=name, timeout=60) as server:
        client = subprocess.Popen(lmp, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            atoms.calc = server
            for step in range(3):
                atoms.positions += 0.02 * np.random.default_rng(step).normal(size=atoms.positions.shape)
                atoms.set_cell(atoms.cell[:] * 1.001, scale_atoms=True)
                expected.positions, expected.cell = atoms.positions, atoms.cell
                # fix ipi converts with LAMMPS' own constants, which have seven digits
                np.testing.assert_allclose(atoms.get_potential_energy(), expected.get_potential_energy(), rtol=2e-7)
                np.testing.assert_allclose(atoms.get_forces(), expected.get_forces(), rtol=0, atol=1e-6)
                # fix ipi sends the upper triangle of the virial, and ASE takes the mean of that and the empty lower one
                halved = expected.get_stress() * [1, 1, 1, 0.5, 0.5, 0.5]
                np.testing.assert_allclose(atoms.get_stress(), halved, rtol=0, atol=1e-8)
        finally:
            client.kill()
            client.wait(timeout=30)
