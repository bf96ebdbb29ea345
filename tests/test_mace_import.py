"""Imported MACE models give the numbers of mace-torch, and what cannot be imported is refused by name."""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from mace_torch_models import (
    DENSITY,
    DENSITY_RESIDUAL,
    PLAIN,
    mace_calculator,
    mace_model,
    mace_results,
    modules,
    o3,
    written,
)
from typer.testing import CliRunner

from tesseral import cli
from tesseral.calculator import TesseralCalculator
from tesseral.models.file import read_model
from tesseral.models.mace_import import check, importer, layers, radial, source
from tesseral.models.mace_import.importer import import_mace
from tesseral.models.mace_import.source import MaceImportError, mace_session

ENERGY, FORCE, STRESS = 1e-9, 1e-7, 1e-8  # eV/atom, eV/Å, eV/Å^3; what is promised is 1e-7 and 1e-6


def structures() -> list[Atoms]:
    """A crystal, a sheared cell smaller than the cutoff, a molecule, and isolated atoms."""
    generator = np.random.default_rng(5)
    grid = 1.9 * np.stack(np.meshgrid(*[np.arange(2)] * 3), axis=-1).reshape(-1, 3)
    positions = grid + generator.normal(0, 0.1, grid.shape)
    crystal = Atoms("HOSiHOSiHO", positions, cell=[3.9, 4.1, 4.0], pbc=True)
    cell = [[2.6, 0.2, 0.0], [0.3, 2.7, 0.1], [0.2, -0.3, 2.8]]
    small = Atoms("HO", [[0.0, 0.0, 0.0], [1.2, 1.3, 1.0]], cell=cell, pbc=True)
    return [crystal, small, Atoms("SiOHHOH", positions[:6]), Atoms("HOSi", 9.0 * np.eye(3))]


def assert_same(path: Path, model: torch.nn.Module, some: list[Atoms] | None = None, **settings: Any) -> None:
    """The model file and the MACE model give the same."""
    calculator, reference = TesseralCalculator(path, dtype="float64"), mace_calculator(model, **settings)
    largest = 0.0
    for atoms in structures() if some is None else some:
        expected = mace_results(reference, atoms)
        calculator.calculate(atoms)
        assert calculator.results["energy"] == pytest.approx(expected["energy"], abs=ENERGY * len(atoms), rel=0)
        np.testing.assert_allclose(calculator.results["forces"], expected["forces"], atol=FORCE, rtol=0)
        if atoms.pbc.all():
            np.testing.assert_allclose(calculator.results["stress"], expected["stress"], atol=STRESS, rtol=0)
        largest = max(largest, np.abs(expected["forces"]).max())
    assert 0.1 < largest < 1000.0  # a comparison of something


def imported(model: torch.nn.Module, folder: Path, **options: Any) -> Path:
    """The model file of a MACE model."""
    result, report = import_mace(written(model, folder), trust_pickle=True, **options)
    assert report.differences.within(check.Differences(ENERGY, FORCE, STRESS)), str(report.differences)
    assert 0.0 < report.radial_error <= radial.VALUE_TOLERANCE
    importer.save_imported(folder / "out.pt", result, report)
    return folder / "out.pt"


CASES: dict[str, dict[str, Any]] = {
    "scalars, two orders, without scale and shift": {"hidden": "6x0e", "scaled": False, "correlation": 2},
    "tensors, l_max 3, first block without residual": {
        "hidden": "4x0e + 4x1o + 4x2e",
        "max_ell": 3,
        "interaction_cls_first": PLAIN,
        "radial_MLP": [64, 64, 64],
    },
    "no residuals at all, one order": {"interaction_cls": PLAIN, "interaction_cls_first": PLAIN, "correlation": 1},
    "three layers with orders of their own": {"num_interactions": 3, "correlation": [3, 2, 1]},
    "one layer": {"num_interactions": 1, "use_reduced_cg": False},
    "gaussians, scalars": {"radial_type": "gaussian", "hidden": "4x0e", "num_bessel": 10},
    "Agnesi, density, repulsion": {
        "distance_transform": "Agnesi",
        "interaction_cls": DENSITY_RESIDUAL,
        "interaction_cls_first": DENSITY,
        "pair_repulsion": True,
    },
    "Soft, density, cutoff behind the network": {
        "distance_transform": "Soft",
        "interaction_cls": DENSITY,
        "interaction_cls_first": DENSITY_RESIDUAL,
        "apply_cutoff": False,
    },
    "repulsion without scale": {"pair_repulsion": True, "scaled": False, "hidden": "4x0e"},
    "readout with biases, last layer only, same product for all species": {
        "readout_cls": modules.NonLinearBiasReadoutBlock,
        "use_last_readout_only": True,
        "use_agnostic_product": True,
        "use_reduced_cg": False,
    },
    "readout without gate": {"gate": None, "readout_cls": modules.NonLinearBiasReadoutBlock, "hidden": "4x0e"},
    "fewer channels on the edges": {"edge_irreps": o3.Irreps("3x0e + 3x1o"), "use_edge_irreps_first": True},
}


