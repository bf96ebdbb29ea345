"""The compiled messages equal their plain-PyTorch twin, in value and first and second derivatives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import pytest
import torch
from operator_checks import (
    DTYPES,
    TOLERANCE,
    assert_close,
    compare,
    compiled,
    derivatives,
    generator,
    here,
    on_each_device,
    random,
)
from torch.autograd import gradcheck, gradgradcheck

from tesseral.kernel import reference
from tesseral.models.clebsch_gordan import real_clebsch_gordan

FACTORS = ("radial", "angular", "h", "weights")


def numbers(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return random(shape, torch.float64, seed)


def message_terms(l_max: int, h_degree: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Terms and couplings of all paths (l1, L, l) with even l1 + L + l, in the order that the operator asks for."""
    paths = [
        (l1, L, degree)
        for L in range(h_degree + 1)
        for l1 in range(l_max + 1)
        for degree in range(abs(l1 - L), min(l_max, l1 + L) + 1, 2)
    ]
    terms, couplings = [], []
    for path, (l1, L, degree) in enumerate(paths):
        table = real_clebsch_gordan(l1, L, degree)
        for component, out, harmonic in zip(*table.transpose(1, 2, 0).nonzero(), strict=True):
            terms.append([path, degree**2 + out, l1**2 + harmonic, L**2 + component])
            couplings.append(table[harmonic, component, out])
    return torch.tensor(terms, dtype=torch.int32), torch.tensor(couplings, dtype=torch.float64)


@dataclass
class Case:
    """Ragged random neighbourhoods; atoms 1 and the last have no neighbours, rows of h beyond n_atoms are ghosts."""

    radial: torch.Tensor
    angular: torch.Tensor
    h: torch.Tensor
    weights: torch.Tensor
    centers: torch.Tensor
    neighbors: torch.Tensor
    n_atoms: int
    terms: torch.Tensor
    couplings: torch.Tensor

    @classmethod
    def random(cls, l_max=2, h_degree=1, n_channels=5, n_radial=3, n_atoms=6, n_ghosts=2, most=21) -> Case:
        chance = generator(l_max + 10 * h_degree)
        counts = torch.randint(1, most, (n_atoms,), generator=chance, device="cpu")
        counts[[1, -1]] = 0
        n_edges = int(counts.sum())
        terms, couplings = message_terms(l_max, h_degree)
        n_paths = int(terms[-1, 0]) + 1
        return cls(
            radial=numbers((n_edges, n_radial), 1),
            angular=numbers((n_edges, (l_max + 1) ** 2), 2),
            h=numbers((n_atoms + n_ghosts, (h_degree + 1) ** 2, n_channels), 3),
            weights=numbers((n_paths, n_radial, n_channels), 4),
            centers=torch.repeat_interleave(torch.arange(n_atoms), here(counts)),
            neighbors=here(torch.randint(0, n_atoms + n_ghosts, (n_edges,), generator=chance, device="cpu")),
            n_atoms=n_atoms,
            terms=terms,
            couplings=couplings,
        )

    def to(self, dtype: torch.dtype) -> Case:
        return replace(self, **{name: getattr(self, name).to(dtype) for name in FACTORS})

    def factors(self, requires_grad: bool = False) -> list[torch.Tensor]:
        return [getattr(self, name).clone().requires_grad_(requires_grad) for name in FACTORS]

    def call(self, module, *factors: torch.Tensor) -> torch.Tensor:
        """The message from these factors, or from the case's own."""
        rest = (self.centers, self.neighbors, self.n_atoms, self.terms, self.couplings)
        return module.message(*(factors or [getattr(self, name) for name in FACTORS]), *rest)


def all_derivatives(case: Case, module) -> list[torch.Tensor]:
    return [x.detach() for x in derivatives(lambda *x: case.call(module, *x), case.factors())]


