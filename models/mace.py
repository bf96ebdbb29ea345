"""The MACE model: messages between atoms as in mace-torch, for models that were trained there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tesseral.models import mace_weights
from tesseral.models.exact_buffers import ExactBuffers
from tesseral.models.layers import Layer
from tesseral.models.mace_layers import MaceMessageLayer, ScaledWeights
from tesseral.models.mace_network import MAXIMUM_LAYERS, MaceNetwork
from tesseral.models.mace_operators import MaceOperators
from tesseral.models.mace_repulsion import PairRepulsion
from tesseral.models.readout import SMALL, Readout, normal_parameter


class MaceModel(ExactBuffers, MaceOperators):
    """A model of T = 1..3 layers (Batatia et al., arXiv:2206.07697), exactly as mace-torch computes it.

    D_i = density(edges) with the radial functions g^0_q of the first layer  [N, S*Q_0, LM]
    rho^t_i = sum_c N[t, z_i, c] D_i[c, 0], s^t_i = 1/(1 + rho^t_i)          s = 1 without density normalisation
    A^0_i = s^0_i mix(D_i)                                                   [N, LM, K]
    h^0_i = update^0(B^0_i) + constant[z_i] in degree 0                      [N, HM, K], [N, 1, K] in the last layer
    A^t_i = s^t_i mixing^t(message^t(edges, P^t h^{t-1}))                    t >= 1, with the radial functions g^t_q
    h^t_i = update^t(B^t_i) + residual^t(h^{t-1}_i, z_i)                     residual in some models only
    E_i = e0 + shift + scale (sum_{t < T-1} h^t_i[0] . w^t + readout(h^{T-1}_i)) + repulsion_i

    B^t are the symmetric products of A^t of orders 1..nu_t. The differences to LayeredModel: radial functions of each
    layer from tables of piecewise polynomials, for all pairs of species together or for each; messages stay apart path
    by path until they are mixed; the normalisation by the density; another repulsion; and the constant, which an
    isolated atom has too: its energy is e0 + shift only where the constant is zero. The parts of a message layer are
    in `tesseral.models.mace_layers`.

    Its weights come from a trained model, see `from_network`; there is no `normalise`.

    Args:
        species, cutoff, l_max, channels, e0, shift, scale, readout: see `tesseral.models.energy_model.EnergyModel`.
        message_l: highest degree of the features that are passed on, 0..2 and at most l_max.
        nu: highest order of the symmetric products of each layer; its length is T.
        radial_tables: shape of each layer's table, [n_tables, n_intervals, Q_t, degree+1] with n_tables of 1 or S*S.
        normaliser: whether s^t is there.
        constant: whether the constant is there.
        species_mixing, residual: for each layer after the first, whether it has them.
        linear_readout: whether the readout of the last layer has a linear part; without hidden widths it must.
        zbl: {"kind": "mace", "power", "amplitudes", "decays"} of the repulsion, or None.
        seed: of the random initial parameters.

    Raises ValueError for an argument out of range or in contradiction to another.
    """

    model_type = "mace"
    exact_buffers = ("radial_table", "normaliser")
    __constants__ = ("has_constant", "has_normaliser")  # TorchScript leaves out the branches that are not taken

    if TYPE_CHECKING:  # buffers and modules; TorchScript does not take annotations in the class body
        normaliser: Tensor
        later: Sequence[MaceMessageLayer]

    def __init__(
        self,
        *,
        species: Sequence[str],
        l_max: int,
        message_l: int,
        channels: int,
        nu: Sequence[int],
        readout: Sequence[int],
        radial_tables: Sequence[Sequence[int]],
        normaliser: bool = False,
        constant: bool = False,
        species_mixing: Sequence[bool] = (),
        residual: Sequence[bool] = (),
        linear_readout: bool = False,
        zbl: Mapping[str, Any] | None = None,
        seed: int = 0,
        **arguments: Any,
    ) -> None:
        tables = [tuple(shape) for shape in radial_tables]
        _check_layers(nu, tables, species_mixing, residual)
        if not readout and not linear_readout:
            raise ValueError("model: a readout without hidden widths needs linear_readout")
        super().__init__(
            species=species,
            l_max=l_max,
            n_radial=tables[0][2],
            channels=channels,
            nu=max(nu),
            features=sum(readout[:1]) + int(linear_readout),
            readout=readout,
            radial_basis="spline",
            radial_table=np.zeros((1, tables[0][2], 4)),
            **arguments,
        )
        if not 0 <= message_l <= min(2, l_max):
            raise ValueError(f"model: message_l must be in 0..2 and at most l_max = {l_max}, got {message_l}")
        self.n_layers, self.message_l, self.linear_readout = len(nu), message_l, linear_readout
        self.orders = [int(order) for order in nu]
        self.has_constant, self.has_normaliser, self.has_zbl = constant, normaliser, zbl is not None
        generator = torch.Generator().manual_seed(seed)
        self.mixing_weights = normal_parameter((self.n_species, *self.density_scale.shape, channels), generator)
        degrees = [message_l] * (self.n_layers - 1) + [0]
        sizes = [(l_max, order, self.n_species, channels) for order in nu]
        self.first = Layer(*sizes[0], degrees[0], channels, generator)
        if constant:
            self.constants = ScaledWeights((self.n_species, channels), (), generator)
        layers = [
            MaceMessageLayer(
                *sizes[t],
                degrees[t],
                generator,
                message_l=message_l,
                table=tables[t],
                species_mixing=species_mixing[t - 1],
                residual=residual[t - 1],
            )
            for t in range(1, self.n_layers)
        ]
        self.later = cast("Sequence[MaceMessageLayer]", torch.nn.ModuleList(layers))
        if self.n_layers > 1:
            self.layer_readouts = normal_parameter((self.n_layers - 1, channels), generator)
            with torch.no_grad():
                self.layer_readouts.mul_(SMALL)
        else:
            self.constant("layer_readouts", np.zeros((0, channels)))
        self.readout = Readout(channels, readout, generator, linear_readout)
        self.nuclei = PairRepulsion(self.n_species, self.cutoff, zbl)
        # instead of the base class's table of cubic pieces, which is no part of a checkpoint
        self.constant("radial_table", np.zeros(tables[0]), persistent=True)
        rows = self.n_layers if normaliser else 0
        self.constant("normaliser", np.zeros((rows, self.n_species, self.density_scale.size(1))), persistent=True)

    def learned_energies_and_gradients(
        self, edges: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor, differentiable: bool
    ) -> tuple[Tensor, Tensor]:
        """See the base class; as in LayeredModel the edge gradient is linear in dE/dD, dE/dY and the dE/dR."""
        neighbor_species, tables = species[neighbors], self.tables_of_edges(centers, neighbors, species)
        distances = torch.linalg.vector_norm(edges, dim=1)
        D = self.density(edges, centers, neighbor_species, species.size(0), tables).requires_grad_(True)
        h = self.first_features(D, species)
        energies = self.layer_energies(0, h)
        leaves = [D]
        if self.n_layers > 1:
            Y = self.harmonics(edges).requires_grad_(True)
            leaves.append(Y)
            for index in range(1, self.n_layers):
                R = self.radial_functions(index, distances, tables).requires_grad_(True)
                leaves.append(R)
                h = self.next_features(index, R, Y, h, D[:, :, 0], centers, neighbors, species)
                energies = energies + self.layer_energies(index, h)
        derivatives = torch.autograd.grad([energies.sum()], leaves, create_graph=differentiable)
        g_D = derivatives[0]
        assert g_D is not None  # for the type checker of TorchScript
        gradients = self.density_gradient(g_D, edges, centers, neighbor_species, tables)
        if self.n_layers > 1:
            g_Y = derivatives[1]
            assert g_Y is not None
            slopes = torch.zeros_like(distances)
            for index in range(1, self.n_layers):
                g_R = derivatives[1 + index]
                assert g_R is not None
                slopes = slopes + self.radial_functions_gradient(index, g_R, distances, tables)
            gradients = gradients + self.harmonics_gradient(g_Y, edges) + (slopes / distances)[:, None] * edges
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
        """Features and energies of one layer, see :meth:`tesseral.models.layered.LayeredModel.layer`.

        The features of the last layer are [n_centers, 1, K].
        """
        edges = vectors.to(self.density_scale.dtype)
        own, neighbor_species = species[:n_centers], species[neighbors]
        tables = self.tables_of_edges(centers, neighbors, species)
        if index == 0:
            h = self.first_features(self.density(edges, centers, neighbor_species, n_centers, tables), own)
        else:
            distances = torch.linalg.vector_norm(edges, dim=1)
            R, Y = self.radial_functions(index, distances, tables), self.harmonics(edges)
            scalars = torch.zeros(0, dtype=edges.dtype, device=edges.device)
            if self.has_normaliser:
                scalars = self.scalar_density(edges, centers, neighbor_species, n_centers, tables)
            h = self.next_features(index, R, Y, h, scalars, centers, neighbors, own)
        energies = self.layer_energies(index, h)
        if index == 0 and self.has_zbl:
            energies = energies + self.core_repulsion(edges, centers, neighbors, species, n_centers)
        return h, energies

    def first_features(self, D: Tensor, species: Tensor) -> Tensor:
        """h of the first layer [N, HM, K] from the density D [N, S*Q_0, LM]."""
        A = self.normalised(0, self.mix(D, self.mixing(), species), D[:, :, 0], species)
        B = self.product(A, self.first.product_coefficients(), species, self.first.tree, self.first.roots)
        h = self.by_degree(B, self.first.update_matrices())
        if self.has_constant:
            h = torch.cat([h[:, :1] + self.constants()[species][:, None], h[:, 1:]], dim=1)
        return h

    def next_features(
        self,
        index: int,
        R: Tensor,
        Y: Tensor,
        h: Tensor,
        scalars: Tensor,
        centers: Tensor,
        neighbors: Tensor,
        species: Tensor,
    ) -> Tensor:
        """h of a later layer from that of the layer before.

        R: [E, Q_index]; Y: [E, LM]; h: [at least N, HM, K], first those of the atoms themselves; scalars: D[:, :, 0]
        [N, S*Q_0], only read with density normalisation; species: [N].
        """
        n_atoms, result = species.size(0), h
        for position, layer in enumerate(self.later):
            if position + 1 == index:
                up, W = self.by_degree(h, layer.handed()), layer.messages()
                M = self.message(
                    R, Y, up, W, centers, neighbors, n_atoms, layer.terms, layer.couplings, layer.n_outputs
                )
                A = self.map_rows(M, layer.path_mixing()[None], layer.degrees, None)
                A = self.normalised(index, A, scalars, species)
                if layer.has_species_mixing:
                    Z = layer.species_mixing()
                    A = self.map_rows(A, Z, list(range(Z.size(1))), species)
                B = self.product(A, layer.product_coefficients(), species, layer.tree, layer.roots)
                result = self.by_degree(B, layer.update_matrices())
                if layer.has_residual:
                    V = layer.residual()
                    own = h[:n_atoms, : B.size(1)]
                    result = result + self.map_rows(own, V, list(range(V.size(1))), species)
        return result

    def normalised(self, index: int, A: Tensor, scalars: Tensor, species: Tensor) -> Tensor:
        """A [N, LM, K] of a layer times s^t, from the scalars of the density [N, S*Q_0]."""
        if self.has_normaliser:
            A = A / (1.0 + (self.normaliser[index][species] * scalars).sum(dim=1))[:, None, None]
        return A

    def core_repulsion(
        self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor, n_atoms: int
    ) -> Tensor:
        """See the base class."""
        return self.nuclei(vectors, centers, neighbors, species, n_atoms)

    # Weights and export, in Python only.

    @classmethod
    def from_network(cls, network: MaceNetwork) -> MaceModel:
        """The model with these weights, in float64."""
        model = cls(**mace_weights.arguments_of(network))
        mace_weights.take_network(model, network)
        return model

    def learns_isolated_atoms(self) -> bool:
        """See the base class: the readouts see the constant."""
        return self.has_constant

    def all_layers(self) -> list[Layer]:
        """First to last."""
        return [self.first, *self.later]

    def readout_parameters(self) -> list[torch.nn.Parameter]:
        """The readouts of all layers."""
        return [*([self.layer_readouts] if self.n_layers > 1 else []), *self.readout.parameters()]

    def last_layer_parameters(self) -> list[torch.nn.Parameter]:
        """Messages, their mixing, products, update and residual of the last layer."""
        return list(self.all_layers()[-1].parameters())

    @classmethod
    def arguments_of_file(cls, metadata: Mapping[str, Any], parameters: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Arguments of a model like the one in a file, but for its weights, from what the file says.

        metadata, parameters: contents of metadata.json (with what `architecture` gives) and of `native_parameters`.
        Raises KeyError or TypeError when something is missing or misshapen.
        """
        species, architecture = metadata["species"], metadata["architecture"]
        return {
            **{name: architecture[name] for name in mace_weights.ARGUMENTS},
            **{name: dict(zip(species, parameters[name].tolist(), strict=True)) for name in ("e0", "shift")},
            "species": species,
            "cutoff": metadata["cutoff"],
            "scale": parameters["scale"].item(),
        }

    def architecture(self) -> dict[str, Any]:
        """See the base class; also the other arguments that `arguments_of_file` takes from it."""
        return {**super().architecture(), **mace_weights.architecture_of(self)}

    @torch.no_grad()
    def native_parameters(self) -> dict[str, NDArray[Any]]:
        """See `tesseral.models.mace_weights.native_arrays`."""
        return mace_weights.native_arrays(self, super().native_parameters())


def _check_layers(
    nu: Sequence[int], tables: Sequence[Sequence[int]], species_mixing: Sequence[bool], residual: Sequence[bool]
) -> None:
    if not 1 <= len(nu) <= MAXIMUM_LAYERS:
        raise ValueError(f"model: nu must have 1 to {MAXIMUM_LAYERS} orders, one per layer, got {list(nu)}")
    lengths = (len(tables), len(species_mixing) + 1, len(residual) + 1)
    if set(lengths) != {len(nu)} or any(len(shape) != 4 for shape in tables):
        raise ValueError(
            f"model: {len(nu)} layers need as many shapes of 4 in radial_tables and one less of species_mixing and "
            f"residual, got {lengths[0]}, {lengths[1] - 1} and {lengths[2] - 1}"
        )
