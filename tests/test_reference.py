"""The plain-PyTorch operators against formulas and libraries outside this project."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import constants
from scipy.interpolate import CubicSpline
from scipy.special import sph_harm_y

from tesseral.kernel import reference
from tesseral.models.message_coupling import message_table

EMPTY = torch.zeros(0, dtype=torch.float64)
N_ATOMS, N_SPECIES, N_RADIAL, CUTOFF = 5, 2, 3, 4.0


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20)


def random_vectors(n_edges: int, generator: torch.Generator, longest: float = 3.8) -> torch.Tensor:
    directions = torch.randn(n_edges, 3, generator=generator, dtype=torch.float64)
    lengths = 0.8 + (longest - 0.8) * torch.rand(n_edges, 1, generator=generator, dtype=torch.float64)
    return lengths * directions / directions.norm(dim=1, keepdim=True)


def real_harmonics_of_scipy(vectors: np.ndarray, l_max: int) -> np.ndarray:
    """Real harmonics without Condon-Shortley phase from scipy's complex ones, which carry it."""
    x, y, z = vectors.T
    polar, azimuth = np.arccos(z / np.linalg.norm(vectors, axis=1)), np.arctan2(y, x)
    columns = []
    for degree in range(l_max + 1):
        for m in range(-degree, degree + 1):
            complex_value = (-1.0) ** m * sph_harm_y(degree, abs(m), polar, azimuth)
            part = complex_value.imag if m < 0 else complex_value.real
            columns.append(part * (math.sqrt(2.0) if m else 1.0))
    return np.stack(columns, axis=1)


def table_of_spline(function, n_intervals: int, cutoff: float, n_radial: int) -> torch.Tensor:
    """Table of the cubic spline through `function(r, q)` in the layout of `radial_basis`."""
    knots = np.linspace(0.0, 1.0, n_intervals + 1)
    pieces = [CubicSpline(knots, function(knots * cutoff, q)).c for q in range(n_radial)]  # each [4, n_intervals]
    powers = n_intervals ** -np.arange(4.0)  # from powers of x - x_k to powers of t = n_intervals (x - x_k)
    return torch.tensor(np.stack([(piece[::-1] * powers[:, None]).T for piece in pieces], axis=1))


@pytest.mark.parametrize("l_max", [0, 1, 4, 12])
def test_harmonics_match_scipy(l_max: int, generator: torch.Generator) -> None:
    vectors = random_vectors(50, generator)
    expected = real_harmonics_of_scipy(vectors.numpy(), l_max)
    np.testing.assert_allclose(
        reference.spherical_harmonics(vectors, l_max).numpy(), expected, atol=2e-14 * (1 + l_max)
    )


def test_harmonics_at_the_poles_are_finite() -> None:
    poles = torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    values = reference.spherical_harmonics(poles, 6)
    (gradient,) = torch.autograd.grad(values.sum(), poles)
    np.testing.assert_allclose(values.detach().numpy(), real_harmonics_of_scipy(poles.detach().numpy(), 6), atol=1e-14)
    assert torch.isfinite(gradient).all()


def test_degree_one_is_y_z_x(generator: torch.Generator) -> None:
    vectors = random_vectors(10, generator)
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    expected = math.sqrt(3.0 / (4.0 * math.pi)) * unit[:, [1, 2, 0]]
    torch.testing.assert_close(reference.spherical_harmonics(vectors, 1)[:, 1:], expected)


def test_addition_theorem(generator: torch.Generator) -> None:
    first, second = random_vectors(30, generator), random_vectors(30, generator)
    cosine = torch.nn.functional.cosine_similarity(first, second).numpy()
    products = reference.spherical_harmonics(first, 9) * reference.spherical_harmonics(second, 9)
    for degree in range(10):
        total = products[:, degree**2 : (degree + 1) ** 2].sum(1).numpy()
        legendre = np.polynomial.legendre.legval(cosine, [0.0] * degree + [1.0])
        np.testing.assert_allclose(total, (2 * degree + 1) / (4 * math.pi) * legendre, atol=1e-13)


def test_harmonics_are_orthonormal() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(12)
    angles = 2.0 * np.pi * np.arange(24) / 24
    z, phi = np.repeat(nodes, 24), np.tile(angles, 12)
    points = np.stack([np.sqrt(1 - z**2) * np.cos(phi), np.sqrt(1 - z**2) * np.sin(phi), z], axis=1)
    values = reference.spherical_harmonics(torch.tensor(points), 6).numpy()
    overlap = np.einsum("p,pa,pb->ab", np.repeat(weights, 24) * 2.0 * np.pi / 24, values, values)
    np.testing.assert_allclose(overlap, np.eye(49), atol=1e-13)


