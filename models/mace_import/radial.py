"""Radial functions of a MACE model: compressed by singular values and tabulated with a stated error.

A layer's radial functions are linear combinations of the last hidden activations of a small network, functions of the
distance alone (and of the two species with a distance transform). Of those only a few are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tesseral.models.mace_import.linear_maps import Array, array
from tesseral.models.mace_import.source import MaceImportError

DEGREE = 7  # of the polynomials of a table
SAMPLES = 1500  # distances of each table for the singular value decomposition
NEGLIGIBLE = 1e-11  # singular values below this part of the largest are dropped
MAXIMUM_RANK = 128
SMALLEST_DISTANCE = 0.3  # Å; the error is stated from here on
SMALLEST_SAMPLE = 1e-3  # of the cutoff: the Bessel functions divide by the distance
VALUE_TOLERANCE = 1e-10  # of a table, in units of its largest value
SLOPE_TOLERANCE = 1e-8  # of its derivative, in units of the largest derivative
FEWEST_INTERVALS, MOST_INTERVALS = 16, 4096
LARGEST_TABLE = 2**28  # bytes

#: functions [n, F] of distances [n] in Å for one table
Functions = Callable[[Array, int], Array]


@dataclass(frozen=True)
class Compressed:
    """Functions f_h = sum_q g_q weights[h, q] of one layer.

    table: of the g_q, [n_tables, n_intervals, Q, DEGREE+1].  weights: [F, Q].
    error: largest error of the g_q from SMALLEST_DISTANCE on, in units of their largest value.
    """

    table: Array
    weights: Array
    error: float


class RadialFunctions:
    """The radial functions of a MACE model as functions of the distance.

    Args:
        model: the MACE model.
        elements: positions in the model of the species that are kept.
    """

    def __init__(self, model: Any, elements: Sequence[int]) -> None:
        self.model, self.elements, self.cutoff = model, list(elements), float(model.r_max)
        self.by_pair = hasattr(model.radial_embedding, "distance_transform")
        pairs = [(center, neighbor) for center in elements for neighbor in elements]
        self.pairs = pairs if self.by_pair else [(elements[0], elements[0])]

    def edge_features(self, distances: Array, table: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Inputs [n, B] of the radial networks, and the cutoff function [n, 1] where it is applied behind them."""
        center, neighbor = self.pairs[table]
        lengths = torch.tensor(np.maximum(distances, SMALLEST_SAMPLE * self.cutoff))[:, None]
        attributes = torch.eye(len(self.model.atomic_numbers))
        edges = torch.tensor([[neighbor], [center]]).expand(2, len(distances))
        result = self.model.radial_embedding(lengths, attributes, edges, self.model.atomic_numbers)
        return result if isinstance(result, tuple) else (result, None)

    def hidden(self, interaction: Any, distances: Array, table: int) -> Array:
        """Last hidden activations [n, H] of a layer's radial network."""
        values, envelope = self.edge_features(distances, table)
        for layer in list(interaction.conv_tp_weights)[:-1]:
            values = layer(values)
        return array(values if envelope is None else values * envelope)

    def density(self, interaction: Any, distances: Array, table: int) -> Array:
        """What a neighbour adds to the normalising density of a layer, [n, 1]."""
        values, envelope = self.edge_features(distances, table)
        values = torch.tanh(interaction.density_fn(values) ** 2)
        return array(values if envelope is None else values * envelope)

    def compressed(self, functions: Functions, what: str) -> Compressed:
        """Singular value decomposition and table of some functions.

        Raises MaceImportError, with `what`, for functions that need too many tables, intervals or ranks.
        """
        grid = np.asarray((np.arange(SAMPLES) + 0.5) * (self.cutoff / SAMPLES), dtype=np.float64)
        samples = [torch.tensor(functions(grid, index)) for index in range(len(self.pairs))]
        triangles = torch.cat([torch.linalg.qr(values, mode="r")[1] for values in samples])
        values, directions = map(array, torch.linalg.svd(triangles, full_matrices=False)[1:])
        rank = max(int((values > NEGLIGIBLE * values[0]).sum()), 1)
        if rank > MAXIMUM_RANK:
            raise MaceImportError(f"{what} have {rank} independent functions; at most {MAXIMUM_RANK} can be imported")
        weights = directions[:rank].T
        table, error = self.tabulated(lambda r, index: functions(r, index) @ weights, rank, what)
        return Compressed(table, weights, error)

    def tabulated(self, functions: Functions, n_functions: int, what: str) -> tuple[Array, float]:
        """Table [n_tables, n_intervals, Q, DEGREE+1] with as few intervals as the tolerances allow, and its error."""
        n_intervals = FEWEST_INTERVALS
        while n_intervals <= MOST_INTERVALS:
            n_bytes = 8 * len(self.pairs) * n_intervals * n_functions * (DEGREE + 1)
            if n_bytes > LARGEST_TABLE:
                raise MaceImportError(
                    f"{what} need tables of {n_bytes // 2**20} MiB for {len(self.pairs)} pairs of species; name the "
                    "species that are wanted: --species (species=)"
                )
            table = self._pieces(functions, n_intervals, what)
            error, slope_error = self._errors(table, self._pieces(functions, 2 * n_intervals, what), functions)
            excess = max(error / VALUE_TOLERANCE, slope_error / SLOPE_TOLERANCE)
            if excess <= 1.0:
                return table, error
            n_intervals = math.ceil(n_intervals * min(max(excess ** (1.0 / DEGREE), 1.1), 2.0))
        raise MaceImportError(f"{what} are too rough for {MOST_INTERVALS} intervals: error {error:.1e} of the largest")

    def _pieces(self, functions: Functions, n_intervals: int, what: str) -> Array:
        """Interpolation at the Chebyshev-Lobatto points of each interval, continuous from piece to piece."""
        points = 0.5 - 0.5 * np.cos(np.pi * np.arange(DEGREE + 1) / DEGREE)
        distances = ((np.arange(n_intervals)[:, None] + points) * (self.cutoff / n_intervals)).reshape(-1)
        pieces = []
        for index in range(len(self.pairs)):
            values = functions(distances, index)
            if not np.isfinite(values).all():
                raise MaceImportError(f"{what} are not finite")
            nodes = values.reshape(n_intervals, DEGREE + 1, -1)
            pieces.append(np.einsum("dp,npq->nqd", _interpolation(points), nodes))
        return np.ascontiguousarray(np.stack(pieces))

    def _errors(self, table: Array, finer: Array, functions: Functions) -> tuple[float, float]:
        """Largest error of the values, and of the slopes beside those of a finer table, both relative."""
        n_intervals = table.shape[1]
        inside = (np.arange(n_intervals)[:, None] + np.array([0.04, 0.3, 0.7, 0.96])).reshape(-1)
        distances = inside * (self.cutoff / n_intervals)
        distances = distances[distances >= SMALLEST_DISTANCE]
        error = slope_error = largest = steepest = 0.0
        for index in range(len(self.pairs)):
            values, expected = evaluated(table[index], distances / self.cutoff), functions(distances, index)
            slopes, accurate = (evaluated(some[index], distances / self.cutoff, True) for some in (table, finer))
            error, largest = max(error, np.abs(values - expected).max()), max(largest, np.abs(expected).max())
            slope_error = max(slope_error, np.abs(slopes - accurate).max())
            steepest = max(steepest, np.abs(accurate).max())
        return float(error / max(largest, 1e-300)), float(slope_error / max(steepest, 1e-300))


