"""MACE's symmetric contractions in the complete basis of symmetric products of this package."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tesseral.models.coupling import ProductTable, symmetric_basis
from tesseral.models.mace_import.linear_maps import Array, array
from tesseral.models.mace_import.source import MaceImportError


def product_weights(product: Any, frames: list[Array], degrees: int, tolerance: float, what: str) -> Array:
    """Weights [S, n_paths, K] of a product block in the paths of ``tensor_basis(l_max, nu, degrees)``.

    Each contraction is a sum over orders n of U[M, i1..in, path] weight[species, path, k] A_i1 .. A_in. With A and the
    output turned to our components, the polynomial of each of MACE's paths is a sum of our paths.

    Args:
        product: EquivariantProductBasisBlock.
        frames: O_l of each degree, see `harmonic_frames`.
        degrees: highest degree L of the output that is wanted; those that the block does not have are zero.
        tolerance: relative, of the remainder outside our basis: rounding of MACE's coupling coefficients.

    Returns S of 1 where the block does not distinguish species.
    Raises MaceImportError, with `what`, if the contraction is not in the basis.
    """
    block = product.symmetric_contractions
    by_degree = {irrep.l: part for (_, irrep), part in zip(block.irreps_out, block.contractions, strict=True)}
    example = by_degree[0].weights_max
    shape = (example.shape[0], -1, example.shape[2])
    nu, l_max = int(by_degree[0].correlation), len(frames) - 1
    pieces = []
    for degree in range(degrees + 1):
        table = symmetric_basis(l_max, nu, degree, (-1) ** degree)
        weights = np.zeros((shape[0], len(table.paths), shape[2]))
        part: Any = by_degree.get(degree)
        for order in range(1, nu + 1) if part is not None else ():
            own = [index for index, path in enumerate(table.paths) if path[0] == order]
            couplings = array(part.U_tensors(order)).reshape(2 * degree + 1, *[(l_max + 1) ** 2] * order, -1)
            solution = _in_basis(table, own, turned(couplings, frames, degree), tolerance, what)
            theirs = part.weights_max if order == nu else part.weights[nu - 1 - order]
            weights[:, own] = np.einsum("pu,suk->spk", solution, array(theirs))
        pieces.append(weights)
    return np.concatenate(pieces, axis=1)


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


def _in_basis(table: ProductTable, own: list[int], couplings: Array, tolerance: float, what: str) -> Array:
    """Solution [own paths, MACE's paths] of own basis functions @ solution = polynomials of the couplings."""
    n_outputs, size, order = len(couplings), couplings.shape[1], couplings.ndim - 2
    indices = np.indices((size,) * order).reshape(order, -1)
    keys = size ** np.arange(order)[::-1] @ np.sort(indices, axis=0)
    totals = np.zeros((n_outputs, size**order, couplings.shape[-1]))  # by output and sorted monomial
    np.add.at(totals.transpose(1, 0, 2), keys, couplings.reshape(n_outputs, size**order, -1).transpose(1, 0, 2))
    nodes, outputs, monomials = _monomials(table, order)
    columns = monomials @ size ** np.arange(order)[::-1]
    wanted = totals[outputs, columns]
    solution = np.linalg.lstsq(table.basis[nodes][:, own], wanted, rcond=None)[0]
    totals[outputs, columns] -= table.basis[nodes][:, own] @ solution
    if not np.abs(totals).max() <= tolerance * max(np.abs(couplings).max(), 1e-300):
        raise MaceImportError(
            f"{what}: its symmetric contraction of order {order} leaves a remainder of {np.abs(totals).max():.1e} "
            "outside the equivariant polynomials and cannot be imported"
        )
    return solution


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
