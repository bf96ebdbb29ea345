"""The local model: physics it must obey, training graph, scripted form and exported parameters."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from model_contract import ARGUMENTS, ModelContract, choose_emulated, crystal, graph, here, loss, spline_table

from tesseral.models.coupling import symmetric_basis
from tesseral.models.local import LocalModel
from tesseral.models.reference_model import ReferenceLocalModel

VARIANTS: dict[str, dict[str, Any]] = {
    "standard": {},
    "nu 4, linear readout, no repulsion": {"nu": 4, "readout": [], "zbl": None, "radial_basis": "gaussian"},
    "spline": {"radial_basis": "spline", "radial_table": spline_table(8, 4), "l_max": 3, "nu": 2},
}
MODELS = [(kind, variant) for kind in (ReferenceLocalModel, LocalModel) for variant in VARIANTS]


@pytest.fixture
def atoms() -> Atoms:
    return crystal()


@pytest.fixture(params=MODELS, ids=lambda value: f"{value[0].__name__}, {value[1]}")
def model(request: pytest.FixtureRequest, atoms: Atoms, operator_device: torch.device) -> LocalModel:
    kind, variant = request.param
    choose_emulated(request, kind is LocalModel)
    return prepared(here(lambda: kind(**ARGUMENTS | VARIANTS[variant])), atoms)


def prepared(model: LocalModel, atoms: Atoms) -> LocalModel:
    model.normalise(*graph(atoms))
    return model


class TestLocalModel(ModelContract):
    """The contract of all models."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled_and_reference_models_agree(variant: str, atoms: Atoms) -> None:
    results = []
    for kind in (LocalModel, ReferenceLocalModel):
        model = prepared(kind(**ARGUMENTS | VARIANTS[variant]), atoms)
        results.append((*model(*graph(atoms)), *torch.autograd.grad(loss(model, atoms), list(model.parameters()))))
    for compiled, reference in zip(*results, strict=True):
        torch.testing.assert_close(compiled, reference, rtol=1e-11, atol=1e-11 * float(reference.abs().max()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_scripted_model_is_saved_loaded_and_equal(variant: str, atoms: Atoms) -> None:
    model = prepared(LocalModel(**ARGUMENTS | VARIANTS[variant]), atoms)
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(model), stream)
    stream.seek(0)
    loaded = torch.jit.load(stream)
    expected = model(*graph(atoms))
    for _ in range(3):  # the first calls profile, later ones run the optimised graph
        for actual, wanted in zip(loaded(*graph(atoms)), expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(loaded(*graph(atoms))[1], expected[1], rtol=1e-12, atol=1e-12)
        assert not torch.is_grad_enabled()


def energies_in_numpy(parameters: dict[str, np.ndarray], D: np.ndarray, species: np.ndarray) -> np.ndarray:
    """The formulas of the model file on a density D [N, C, LM]; without ZBL."""
    tree, roots = parameters["product_tree"], parameters["product_roots"]
    degrees = [int(np.sqrt(component)) for component in range(D.shape[2])]
    energies = parameters["e0"][species] + parameters["shift"][species]
    for atom, kind in enumerate(species):
        A = np.stack([D[atom, :, lm] @ parameters["mixing"][kind, degree] for lm, degree in enumerate(degrees)])
        value = parameters["product"][kind].copy()  # [n_nodes, K], Horner from the leaves up
        for node in range(len(tree) - 1, -1, -1):
            for child in range(tree[node, 1], tree[node, 2]):
                value[node] += A[tree[child, 0]] * value[child]
        h = sum(A[tree[node, 0]] * value[node] for node in range(roots[0], roots[1])) @ parameters["features"]
        readout, layer = h @ parameters["readout_linear"], 0
        while f"readout_mlp_{layer}_weight" in parameters:
            h = h / (1.0 + np.exp(-h)) if layer > 0 else h
            h = h @ parameters[f"readout_mlp_{layer}_weight"] + parameters[f"readout_mlp_{layer}_bias"]
            layer += 1
        energies[atom] += parameters["scale"][0] * (readout + (h[0] if layer > 0 else 0.0))
    return energies


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_native_parameters_reproduce_the_energies(model: LocalModel, atoms: Atoms, dtype: torch.dtype) -> None:
    with torch.no_grad():
        for layer in model.readout.layers:
            layer.bias.normal_(generator=torch.Generator().manual_seed(1))
    model.to(dtype)
    model.has_zbl = False
    vectors, centers, neighbors, species = graph(atoms)
    expected = model(vectors, centers, neighbors, species)[0]
    D = model.double().density(vectors, centers, species[neighbors], len(atoms))
    energies = energies_in_numpy(model.native_parameters(), D.numpy(), species.numpy())
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    np.testing.assert_allclose(energies, expected.numpy(), rtol=tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
def test_native_parameters_have_the_names_and_types_of_the_model_file(variant: str) -> None:
    arguments = ARGUMENTS | VARIANTS[variant]
    parameters = ReferenceLocalModel(**arguments).native_parameters()
    expected = {"mixing", "product", "product_tree", "product_roots", "features", "readout_linear"}
    expected |= {"e0", "shift", "scale"} | ({"radial_table"} if variant == "spline" else set())
    layers = range(len(arguments["readout"]) + 1 if arguments["readout"] else 0)
    expected |= {f"readout_mlp_{layer}_{part}" for layer in layers for part in ("weight", "bias")}
    assert set(parameters) == expected
    n_nodes = len(symmetric_basis(arguments["l_max"], arguments["nu"]).tree)
    assert parameters["mixing"].shape == (2, arguments["l_max"] + 1, 8, 6)
    assert parameters["product"].shape == (2, n_nodes, 6)
    assert parameters["product_tree"].shape == (n_nodes, 3)
    for name, array in parameters.items():
        assert array.dtype == (np.int32 if name in ("product_tree", "product_roots") else np.float64)
        assert array.flags.c_contiguous


def test_architecture_lists_what_the_metadata_needs() -> None:
    assert ReferenceLocalModel(**ARGUMENTS).architecture() == {
        "l_max": 2,
        "n_radial": 4,
        "channels": 6,
        "nu": 3,
        "features": 5,
        "readout": [7, 4],
        "radial_basis": "bessel",
        "zbl": {"inner": 1.2, "outer": 2.4},
    }


def test_float32_keeps_e0_and_the_coupling_coefficients_exact(model: LocalModel, atoms: Atoms) -> None:
    energies = model(*graph(atoms))[0]
    single = model.to(torch.float32)
    assert single.density_scale.dtype == torch.float32
    rounded, gradients = single(*graph(atoms))
    assert rounded.dtype == gradients.dtype == torch.float64  # e0 in float64; gradients like the vectors
    torch.testing.assert_close(rounded, energies, rtol=0.0, atol=2e-5)
    isolated = single(*graph(Atoms("O", [[0, 0, 0]])))[0]
    assert isolated.tolist() == [-431.75]
    basis = torch.tensor(symmetric_basis(model.l_max, model.nu).basis)
    assert torch.equal(single.to(torch.float64).product_basis, basis)


def test_scales_give_channels_and_paths_of_order_one(atoms: Atoms) -> None:
    model = ReferenceLocalModel(**ARGUMENTS | {"channels": 64})
    vectors, centers, neighbors, species = graph(atoms)
    D = model.density(vectors, centers, species[neighbors], len(atoms))
    model.initialise_scales([D[:3], D[3:]], [species[:3], species[3:]])
    with torch.no_grad():
        A = model.mix(D, model.mixing(), species)
        for degree in range(3):
            assert float(A[:, degree**2 : (degree + 1) ** 2].square().mean()) == pytest.approx(1.0, rel=1e-12)
        n_paths = model.product_basis.shape[1]
        for path in range(n_paths):
            scaled = model.product_basis[:, path] * model.path_scale[path]
            coefficients = scaled[None, :, None].expand(2, -1, 64)
            values = model.symmetric_product(A, coefficients, species)
            assert float(values.square().mean()) == pytest.approx(1.0 / n_paths, rel=1e-12)


def test_scales_of_a_perfect_crystal_stay_bounded() -> None:
    atoms = bulk("Si", cubic=True)  # degrees 1 and 2 vanish by symmetry
    model = prepared(ReferenceLocalModel(**ARGUMENTS), atoms)
    before = ReferenceLocalModel(**ARGUMENTS)
    assert float((model.path_scale / before.path_scale).max()) < 10.1
    assert torch.isfinite(model.density_scale).all()
    assert float(model.density_scale.max()) < 1e4


def test_scales_need_atoms_with_neighbours() -> None:
    model = ReferenceLocalModel(**ARGUMENTS)
    with pytest.raises(ValueError, match="needs the density of at least one atom, got none"):
        model.initialise_scales([], [])
    with pytest.raises(ValueError, match=r"no atom has a neighbour within the cutoff of 3\.6 Å"):
        model.initialise_scales([torch.zeros(1, 8, 9, dtype=torch.float64)], [torch.zeros(1, dtype=torch.int64)])


def test_same_seed_gives_the_same_model() -> None:
    first, second = ReferenceLocalModel(**ARGUMENTS), ReferenceLocalModel(**ARGUMENTS)
    other = ReferenceLocalModel(**ARGUMENTS | {"seed": 4})
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.mixing_weights, other.mixing_weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"species": ["Si", "Xx"]}, "species must be different symbols of elements, got ['Si', 'Xx']"),
        ({"species": ["Si", "Si"]}, "species must be different symbols of elements, got ['Si', 'Si']"),
        ({"species": []}, "species must be different symbols of elements, got []"),
        ({"e0": {"Si": 0.0}}, "e0 has no energy for 'O'; it has Si"),
        ({"shift": {"H": 1.0}}, "shift names 'H', but species are Si, O"),
        ({"cutoff": 0.0}, "cutoff must be positive, got 0 Å"),
        ({"channels": 0}, "features and readout widths at least 1; got 2; 4, 0, 5, 7, 4"),
        ({"zbl": (1.0, 4.0)}, "zbl needs 0 < inner < outer <= cutoff, got inner 1, outer 4, cutoff 3.6 Å"),
        (
            {"radial_basis": "cosine"},
            "unknown radial_basis 'cosine'; known: bessel, chebyshev, gaussian, spline",
        ),
        (
            {"radial_basis": "spline"},
            "radial_table belongs to radial_basis 'spline', got 'spline' with no table",
        ),
        ({"radial_table": spline_table(4, 4)}, "belongs to radial_basis 'spline', got 'bessel' with a table"),
        (
            {"radial_basis": "spline", "radial_table": spline_table(4, 3)},
            "radial_table must be [n_intervals, 4, 4], got [4, 3, 4]",
        ),
        ({"nu": 5}, "nu must be in 1..4, got 5"),
    ],
)
def test_contradicting_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ReferenceLocalModel(**ARGUMENTS | change)
