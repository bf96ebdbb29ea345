"""MACE's symmetric contractions in the complete basis of symmetric products of this package."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tesseral.models.coupling import ProductTable, symmetric_basis
from tesseral.models.mace_import.linear_maps import TOLERANCE, Array, array
from tesseral.models.mace_import.source import MaceImportError


def product_weights(product: Any, frames: list[Array], degrees: int, what: str) -> Array:
    """Weights [S, n_paths, K] of a product block in the paths of ``tensor_basis(l_max, nu, degrees)``.

    Each contraction is a sum over orders n of U[M, i1..in, path] weight[species, path, k] A_i1 .. A_in. With A and the
    output turned to our components, the polynomial of each of MACE's paths is a sum of our paths.

    Args:
        product: EquivariantProductBasisBlock.
        frames: O_l of each degree, see `harmonic_frames`.
        degrees: highest degree L of the output that is wanted; those that the block does not have are zero.

    Returns S of 1 where the block does not distinguish species.
    Raises MaceImportError, with `what`, if the contraction is not in the basis.
    """
    block = product.symmetric_contractions
    by_degree = {irrep.l: part for (_, irrep), part in zip(block.irreps_out, block.contractions, strict=True)}
    nu, example = int(by_degree[0].correlation), by_degree[0].weights_max
    pieces = []
    for degree in range(degrees + 1):
        table = symmetric_basis(len(frames) - 1, nu, degree, (-1) ** degree)
        weights = np.zeros((example.shape[0], len(table.paths), example.shape[2]))
        part: Any = by_degree.get(degree)
        for order in range(1, nu + 1) if part is not None else ():
            polynomials = _Polynomials(part, order, frames, degree)
            theirs = part.weights_max if order == nu else part.weights[nu - 1 - order]
            solution = polynomials.solved(TOLERANCE, what)
            weights[:, polynomials.own] = np.einsum("pu,suk->spk", solution, array(theirs))
        pieces.append(weights)
    return np.concatenate(pieces, axis=1)


def restore_couplings(product: Any, frames: list[Array], tolerance: float, what: str) -> None:
    """Replace rounded coupling coefficients U of a product block by exact ones, symmetric in their factors.

    tolerance: relative, of the rounding.  Raises MaceImportError, with `what`, if the difference is larger.
    """
    block = product.symmetric_contractions
    for (_, irrep), part in zip(block.irreps_out, block.contractions, strict=True):
        for order in range(1, int(part.correlation) + 1):
            polynomials = _Polynomials(part, order, frames, irrep.l)
            exact = torch.tensor(polynomials.couplings_of(polynomials.solved(tolerance, what)))
            buffer = part.get_buffer(f"U_matrix_{order}")
            buffer.copy_(exact.reshape(buffer.shape))


def turned(couplings: Array, frames: list[Array], degree: int) -> Array:
    """Coefficients [2L+1, LM, .., LM, paths] from MACE's components to ours, on all axes but the last."""
    size = len(frames) ** 2
    rotation = np.zeros((size, size))
    for index, frame in enumerate(frames):
        part = slice(index**2, (index + 1) ** 2)
        rotation[part, part] = frame
    for axis in range(couplings.ndim - 1):
        matrix = frames[degree] if axis == 0 else rotation
        couplings = np.moveaxis(np.tensordot(couplings, matrix, axes=(axis, 0)), -1, axis)
    return couplings


class _Polynomials:
    """The polynomials of one order and output degree of a contraction: totals [outputs, sorted monomials, paths]."""

    def __init__(self, part: Any, order: int, frames: list[Array], degree: int) -> None:
        self.frames, self.degree, self.order = frames, degree, order
        size = len(frames) ** 2
        self.table = symmetric_basis(len(frames) - 1, int(part.correlation), degree, (-1) ** degree)
        self.own = [index for index, path in enumerate(self.table.paths) if path[0] == order]
        couplings = array(part.get_buffer(f"U_matrix_{order}")).reshape(2 * degree + 1, *[size] * order, -1)
        couplings = turned(couplings, frames, degree)
        self.shape, self.largest = couplings.shape, np.abs(couplings).max()
        places = size ** np.arange(order)[::-1]
        self.keys = places @ np.sort(np.indices((size,) * order).reshape(order, -1), axis=0)
        self.totals = np.zeros((len(couplings), size**order, couplings.shape[-1]))
        flat = couplings.reshape(self.totals.shape).transpose(1, 0, 2)
        np.add.at(self.totals.transpose(1, 0, 2), self.keys, flat)
        nodes, self.outputs, monomials = _monomials(self.table, order)
        self.columns, self.basis = monomials @ places, self.table.basis[nodes][:, self.own]

    def solved(self, tolerance: float, what: str) -> Array:
        """Solution [own paths, MACE's paths] of basis @ solution = totals."""
        wanted = self.totals[self.outputs, self.columns]
        solution: Array = np.linalg.lstsq(self.basis, wanted, rcond=None)[0]
        remainder = self.totals.copy()
        remainder[self.outputs, self.columns] -= self.basis @ solution
        if not np.abs(remainder).max() <= tolerance * self.largest:
            raise MaceImportError(
                f"{what}: its symmetric contraction of order {self.order} leaves a remainder of "
                f"{np.abs(remainder).max():.1e} outside the equivariant polynomials and cannot be imported"
            )
        return solution

    def couplings_of(self, solution: Array) -> Array:
        """U [2L+1, LM, .., LM, paths] in MACE's components of a solution."""
        totals = np.zeros_like(self.totals)
        totals[self.outputs, self.columns] = self.basis @ solution
        counts = np.bincount(self.keys, minlength=totals.shape[1])
        shared = totals / np.maximum(counts, 1)[:, None]
        return turned(shared[:, self.keys].reshape(self.shape), [frame.T for frame in self.frames], self.degree)


def _monomials(table: ProductTable, order: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Nodes of one depth of the tree, their outputs [n] and their factors [n, order]."""
    nodes = np.arange(table.roots[0], table.roots[-1])
    outputs = np.repeat(np.arange(len(table.roots) - 1), np.diff(table.roots))
    factors = table.tree[nodes, :1].astype(np.int64)
    for _ in range(order - 1):
        first, last = table.tree[nodes, 1], table.tree[nodes, 2]
        counts = last - first
        nodes = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)] or [nodes[:0]])
        outputs, factors = np.repeat(outputs, counts), np.repeat(factors, counts, axis=0)
        factors = np.concatenate([factors, table.tree[nodes, :1]], axis=1)
    return nodes, outputs, factors