@pytest.mark.parametrize("case", CASES)
def test_imported_model_gives_the_numbers_of_mace(case, tmp_path):
    model = mace_model(**CASES[case])
    assert_same(imported(model, tmp_path), model)


@pytest.mark.parametrize("readout", [modules.NonLinearReadoutBlock, modules.NonLinearBiasReadoutBlock])
def test_one_head_of_two_is_imported_by_its_name(readout, tmp_path):
    model = mace_model(
        heads=["rough", "fine"],
        atomic_energies=np.array([[-13.0, -430.0, -288.0], [-13.6, -432.1, -289.0]]),
        atomic_inter_scale=[12.0, 20.0],
        atomic_inter_shift=[0.1, -0.4],
        readout_cls=readout,
        hidden="4x0e",
    )
    for head in ("rough", "fine"):
        path = imported(model, tmp_path, head=head)
        assert_same(path, model, structures()[:2], head=head)
        assert read_model(path).metadata["import"]["head"] == head
    with pytest.raises(MaceImportError, match="has the heads rough, fine: choose one with --head"):
        import_mace(tmp_path / "some.model", trust_pickle=True)
    with pytest.raises(MaceImportError, match="none is called 'fien'; did you mean 'fine'"):
        import_mace(tmp_path / "some.model", trust_pickle=True, head="fien")


def test_only_the_elements_wanted_are_imported_in_the_order_given(tmp_path):
    model = mace_model(distance_transform="Agnesi", interaction_cls_first=PLAIN, hidden="4x0e")
    path = imported(model, tmp_path, species=["Si", "H"])
    assert read_model(path).metadata["species"] == ["Si", "H"]
    assert_same(path, model, [atoms[atoms.numbers != 8] for atoms in structures() if len(atoms) > 2])
    with pytest.raises(MaceImportError, match="has no 'C'; it knows H, O, Si"):
        import_mace(tmp_path / "some.model", trust_pickle=True, species=["H", "C"])
    with pytest.raises(MaceImportError, match="species must be different elements, got H, H"):
        import_mace(tmp_path / "some.model", trust_pickle=True, species=["H", "H"])


def test_models_of_single_precision_agree_with_mace_in_double_precision(tmp_path):
    model = mace_model(dtype=torch.float32, r_max=4.2, pair_repulsion=True)
    path = imported(model, tmp_path)
    assert_same(path, model)
    about = read_model(path).metadata["import"]
    assert about["precision"] == "float32" and "stored in single precision" in about["notes"][0]
    assert 0.0 < about["rounding"]["forces"] < 1e-5
    with pytest.raises(MaceImportError, match=r"interactions\.1\.conv_tp.* holds no Clebsch-Gordan coefficients"):
        import_mace(written(_with_other_couplings(model, "_w3j_1_1_2"), tmp_path), trust_pickle=True)
    with pytest.raises(MaceImportError, match="product 0: its symmetric contraction of order 2 leaves a remainder"):
        import_mace(written(_with_other_couplings(model, "U_matrix_2"), tmp_path), trust_pickle=True)


def _with_other_couplings(model: Any, name: str) -> Any:
    """A copy with something else in the first buffer of that name."""
    changed = copy.deepcopy(model)
    next(buffer for key, buffer in changed.named_buffers() if key.endswith(name))[0, 1, 0] += 0.01
    return changed


