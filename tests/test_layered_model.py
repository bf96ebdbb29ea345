"""The layered model: physics it must obey, training graph, scripted form and its layers, exported parameters."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import atomic_numbers
from model_contract import ARGUMENTS, ModelContract, choose_emulated, crystal, graph, here, loss, spline_table

from tesseral.models.coupling import symmetric_basis, tensor_basis
from tesseral.models.file import load_torchscript, read_model, save_model
from tesseral.models.layered import LayeredModel
from tesseral.models.message_coupling import message_table
from tesseral.models.reference_model import ReferenceLayeredModel

VARIANTS: dict[str, dict[str, Any]] = {
    "two layers": {},
    "three layers, vectors, mixing": {"n_layers": 3, "message_l": 1, "message_mixing": True},
    "tensors, linear readout, no repulsion": {"message_l": 2, "readout": [], "zbl": None, "nu": 2},
    "three layers, spline": {
        "n_layers": 3,
        "radial_basis": "spline",
        "radial_table": spline_table(8, 4),
        "l_max": 3,
        "nu": 2,
    },
}
MODELS = [(kind, variant) for kind in (ReferenceLayeredModel, LayeredModel) for variant in VARIANTS]


def prepared(kind: type[LayeredModel], variant: str, **changes: Any) -> LayeredModel:
    model = here(lambda: kind(**ARGUMENTS | VARIANTS[variant] | changes))
    model.normalise(*graph(crystal()))
    return model


@pytest.fixture
def atoms() -> Atoms:
    return crystal()


@pytest.fixture(params=MODELS, ids=lambda value: f"{value[0].__name__}, {value[1]}")
def model(request: pytest.FixtureRequest, operator_device: torch.device) -> LayeredModel:
    choose_emulated(request, request.param == (LayeredModel, "two layers"))
    return prepared(*request.param)


@pytest.fixture(params=VARIANTS)
def compiled(request: pytest.FixtureRequest) -> LayeredModel:
    return prepared(LayeredModel, request.param)


class TestLayeredModel(ModelContract):
    """The contract of all models."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled_and_reference_models_agree(variant: str, atoms: Atoms) -> None:
    results = []
    for kind in (LayeredModel, ReferenceLayeredModel):
        model = prepared(kind, variant)
        results.append((*model(*graph(atoms)), *torch.autograd.grad(loss(model, atoms), list(model.parameters()))))
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10 * float(reference.abs().max()))


def test_every_layer_sees_one_cutoff_further() -> None:
    chain = Atoms("SiOSiOSi", [[2.4 * k, 0.1 * k * k, 0.2 * k] for k in range(5)])
    for n_layers, reach in [(2, 2), (3, 3)]:
        model = prepared(ReferenceLayeredModel, "two layers", cutoff=3.0, n_layers=n_layers, zbl=None)
        energies = model(*graph(chain, 3.0))[0]
        moved = chain.copy()
        moved.positions[0, 1] += 0.2
        changed = (model(*graph(moved, 3.0))[0] != energies).tolist()
        assert changed == [True] * (reach + 1) + [False] * (4 - reach)


