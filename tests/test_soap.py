"""The optimiser: Adam where there is no basis, paths that turn with the problem, fast on coupled weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tesseral.models import soap
from tesseral.models.soap import Soap

Loss = Callable[[Tensor], Tensor]


def orthogonal(size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def coupled_quadratic(left: Tensor, right: Tensor) -> Loss:
    """sum_ij a_i b_j (U^T X V - 1)_ij^2 with condition number 1e4, in the bases U = left, V = right."""
    scales = [torch.logspace(-1, 1, len(side), dtype=torch.float64) for side in (left, right)]

    def loss(X: Tensor) -> Tensor:
        residual = left.T @ X @ right - 1.0
        return (scales[0][:, None] * scales[1] * residual.square()).sum()

    return loss


def path_of(make: Callable[[Tensor], torch.optim.Optimizer], loss: Loss, start: Tensor, n_steps: int) -> list[Tensor]:
    X = start.clone().requires_grad_(True)
    optimizer, path = make(X), []
    for _ in range(n_steps):
        optimizer.zero_grad()
        loss(X).backward()
        optimizer.step()
        path.append(X.detach().clone())
    return path


def start_of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def test_a_vector_follows_adam_after_the_first_step() -> None:
    scales = torch.logspace(-1, 1, 6, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return (scales * (x - 1.0).square()).sum()

    path = path_of(lambda x: Soap([x], 0.05), loss, start_of(6), 21)
    adam = path_of(lambda x: torch.optim.Adam([x], 0.05, betas=(0.95, 0.99), eps=soap.SMALL), loss, start_of(6), 20)
    assert torch.equal(path[0], start_of(6))
    for one, other in zip(path[1:], adam, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)


def test_long_sides_keep_their_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soap, "LONGEST_SIDE", 3)
    loss = coupled_quadratic(orthogonal(4, 0), orthogonal(5, 1))
    path = path_of(lambda X: Soap([X], 0.05), loss, start_of(4, 5), 11)
    adam = path_of(lambda X: torch.optim.Adam([X], 0.05, betas=(0.95, 0.99), eps=soap.SMALL), loss, start_of(4, 5), 10)
    assert torch.allclose(path[-1], adam[-1], rtol=1e-12, atol=1e-12)


@pytest.fixture
def rounding_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """At first only rounding, which differs between processors, is off the diagonal of U^T G V: not to divide by."""
    monkeypatch.setattr(soap, "SMALL", 1e-3)


@pytest.mark.usefixtures("rounding_is_small")
def test_the_path_turns_with_the_problem() -> None:
    U, V, left, right = (orthogonal(5, seed) for seed in range(4))
    start = start_of(5, 5)

    def path(loss: Loss, start: Tensor) -> list[Tensor]:
        return path_of(lambda X: Soap([X], 0.05, interval=3), loss, start, 12)

    turned = path(coupled_quadratic(U @ left, V @ right), U @ start @ V.T)
    straight = path(coupled_quadratic(left, right), start)
    for one, other in zip(turned, straight, strict=True):
        assert torch.allclose(one, U @ other @ V.T, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(straight[0], straight[-1], atol=0.1)


@pytest.mark.usefixtures("rounding_is_small")
def test_matrices_of_a_stack_are_independent() -> None:
    losses = [coupled_quadratic(orthogonal(4, seed), orthogonal(5, seed + 1)) for seed in (0, 10)]
    starts = start_of(2, 4, 5)
    together = path_of(lambda X: Soap([X], 0.05, interval=3), lambda X: losses[0](X[0]) + losses[1](X[1]), starts, 12)
    for index, loss in enumerate(losses):
        alone = path_of(lambda X: Soap([X], 0.05, interval=3), loss, starts[index], 12)
        assert torch.allclose(together[-1][index], alone[-1], rtol=1e-10, atol=1e-10)


def test_coupled_weights_are_learned_faster_than_by_adam() -> None:
    loss = coupled_quadratic(orthogonal(8, 0), orthogonal(8, 1))
    start = start_of(8, 8)
    ours = loss(path_of(lambda X: Soap([X], 0.05), loss, start, 200)[-1])
    adam = loss(path_of(lambda X: torch.optim.Adam([X], 0.05, betas=(0.95, 0.99)), loss, start, 200)[-1])
    assert ours < 0.1 * adam < 0.1 * loss(start)


def test_weight_decay_is_decoupled_and_parameters_without_gradient_stay() -> None:
    used, unused = (torch.ones(3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = Soap([used, unused], 0.1, weight_decay=0.5)
    for _ in range(3):
        used.grad = torch.zeros_like(used)
        optimizer.step()
    assert torch.allclose(used, torch.full_like(used, 0.95**2))
    assert torch.equal(unused, torch.ones_like(unused))
