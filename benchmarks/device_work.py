"""What the kernels of the native engine on a device have to do, counted from the shapes of their arrays."""

from __future__ import annotations

import itertools
from typing import Any

from tesseral.benchmarks.inference import EDGE_GRADIENTS, EDGE_VALUES
from tesseral.models.coupling import symmetric_basis

#: estimates for an edge: whether it is within the cutoff; force and virial; a radial function
EDGE_VECTOR, EDGE_FORCE, RADIAL_FUNCTION = 20, 20, 10
#: bytes of a listed edge (neighbour, shift), and of the indices of one within the cutoff
LISTED, INDICES = 28, 24

Work = dict[str, tuple[float, float]]


def kernel_work(sizes: dict[str, Any], n_neighbors: float, number: int) -> Work:
    """Bytes and multiply-adds per atom and call of each part of a profile of the engine.

    Every array is counted once for each kernel that reads or writes it, features of neighbours once for each edge
    although caches may hold them; nothing is counted for padding, for weights, which stay in caches, and for the
    repulsion.

    Args:
        sizes: of a model of one species, as SILICON_SIZE, with ``layers`` and ``message_mixing``; messages are scalar.
        n_neighbors: within the cutoff, and listed.
        number: bytes of the engine's numbers, 4 or 8.

    Returns:
        (bytes, multiply-adds) by the names that the engine gives its kernels.
    """
    channels, n_radial, l_max = sizes["channels"], sizes["n_radial"], sizes["l_max"]
    layers = sizes.get("layers", 1)
    n_harmonics, tree = (l_max + 1) ** 2, symmetric_basis(l_max, sizes["nu"]).tree
    A, phi, edges = n_harmonics * channels, n_harmonics * n_radial, n_neighbors
    passes = 1 if layers == 1 else 2  # of the first layer: its A is computed again on the way back
    vector = 3 * number
    both_ways = sum(3 if last > first else 2 for _, first, last in tree)
    work: Work = {
        "edges": (edges * (2 * LISTED + INDICES + vector + number), edges * EDGE_VECTOR),
        "density": _times(passes, edges * vector + phi * number, edges * (EDGE_VALUES + phi)),
        "mixing": _times(passes, (phi + A) * number, phi * channels),
        "product": _times(layers, (A + channels) * number, channels * len(tree)),
        "gradient of the product": _times(layers, (2 * A + channels) * number, channels * both_ways),
        "gradient of the mixing": ((phi + A) * number, phi * channels),
        "gradient of the density": (edges * 2 * vector + phi * number, edges * (EDGE_GRADIENTS + 2 * phi)),
        "readout": _readout(sizes, layers, number),
        "forces": (edges * (2 * vector + 8 + 3 * number) + 2 * 9 * 8, edges * EDGE_FORCE),
    }
    return work if layers == 1 else work | _message_work(sizes, n_neighbors, number)


def _message_work(sizes: dict[str, Any], n_neighbors: float, number: int) -> Work:
    """What comes with the messages of all layers but the first."""
    channels, n_radial, l_max = sizes["channels"], sizes["n_radial"], sizes["l_max"]
    n, n_harmonics, edges = sizes["layers"] - 1, (l_max + 1) ** 2, n_neighbors
    A, numbers = n_harmonics * channels, n_radial + n_harmonics
    message = edges * channels * ((n_radial + 1) * (l_max + 1) + n_harmonics)
    vector = 3 * number
    return {
        "harmonics": (edges * (vector + n_harmonics * number), edges * 3 * n_harmonics),
        "radial functions": _times(n, edges * (1 + 3 * n_radial) * number, edges * RADIAL_FUNCTION * n_radial),
        "messages": _times(n, (edges * (numbers + channels) + A) * number, message),
        "gradients of messages": _times(n, (edges * 2 * (numbers + channels) + A) * number, 2 * message),
        "gradients by edges": _times(
            n, edges * (n_harmonics + 2 * n_radial + 13) * number, edges * (6 * n_harmonics + n_radial)
        ),
        "maps of rows": _maps(sizes, number),
    }


def _maps(sizes: dict[str, Any], number: int) -> tuple[float, float]:
    """Maps of channels to channels, forwards and back: of messages, and of the features of an atom."""
    channels, features, later = sizes["channels"], sizes["features"], sizes["layers"] - 1
    rows = (sizes["l_max"] + 1) ** 2 * later if sizes.get("message_mixing") else 0
    inner = 1 + 2 * (later - 1)  # updates and residuals of all layers but the last, whose are shorter
    numbers = 2 * channels * (rows + inner) + 2 * (channels + features)
    return _times(2, numbers * number, channels * channels * (rows + inner) + 2 * channels * features)


def _readout(sizes: dict[str, Any], layers: int, number: int) -> tuple[float, float]:
    """The perceptron and its gradient, and the linear readouts of the layers before."""
    width = sizes["channels"] if layers == 1 else sizes["features"]
    widths, linear = [width, *sizes["readout"], 1], (layers - 1) * sizes["channels"]
    dense = sum(a * b for a, b in itertools.pairwise(widths))
    return (2 * width + linear) * number, 2 * dense + linear


def _times(n: int, *numbers: float) -> Any:
    return tuple(n * one for one in numbers)
