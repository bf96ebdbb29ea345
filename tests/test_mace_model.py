"""The MACE model: its formulas evaluated independently, physics, training graph, scripted form, layers, model file."""

from __future__ import annotations

import copy
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import atomic_numbers
from mace_networks import DenseMace, arguments, random_network
from model_contract import ModelContract, choose_emulated, crystal, graph, here, loss
from tesseral.kernel._engine import Engine

from tesseral.calculator.neighbors import neighbor_list
from tesseral.models.coupling import tensor_basis
from tesseral.models.file import load_torchscript, read_model, save_model
from tesseral.models.mace import MaceModel
from tesseral.models.mace_layers import unit_scales
from tesseral.models.mace_network import MaceNetwork
from tesseral.models.message_coupling import message_table, terms_by_path
from tesseral.models.reference_model import ReferenceMaceModel

VARIANTS: dict[str, dict[str, Any]] = {
    "one layer, pair tables, density, repulsion": {
        "nu": [3],
        "tables": [(4, 5, 3, 6)],
        "normaliser": True,
        "repulsion": True,
        "readout": [5],
        "linear": False,
    },
    "one layer with constant, linear readout": {"nu": [2], "constant": True},
    "two layers, vectors, residual": {
        "nu": [2, 3],
        "message_l": 1,
        "residual": [True],
        "species_mixing": [False],
        "readout": [5],
    },
    "two layers, density, species mixing, constant, pair tables": {
        "nu": [3, 2],
        "tables": [(4, 5, 3, 6), (4, 3, 2, 8)],
        "normaliser": True,
        "constant": True,
        "residual": [False],
        "species_mixing": [True],
        "readout": [6, 5],
        "linear": False,
    },
    "three layers, tensors, a bit of everything": {
        "nu": [2, 1, 2],
        "message_l": 2,
        "tables": [(1, 5, 3, 6), (4, 4, 2, 6), (1, 6, 4, 8)],
        "normaliser": True,
        "residual": [True, False],
        "species_mixing": [False, True],
        "repulsion": True,
        "readout": [5],
    },
}
MODELS = [(kind, variant) for kind in (ReferenceMaceModel, MaceModel) for variant in VARIANTS]


def network_of(variant: str, **changes: Any) -> MaceNetwork:
    return random_network(**arguments(**VARIANTS[variant] | changes))


def model_of(kind: type[MaceModel], variant: str, **changes: Any) -> MaceModel:
    return kind.from_network(network_of(variant, **changes))


@pytest.fixture
def atoms() -> Atoms:
    return crystal()


@pytest.fixture(params=MODELS, ids=lambda value: f"{value[0].__name__}, {value[1]}")
def model(request: pytest.FixtureRequest, operator_device: torch.device) -> MaceModel:
    emulated = "two layers, density, species mixing, constant, pair tables"
    choose_emulated(request, request.param == (MaceModel, emulated))
    return here(lambda: model_of(*request.param))


@pytest.fixture(params=VARIANTS)
def compiled(request: pytest.FixtureRequest) -> MaceModel:
    return model_of(MaceModel, request.param)


class TestMaceModel(ModelContract):
    """The contract of all models; an isolated atom has the constant of the features besides."""

    def isolated(self, model: MaceModel) -> list[float]:
        return model(*graph(Atoms("SiO", [[0, 0, 0], [9, 9, 9]])))[0].tolist()


def dense_energies(network: MaceNetwork, atoms: Atoms, cutoff: float = 3.6) -> np.ndarray:
    return DenseMace(network, *(tensor.numpy() for tensor in graph(atoms, cutoff))).energies()


