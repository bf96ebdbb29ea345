"""Fixed scales of the local model from the statistics of a data set; trained weights stay of order one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tesseral.models.local import LocalModel

# Components rarer than these floors are not scaled up further: that would amplify noise and extrapolation.
DENSITY_FLOOR = 0.02  # relative to the largest root mean square of the density
CHANNEL_FLOOR = 0.1  # of a degree l, after the density is normalised
PATH_FLOOR = 0.1  # of a product, after the channels are normalised
CHUNK = 64  # atoms whose products are formed at a time


@torch.no_grad()
def initialise_scales(model: LocalModel, densities: Sequence[Tensor], species: Sequence[Tensor]) -> None:
    """Set density_scale and path_scale of a freshly created model from a sample of its training data.

    With the random initial weights, A[i, lm, k] has unit root mean square over atoms, channels and m for each
    l, every density component contributes equally to it, and every path of the product has the root mean
    square 1/sqrt(n_paths).

    densities: [N, C, (l_max+1)^2] of some structures, as given by model.density.  species: [N] int64 of each.
    Raises ValueError without a single atom, or when no atom has a neighbour.
    """
    sample = torch.cat([density.to(model.density_scale.dtype) for density in densities]) if densities else None
    if sample is None or len(sample) == 0:
        raise ValueError("initialise_scales: needs the density of at least one atom, got none")
    centers = torch.cat(list(species))
    degrees = [slice(degree**2, (degree + 1) ** 2) for degree in range(model.l_max + 1)]
    spread = torch.stack([sample[:, :, degree].square().mean(dim=(0, 2)).sqrt() for degree in degrees])  # [L+1, C]
    if not spread.max() > 0.0:
        raise ValueError(f"initialise_scales: no atom has a neighbour within the cutoff of {model.cutoff:g} Å")
    floored = spread.clamp(min=DENSITY_FLOOR * float(spread.max()))
    model.density_scale.copy_(1.0 / (math.sqrt(spread.shape[1]) * floored))
    A = model.mix(sample, model.mixing(), centers)
    channel_spread = torch.stack([A[:, degree].square().mean().sqrt() for degree in degrees]).clamp(min=CHANNEL_FLOOR)
    model.density_scale.div_(channel_spread[:, None])
    model.path_scale.copy_(_path_scales(model, sample, centers))


def _path_scales(model: LocalModel, sample: Tensor, centers: Tensor) -> Tensor:
    """1 / (sqrt(n_paths) * root mean square of each path) over atoms and channels: [n_paths]."""
    n_paths = model.product_basis.shape[1]
    mixing = model.mixing()
    squares = torch.zeros(n_paths, dtype=torch.float64, device=sample.device)
    one_path = model.product_basis.t()[:, None, :, None]  # [n_paths, 1, n_nodes, 1]
    for begin in range(0, len(sample), CHUNK):
        A = model.mix(sample[begin : begin + CHUNK], mixing, centers[begin : begin + CHUNK])
        no_species = torch.zeros_like(centers[begin : begin + CHUNK])
        for path in range(n_paths):
            coefficients = one_path[path].expand(-1, -1, A.shape[2]).contiguous()
            squares[path] += model.symmetric_product(A, coefficients, no_species).double().square().sum()
    root_mean_squares = (squares / (len(sample) * mixing.shape[3])).sqrt()
    return 1.0 / (math.sqrt(n_paths) * root_mean_squares.clamp(min=PATH_FLOOR))