def test_scripted_model_is_saved_loaded_and_equal(compiled: LayeredModel, atoms: Atoms, tmp_path: Path) -> None:
    metadata = {
        "name": "layers",
        "model_type": compiled.model_type,
        "species": compiled.species,
        "atomic_numbers": [atomic_numbers[symbol] for symbol in compiled.species],
        "cutoff": compiled.cutoff,
        "n_layers": compiled.n_layers,
        "architecture": compiled.architecture(),
        "units": {"energy": "eV", "length": "Å", "stress": "eV/Å^3"},
        "e0": dict(zip(compiled.species, compiled.e0, strict=True)),
    }
    save_model(tmp_path / "model.pt", torch.jit.script(compiled), metadata, compiled.native_parameters())
    content = read_model(tmp_path / "model.pt")
    assert content.metadata["model_type"] == "layered" and content.metadata["n_layers"] == compiled.n_layers
    for name, array in compiled.native_parameters().items():
        np.testing.assert_array_equal(content.parameters[name], array)
    loaded = load_torchscript(tmp_path / "model.pt")
    expected = compiled(*graph(atoms))
    for _ in range(3):  # the first calls profile, later ones run the optimised graph
        for actual, wanted in zip(loaded(*graph(atoms)), expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(loaded(*graph(atoms))[1], expected[1], rtol=1e-12, atol=1e-12)
        assert not torch.is_grad_enabled()


def test_scripted_layers_with_exchanged_features_give_energies_and_gradients(
    compiled: LayeredModel, atoms: Atoms
) -> None:
    """As a program does that exchanges features: half of the atoms on each of two sides, the others as ghosts."""
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(compiled), stream)
    stream.seek(0)
    program = torch.jit.load(stream)
    vectors, centers, neighbors, species = graph(atoms)
    sides = [torch.tensor([0, 3, 4, 7, 1, 2, 5, 6]), torch.tensor([6, 1, 5, 2, 0, 3, 4, 7])]  # first four: own atoms
    parts = []
    for order in sides:
        place = torch.argsort(order)
        edges = torch.cat([(centers == atom).nonzero()[:, 0] for atom in order[:4]])
        leaf = vectors[edges].clone().requires_grad_(True)
        parts.append((leaf, place[centers[edges]], place[neighbors[edges]], species[order], 4))
    h = [torch.zeros(0)] * 2
    energies = [torch.zeros(4, dtype=torch.float64)] * 2
    for index in range(compiled.n_layers):
        own = [program.layer(index, *part, features) for part, features in zip(parts, h, strict=True)]
        everyone = torch.cat([features for features, _ in own])[torch.argsort(torch.cat([side[:4] for side in sides]))]
        h = [everyone[order] for order in sides]
        energies = [total + part for total, (_, part) in zip(energies, own, strict=True)]
    expected_energies, expected_gradients = compiled(vectors, centers, neighbors, species)
    sum(total.sum() for total in energies).backward()
    for order, total, part in zip(sides, energies, parts, strict=True):
        own_species, atom = species[order[:4]], order[part[1]]
        torch.testing.assert_close(total.detach() + program.baseline()[own_species], expected_energies[order[:4]])
        edges = torch.cat([(centers == atom).nonzero()[:, 0] for atom in order[:4]])
        assert torch.equal(atom, centers[edges])
        torch.testing.assert_close(part[0].grad, expected_gradients[edges], rtol=1e-10, atol=1e-12)


def silu_readout(parameters: dict[str, np.ndarray], h: np.ndarray) -> float:
    readout, layer = h @ parameters["readout_linear"], 0
    while f"readout_mlp_{layer}_weight" in parameters:
        h = h / (1.0 + np.exp(-h)) if layer > 0 else h
        h = h @ parameters[f"readout_mlp_{layer}_weight"] + parameters[f"readout_mlp_{layer}_bias"]
        layer += 1
    return float(readout + (h[0] if layer > 0 else 0.0))


def products_in_numpy(A: np.ndarray, coefficients: np.ndarray, tree: np.ndarray, roots: np.ndarray) -> np.ndarray:
    """Products [n_outputs, K] of A [LM, K] of one atom with coefficients [n_nodes, K]."""
    value = coefficients.copy()
    for node in range(len(tree) - 1, -1, -1):
        for child in range(tree[node, 1], tree[node, 2]):
            value[node] += A[tree[child, 0]] * value[child]
    outputs = [sum(A[tree[n, 0]] * value[n] for n in range(a, b)) for a, b in pairwise(roots)]
    return np.stack(outputs)


def energies_in_numpy(
    parameters: dict[str, np.ndarray],
    n_layers: int,
    edges: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    D: np.ndarray,
    species: np.ndarray,
) -> np.ndarray:
    """The formulas of the model file without ZBL.

    edges: centers, neighbors, radial [E, Q], angular [E, LM].  D: [N, C, LM].
    """
    centers, neighbors, radial, angular = edges
    degree = [int(np.sqrt(component)) for component in range(D.shape[2])]
    e, h = np.zeros(len(species)), np.zeros(0)
    for t in range(n_layers):
        layer = {name: parameters.get(f"layer{t}_{name}") for name in ("message", "mixing", "residual", "readout")}
        if t == 0:
            A = np.einsum("icm,imck->imk", D, parameters["mixing"][species][:, degree])
        else:
            A = np.zeros((*A.shape[:2], h.shape[2]))
            functions = np.einsum("eq,pqk->epk", radial, layer["message"])
            terms = zip(parameters[f"layer{t}_terms"], parameters[f"layer{t}_couplings"], strict=True)
            for (p, lm, y, x), coupling in terms:
                np.add.at(A[:, lm], centers, coupling * functions[:, p] * angular[:, y, None] * h[neighbors, x])
            if layer["mixing"] is not None:
                A = np.einsum("imk,mkn->imn", A, layer["mixing"][degree])
        tree, roots = parameters[f"layer{t}_tree"], parameters[f"layer{t}_roots"]
        kinds = parameters[f"layer{t}_product"][species]
        B = np.stack([products_in_numpy(A[i], kinds[i], tree, roots) for i in range(len(species))])
        rows = degree[: B.shape[1]]
        new = np.einsum("imk,mkn->imn", B, parameters[f"layer{t}_update"][rows])
        if t > 0:
            new += np.einsum("imk,imkn->imn", h[:, : B.shape[1]], layer["residual"][species][:, rows])
        h = new
        e += silu_readouts(parameters, h[:, 0]) if layer["readout"] is None else h[:, 0] @ layer["readout"]
    return parameters["e0"][species] + parameters["shift"][species] + parameters["scale"][0] * e


