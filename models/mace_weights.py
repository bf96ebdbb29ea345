"""Weights of the MACE model: taken from a network, listed for a model file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from tesseral.models.layers import layer_arrays
from tesseral.models.mace_layers import take_products, unit_scales
from tesseral.models.mace_network import Array, MaceNetwork
from tesseral.models.mace_repulsion import KIND

if TYPE_CHECKING:
    from tesseral.models.mace import MaceModel


#: arguments of the constructor that an architecture holds
ARGUMENTS = (
    "l_max",
    "message_l",
    "channels",
    "nu",
    "readout",
    "linear_readout",
    "radial_tables",
    "normaliser",
    "constant",
    "species_mixing",
    "residual",
    "zbl",
)


def arguments_of(network: MaceNetwork) -> dict[str, Any]:
    """Arguments of the constructor for a model with the sizes of a network."""
    repulsion = network.repulsion
    zbl = None
    if repulsion is not None:
        zbl = {"kind": KIND, "power": repulsion.power, "amplitudes": repulsion.amplitudes, "decays": repulsion.decays}
    linear, layers = _readout_of(network)
    names = ("species", "cutoff", "l_max", "message_l", "channels", "nu", "e0", "shift", "scale")
    return {
        **{name: getattr(network, name) for name in names},
        "readout": [weight.shape[1] for weight, _ in layers[:-1]],
        "linear_readout": bool(linear.any()) or not layers,
        "radial_tables": [table.shape for table in network.radial_tables],
        "normaliser": network.normaliser is not None,
        "constant": bool(network.constant.any()),
        "species_mixing": [matrices is not None for matrices in network.species_mixings],
        "residual": [matrices is not None for matrices in network.residuals],
        "zbl": zbl,
    }


@torch.no_grad()
def take_network(model: MaceModel, network: MaceNetwork) -> None:
    """Set all weights, scales and tables of a model that was made with `arguments_of` the network."""
    mixing = torch.tensor(network.mixing)
    scales = unit_scales(mixing, (1, 2))
    model.density_scale.copy_(scales[0, :, :, 0])
    model.mixing_weights.copy_(mixing / scales)
    for layer, products, update in zip(model.all_layers(), network.products, network.updates, strict=True):
        take_products(layer, products, update)
    model.radial_table.copy_(torch.tensor(network.radial_tables[0]))
    if network.normaliser is not None:
        model.normaliser.copy_(torch.tensor(network.normaliser))
    if model.has_constant:
        model.constants.take(network.constant)
    for index, later in enumerate(model.later):
        later.radial_table.copy_(torch.tensor(network.radial_tables[index + 1]))
        later.handed.take(network.handed[index])
        later.messages.take(network.messages[index])
        later.path_mixing.take(network.path_mixings[index])
        species_mixing, residual = network.species_mixings[index], network.residuals[index]
        if species_mixing is not None:
            later.species_mixing.take(species_mixing)
        if residual is not None:
            later.residual.take(residual)
    model.layer_readouts.copy_(torch.tensor(network.layer_readouts) * math.sqrt(network.channels))
    linear, layers = _readout_of(network)
    model.readout.linear.copy_(torch.tensor(linear) * math.sqrt(network.channels))
    for target, (weight, bias) in zip(model.readout.typed_layers(), layers, strict=True):
        target.weight.copy_(torch.tensor(weight) / target.factor)
        if isinstance(target.bias, torch.nn.Parameter):  # a constant in the energy is no part of the readout
            target.bias.copy_(torch.tensor(bias))
    if network.repulsion is not None:
        model.nuclei.take(network.repulsion)


def _readout_of(network: MaceNetwork) -> tuple[Array, list[tuple[Array, Array]]]:
    """The readout of the last layer as a linear part and an MLP; a single layer without SiLU is linear."""
    linear, layers = network.readout_linear, network.readout_layers
    if len(layers) == 1:
        return linear + layers[0][0][:, 0], []
    return linear, layers


def architecture_of(model: MaceModel) -> dict[str, Any]:
    """What the architecture of a MACE model has besides, or instead of, that of other models."""
    return {
        "n_layers": model.n_layers,
        "message_l": model.message_l,
        "nu": model.orders,
        "linear_readout": model.linear_readout,
        "radial_tables": [list(table.shape) for table in (model.radial_table, *(m.radial_table for m in model.later))],
        "normaliser": model.has_normaliser,
        "constant": model.has_constant,
        "species_mixing": [layer.has_species_mixing for layer in model.later],
        "residual": [layer.has_residual for layer in model.later],
        "zbl": model.nuclei.architecture() if model.has_zbl else None,
    }


def native_arrays(model: MaceModel, common: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Arrays of the model file, float64 with all scales folded in; trees, terms and blocks are int32.

    Args:
        model: the model.
        common: what its base class lists.

    Returns:
        Besides what `EnergyModel` and `Layer` list, with T layers, and K' = K but F in the last layer:
        radial_table [n_tables, n_intervals, Q_0, degree+1] and for t >= 1 layer{t}_radial_table;
        normaliser [T, S, S*Q_0] if there is one;
        layer0_constant [S, K'] if there is one;
        layer{t}_handed [message_l+1, K, K] and layer{t}_readout [K], t < T-1;
        layer{t}_message [P, Q_t, K], _terms [n_terms, 4], _couplings [n_terms], t >= 1: their outputs are the
        components of all paths one after the other, blocks of 2l+1 rows;
        layer{t}_blocks [P], degree l of each block; layer{t}_mixing [P, K, K], or with species mixing [S, P, K, K];
        layer{t}_residual [S, l_out+1, K, K'] if there is one;
        repulsion_strength, repulsion_inverse_screening, repulsion_outer [S, S] if there is a repulsion.
        The first matrix of the readout is part of what makes the features of the last layer, F = hidden width of the
        MLP + 1 for the linear part: readout_mlp_0_weight picks the former, readout_linear the latter.
    """
    arrays = {**common, **layer_arrays(model.all_layers())}
    if model.has_normaliser:
        arrays["normaliser"] = model.normaliser.double().cpu().numpy().copy()
    if model.has_constant:
        arrays["layer0_constant"] = model.constants.values().cpu().numpy().copy()
    for index, layer in enumerate(model.later):
        arrays[f"layer{index}_handed"] = layer.handed.values().cpu().numpy().copy()
    if model.has_zbl:
        arrays |= model.nuclei.native_parameters()
    return {**arrays, **_folded_readout(model, arrays)}


def _folded_readout(model: MaceModel, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """The arrays of the last layer with the first step of the readout in them, and what remains of that step."""
    columns = [arrays["readout_mlp_0_weight"]] if model.readout_widths else []
    n_hidden = sum(model.readout_widths[:1])
    if model.linear_readout:
        columns.append(arrays["readout_linear"][:, None])
    step = np.concatenate(columns, axis=1)  # [K, F]
    last = f"layer{model.n_layers - 1}"
    names = [name for name in (f"{last}_update", f"{last}_residual", f"{last}_constant") if name in arrays]
    folded = {name: arrays[name] @ step for name in names}
    identity = np.eye(step.shape[1])
    folded["readout_linear"] = identity[:, -1].copy() if model.linear_readout else np.zeros(step.shape[1])
    if model.readout_widths:
        folded["readout_mlp_0_weight"] = identity[:, :n_hidden].copy()
    return folded
