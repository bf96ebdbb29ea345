"""Fixtures shared by the tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import atomic_numbers
from ase.neighborlist import neighbor_list
from device_emulation import EMULATED_DEVICE, allow_foreign_memory, build_emulated_device, faults
from filelock import FileLock
from tesseral.kernel._engine import use_cuda_library

from tesseral.kernel import load_operators
from tesseral.models.energy_model import EnergyModel
from tesseral.models.file import save_model
from tesseral.models.layered import LayeredModel
from tesseral.models.local import LocalModel

pytest.register_assert_rewrite("model_contract")


def _model(species: list[str], seed: int, scale: float, messages: dict[str, Any] | None) -> EnergyModel:
    e0 = {symbol: -16.3123456789 * (index + 1) for index, symbol in enumerate(species)}
    sizes = {"cutoff": 4.0, "l_max": 2, "n_radial": 4, "channels": 8, "nu": 3, "features": 4, "readout": [4]}
    if messages is None:
        return LocalModel(species=species, e0=e0, scale=scale, seed=seed, **sizes)
    model = LayeredModel(species=species, e0=e0, scale=scale, seed=seed, **sizes | messages)
    positions = np.random.default_rng(seed).uniform(0, 9, (40, 3))
    atoms = Atoms("X40", positions, cell=np.eye(3) * 9, pbc=True)  # without fixed scales energies would be huge
    centers, neighbors, vectors = map(torch.tensor, neighbor_list("ijD", atoms, model.cutoff))
    model.normalise(vectors, centers, neighbors, torch.tensor(np.arange(len(atoms)) % len(species)))
    return model


@pytest.fixture(scope="session")
def write_random_model() -> Callable[..., Path]:
    """write(path, species): a small model file with random weights and a cutoff of 4 Å."""

    def write(
        path: Path,
        species: list[str],
        *,
        seed: int = 0,
        native_seed: int | None = None,
        scale: float = 0.05,
        messages: dict[str, Any] | None = None,
    ) -> Path:
        """`native_seed` puts the parameters of another model beside the TorchScript program; `messages`, further
        arguments of LayeredModel, makes it layered."""
        model = _model(species, seed, scale, messages)
        native = model if native_seed is None else _model(species, native_seed, scale, messages)
        metadata = {
            "name": path.stem,
            "model_type": model.model_type,
            "species": species,
            "atomic_numbers": [atomic_numbers[symbol] for symbol in species],
            "cutoff": model.cutoff,
            "n_layers": model.n_layers,
            "architecture": model.architecture(),
            "units": {"energy": "eV", "length": "Å", "stress": "eV/Å^3"},
            "e0": dict(zip(species, model.e0, strict=True)),
            "training": {
                "errors": {"train": {}, "test": {"energy_per_atom": {"mae": 1.0, "rmse": 2.5}, "forces": None}}
            },
        }
        save_model(path, torch.jit.script(model), metadata, native.native_parameters())
        return path

    return write


@pytest.fixture(scope="session")
def emulated_device(tmp_path_factory) -> Path:
    """The device library compiled for the processor, once for all processes of the tests; the environment variable
    TESSERAL_EMULATED_DEVICE names a ready one."""
    ready = os.environ.get("TESSERAL_EMULATED_DEVICE")
    if ready:
        return Path(ready)
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "emulated_device"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        library = folder / EMULATED_DEVICE
        return library if library.exists() else build_emulated_device(folder)


@pytest.fixture
def checked_device(emulated_device) -> Iterator[Path]:
    """The same library, whose kernels must have done nothing wrong with memory during the test."""
    faults(emulated_device)
    yield emulated_device
    assert faults(emulated_device) == ""


@pytest.fixture(params=["cpu", "cuda"])
def device(request) -> Iterator[str]:
    """Each device in turn for the native engine; without a GPU, "cuda" is its code on the processor."""
    library = None
    if request.param == "cuda" and not torch.cuda.is_available():
        library = request.getfixturevalue("checked_device")
        use_cuda_library(str(library))
        allow_foreign_memory(library, False)
    yield request.param
    use_cuda_library("")
    if library:
        allow_foreign_memory(library, True)


@pytest.fixture(params=["cpu", "cuda"])
def operator_device(request) -> Iterator[torch.device]:
    """Each device in turn for the torch operators, as torch's default device; without a GPU, "cuda" is its code on the
    processor, on CPU tensors."""
    load_operators()
    if request.param == "cuda" and torch.cuda.is_available():
        torch.set_default_device("cuda")
    elif request.param == "cuda":
        torch.ops.tesseral.use_emulated_device(str(request.getfixturevalue("checked_device")))
    yield torch.get_default_device()
    torch.set_default_device(None)
    torch.ops.tesseral.use_instruction_set("auto")


@pytest.fixture(params=["baseline", "avx2", "avx512", "cuda"])
def instruction_set(request) -> Iterator[str]:
    """Each instruction set in turn for the torch operators, skipped where this processor lacks it; "cuda" is the code
    of devices on the processor."""
    load_operators()
    threads = torch.get_num_threads()
    if request.param == "cuda":
        torch.set_num_threads(1)  # the emulation has one
        torch.ops.tesseral.use_emulated_device(str(request.getfixturevalue("checked_device")))
    else:
        try:
            torch.ops.tesseral.use_instruction_set(request.param)
        except ValueError:
            pytest.skip(f"this processor has no {request.param}")
    yield request.param
    torch.set_num_threads(threads)
    torch.ops.tesseral.use_instruction_set("auto")
