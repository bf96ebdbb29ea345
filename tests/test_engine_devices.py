"""What the native engine knows of neighbour lists between calls, and what it says of devices that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tesseral.kernel._engine import Engine, use_cuda_library


@pytest.fixture(scope="module")
def model(tmp_path_factory, write_random_model: Callable[..., Path]) -> str:
    return str(write_random_model(tmp_path_factory.mktemp("model") / "model.pt", ["H", "C", "O"]))


def test_lists_are_checked_until_they_are_known(model, device):
    engine = Engine(model, "float64", device=device)
    positions, species = np.array([[0.0, 0, 0], [0, 0, 1.2], [0, 0, 2.4]]), np.array([0, 1, 2], np.int32)
    first, neighbors = np.array([0, 2, 3, 3]), np.array([1, 2, 0], np.int32)
    wanted = engine.compute(positions, species, first, neighbors, None)
    for number in (1, 2):
        for _ in range(2):  # what was refused is not known
            with pytest.raises(ValueError, match=r"neighbor 1 of atom 0 is 3, outside 0..2"):
                engine.compute(positions, species, first, np.array([1, 3, 0], np.int32), None, list=number)
        for _ in range(2):
            for actual, expected in zip(
                engine.compute(positions, species, first, neighbors, None, list=number), wanted, strict=True
            ):
                assert np.abs(actual - expected).max() <= 1e-13
    with pytest.raises(ValueError, match=r"neighbor 1 of atom 0 is 2, outside 0..1"):  # its sizes belong to a list
        engine.compute(positions[:2], species[:2], first[:3], neighbors, None, list=2)
    with pytest.raises(ValueError, match=r"species\[1\] = 3 is outside 0..2"):  # without a number nothing is known
        engine.compute(positions, np.array([0, 3, 1], np.int32), first, neighbors, None)


class NoRanks:
    """An exchange of a process without others: ghosts have no features."""

    def forward(self, rows: np.ndarray) -> None:
        rows[1:] = 0.0

    def reverse(self, rows: np.ndarray) -> None:
        rows[1:] = 0.0


def test_a_known_list_is_checked_again_without_its_exchange(tmp_path, write_random_model, device):
    engine = Engine(str(write_random_model(tmp_path / "model.pt", ["C"], messages={})), "float64", device=device)
    system = np.array([[0.0, 0, 0], [0, 0, 1.2]]), np.zeros(2, np.int32), np.array([0, 1]), np.array([1], np.int32)
    for _ in range(2):
        engine.compute(*system, None, exchange=NoRanks(), list=1)
    with pytest.raises(ValueError, match="neighbor 0 of atom 0 is atom 1, which is not one of the 1 centers"):
        engine.compute(*system, None, list=1)


@pytest.mark.parametrize(
    ("status", "message", "in_use"),
    [
        ("100", "device cuda: there is no NVIDIA GPU here; choose device cpu", "device 'cuda' does not exist"),
        ("35", r"no usable GPU \(is the driver missing or older than the CUDA of this build", "no usable GPU"),
    ],
)
def test_gpus_that_cannot_be_used_are_told(model, emulated_device, monkeypatch, status, message, in_use):
    try:
        use_cuda_library(str(emulated_device))
        monkeypatch.setenv("TESSERAL_EMULATED_STATUS", status)
        with pytest.raises(ValueError, match=message):
            Engine(model, device="cuda")
        monkeypatch.delenv("TESSERAL_EMULATED_STATUS")
        assert Engine(model, device="cuda").instruction_set == "cuda"
        monkeypatch.setenv("TESSERAL_EMULATED_STATUS", status)
        with pytest.raises(ValueError, match=in_use):
            Engine(model, device="cuda")
    finally:
        use_cuda_library("")
