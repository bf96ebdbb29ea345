"""The compiled torch operators equal their plain-PyTorch twins and pass numeric derivative checks."""

from __future__ import annotations

import pytest
import torch
from operator_checks import DTYPES, TOLERANCE, assert_close, compare, compiled, generator, here, on_each_device, random
from torch.autograd import gradcheck, gradgradcheck

from tesseral.kernel import reference
from tesseral.models.coupling import symmetric_basis

NONDETERMINISM = 1e-12  # of sums on a device
BASES = ["bessel", "chebyshev", "gaussian", "spline"]


def smooth_table(n_intervals: int, n_radial: int, dtype: torch.dtype) -> torch.Tensor:
    return random((n_intervals, n_radial, 4), dtype, 5)


class Edges:
    """Ragged random neighbourhoods; atoms 1 and the last one have no neighbours."""

    def __init__(self, dtype: torch.dtype, n_atoms: int = 7, n_species: int = 3, most: int = 21, seed: int = 0):
        chance = generator(seed)
        counts = torch.randint(1, most, (n_atoms,), generator=chance, device="cpu")
        counts[[1, -1]] = 0
        self.n_atoms, self.n_species = n_atoms, n_species
        n_edges = int(counts.sum())
        self.centers = torch.repeat_interleave(torch.arange(n_atoms), here(counts))
        directions = torch.nn.functional.normalize(
            torch.randn(n_edges, 3, generator=chance, dtype=torch.float64, device="cpu"), dim=1
        )
        lengths = 0.8 + 4.6 * torch.rand(n_edges, 1, generator=chance, dtype=torch.float64, device="cpu")
        self.vectors = here(directions * lengths).to(dtype)
        self.neighbor_species = here(torch.randint(0, n_species, (n_edges,), generator=chance, device="cpu"))
        self.species = here(torch.randint(0, n_species, (n_atoms,), generator=chance, device="cpu"))


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("l_max", [0, 1, 2, 3, 4, 6, 8])
def test_spherical_harmonics_equal_reference(dtype, l_max):
    vectors = Edges(dtype).vectors
    compare(
        lambda x: compiled.spherical_harmonics(x, l_max),
        lambda x: reference.spherical_harmonics(x, l_max),
        [vectors],
        TOLERANCE[dtype],
    )


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("basis", BASES)
def test_radial_basis_equals_reference(dtype, basis):
    distances = Edges(dtype).vectors.norm(dim=1)
    table = smooth_table(16, 6, dtype) if basis == "spline" else torch.empty(0, dtype=dtype)
    compare(
        lambda r: compiled.radial_basis(r, basis, 6, 5.0, table),
        lambda r: reference.radial_basis(r, basis, 6, 5.0, table),
        [distances],
        TOLERANCE[dtype],
    )


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("basis", BASES)
def test_gradients_of_radial_functions_and_harmonics_equal_reference(dtype, basis):
    vectors = Edges(dtype).vectors
    distances, tolerance = vectors.norm(dim=1), TOLERANCE[dtype]
    table = smooth_table(16, 6, dtype) if basis == "spline" else torch.empty(0, dtype=dtype)
    cases = [
        ("radial_basis_gradient", random((len(vectors), 6), dtype, 3), distances, (basis, 6, 5.0, table)),
        ("spherical_harmonics_gradient", random((len(vectors), 16), dtype, 4), vectors, (3,)),
    ]
    for name, gradient, inputs, rest in cases:
        found = []
        for module in (compiled, reference):
            leaves = [gradient.clone().requires_grad_(True), inputs.clone().requires_grad_(True)]
            value = getattr(module, name)(*leaves, *rest)
            weight = random(tuple(value.shape), dtype, 5)
            linear = torch.autograd.grad(
                (value * weight).sum(), leaves[:1], retain_graph=True
            )  # the vectors are constants
            found.append([value, *linear, *torch.autograd.grad((value * weight).sum(), leaves)])
        for actual, expected in zip(*found, strict=True):
            assert_close(actual, expected, tolerance)
        with pytest.raises(ValueError, match=r"gradient: expected shape \["):
            getattr(compiled, name)(gradient[:, 1:], inputs, *rest)
        with pytest.raises(ValueError, match=r"gradient is \w+ but \w+ is \w+: give both the same dtype"):
            getattr(compiled, name)(
                gradient.to({torch.float32: torch.float64}.get(dtype, torch.float32)), inputs, *rest
            )


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("l_max", "n_species"), [(0, 1), (3, 1), (3, 3), (4, 2), (6, 2)])
def test_density_equals_reference(dtype, basis, l_max, n_species):
    edges = Edges(dtype, n_species=n_species)
    table = smooth_table(16, 5, dtype) if basis == "spline" else torch.empty(0, dtype=dtype)
    rest = (edges.centers, edges.neighbor_species, edges.n_atoms, n_species, l_max, basis, 5, 5.0, table)
    compare(
        lambda x: compiled.density(x, *rest),
        lambda x: reference.density(x, *rest),
        [edges.vectors],
        TOLERANCE[dtype],
    )


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES)
def test_density_gradient_equals_reference(dtype):
    edges = Edges(dtype)
    rest = (edges.centers, edges.neighbor_species, 3, 3, "bessel", 5, 5.0, torch.empty(0, dtype=dtype))
    inputs = [
        random((edges.n_atoms, 15, 16), dtype, 3).requires_grad_(True),
        edges.vectors.clone().requires_grad_(True),
    ]
    weight = random((len(edges.vectors), 3), dtype, 4)
    values = [module.density_gradient(*inputs, *rest) for module in (compiled, reference)]
    assert_close(values[0], values[1], TOLERANCE[dtype])
    derivative_pairs = zip(*(torch.autograd.grad((v * weight).sum(), inputs) for v in values), strict=True)
    for actual, expected in derivative_pairs:
        assert_close(actual, expected, TOLERANCE[dtype])


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("l_max", "n_inputs", "n_channels"), [(0, 3, 5), (2, 6, 16), (3, 8, 64), (4, 17, 37)])
def test_mix_equals_reference(dtype, l_max, n_inputs, n_channels):
    species = torch.tensor([0, 2, 1, 1, 0])
    features = random((5, n_inputs, (l_max + 1) ** 2), dtype, 1)
    weights = random((3, l_max + 1, n_inputs, n_channels), dtype, 2)
    compare(
        lambda x, w: compiled.mix(x, w, species),
        lambda x, w: reference.mix(x, w, species),
        [features, weights],
        TOLERANCE[dtype],
    )


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("l_max", "nu", "l_out", "parity", "n_channels"),
    [
        (3, 3, 0, 1, 64),
        (2, 4, 0, 1, 9),
        (3, 4, 0, 1, 5),
        (2, 3, 1, -1, 20),
        (2, 3, 1, 1, 20),
        (2, 2, 2, 1, 16),
        (3, 1, 0, 1, 3),
    ],
)
def test_symmetric_product_equals_reference(dtype, l_max, nu, l_out, parity, n_channels):
    table = symmetric_basis(l_max, nu, l_out, parity)
    tree, roots = torch.tensor(table.tree), torch.tensor(table.roots)
    species = torch.tensor([1, 0, 1, 1, 0])
    A = random((5, (l_max + 1) ** 2, n_channels), dtype, 1)
    coefficients = random((2, len(table.tree), n_channels), dtype, 2)
    compare(
        lambda a, c: compiled.symmetric_product(a, c, species, tree, roots),
        lambda a, c: reference.symmetric_product(a, c, species, tree, roots),
        [A, coefficients],
        TOLERANCE[dtype],
    )


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES)
def test_zbl_equals_reference(dtype):
    edges = Edges(dtype)
    numbers = torch.tensor([1.0, 14.0, 29.0], dtype=dtype)
    rest = (
        edges.centers,
        numbers[edges.species[edges.centers]],
        numbers[edges.neighbor_species],
        edges.n_atoms,
        0.9,
        2.5,
    )
    compare(
        lambda x: compiled.zbl(x, *rest),
        lambda x: reference.zbl(x, *rest),
        [edges.vectors],
        TOLERANCE[dtype],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_channels", [1, 2, 5, 17])
def test_every_instruction_set_equals_reference(instruction_set, dtype, n_channels):
    edges = Edges(dtype, n_species=2)
    rest = (edges.centers, edges.neighbor_species, edges.n_atoms, 2, 2, "gaussian", 3, 5.0, torch.empty(0, dtype=dtype))
    weights = random((2, 3, 6, n_channels), dtype, 2)
    table = symmetric_basis(2, 3)
    tree, roots = torch.tensor(table.tree), torch.tensor(table.roots)
    coefficients = random((2, len(table.tree), n_channels), dtype, 3)

    def energy(module):
        def function(vectors, w, c):
            A = module.mix(module.density(vectors, *rest), w, edges.species)
            return module.symmetric_product(A, c, edges.species, tree, roots)

        return function

    compare(energy(compiled), energy(reference), [edges.vectors, weights, coefficients], TOLERANCE[dtype])


def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="instruction set 'sse9' is not available"):
        compiled.use_instruction_set("sse9")


