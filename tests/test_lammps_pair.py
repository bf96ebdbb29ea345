"""What LAMMPS users do with a pair style: NULL types, hybrid styles, ensembles, restarts, atoms that come and go."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from lammps_decks import FORMAT, MODELS, atoms_table, crystal, needs_lammps, thermo_table

from tesseral.calculator import TesseralCalculator
from tesseral.calculator.lammps_process import LammpsError, run_lammps

pytestmark = needs_lammps
STYLE = "pair_style tesseral precision float64\n"
COEFF = "pair_coeff * * random.pt O Si\n"
STYLES = ["tesseral", "tesseral/torch"]
THERMO = "thermo_style custom step atoms temp pe etotal press pxx pyy pzz pxy pxz pyz\nthermo_modify norm no\n" + FORMAT
DUMP = """
compute e all pe/atom
dump d all custom 1 {name} id type x y z fx fy fz c_e
dump_modify d format float %.17g
"""


@pytest.fixture(scope="module", params=["local", "two layers"])
def model(request, tmp_path_factory, write_random_model):
    path = tmp_path_factory.mktemp("pair") / "random.pt"
    return write_random_model(path, ["O", "Si"], scale=1.0, messages=MODELS[request.param])


@pytest.fixture
def run(tmp_path, model):
    """run(commands, ranks) -> thermo table; the model is random.pt in the folder tmp_path."""
    (tmp_path / "random.pt").write_bytes(model.read_bytes())

    def run(commands: str, ranks: int = 1) -> dict[str, np.ndarray]:
        return thermo_table(run_lammps(commands, tmp_path, ranks=ranks, timeout=120))

    return run


def in_ase(model, table: np.ndarray, kept: dict[int, str]) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy and forces of the atoms of some types in a dumped frame of the crystal, and which atoms those are."""
    chosen = np.isin(table[:, 1], list(kept))
    cell = np.array([[2, 0, 0], [0.1, 2, 0], [0.05, -0.15, 2]]) * 5.4
    atoms = Atoms([kept[int(t)] for t in table[chosen, 1]], table[chosen, 2:5], cell=cell, pbc=True)
    atoms.calc = TesseralCalculator(model, dtype="float64")
    return atoms.get_potential_energy(), atoms.get_forces(), chosen


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("names", ["O NULL", "NULL Si", "Si Si"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_null_types_are_not_in_the_model(run, model, tmp_path, style, names, ranks):
    style_line = f"pair_style {style} precision float64\npair_coeff * * random.pt {names}\n"
    thermo = run(crystal() + style_line + THERMO + DUMP.format(name="frame") + "run 0\n", ranks)
    table = atoms_table(tmp_path / "frame")
    kept = {t: name for t, name in enumerate(names.split(), 1) if name != "NULL"}
    energy, forces, chosen = in_ase(model, table, kept)
    np.testing.assert_allclose(thermo["PotEng"], energy, rtol=1e-10)
    np.testing.assert_allclose(table[chosen, 5:8], forces, rtol=0, atol=1e-9)
    assert np.all(table[~chosen, 5:9] == 0)


def test_hybrid_leaves_other_types_to_other_styles(run, model, tmp_path):
    styles = """
pair_style hybrid tesseral precision float64 lj/cut 4.0
pair_coeff * * tesseral random.pt O NULL
pair_coeff 1 2 lj/cut 0.01 2.0
pair_coeff 2 2 lj/cut 0.02 2.1
compute lj all pair lj/cut
"""
    thermo_style = THERMO.replace("pe etotal", "pe c_lj etotal")
    thermo = run(crystal() + styles + thermo_style + DUMP.format(name="frame") + "run 0\n", 2)
    table = atoms_table(tmp_path / "frame")
    energy, _, _ = in_ase(model, table, {1: "O"})
    np.testing.assert_allclose(thermo["PotEng"] - thermo["c_lj"], energy, rtol=1e-10)
    assert abs(thermo["c_lj"][0]) > 0.1


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("other", "coefficients", "settings"),
    [
        ("zbl 2.0 3.0", "pair_coeff 1 1 zbl 8 8\npair_coeff 1 2 zbl 8 14\npair_coeff 2 2 zbl 14 14\n", ""),
        ("coul/long 5.0", "pair_coeff * * coul/long\n", "set type 1 charge -0.6\nset type 2 charge 0.4\n"),
        ("dispersion/d3 original pbe 8.0 6.0", "pair_coeff * * dispersion/d3 O Si\n", ""),
    ],
    ids=["zbl", "coul/long", "dispersion/d3"],
)
def test_hybrid_overlay_adds_up(run, tmp_path, style, other, coefficients, settings):
    box = crystal(settings="atom_style charge").replace("type/fraction 2 0.4 7", "type/ratio 2 0.5 7")
    kspace = "kspace_style pppm 1e-6\n" if "coul" in other else ""
    parts = {}
    for name, commands in {
        "model": f"pair_style {style} precision float64\n{COEFF}",
        "other": f"pair_style hybrid/overlay {other} zero 5.0\n{coefficients}pair_coeff * * zero\n{kspace}",
        "both": f"pair_style hybrid/overlay {style} precision float64 {other}\n{COEFF.replace('* *', '* * ' + style)}"
        f"{coefficients}{kspace}",
    }.items():
        thermo = run(box + settings + commands + THERMO + DUMP.format(name=name) + "run 0\n", 2)
        parts[name] = (thermo["PotEng"], thermo["Pxy"], atoms_table(tmp_path / name)[:, 5:8])
    for both, model, rest in zip(parts["both"], parts["model"], parts["other"], strict=True):
        np.testing.assert_allclose(both, model + rest, rtol=1e-9, atol=1e-8 * np.abs(model).max())
        assert np.abs(rest).max() > 0


def test_nve_conserves_energy_on_any_number_of_ranks(run):
    commands = (
        crystal() + STYLE + COEFF + THERMO + "velocity all create 100 3 loop geom\nfix nve all nve\ntimestep 0.0005\n"
        "thermo 10\nrun 60\n"
    )
    one, three = run(commands, 1), run(commands, 3)
    assert np.ptp(one["TotEng"]) < 1e-3 * np.ptp(one["PotEng"])
    np.testing.assert_allclose(three["PotEng"], one["PotEng"], rtol=1e-9)
    np.testing.assert_allclose(three["Press"], one["Press"], rtol=1e-6)


def test_pressure_is_the_derivative_of_the_energy(run):
    """dE = -P_xx A dx when the box becomes longer along x, dE = -P_xy V / l_y d(xy) when it is tilted."""
    step, length, tilt = 1e-3, 10.8, 0.0
    commands = (
        crystal().replace("0.1 0.05 -0.15", "0 0 0")
        + STYLE
        + COEFF
        + "thermo_style custom step pe vol pxx pxy\n"
        + FORMAT
        + "run 0\n"
    )
    for sign in (1, -1):
        commands += f"change_box all x final 0 {length + sign * step} remap units box\nrun 0\n"
    commands += f"change_box all x final 0 {length} remap units box\n"
    for sign in (1, -1):
        commands += f"change_box all xy final {tilt + sign * step} remap units box\nrun 0\n"
    table = run(commands, 2)
    _, longer, shorter, tilted, back = table["PotEng"]
    bar = 1.602176634e6  # of 1 eV/Å^3
    slope = (longer - shorter) / (2 * step) / length**2
    np.testing.assert_allclose(-slope * bar, table["Pxx"][0], rtol=1e-5)
    slope = (tilted - back) / (2 * step) * length / table["Volume"][0]
    np.testing.assert_allclose(-slope * bar, table["Pxy"][0], rtol=1e-5)


def test_npt_and_minimisation_run(run):
    silicon = "pair_coeff * * silicon Si Si\n"  # random weights have no stable structure
    relaxed = run(crystal() + STYLE + silicon + THERMO + "minimize 1e-12 1e-5 200 2000\n", 2)
    assert relaxed["PotEng"][-1] < relaxed["PotEng"][0]
    commands = (
        crystal() + STYLE + COEFF + THERMO + "velocity all create 300 3\ntimestep 0.0005\nthermo 5\n"
        "fix npt all npt temp 300 300 0.05 tri 0 0 0.5\nrun 20\n"
    )
    table = run(commands, 2)
    assert np.all(np.isfinite(table["Press"])) and len(table["Step"]) == 5


def test_rerun_and_restart_give_the_run_again(run):
    start = crystal() + STYLE + COEFF + THERMO
    dynamics = "thermo 5\nfix nve all nve\ntimestep 0.0005\n"
    dump = "dump r all custom 5 traj id type x y z\ndump_modify r format float %.17g\nrestart 10 half\n"
    whole = run(start + "velocity all create 100 3 loop geom\n" + dynamics + dump + "run 20\n", 2)
    again = run(start + "thermo 5\nrerun traj dump x y z\n")
    np.testing.assert_allclose(again["PotEng"], whole["PotEng"], rtol=1e-9)
    second = run("read_restart half.10\n" + STYLE + COEFF + THERMO + dynamics + "run 10\n", 3)
    np.testing.assert_allclose(second["PotEng"], whole["PotEng"][2:], rtol=1e-9)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("ranks", [1, 3])
def test_atoms_come_and_go(run, style, ranks):
    """The energy after insertions and deletions is that of the same atoms in a new process."""
    style_line = f"pair_style {style} precision float64\n{COEFF}"
    commands = (
        crystal(boundary="p p f")
        + "change_box all z delta -1 5 units box\ndelete_atoms random fraction 0.1 no all NULL 5 compress no\n"
        + style_line
        + THERMO
        + "region top block 3 8 3 8 12.5 14.5 units box\n"
        "region bottom block INF INF INF INF 0 3 units box\n"
        "fix in all deposit 6 1 3 3 region top near 1.0 attempt 50 vz -1 -1\n"
        "fix out all evaporate 4 1 bottom 5\nfix nve all nve\ntimestep 0.0005\nthermo 10\nthermo_modify lost error\n"
        "run 25\nwrite_data end.data nocoeff\n"
    )
    table = run(commands, ranks)
    assert len(set(table["Atoms"])) > 1
    fresh = run(f"units metal\nboundary p p f\nread_data end.data\n{style_line}{THERMO}run 0\n")
    np.testing.assert_allclose(fresh["PotEng"][0], table["PotEng"][-1], rtol=1e-9)


@pytest.mark.parametrize("model", ["local"], indirect=True)
def test_gcmc_of_free_atoms_is_an_ideal_gas(run, tmp_path):
    """With the chemical potential of 20 atoms in the box, E0 included, the mean number of atoms is 20; so it is only if
    a deletion takes away the energy of the atom that insertion adds."""
    box = "units metal\nregion box block 0 90 0 90 0 90\ncreate_box 1 box\nmass 1 28.0855\n"
    style = "pair_style tesseral precision float64\npair_coeff * * random.pt Si\n"
    start = "create_atoms 1 random 20 4711 NULL overlap 6.0 maxtry 5000\n"
    gcmc = (
        "run 0 post no\nvariable free equal $(pe/atoms:%.15g)\nvariable length equal 17.458/sqrt(28.0855*1000)\n"
        "variable mu equal $(v_free+8.617333e-5*1000*ln(20/vol*v_length^3):%.15g)\n"
        "fix mc all gcmc 1 20 0 1 77 1000 ${mu} 0.0 full_energy overlap_cutoff 5.5\nthermo 5\nrun 400\n"
    )
    table = run(box + start + style + THERMO + gcmc + "write_data end.data nocoeff\n", 2)
    assert 17 < table["Atoms"][20:].mean() < 23  # Poisson: 20 +- 0.8 for 30 independent counts
    fresh = run(f"units metal\nread_data end.data\n{style}{THERMO}run 0\n")
    np.testing.assert_allclose(fresh["PotEng"][0], table["PotEng"][-1], rtol=1e-9)


@pytest.mark.parametrize("settings", ["package omp 2\nsuffix omp", "comm_style tiled", "comm_modify cutoff 1.0"])
def test_settings_that_change_no_results(run, settings):
    plain = run(crystal() + STYLE + COEFF + THERMO + "run 0\n", 2)
    balance = "balance 1.0 rcb\n" if "tiled" in settings else ""
    table = run(crystal(settings=settings) + STYLE + COEFF + THERMO + balance + "run 0\n", 2)
    for key in ("PotEng", "Pxx", "Pxy"):
        np.testing.assert_allclose(table[key], plain[key], rtol=1e-9)


def test_threads_agree_with_one_thread(run):
    one = run(crystal() + STYLE + COEFF + THERMO + "run 0\n", 2)
    two = run(crystal() + STYLE.strip() + " threads 2\n" + COEFF + THERMO + "run 0\n", 2)
    for key in ("PotEng", "Pxx", "Pxy"):
        np.testing.assert_allclose(two[key], one[key], rtol=1e-12)


@pytest.mark.parametrize("style", STYLES)
def test_the_plugin_survives_clear(run, style):
    once = crystal() + f"pair_style {style} precision float64\n" + COEFF + THERMO + "run 0\n"
    table = run(once + "clear\n" + once)
    assert table["PotEng"][0] == table["PotEng"][1]


class TestFixPair:
    def test_per_atom_energy_and_products(self, run, tmp_path):
        commands = (
            crystal() + STYLE + COEFF + THERMO + "compute e all pe/atom\n"
            "fix p all pair 5 tesseral energy 1 product_1 1 product_8 1\n"
            "dump d all custom 5 frame id c_e f_p[1] f_p[2] f_p[3]\ndump_modify d format float %.17g\n"
            "fix nve all nve\ntimestep 0.0005\nrun 10\n"
        )
        run(commands, 3)
        table = atoms_table(tmp_path / "frame")
        np.testing.assert_allclose(table[:, 2], table[:, 1], rtol=1e-12)
        assert np.all(np.abs(table[:, 3:]) > 0) and np.all(np.ptp(table[:, 3:], axis=0) > 0)
        run(commands.replace("frame", "one"))  # LAMMPS numbers created atoms rank by rank: compare them in any order
        for several, one in zip(table.T[1:], atoms_table(tmp_path / "one").T[1:], strict=True):
            np.testing.assert_allclose(np.sort(several), np.sort(one), rtol=1e-7)

    def test_halt_above_a_threshold(self, run, tmp_path):
        commands = (
            crystal() + STYLE + COEFF + THERMO + "fix u all pair 2 tesseral energy 1\ncompute most all reduce max f_u\n"
            "variable most equal c_most\n"
            "fix stop all halt 2 v_most > -1e9 error soft\nfix nve all nve\ntimestep 0.0005\nthermo 1\nrun 10\n"
        )
        assert run(commands, 2)["Step"][-1] == 2

    def test_every_reader_finds_fresh_values(self, run, tmp_path):
        """Also readers without a trigger, beside and after one that has it, and when the number of atoms grows."""
        commands = (
            crystal() + STYLE + COEFF + THERMO + "compute e all pe/atom\nfix a all pair 5 tesseral energy 0\n"
            "fix b all pair 10 tesseral energy 1\nvariable error atom abs(f_a-c_e)\n"
            "compute worst all reduce max v_error\nthermo_style custom step atoms c_worst\nthermo 5\nfix nve all nve\n"
            "timestep 0.0005\nrun 20\nunfix b\nrun 20\ncreate_atoms 1 single 0.3 0.4 0.6\nrun 20\n"
        )
        table = run(commands, 2)
        assert len(table["Step"]) == 15 and table["Atoms"][-1] == table["Atoms"][0] + 1
        # fix pair does not read twice on one step: the new atom has no value yet when the third run starts
        assert np.delete(table["c_worst"], 10).max() < 1e-12

    def test_unknown_outputs_are_refused(self, run):
        with pytest.raises(LammpsError, match="no per-atom output 'product_9'; did you mean product_"):
            run(crystal() + STYLE + COEFF + "fix p all pair 5 tesseral product_9 0\n")
        with pytest.raises(LammpsError, match="no per-atom output 'energi'; did you mean energy"):
            run(crystal() + STYLE + COEFF + "fix p all pair 5 tesseral energi 1\n")