def test_a_trained_model_agrees_with_mace(tmp_path):
    model = mace_model(pair_repulsion=True)
    graph = mace_calculator(model)._atoms_to_batch(structures()[0]).to_dict()
    wanted = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(15):
        with mace_session():
            forces = model({**graph}, training=True)["forces"]
        losses.append((forces - wanted).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert_same(imported(model, tmp_path), model)


def test_forces_of_chebyshev_models_are_the_derivatives_of_their_energy(tmp_path):
    model = mace_model(radial_type="chebyshev", distance_transform="Agnesi", hidden="4x0e")
    path = imported(model, tmp_path)
    assert "leaves the derivative of Chebyshev" in read_model(path).metadata["import"]["notes"][0]
    atoms, moved, step = structures()[2], [], 1e-4
    reference = mace_calculator(model)
    for sign in (1, -1):
        moved.append(atoms.copy())
        moved[-1].positions[1, 2] += sign * step
    plus, minus = (mace_results(reference, one)["energy"] for one in moved)
    calculator = TesseralCalculator(path, dtype="float64")
    calculator.calculate(atoms)
    assert calculator.results["energy"] == pytest.approx(mace_results(reference, atoms)["energy"], abs=ENERGY)
    assert calculator.results["forces"][1, 2] == pytest.approx((minus - plus) / (2 * step), abs=1e-5)


# --- refusals


@pytest.fixture(scope="module")
def plain_model():
    return mace_model(num_interactions=1, correlation=1, hidden="4x0e")


def _replaced(name: str, part: str):
    """Makes a part of the model another class of mace-torch."""

    def change(model: Any) -> None:
        model.get_submodule(part).__class__ = getattr(modules, name)

    return change


def _set(name: str, value: Any, part: str = ""):
    def change(model: Any) -> None:
        setattr(model.get_submodule(part), name, value)

    return change


class Other(torch.nn.Module):
    """Of a class that is not known."""


def _adapters(model: Any) -> None:
    from mace.modules.lora import inject_lora

    inject_lora(model, rank=2)


def _odd(model: Any) -> None:
    model.products[0].symmetric_contractions.irreps_in = o3.Irreps("4x0e + 4x1e + 4x2e")


def _unequal(model: Any) -> None:
    model.products[0].symmetric_contractions.irreps_in = o3.Irreps("4x0e + 2x1o + 4x2e")


REFUSALS = {
    "the model is a AtomicDipolesMACE, which cannot be imported; known: MACE, ScaleShiftMACE": _replaced(
        "AtomicDipolesMACE", ""
    ),
    "interaction 0 is a RealAgnosticAttResidualInteractionBlock": _replaced(
        "RealAgnosticAttResidualInteractionBlock", "interactions.0"
    ),
    "interaction 0 is a RealAgnosticResidualNonLinearInteractionBlock": _replaced(
        "RealAgnosticResidualNonLinearInteractionBlock", "interactions.0"
    ),
    "readout 0 is a LinearDipoleReadoutBlock": _replaced("LinearDipoleReadoutBlock", "readouts.0"),
    "the radial basis is a Other of .*test_mace_import": _set("bessel_fn", Other(), "radial_embedding"),
    "the distance transform is a Other": _set("distance_transform", Other(), "radial_embedding"),
    "the pair repulsion is a Other": _set("pair_repulsion_fn", Other()),
    "the radial network of interaction 0 is a Other": _set("conv_tp_weights", Other(), "interactions.0"),
    "use_so3": _set("use_so3", True),
    "embeddings of further inputs": _set("joint_embedding", Other()),
    "interactions.0 was converted for cuequivariance": _set(
        "cueq_config", SimpleNamespace(enabled=True), "interactions.0"
    ),
    "merge the adapters first: mace.modules.lora.merge_lora_weights": _adapters,
    "product 0 has correlation 4": _set("correlation", 4, "products.0.symmetric_contractions.contractions.0"),
    "have a parity other than": _odd,
    "unequal numbers of channels": _unequal,
    "has 2 readouts for 1 interactions": lambda model: model.readouts.append(copy.deepcopy(model.readouts[0])),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_what_cannot_be_imported_is_refused_by_name(message, plain_model, monkeypatch):
    with mace_session():
        model = copy.deepcopy(plain_model)
        REFUSALS[message](model)
    monkeypatch.setattr(torch, "load", lambda *arguments, **settings: model)
    with pytest.raises(MaceImportError, match=message):
        import_mace(__file__, trust_pickle=True)


def test_gates_other_than_silu_are_refused(tmp_path):
    model = mace_model(gate=torch.tanh, hidden="4x0e", correlation=1)
    with pytest.raises(MaceImportError, match="the readout of layer 1 has a gate other than SiLU"):
        import_mace(written(model, tmp_path), trust_pickle=True)


def test_a_pickle_is_not_opened_without_trust(plain_model, tmp_path, monkeypatch):
    path = written(plain_model, tmp_path)
    monkeypatch.setattr(torch, "load", lambda *arguments, **settings: pytest.fail("opened"))
    with pytest.raises(MaceImportError, match=r"can run any program with your rights.*--trust-pickle"):
        import_mace(path)


def test_other_files_are_refused_by_what_they_are(plain_model, tmp_path, write_random_model):
    compiled = tmp_path / "compiled.model"
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), compiled)
    with pytest.raises(MaceImportError, match=r"compiled TorchScript model.*import the original .model"):
        import_mace(compiled)
    with pytest.raises(MaceImportError, match="is a Tesseral model already"):
        import_mace(write_random_model(tmp_path / "own.pt", ["Si"]))
    torch.save({"model": 1}, tmp_path / "checkpoint.pt")
    with pytest.raises(MaceImportError, match="holds a dict, not a model"):
        import_mace(tmp_path / "checkpoint.pt", trust_pickle=True)
    (tmp_path / "text.model").write_text("no model")
    with pytest.raises(MaceImportError, match="cannot be opened by torch\\.load: UnpicklingError"):
        import_mace(tmp_path / "text.model", trust_pickle=True)
    with pytest.raises(FileNotFoundError):
        import_mace(tmp_path / "absent.model", trust_pickle=True)