def assert_equals_reference(case: Case, tolerance: float) -> None:
    compare(lambda *x: case.call(compiled, *x), lambda *x: case.call(reference, *x), case.factors(), tolerance)


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("l_max", "h_degree", "n_channels", "n_radial"), [(0, 0, 1, 1), (3, 0, 64, 8), (3, 1, 20, 5), (2, 2, 80, 3)]
)
def test_messages_equal_reference(dtype, l_max, h_degree, n_channels, n_radial):
    assert_equals_reference(Case.random(l_max, h_degree, n_channels, n_radial).to(dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_channels", [1, 17, 64])
def test_every_instruction_set_equals_reference(instruction_set, dtype, n_channels):
    assert_equals_reference(Case.random(n_channels=n_channels).to(dtype), TOLERANCE[dtype])


@on_each_device
def test_message_from_scalars_is_a_density_times_channels():
    """With h of degree 0: M = sum_j R_lk(r_ij) Y_lm h_jk."""
    case = Case.random(l_max=3, h_degree=0)
    degree = torch.tensor([degree for degree in range(4) for _ in range(2 * degree + 1)])
    channels = torch.einsum("eq,pqk->epk", case.radial, case.weights)[:, degree]  # [E, LM, K]
    edges = channels * case.angular[:, :, None] * case.h[case.neighbors]
    expected = torch.zeros(case.n_atoms, 16, 5, dtype=torch.float64).index_add(0, case.centers, edges)
    assert_close(case.call(compiled), expected, 1e-13)


@on_each_device
def test_single_precision_agrees_with_double():
    case = Case.random(l_max=3, h_degree=1, n_channels=64, n_radial=8)
    for single, double in zip(
        all_derivatives(case.to(torch.float32), compiled), all_derivatives(case, compiled), strict=True
    ):
        assert_close(single.double(), double, 3e-6)


@on_each_device
@pytest.mark.parametrize("h_degree", [0, 1, 2])
def test_numeric_derivatives(h_degree, request):
    case = Case.random(l_max=2, h_degree=h_degree, n_channels=2, n_radial=2, n_atoms=4, most=5)
    inputs = tuple(case.factors(requires_grad=True))
    options = {"nondet_tol": 1e-12, "fast_mode": request.node.callspec.params["operator_device"] == "cuda"}
    assert gradcheck(lambda *x: case.call(compiled, *x), inputs, **options)
    assert gradgradcheck(lambda *x: case.call(compiled, *x), inputs, **options)


@on_each_device
@pytest.mark.parametrize("wanted", [*combinations(FACTORS, 1), *combinations(FACTORS, 2)])
def test_gradients_by_some_factors_equal_reference(wanted):
    case = Case.random()

    def function(module):
        return lambda *chosen: replace(case, **dict(zip(wanted, chosen, strict=True))).call(module)

    compare(function(compiled), function(reference), [getattr(case, name) for name in wanted], 1e-12)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_the_timing_of_threads(threads):
    case = Case.random(n_atoms=150, n_channels=17, most=9).to(torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = [all_derivatives(case, compiled) for _ in range(3)]
    finally:
        torch.set_num_threads(before)
    for repeated in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(repeated, found[0], strict=True))
    for actual, expected in zip(found[0], all_derivatives(case, reference), strict=True):
        assert_close(actual, expected, 1e-5)


@on_each_device
@pytest.mark.parametrize("n_atoms", [0, 3])
def test_no_edges_give_no_messages(n_atoms):
    case = Case.random()
    none = replace(
        case,
        radial=case.radial[:0],
        angular=case.angular[:0],
        h=case.h[:n_atoms],
        centers=case.centers[:0],
        neighbors=case.neighbors[:0],
        n_atoms=n_atoms,
    )
    value, *rest = all_derivatives(none, compiled)
    assert value.shape == (n_atoms, 9, 5)
    assert all(float(x.abs().sum()) == 0.0 for x in [value, *rest])


@on_each_device
def test_a_message_without_terms_is_zero():
    case = Case.random()
    none = replace(case, terms=case.terms[:0], couplings=case.couplings[:0])
    assert all(float(x.abs().sum()) == 0.0 for x in all_derivatives(none, compiled))


@on_each_device
def test_non_contiguous_input():
    case = Case.random()
    spread = [torch.stack([x, x], dim=-1)[..., 0] for x in case.factors()]
    assert not any(x.is_contiguous() for x in spread)
    assert torch.equal(case.call(compiled, *spread), case.call(compiled))


@on_each_device
def test_messages_run_in_torchscript():
    @torch.jit.script
    def energy(
        radial: torch.Tensor,
        angular: torch.Tensor,
        h: torch.Tensor,
        weights: torch.Tensor,
        centers: torch.Tensor,
        neighbors: torch.Tensor,
        terms: torch.Tensor,
        couplings: torch.Tensor,
    ):
        out = torch.ops.tesseral.message(radial, angular, h, weights, centers, neighbors, 6, terms, couplings)
        return (out * out).sum()

    case = Case.random()
    inputs = case.factors(requires_grad=True)
    value = energy(*inputs, case.centers, case.neighbors, case.terms, case.couplings)
    assert all(float(g.abs().max()) > 0 for g in torch.autograd.grad(value, inputs))


@on_each_device
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"h": c.h[0]}, r"h: expected shape \[\*, \*, \*\]"),
        (lambda c: {"h": c.h.long()}, "h: expected float32 or float64"),
        (lambda c: {"h": c.h.to("meta")}, "h: the compiled operators run on CPU and CUDA tensors, got meta"),
        (lambda c: {"h": c.h.float()}, "radial is Double but h is Float: give both the same dtype"),
        (lambda c: {"radial": c.radial[:-1]}, "radial: expected shape"),
        (lambda c: {"angular": c.angular[:-1]}, "angular: expected shape"),
        (lambda c: {"weights": c.weights[:, :-1]}, r"weights: expected shape \[\*, 3, 5\]"),
        (
            lambda c: {"radial": numbers((len(c.centers), 129), 1), "weights": numbers((1, 129, 5), 1)},
            "at most 128 functions",
        ),
        (lambda c: {"angular": numbers((len(c.centers), 82), 1)}, "angular: at most 81 components"),
        (lambda c: {"n_atoms": -1}, "n_atoms = -1 must not be negative"),
        (lambda c: {"n_atoms": 2}, r"centers\[\d+\] = 2 is outside 0..1"),
        (lambda c: {"centers": c.centers.flip(0)}, "centers must be sorted"),
        (lambda c: {"h": c.h[:4]}, r"neighbors\[\d+\] = \d is outside 0..3"),
        (lambda c: {"terms": c.terms.long()}, "terms: expected int32"),
        (lambda c: {"terms": c.terms[:, :3]}, r"terms: expected shape \[\*, 4\]"),
        (lambda c: {"couplings": c.couplings[1:]}, "couplings: expected shape"),
        (lambda c: {"terms": c.terms.flip(0)}, r"terms must be sorted .*: terms\[\d+\] comes too late"),
        (lambda c: {"weights": c.weights[:-1]}, r"terms\[\d+\] names path 6, but weights have 6"),
        (lambda c: {"angular": c.angular[:, :-1]}, r"terms\[\d+\] names output 8, but there are 8"),
        (lambda c: {"h": c.h[:, :-1]}, r"terms\[\d+\] names component 3 of h, which has 3"),
    ],
)
def test_bad_input_is_refused(change, message):
    case = Case.random()
    with pytest.raises(ValueError, match=message):
        replace(case, **change(case)).call(compiled)


def test_third_derivative_is_refused():
    case = Case.random()
    inputs = case.factors(requires_grad=True)
    first = torch.autograd.grad((case.call(compiled, *inputs) ** 3).sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in first), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="message has no further derivative"):
        torch.autograd.grad(sum((g**2).sum() for g in second), inputs)
