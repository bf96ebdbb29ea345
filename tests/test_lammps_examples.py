"""The LAMMPS input decks under examples/lammps run in a short form and give the physics they promise; the snippets of
docs/lammps.md run."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from lammps_decks import needs_lammps, thermo_table

from tesseral.calculator.lammps_process import run_lammps

pytestmark = needs_lammps
ROOT = Path(__file__).parent.parent
DECKS = ROOT / "examples" / "lammps"
FENCE = re.compile(r"```(python|lammps \w+)\n(.*?)```", re.DOTALL)


def run(deck: str, folder: Path, ranks: int = 1, **variables: float) -> str:
    """What LAMMPS prints when it runs a deck in `folder`; index variables that exist already are kept, as with -var."""
    settings = "".join(f"variable {name} index {value}\n" for name, value in variables.items())
    output = run_lammps(settings + (DECKS / f"in.{deck}").read_text(encoding="utf-8"), folder, ranks=ranks, timeout=300)
    assert "nan" not in output.lower()
    return output


@pytest.fixture(scope="module")
def plotting() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lammps_plot", DECKS / "plot.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plot(plotting: ModuleType, deck: str, folder: Path) -> float:
    """Draws a deck's output; the first number of the sentence about it."""
    sentence = plotting.main([deck, "--folder", str(folder)])
    assert (folder / f"{deck}.png").read_bytes().startswith(b"\x89PNG")
    return float(re.search(r"[-+]?\d+\.?\d*(e[-+]\d+)?", sentence).group())


def test_every_deck_is_tested_plotted_and_in_the_documentation(plotting):
    names = {path.name[3:] for path in DECKS.glob("in.*")}
    tests = {name for name in names if f"test_{name}_" in Path(__file__).read_text(encoding="utf-8")}
    assert names == tests == set(plotting.DECKS)
    page = (ROOT / "docs" / "lammps.md").read_text(encoding="utf-8")
    for name in names:
        assert f"(../examples/lammps/in.{name})" in page
        assert f"lmp -in in.{name}" in (DECKS / f"in.{name}").read_text(encoding="utf-8")


def test_nvt_keeps_the_temperature_and_has_the_neighbour_shells_of_diamond(tmp_path, plotting):
    run("nvt", tmp_path, size=3, equilibrate=500, steps=500)
    _, time, temperature, pressure, energy = np.loadtxt(tmp_path / "thermo.dat").T
    assert time[-1] == pytest.approx(1.0, abs=0.02)  # ps
    assert temperature.mean() == pytest.approx(300.0, abs=50.0)
    assert np.all(np.isfinite(energy)) and np.abs(pressure).max() < 2e4
    _, r, g, coordination = plotting.blocks(tmp_path / "rdf.dat")[-1].T
    assert coordination[np.searchsorted(r, 3.1)] == pytest.approx(4.0, abs=0.02)
    assert coordination[np.searchsorted(r, 4.2)] == pytest.approx(16.0, abs=0.1)
    assert g[(r > 2.8) & (r < 3.3)].max() < 0.1
    assert plot(plotting, "nvt", tmp_path) == pytest.approx(2.37, abs=0.05)


def test_npt_finds_lattice_constant_and_expansion_on_two_ranks(tmp_path, plotting):
    run("npt", tmp_path, ranks=2, size=3, T=300, equilibrate=1000, steps=2000)
    assert np.loadtxt(tmp_path / "static.dat") == pytest.approx([5.469, -5.42457], abs=0.001)  # ASE calculator
    _, target, temperature, lattice, pressure = np.loadtxt(tmp_path / "lattice.dat").T
    assert len(target) == 10 and set(target) == {300.0}
    assert temperature.mean() == pytest.approx(300.0, abs=40.0)
    assert lattice.mean() == pytest.approx(5.477, abs=0.007)
    assert abs(pressure.mean()) < 1500.0  # bar
    assert 5e-7 < plot(plotting, "npt", tmp_path) < 1e-5  # 1/K


def test_melt_leaves_a_crystal_beside_a_melt(tmp_path, plotting):
    run("melt", tmp_path, size=2, length=8, melt=1000, steps=500)
    profiles = plotting.blocks(tmp_path / "profile.dat")
    assert len(profiles) >= 50 and len(profiles[0]) == 16
    coordination = np.mean([table[:, 3] for table in profiles], axis=0)
    assert coordination[2:6].mean() == pytest.approx(4.0, abs=0.2)  # middle of the crystal
    assert coordination[10:14].mean() > 4.4  # middle of the melt
    assert 900.0 < plot(plotting, "melt", tmp_path) < 2200.0


