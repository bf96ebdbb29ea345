"""Checks shared by the tests of the compiled torch operators."""

from __future__ import annotations

import pytest
import torch

from tesseral.kernel import load_operators

load_operators()
compiled = torch.ops.tesseral
#: for tests of operators that hold on each device
on_each_device = pytest.mark.usefixtures("operator_device")

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
DTYPES = [torch.float64, torch.float32]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """The same numbers on each device."""
    return here(torch.randn(*shape, generator=generator(seed), dtype=torch.float64, device="cpu")).to(dtype)


def here(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on torch's default device, see the fixture `operator_device`."""
    return tensor.to(torch.get_default_device())


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Largest difference relative to the largest expected value; NaN fails."""
    assert actual.shape == expected.shape
    if expected.numel() == 0:
        return
    scale = float(expected.detach().abs().max()) or 1.0
    assert float((actual - expected).detach().abs().max()) <= tolerance * scale


def derivatives(function, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Value, gradients of a random projection, and gradients of a random projection of those."""
    inputs = [x.detach().clone().requires_grad_(True) for x in inputs]
    value = function(*inputs)
    projection = random(tuple(value.shape), value.dtype, 11).requires_grad_(True)
    first = grad((value * projection).sum(), inputs)
    total = sum((random(tuple(g.shape), g.dtype, 12 + n) * g).sum() for n, g in enumerate(first))
    return [value, *first, *grad(total, [*inputs, projection])]


def grad(total: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Gradients with a graph; zero where `total` does not depend on an input."""
    if not total.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(total, inputs, create_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def compare(compiled_function, reference_function, inputs: list[torch.Tensor], tolerance: float) -> None:
    for actual, expected in zip(
        derivatives(compiled_function, inputs), derivatives(reference_function, inputs), strict=True
    ):
        assert_close(actual, expected, tolerance)
