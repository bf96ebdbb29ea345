"""The parameters of one layer of the layered model, and what they are with their fixed scales."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tesseral.models.coupling import tensor_basis
from tesseral.models.message_coupling import message_table
from tesseral.models.readout import normal_parameter

if TYPE_CHECKING:
    from typing_extensions import Self


class Layer(torch.nn.Module):
    """Symmetric products of A and their update: the first layer.

    B[i, LM, k] = symmetric products of A[i, :, k] with outputs of degrees L = 0..l_out and parity (-1)^L
    h[i, LM, k'] = sum_k B[i, LM, k] U[L, k, k']

    Trainable: product_weights [S, n_paths, K], update_weights U [l_out+1, K, K'], of order one. Fixed: path_scale
    [n_paths], so that each output has unit root mean square on data. The tables `tree` and `roots` (and those of a
    message) are no buffers: the operators take them from the CPU wherever the model is.

    Args:
        l_max, nu, n_species, channels: of the model.
        l_out: highest degree of h.
        outputs: K'.
        generator: of the initial parameters.
    """

    n_terms_of_update = 1  # independent sums of K terms in h

    if TYPE_CHECKING:  # buffers; TorchScript does not take annotations of tensors in the class body
        path_scale: Tensor
        product_basis: Tensor

    def __init__(
        self, l_max: int, nu: int, n_species: int, channels: int, l_out: int, outputs: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.l_max, self.nu, self.l_out = l_max, nu, l_out
        table = tensor_basis(l_max, nu, l_out)
        n_paths = len(table.paths)
        self.update_factor = 1.0 / math.sqrt(self.n_terms_of_update * channels)
        self.product_weights = normal_parameter((n_species, n_paths, channels), generator)
        self.update_weights = normal_parameter((l_out + 1, channels, outputs), generator)
        self.constant("path_scale", np.full(n_paths, n_paths**-0.5), persistent=True)
        self.constant("product_basis", table.basis)
        self.tree, self.roots = torch.tensor(table.tree), torch.tensor(table.roots)

    def constant(self, name: str, values: Any, persistent: bool = False) -> None:
        """Register a buffer; only persistent ones are saved in checkpoints."""
        self.register_buffer(name, torch.tensor(values), persistent=persistent)

    def product_coefficients(self) -> Tensor:
        """[S, n_nodes, K]: the path weights spread over the tree of monomials."""
        return torch.matmul(self.product_basis * self.path_scale, self.product_weights)

    def update_matrices(self) -> Tensor:
        """[l_out+1, K, K']"""
        return self.update_weights * self.update_factor

    def _apply(self, function: Any, recurse: bool = True) -> Self:
        """Convert dtype or device; coupling coefficients are taken anew, never rounded on the way."""
        super()._apply(function, recurse)
        self.product_basis = torch.tensor(tensor_basis(self.l_max, self.nu, self.l_out).basis).to(self.path_scale)
        return self

    @torch.no_grad()
    def native_parameters(self) -> dict[str, Tensor]:
        """Tensors of the model file without the name of the layer, float64 with all scales folded in."""
        basis = torch.tensor(tensor_basis(self.l_max, self.nu, self.l_out).basis, device=self.path_scale.device)
        return {
            "product": torch.matmul(basis * self.path_scale.double(), self.product_weights.double()),
            "tree": self.tree,
            "roots": self.roots,
            "update": self.update_weights.double() * self.update_factor,
        }


class MessageLayer(Layer):
    """A later layer: messages from the neighbours' features, their products, update and residual.

    M = message(edges, h) with the weights W [P, Q, K]                    [N, LM, K]
    A[i, lm, k'] = sum_k M[i, lm, k] X[l, k, k'], only with mixing, otherwise A = M
    h'[i, LM, k'] = sum_k B[i, LM, k] U[L, k, k'] + sum_k h[i, LM, k] V[z_i, L, k, k']

    Trainable besides those of `Layer`: message_weights W, mixing_weights X [l_max+1, K, K], residual_weights V
    [S, l_out+1, K, K']. Fixed: message_scale [P, Q], so that A has unit root mean square on data for each l.

    Args:
        n_radial: Q.
        message_l: highest degree of h.
        mixing: whether X is there.
        size: arguments of `Layer`.
    """

    n_terms_of_update = 2
    __constants__ = ("has_mixing",)  # TorchScript leaves out the branch that is not taken

    if TYPE_CHECKING:
        message_scale: Tensor

    def __init__(
        self,
        l_max: int,
        nu: int,
        n_species: int,
        channels: int,
        l_out: int,
        outputs: int,
        generator: torch.Generator,
        *,
        n_radial: int,
        message_l: int,
        mixing: bool,
    ) -> None:
        super().__init__(l_max, nu, n_species, channels, l_out, outputs, generator)
        self.message_l, self.has_mixing = message_l, mixing
        table = message_table(l_max, message_l)
        n_paths = len(table.paths)
        self.message_weights = normal_parameter((n_paths, n_radial, channels), generator)
        self.residual_weights = normal_parameter((n_species, l_out + 1, channels, outputs), generator)
        self.mixing_factor = 1.0 / math.sqrt(channels)
        if mixing:
            self.mixing_weights = normal_parameter((l_max + 1, channels, channels), generator)
        self.constant("message_scale", np.full((n_paths, n_radial), n_radial**-0.5), persistent=True)
        self.terms, self.couplings = torch.tensor(table.terms), torch.tensor(table.couplings)

    def radial_weights(self) -> Tensor:
        """Weights of `message` with their fixed scales: [P, Q, K]."""
        return self.message_weights * self.message_scale[:, :, None]

    def mixing_matrices(self) -> Tensor:
        """X with its factor [l_max+1, K, K], only with mixing."""
        return self.mixing_weights * self.mixing_factor

    def residual_matrices(self) -> Tensor:
        """[S, l_out+1, K, K']"""
        return self.residual_weights * self.update_factor

    @torch.no_grad()
    def native_parameters(self) -> dict[str, Tensor]:
        """See the base class."""
        tensors = {
            "message": self.message_weights.double() * self.message_scale.double()[:, :, None],
            "terms": self.terms,
            "couplings": self.couplings,
            "residual": self.residual_weights.double() * self.update_factor,
        }
        if self.has_mixing:
            tensors["mixing"] = self.mixing_weights.double() * self.mixing_factor
        return {**super().native_parameters(), **tensors}


def layer_arrays(layers: list[Layer]) -> dict[str, NDArray[Any]]:
    """Arrays of the model file, layer{t}_{name}."""
    return {
        f"layer{index}_{name}": tensor.detach().cpu().numpy().copy()
        for index, layer in enumerate(layers)
        for name, tensor in layer.native_parameters().items()
    }
