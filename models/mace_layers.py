"""The parameters of one layer of the MACE model, and what they are with their fixed scales."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tesseral.models.exact_buffers import ExactBuffers
from tesseral.models.layers import Layer
from tesseral.models.message_coupling import message_table, terms_by_path
from tesseral.models.readout import normal_parameter

SCALE_FLOOR = 0.01  # of parts of an array with smaller numbers, relative to the part with the largest


def unit_scales(values: Tensor, kept: tuple[int, ...]) -> Tensor:
    """Root mean square of each part of an array, which has one index in each of the axes `kept`.

    Powers of two, so that dividing by them and multiplying again changes no bit; 1 for an array of zeros.
    Returns the shape of `values` with all other axes of length one.
    """
    others = [axis for axis in range(values.dim()) if axis not in kept]
    spread = values.square().mean(dim=others, keepdim=True).sqrt() if others else values.abs()
    largest = float(spread.max()) if spread.numel() else 0.0
    if largest == 0.0:
        return torch.ones_like(spread)
    return torch.exp2(spread.clamp(min=SCALE_FLOOR * largest).log2().round())


class ScaledWeights(torch.nn.Module):
    """values = weight * scale: trainable numbers of order one and fixed powers of two.

    Args:
        shape: of the values, inputs and outputs last.
        kept: axes along which scales differ.
        generator: of the initial weights, scaled by 1/sqrt(inputs) or so.
    """

    if TYPE_CHECKING:  # buffers; TorchScript does not take annotations of tensors in the class body
        scale: Tensor

    def __init__(self, shape: tuple[int, ...], kept: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.kept = kept
        self.weight = normal_parameter(shape, generator)
        sizes = [n if axis in kept else 1 for axis, n in enumerate(shape)]
        factor = 2.0 ** round(-0.5 * math.log2(shape[-2]))
        self.register_buffer("scale", torch.full(sizes, factor, dtype=torch.float64))

    def forward(self) -> Tensor:
        return self.weight * self.scale

    def take(self, values: NDArray[np.float64]) -> None:
        """Set the values; the weights then have unit root mean square in each part."""
        given = torch.tensor(values)
        self.scale.copy_(unit_scales(given, self.kept))
        self.weight.copy_(given / self.scale)

    def values(self) -> Tensor:
        """The values in float64, for a file."""
        return self.weight.double() * self.scale.double()


def take_products(layer: Layer, products: NDArray[np.float64], update: NDArray[np.float64]) -> None:
    """Set the weights of the products [S, n_paths, K] and their update [l_out+1, K, K] of a layer."""
    given = torch.tensor(products)
    scales = unit_scales(given, (1,))
    layer.path_scale.copy_(scales.flatten())
    layer.product_weights.copy_(given / scales)
    layer.update_weights.copy_(torch.tensor(update) / layer.update_factor)


class MaceMessageLayer(ExactBuffers, Layer):
    """A later layer: what neighbours hand over, messages path by path, their mixing, products, update and residual.

    up[j, LM, k'] = sum_k h[j, LM, k] P[L, k, k']
    M[i, (p, m), k] = message(edges, up) with the weights W [P, Q, K], component m of path p = (l1, L, l) for itself
    A[i, lm, k'] = sum over paths p to l, sum_k M[i, (p, m), k] X[p, k, k'], then, only with species mixing,
                   A[i, lm, k''] = sum_k' A[i, lm, k'] Z[z_i, l, k', k'']
    h'[i, LM, k'] = sum_k B[i, LM, k] U[L, k, k'] + sum_k h[i, LM, k] V[z_i, L, k, k'], the latter only with residual

    Trainable besides those of `Layer`: handed P [message_l+1, K, K], messages W, path_mixing X [P, K, K],
    species_mixing Z [S, l_max+1, K, K], residual V [S, l_out+1, K, K]. Fixed: radial_table, see
    `tesseral.kernel.reference.radial_basis`.

    Args:
        l_max, nu, n_species, channels, l_out, generator: of `Layer`.
        message_l: highest degree of h.
        table: shape of the radial table, [n_tables, n_intervals, Q, degree+1].
        species_mixing, residual: whether Z and V are there.
    """

    __constants__ = ("has_residual", "has_species_mixing")  # TorchScript leaves out the branches that are not taken
    exact_buffers = ("radial_table",)

    if TYPE_CHECKING:
        radial_table: Tensor

    def __init__(
        self,
        l_max: int,
        nu: int,
        n_species: int,
        channels: int,
        l_out: int,
        generator: torch.Generator,
        *,
        message_l: int,
        table: tuple[int, ...],
        species_mixing: bool,
        residual: bool,
    ) -> None:
        super().__init__(l_max, nu, n_species, channels, l_out, channels, generator)
        self.message_l, self.has_species_mixing, self.has_residual = message_l, species_mixing, residual
        couplings = message_table(l_max, message_l)
        square = (channels, channels)
        self.degrees = [degree for _, _, degree in couplings.paths]
        self.n_outputs = sum(2 * degree + 1 for degree in self.degrees)
        self.handed = ScaledWeights((message_l + 1, *square), (0,), generator)
        self.messages = ScaledWeights((len(self.degrees), table[2], channels), (0, 1), generator)
        self.path_mixing = ScaledWeights((len(self.degrees), *square), (0,), generator)
        if species_mixing:
            self.species_mixing = ScaledWeights((n_species, l_max + 1, *square), (1,), generator)
        if residual:
            self.residual = ScaledWeights((n_species, l_out + 1, *square), (1,), generator)
        self.constant("radial_table", np.zeros(table), persistent=True)
        self.terms = torch.tensor(terms_by_path(l_max, message_l))
        self.couplings = torch.tensor(couplings.couplings)

    @torch.no_grad()
    def native_parameters(self) -> dict[str, Tensor]:
        """See the base class; also radial_table, message, terms, couplings, mixing, blocks and residual."""
        mixing = self.path_mixing.values()
        if self.has_species_mixing:
            mixing = torch.einsum("pkn,spnm->spkm", mixing, self.species_mixing.values()[:, self.degrees])
        tensors = {
            "radial_table": self.radial_table.double(),
            "message": self.messages.values(),
            "terms": self.terms,
            "couplings": self.couplings,
            "mixing": mixing,
            "blocks": torch.tensor(self.degrees, dtype=torch.int32),
        }
        if self.has_residual:
            tensors["residual"] = self.residual.values()
        return {**super().native_parameters(), **tensors}
