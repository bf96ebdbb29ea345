"""The channelwise tensor products of a MACE model in our Clebsch-Gordan coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tesseral.models.clebsch_gordan import real_clebsch_gordan
from tesseral.models.mace_import.linear_maps import HARMONICS_NORM, TOLERANCE, Array, array, blocks_of
from tesseral.models.mace_import.source import MaceImportError


@dataclass(frozen=True)
class MessagePath:
    """A product of harmonics and features.

    degrees: (l1, L, l) of the harmonics, the features and the message.
    weights: its part of the outputs of the radial network, one weight per channel.
    factor: of our coupling of harmonics of r_ij, features and messages in our components.
    block: position among the blocks of the message.
    """

    degrees: tuple[int, int, int]
    weights: slice
    factor: float
    block: int


def message_paths(product: Any, frames: list[Array], what: str) -> list[MessagePath]:
    """The paths of an e3nn tensor product of features and harmonics with a weight per path, channel and edge.

    MACE's edge vectors point from the neighbour to the center, ours the other way: a factor (-1)^l1.

    Args:
        product: module, (features [B, ..], harmonics [B, LM], weights [B, W]) -> messages [B, ..].
        frames: O_l of each degree, see `harmonic_frames`.

    Raises MaceImportError, with `what`, for a product of another kind.
    """
    features, harmonics = blocks_of(product.irreps_in1, what), blocks_of(product.irreps_in2, what)
    messages = blocks_of(product.irreps_out, what)
    paths, start = [], 0
    for instruction in product.instructions:
        feature, message = features[instruction.i_in1], messages[instruction.i_out]
        harmonic = harmonics[instruction.i_in2]
        weights = slice(start, start + feature.channels)
        if instruction.connection_mode != "uvu" or not instruction.has_weight or message.channels != feature.channels:
            raise MaceImportError(f"{what} is not channelwise and cannot be imported")
        shape = (feature.width, harmonic.width)
        x = torch.zeros(*shape, product.irreps_in1.dim)
        y = torch.zeros(*shape, product.irreps_in2.dim)
        for m in range(feature.width):
            x[m, :, feature.start + m : feature.stop : feature.width] = 1.0
        for m in range(harmonic.width):
            y[:, m, harmonic.start + m] = 1.0
        w = torch.zeros(*shape, product.weight_numel)
        w[..., weights] = 1.0
        images = array(product(x.flatten(0, 1), y.flatten(0, 1), w.flatten(0, 1)))
        degrees = (harmonic.degree, feature.degree, message.degree)
        part = images[:, message.start : message.stop].reshape(*shape, message.channels, message.width)
        factor, remainder = _factor(part[:, :, 0], degrees, frames)
        images[:, message.start : message.stop] = 0.0
        remainder = max(remainder, np.abs(images).max(), np.abs(part - part[:, :, :1]).max())
        if not remainder <= TOLERANCE * max(abs(factor), 1.0):
            raise MaceImportError(f"{what}: its path {degrees} is no Clebsch-Gordan product and cannot be imported")
        paths.append(MessagePath(degrees, weights, factor, instruction.i_out))
        start = weights.stop
    if start != product.weight_numel:
        raise MaceImportError(f"{what} has weights of an unknown kind and cannot be imported")
    return paths


def _factor(coupling: Array, degrees: tuple[int, int, int], frames: list[Array]) -> tuple[float, float]:
    """Factor of our coupling in one of MACE's [2L+1, 2 l1 + 1, 2 l + 1], and the largest remainder."""
    harmonic_l, feature_l, message_l = degrees
    turned = np.einsum(
        "FHM,Ff,Hh,Mm->hfm", coupling, frames[feature_l], frames[harmonic_l], frames[message_l], optimize=True
    )
    turned = turned * (HARMONICS_NORM * (-1.0) ** harmonic_l)
    ours = real_clebsch_gordan(*degrees)
    factor = float((turned * ours).sum() / (ours * ours).sum())
    return factor, float(np.abs(turned - factor * ours).max())
