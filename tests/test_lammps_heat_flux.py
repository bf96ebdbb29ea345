"""With centroid stresses, and only with them, compute heat/flux is the time derivative of sum_i r_i e_i."""

from __future__ import annotations

import numpy as np
import pytest
from lammps_decks import FORMAT, atoms_table, crystal, needs_lammps, thermo_table

from tesseral.calculator.lammps_process import run_lammps

pytestmark = needs_lammps
TIMESTEP = 2e-5  # ps


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_random_model):
    folder = tmp_path_factory.mktemp("heat")
    write_random_model(folder / "random.pt", ["O", "Si"], scale=1.0)
    return folder


def fluxes(folder, style: str, ranks: int, box: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """sum_i r_i e_i [3 steps, 3] in eV Å, and the second step's fluxes by centroid/stress/atom and by stress/atom."""
    commands = f"""
pair_style {style} precision float64
pair_coeff * * random.pt O Si
velocity all create 600 5 loop geom
compute ke all ke/atom
compute pe all pe/atom
compute centroid all centroid/stress/atom NULL virial
compute stress all stress/atom NULL virial
compute exact all heat/flux ke pe centroid
compute rough all heat/flux ke pe stress
fix nve all nve
timestep {TIMESTEP}
dump frames all custom 1 frame.* id x y z c_ke c_pe
dump_modify frames format float %.17g
thermo_style custom step pe etotal c_exact[*] c_rough[*]
{FORMAT}
thermo 1
run 2
"""
    table = thermo_table(run_lammps(box + commands, folder, ranks=ranks, timeout=120))
    frames = [atoms_table(folder / f"frame.{step}") for step in range(3)]
    moments = np.array([(frame[:, 1:4] * frame[:, 4:].sum(1, keepdims=True)).sum(0) for frame in frames])
    second = {name: np.array([table[f"c_{name}[{axis}]"][1] for axis in (1, 2, 3)]) for name in ("exact", "rough")}
    return moments, second


@pytest.mark.parametrize("style", ["tesseral", "tesseral/torch"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_heat_flux_is_the_derivative_of_the_energy_moment(folder, style, ranks):
    cluster = crystal(boundary="f f f") + "change_box all x delta -3 3 y delta -3 3 z delta -3 3 units box\n"
    moments, flux = fluxes(folder, style, ranks, cluster)
    expected = (moments[2] - moments[0]) / (2 * TIMESTEP)
    np.testing.assert_allclose(
        flux["exact"], expected, rtol=0, atol=1e-6
    )  # eV Å/ps; the differences' own error is 2e-7
    assert np.abs(flux["rough"] - expected).max() > 0.1  # the symmetric virial of the centers is no substitute


def test_periodic_heat_flux_does_not_depend_on_ranks(folder):
    one, three = (fluxes(folder, "tesseral", ranks, crystal())[1]["exact"] for ranks in (1, 3))
    np.testing.assert_allclose(three, one, rtol=1e-8)
