"""Models rebuilt from their files: the same weights and numbers, and files that contradict themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tesseral.models.file import ModelFileError, load_torchscript, save_model
from tesseral.models.local import LocalModel
from tesseral.models.rebuild import rebuild_model
from tesseral.models.registry import resolve_model, shipped_names

SIZES: dict[str, Any] = {"cutoff": 4.0, "l_max": 2, "n_radial": 4, "channels": 16, "features": 4, "readout": [4]}


def interactions(n_species: int) -> tuple[torch.Tensor, ...]:
    """Random edges of five atoms, each with every other."""
    generator = torch.Generator().manual_seed(1)
    centers, neighbors = (index.flatten() for index in torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij"))
    other = centers != neighbors
    positions = 3.0 * torch.rand(5, 3, generator=generator, dtype=torch.float64)
    vectors = positions[neighbors[other]] - positions[centers[other]]
    return vectors, centers[other], neighbors[other], torch.arange(5) % n_species


@pytest.mark.parametrize("messages", [None, {"n_layers": 3, "message_l": 2, "message_mixing": True}])
def test_a_rebuilt_model_is_the_one_in_the_file(messages: dict[str, Any] | None, tmp_path: Path, write_random_model):
    path = write_random_model(tmp_path / "model.pt", ["O", "H"], messages=messages)
    model, program = rebuild_model(path), load_torchscript(path)
    values = program.state_dict()
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    for one, other in zip(model(*interactions(2)), program(*interactions(2)), strict=True):
        assert torch.equal(one, other)
    assert (model.model_type, model.species) == ("local" if messages is None else "layered", ["O", "H"])


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_models_can_be_rebuilt(name: str) -> None:
    path = resolve_model(name)
    model, program = rebuild_model(path), load_torchscript(path)
    for one, other in zip(model(*interactions(model.n_species)), program(*interactions(model.n_species)), strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)


def saved(model: LocalModel, path: Path, **changes: Any) -> Path:
    metadata = {
        "name": "some",
        "model_type": model.model_type,
        "species": model.species,
        "atomic_numbers": [],
        "cutoff": model.cutoff,
        "n_layers": 1,
        "architecture": model.architecture(),
        "units": {},
        "e0": {},
    }
    save_model(path, torch.jit.script(model), metadata | changes, model.native_parameters())
    return path


def test_shift_scale_repulsion_and_splines_come_back(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(6, 4, 4))
    options = {"shift": {"H": 0.1}, "scale": 0.3, "zbl": (0.5, 1.5), "radial_basis": "spline", "radial_table": table}
    model = LocalModel(species=["H", "O"], e0={"H": -1.1, "O": -2.2}, nu=2, **SIZES, **options)
    other = rebuild_model(saved(model, tmp_path / "model.pt"))
    for one, two in zip(model(*interactions(2)), other(*interactions(2)), strict=True):
        assert torch.equal(one, two)
    assert (other.e0, other.shift, other.scale) == ([-1.1, -2.2], [0.1, 0.0], 0.3)


def test_files_that_cannot_be_rebuilt_are_refused(tmp_path: Path, write_random_model) -> None:
    model = LocalModel(species=["Cu"], e0={"Cu": 0.0}, nu=2, **SIZES)
    with pytest.raises(
        ModelFileError, match=r"a\.pt: a model of type 'other' cannot be trained further; types that can"
    ):
        rebuild_model(saved(model, tmp_path / "a.pt", model_type="other"))
    with pytest.raises(ModelFileError, match=r"a\.pt: its metadata do not describe a local model: .*'zbl'"):
        rebuild_model(saved(model, tmp_path / "a.pt", architecture={}))
    wider = model.architecture() | {"channels": 9}
    with pytest.raises(
        ModelFileError, match=r"a\.pt: its program has \[1, 3, 4, 16\] for mixing_weights, .*\[1, 3, 4, 9\]"
    ):
        rebuild_model(saved(model, tmp_path / "a.pt", architecture=wider))
    mixed = write_random_model(tmp_path / "mixed.pt", ["Cu"], native_seed=1)
    with pytest.raises(
        ModelFileError, match=r"mixed\.pt: its program and its parameters are not of one model: \w+ dif"
    ):
        rebuild_model(mixed)
