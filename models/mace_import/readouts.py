"""Readouts and pair repulsion of a MACE model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tesseral.models.mace_import.linear_maps import Array, array, blocks_of
from tesseral.models.mace_import.source import MaceImportError
from tesseral.models.mace_network import Repulsion

EXACT = 1e-12  # relative, of functions that must be what they are taken for
ZBL_DECAYS = (3.2, 0.9423, 0.4028, 0.2016)
ZBL_COULOMB, ZBL_BOHR = 14.3996, 0.529  # eV Å, Å: as in mace-torch


@dataclass(frozen=True)
class HeadReadout:
    """A readout for one head: E = h . linear + MLP(h) + constant.

    linear: [K].  layers: (weight [in, out], bias [out]), SiLU between them; may be empty.
    """

    linear: Array
    layers: list[tuple[Array, Array]]
    constant: float = 0.0

    def at_zero(self) -> float:
        """What it gives without features."""
        values = np.zeros(len(self.linear))
        for index, (weight, bias) in enumerate(self.layers):
            values = values / (1.0 + np.exp(-values)) if index else values
            values = values @ weight + bias
        return self.constant + (float(values[0]) if self.layers else 0.0)


def head_readout(readout: Any, head: int, channels: int, what: str) -> HeadReadout:
    """A readout block for one of its heads.

    Raises MaceImportError, with `what`, for gates other than SiLU and None, and hidden features that are no scalars.
    """
    if type(readout).__name__ == "LinearReadoutBlock":
        weights, _ = _affine(readout.linear, _scalars(readout.linear.irreps_in, what))
        return HeadReadout(_padded(weights[:, head], channels), [])
    scalars = _scalars(readout.linear_1.irreps_in, what)
    n_hidden = int(readout.linear_1.irreps_out.dim)
    if any(irrep.l != 0 for _, irrep in readout.linear_1.irreps_out):
        raise MaceImportError(f"{what} has hidden features {readout.linear_1.irreps_out}; only scalars can be imported")
    heads = int(getattr(readout, "num_heads", 1))
    own = slice(head * n_hidden // heads, (head + 1) * n_hidden // heads) if heads > 1 else slice(0, n_hidden)
    maps = [_affine(readout.linear_1, scalars)]
    if type(readout).__name__ == "NonLinearBiasReadoutBlock":
        maps.append(_affine(readout.linear_mid, n_hidden))
    maps.append(_affine(readout.linear_2, n_hidden))
    layers = []
    for index, (weight, bias) in enumerate(maps):
        columns = slice(head, head + 1) if index == len(maps) - 1 else own
        layers.append((weight[:, columns] if index == 0 else weight[own, columns], bias[columns]))
    layers[0] = (_padded(layers[0][0], channels), layers[0][1])
    x = torch.linspace(-6.0, 6.0, 25)
    activated = array(readout.non_linearity(x[:, None].expand(-1, n_hidden)))
    if np.array_equal(activated, np.broadcast_to(array(x)[:, None], activated.shape)):  # no gate
        linear, constant = np.eye(channels), np.zeros(channels)
        for weight, bias in layers:
            linear, constant = linear @ weight, constant @ weight + bias
        return HeadReadout(linear[:, 0], [], float(constant[0]))
    silu = array(torch.nn.functional.silu(x))[:, None]
    gain = activated[-1, 0] / silu[-1, 0]
    if not np.abs(activated - gain * silu).max() <= EXACT * abs(gain):
        raise MaceImportError(f"{what} has a gate other than SiLU: {readout.non_linearity} cannot be imported")
    return HeadReadout(np.zeros(channels), [layers[0], *((weight * gain, bias) for weight, bias in layers[1:])])


def _scalars(irreps: Any, what: str) -> int:
    """Number of scalars that the features begin with."""
    block = blocks_of(irreps, what)[0]
    if block.degree != 0:
        raise MaceImportError(f"{what} reads features {irreps}, which do not begin with scalars")
    return block.channels


def _affine(linear: Any, n_inputs: int) -> tuple[Array, Array]:
    """Matrix [n_inputs, out] and bias [out] of the first inputs of an affine map of e3nn."""
    width = int(linear.irreps_in.dim)
    bias = array(linear(torch.zeros(1, width)))[0]
    return array(linear(torch.eye(width)[:n_inputs])) - bias, bias


def _padded(weights: Array, channels: int) -> Array:
    """With zeros for channels that are not there."""
    result = np.zeros((channels, *weights.shape[1:]))
    result[: len(weights)] = weights
    return result


def repulsion_of(module: Any, numbers: Sequence[int], scale: float, what: str) -> Repulsion:
    """The pair repulsion of a model, ZBLBasis, for some atomic numbers; `scale` is folded into its strength.

    Raises MaceImportError, with `what`, if the module gives other numbers than the formula.
    """
    Z = torch.tensor(numbers, dtype=torch.int64)
    powers = array(torch.pow(Z, module.a_exp))
    a = float(module.a_prefactor) * ZBL_BOHR / (powers[:, None] + powers[None, :])
    radii = array(module.covalent_radii[Z])
    charges = np.asarray(numbers, dtype=np.float64)
    result = Repulsion(
        power=int(module.p),
        amplitudes=array(module.c).tolist(),
        decays=list(ZBL_DECAYS),
        strength=0.5 * ZBL_COULOMB * charges[:, None] * charges[None, :],
        inverse_screening=1.0 / a,
        outer=radii[:, None] + radii[None, :],
    )
    x = np.linspace(0.02, 1.1, 50)
    attributes = torch.eye(len(numbers))
    for i in range(len(numbers)):
        for j in range(len(numbers)):
            r = x * result.outer[i, j]
            # from one atom j to many atoms i, one at each distance
            edges = torch.stack([torch.zeros(len(r), dtype=torch.int64), torch.arange(1, len(r) + 1)])
            nodes = torch.cat([attributes[[j]], attributes[[i]].expand(len(r), -1)])
            theirs = array(module(torch.tensor(r)[:, None], nodes, edges, Z))[1:]
            if not np.abs(theirs - pair_energies(result, r, i, j)).max() <= EXACT * np.abs(theirs).max():
                raise MaceImportError(f"{what} is not the one of the known versions of mace-torch")
    return Repulsion(**{**vars(result), "strength": scale * result.strength})


def pair_energies(repulsion: Repulsion, r: Array, i: int, j: int) -> Array:
    """Energies (eV) of directed edges of lengths r (Å) between species i and j."""
    p, x = repulsion.power, r / repulsion.outer[i, j]
    terms = zip(repulsion.amplitudes, repulsion.decays, strict=True)
    screening = sum(amplitude * np.exp(-decay * r * repulsion.inverse_screening[i, j]) for amplitude, decay in terms)
    switch = 1.0 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    return np.asarray(repulsion.strength[i, j] / r * screening * switch * (x < 1.0))