@on_each_device
def test_numeric_derivatives():
    """gradcheck and gradgradcheck of every operator in float64."""
    edges = Edges(torch.float64, n_atoms=4, most=6)
    empty = torch.empty(0, dtype=torch.float64)
    vectors = edges.vectors.clone().requires_grad_(True)
    distances = edges.vectors.norm(dim=1).requires_grad_(True)
    table = symmetric_basis(2, 4)
    tree, roots = torch.tensor(table.tree), torch.tensor(table.roots)
    A = (0.5 * random((4, 9, 2), torch.float64, 1)).requires_grad_(True)
    coefficients = random((3, len(table.tree), 2), torch.float64, 2).requires_grad_(True)
    features = random((4, 6, 9), torch.float64, 3).requires_grad_(True)
    weights = random((3, 3, 6, 2), torch.float64, 4).requires_grad_(True)
    numbers = torch.tensor([1.0, 8.0, 14.0], dtype=torch.float64)
    density_rest = (edges.centers, edges.neighbor_species, 4, 3, 2, "bessel", 2, 5.0, empty)
    gradient_rest = (edges.centers, edges.neighbor_species, 3, 2, "chebyshev", 2, 5.0, empty)
    zbl_rest = (
        edges.centers,
        numbers[edges.species[edges.centers]],
        numbers[edges.neighbor_species],
        4,
        0.9,
        3.0,
    )
    cases = [
        (lambda x: compiled.spherical_harmonics(x, 3), (vectors,)),
        *((lambda r, b=b: compiled.radial_basis(r, b, 3, 5.0, empty), (distances,)) for b in BASES[:3]),
        (lambda x: compiled.density(x, *density_rest), (vectors,)),
        (lambda x, w: compiled.mix(x, w, edges.species), (features, weights)),
        (lambda a, c: compiled.symmetric_product(a, c, edges.species, tree, roots), (A, coefficients)),
        (lambda x: compiled.zbl(x, *zbl_rest), (vectors,)),
    ]
    assert gradcheck(
        lambda g, x: compiled.density_gradient(g, x, *gradient_rest),
        (features, vectors),
        fast_mode=True,
        nondet_tol=NONDETERMINISM,
    )
    for function, inputs in cases:
        assert gradcheck(function, inputs, fast_mode=True, nondet_tol=NONDETERMINISM)
        assert gradgradcheck(function, inputs, fast_mode=True, nondet_tol=NONDETERMINISM)