def silu_readouts(parameters: dict[str, np.ndarray], h: np.ndarray) -> np.ndarray:
    return np.array([silu_readout(parameters, row) for row in h])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_native_parameters_reproduce_the_energies(model: LayeredModel, atoms: Atoms, dtype: torch.dtype) -> None:
    with torch.no_grad():
        for layer in model.readout.typed_layers():
            layer.bias.normal_(generator=torch.Generator().manual_seed(1))
    model.to(dtype)
    model.has_zbl = False
    vectors, centers, neighbors, species = graph(atoms)
    expected = model(vectors, centers, neighbors, species)[0]
    model.double()
    D = model.density(vectors, centers, species[neighbors], len(atoms))
    edges = (centers, neighbors, model.radial_basis_of(vectors.norm(dim=1)), model.harmonics(vectors))
    inputs = tuple(tensor.numpy() for tensor in edges), D.numpy(), species.numpy()
    energies = energies_in_numpy(model.native_parameters(), model.n_layers, *inputs)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    np.testing.assert_allclose(energies, expected.numpy(), rtol=tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
def test_native_parameters_have_the_names_shapes_and_types_of_the_model_file(variant: str) -> None:
    arguments = {"n_layers": 2, "message_l": 0, "message_mixing": False, **ARGUMENTS, **VARIANTS[variant]}
    model = ReferenceLayeredModel(**arguments)
    parameters = model.native_parameters()
    n_layers, message_l, l_max, K = (arguments[name] for name in ("n_layers", "message_l", "l_max", "channels"))
    messages = message_table(l_max, message_l)
    shapes: dict[str, tuple[int, ...]] = {"mixing": (2, l_max + 1, 8, K), "readout_linear": (5,)}
    shapes |= {"e0": (2,), "shift": (2,), "scale": (1,)}
    if arguments.get("radial_basis") == "spline":
        shapes["radial_table"] = (8, 4, 4)
    widths = [5, *arguments["readout"], 1] if arguments["readout"] else []
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        shapes |= {f"readout_mlp_{index}_weight": (inputs, outputs), f"readout_mlp_{index}_bias": (outputs,)}
    for t in range(n_layers):
        l_out, outputs = (0, 5) if t == n_layers - 1 else (message_l, K)
        n_nodes = len(tensor_basis(l_max, arguments["nu"], l_out).tree)
        own: dict[str, tuple[int, ...]] = {"product": (2, n_nodes, K), "tree": (n_nodes, 3)}
        own |= {"roots": ((l_out + 1) ** 2 + 1,), "update": (l_out + 1, K, outputs)}
        if t > 0:
            own |= {"residual": (2, l_out + 1, K, outputs), "message": (len(messages.paths), 4, K)}
            own |= {"terms": messages.terms.shape, "couplings": messages.couplings.shape}
            own |= {"mixing": (l_max + 1, K, K)} if arguments["message_mixing"] else {}
        if t < n_layers - 1:
            own["readout"] = (K,)
        shapes |= {f"layer{t}_{name}": shape for name, shape in own.items()}
    assert {name: array.shape for name, array in parameters.items()} == shapes
    for name, array in parameters.items():
        is_integer = name.endswith(("_tree", "_roots", "_terms"))
        assert array.dtype == (np.int32 if is_integer else np.float64)
        assert array.flags.c_contiguous


def test_architecture_lists_what_the_metadata_needs() -> None:
    model = ReferenceLayeredModel(**ARGUMENTS, n_layers=3, message_l=1, message_mixing=True)
    assert model.architecture() == {
        "l_max": 2,
        "n_radial": 4,
        "channels": 6,
        "nu": 3,
        "features": 5,
        "readout": [7, 4],
        "radial_basis": "bessel",
        "zbl": {"inner": 1.2, "outer": 2.4},
        "n_layers": 3,
        "message_l": 1,
        "message_mixing": True,
    }


def test_float32_keeps_e0_and_the_coupling_coefficients_exact(model: LayeredModel, atoms: Atoms) -> None:
    energies = model(*graph(atoms))[0]
    single = model.to(torch.float32)
    rounded, gradients = single(*graph(atoms))
    assert rounded.dtype == gradients.dtype == torch.float64  # e0 in float64; gradients like the vectors
    torch.testing.assert_close(rounded, energies, rtol=0.0, atol=5e-5)
    isolated = single(*graph(Atoms("O", [[0, 0, 0]])))[0]
    assert isolated.tolist() == [-431.75]
    again = single.to(torch.float64)
    table = message_table(model.l_max, model.message_l)
    for layer in again.all_layers():
        assert torch.equal(layer.product_basis, torch.tensor(tensor_basis(model.l_max, model.nu, layer.l_out).basis))
    for later in again.later:
        assert torch.equal(later.couplings, torch.tensor(table.couplings))


def root_mean_squares(values: torch.Tensor) -> list[float]:
    """Of each degree of values [N, LM, K]."""
    degrees = range(int(values.shape[1] ** 0.5))
    return [float(values[:, d * d : (d + 1) ** 2].square().mean().sqrt()) for d in degrees]


@torch.no_grad()
def test_scales_give_all_intermediates_order_one(atoms: Atoms) -> None:
    model = prepared(ReferenceLayeredModel, "three layers, vectors, mixing", channels=64)
    vectors, centers, neighbors, species = graph(atoms)
    D = model.density(vectors, centers, species[neighbors], len(atoms))
    R, Y = model.radial_basis_of(vectors.norm(dim=1)), model.harmonics(vectors)
    assert root_mean_squares(model.mix(D, model.mixing(), species)) == pytest.approx([1.0] * 3, rel=1e-12)
    h = model.first_features(D, species)
    for index, layer in enumerate(model.later, start=1):
        weights = (layer.radial_weights(), centers, neighbors, len(atoms), layer.terms, layer.couplings)
        A = model.by_degree(model.message(R, Y, h, *weights), layer.mixing_matrices())
        assert root_mean_squares(A) == pytest.approx([1.0] * 3, rel=1e-12)
        for path in range(layer.product_basis.shape[1]):
            scaled = layer.product_basis[:, path] * layer.path_scale[path]
            coefficients = scaled[None, :, None].expand(2, -1, 64).contiguous()
            B = model.product(A, coefficients, species, layer.tree, layer.roots)
            sizes = [len(symmetric_basis(2, 3, L, (-1) ** L).paths) for L in range(layer.l_out + 1)]
            degree = int(path >= sizes[0])
            expected = [0.0] * (layer.l_out + 1)
            expected[degree] = sizes[degree] ** -0.5
            assert root_mean_squares(B) == pytest.approx(expected, rel=1e-12)
        h = model.next_features(index, R, Y, h, centers, neighbors, species)
        assert root_mean_squares(h) == pytest.approx([1.0] * (layer.l_out + 1), rel=0.6)


def test_scales_need_atoms_with_neighbours() -> None:
    model = ReferenceLayeredModel(**ARGUMENTS)
    with pytest.raises(ValueError, match="needs at least one atom, got none"):
        model.normalise(*graph(Atoms()))
    with pytest.raises(ValueError, match=r"no atom has a neighbour within the cutoff of 3\.6 Å"):
        model.normalise(*graph(Atoms("Si")))


def test_same_seed_gives_the_same_model() -> None:
    first, second = ReferenceLayeredModel(**ARGUMENTS), ReferenceLayeredModel(**ARGUMENTS)
    other = ReferenceLayeredModel(**ARGUMENTS | {"seed": 4})
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.mixing_weights, other.mixing_weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layers": 1}, "n_layers must be 2 or 3, got 1; one layer is LocalModel"),
        ({"n_layers": 4}, "n_layers must be 2 or 3, got 4; one layer is LocalModel"),
        ({"message_l": 3, "l_max": 3}, "message_l must be in 0..2 and at most l_max = 3, got 3"),
        ({"message_l": 2, "l_max": 1}, "message_l must be in 0..2 and at most l_max = 1, got 2"),
        ({"channels": 0}, "features and readout widths at least 1; got 2; 4, 0, 5, 7, 4"),
    ],
)
def test_contradicting_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ReferenceLayeredModel(**ARGUMENTS | change)
