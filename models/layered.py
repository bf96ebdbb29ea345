"""The layered equivariant model: the local model's first layer, then messages between atoms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor

from tesseral.models.layers import Layer, MessageLayer, layer_arrays
from tesseral.models.message_model import MessageModel
from tesseral.models.normalisation import initialise_layers
from tesseral.models.readout import SMALL, Readout, normal_parameter

MAXIMUM_LAYERS = 3


class LayeredModel(MessageModel):
    """Several layers: an atom sees its neighbours' environments through their features h.

    A^0_i = mix(density_i)                                      [N, LM, K], as in the local model
    A^t_i = mixing^t(message^t(edges of i, h^{t-1}))            [N, LM, K], t >= 1; the mixing is optional
    B^t_i = symmetric products of A^t_i, orders 1..nu           [N, HM, K], degrees L <= message_l with parity (-1)^L,
                                                                only L = 0 in the last layer
    h^t_i = update^t(B^t_i) + residual^t(h^{t-1}_i, z_i)        [N, HM, K], [N, 1, F] in the last layer
    E_i = e0 + shift + scale (sum_{t < T-1} h^t_i[0] . w^t + h^{T-1}_i . linear + MLP(h^{T-1}_i) - MLP(0)) + ZBL_i

    The message M[i, lm, k] = sum_j sum_p R_pk(r_ij) sum C^{lm}_{l1 m1, L M} Y_{l1 m1} h_j[L M, k] has learned radial
    functions R_pk = sum_q g_q W[p, q, k] of the radial basis g_q of the density, for each path p = (l1, L, l), see
    `tesseral.models.message_coupling`. In the class of MACE (Batatia et al., arXiv:2206.07697). Nothing in h is
    constant: an isolated atom has e0 + shift exactly.

    Args:
        n_layers: T, 2 or 3; one layer is the local model.
        message_l: highest degree of the features that are passed on, 0..2 and at most l_max.
        message_mixing: whether the messages' channels are mixed before the product.
        seed: of the random initial parameters.
        arguments: see :class:`tesseral.models.energy_model.EnergyModel`.

    Raises ValueError for an argument out of range.
    """

    model_type = "layered"

    if TYPE_CHECKING:  # TorchScript does not take annotations in the class body
        later: Sequence[MessageLayer]

    def __init__(
        self, *, n_layers: int = 2, message_l: int = 0, message_mixing: bool = False, seed: int = 0, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        if not 2 <= n_layers <= MAXIMUM_LAYERS:
            raise ValueError(f"model: n_layers must be 2 or {MAXIMUM_LAYERS}, got {n_layers}; one layer is LocalModel")
        if not 0 <= message_l <= min(2, self.l_max):
            raise ValueError(f"model: message_l must be in 0..2 and at most l_max = {self.l_max}, got {message_l}")
        self.n_layers, self.message_l, self.message_mixing = n_layers, message_l, message_mixing
        generator = torch.Generator().manual_seed(seed)
        mixing_shape = (self.n_species, *self.density_scale.shape, self.channels)
        self.mixing_weights = normal_parameter(mixing_shape, generator)
        size = (self.l_max, self.nu, self.n_species, self.channels)
        self.first = Layer(*size, message_l, self.channels, generator)
        outputs = [(message_l, self.channels)] * (n_layers - 2) + [(0, self.features)]
        layers = [
            MessageLayer(*size, *some, generator, n_radial=self.n_radial, message_l=message_l, mixing=message_mixing)
            for some in outputs
        ]
        self.later = cast("Sequence[MessageLayer]", torch.nn.ModuleList(layers))
        self.layer_readouts = normal_parameter((n_layers - 1, self.channels), generator)
        with torch.no_grad():
            self.layer_readouts.mul_(SMALL)
        self.readout = Readout(self.features, self.readout_widths, generator)

    def learned_energies_and_gradients(
        self, edges: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor, differentiable: bool
    ) -> tuple[Tensor, Tensor]:
        """See the base class.

        What depends on the vectors, density D, radial functions R and harmonics Y, has no parameters. With g_D, g_R,
        g_Y = dE/dD, dE/dR, dE/dY the edge gradient is linear in them, so training never differentiates D, R or Y twice.
        """
        neighbor_species = species[neighbors]
        distances = torch.linalg.vector_norm(edges, dim=1)
        D = self.density(edges, centers, neighbor_species, species.size(0)).requires_grad_(True)
        R = self.radial_basis_of(distances).requires_grad_(True)
        Y = self.harmonics(edges).requires_grad_(True)
        h = self.first_features(D, species)
        energies = self.layer_energies(0, h)
        for index in range(1, self.n_layers):
            h = self.next_features(index, R, Y, h, centers, neighbors, species)
            energies = energies + self.layer_energies(index, h)
        g_D, g_R, g_Y = torch.autograd.grad([energies.sum()], [D, R, Y], create_graph=differentiable)
        assert g_D is not None and g_R is not None and g_Y is not None  # for the type checker of TorchScript
        slopes = self.radial_basis_gradient(g_R, distances) / distances
        gradients = self.density_gradient(g_D, edges, centers, neighbor_species)
        gradients = gradients + self.harmonics_gradient(g_Y, edges) + slopes[:, None] * edges
        return energies, gradients

    @torch.jit.export
    def layer(
        self,
        index: int,
        vectors: Tensor,
        centers: Tensor,
        neighbors: Tensor,
        species: Tensor,
        n_centers: int,
        h: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Features and energies of one layer, differentiable by `vectors` and `h`, for programs that exchange features.

        index: 0..n_layers-1.  vectors: [E, 3] Å.  centers, neighbors: [E] int64; centers < n_centers, sorted.
        species: [N] int64, n_centers <= N.  h: [N, (message_l+1)^2, K] of the layer before, ignored by layer 0.
        Returns features [n_centers, (message_l+1)^2, K] ([n_centers, 1, F] of the last layer) and the layer's part of
        the energies [n_centers] in eV without e0 and shift, both in the dtype of the model. The sum of the layers'
        energies and of `baseline` is the energy of `forward`.
        """
        edges = vectors.to(self.density_scale.dtype)
        own = species[:n_centers]
        if index == 0:
            h = self.first_features(self.density(edges, centers, species[neighbors], n_centers), own)
        else:
            R, Y = self.radial_basis_of(torch.linalg.vector_norm(edges, dim=1)), self.harmonics(edges)
            h = self.next_features(index, R, Y, h, centers, neighbors, own)
        energies = self.layer_energies(index, h)
        if index == 0 and self.has_zbl:
            energies = energies + self.core_repulsion(edges, centers, neighbors, species, n_centers)
        return h, energies

    def first_features(self, D: Tensor, species: Tensor) -> Tensor:
        """h of the first layer [N, HM, K] from the density D [N, C, LM]."""
        A = self.mix(D, self.mixing(), species)
        B = self.product(A, self.first.product_coefficients(), species, self.first.tree, self.first.roots)
        return self.by_degree(B, self.first.update_matrices())

    def next_features(
        self, index: int, R: Tensor, Y: Tensor, h: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor
    ) -> Tensor:
        """h of a later layer from that of the layer before.

        R: [E, Q]; Y: [E, LM]; h: [at least N, HM, K], first those of the atoms themselves; species: [N].
        """
        n_atoms, result = species.size(0), h
        for position, layer in enumerate(self.later):
            if position + 1 == index:
                W = layer.radial_weights()
                M = self.message(R, Y, h, W, centers, neighbors, n_atoms, layer.terms, layer.couplings)
                if layer.has_mixing:
                    M = self.by_degree(M, layer.mixing_matrices())
                B = self.product(M, layer.product_coefficients(), species, layer.tree, layer.roots)
                V = layer.residual_matrices()
                residual = self.map_rows(h[:n_atoms, : B.size(1)], V, list(range(V.size(1))), species)
                result = self.by_degree(B, layer.update_matrices()) + residual
        return result

    # The operators with the sizes of this model. ReferenceLayeredModel replaces these.

    def radial_basis_of(self, distances: Tensor) -> Tensor:
        """Radial functions [E, Q] of distances [E] Å."""
        return torch.ops.tesseral.radial_basis(
            distances, self.radial_basis, self.n_radial, self.cutoff, self.radial_table
        )

    def radial_basis_gradient(self, gradient: Tensor, distances: Tensor) -> Tensor:
        """Vector-Jacobian product [E] of `radial_basis_of` with `gradient` [E, Q]."""
        return torch.ops.tesseral.radial_basis_gradient(
            gradient, distances, self.radial_basis, self.n_radial, self.cutoff, self.radial_table
        )

    # Set-up and export, in Python only.

    def normalise(self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor) -> None:
        """See the base class."""
        initialise_layers(self, vectors, centers, neighbors, species)

    def all_layers(self) -> list[Layer]:
        """First to last."""
        return [self.first, *self.later]

    def readout_parameters(self) -> list[torch.nn.Parameter]:
        """The readouts of all layers."""
        return [self.layer_readouts, *self.readout.parameters()]

    def last_layer_parameters(self) -> list[torch.nn.Parameter]:
        """Messages, their mixing, products, update and residual of the last layer."""
        return list(self.later[-1].parameters())

    def architecture(self) -> dict[str, Any]:
        """See the base class."""
        names = ("n_layers", "message_l", "message_mixing")
        return {**super().architecture(), **{name: getattr(self, name) for name in names}}

    @torch.no_grad()
    def native_parameters(self) -> dict[str, NDArray[Any]]:
        """See the base class; also layer{t}_* of `tesseral.models.layers`."""
        return {**super().native_parameters(), **layer_arrays(self.all_layers())}
