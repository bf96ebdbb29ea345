"""What one does with an imported MACE model: errors, verification, LAMMPS, further training."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from lammps_decks import FORMAT, atoms_table, crystal, needs_lammps, thermo_table
from mace_torch_models import (
    DENSITY_RESIDUAL,
    PLAIN,
    mace_calculator,
    mace_model,
    mace_results,
    write_imported,
)
from typer.testing import CliRunner

from tesseral import cli
from tesseral.benchmarks.systems import water_box
from tesseral.calculator import TesseralCalculator, evaluate, verification_ipi, verification_lammps
from tesseral.calculator.lammps_process import run_lammps
from tesseral.models.config import Config
from tesseral.models.config_file import load_config, parse_config
from tesseral.models.file import read_metadata
from tesseral.models.initial import open_initial_model
from tesseral.models.pipeline import train
from tesseral.models.prepare import prepare_data
from tesseral.models.rebuild import rebuild_model

#: vectors between the layers, and messages normalised by the density
VECTORS_AND_DENSITY: dict[str, Any] = {
    "hidden": "4x0e + 4x1o",
    "interaction_cls": DENSITY_RESIDUAL,
    "interaction_cls_first": DENSITY_RESIDUAL,
    "pair_repulsion": True,
}
COPPER: dict[str, Any] = {
    "hidden": "8x0e",
    "num_elements": 1,
    "atomic_numbers": [29],
    "atomic_energies": np.array([0.25]),
    "avg_num_neighbors": 30.0,
    "atomic_inter_scale": 2.0,
    "radial_MLP": [8],
}
PAGE = Path(__file__).parent.parent / "docs" / "mace.md"
WITH_ATOM = {"train": ["train.xyz", "atom.xyz"]}


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli.app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def source() -> torch.nn.Module:
    return mace_model(**VECTORS_AND_DENSITY)


@pytest.fixture(scope="module")
def model(source, tmp_path_factory) -> Path:
    return write_imported(tmp_path_factory.mktemp("model") / "vectors.pt", source)


@pytest.fixture(scope="module")
def copper(tmp_path_factory) -> Path:
    """A folder with an imported model of copper, start.pt, and data of effective-medium theory."""
    folder = tmp_path_factory.mktemp("copper")
    write_imported(folder / "start.pt", mace_model(**COPPER))
    ase.io.write(folder / "train.xyz", [rattled(seed) for seed in range(16)], format="extxyz")
    ase.io.write(folder / "test.xyz", [rattled(100 + seed) for seed in range(6)], format="extxyz")
    atom = Atoms("Cu", info={"REF_energy": 1.5, "config_type": "IsolatedAtom"})
    ase.io.write(folder / "atom.xyz", atom, format="extxyz")
    return folder


def rattled(seed: int) -> Atoms:
    """Four atoms of copper with labels."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, rng=np.random.default_rng(seed))
    result = atoms.copy()
    atoms.calc = EMT()
    result.info = {"REF_energy": atoms.get_potential_energy()}
    result.arrays["REF_forces"] = atoms.get_forces()
    return result


def settings(folder: Path, start: Path | None = None, data: dict[str, Any] | None = None, **options: Any) -> Config:
    """A further training of start.pt, or another model, on train.xyz, or other data."""
    files = {"train": ["train.xyz"], "test": ["test.xyz"]} | (data or {})
    training = {"epochs": 15, "batch_size": 4, "threads": 1, "learning_rate": 0.02, "ema_decay": 0.9}
    content = {
        "name": "new",
        "init_from": str(start or folder / "start.pt"),
        "data": {"validation": 0.25} | {key: [str(folder / name) for name in names] for key, names in files.items()},
        "training": training | options.pop("training", {}),
        **options,
    }
    return parse_config(content)


def test_eval_finds_no_errors_in_labels_of_mace_torch(source, model, tmp_path):
    reference, generator, structures = mace_calculator(source), np.random.default_rng(2), []
    for cell in (None, 4.2 * np.eye(3)):
        positions = 2.1 * np.stack(np.meshgrid(*[np.arange(2)] * 3), axis=-1).reshape(-1, 3)
        positions += np.round(generator.normal(0, 0.1, (8, 3)), 6)  # as the file has them
        atoms = Atoms("HOSiHHOOSi", positions, cell=cell, pbc=cell is not None)
        results = mace_results(reference, atoms)
        atoms.info["REF_energy"] = results["energy"]
        atoms.arrays["REF_forces"] = results["forces"]
        structures.append(atoms)
    ase.io.write(tmp_path / "data.xyz", structures, format="extxyz")
    run("eval", model, tmp_path / "data.xyz", "--json", tmp_path / "errors.json")
    errors = json.loads((tmp_path / "errors.json").read_text())
    assert errors["n_frames"] == 2
    assert errors["energy_per_atom"]["max"] < 1e-6 and errors["forces"]["max"] < 1e-4  # meV/atom, meV/Å


def test_verify_passes(model, monkeypatch):
    monkeypatch.setattr(verification_lammps, "lammps_missing", lambda ranks=1: "not here")
    monkeypatch.setattr(verification_ipi, "ipi_missing", lambda: "not here")
    report = json.loads(run("verify", model, "--json"))
    assert len(report["checks"]) == 8 and all(check["passed"] for check in report["checks"])


