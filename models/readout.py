"""Readout: from the features of an atom to its energy in units of the model's scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SILU_GAIN = 1.6765325  # 1 / root mean square of silu(x) over x ~ N(0, 1)
SMALL = 0.1  # of the output weights at the start: the untrained energy is nearly e0


def normal_parameter(shape: tuple[int, ...], generator: torch.Generator) -> torch.nn.Parameter:
    """Parameter drawn from N(0, 1), float64."""
    return torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))


class ReadoutLayer(torch.nn.Module):
    """x @ (weight * factor) + bias with weight ~ N(0, 1): parameters of order one at any width."""

    def __init__(self, n_inputs: int, n_outputs: int, gain: float, has_bias: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.factor = gain / math.sqrt(n_inputs)
        self.weight = normal_parameter((n_inputs, n_outputs), generator)
        zeros = torch.zeros(n_outputs, dtype=torch.float64)
        if has_bias:
            self.bias = torch.nn.Parameter(zeros)
        else:
            self.register_buffer("bias", zeros, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ (self.weight * self.factor) + self.bias


class Readout(torch.nn.Module):
    """h . linear + MLP(h) - MLP(0), with SiLU between the layers; an atom without features has no energy.

    Args:
        features: length of h.
        widths: hidden widths of the MLP; empty for the linear part only.
        generator: of the initial parameters.
        linear: whether the linear part is there; without it `linear` is zero and fixed.
    """

    def __init__(self, features: int, widths: Sequence[int], generator: torch.Generator, linear: bool = True) -> None:
        super().__init__()
        self.features = features
        if linear:
            self.linear = normal_parameter((features,), generator)
        else:
            self.register_buffer("linear", torch.zeros(features, dtype=torch.float64), persistent=False)
        self.layers = torch.nn.ModuleList()
        sizes = [features, *widths, 1] if widths else []
        for index in range(len(sizes) - 1):
            is_last = index == len(sizes) - 2
            gain = SILU_GAIN if index > 0 else 1.0
            self.layers.append(ReadoutLayer(sizes[index], sizes[index + 1], gain, not is_last, generator))
        with torch.no_grad():
            self.linear.mul_(SMALL)
            for layer in self.typed_layers()[-1:]:
                layer.weight.mul_(SMALL)

    def forward(self, h: Tensor) -> Tensor:
        """h: [N, F].  Returns [N]."""
        energies = h @ (self.linear / math.sqrt(self.features))
        if len(self.layers) > 0:
            zero = torch.zeros(1, self.features, dtype=h.dtype, device=h.device)
            energies = energies + self.perceptron(h) - self.perceptron(zero)
        return energies

    def perceptron(self, h: Tensor) -> Tensor:
        """MLP(h) before its value at zero is taken off: [N, F] -> [N]."""
        for index, layer in enumerate(self.layers):
            if index > 0:
                h = torch.nn.functional.silu(h)
            h = layer(h)
        return h[:, 0]

    def typed_layers(self) -> list[ReadoutLayer]:
        """The layers of the MLP, first to last."""
        return cast("list[ReadoutLayer]", list(self.layers))

    @torch.no_grad()
    def native_parameters(self) -> dict[str, NDArray[np.float64]]:
        """Weights in the layout of the model file, factors and the value at zero folded in; float64."""
        result = {"readout_linear": self.linear.double() / math.sqrt(self.features)}
        for index, layer in enumerate(self.typed_layers()):
            result[f"readout_mlp_{index}_weight"] = layer.weight.double() * layer.factor
            result[f"readout_mlp_{index}_bias"] = layer.bias.double()
        arrays = {name: tensor.cpu().numpy().copy() for name, tensor in result.items()}
        if len(self.layers) > 0:
            value = np.zeros(self.features)
            for index in range(len(self.layers)):
                value = value / (1.0 + np.exp(-value)) if index > 0 else value
                value = value @ arrays[f"readout_mlp_{index}_weight"] + arrays[f"readout_mlp_{index}_bias"]
            arrays[f"readout_mlp_{len(self.layers) - 1}_bias"] -= value
        return arrays
