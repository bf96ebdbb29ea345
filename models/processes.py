"""The device of a training, and the processes that share it: one for each GPU, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tesseral.kernel import load_operators

Item = TypeVar("Item")


def training_device(name: str) -> torch.device:
    """The device that ``training.device`` names; under torchrun ``cuda`` is a GPU for each process of a machine.

    Raises:
        ValueError: torch has no such device.
        RuntimeError: the operators were built without CUDA.
    """
    device = torch.device(name)
    if device.type == "cpu":
        return device
    this = f"training.device: {name}, but this torch ({torch.__version__})"
    if torch.version.cuda is None:
        raise ValueError(f"{this} has no CUDA; install a torch with CUDA, or choose cpu")
    if not torch.cuda.is_available():
        raise ValueError(f"{this} finds no GPU; choose cpu")
    index = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", "0"))
    if index >= torch.cuda.device_count():
        raise ValueError(f"{this} finds {torch.cuda.device_count()} GPUs, none of the number {index}")
    device = torch.device("cuda", index)
    load_operators()
    torch.ops.tesseral.spherical_harmonics(torch.ones(1, 3, device=device), 0)  # tells before any work what is missing
    return device


@dataclass(frozen=True)
class Processes:
    """This process among those that train one model together. Each has the whole data and model and takes its share of
    every batch; sums over the processes make them take the same steps."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those of this process, maybe none."""
        return items[self.rank :: self.count]

    def summed(self, values: Tensor) -> Tensor:
        """Sums over all processes, the same in each."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace the gradients by their sums; a process without one adds nothing."""
        if self.count > 1:
            given = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            total = self.summed(torch.cat([gradient.flatten() for gradient in given]))
            for parameter, part in zip(parameters, total.split([p.numel() for p in parameters]), strict=True):
                parameter.grad = part.view_as(parameter)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def largest(self, value: int, device: torch.device) -> int:
        """The largest of the processes' values."""
        if self.count == 1:
            return value
        values = torch.tensor(value, device=device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values)


@contextmanager
def joined_processes(device: torch.device) -> Iterator[Processes]:
    """The processes of a `with` block; this one alone where torchrun did not start it."""
    if not dist.is_torchelastic_launched():
        yield Processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where NCCL works
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