@needs_lammps
@pytest.mark.parametrize("style, ranks", [("tesseral", 1), ("tesseral", 2), ("tesseral", 8), ("tesseral/torch", 2)])
def test_lammps_on_any_number_of_ranks_gives_the_numbers_of_ase(model, tmp_path, style, ranks):
    commands = (
        crystal()
        + f"pair_style {style} precision float64\npair_coeff * * {model} O Si\n"
        + "thermo_style custom step pe pxx pyy pzz pxy pxz pyz\nthermo_modify norm no\n"
        + FORMAT
        + "velocity all create 900 1\nfix nve all nve\ntimestep 0.0005\n"
        "dump d all custom 5 end.dump id type x y z fx fy fz\ndump_modify d format float %.17g\nrun 5\n"
    )
    thermo = thermo_table(run_lammps(commands, tmp_path, ranks=ranks, timeout=120))
    end = atoms_table(tmp_path / "end.dump")
    cell = np.array([[2, 0, 0], [0.1, 2, 0], [0.05, -0.15, 2]]) * 5.4
    atoms = Atoms([["O", "Si"][int(kind) - 1] for kind in end[:, 1]], end[:, 2:5], cell=cell, pbc=True)
    atoms.calc = TesseralCalculator(model, dtype="float64")
    np.testing.assert_allclose(end[:, 5:8], atoms.get_forces(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(thermo["PotEng"][-1], atoms.get_potential_energy(), rtol=1e-10)


@pytest.mark.parametrize("trainable", ["all", "last_layer", "readout"])
def test_further_training_learns_new_data_and_leaves_frozen_parameters_alone(copper, trainable, tmp_path):
    tables = train(settings(copper, training={"trainable": trainable}), tmp_path)
    before = read_metadata(tmp_path / "model.pt")["training"]["errors_before"]["test"]
    for quantity in ("energy_per_atom", "forces") if trainable == "all" else ("energy_per_atom",):
        assert tables["test"][quantity]["rmse"] < 0.5 * before[quantity]["rmse"]
    start, end = (rebuild_model(path) for path in (copper / "start.pt", tmp_path / "model.pt"))
    trained = {id(parameter) for parameter in start.trainable_parameters(trainable)}
    values = end.state_dict()
    changed = {name for name, value in start.state_dict().items() if not torch.equal(value, values[name])}
    assert changed == {name for name, parameter in start.named_parameters() if id(parameter) in trained}
    metadata = read_metadata(tmp_path / "model.pt")
    assert metadata["model_type"] == "mace" and metadata["init_from"]["name"] == "start"


def test_isolated_atoms_are_learnt_where_their_energy_is_more_than_e0(copper, tmp_path):
    config = settings(copper, data=WITH_ATOM, training={"epochs": 30})
    said: list[str] = []
    data = prepare_data(config, said.append, open_initial_model(config))
    assert [len(frame) for frame in data.training] == [4] * 12 + [1] and {len(f) for f in data.validation} == {4}
    assert any(line.startswith("1 isolated atoms are trained on") for line in said)
    train(config, tmp_path)
    old, new = (evaluate(path, [Atoms("Cu")])[0]["energy"] for path in (copper / "start.pt", tmp_path / "model.pt"))
    assert old != pytest.approx(0.25, abs=1e-3)  # E0
    assert abs(new - 1.5) < 0.5 * abs(old - 1.5)


def test_isolated_atoms_of_replay_and_validation_are_kept_too(copper):
    old = {"replay": ["train.xyz", "atom.xyz"], "validation": ["test.xyz", "atom.xyz"]}
    config = settings(copper, data=old)
    data = prepare_data(config, lambda line: None, open_initial_model(config))
    for frames, n_single in ((data.training, 0), (data.replay, 1), (data.validation, 1)):
        assert [len(frame) for frame in frames].count(1) == n_single


def test_isolated_atoms_give_e0_if_asked(copper):
    config = settings(copper, data=WITH_ATOM, model={"e0": "isolated_atoms"})
    assert prepare_data(config, lambda line: None, open_initial_model(config)).e0 == {"Cu": 1.5}


def test_isolated_atoms_are_left_out_where_nothing_can_be_learnt_from_them(copper, tmp_path):
    """Without a residual in its first layer a MACE model gives E0 and the shift, whatever its weights."""
    start = write_imported(tmp_path / "plain.pt", mace_model(**COPPER, interaction_cls_first=PLAIN))
    config = settings(copper, start, WITH_ATOM)
    said: list[str] = []
    initial = open_initial_model(config)
    assert initial is not None
    data = prepare_data(config, said.append, initial)
    assert {len(frame) for frame in (*data.training, *data.validation)} == {4}
    assert any("an isolated atom has E0 and the shift of the model to start from by" in line for line in said)
    (result,) = evaluate(start, [Atoms("Cu")])
    assert result["energy"] == pytest.approx(0.25 + initial.shift["Cu"], abs=1e-12)


@needs_lammps
@pytest.mark.skipif(not PAGE.exists(), reason="not in a source tree")
def test_the_page_about_mace_models_does_what_it_says(model, tmp_path, monkeypatch):
    snippets = dict(re.findall(r"```(python|lammps|yaml)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
    monkeypatch.chdir(tmp_path)
    shutil.copy(model, "my.pt")
    water_box(2, 0.8, np.random.default_rng(0)).write("start.xyz")
    names: dict[str, Any] = {}
    exec(compile(snippets["python"], PAGE.name, "exec"), names)
    thermo = thermo_table(run_lammps(snippets["lammps"] + FORMAT + "run 0\n", tmp_path, ranks=2, timeout=60))
    assert thermo["E_pair"][0] == pytest.approx(names["atoms"].get_potential_energy(), rel=1e-7)
    Path("train.yaml").write_text(snippets["yaml"])
    config = load_config("train.yaml")
    assert config.init_from is not None and Path(config.init_from).name == "my.pt" and config.data.replay