@pytest.mark.parametrize("basis", ["bessel", "chebyshev", "gaussian"])
def test_radial_basis_and_two_derivatives_vanish_at_the_cutoff(basis: str) -> None:
    distances = torch.tensor([CUTOFF - 1e-7, CUTOFF, CUTOFF + 0.1, 1e6], dtype=torch.float64, requires_grad=True)
    values = reference.radial_basis(distances, basis, 6, CUTOFF, EMPTY)
    assert values.abs().max() < 1e-12
    for q in range(6):
        (first,) = torch.autograd.grad(values[:, q].sum(), distances, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), distances, retain_graph=True)
        assert first.abs().max() < 1e-10
        assert second.abs().max() < 1e-3


def test_radial_functions_follow_their_formulas() -> None:
    r = np.linspace(0.5, 3.9, 20)
    x = r / CUTOFF
    envelope = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8
    for q in range(5):
        sine = math.sqrt(2 / CUTOFF) * np.sin((q + 1) * math.pi * x) / r
        cosine = np.cos(q * np.arccos(1 - 2 * (1 - x) ** 2))
        bell = np.exp(-((r - CUTOFF * (q + 0.5) / 5) ** 2) / (2 * (CUTOFF / 5) ** 2))
        for basis, function in (("bessel", sine), ("chebyshev", cosine), ("gaussian", bell)):
            values = reference.radial_basis(torch.tensor(r), basis, 5, CUTOFF, EMPTY)
            assert values.shape == (20, 5)
            np.testing.assert_allclose(values[:, q].numpy(), function * envelope, atol=1e-12)


def test_spline_reproduces_scipy() -> None:
    def function(r: np.ndarray, q: int) -> np.ndarray:
        return np.cos((q + 1) * r) * (1 - r / CUTOFF) ** 3

    table = table_of_spline(function, 16, CUTOFF, 2)
    r = np.linspace(0.1, CUTOFF - 1e-9, 41)
    values = reference.radial_basis(torch.tensor(r), "spline", 2, CUTOFF, table).numpy()
    knots = np.linspace(0.0, 1.0, 17)
    for q in range(2):
        spline = CubicSpline(knots, function(knots * CUTOFF, q))
        np.testing.assert_allclose(values[:, q], spline(r / CUTOFF), atol=1e-12)
    outside = reference.radial_basis(torch.tensor([CUTOFF, 9.0], dtype=torch.float64), "spline", 2, CUTOFF, table)
    assert (outside == 0.0).all()


def test_unknown_basis_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown basis 'fourier'; known: bessel, chebyshev, gaussian, spline"):
        reference.radial_basis(torch.ones(1), "fourier", 2, 3.0, EMPTY)


def test_spline_without_table_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a table \[n_intervals, 2, degree\+1\], .*got \[0\]"):
        reference.radial_basis(torch.ones(1), "spline", 2, 3.0, EMPTY)
    for shape in [(4, 3, 4), (4, 2, 1), (4, 2, 9), (0, 2, 4)]:
        with pytest.raises(ValueError, match=r"with a degree of 1\.\.7, got"):
            reference.radial_basis(torch.ones(1), "spline", 2, 3.0, torch.zeros(shape))
    with pytest.raises(ValueError, match="3 tables need `tables`, the table of each edge"):
        reference.radial_basis(torch.ones(1), "spline", 2, 3.0, torch.zeros(3, 4, 2, 4))


