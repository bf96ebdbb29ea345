"""The optimiser of the trainings: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

LONGEST_SIDE = 512  # longer sides of a matrix keep their own basis: the cost grows with the cube
SMALL = 1e-12  # added to the root of the second moment


class Soap(torch.optim.Optimizer):
    """SOAP (Vyas et al., arXiv:2409.11321): Adam (arXiv:1412.6980) in a basis that follows the gradients.

    A parameter [..., m, n] is a stack of matrices with gradients G. The averages of G G^T and G^T G are kept; every
    `interval` steps one step of power iteration brings their eigenbases U, V up to date. Adam's moments are those
    of U^T G V, so strongly coupled weights (radial functions that overlap, paths that are alike, channels) are scaled
    along their principal directions. Parameters of one dimension, and sides longer than LONGEST_SIDE, keep their basis.

    The first step only starts the averages. All tensors of the state are there from the start and have fixed shapes, so
    that a checkpoint can be restored in place.

    Args:
        groups: parameters or groups of them, as in torch; a group may have its own `lr` and `weight_decay`.
        lr: learning rate.
        betas: decays of the first moment, and of the second moment and the averages.
        weight_decay: decoupled (arXiv:1711.05101), in units of the learning rate.
        interval: steps between two updates of the bases.
    """

    def __init__(
        self,
        groups: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.95, 0.99),
        weight_decay: float = 0.0,
        interval: int = 20,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "interval": interval})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = _initial_state(parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step with the gradients at hand; parameters without one stay."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _update(parameter, self.state[parameter], group)


def _initial_state(parameter: Tensor) -> dict[str, Tensor]:
    state = {
        "step": torch.zeros((), dtype=torch.int64),
        "first_moment": torch.zeros_like(_stacked(parameter)),
        "second_moment": torch.zeros_like(_stacked(parameter)),
    }
    if parameter.ndim >= 2:
        count = state["first_moment"].shape[0]
        for side, length in zip(("left", "right"), parameter.shape[-2:], strict=True):
            if 1 < length <= LONGEST_SIDE:
                state[f"{side}_average"] = parameter.new_zeros(count, length, length)
                state[f"{side}_basis"] = torch.eye(length).to(parameter).repeat(count, 1, 1)
    return state


def _stacked(values: Tensor) -> Tensor:
    """[..., m, n] as [B, m, n]; [n] as it is."""
    return values.detach().reshape(-1, *values.shape[-2:]) if values.ndim >= 2 else values.detach()


def _update(parameter: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    assert parameter.grad is not None
    gradient = _stacked(parameter.grad)
    beta1, beta2 = group["betas"]
    first = int(state["step"]) == 0
    for side, factors in _squares(gradient, state):
        state[f"{side}_average"].baddbmm_(*factors, beta=0.0 if first else beta2, alpha=1.0 if first else 1.0 - beta2)
    state["step"] += 1
    if first:
        for side in _sides(state):
            state[f"{side}_basis"].copy_(torch.linalg.eigh(state[f"{side}_average"])[1].flip(-1))
        return
    count = int(state["step"]) - 1  # updates of the moments
    rotated = _rotated(gradient, state)
    state["first_moment"].lerp_(rotated, 1.0 - beta1)
    state["second_moment"].mul_(beta2).addcmul_(rotated, rotated, value=1.0 - beta2)
    size = (state["second_moment"] / (1.0 - beta2**count)).sqrt_().add_(SMALL)
    step = _rotated_back(state["first_moment"] / size, state).reshape(parameter.shape)
    parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
    parameter.add_(step, alpha=-group["lr"] / (1.0 - beta1**count))
    if count % group["interval"] == 0:
        for side in _sides(state):
            _follow(side, state)


def _sides(state: dict[str, Tensor]) -> list[str]:
    return [side for side in ("left", "right") if f"{side}_basis" in state]


def _squares(gradient: Tensor, state: dict[str, Tensor]) -> Iterable[tuple[str, tuple[Tensor, Tensor]]]:
    """The factors of G G^T for "left" and of G^T G for "right"."""
    for side in _sides(state):
        matrix = gradient if side == "left" else gradient.transpose(1, 2)
        yield side, (matrix, matrix.transpose(1, 2))


def _rotated(values: Tensor, state: dict[str, Tensor]) -> Tensor:
    """U^T values V"""
    if "left_basis" in state:
        values = state["left_basis"].transpose(1, 2) @ values
    return values @ state["right_basis"] if "right_basis" in state else values


def _rotated_back(values: Tensor, state: dict[str, Tensor]) -> Tensor:
    """U values V^T"""
    if "left_basis" in state:
        values = state["left_basis"] @ values
    return values @ state["right_basis"].transpose(1, 2) if "right_basis" in state else values


def _follow(side: str, state: dict[str, Tensor]) -> None:
    """One power iteration of the basis, its columns by falling eigenvalue; the moments turn or change order with it."""
    average, basis, axis = state[f"{side}_average"], state[f"{side}_basis"], 1 if side == "left" else 2
    first, second = state["first_moment"], state["second_moment"]
    image = average @ basis
    order = (basis * image).sum(dim=1).argsort(dim=1, descending=True)  # [B, n]
    second.copy_(second.gather(axis, order.unsqueeze(3 - axis).expand_as(second)))
    turned = torch.linalg.qr(image.gather(2, order[:, None, :].expand_as(image)))[0]
    overlap = turned.transpose(1, 2) @ basis
    first.copy_(overlap @ first if side == "left" else first @ overlap.transpose(1, 2))
    basis.copy_(turned)