@on_each_device
@pytest.mark.parametrize("threads", [1, 2])
def test_empty_inputs(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        none, no_index = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
        empty = torch.empty(0)
        assert compiled.spherical_harmonics(none, 2).shape == (0, 9)
        assert compiled.radial_basis(torch.zeros(0), "bessel", 4, 5.0, empty).shape == (0, 4)
        isolated = compiled.density(none, no_index, no_index, 3, 2, 2, "bessel", 4, 5.0, empty)
        assert isolated.shape == (3, 8, 9) and float(isolated.abs().sum()) == 0.0
        assert compiled.density(none, no_index, no_index, 0, 2, 2, "bessel", 4, 5.0, empty).shape == (0, 8, 9)
        assert compiled.mix(torch.zeros(0, 4, 4), torch.zeros(2, 2, 4, 5), no_index).shape == (0, 4, 5)
        table = symmetric_basis(1, 2)
        out = compiled.symmetric_product(
            torch.zeros(0, 4, 5),
            torch.zeros(2, len(table.tree), 5),
            no_index,
            torch.tensor(table.tree),
            torch.tensor(table.roots),
        )
        assert out.shape == (0, 1, 5)
    finally:
        torch.set_num_threads(before)


@on_each_device
def test_non_contiguous_input():
    edges = Edges(torch.float64)
    spread = torch.stack([edges.vectors, edges.vectors], dim=2)[:, :, 0]
    assert not spread.is_contiguous()
    assert torch.equal(compiled.spherical_harmonics(spread, 3), compiled.spherical_harmonics(edges.vectors, 3))


@on_each_device
def test_operators_run_in_torchscript():
    @torch.jit.script
    def energy(vectors: torch.Tensor, centers: torch.Tensor, species: torch.Tensor, table: torch.Tensor):
        out = torch.ops.tesseral.density(vectors, centers, species, 7, 3, 2, "bessel", 4, 5.0, table)
        return (out * out).sum()

    edges = Edges(torch.float64)
    vectors = edges.vectors.clone().requires_grad_(True)
    value = energy(vectors, edges.centers, edges.neighbor_species, torch.empty(0, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value, vectors)
    assert float(gradient.abs().max()) > 0


@on_each_device
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compiled.spherical_harmonics(torch.zeros(2, 2), 1), r"vectors: expected shape \[\*, 3\]"),
        (lambda: compiled.spherical_harmonics(torch.zeros(2, 3), 9), "l_max = 9 is outside 0..8"),
        (
            lambda: compiled.spherical_harmonics(torch.zeros(2, 3, dtype=torch.int64), 1),
            "expected float32 or float64",
        ),
        (
            lambda: compiled.radial_basis(torch.ones(2), "besel", 4, 5.0, torch.empty(0)),
            "radial basis 'besel' is unknown",
        ),
        (
            lambda: compiled.radial_basis(torch.ones(2), "bessel", 0, 5.0, torch.empty(0)),
            "n_radial = 0 is outside",
        ),
        (
            lambda: compiled.radial_basis(torch.ones(2), "bessel", 4, -1.0, torch.empty(0)),
            "cutoff = -1.0.* must be positive",
        ),
        (
            lambda: compiled.radial_basis(torch.ones(2), "spline", 4, 5.0, torch.empty(0)),
            "table: expected shape",
        ),
        (
            lambda: compiled.density(
                torch.ones(2, 3),
                torch.tensor([1, 0]),
                torch.tensor([0, 0]),
                2,
                1,
                1,
                "bessel",
                4,
                5.0,
                torch.empty(0),
            ),
            r"centers must be sorted: centers\[1\] = 0 comes after 1",
        ),
        (
            lambda: compiled.density(
                torch.ones(2, 3),
                torch.tensor([0, 0]),
                torch.tensor([0, 3]),
                2,
                1,
                1,
                "bessel",
                4,
                5.0,
                torch.empty(0),
            ),
            r"neighbor_species\[1\] = 3 is outside 0..0",
        ),
        (
            lambda: compiled.mix(
                torch.ones(2, 4, 4), torch.ones(1, 2, 4, 3, dtype=torch.float64), torch.tensor([0, 0])
            ),
            "give both the same dtype",
        ),
        (
            lambda: compiled.symmetric_product(
                torch.ones(1, 4, 2),
                torch.ones(1, 1, 2),
                torch.tensor([0]),
                torch.tensor([[9, 0, 0]], dtype=torch.int32),
                torch.tensor([0, 1], dtype=torch.int32),
            ),
            r"tree\[0\] leads outside",
        ),
        (
            lambda: compiled.zbl(torch.ones(1, 3), torch.tensor([0]), torch.ones(1), torch.ones(1), 1, 2.0, 1.0),
            "expected 0 <= inner < outer",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_third_derivative_is_refused():
    vectors = Edges(torch.float64).vectors.clone().requires_grad_(True)
    value = (compiled.spherical_harmonics(vectors, 2) ** 3).sum()
    (first,) = torch.autograd.grad(value, vectors, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), vectors, create_graph=True)
    with pytest.raises(RuntimeError, match="spherical_harmonics has no further derivative"):
        torch.autograd.grad((second**2).sum(), vectors)
