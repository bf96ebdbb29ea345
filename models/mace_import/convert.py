"""From a MACE model of mace-torch to the plain arrays of a MaceNetwork."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols

from tesseral.models.mace_import.layers import Layers
from tesseral.models.mace_import.linear_maps import HARMONICS_NORM, Array, array
from tesseral.models.mace_import.radial import Compressed, RadialFunctions
from tesseral.models.mace_import.readouts import HeadReadout, head_readout, repulsion_of
from tesseral.models.mace_import.source import DENSITY_BLOCKS, MaceImportError
from tesseral.models.mace_network import MaceNetwork
from tesseral.models.registry import nearest


@dataclass(frozen=True)
class Conversion:
    """A network and what was found on the way.

    head: name of the head it was taken from.
    radial_error: largest error of the tables, in units of the largest radial function of the layer.
    """

    network: MaceNetwork
    head: str
    radial_error: float


def converted(model: Any, path: Path, head: str | None, species: Sequence[str] | None) -> Conversion:
    """A MACE model as a MaceNetwork; to be called within `mace_session`.

    Args:
        model: float64 MACE model on the CPU, see `load_mace` and `with_exact_couplings`.
        path: of its file, for messages.
        head: name of the head that is wanted; may be None for a model of one head.
        species: symbols that are wanted, in this order; None for all of the model in its order.

    Raises MaceImportError for an unknown head or species and for what cannot be computed exactly.
    """
    symbols, elements = chosen_species(model, path, species)
    heads = heads_of(model)
    own_head = heads.index(chosen_head(heads, head, path))
    layers = Layers(model, path, elements)
    radial = RadialFunctions(model, elements)
    first, normaliser = first_radial(model, radial, path)
    later = [later_radial(model, radial, index, path) for index in range(1, layers.n_layers)]
    handed = [layers.handed(index) for index in range(1, layers.n_layers)]
    messages = [layers.messages(index, functions) for index, functions in enumerate(later, start=1)]
    readouts = head_readouts(model, own_head, layers, path)
    scale, shift = scale_and_shift(model, own_head)
    shift += scale * sum(readout.at_zero() for readout in readouts)
    e0 = array(model.atomic_energies_fn(layers.attributes))[:, own_head]
    repulsion = getattr(model, "pair_repulsion_fn", None)
    numbers = [atomic_numbers[symbol] for symbol in symbols]
    all_layers, passing = range(layers.n_layers), range(1, layers.n_layers)
    network = MaceNetwork(
        species=symbols,
        cutoff=radial.cutoff,
        l_max=layers.l_max,
        message_l=layers.message_l,
        channels=layers.channels,
        nu=[int(product.symmetric_contractions.contractions[0].correlation) for product in model.products],
        e0=dict(zip(symbols, e0.tolist(), strict=True)),
        shift=dict.fromkeys(symbols, shift),
        scale=scale,
        radial_tables=[functions.table for functions in (first, *later)],
        mixing=layers.mixing(first),
        normaliser=normaliser,
        products=[layers.product(index) for index in all_layers],
        updates=[layers.update(index) for index in all_layers],
        constant=layers.constant(),
        handed=handed,
        messages=[weights for weights, _ in messages],
        path_mixings=[matrices for _, matrices in messages],
        species_mixings=[layers.species_mixing(index) for index in passing],
        residuals=[layers.residual(index) for index in passing],
        layer_readouts=np.array([readout.linear for readout in readouts[:-1]]).reshape(-1, layers.channels),
        readout_linear=readouts[-1].linear,
        readout_layers=readouts[-1].layers,
        repulsion=None if repulsion is None else repulsion_of(repulsion, numbers, scale, f"{path}: the pair repulsion"),
    )
    return Conversion(network, heads[own_head], max(functions.error for functions in (first, *later)))


def chosen_species(model: Any, path: Path, species: Sequence[str] | None) -> tuple[list[str], list[int]]:
    """Symbols that are wanted and their positions in the model."""
    known = [chemical_symbols[int(number)] for number in model.atomic_numbers]
    chosen = known if species is None else list(species)
    for symbol in chosen:
        if symbol not in known:
            raise MaceImportError(f"{path}: has no {symbol!r}; it knows {', '.join(known)}{nearest(symbol, known)}")
    if not chosen or len(set(chosen)) != len(chosen):
        raise MaceImportError(f"{path}: species must be different elements, got {', '.join(chosen) or 'none'}")
    return chosen, [known.index(symbol) for symbol in chosen]


def heads_of(model: Any) -> list[str]:
    """Names of the heads; models of older versions have one without a name."""
    return [str(name) for name in getattr(model, "heads", None) or ["Default"]]


def chosen_head(heads: Sequence[str], head: str | None, path: Path) -> str:
    """The head that is wanted."""
    if head is None and len(heads) == 1:
        return heads[0]
    if head is None or head not in heads:
        problem = "choose one with --head (head=)" if head is None else f"none is called {head!r}{nearest(head, heads)}"
        raise MaceImportError(f"{path}: has the heads {', '.join(heads)}: {problem}")
    return head


def first_radial(model: Any, radial: RadialFunctions, path: Path) -> tuple[Compressed, Array | None]:
    """Functions of the first layer, and the weights [T, S, S*Q] of the normalising densities in them.

    The densities of all layers are among the functions that are compressed together: they come after the hidden
    activations of the first layer.
    """
    interactions = list(model.interactions)
    normalised = [index for index, block in enumerate(interactions) if type(block).__name__ in DENSITY_BLOCKS]

    def functions(distances: Array, table: int) -> Array:
        densities = [radial.density(interactions[index], distances, table) for index in normalised]
        return np.concatenate([radial.hidden(interactions[0], distances, table), *densities], axis=1)

    first = radial.compressed(functions, f"{path}: the radial functions of interaction 0")
    if not normalised:
        return first, None
    n_species, n_hidden = len(radial.elements), len(first.weights) - len(normalised)
    weights = np.zeros((len(interactions), n_species, n_species, first.weights.shape[1]))
    for row, index in enumerate(normalised, start=n_hidden):
        weights[index] = HARMONICS_NORM * first.weights[row]  # D[c, 0] has the harmonic 1/sqrt(4 pi)
    return first, weights.reshape(len(interactions), n_species, -1)


def later_radial(model: Any, radial: RadialFunctions, index: int, path: Path) -> Compressed:
    """Functions of a later layer."""
    interaction = model.interactions[index]
    what = f"{path}: the radial functions of interaction {index}"
    return radial.compressed(lambda distances, table: radial.hidden(interaction, distances, table), what)


def head_readouts(model: Any, head: int, layers: Layers, path: Path) -> list[HeadReadout]:
    """One per layer; layers without a readout have zeros."""
    own = list(model.readouts)
    missing = layers.n_layers - len(own)  # then there is one, of the last layer
    result = [HeadReadout(np.zeros(layers.channels), [])] * missing
    for index, block in enumerate(own, start=missing):
        what = f"{path}: the readout of layer {index}"
        result.append(head_readout(block, head, layers.channels, what))
        if result[-1].layers and index < layers.n_layers - 1:
            raise MaceImportError(f"{what} is not linear; only that of the last layer can be imported then")
    return result


def scale_and_shift(model: Any, head: int) -> tuple[float, float]:
    """Of the head; 1 and 0 in a model without."""
    block = getattr(model, "scale_shift", None)
    if block is None:
        return 1.0, 0.0
    heads = torch.tensor([head])
    shift, sum_of_both = (float(block(torch.tensor([x]), heads)[0]) for x in (0.0, 1.0))
    return sum_of_both - shift, shift
