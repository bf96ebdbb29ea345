"""Complete bases of the symmetric products of equivariant features, as trees of monomials.

For A_lm with l <= l_max, in one channel, `symmetric_basis` gives all linearly independent polynomials of
orders 1..nu that transform like a tensor of degree l_out and a given parity: the generalised Clebsch-Gordan
products of the atomic cluster expansion (Drautz, 10.1103/PhysRevB.99.014104; Dusson et al.,
10.1016/j.jcp.2022.110946), without the redundant ones that a list of all coupling trees contains.

Construction, for one multiset of degrees l1 <= .. <= l_nu:
1. The factors of one degree l, k times, form the symmetric power Sym^k(V_l). Its tensors of degree L come
   from those of Sym^(k-1)(V_l) coupled with V_l: as polynomials these products are symmetric by themselves,
   and they span all. Gram-Schmidt in this fixed order removes the dependent ones.
2. Different degrees are independent variables: coupling their symmetric powers one by one, through every
   intermediate degree, is complete and free of redundancy.
The scalar product is the expectation over independent standard normal components of A. It is invariant under
rotation, so one transformation serves all 2 L + 1 components of a tensor. Each path therefore has exactly
unit root mean square over A ~ N(0, 1) in each component, and paths of one multiset are orthogonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement, groupby

import numpy as np
from numpy.typing import NDArray

from .clebsch_gordan import real_clebsch_gordan

MAXIMUM_ORDER = 4
NEGLIGIBLE = 1e-12  # coefficients below are rounding noise
INDEPENDENT = 1e-9  # squared length that must remain after projection; noise leaves about 1e-30
COMPONENT_RADIX = 4096  # more than the number of components, its fourth power fits int64

PathLabel = tuple[int, tuple[int, ...], int]
#: monomials [n_monomials, order] and their coefficients [n_outputs, n_monomials]
_Column = tuple[NDArray[np.int64], NDArray[np.float64]]


@dataclass(frozen=True)
class ProductTable:
    """Symmetric products in the form of the operator `symmetric_product`.

    tree: int32 [n_nodes, 3], (factor, first child, last child + 1) of each node; the nodes of a depth are
    contiguous and sorted by output and monomial.
    roots: int32 [2*l_out+2], the first nodes of each output.
    basis: float64 [n_nodes, n_paths]: with weights [n_paths, K] the coefficients are basis @ weights, for all
    outputs.
    paths: (order, (l1, .., l_order), index) of each path.  All arrays are read-only.
    """

    tree: NDArray[np.int32]
    roots: NDArray[np.int32]
    basis: NDArray[np.float64]
    paths: tuple[PathLabel, ...]


@dataclass(frozen=True)
class _Tensors:
    """Irreducible tensors of one degree L whose components are homogeneous polynomials.

    monomials: int64 [n_monomials, order], factors as component indices l*l + l + m, each row sorted.
    coefficients: float64 [n_tensors, 2*L+1, n_monomials].
    """

    monomials: NDArray[np.int64]
    coefficients: NDArray[np.float64]


@cache
def symmetric_basis(l_max: int, nu: int, l_out: int = 0, parity: int = 1) -> ProductTable:
    """All independent symmetric products of orders 1..nu of A_lm, l <= l_max, of degree l_out and `parity`.

    A_lm has parity (-1)^l; a product of degrees l1..l_nu has the inversion parity (-1)^(l1 + .. + l_nu),
    which must equal `parity`; a true tensor of degree l_out has parity (-1)^l_out. Without any such product
    the table is empty.

    Raises ValueError for a negative degree, an order outside 1..4 or a parity that is not 1 or -1.
    """
    if l_max < 0 or l_out < 0:
        raise ValueError(f"symmetric_basis: l_max and l_out must not be negative, got {l_max} and {l_out}")
    if not 1 <= nu <= MAXIMUM_ORDER:
        raise ValueError(f"symmetric_basis: nu must be in 1..{MAXIMUM_ORDER}, got {nu}")
    if parity not in (1, -1):
        raise ValueError(f"symmetric_basis: parity must be 1 or -1, got {parity}")
    paths, columns = _paths(l_max, nu, l_out, parity)
    return _tree_of_monomials(2 * l_out + 1, paths, columns)


@cache
def tensor_basis(l_max: int, nu: int, l_out: int) -> ProductTable:
    """The symmetric products of all degrees L = 0..l_out with the parity (-1)^L, in one tree.

    Component M of degree L is output L*L + L + M; `paths` lists those of L = 0 first, then L = 1, and so on.
    """
    paths: list[PathLabel] = []
    columns: list[_Column] = []
    for degree in range(l_out + 1):
        own_paths, own_columns = _paths(l_max, nu, degree, (-1) ** degree)
        paths += own_paths
        for monomials, coefficients in own_columns:
            all_outputs = np.zeros(((l_out + 1) ** 2, len(monomials)))
            all_outputs[degree**2 : (degree + 1) ** 2] = coefficients
            columns.append((monomials, all_outputs))
    return _tree_of_monomials((l_out + 1) ** 2, paths, columns)


def _paths(l_max: int, nu: int, l_out: int, parity: int) -> tuple[list[PathLabel], list[_Column]]:
    """Labels and polynomials of all independent products of one degree and parity."""
    paths: list[PathLabel] = []
    columns: list[_Column] = []
    for order in range(1, nu + 1):
        for degrees in combinations_with_replacement(range(l_max + 1), order):
            if (-1) ** sum(degrees) != parity:
                continue
            powers = tuple((degree, len(list(group))) for degree, group in groupby(degrees))
            tensors = _coupled(powers, l_out)
            for index, coefficients in enumerate(tensors.coefficients):
                paths.append((order, degrees, index))
                columns.append((tensors.monomials, coefficients))
    return paths, columns


def _tree_of_monomials(n_outputs: int, paths: list[PathLabel], columns: list[_Column]) -> ProductTable:
    """Arrange the monomials of all paths in a tree; a node is keyed by (output, factors...)."""
    entries: list[tuple[tuple[int, ...], int, float]] = []
    keys: set[tuple[int, ...]] = set()
    for path, (monomials, coefficients) in enumerate(columns):
        for output, column in np.argwhere(np.abs(coefficients) > NEGLIGIBLE).tolist():
            key = (output, *monomials[column].tolist())
            entries.append((key, path, float(coefficients[output, column])))
            keys.update(key[:length] for length in range(2, len(key) + 1))
    ordered = sorted(keys, key=lambda key: (len(key), key))
    position = {key: node for node, key in enumerate(ordered)}
    n_children = np.zeros(len(ordered), dtype=np.int64)
    roots = np.zeros(n_outputs + 1, dtype=np.int32)
    for key in ordered:
        if len(key) == 2:
            roots[key[0] + 1 :] += 1
        else:
            n_children[position[key[:-1]]] += 1
    last = roots[-1] + np.cumsum(n_children)  # breadth first: children follow in the order of their parents
    factors = np.array([key[-1] for key in ordered], dtype=np.int64)
    tree = np.stack([factors, last - n_children, last], axis=1).astype(np.int32)
    basis = np.zeros((len(ordered), len(paths)))
    for key, path, value in entries:
        basis[position[key], path] = value
    for array in (tree, roots, basis):
        array.setflags(write=False)
    return ProductTable(tree, roots, basis, tuple(paths))


@cache
def _coupled(powers: tuple[tuple[int, int], ...], degree: int) -> _Tensors:
    """All tensors of a degree in Sym^k1(V_l1) x Sym^k2(V_l2) x .., powers = ((l1, k1), (l2, k2), ..)."""
    if len(powers) == 1:
        return _symmetric_power(powers[0][0], powers[0][1], degree)
    last_l, last_k = powers[-1]
    order = sum(k for _, k in powers)
    pieces = []
    for last_degree in range(last_l * last_k + 1):
        right = _symmetric_power(last_l, last_k, last_degree)
        if len(right.coefficients) == 0:
            continue
        for left_degree in range(abs(degree - last_degree), degree + last_degree + 1):
            left = _coupled(powers[:-1], left_degree)
            if len(left.coefficients) > 0:
                pieces.append(_product(left, right, degree))
    return _joined(pieces, order, degree)


@cache
def _symmetric_power(base: int, power: int, degree: int) -> _Tensors:
    """Orthonormal tensors of a degree in the symmetric power Sym^power(V_base)."""
    if power == 1:
        if degree != base:
            return _joined([], 1, degree)
        components = base * base + np.arange(2 * base + 1)
        return _Tensors(components[:, None], np.eye(2 * base + 1)[None])
    single = _symmetric_power(base, 1, base)
    pieces = []
    for lower in range(abs(degree - base), min(degree + base, base * (power - 1)) + 1):
        left = _symmetric_power(base, power - 1, lower)
        if len(left.coefficients) > 0:
            pieces.append(_product(left, single, degree))
    return _orthonormal(_joined(pieces, power, degree), base)


def _product(left: _Tensors, right: _Tensors, degree: int) -> _Tensors:
    """Every tensor on the left coupled with every one on the right to one degree."""
    l1, l2 = left.coefficients.shape[1] // 2, right.coefficients.shape[1] // 2
    coupling = real_clebsch_gordan(l1, l2, degree)
    # left [tensor a, component p, monomial x], right [b, q, y] -> [a, b, component r, x, y]
    partial = np.einsum("apx,pqr->aqrx", left.coefficients, coupling, optimize=True)
    coefficients = np.einsum("aqrx,bqy->abrxy", partial, right.coefficients, optimize=True)
    n_left, n_right = len(left.monomials), len(right.monomials)
    rows = np.concatenate([np.repeat(left.monomials, n_right, 0), np.tile(right.monomials, (n_left, 1))], axis=1)
    return _collected(np.sort(rows, axis=1), coefficients.reshape(-1, 2 * degree + 1, n_left * n_right))


def _joined(pieces: list[_Tensors], order: int, degree: int) -> _Tensors:
    """One list of tensors over the union of their monomials."""
    if not pieces:
        return _Tensors(np.zeros((0, order), dtype=np.int64), np.zeros((0, 2 * degree + 1, 0)))
    n_tensors = sum(len(piece.coefficients) for piece in pieces)
    n_columns = sum(len(piece.monomials) for piece in pieces)
    coefficients = np.zeros((n_tensors, 2 * degree + 1, n_columns))
    row = column = 0
    for piece in pieces:
        next_row, next_column = row + len(piece.coefficients), column + len(piece.monomials)
        coefficients[row:next_row, :, column:next_column] = piece.coefficients
        row, column = next_row, next_column
    return _collected(np.concatenate([piece.monomials for piece in pieces]), coefficients)


def _collected(rows: NDArray[np.int64], coefficients: NDArray[np.float64]) -> _Tensors:
    """Add up equal monomials (rows, already sorted within) and drop those that vanish everywhere."""
    keys = rows @ COMPONENT_RADIX ** np.arange(rows.shape[1])[::-1]
    _, chosen, inverse = np.unique(keys, return_index=True, return_inverse=True)
    totals = np.zeros((*coefficients.shape[:2], len(chosen)))
    np.add.at(totals.transpose(2, 0, 1), inverse, coefficients.transpose(2, 0, 1))
    present = np.abs(totals).max(axis=(0, 1)) > NEGLIGIBLE
    return _Tensors(rows[chosen[present]], totals[:, :, present])


def _orthonormal(tensors: _Tensors, base: int) -> _Tensors:
    """Gram-Schmidt on tensors over the components of A of degree `base`; dependent ones are dropped.

    By Schur's lemma <p_m, q_m> is the same for every component m: the middle one decides for all.
    """
    middle = tensors.coefficients.shape[1] // 2
    used = np.abs(tensors.coefficients[:, middle]).max(axis=0, initial=0.0) > NEGLIGIBLE
    metric = _gaussian_moments(tensors.monomials[used] - base * base, 2 * base + 1)
    kept: list[NDArray[np.float64]] = []
    for tensor in tensors.coefficients:
        remainder = tensor
        for _ in range(2):  # twice is enough: Giraud, Langou, Rozloznik, 10.1016/j.camwa.2005.08.009
            for other in kept:
                overlap = other[middle, used] @ metric @ remainder[middle, used]
                remainder = remainder - overlap * other
        rest = remainder[middle, used] @ metric @ remainder[middle, used]
        if rest > INDEPENDENT:
            kept.append(remainder / np.sqrt(rest))
    if not kept:
        return _Tensors(tensors.monomials, tensors.coefficients[:0])
    return _collected(tensors.monomials, np.stack(kept))


def _gaussian_moments(monomials: NDArray[np.int64], n_components: int) -> NDArray[np.float64]:
    """Expectation of the product of each two monomials over independent standard normal components."""
    exponents = np.stack([(monomials == component).sum(axis=1) for component in range(n_components)], axis=1)
    moment = np.array([1.0, 0.0, 1.0, 0.0, 3.0, 0.0, 15.0, 0.0, 105.0])  # E[x^n]
    result = np.ones((len(monomials), len(monomials)))
    for column in exponents.T:
        result *= moment[column[:, None] + column[None, :]]
    return result
