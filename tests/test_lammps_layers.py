"""What only models with several layers do in LAMMPS: features follow atoms to other ranks, in any mixture of styles."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from lammps_decks import FORMAT, MODELS, atoms_table, crystal, needs_lammps, thermo_table

from tesseral.calculator import TesseralCalculator
from tesseral.calculator.lammps_process import LammpsError, run_lammps

pytestmark = needs_lammps
STYLES = ["tesseral", "tesseral/torch"]
LAYERED = {name: messages for name, messages in MODELS.items() if messages is not None}
THERMO = "thermo_style custom step atoms pe press pxx pxy\nthermo_modify norm no\n" + FORMAT


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_random_model):
    """Model files 0.pt, 1.pt, ... of LAYERED, and local.pt."""
    folder = tmp_path_factory.mktemp("layers")
    write_random_model(folder / "local.pt", ["O", "Si"], scale=1.0)
    for index, messages in enumerate(LAYERED.values()):
        write_random_model(folder / f"{index}.pt", ["O", "Si"], scale=1.0, seed=index, messages=messages)
    return folder


def style_lines(style: str, model: str = "0.pt") -> str:
    return f"pair_style {style} precision float64\npair_coeff * * {model} O Si\n"


def table_of(folder, commands: str, ranks: int) -> dict[str, np.ndarray]:
    return thermo_table(run_lammps(commands, folder, ranks=ranks, timeout=120))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("model", ["0.pt", "1.pt", "2.pt"])
def test_features_follow_atoms_to_other_ranks(folder, style, model):
    """All atoms drift through the box: forces at the end are those of the same atoms in ASE, on new owners."""
    commands = (
        crystal()
        + style_lines(style, model)
        + THERMO
        + "velocity all set 90 60 -75\nneigh_modify delay 0 every 1 check yes\nfix nve all nve\ntimestep 0.001\n"
        "dump d all custom 30 frame.* id type x y z fx fy fz proc\ndump_modify d format float %.17g\nrun 30\n"
    )
    thermo = table_of(folder, commands, 3)
    start, end = (atoms_table(folder / f"frame.{step}") for step in (0, 30))
    assert np.count_nonzero(start[:, 8] != end[:, 8]) > 10
    cell = np.array([[2, 0, 0], [0.1, 2, 0], [0.05, -0.15, 2]]) * 5.4
    atoms = Atoms([["O", "Si"][int(kind) - 1] for kind in end[:, 1]], end[:, 2:5], cell=cell, pbc=True)
    atoms.calc = TesseralCalculator(folder / model, dtype="float64")
    np.testing.assert_allclose(end[:, 5:8], atoms.get_forces(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(thermo["PotEng"][-1], atoms.get_potential_energy(), rtol=1e-10)


def test_styles_with_features_of_different_length_add_up(folder):
    """Each sub-style of a hybrid has its own features, and LAMMPS' buffers are long enough for the longest."""
    models = {"tesseral": ["local.pt", "0.pt", "2.pt"], "tesseral/torch": ["1.pt"]}
    single = [
        table_of(folder, crystal() + style_lines(style, model) + THERMO + "run 0\n", 2)
        for style, names in models.items()
        for model in names
    ]
    styles = " ".join(f"{style} precision float64" for style, names in models.items() for _ in names)
    commands = f"pair_style hybrid/overlay {styles}\n"
    for number, model in enumerate(models["tesseral"], 1):
        commands += f"pair_coeff * * tesseral {number} {model} O Si\n"
    commands += "pair_coeff * * tesseral/torch 1.pt O Si\n"
    together = table_of(folder, crystal() + commands + THERMO + "run 0\n", 2)
    for key in ("PotEng", "Pxx", "Pxy"):
        np.testing.assert_allclose(together[key], sum(table[key] for table in single), rtol=1e-9)


@pytest.mark.parametrize("style", STYLES)
def test_gcmc_keeps_the_energy_of_the_atoms_that_are_there(folder, style):
    """Tried deletions leave atoms out by a mask, also where they are ghosts; half of the atoms are of the model."""
    commands = (
        crystal()
        + f"pair_style {style} precision float64\npair_coeff * * 1.pt O NULL\n"
        + THERMO
        + "fix mc all gcmc 1 10 0 1 77 1e6 -20.0 0.0 full_energy overlap_cutoff 1.2\nthermo 1\nrun 5\n"
        "write_data end.data nocoeff\n"
    )
    table = table_of(folder, commands, 3)
    assert len(set(table["Atoms"])) > 2
    again = f"units metal\nread_data end.data\npair_style {style} precision float64\npair_coeff * * 1.pt O NULL\n"
    fresh = table_of(folder, again + THERMO + "run 0\n", 1)
    np.testing.assert_allclose(fresh["PotEng"][0], table["PotEng"][-1], rtol=1e-9)


def test_ranks_agree_after_a_change_of_the_grid_and_of_the_model(folder):
    """Ghosts are made anew by balancing, and a second model has longer features than LAMMPS' buffers had to hold."""
    plain = table_of(folder, crystal() + style_lines("tesseral", "2.pt") + THERMO + "run 0\n", 1)
    commands = crystal(settings="comm_style tiled") + style_lines("tesseral", "local.pt") + THERMO + "run 0\n"
    commands += style_lines("tesseral", "2.pt") + "run 0\nbalance 1.0 rcb\nrun 0\n"
    several = table_of(folder, commands, 4)
    for key in ("PotEng", "Pxx", "Pxy"):
        np.testing.assert_allclose(several[key][1:], plain[key][0], rtol=1e-9)


@pytest.mark.parametrize("style", STYLES)
def test_centroid_stress_is_refused(folder, style):
    alone = style_lines(style)
    hybrid = f"pair_style hybrid/overlay {style} zero 5.0\npair_coeff * * {style} 0.pt O Si\npair_coeff * * zero\n"
    for lines in (alone, hybrid):
        deck = crystal() + lines + "compute c all centroid/stress/atom NULL virial\nrun 0\n"
        match = (
            rf"pair_style {style}: compute c of style centroid/stress/atom, and a heat flux by it, need a model with "
        )
        with pytest.raises(LammpsError, match=match + "one layer, but this one has 2:"):
            run_lammps(deck, folder, ranks=2, timeout=60)


@pytest.mark.parametrize("style", STYLES)
def test_the_summary_names_the_layers(folder, style):
    output = run_lammps(crystal() + style_lines(style, "2.pt"), folder, timeout=60)
    assert "layers: 3, with messages between atoms" in output
    output = run_lammps(crystal() + style_lines(style, "local.pt"), folder, timeout=60)
    assert "layers: 1\n" in output
