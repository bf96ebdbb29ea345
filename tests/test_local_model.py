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
from ase.neighborlist import neighbor_list
from scipy.spatial.transform import Rotation

from tesseral.models.coupling import symmetric_basis
from tesseral.models.local import LocalModel
from tesseral.models.reference_model import ReferenceLocalModel

SPECIES = ["Si", "O"]
ARGUMENTS: dict[str, Any] = {
    "species": SPECIES,
    "cutoff": 3.6,
    "l_max": 2,
    "n_radial": 4,
    "channels": 6,
    "nu": 3,
    "features": 5,
    "readout": [7, 4],
    "e0": {"Si": -158.25, "O": -432.5},
    "shift": {"O": 0.75},
    "scale": 1.7,
    "zbl": (1.2, 2.4),
    "seed": 3,
}


def spline_table(n_intervals: int, n_radial: int) -> np.ndarray:
    """Radial functions proportional to (1-x)^3, exact in cubic pieces; the amplitudes are random."""
    x = np.linspace(0.0, 1.0, n_intervals, endpoint=False)[:, None]
    values = np.random.default_rng(0).normal(size=(1, n_radial)) * (1.0 - x) ** 3
    slope, curvature = -3.0 * values / (1.0 - x), 6.0 * values / (1.0 - x) ** 2
    third = -6.0 * values / (1.0 - x) ** 3
    powers = np.array([1.0, 1.0 / n_intervals, 0.5 / n_intervals**2, 1.0 / 6.0 / n_intervals**3])
    return np.stack([values, slope, curvature, third], axis=2) * powers


VARIANTS: dict[str, dict[str, Any]] = {
    "standard": {},
    "nu 4, linear readout, no repulsion": {"nu": 4, "readout": [], "zbl": None, "radial_basis": "gaussian"},
    "spline": {"radial_basis": "spline", "radial_table": spline_table(8, 4), "l_max": 3, "nu": 2},
}
MODELS = [(kind, variant) for kind in (ReferenceLocalModel, LocalModel) for variant in VARIANTS]


@pytest.fixture
def atoms() -> Atoms:
    atoms = bulk("Si", cubic=True) * (1, 1, 1)
    atoms.set_cell(atoms.cell[:] @ np.array([[1.0, 0.05, 0.0], [0.0, 0.95, 0.1], [0.02, 0.0, 1.03]]), scale_atoms=True)
    atoms.rattle(0.2, seed=2)
    atoms.symbols[[1, 4, 6]] = "O"
    return atoms


@pytest.fixture(params=MODELS, ids=lambda value: f"{value[0].__name__}, {value[1]}")
def model(request: pytest.FixtureRequest, atoms: Atoms) -> LocalModel:
    kind, variant = request.param
    return prepared(kind(**ARGUMENTS | VARIANTS[variant]), atoms)


def graph(atoms: Atoms, cutoff: float = 3.6) -> tuple[torch.Tensor, ...]:
    """vectors, centers, neighbors, species"""
    centers, neighbors, vectors = neighbor_list("ijD", atoms, cutoff)
    species = np.array([SPECIES.index(symbol) for symbol in atoms.symbols], dtype=np.int64)
    return tuple(torch.tensor(array) for array in (vectors.reshape(-1, 3), centers, neighbors, species))


def prepared(model: LocalModel, atoms: Atoms) -> LocalModel:
    vectors, centers, neighbors, species = graph(atoms)
    model.initialise_scales([model.density(vectors, centers, species[neighbors], len(atoms))], [species])
    return model


def energy(model: LocalModel, atoms: Atoms) -> float:
    return float(model(*graph(atoms))[0].sum())