@pytest.mark.parametrize("degree", [1, 3, 5, 7])
def test_each_edge_reads_its_own_table_of_polynomials_of_any_degree(degree: int, generator: torch.Generator) -> None:
    pieces = torch.randn(3, 4, 2, degree + 1, generator=generator, dtype=torch.float64)
    tables = torch.tensor([2, 0, 1, 1, 2])
    distances = torch.tensor([0.01, 0.3, 0.55, 0.99, 1.0], dtype=torch.float64) * CUTOFF
    values = reference.radial_basis(distances, "spline", 2, CUTOFF, pieces, tables)
    slopes = [
        reference.radial_basis_gradient(torch.eye(2, dtype=torch.float64)[[q] * 5], *rest)
        for q in range(2)
        for rest in [(distances, "spline", 2, CUTOFF, pieces, tables)]
    ]
    for edge, (x, interval) in enumerate([(0.01, 0), (0.3, 1), (0.55, 2), (0.99, 3)]):
        for q in range(2):
            piece = np.polynomial.Polynomial(pieces[tables[edge], interval, q].numpy())
            assert float(values[edge, q]) == pytest.approx(piece(4 * x - interval), rel=1e-12)
            assert float(slopes[q][edge]) == pytest.approx(piece.deriv()(4 * x - interval) * 4 / CUTOFF, rel=1e-12)
    assert (values[4] == 0.0).all()


def test_density_reads_the_table_of_each_edge(generator: torch.Generator) -> None:
    vectors, centers, species = random_graph(generator)
    pieces = torch.randn(2, 4, N_RADIAL, 6, generator=generator, dtype=torch.float64)
    tables = torch.tensor([0, 1, 0, 0, 1, 1, 0])
    sizes = (N_ATOMS, N_SPECIES, 2, "spline", N_RADIAL, CUTOFF)
    result = reference.density(vectors, centers, species, *sizes, pieces, tables)
    expected = torch.zeros_like(result)
    for table in range(2):
        edges = tables == table
        expected += reference.density(vectors[edges], centers[edges], species[edges], *sizes, pieces[table])
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    gradient = torch.randn(result.shape, generator=generator, dtype=torch.float64)
    every = reference.density_gradient(gradient, vectors, centers, species, *sizes[1:], pieces, tables)
    for table in range(2):
        edges = tables == table
        some = (vectors[edges], centers[edges], species[edges], *sizes[1:], pieces[table])
        torch.testing.assert_close(every[edges], reference.density_gradient(gradient, *some), rtol=1e-12, atol=1e-12)


def test_messages_have_as_many_outputs_as_asked(generator: torch.Generator) -> None:
    """Components of each path kept apart, whose sums are the messages by component."""
    n_edges, K, table = 7, 3, message_table(2, 1)
    radial, angular, h, weights = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in [(n_edges, 4), (n_edges, 9), (5, 4, K), (len(table.paths), 4, K)]
    )
    centers, neighbors = torch.tensor([0, 0, 0, 1, 2, 2, 3]), torch.tensor([1, 2, 4, 0, 3, 3, 0])
    rest = (radial, angular, h, weights, centers, neighbors, N_ATOMS)
    terms, couplings = torch.tensor(table.terms), torch.tensor(table.couplings)
    apart = terms.clone()
    widths = [2 * degree + 1 for _, _, degree in table.paths]
    for path, (_, _, degree) in enumerate(table.paths):
        apart[terms[:, 0] == path, 1] += sum(widths[:path]) - degree**2
    separate = reference.message(*rest, apart, couplings, sum(widths))
    assert separate.shape == (N_ATOMS, sum(widths), K)
    expected = torch.zeros(N_ATOMS, 9, K, dtype=torch.float64)
    for block, (_, _, degree) in zip(separate.split(widths, dim=1), table.paths, strict=True):
        expected[:, degree**2 : (degree + 1) ** 2] += block
    torch.testing.assert_close(reference.message(*rest, terms, couplings), expected, rtol=1e-12, atol=1e-12)


