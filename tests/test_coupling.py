"""Clebsch-Gordan coefficients and symmetric products against group theory and quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from tesseral.kernel import reference
from tesseral.models.clebsch_gordan import real_clebsch_gordan
from tesseral.models.coupling import ProductTable, symmetric_basis, tensor_basis
from tesseral.models.message_coupling import message_table

CASES = [
    (3, 3, 0, 1),
    (2, 4, 0, 1),
    (3, 4, 0, -1),
    (3, 3, 1, -1),
    (2, 3, 1, 1),
    (3, 3, 2, 1),
    (2, 4, 2, -1),
    (1, 4, 3, -1),
]


def harmonics(points: np.ndarray, l_max: int) -> np.ndarray:
    return reference.spherical_harmonics(torch.tensor(points), l_max).numpy()


def wigner_matrix(matrix: np.ndarray, l_max: int) -> np.ndarray:
    """Block-diagonal W with Y(R r) = W Y(r), from least squares on points; R may be improper."""
    points = np.random.default_rng(5).normal(size=(4 * (l_max + 1) ** 2, 3))
    solution = np.linalg.lstsq(harmonics(points, l_max), harmonics(points @ matrix.T, l_max), rcond=None)[0]
    return solution.T


def evaluate(table: ProductTable, A: np.ndarray) -> np.ndarray:
    """Every path on its own: A [N, LM] -> [N, 2*l_out+1, n_paths]."""
    features = torch.tensor(A)[:, :, None].expand(-1, -1, len(table.paths)).contiguous()
    species = torch.zeros(len(A), dtype=torch.int64)
    basis, tree, roots = (torch.tensor(array) for array in (table.basis, table.tree, table.roots))
    return reference.symmetric_product(features, basis[None], species, tree, roots).numpy()


def count_by_characters(l_max: int, order: int, l_out: int, parity: int) -> int:
    """Multiplicity of (l_out, parity) in Sym^order of the sum of all V_l, l <= l_max, under O(3).

    Integral of characters over rotation angles (exact on equally spaced ones), averaged over inversion; the
    symmetric power from power sums by Newton's identity h_n = sum_i p_i h_(n-i) / n.
    """
    n_angles = 4 * (order * l_max + l_out + 2)
    angles = 2.0 * np.pi * (np.arange(n_angles) + 0.5) / n_angles

    def character(degree: int, multiple: int) -> np.ndarray:
        return sum(np.cos(m * multiple * angles) for m in range(-degree, degree + 1))

    count = 0.0
    for inverted in (False, True):
        powers = [
            sum((-1.0 if inverted else 1.0) ** (degree * i) * character(degree, i) for degree in range(l_max + 1))
            for i in range(1, order + 1)
        ]
        complete = [np.ones(n_angles)]
        for n in range(1, order + 1):
            complete.append(sum(powers[i - 1] * complete[n - i] for i in range(1, n + 1)) / n)
        mean = np.mean((1.0 - np.cos(angles)) * character(l_out, 1) * complete[order])
        count += 0.5 * mean * (parity if inverted else 1)
    assert count == pytest.approx(round(count), abs=1e-9)
    return round(count)


@pytest.mark.parametrize(("l1", "l2", "l3"), [(1, 1, 2), (2, 3, 1), (3, 3, 4), (4, 6, 6), (2, 2, 0)])
def test_clebsch_gordan_is_proportional_to_gaunt_integrals(l1: int, l2: int, l3: int) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(12)
    angles = 2.0 * np.pi * np.arange(24) / 24
    z, phi = np.repeat(nodes, 24), np.tile(angles, 12)
    values = harmonics(np.stack([np.sqrt(1 - z**2) * np.cos(phi), np.sqrt(1 - z**2) * np.sin(phi), z], axis=1), 6)
    Y1, Y2, Y3 = (values[:, degree**2 : (degree + 1) ** 2] for degree in (l1, l2, l3))
    integrals = np.einsum("p,pa,pb,pc->abc", np.repeat(weights, 24) * 2.0 * np.pi / 24, Y1, Y2, Y3)
    coupling = real_clebsch_gordan(l1, l2, l3)
    ratio = (coupling * integrals).sum() / (integrals**2).sum()
    np.testing.assert_allclose(coupling, ratio * integrals, atol=1e-13)


@pytest.mark.parametrize(("l1", "l2", "l3"), [(1, 1, 1), (2, 3, 4), (3, 3, 3), (4, 2, 5), (12, 4, 9)])
def test_clebsch_gordan_is_orthonormal(l1: int, l2: int, l3: int) -> None:
    coupling = real_clebsch_gordan(l1, l2, l3)
    np.testing.assert_allclose(np.einsum("abc,abd->cd", coupling, coupling), np.eye(2 * l3 + 1), atol=1e-13)


def test_coupling_of_two_vectors_to_a_vector_is_the_cross_product() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 3))
    order = [1, 2, 0]  # components are (y, z, x)
    result = np.einsum("abc,a,b->c", real_clebsch_gordan(1, 1, 1), a[order], b[order])
    cross = np.cross(a, b)[order]
    assert abs(result @ cross) == pytest.approx(np.linalg.norm(result) * np.linalg.norm(cross), rel=1e-12)
    assert np.linalg.norm(result) == pytest.approx(np.linalg.norm(cross) / math.sqrt(2.0), rel=1e-12)


def test_clebsch_gordan_vanishes_outside_the_triangle() -> None:
    assert not real_clebsch_gordan(1, 1, 3).any()
    assert real_clebsch_gordan(1, 1, 3).shape == (3, 3, 7)


@pytest.mark.parametrize(("l_max", "nu", "l_out", "parity"), CASES)
def test_products_are_equivariant(l_max: int, nu: int, l_out: int, parity: int) -> None:
    table = symmetric_basis(l_max, nu, l_out, parity)
    rotation = Rotation.random(random_state=3).as_matrix()
    A = np.random.default_rng(1).normal(size=(4, (l_max + 1) ** 2))
    rotated = evaluate(table, A @ wigner_matrix(rotation, l_max).T)
    block = wigner_matrix(rotation, max(l_out, 1))[l_out**2 :, l_out**2 :][: 2 * l_out + 1, : 2 * l_out + 1]
    expected = np.einsum("mn,inp->imp", block, evaluate(table, A))
    np.testing.assert_allclose(rotated, expected, rtol=0.0, atol=1e-10 * np.abs(expected).max(initial=1.0))


@pytest.mark.parametrize(("l_max", "nu", "l_out", "parity"), CASES)
def test_products_have_the_stated_inversion_parity(l_max: int, nu: int, l_out: int, parity: int) -> None:
    table = symmetric_basis(l_max, nu, l_out, parity)
    A = np.random.default_rng(2).normal(size=(3, (l_max + 1) ** 2))
    inverted = evaluate(table, A @ wigner_matrix(-np.eye(3), l_max).T)
    np.testing.assert_allclose(inverted, parity * evaluate(table, A), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("l_max", "nu", "l_out", "parity"), [*CASES, (4, 4, 0, 1), (6, 3, 0, 1), (4, 4, 0, -1)])
def test_number_of_paths_is_the_count_by_characters(l_max: int, nu: int, l_out: int, parity: int) -> None:
    orders = [order for order, _, _ in symmetric_basis(l_max, nu, l_out, parity).paths]
    for order in range(1, nu + 1):
        assert orders.count(order) == count_by_characters(l_max, order, l_out, parity)


@pytest.mark.parametrize(("l_max", "nu", "l_out", "parity"), CASES)
def test_paths_are_linearly_independent(l_max: int, nu: int, l_out: int, parity: int) -> None:
    table = symmetric_basis(l_max, nu, l_out, parity)
    n_paths = len(table.paths)
    A = np.random.default_rng(4).normal(size=(2 * n_paths + 1, (l_max + 1) ** 2))
    values = evaluate(table, A)[:, 0]
    values = values / np.linalg.norm(values, axis=0)
    assert np.linalg.matrix_rank(values, tol=1e-6) == n_paths


def test_order_three_to_l_max_three_has_the_known_multisets() -> None:
    multisets = [degrees for order, degrees, _ in symmetric_basis(3, 3).paths if order == 3]
    expected = [(0, 0, 0), (0, 1, 1), (0, 2, 2), (0, 3, 3), (1, 1, 2), (1, 2, 3), (2, 2, 2), (2, 3, 3)]
    assert multisets == expected


def test_order_two_is_the_power_spectrum() -> None:
    table = symmetric_basis(4, 2)
    A = np.random.default_rng(6).normal(size=(5, 25))
    values = evaluate(table, A)[:, 0]
    for path, (order, degrees, _) in enumerate(table.paths):
        if order == 2:
            degree = degrees[0]
            norm = math.sqrt((2 * degree + 1) * (2 * degree + 3))  # E[(x^2)^2] of 2l+1 standard normal components
            np.testing.assert_allclose(
                np.abs(values[:, path]), (A[:, degree**2 : (degree + 1) ** 2] ** 2).sum(1) / norm
            )


@pytest.mark.parametrize(("l_max", "nu", "l_out", "parity"), [(2, 3, 0, 1), (2, 3, 1, -1), (3, 2, 2, 1)])
def test_paths_have_unit_root_mean_square_over_normal_features(l_max: int, nu: int, l_out: int, parity: int) -> None:
    A = np.random.default_rng(7).normal(size=(40000, (l_max + 1) ** 2))
    mean_squares = (evaluate(symmetric_basis(l_max, nu, l_out, parity), A) ** 2).mean(axis=0)
    np.testing.assert_allclose(mean_squares, 1.0, atol=0.15)


@pytest.mark.parametrize("parity", [1, -1])
@pytest.mark.parametrize("l_out", [0, 1, 2])
def test_order_one_exists_for_true_tensors_within_l_max(l_out: int, parity: int) -> None:
    paths = symmetric_basis(2, 2, l_out, parity).paths
    assert ((1, (l_out,), 0) in paths) == (parity == (-1) ** l_out)
    assert (1, (3,), 0) not in symmetric_basis(2, 2, 3, -1).paths


@pytest.mark.parametrize(("l_max", "nu", "l_out", "parity"), [*CASES, (4, 4, 0, 1)])
def test_tree_is_sorted_contiguous_and_minimal(l_max: int, nu: int, l_out: int, parity: int) -> None:
    table = symmetric_basis(l_max, nu, l_out, parity)
    assert table.tree.dtype == table.roots.dtype == np.int32
    assert table.roots.shape == (2 * l_out + 2,)
    tree = table.tree.tolist()
    seen: dict[int, tuple[int, ...]] = {}
    for output in range(2 * l_out + 1):
        pending = [(node, ()) for node in range(table.roots[output], table.roots[output + 1])]
        monomials = set()
        while pending:
            node, prefix = pending.pop()
            factor, first, last = tree[node]
            monomial = (*prefix, factor)
            assert node not in seen
            assert list(monomial) == sorted(monomial)
            assert monomial not in monomials
            assert len(monomial) <= nu
            assert first < last or table.basis[node].any()  # no leaf without a coefficient
            seen[node] = monomial
            monomials.add(monomial)
            pending += [(child, monomial) for child in range(first, last)]
    assert sorted(seen) == list(range(len(tree)))
    nonzero = np.abs(table.basis[table.basis != 0.0])
    assert nonzero.min() > 1e-6  # no rounding noise left over
    assert (np.abs(table.basis).max(axis=0) > 1e-3).all()


def test_table_is_cached_and_read_only() -> None:
    table = symmetric_basis(2, 2)
    assert symmetric_basis(2, 2) is table
    for array in (table.tree, table.roots, table.basis, real_clebsch_gordan(1, 1, 2)):
        assert not array.flags.writeable


def test_table_without_paths_is_empty() -> None:
    table = symmetric_basis(0, 3, 1, -1)
    assert table.tree.shape == (0, 3)
    assert table.roots.tolist() == [0, 0, 0, 0]
    assert table.basis.shape == (0, 0)
    assert table.paths == ()


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="l_max and l_out must not be negative, got -1 and 0"):
        symmetric_basis(-1, 2)
    with pytest.raises(ValueError, match=r"nu must be in 1\.\.4, got 5"):
        symmetric_basis(2, 5)
    with pytest.raises(ValueError, match="parity must be 1 or -1, got 0"):
        symmetric_basis(2, 2, 0, 0)


@pytest.mark.parametrize(("l_max", "nu", "l_out"), [(3, 3, 0), (3, 3, 1), (2, 4, 2)])
def test_tensor_basis_joins_the_products_of_all_degrees(l_max: int, nu: int, l_out: int) -> None:
    A = np.random.default_rng(2).normal(size=(5, (l_max + 1) ** 2))
    tables = [symmetric_basis(l_max, nu, degree, (-1) ** degree) for degree in range(l_out + 1)]
    joined = tensor_basis(l_max, nu, l_out)
    assert joined.paths == tuple(path for table in tables for path in table.paths)
    values, first = evaluate(joined, A), 0
    for degree, table in enumerate(tables):
        own = values[:, :, first : first + len(table.paths)]
        rows = slice(degree**2, (degree + 1) ** 2)
        np.testing.assert_allclose(own[:, rows], evaluate(table, A), rtol=1e-12, atol=1e-12)
        assert not np.delete(own, np.r_[rows], axis=1).any()
        first += len(table.paths)


def test_scalar_features_are_multiplied_by_the_harmonics() -> None:
    table = message_table(3, 0)
    assert table.paths == tuple((degree, 0, degree) for degree in range(4))
    degrees = [0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3]
    np.testing.assert_array_equal(table.terms, [(degrees[lm], lm, lm, 0) for lm in range(16)])
    np.testing.assert_allclose(table.couplings, 1.0, rtol=1e-14)


@pytest.mark.parametrize(("l_max", "message_l"), [(3, 1), (3, 2), (2, 2), (1, 0)])
def test_every_path_of_a_message_is_a_true_tensor(l_max: int, message_l: int) -> None:
    table = message_table(l_max, message_l)
    keys = [tuple(row) for row in table.terms[:, [0, 3, 1]].tolist()]
    assert keys == sorted(keys)
    expected = {
        (l1, L, degree)
        for l1 in range(l_max + 1)
        for L in range(message_l + 1)
        for degree in range(l_max + 1)
        if abs(l1 - L) <= degree <= l1 + L and (l1 + L + degree) % 2 == 0
    }
    assert set(table.paths) == expected and len(table.paths) == len(expected)

    def messages(r: np.ndarray, h: np.ndarray) -> np.ndarray:
        result, Y = np.zeros((len(table.paths), (l_max + 1) ** 2)), harmonics(r[None], l_max)[0]
        for (path, out, harmonic, source), coupling in zip(table.terms, table.couplings, strict=True):
            result[path, out] += coupling * Y[harmonic] * h[source]
        return result

    random = np.random.default_rng(3)
    r, h = random.normal(size=3), random.normal(size=(message_l + 1) ** 2)
    matrix = -Rotation.random(random_state=1).as_matrix()
    turned = messages(matrix @ r, wigner_matrix(matrix, message_l) @ h)
    np.testing.assert_allclose(turned, messages(r, h) @ wigner_matrix(matrix, l_max).T, atol=1e-12)
    for path, (_, _, degree) in enumerate(table.paths):
        assert {int(np.sqrt(out)) for out in table.terms[table.terms[:, 0] == path, 1]} == {degree}


@pytest.mark.parametrize(("l_max", "message_l"), [(1, 2), (2, -1)])
def test_features_of_impossible_degree_are_refused(l_max: int, message_l: int) -> None:
    with pytest.raises(ValueError, match=f"expected 0 <= message_l <= l_max, got {message_l} and {l_max}"):
        message_table(l_max, message_l)
