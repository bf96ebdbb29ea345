"""The local equivariant model: density, channel mixing, symmetric product, readout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tesseral.models.coupling import symmetric_basis
from tesseral.models.energy_model import EnergyModel, as_arrays
from tesseral.models.normalisation import initialise_scales
from tesseral.models.readout import Readout, normal_parameter


class LocalModel(EnergyModel):
    """One layer: an atom's energy depends on its neighbours within the cutoff and nothing else.

    D = density(edges)                                          [N, C, LM], C = n_species * n_radial
    A[i, lm, k] = sum_c D[i, c, lm] mixing[z_i, l, c, k]        [N, LM, K]
    B[i, k] = symmetric products of A[i, :, k], orders 1..nu    [N, K], weights [n_species, n_paths, K]
    h = B @ features                                            [N, F]
    E_i = e0[z_i] + shift[z_i] + scale (h . linear + MLP(h) - MLP(0)) + ZBL_i

    The atomic cluster expansion (Drautz, 10.1103/PhysRevB.99.014104) with learned radial channels, as in the
    first layer of MACE (Batatia et al., arXiv:2206.07697), and a nonlinear readout. The fixed buffer path_scale
    [n_paths] normalises the products. Their tables product_tree and product_roots are no buffers: the operators take
    them from the CPU wherever the model is.

    Args:
        seed: of the random initial parameters.
        arguments: see :class:`tesseral.models.energy_model.EnergyModel`.
    """

    model_type = "local"
    n_layers = 1

    if TYPE_CHECKING:  # buffers; TorchScript does not take annotations in the class body
        path_scale: Tensor
        product_basis: Tensor

    def __init__(self, *, seed: int = 0, **arguments: Any) -> None:
        super().__init__(**arguments)
        generator = torch.Generator().manual_seed(seed)
        table = symmetric_basis(self.l_max, self.nu)
        n_paths = len(table.paths)
        mixing_shape = (self.n_species, *self.density_scale.shape, self.channels)
        self.mixing_weights = normal_parameter(mixing_shape, generator)
        self.product_weights = normal_parameter((self.n_species, n_paths, self.channels), generator)
        self.features_weight = normal_parameter((self.channels, self.features), generator)
        self.readout = Readout(self.features, self.readout_widths, generator)
        self.constant("path_scale", np.full(n_paths, n_paths**-0.5), persistent=True)
        self.constant("product_basis", table.basis)
        self.product_tree, self.product_roots = torch.tensor(table.tree), torch.tensor(table.roots)

    def learned_energies_and_gradients(
        self, edges: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor, differentiable: bool
    ) -> tuple[Tensor, Tensor]:
        """See the base class.

        The density has no parameters: with g_D = dE/dD the edge gradient is the density's vector-Jacobian
        product of g_D, linear in g_D. So training differentiates g_D by the parameters, never the density
        twice.
        """
        neighbor_species = species[neighbors]
        features = self.density(edges, centers, neighbor_species, species.size(0)).requires_grad_(True)
        energies = self.scaled_energies(features, species)
        derivative = torch.autograd.grad([energies.sum()], [features], create_graph=differentiable)[0]
        assert derivative is not None  # for the type checker of TorchScript
        return energies, self.density_gradient(derivative, edges, centers, neighbor_species)

    def scaled_energies(self, features: Tensor, species: Tensor) -> Tensor:
        """Energy of each atom in eV without e0, shift and ZBL, from its density.

        features: [N, C, (l_max+1)^2] as given by `density`.  species: [N] int64.  Returns [N].
        """
        A = self.mix(features, self.mixing(), species)  # [N, LM, K]
        B = self.symmetric_product(A, self.product_coefficients(), species)[:, 0]  # [N, K]
        return self.scale * self.readout(B @ self.feature_matrix())

    def product_coefficients(self) -> Tensor:
        """[S, n_nodes, K]: the path weights spread over the tree of monomials."""
        return torch.matmul(self.product_basis * self.path_scale, self.product_weights)

    def feature_matrix(self) -> Tensor:
        """[K, F]"""
        return self.features_weight / math.sqrt(self.channels)

    def symmetric_product(self, A: Tensor, coefficients: Tensor, species: Tensor) -> Tensor:
        """Invariant polynomials [N, 1, K] of A [N, (l_max+1)^2, K]."""
        return self.product(A, coefficients, species, self.product_tree, self.product_roots)

    # Set-up and export, in Python only.

    def _apply(self, function: Any, recurse: bool = True) -> LocalModel:
        """Convert dtype or device; coupling coefficients are taken anew, never rounded on the way."""
        super()._apply(function, recurse)
        basis = torch.tensor(symmetric_basis(self.l_max, self.nu).basis)
        self.product_basis = basis.to(self.density_scale)
        return self

    def initialise_scales(self, densities: Sequence[Tensor], species: Sequence[Tensor]) -> None:
        """Normalise on a sample of the training data, see `tesseral.models.normalisation`."""
        initialise_scales(self, densities, species)

    def normalise(self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor) -> None:
        """See the base class."""
        with torch.no_grad():
            density = self.density(vectors, centers, species[neighbors], len(species))
        self.initialise_scales([density], [species])

    def last_layer_parameters(self) -> list[torch.nn.Parameter]:
        """Products and features: all but the mixing of the density."""
        return [self.product_weights, self.features_weight]

    @torch.no_grad()
    def native_parameters(self) -> dict[str, NDArray[Any]]:
        """See the base class; also product [S, n_nodes, K], product_tree, product_roots and features [K, F]."""
        basis = torch.tensor(symmetric_basis(self.l_max, self.nu).basis, device=self.path_scale.device)
        tensors = {
            "product": torch.matmul(basis * self.path_scale.double(), self.product_weights.double()),
            "product_tree": self.product_tree,
            "product_roots": self.product_roots,
            "features": self.features_weight.double() / math.sqrt(self.channels),
        }
        return {**super().native_parameters(), **as_arrays(tensors)}
