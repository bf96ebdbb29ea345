"""Parts of the optimisation: learning rate by step, weight decay by kind of parameter, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from tesseral.models.config import TrainingConfig
from tesseral.models.soap import Soap


def learning_rate(settings: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of a step (counted from 0): linear warm-up, then a half cosine down to the final fraction.

    A function of the step alone, so a resumed run continues with the same value.
    """
    warmup = settings.warmup_epochs * steps_per_epoch
    if step < warmup:
        return settings.learning_rate * (step + 1) / (math.ceil(warmup) + 1)
    if settings.schedule == "constant":
        return settings.learning_rate
    total = settings.epochs * steps_per_epoch
    progress = min(1.0, (step - warmup) / max(1.0, total - warmup))
    final = settings.final_learning_rate_fraction
    return settings.learning_rate * (final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def make_optimizer(model: torch.nn.Module, settings: TrainingConfig) -> Soap:
    """SOAP, with weight decay on matrices and tensors only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return Soap([group for group in groups if group["params"]], settings.learning_rate)


class AveragedWeights:
    """Exponential moving average of the parameters, with a shorter memory during the first steps.

    After ``n`` steps the decay is min(decay, (1 + n) / (10 + n)), so that the random start is forgotten.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, n_steps: int) -> None:
        """Move the average towards the current parameters after ``n_steps`` optimisation steps."""
        decay = min(self.decay, (1.0 + n_steps) / (10.0 + n_steps))
        torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1.0 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averaged weights into the model for the duration of a ``with`` block."""
        current = {name: p.detach().clone() for name, p in self.parameters.items()}
        copy_into(self.parameters, self.average)
        try:
            yield
        finally:
            copy_into(self.parameters, current)


@torch.no_grad()
def copy_into(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Overwrite each target with the value of the same name."""
    for name, target in targets.items():
        target.copy_(values[name])