def forces_and_strain_derivative(model: LocalModel, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    vectors, centers, neighbors, species = graph(atoms)
    gradients = model(vectors, centers, neighbors, species)[1]
    forces = torch.zeros(len(atoms), 3, dtype=torch.float64)
    forces = forces.index_add(0, centers, gradients).index_add(0, neighbors, -gradients)
    return forces.numpy(), (vectors.T @ gradients).numpy()


def test_forces_match_central_differences(model: LocalModel, atoms: Atoms) -> None:
    forces, _ = forces_and_strain_derivative(model, atoms)
    step = 2e-4
    for index, axis in [(0, 0), (1, 2), (3, 1), (6, 0)]:
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[index, axis] += sign * step
            energies.append(energy(model, moved))
        numeric = -(energies[0] - energies[1]) / (2 * step)
        assert forces[index, axis] == pytest.approx(numeric, abs=1e-6 * np.abs(forces).max())


def test_strain_derivative_matches_central_differences(model: LocalModel, atoms: Atoms) -> None:
    _, derivative = forces_and_strain_derivative(model, atoms)
    np.testing.assert_allclose(derivative, derivative.T, atol=1e-10 * np.abs(derivative).max())
    step = 1e-4
    for row, column in [(0, 0), (1, 1), (0, 2), (1, 2)]:
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[row, column] += sign * step
            strained = atoms.copy()
            strained.set_cell(atoms.cell[:] @ strain.T, scale_atoms=True)
            energies.append(energy(model, strained))
        numeric = (energies[0] - energies[1]) / (2 * step)
        assert derivative[row, column] == pytest.approx(numeric, abs=2e-6 * np.abs(derivative).max())


@pytest.mark.parametrize("determinant", [1, -1])
def test_energy_is_invariant_and_forces_turn_with_rotation_and_inversion(
    model: LocalModel, atoms: Atoms, determinant: int
) -> None:
    matrix = determinant * Rotation.random(random_state=8).as_matrix()
    turned = atoms.copy()
    turned.set_cell(atoms.cell[:] @ matrix.T)
    turned.positions = atoms.positions @ matrix.T
    assert energy(model, turned) == pytest.approx(energy(model, atoms), rel=1e-12)
    expected = forces_and_strain_derivative(model, atoms)[0] @ matrix.T
    forces = forces_and_strain_derivative(model, turned)[0]
    np.testing.assert_allclose(forces, expected, atol=1e-11 * np.abs(expected).max())


def test_energy_is_invariant_to_translation_and_wrapping(model: LocalModel, atoms: Atoms) -> None:
    moved = atoms.copy()
    moved.positions += [0.3, -1.2, 7.0]
    moved.wrap()
    assert energy(model, moved) == pytest.approx(energy(model, atoms), rel=1e-12)


def test_atoms_can_be_permuted(model: LocalModel, atoms: Atoms) -> None:
    order = np.random.default_rng(1).permutation(len(atoms))
    energies, permuted = model(*graph(atoms))[0], model(*graph(atoms[order]))[0]
    torch.testing.assert_close(permuted, energies[torch.tensor(order)], rtol=1e-12, atol=0.0)


def test_energies_are_extensive(model: LocalModel, atoms: Atoms) -> None:
    repeated = model(*graph(atoms * (2, 1, 1)))[0].reshape(2, -1)
    torch.testing.assert_close(repeated, model(*graph(atoms))[0].expand(2, -1), rtol=1e-12, atol=0.0)


def test_isolated_atoms_have_e0_plus_shift(model: LocalModel) -> None:
    energies, gradients = model(*graph(Atoms("SiO", [[0, 0, 0], [9, 9, 9]])))
    assert energies.tolist() == [-158.25, -431.75]
    assert gradients.shape == (0, 3)


def test_no_atoms_have_no_energies(model: LocalModel) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    energies, gradients = model(torch.zeros(0, 3, dtype=torch.float64), none, none, none)
    assert energies.shape == (0,)
    assert gradients.shape == (0, 3)


def test_energy_and_forces_end_smoothly_at_the_cutoff(model: LocalModel) -> None:
    def pair(distance: float) -> tuple[float, float]:
        atoms = Atoms("SiO", [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3 + distance]])
        energies, gradients = model(*graph(atoms, 5.0))
        return float(energies.sum()) - (-158.25 - 431.75), float(gradients.abs().max())

    inside, outside = pair(3.6 - 1e-4), pair(3.6 + 1e-4)
    assert outside == (0.0, 0.0)
    assert abs(inside[0]) < 1e-9
    assert 0.0 <= inside[1] < 1e-5


def test_model_is_the_same_within_no_grad(model: LocalModel, atoms: Atoms) -> None:
    energies, gradients = model(*graph(atoms))
    with torch.no_grad():
        others = model(*graph(atoms))
        trained = model.training_energies_and_gradients(*graph(atoms))
    torch.testing.assert_close(others[0], energies)
    torch.testing.assert_close(others[1], gradients)
    torch.testing.assert_close(trained[1], gradients)
    assert not any(tensor.requires_grad for tensor in (energies, gradients, *others, *trained))


def loss(model: LocalModel, atoms: Atoms) -> torch.Tensor:
    energies, gradients = model.training_energies_and_gradients(*graph(atoms))
    weights = torch.linspace(-1.0, 1.0, gradients.numel(), dtype=gradients.dtype).reshape(gradients.shape)
    return energies.sum() + (gradients * weights).sum() + gradients.square().sum()


def test_parameter_gradients_match_central_differences(model: LocalModel, atoms: Atoms) -> None:
    parameters = dict(model.named_parameters())
    derivatives = torch.autograd.grad(loss(model, atoms), list(parameters.values()))
    generator = torch.Generator().manual_seed(0)
    for (name, parameter), derivative in zip(parameters.items(), derivatives, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
            values.append(float(loss(model, atoms).detach()))
            with torch.no_grad():
                parameter.sub_(direction, alpha=step)
        numeric = (values[0] - values[1]) / 2e-5
        assert float((derivative * direction).sum().detach()) == pytest.approx(numeric, rel=1e-6, abs=1e-6), name


def test_training_energies_leave_out_e0_and_shift(model: LocalModel, atoms: Atoms) -> None:
    species = graph(atoms)[3]
    baseline = torch.tensor([-158.25, -431.75], dtype=torch.float64)[species]
    energies = model(*graph(atoms))[0] - baseline
    trained = model.training_energies_and_gradients(*graph(atoms))[0]
    torch.testing.assert_close(trained.detach(), energies, rtol=1e-10, atol=1e-10)


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