def test_a_missing_package_is_named(plain_model, tmp_path, monkeypatch):
    def load(*arguments: Any, **settings: Any) -> Any:
        raise ModuleNotFoundError("No module named 'cuequivariance_torch'", name="cuequivariance_torch")

    path = written(plain_model, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", load)
        with pytest.raises(MaceImportError, match=r"needs the Python package 'cuequivariance_torch'.*converted back"):
            import_mace(path, trust_pickle=True)
    monkeypatch.setitem(sys.modules, "mace.calculators", None)
    with pytest.raises(ImportError, match=r"needs mace-torch.*pip install 'tesseral\[mace\]'"):
        import_mace(path, trust_pickle=True)


def test_differences_above_the_tolerance_are_refused_unless_accepted(plain_model, tmp_path, monkeypatch):
    path = written(plain_model, tmp_path)
    monkeypatch.setattr(importer, "TOLERANCE", check.Differences(0.0, 0.0, 0.0))
    with pytest.raises(MaceImportError, match=r"differs from mace-torch by energy .*--accept-differences"):
        import_mace(path, trust_pickle=True)
    _, report = import_mace(path, trust_pickle=True, accept_differences=True)
    assert not report.agrees
    assert not check.Differences(float("nan"), 0.0, 0.0).within(check.TOLERANCE)


def test_models_that_need_too_much_are_refused(plain_model, tmp_path, monkeypatch):
    path = written(plain_model, tmp_path)
    for module, limit, value, message in (
        (radial, "LARGEST_TABLE", 1000, "need tables of 0 MiB for 1 pairs of species; name the species"),
        (radial, "MOST_INTERVALS", 20, "too rough for 20 intervals"),
        (radial, "MAXIMUM_RANK", 3, "independent functions; at most 3"),
        (layers, "LARGEST_MIXING", 1000, "3 species need 0 MiB for the first layer alone; name those"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, limit, value)
            with pytest.raises(MaceImportError, match=message):
                import_mace(path, trust_pickle=True)


def test_the_import_leaves_the_process_as_it_was(plain_model, tmp_path, monkeypatch):
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    import_mace(written(plain_model, tmp_path), trust_pickle=True)
    assert torch.get_default_dtype() == torch.float32
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
    assert slice not in torch.serialization.get_safe_globals()


# --- the command


def run(*arguments: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, ["import", "mace", *arguments])
    assert result.exit_code == exit_code, result.output
    return result.output


def test_command_writes_a_model_file_that_says_where_it_comes_from(plain_model, tmp_path):
    path, out = written(plain_model, tmp_path), tmp_path / "out.pt"
    options = ["--trust-pickle", "--species", "O H", "--name", "mine", "--citation", "Me (2024)", "--license", "MIT"]
    output = run(str(path), str(out), *options)
    assert "largest differences from mace-torch" in output and f"tesseral verify {out}" in output
    metadata = read_model(out).metadata
    assert metadata["name"] == "mine" and metadata["species"] == ["O", "H"]
    assert metadata["citation"] == "Me (2024)" and metadata["license"] == "MIT"
    assert metadata["reference_method"] == "imported from a MACE model"
    about = metadata["import"]
    assert about["source"] == "some.model" and len(about["sha256"]) == 64 and about["model_class"] == "ScaleShiftMACE"
    assert about["differences"]["forces"] <= about["tolerance"]["forces"] == 1e-6
    info = CliRunner().invoke(cli.app, ["info", str(out), "--json"])
    assert json.loads(info.output)["import"]["mace_torch"] == source.mace_version()


def test_command_refuses_before_it_works(plain_model, tmp_path):
    path = written(plain_model, tmp_path)
    assert "--trust-pickle" in run(str(path), str(tmp_path / "out.pt"), exit_code=1)
    assert "would overwrite the MACE model" in run(str(path), str(path), "--trust-pickle", exit_code=1)
    assert "there is no folder" in run(str(path), str(tmp_path / "no" / "out.pt"), "--trust-pickle", exit_code=1)
    assert not (tmp_path / "out.pt").exists()