@pytest.mark.parametrize("variant", VARIANTS)
def test_energies_are_those_of_the_formulas(variant: str, atoms: Atoms) -> None:
    small = {"nu": [min(order, 2) for order in VARIANTS[variant]["nu"]], "e0": {"Si": 0.5, "O": -0.25}}
    network = network_of(variant, **small)
    if network.repulsion is not None:  # beyond the cutoff for all pairs
        network = replace(network, repulsion=replace(network.repulsion, outer=network.repulsion.outer + 1.3))
    for structure in (atoms, Atoms("SiO", [[0, 0, 0], [9, 9, 9]])):
        expected = dense_energies(network, structure, 5.0)  # with edges beyond the cutoff of 3.6 Å
        for kind in (ReferenceMaceModel, MaceModel):
            energies = kind.from_network(network)(*graph(structure, 5.0))[0]
            np.testing.assert_allclose(energies.numpy(), expected, rtol=1e-11)


def test_isolated_atoms_have_e0_plus_shift_without_a_constant() -> None:
    for variant in VARIANTS:
        energies = model_of(MaceModel, variant)(*graph(Atoms("SiO", [[0, 0, 0], [9, 9, 9]])))[0].tolist()
        assert (energies == [-158.25, -431.75]) == ("constant" not in VARIANTS[variant])


@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled_and_reference_models_agree(variant: str, atoms: Atoms) -> None:
    results = []
    for kind in (MaceModel, ReferenceMaceModel):
        model = model_of(kind, variant)
        results.append((*model(*graph(atoms)), *torch.autograd.grad(loss(model, atoms), list(model.parameters()))))
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10 * float(reference.abs().max()))


def metadata_of(model: MaceModel) -> dict[str, Any]:
    return {
        "name": "imported",
        "model_type": model.model_type,
        "species": model.species,
        "atomic_numbers": [atomic_numbers[symbol] for symbol in model.species],
        "cutoff": model.cutoff,
        "n_layers": model.n_layers,
        "architecture": model.architecture(),
        "units": {"energy": "eV", "length": "Å", "stress": "eV/Å^3"},
        "e0": dict(zip(model.species, model.e0, strict=True)),
    }


