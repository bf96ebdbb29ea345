"""Fixed scales of the models from the statistics of a data set; trained weights stay of order one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tesseral.models.coupling import symmetric_basis
from tesseral.models.message_coupling import message_table

if TYPE_CHECKING:
    from tesseral.models.energy_model import EnergyModel
    from tesseral.models.layered import LayeredModel
    from tesseral.models.layers import Layer, MessageLayer
    from tesseral.models.local import LocalModel

# Components rarer than these floors are not scaled up further: that would amplify noise and extrapolation.
DENSITY_FLOOR = 0.02  # relative to the largest root mean square of the density
RADIAL_FLOOR = 0.02  # of a radial function in the messages, relative to the largest
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
    A = _scaled_density(model, sample, torch.cat(list(species)))
    basis, tree = model.product_basis, (model.product_tree, model.product_roots)
    model.path_scale.copy_(_path_scales(model, A, basis, tree, [basis.shape[1]]))


@torch.no_grad()
def initialise_layers(
    model: LayeredModel, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor
) -> None:
    """Set all scales of a freshly created layered model, layer by layer, from a sample of its training data.

    With the random initial weights, A and h of every layer have unit root mean square for each degree, and every path
    of a message or product of one degree contributes equally.

    Arguments as in `EnergyModel.forward`.  Raises ValueError without a single atom, or when no atom has a neighbour.
    """
    if len(species) == 0:
        raise ValueError("initialise_layers: needs at least one atom, got none")
    edges = vectors.to(model.density_scale.dtype)
    D = model.density(edges, centers, species[neighbors], len(species))
    _scale_products(model, model.first, _scaled_density(model, D, species))
    h = model.first_features(D, species)
    R, Y = model.radial_basis_of(edges.norm(dim=1)), model.harmonics(edges)
    for index, layer in enumerate(model.later, start=1):
        A = _scaled_messages(model, layer, R, Y, h, centers, neighbors)
        _scale_products(model, layer, A)
        h = model.next_features(index, R, Y, h, centers, neighbors, species)


def _scaled_density(model: EnergyModel, sample: Tensor, centers: Tensor) -> Tensor:
    """Set density_scale and return A [N, LM, K]; sample: [N, C, LM]."""
    degrees = _components(model.l_max)
    spread = torch.stack([sample[:, :, degree].square().mean(dim=(0, 2)).sqrt() for degree in degrees])  # [L+1, C]
    if not spread.max() > 0.0:
        raise ValueError(f"initialise_scales: no atom has a neighbour within the cutoff of {model.cutoff:g} Å")
    floored = spread.clamp(min=DENSITY_FLOOR * float(spread.max()))
    model.density_scale.copy_(1.0 / (math.sqrt(spread.shape[1]) * floored))
    spread_of_A = _spread_of_degrees(model.mix(sample, model.mixing(), centers), model.l_max)
    model.density_scale.div_(spread_of_A.clamp(min=CHANNEL_FLOOR)[:, None])
    return model.mix(sample, model.mixing(), centers)


def _scaled_messages(
    model: LayeredModel, layer: MessageLayer, R: Tensor, Y: Tensor, h: Tensor, centers: Tensor, neighbors: Tensor
) -> Tensor:
    """Set message_scale and return A [N, LM, K].

    The scale is a product: of each radial function, from its size summed over the neighbours; of each path, so that all
    paths to one degree contribute equally; and of the degree, so that A has unit root mean square.
    """
    paths, n_atoms = message_table(model.l_max, model.message_l).paths, h.shape[0]

    def messages() -> Tensor:
        W = layer.radial_weights()
        return model.message(R, Y, h, W, centers, neighbors, n_atoms, layer.terms, layer.couplings)

    def mixed_messages() -> Tensor:
        return model.by_degree(messages(), layer.mixing_matrices()) if layer.has_mixing else messages()

    radial_spread = R.square().sum(dim=0).div(n_atoms).sqrt()  # [Q]
    radial_scale = 1.0 / radial_spread.clamp(min=RADIAL_FLOOR * float(radial_spread.max()))
    path_spread = []
    for index, (_, _, degree) in enumerate(paths):
        layer.message_scale.zero_()
        layer.message_scale[index] = radial_scale
        path_spread.append(_spread_of_degrees(messages(), model.l_max)[degree])
    spread = torch.stack(path_spread)
    floored = spread.clamp(min=PATH_FLOOR * float(spread.max()))
    layer.message_scale.copy_(radial_scale / floored[:, None])
    degree_spread = _spread_of_degrees(mixed_messages(), model.l_max).clamp(min=CHANNEL_FLOOR)
    degree_of_path = torch.tensor([degree for _, _, degree in paths])
    layer.message_scale.div_(degree_spread[degree_of_path][:, None])
    return mixed_messages()


def _scale_products(model: LayeredModel, layer: Layer, A: Tensor) -> None:
    """Set path_scale so that the outputs of each degree have unit root mean square."""
    sizes = [len(symmetric_basis(layer.l_max, layer.nu, L, (-1) ** L).paths) for L in range(layer.l_out + 1)]
    layer.path_scale.copy_(_path_scales(model, A, layer.product_basis, (layer.tree, layer.roots), sizes))


def _path_scales(
    model: EnergyModel, A: Tensor, basis: Tensor, tree_and_roots: tuple[Tensor, Tensor], sizes: Sequence[int]
) -> Tensor:
    """1 / (sqrt(n) * root mean square of each path) over atoms, channels and components: [n_paths].

    basis: [n_nodes, n_paths].  sizes: n, the number of paths to each degree; the paths are in the order of the degrees.
    """
    squares = torch.zeros(basis.shape[1], dtype=torch.float64, device=A.device)
    one_path = basis.t()[:, None, :, None]  # [n_paths, 1, n_nodes, 1]
    for chunk in torch.split(A, CHUNK):
        no_species = torch.zeros(len(chunk), dtype=torch.int64, device=A.device)
        for path in range(len(squares)):
            coefficients = one_path[path].expand(-1, -1, A.shape[2]).contiguous()
            squares[path] += model.product(chunk, coefficients, no_species, *tree_and_roots).double().square().sum()
    n_paths = torch.tensor([size for size in sizes for _ in range(size)], dtype=torch.float64).to(A.device)
    n_components = torch.tensor([2 * degree + 1 for degree, size in enumerate(sizes) for _ in range(size)]).to(A.device)
    root_mean_squares = (squares / (A.shape[0] * A.shape[2] * n_components)).sqrt()
    return 1.0 / (n_paths.sqrt() * root_mean_squares.clamp(min=PATH_FLOOR))


def _components(l_max: int) -> list[slice]:
    """Components of each degree."""
    return [slice(degree**2, (degree + 1) ** 2) for degree in range(l_max + 1)]


def _spread_of_degrees(values: Tensor, l_max: int) -> Tensor:
    """Root mean square of values [N, LM, K] for each degree: [l_max+1]."""
    return torch.stack([values[:, degree].square().mean().sqrt() for degree in _components(l_max)])