def random_graph(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ragged edges: the last atom has none."""
    centers = torch.tensor([0, 0, 0, 1, 2, 2, 3])
    species = torch.randint(0, N_SPECIES, (7,), generator=generator)
    return random_vectors(7, generator), centers, species


@pytest.mark.parametrize("basis", ["bessel", "spline"])
def test_density_is_the_sum_over_neighbours(basis: str, generator: torch.Generator) -> None:
    vectors, centers, species = random_graph(generator)
    table = torch.randn(8, N_RADIAL, 4, generator=generator, dtype=torch.float64) if basis == "spline" else EMPTY
    result = reference.density(vectors, centers, species, N_ATOMS, N_SPECIES, 2, basis, N_RADIAL, CUTOFF, table)
    assert result.shape == (N_ATOMS, N_SPECIES * N_RADIAL, 9)
    radial = reference.radial_basis(vectors.norm(dim=1), basis, N_RADIAL, CUTOFF, table)
    harmonics = real_harmonics_of_scipy(vectors.numpy(), 2)
    expected = np.zeros((N_ATOMS, N_SPECIES, N_RADIAL, 9))
    for edge in range(7):
        expected[centers[edge], species[edge]] += radial[edge].numpy()[:, None] * harmonics[edge]
    np.testing.assert_allclose(result.numpy(), expected.reshape(result.shape), atol=1e-13)


def test_density_gradient_is_the_derivative_of_density(generator: torch.Generator) -> None:
    vectors, centers, species = random_graph(generator)
    options = (N_SPECIES, 2, "chebyshev", N_RADIAL, CUTOFF, EMPTY)
    weights = torch.randn(N_ATOMS, N_SPECIES * N_RADIAL, 9, generator=generator, dtype=torch.float64)

    def energy(moved: torch.Tensor) -> float:
        return float((weights * reference.density(moved, centers, species, N_ATOMS, *options)).sum())

    gradient = reference.density_gradient(weights, vectors, centers, species, *options)
    assert not gradient.requires_grad
    for edge, axis in [(0, 0), (3, 1), (6, 2)]:
        step = torch.zeros_like(vectors)
        step[edge, axis] = 1e-5
        numeric = (energy(vectors + step) - energy(vectors - step)) / 2e-5
        assert float(gradient[edge, axis]) == pytest.approx(numeric, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("basis", ["bessel", "chebyshev", "gaussian", "spline"])
def test_density_and_its_gradient_pass_gradcheck(basis: str, generator: torch.Generator) -> None:
    vectors, centers, species = random_graph(generator)
    table = torch.randn(4, N_RADIAL, 4, generator=generator, dtype=torch.float64) if basis == "spline" else EMPTY
    options = (N_SPECIES, 1, basis, N_RADIAL, CUTOFF, table)
    weights = torch.randn(N_ATOMS, N_SPECIES * N_RADIAL, 4, generator=generator, dtype=torch.float64)
    vectors.requires_grad_()
    weights.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda moved: reference.density(moved, centers, species, N_ATOMS, *options), (vectors,)
    )
    assert torch.autograd.gradcheck(
        lambda given, moved: reference.density_gradient(given, moved, centers, species, *options),
        (weights, vectors),
    )


def test_mix_equals_its_sum(generator: torch.Generator) -> None:
    features = torch.randn(N_ATOMS, 4, 9, generator=generator, dtype=torch.float64)
    weights = torch.randn(N_SPECIES, 3, 4, 6, generator=generator, dtype=torch.float64)
    species = torch.tensor([1, 0, 0, 1, 1])
    result = reference.mix(features, weights, species)
    degree_of = [math.isqrt(component) for component in range(9)]
    for atom in range(N_ATOMS):
        for component in range(9):
            matrix = weights[species[atom], degree_of[component]]
            torch.testing.assert_close(result[atom, component], features[atom, :, component] @ matrix)


# Two outputs. First: 2 nodes x0 and x1, with x0 x0, x0 x1, x0 x0 x1. Second: x2.
TREE = torch.tensor([[0, 3, 5], [1, 5, 5], [2, 5, 5], [0, 5, 6], [1, 6, 6], [1, 6, 6]], dtype=torch.int32)
ROOTS = torch.tensor([0, 2, 3], dtype=torch.int32)


def test_symmetric_product_of_a_tree_written_by_hand(generator: torch.Generator) -> None:
    A = torch.randn(N_ATOMS, 3, 2, generator=generator, dtype=torch.float64)
    coefficients = torch.randn(N_SPECIES, 6, 2, generator=generator, dtype=torch.float64)
    species = torch.tensor([1, 0, 0, 1, 1])
    result = reference.symmetric_product(A, coefficients, species, TREE, ROOTS)
    x0, x1, x2 = A.unbind(1)
    c = coefficients[species].unbind(1)
    first = c[0] * x0 + c[1] * x1 + c[3] * x0 * x0 + c[4] * x0 * x1 + c[5] * x0 * x0 * x1
    torch.testing.assert_close(result, torch.stack([first, c[2] * x2], dim=1))


def test_mix_and_symmetric_product_pass_gradgradcheck(generator: torch.Generator) -> None:
    features = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(N_SPECIES, 2, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    coefficients = torch.randn(N_SPECIES, 6, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    species = torch.tensor([1, 0])

    def energy(*inputs: torch.Tensor) -> torch.Tensor:
        A = reference.mix(inputs[0], inputs[1], species)
        return reference.symmetric_product(A, inputs[2], species, TREE, ROOTS)

    assert torch.autograd.gradcheck(energy, (features, weights, coefficients))
    assert torch.autograd.gradgradcheck(energy, (features, weights, coefficients))


def zbl_in_si_constants(distance: float, first: int, second: int) -> float:
    """ZBL energy in SI constants, independent of the rounded ones of the operator."""
    bohr = constants.physical_constants["Bohr radius"][0] * 1e10
    length = 0.8854 * bohr / (first**0.23 + second**0.23)
    x = distance / length
    phi = 0.1818 * math.exp(-3.2 * x) + 0.5099 * math.exp(-0.9423 * x)
    phi += 0.2802 * math.exp(-0.4029 * x) + 0.02817 * math.exp(-0.2016 * x)
    coulomb = constants.e / (4 * math.pi * constants.epsilon_0) * 1e10
    return coulomb * first * second / distance * phi


def pair_energy(distance: float, first: int, second: int, inner: float, outer: float) -> float:
    vectors = torch.tensor([[0.0, 0.0, distance], [0.0, 0.0, -distance]], dtype=torch.float64)
    numbers = torch.tensor([first, second], dtype=torch.float64)
    return float(reference.zbl(vectors, torch.tensor([0, 1]), numbers, numbers.flip(0), 2, inner, outer).sum())


@pytest.mark.parametrize(("first", "second"), [(14, 14), (1, 8), (29, 74)])
def test_zbl_matches_the_published_formula_inside(first: int, second: int) -> None:
    for distance in (0.2, 0.7, 1.1):
        energy = pair_energy(distance, first, second, 1.2, 2.0)
        assert energy == pytest.approx(zbl_in_si_constants(distance, first, second), rel=1e-3)


def test_zbl_switch_is_smooth_and_ends_at_outer(generator: torch.Generator) -> None:
    half = pair_energy(1.6, 14, 14, 1.2, 2.0)
    assert half == pytest.approx(0.5 * pair_energy(1.6, 14, 14, 1.7, 2.0), rel=1e-12)
    assert pair_energy(2.0, 14, 14, 1.2, 2.0) == 0.0
    vectors = random_vectors(6, generator, longest=2.2).requires_grad_()
    numbers = torch.full((6,), 14.0, dtype=torch.float64)
    centers = torch.tensor([0, 0, 1, 2, 2, 2])

    def energies(moved: torch.Tensor) -> torch.Tensor:
        return reference.zbl(moved, centers, numbers, numbers, 4, 1.0, 2.0)

    assert torch.autograd.gradcheck(energies, (vectors,))
    assert torch.autograd.gradgradcheck(energies, (vectors,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_atoms", [0, 2])
def test_zero_edges_and_zero_atoms(n_atoms: int, dtype: torch.dtype) -> None:
    vectors, none = torch.zeros(0, 3, dtype=dtype), torch.zeros(0, dtype=torch.int64)
    options = (N_SPECIES, 2, "bessel", N_RADIAL, CUTOFF, EMPTY.to(dtype))
    features = reference.density(vectors, none, none, n_atoms, *options)
    assert features.shape == (n_atoms, N_SPECIES * N_RADIAL, 9)
    assert features.dtype == dtype
    assert features.abs().sum() == 0.0
    assert reference.density_gradient(features, vectors, none, none, *options).shape == (0, 3)
    species = torch.zeros(n_atoms, dtype=torch.int64)
    A = reference.mix(features, torch.ones(N_SPECIES, 3, 6, 2, dtype=dtype), species)
    assert A.shape == (n_atoms, 9, 2)
    product = reference.symmetric_product(A, torch.ones(N_SPECIES, 6, 2, dtype=dtype), species, TREE, ROOTS)
    assert product.shape == (n_atoms, 2, 2)
    assert reference.zbl(vectors, none, vectors[:, 0], vectors[:, 0], n_atoms, 1.0, 2.0).shape == (n_atoms,)


def test_float32_agrees_with_float64(generator: torch.Generator) -> None:
    vectors, centers, species = random_graph(generator)
    double = reference.density(vectors, centers, species, N_ATOMS, N_SPECIES, 4, "bessel", 6, CUTOFF, EMPTY)
    single = reference.density(
        vectors.float(), centers, species, N_ATOMS, N_SPECIES, 4, "bessel", 6, CUTOFF, EMPTY.float()
    )
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0.0, atol=1e-5)