def test_tensile_stress_rises_with_strain(tmp_path, plotting):
    run("tensile", tmp_path, size=4, length=4, equilibrate=1000, strain=0.02, rate=0.01)
    _, strain, along, across, temperature, _ = np.loadtxt(tmp_path / "stress.dat").T
    assert strain[-1] == pytest.approx(0.02, abs=2e-4)
    modulus = np.polyfit(strain, along, 1)[0]  # GPa
    assert 40.0 < modulus < 140.0
    assert abs(np.mean(across)) < 0.5 < along[-len(along) // 10 :].mean()
    assert temperature.mean() == pytest.approx(300.0, abs=40.0)
    plot(plotting, "tensile", tmp_path)


def test_green_kubo_correlates_the_heat_flux(tmp_path, plotting):
    output = run("green_kubo", tmp_path, size=2, equilibrate=1000, steps=6000, points=100)
    table = plotting.blocks(tmp_path / "correlation.dat")[-1]
    assert table.shape == (100, 6) and table[1, 1] == 5  # steps
    at_zero = table[0, 3:6]
    assert np.all(at_zero > 0) and at_zero.max() < 4 * at_zero.min()  # cubic
    assert np.all(np.abs(table[:, 3:6]) <= 1.1 * at_zero)
    energies = thermo_table("Step" + output.rsplit("   Step", 1)[1])["TotEng"]
    assert len(energies) > 10 and np.ptp(energies) < 64 * 2e-4  # eV
    printed = float(re.search(r"correlations of 0\.5 ps: (\S+) W/\(m K\)", output).group(1))
    assert printed == pytest.approx(plotting.conductivities(tmp_path)[2][-1], rel=0.02, abs=0.1)
    plot(plotting, "green_kubo", tmp_path)


def test_acac_proton_stays_between_the_oxygen_atoms(tmp_path, plotting):
    run("acac", tmp_path, equilibrate=2000, steps=6000)
    _, time, first, second, oxygens, temperature, energy = np.loadtxt(tmp_path / "proton.dat").T
    assert time[-1] == pytest.approx(3000.0)  # fs
    nearest = np.minimum(first, second)
    assert 0.85 < nearest.min() and nearest.max() < 1.6
    assert 2.1 < oxygens.min() and oxygens.max() < 3.2
    assert temperature.mean() == pytest.approx(300.0, abs=90.0)
    assert 0.0 < energy.min() and energy.mean() == pytest.approx(0.5 * 39 * 0.0019872 * 300.0, rel=0.5)  # kcal/mol
    assert 0.0 <= plot(plotting, "acac", tmp_path) <= 100.0


def test_hybrid_overlay_contracts_the_lattice(tmp_path, plotting):
    output = run("hybrid_overlay", tmp_path, points=7, cutoff=12.0)
    model, both = map(float, re.search(r"lattice constant: (\S+) A .*, (\S+) A with the model and D3", output).groups())
    assert model == pytest.approx(5.469, abs=0.002)
    assert both == pytest.approx(5.422, abs=0.005)
    lattice, energy, dispersion, pressure = np.loadtxt(tmp_path / "overlay.dat").T
    assert lattice[0] == pytest.approx(5.30) and lattice[-1] == pytest.approx(5.60)
    assert np.all(np.diff(dispersion) > 0) and np.all(dispersion < 0)
    volume = lattice**3 / 8  # Å^3 per atom
    slope = -np.gradient(energy + dispersion, volume)[3] * 1.602176634e6  # eV/Å^3 in bar
    assert slope == pytest.approx(pressure[3], abs=3000.0)
    assert plot(plotting, "hybrid_overlay", tmp_path) == pytest.approx(model, abs=0.005)


def test_snippets_of_the_documentation_run_in_their_order(tmp_path):
    page = (ROOT / "docs" / "lammps.md").read_text(encoding="utf-8")
    snippets = FENCE.findall(page)
    assert [kind for kind, _ in snippets].count("python") >= 2
    first = next(text for kind, text in snippets if kind == "lammps complete")
    for number, (kind, text) in enumerate(snippets):
        if kind == "python":
            (tmp_path / f"{number}.py").write_text(text, encoding="utf-8")
            subprocess.run([sys.executable, f"{number}.py"], cwd=tmp_path, check=True, timeout=300)
            continue
        assert kind in ("lammps complete", "lammps continued")
        output = run_lammps(text if kind == "lammps complete" else f"{first}{text}run 0\n", tmp_path, timeout=300)
        assert "Loop time of" in output
