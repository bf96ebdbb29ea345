"""What the models with messages between atoms share: readouts of the layers and the operators that messages need."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tesseral.models.energy_model import EnergyModel, as_arrays


class MessageModel(EnergyModel):
    """Base class of models whose features h [N, HM, K] pass from layer to layer and from atom to atom.

    A subclass has the attribute `n_layers` and the parameters `layer_readouts` [n_layers-1, K] and `readout`, and the
    method `layer`, see :class:`tesseral.models.layered.LayeredModel`.
    """

    if TYPE_CHECKING:  # TorchScript does not take annotations in the class body
        layer_readouts: torch.nn.Parameter

    def layer_energies(self, index: int, h: Tensor) -> Tensor:
        """The part of one layer in the learned energies [N] in eV; h: [N, HM, K] or of the last layer [N, 1, F]."""
        if index < self.n_layers - 1:
            return self.scale * (h[:, 0] @ (self.layer_readouts[index] / math.sqrt(self.channels)))
        return self.scale * self.readout(h[:, 0])

    def by_degree(self, values: Tensor, weights: Tensor) -> Tensor:
        """Linear map of the channels, one matrix per degree: [N, (L+1)^2, K], [L+1, K, K'] -> [N, (L+1)^2, K']."""
        if weights.size(0) == 1:
            return torch.matmul(values, weights[0])
        return self.map_rows(values, weights[None], list(range(weights.size(0))), None)

    # The operators with the sizes of this model. ReferenceMessages replaces these.

    def map_rows(self, values: Tensor, weights: Tensor, degrees: list[int], species: Tensor | None) -> Tensor:
        """[N, LM, K']: sums of the blocks [N, 2l+1, K] of `values`, one per l in `degrees`, times their matrices."""
        return torch.ops.tesseral.map_rows(values, weights, degrees, species)

    def harmonics(self, vectors: Tensor) -> Tensor:
        """Spherical harmonics [E, LM] of edge vectors [E, 3]."""
        return torch.ops.tesseral.spherical_harmonics(vectors, self.l_max)

    def harmonics_gradient(self, gradient: Tensor, vectors: Tensor) -> Tensor:
        """Vector-Jacobian product [E, 3] of `harmonics` with `gradient` [E, LM]."""
        return torch.ops.tesseral.spherical_harmonics_gradient(gradient, vectors, self.l_max)

    def message(
        self,
        radial: Tensor,
        angular: Tensor,
        h: Tensor,
        weights: Tensor,
        centers: Tensor,
        neighbors: Tensor,
        n_atoms: int,
        terms: Tensor,
        couplings: Tensor,
        n_outputs: int | None = None,
    ) -> Tensor:
        """Messages [n_atoms, n_outputs, K], by default with the components LM of the harmonics."""
        return torch.ops.tesseral.message(
            radial, angular, h, weights, centers, neighbors, n_atoms, terms, couplings, n_outputs
        )

    # Export, in Python only.

    @torch.no_grad()
    def native_parameters(self) -> dict[str, NDArray[Any]]:
        """See the base class; also layer{t}_readout [K], t < n_layers - 1."""
        readouts = self.layer_readouts.double() / math.sqrt(self.channels)
        named = {f"layer{index}_readout": weights for index, weights in enumerate(readouts)}
        return {**super().native_parameters(), **as_arrays(named)}
