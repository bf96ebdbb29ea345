"""The water training set under examples/ is what its generators say."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase.geometry import find_mic

from tesseral.models.config import Config

FOLDER = Path(__file__).parent.parent / "examples/water"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="not in a source tree")


def test_water_data_is_liquid_water_with_all_labels():
    config = Config.model_validate(yaml.safe_load((FOLDER / "train.yaml").read_text()))
    frames = [frame for name in config.data.train for frame in ase.io.read(FOLDER / name, ":")]
    assert sorted(str(atoms.symbols) for atoms in frames if len(atoms) == 1) == ["H", "O"]
    liquid = [atoms for atoms in frames if len(atoms) > 1]
    assert len(liquid) > 350
    for atoms in liquid:
        assert str(atoms.symbols[:6]) == "OH2OH2" and len(atoms) == 81 and atoms.pbc.all()
        density = 81 / 3 * 18.015 * 1.66053906660 / atoms.get_volume()
        assert 0.9 < density < 1.1
        bonds = np.concatenate(
            [atoms.positions[1::3] - atoms.positions[::3], atoms.positions[2::3] - atoms.positions[::3]]
        )
        lengths = find_mic(bonds, atoms.cell, True)[1]
        assert lengths.min() > 0.6 and lengths.max() < 1.6  # quantum protons included
        assert np.abs(atoms.arrays["REF_forces"].sum(0)).max() < 1e-3  # eV/Å
        assert np.asarray(atoms.info["REF_stress"]).shape == (3, 3)
        assert abs(atoms.info["REF_energy"] / 27 + 138.0) < 1.0  # eV per molecule