def test_scripted_model_is_saved_loaded_and_equal(compiled: MaceModel, atoms: Atoms, tmp_path: Path) -> None:
    save_model(tmp_path / "model.pt", torch.jit.script(compiled), metadata_of(compiled), compiled.native_parameters())
    loaded = load_torchscript(tmp_path / "model.pt")
    expected = compiled(*graph(atoms))
    for _ in range(3):  # the first calls profile, later ones run the optimised graph
        for actual, wanted in zip(loaded(*graph(atoms)), expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(loaded(*graph(atoms))[1], expected[1], rtol=1e-12, atol=1e-12)


def test_model_is_rebuilt_from_its_file(compiled: MaceModel, atoms: Atoms, tmp_path: Path) -> None:
    save_model(tmp_path / "model.pt", torch.jit.script(compiled), metadata_of(compiled), compiled.native_parameters())
    content = read_model(tmp_path / "model.pt")
    again = MaceModel(**MaceModel.arguments_of_file(content.metadata, content.parameters))
    program = load_torchscript(tmp_path / "model.pt").state_dict()
    again.load_state_dict({name: program[name] for name in again.state_dict()})
    assert again.architecture() == compiled.architecture()
    for actual, wanted in zip(again(*graph(atoms)), compiled(*graph(atoms)), strict=True):
        assert torch.equal(actual, wanted)
    for name, array in again.native_parameters().items():
        np.testing.assert_array_equal(content.parameters[name], array)


def test_scripted_layers_with_exchanged_features_give_energies_and_gradients(compiled: MaceModel, atoms: Atoms) -> None:
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_native_engine_reads_the_parameters_of_the_file(variant: str, atoms: Atoms, tmp_path: Path) -> None:
    model = model_of(MaceModel, variant, e0={"Si": 0.5, "O": -0.25})
    save_model(tmp_path / "model.pt", torch.jit.script(model), metadata_of(model), model.native_parameters())
    edges = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, model.cutoff)
    vectors, centers, neighbors, species = graph(atoms)
    geometry = (atoms.positions, species.numpy().astype(np.int32), edges.first, edges.neighbors)
    result = Engine(str(tmp_path / "model.pt"), "float64", 1).compute(*geometry, edges.cell_shifts @ atoms.cell.array)
    energies, gradients = model(vectors, centers, neighbors, species)
    forces = torch.zeros(len(atoms), 3, dtype=torch.float64)
    forces = forces.index_add(0, centers, gradients).index_add(0, neighbors, -gradients)
    np.testing.assert_allclose(result[0], energies, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(result[1], forces, rtol=0.0, atol=1e-12 * float(forces.abs().max()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_native_parameters_have_the_names_shapes_and_types_of_the_model_file(variant: str) -> None:
    network = network_of(variant)
    parameters = ReferenceMaceModel.from_network(network).native_parameters()
    K, T, tables = network.channels, network.n_layers, network.radial_tables
    messages = message_table(network.l_max, network.message_l)
    widths = [weight.shape[1] for weight, _ in network.readout_layers]
    F = (widths[0] if widths else 0) + int(network.readout_linear.any())
    shapes: dict[str, tuple[int, ...]] = {"e0": (2,), "shift": (2,), "scale": (1,), "readout_linear": (F,)}
    shapes |= {"mixing": network.mixing.shape, "radial_table": tables[0].shape}
    for index, width in enumerate(widths):
        inputs = F if index == 0 else widths[index - 1]
        shapes |= {f"readout_mlp_{index}_weight": (inputs, width), f"readout_mlp_{index}_bias": (width,)}
    if network.normaliser is not None:
        shapes["normaliser"] = network.normaliser.shape
    if network.repulsion is not None:
        shapes |= {f"repulsion_{name}": (2, 2) for name in ("strength", "inverse_screening", "outer")}
    for t in range(T):
        last, l_out = t == T - 1, network.degree_of_layer(t)
        outputs = F if last else K
        n_nodes = len(tensor_basis(network.l_max, network.nu[t], l_out).tree)
        own: dict[str, tuple[int, ...]] = {"product": (2, n_nodes, K), "tree": (n_nodes, 3)}
        own |= {"roots": ((l_out + 1) ** 2 + 1,), "update": (l_out + 1, K, outputs)}
        own |= {} if last else {"readout": (K,), "handed": (network.message_l + 1, K, K)}
        if t == 0 and network.constant.any():
            own["constant"] = (2, outputs)
        if t > 0:
            n_blocks = len(messages.paths)
            blocks = (n_blocks, K, K) if network.species_mixings[t - 1] is None else (2, n_blocks, K, K)
            own |= {"message": (n_blocks, tables[t].shape[2], K), "mixing": blocks, "blocks": (n_blocks,)}
            own |= {
                "terms": messages.terms.shape,
                "couplings": messages.couplings.shape,
                "radial_table": tables[t].shape,
            }
            own |= {} if network.residuals[t - 1] is None else {"residual": (2, l_out + 1, K, outputs)}
        shapes |= {f"layer{t}_{name}": shape for name, shape in own.items()}
    assert {name: array.shape for name, array in parameters.items()} == shapes
    for name, array in parameters.items():
        is_integer = name.endswith(("_tree", "_roots", "_terms", "_blocks"))
        assert array.dtype == (np.int32 if is_integer else np.float64), name
        assert array.flags.c_contiguous, name


def test_architecture_lists_what_the_metadata_needs() -> None:
    model = model_of(ReferenceMaceModel, "three layers, tensors, a bit of everything")
    assert model.architecture() == {
        "l_max": 2,
        "n_radial": 3,
        "channels": 4,
        "nu": [2, 1, 2],
        "features": 6,
        "readout": [5],
        "radial_basis": "spline",
        "zbl": {"kind": "mace", "power": 5, "amplitudes": [0.2, 0.5, 0.3, 0.03], "decays": [3.2, 0.94, 0.4, 0.2]},
        "n_layers": 3,
        "message_l": 2,
        "linear_readout": True,
        "radial_tables": [[1, 5, 3, 6], [4, 4, 2, 6], [1, 6, 4, 8]],
        "normaliser": True,
        "constant": False,
        "species_mixing": [False, True],
        "residual": [True, False],
    }


def test_single_readout_layer_is_linear(atoms: Atoms) -> None:
    """As an MLP without hidden layer; its bias is part of what a readout has without features."""
    network = network_of("one layer with constant, linear readout")
    layers = [(network.readout_linear[:, None], np.array([3.0]))]
    other = MaceModel.from_network(replace(network, readout_linear=np.zeros(4), readout_layers=layers))
    torch.testing.assert_close(other(*graph(atoms))[0], MaceModel.from_network(network)(*graph(atoms))[0])


def test_parameters_of_an_imported_model_are_of_order_one() -> None:
    network = network_of("three layers, tensors, a bit of everything")
    tiny = replace(network, path_mixings=[1e-3 * X for X in network.path_mixings], mixing=300.0 * network.mixing)
    for name, parameter in MaceModel.from_network(tiny).named_parameters():
        assert 0.3 < float(parameter.detach().square().mean().sqrt()) < 3.0, name


def test_scales_are_powers_of_two_and_not_of_noise() -> None:
    scales = unit_scales(torch.tensor([[3.0, -3.0], [1e-9, 0.0], [0.0, 0.0]]), (0,)).flatten().tolist()
    assert scales == [4.0, 2.0**-5, 2.0**-5]
    assert unit_scales(torch.zeros(2, 3), (1,)).tolist() == [[1.0, 1.0, 1.0]]


def test_trainable_parameters_of_the_readout_and_the_last_layer() -> None:
    for variant in VARIANTS:
        model = model_of(ReferenceMaceModel, variant)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        readout = {names[id(parameter)] for parameter in model.readout_parameters()}
        last = {names[id(parameter)] for parameter in model.last_layer_parameters()}
        prefix = "first." if model.n_layers == 1 else f"later.{model.n_layers - 2}."
        assert readout == {name for name in names.values() if name.startswith(("readout.", "layer_readouts"))}
        assert last == {name for name in names.values() if name.startswith(prefix)}


def test_training_in_float32_keeps_e0_couplings_and_tables_exact(model: MaceModel, atoms: Atoms) -> None:
    energies = model(*graph(atoms))[0]
    before = copy.deepcopy(model)
    single = model.to(torch.float32)
    rounded, gradients = single(*graph(atoms))
    assert rounded.dtype == gradients.dtype == torch.float64  # e0 in float64; gradients like the vectors
    torch.testing.assert_close(rounded, energies, rtol=0.0, atol=1e-3)
    again = copy.deepcopy(single).double()
    for name, buffer in before.named_buffers():
        assert torch.equal(buffer, dict(again.named_buffers())[name]), name


def test_tables_that_were_loaded_in_float32_are_not_replaced_by_older_ones() -> None:
    variant = "two layers, vectors, residual"
    model, other = model_of(MaceModel, variant).float(), model_of(MaceModel, variant, seed=1).float()
    model.load_state_dict(other.state_dict())
    model.double()
    assert torch.equal(model.radial_table, other.radial_table.double())
    assert torch.equal(model.later[0].radial_table, other.later[0].radial_table.double())


@pytest.mark.parametrize("message_l", [0, 1, 2])
def test_terms_by_path_number_the_components_of_the_paths_in_turn(message_l: int) -> None:
    table, terms = message_table(3, message_l), terms_by_path(3, message_l)
    start = 0
    for path, (_, _, degree) in enumerate(table.paths):
        own = terms[:, 0] == path
        assert sorted(set(terms[own, 1])) == list(range(start, start + 2 * degree + 1))
        assert (terms[own, 1] - start == table.terms[own, 1] - degree**2).all()
        start += 2 * degree + 1
    assert (np.lexsort((terms[:, 1], terms[:, 3], terms[:, 0])) == np.arange(len(terms))).all()


ARGUMENTS: dict[str, Any] = {
    "species": ["Si", "O"],
    "cutoff": 3.6,
    "l_max": 2,
    "message_l": 1,
    "channels": 4,
    "nu": [2, 2],
    "readout": [3],
    "radial_tables": [(1, 5, 3, 6)] * 2,
    "e0": {"Si": 0.0, "O": 0.0},
    "species_mixing": [False],
    "residual": [True],
}


def test_same_seed_gives_the_same_random_model() -> None:
    first, second, other = (ReferenceMaceModel(**ARGUMENTS, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.mixing_weights, other.mixing_weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nu": []}, "nu must have 1 to 3 orders, one per layer, got []"),
        ({"nu": [1] * 4}, "nu must have 1 to 3 orders, one per layer, got [1, 1, 1, 1]"),
        ({"residual": []}, "2 layers need as many shapes of 4 in radial_tables and one less of"),
        ({"radial_tables": [(1, 5, 3, 6)]}, "residual, got 1, 1 and 1"),
        ({"message_l": 3, "l_max": 3}, "message_l must be in 0..2 and at most l_max = 3, got 3"),
        ({"readout": []}, "a readout without hidden widths needs linear_readout"),
        ({"zbl": {"inner": 1.0}}, "zbl of a MACE model must have the kind 'mace', got None"),
        ({"channels": 0}, "features and readout widths at least 1; got 2; 3, 0, 3, 3"),
    ],
)
def test_contradicting_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ReferenceMaceModel(**ARGUMENTS | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nu": [1, 2, 3, 2]}, "nu must have 1 to 3 orders, one per layer, got [1, 2, 3, 2]"),
        ({"nu": [2, 5, 2]}, "nu must be in 1..4, got [2, 5, 2]"),
        ({"message_l": 3}, "message_l must be in 0..2 and at most l_max = 2, got 3"),
        ({"handed": []}, "handed must have 2 entries in a model of 3 layers, got 0"),
        ({"mixing": np.zeros((2, 3, 6, 5))}, "mixing must be [2, 3, 6, 4], got [2, 3, 6, 5]"),
        ({"constant": np.full((2, 4), np.nan)}, "constant has numbers that are not finite"),
        ({"constant": np.zeros((2, 4), np.float32)}, "constant must be a float64 array, got of float32"),
        ({"constant": None}, "constant must be a float64 array, got NoneType"),
        ({"radial_tables": [np.zeros((3, 5, 3, 6))] * 3}, "radial_tables[0] must be [n_tables, n_intervals, Q, deg"),
        ({"radial_tables": [np.zeros((5, 3, 6))] * 3}, "radial_tables[0] must be [any, any, any, any], got [5, 3, 6]"),
        ({"readout_layers": [(np.zeros((4, 2)), np.zeros(2))]}, "the last of readout_layers must have one output, got"),
    ],
)
def test_network_names_the_array_that_does_not_fit(change: dict[str, Any], message: str) -> None:
    network = network_of("three layers, tensors, a bit of everything")
    with pytest.raises(ValueError, match=re.escape(f"MaceNetwork: {message}")):
        replace(network, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outer": np.zeros((2, 2))}, "repulsion.outer must be positive"),
        ({"strength": np.zeros(2)}, "repulsion.strength must be [2, 2], got [2]"),
        ({"decays": [1.0]}, "needs a power of at least 1 and 4 amplitudes and decays, got 5, 4 and 1"),
    ],
)
def test_network_names_the_part_of_the_repulsion_that_does_not_fit(change: dict[str, Any], message: str) -> None:
    network = network_of("three layers, tensors, a bit of everything")
    assert network.repulsion is not None
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(network, repulsion=replace(network.repulsion, **change))
