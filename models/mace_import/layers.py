"""The layers of a MACE model: linear maps, messages, products and residuals, as arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tesseral.models.mace_import.contractions import product_weights
from tesseral.models.mace_import.linear_maps import (
    Array,
    Block,
    array,
    block_matrices,
    blocks_of,
    harmonic_frames,
    matrices_by_degree,
)
from tesseral.models.mace_import.messages import MessagePath, message_paths
from tesseral.models.mace_import.radial import Compressed
from tesseral.models.mace_import.source import DENSITY_BLOCKS, MAXIMUM_MESSAGE_L, RESIDUAL_BLOCKS, MaceImportError
from tesseral.models.message_coupling import message_table

LARGEST_MIXING = 2**29  # bytes


class Layers:
    """The layers of a MACE model in the conventions of :class:`tesseral.models.mace_network.MaceNetwork`.

    Args:
        model: float64 MACE model on the CPU.
        path: of its file, for messages.
        elements: positions in the model of the species that are kept.

    Raises MaceImportError, here and in the methods, for what cannot be computed exactly.
    """

    def __init__(self, model: Any, path: Path, elements: Sequence[int]) -> None:
        self.model, self.path, self.elements = model, path, list(elements)
        self.attributes = torch.eye(len(model.atomic_numbers))[self.elements]  # [S, elements of the model]
        self.frames = harmonic_frames(model.spherical_harmonics, f"{path}")
        self.l_max, self.n_layers = len(self.frames) - 1, len(model.interactions)
        self.channels, self.message_l = self._channels(), self._message_l()

    def _channels(self) -> int:
        """K, the same for all degrees and layers of the products."""
        sizes = set()
        for product in self.model.products:
            for irreps in (product.symmetric_contractions.irreps_in, product.symmetric_contractions.irreps_out):
                blocks = blocks_of(irreps, f"{self.path}")
                sizes |= {block.channels for block in blocks}
                if len({block.degree for block in blocks}) != len(blocks):
                    sizes.add(0)
        if len(sizes) != 1:
            raise MaceImportError(f"{self.path}: unequal numbers of channels of the degrees cannot be imported")
        return sizes.pop()

    def _message_l(self) -> int:
        """Highest degree of the features between the layers."""
        degrees = [irrep.l for product in self.model.products[:-1] for _, irrep in product.linear.irreps_out]
        if max(degrees, default=0) > MAXIMUM_MESSAGE_L:
            raise MaceImportError(
                f"{self.path}: has features of degree {max(degrees)} between its layers; can be imported: up to "
                f"{MAXIMUM_MESSAGE_L}"
            )
        return max(degrees, default=0)

    def degree_of_layer(self, index: int) -> int:
        """Highest degree of the features of a layer."""
        return self.message_l if index < self.n_layers - 1 else 0

    def mixing(self, radial: Compressed) -> Array:
        """[S, l_max+1, S*Q_0, K] of the first layer: radial network, node embedding, linear maps and species mixing."""
        interaction = self.model.interactions[0]
        up = self.scalars_up()  # [S, channels of the edges]
        paths, linear = self.paths_and_linear(0)
        outputs = network_outputs(interaction, radial)  # [Q, W]
        n_bytes = 8 * len(self.elements) ** 2 * (self.l_max + 1) * outputs.shape[0] * self.channels
        if n_bytes > LARGEST_MIXING:
            raise MaceImportError(
                f"{self.path}: {len(self.elements)} species need {n_bytes // 2**20} MiB for the first layer alone; "
                "name those that are wanted: --species (species=)"
            )
        result = np.zeros((len(self.elements), self.l_max + 1, outputs.shape[0], self.channels))
        for path, matrix in zip(paths, linear, strict=True):
            radial_weights = outputs[:, path.weights] * path.factor  # [Q, u]
            mixed = (radial_weights[None] * up[:, None]) @ matrix  # [S of the neighbour, Q, K]
            result[:, path.degrees[2]] += mixed
        mixing = result.transpose(1, 0, 2, 3).reshape(self.l_max + 1, -1, self.channels)  # [l, S*Q, K]
        by_species = self.species_mixing(0)
        if by_species is None:
            return np.ascontiguousarray(np.broadcast_to(mixing, (len(self.elements), *mixing.shape)))
        return np.einsum("lck,zlkj->zlcj", mixing, by_species, optimize=True)

    def embedding(self) -> Tensor:
        """Features [S, K] of each species before the first layer."""
        embedded: Tensor = self.model.node_embedding(self.attributes)
        return embedded

    def scalars_up(self) -> Array:
        """What the neighbours of each species hand over in the first layer."""
        return array(self.model.interactions[0].linear_up(self.embedding()))

    def paths_and_linear(self, index: int) -> tuple[list[MessagePath], list[Array]]:
        """Paths of the messages of a layer, and the matrix [u, K] behind each, divided by the number of neighbours."""
        interaction, what = self.model.interactions[index], f"{self.path}: interaction {index}"
        paths = message_paths(interaction.conv_tp, self.frames, what)
        inputs, outputs = blocks_of(interaction.linear.irreps_in, what), self.features(interaction.irreps_out, what)
        matrices = block_matrices(interaction.linear, inputs, outputs, what)
        divisor = 1.0 if type(interaction).__name__ in DENSITY_BLOCKS else float(interaction.avg_num_neighbors)
        targets = {block.degree: position for position, block in enumerate(outputs)}
        return paths, [matrices[path.block, targets[path.degrees[2]]] / divisor for path in paths]

    def features(self, irreps: Any, what: str) -> list[Block]:
        """Blocks of one per degree in rising order, each of K channels, as the products take them."""
        blocks = blocks_of(irreps, what)
        expected = [(degree, self.channels) for degree in range(self.l_max + 1)]
        if [(block.degree, block.channels) for block in blocks] != expected:
            raise MaceImportError(f"{what}: messages {irreps} cannot be imported")
        return blocks

    def update(self, index: int) -> Array:
        """[L_t+1, K, K]"""
        return self.by_degree(self.model.products[index].linear, self.degree_of_layer(index), f"product {index}")

    def product(self, index: int) -> Array:
        """[S, n_paths, K]"""
        what = f"{self.path}: product {index}"
        weights = product_weights(self.model.products[index], self.frames, self.degree_of_layer(index), what)
        one_for_all = getattr(self.model.products[index], "use_agnostic_product", False)
        return weights[[0] * len(self.elements) if one_for_all else self.elements]

    def handed(self, index: int) -> Array:
        """[message_l+1, K, K]: what the features of the layer before are for the neighbours in this one."""
        return self.by_degree(self.model.interactions[index].linear_up, self.message_l, f"interaction {index}")

    def messages(self, index: int, radial: Compressed) -> tuple[Array, Array]:
        """Weights [P, Q, K] of the messages of a later layer, and what mixes them path by path, [P, K, K]."""
        known = message_table(self.l_max, self.message_l).paths
        outputs = network_outputs(self.model.interactions[index], radial)
        weights = np.zeros((len(known), outputs.shape[0], self.channels))
        mixings = np.zeros((len(known), self.channels, self.channels))
        for path, matrix in zip(*self.paths_and_linear(index), strict=True):
            if path.degrees[1] > self.message_l:  # of features that are not there
                continue
            position = known.index(path.degrees)
            weights[position, :, : len(matrix)] = outputs[:, path.weights] * path.factor
            mixings[position, : len(matrix)] = matrix
        return weights, mixings

    def species_mixing(self, index: int) -> Array | None:
        """[S, l_max+1, K, K] of a block that mixes the messages by species."""
        interaction = self.model.interactions[index]
        if type(interaction).__name__ in RESIDUAL_BLOCKS:
            return None
        return self.by_species(interaction.skip_tp, self.l_max, f"interaction {index}")

    def constant(self) -> Array:
        """[S, K]: the residual of the first layer, which depends on the species only."""
        if not self.has_residual(0):
            return np.zeros((len(self.elements), self.channels))
        skip = self.model.interactions[0].skip_tp
        blocks = blocks_of(skip.irreps_out, f"{self.path}: interaction 0")
        start, stop = next((block.start, block.stop) for block in blocks if block.degree == 0)
        return array(skip(self.embedding(), self.attributes))[:, start:stop]

    def residual(self, index: int) -> Array | None:
        """[S, L_t+1, K, K] of a later layer."""
        if not self.has_residual(index):
            return None
        skip = self.model.interactions[index].skip_tp
        return self.by_species(skip, self.degree_of_layer(index), f"interaction {index}")

    def has_residual(self, index: int) -> bool:
        """Whether a layer adds the features before it."""
        is_residual = type(self.model.interactions[index]).__name__ in RESIDUAL_BLOCKS
        return is_residual and bool(self.model.products[index].use_sc)

    def by_degree(self, linear: Any, degree: int, what: str) -> Array:
        """[degree+1, K, K] of an e3nn linear map."""
        what = f"{self.path}: {what}"
        inputs, outputs = blocks_of(linear.irreps_in, what), blocks_of(linear.irreps_out, what)
        return matrices_by_degree(linear, inputs, outputs, (degree, self.channels), what)

    def by_species(self, product: Any, degree: int, what: str) -> Array:
        """[S, degree+1, K, K] of an e3nn product of features with the one-hot species."""
        what = f"{self.path}: {what}"
        inputs, outputs = blocks_of(product.irreps_in1, what), blocks_of(product.irreps_out, what)
        shape = (degree, self.channels)
        return np.stack(
            [
                matrices_by_degree(_with_species(product, attributes), inputs, outputs, shape, what)
                for attributes in self.attributes
            ]
        )


def network_outputs(interaction: Any, radial: Compressed) -> Array:
    """The last linear map of a radial network by the compressed functions: [Q, weights of the tensor product]."""
    last = list(interaction.conv_tp_weights)[-1]
    n_hidden = int(last.weight.shape[0])
    return radial.weights[:n_hidden].T @ array(last(torch.eye(n_hidden)))


def _with_species(product: Any, attributes: Tensor) -> Callable[[Tensor], Tensor]:
    """The map of the features of an atom of one species."""
    return lambda features: product(features, attributes.expand(len(features), -1))