def evaluated(table: Array, x: Array, slope: bool = False) -> Array:
    """Values, or derivatives by x, [n, Q] of one table [n_intervals, Q, d+1] at x = r/cutoff, 0 <= x < 1."""
    n_intervals = len(table)
    interval = np.minimum((x * n_intervals).astype(np.int64), n_intervals - 1)
    fraction = (x * n_intervals - interval)[:, None]
    pieces = table[interval]
    if slope:
        pieces = pieces[:, :, 1:] * np.arange(1, pieces.shape[2]) * n_intervals
    result = pieces[:, :, -1]
    for power in range(pieces.shape[2] - 2, -1, -1):
        result = result * fraction + pieces[:, :, power]
    return result


def _interpolation(points: Array) -> Array:
    """Matrix [coefficient, point] from values at points of [0, 1] to powers of t.

    By way of Chebyshev polynomials, whose coefficients fall off fast for a smooth function: the large numbers of the
    powers then meet small ones only.
    """
    n = len(points)
    to_chebyshev = np.linalg.inv(np.polynomial.chebyshev.chebvander(2.0 * points - 1.0, n - 1))
    powers = np.zeros((n, n))
    shift = np.polynomial.Polynomial([-1.0, 2.0])
    for index in range(n):
        polynomial = np.polynomial.Chebyshev.basis(index).convert(kind=np.polynomial.Polynomial)(shift)
        powers[: index + 1, index] = polynomial.coef
    return powers @ to_chebyshev
