"""What holds for operators and models on devices, as far as it can be seen without a GPU."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ase import Atoms
from mace_networks import arguments, random_network
from model_contract import ARGUMENTS, crystal, graph, loss, spline_table
from operator_checks import DTYPES, TOLERANCE, assert_close, compiled, here, on_each_device, random
from pretended_device import PRETENDED, Distant, PretendedDevice

from tesseral.models.config import TrainingConfig
from tesseral.models.coupling import symmetric_basis
from tesseral.models.energy_model import EnergyModel
from tesseral.models.file import load_torchscript
from tesseral.models.layered import LayeredModel
from tesseral.models.local import LocalModel
from tesseral.models.mace import MaceModel
from tesseral.models.processes import training_device
from tesseral.models.registry import SHIPPED_FOLDER, shipped_names

MAKE: dict[str, Callable[[], EnergyModel]] = {
    "local": lambda: LocalModel(**ARGUMENTS),
    "local, spline": lambda: LocalModel(
        **ARGUMENTS | {"radial_basis": "spline", "radial_table": spline_table(8, 4), "zbl": None}
    ),
    "layered": lambda: LayeredModel(**ARGUMENTS, n_layers=3, message_l=1, message_mixing=True),
    "mace": lambda: MaceModel.from_network(
        random_network(
            **arguments(
                nu=[2, 3],
                message_l=1,
                tables=[(4, 5, 3, 6), (1, 4, 2, 6)],
                normaliser=True,
                constant=True,
                residual=[True],
                species_mixing=[True],
                readout=[5],
                repulsion=True,
            )
        )
    ),
}


@pytest.fixture
def atoms() -> Atoms:
    return crystal()


@pytest.fixture(params=MAKE)
def model(request: pytest.FixtureRequest, atoms: Atoms) -> EnergyModel:
    model = MAKE[request.param]()
    if not isinstance(model, MaceModel):
        model.normalise(*graph(atoms))
    return model


# ---- operators ----


def edges() -> dict[str, Any]:
    """Arguments of `density` for three atoms."""
    return {
        "vectors": torch.ones(4, 3),
        "centers": torch.tensor([0, 0, 1, 2]),
        "neighbor_species": torch.tensor([0, 1, 1, 0]),
        "n_atoms": 3,
        "n_species": 2,
        "l_max": 1,
        "basis": "spline",
        "n_radial": 4,
        "cutoff": 5.0,
        "table": torch.ones(2, 5, 4, 4),
        "tables": torch.tensor([0, 1, 0, 1]),
    }


def product() -> dict[str, Any]:
    """Arguments of `symmetric_product` for three atoms."""
    table = symmetric_basis(1, 2)
    return {
        "A": torch.ones(3, 4, 2),
        "coefficients": torch.ones(2, len(table.tree), 2),
        "species": torch.tensor([0, 1, 1]),
        "tree": torch.tensor(table.tree),
        "roots": torch.tensor(table.roots),
    }


MIX = {"features": torch.ones(3, 4, 4), "weights": torch.ones(2, 2, 4, 5), "species": torch.tensor([0, 1, 1])}
ROWS = {"values": torch.ones(3, 4, 4), "weights": torch.ones(2, 2, 4, 5), "degrees": [0, 1], "species": MIX["species"]}
ZBL = {
    "vectors": torch.ones(2, 3),
    "centers": torch.tensor([0, 1]),
    "center_numbers": torch.ones(2),
    "neighbor_numbers": torch.ones(2),
    "n_atoms": 2,
    "inner": 1.0,
    "outer": 2.0,
}
MESSAGE = {
    "radial": torch.ones(2, 3),
    "angular": torch.ones(2, 1),
    "h": torch.ones(2, 1, 4),
    "weights": torch.ones(1, 3, 4),
    "centers": torch.tensor([0, 1]),
    "neighbors": torch.tensor([1, 0]),
    "n_atoms": 2,
    "terms": torch.tensor([[0, 0, 0, 0]], dtype=torch.int32),
    "couplings": torch.ones(1, dtype=torch.float64),
}
RUNS_ON = "the compiled operators run on CPU and CUDA tensors, got meta"


@pytest.mark.parametrize(
    ("operator", "given", "moved", "message"),
    [
        ("spherical_harmonics", {"vectors": torch.ones(2, 3), "l_max": 1}, "vectors", f"vectors: {RUNS_ON}"),
        ("density", edges(), "vectors", f"vectors: {RUNS_ON}"),
        ("density", edges(), "centers", "centers is on meta but vectors is on cpu: move both to the same device"),
        ("density", edges(), "neighbor_species", "neighbor_species is on meta but vectors is on cpu"),
        ("density", edges(), "table", "table is on meta but vectors is on cpu"),
        ("density", edges(), "tables", "tables is on meta but vectors is on cpu"),
        ("mix", MIX, "weights", "features is on cpu but weights is on meta"),
        ("mix", MIX, "species", "species is on meta but features is on cpu"),
        ("map_rows", ROWS, "weights", "values is on cpu but weights is on meta"),
        ("map_rows", ROWS, "species", "species is on meta but values is on cpu"),
        ("symmetric_product", product(), "coefficients", "A is on cpu but coefficients is on meta"),
        ("symmetric_product", product(), "species", "species is on meta but A is on cpu"),
        ("symmetric_product", product(), "tree", f"tree: {RUNS_ON}"),
        ("symmetric_product", product(), "roots", f"roots: {RUNS_ON}"),
        ("zbl", ZBL, "centers", "centers is on meta but vectors is on cpu"),
        ("zbl", ZBL, "center_numbers", "center_numbers is on meta but vectors is on cpu"),
        ("zbl", ZBL, "neighbor_numbers", "neighbor_numbers is on meta but vectors is on cpu"),
        ("message", MESSAGE, "h", f"h: {RUNS_ON}"),
        ("message", MESSAGE, "radial", "radial is on meta but h is on cpu"),
        ("message", MESSAGE, "angular", "angular is on meta but h is on cpu"),
        ("message", MESSAGE, "weights", "weights is on meta but h is on cpu"),
        ("message", MESSAGE, "neighbors", "neighbors is on meta but h is on cpu"),
        ("message", MESSAGE, "terms", f"terms: {RUNS_ON}"),
        ("message", MESSAGE, "couplings", f"couplings: {RUNS_ON}"),
    ],
)
def test_an_argument_on_another_device_is_named(operator: str, given: dict[str, Any], moved: str, message: str) -> None:
    function = getattr(compiled, operator)
    assert torch.isfinite(function(**given)).all()
    with pytest.raises(ValueError, match=message):
        function(**given | {moved: given[moved].to("meta")})


@on_each_device
def test_indices_are_checked_again_when_they_change() -> None:
    given = edges()
    before = compiled.density(**given)
    for name, position, value, message in [
        ("centers", 3, 3, r"centers\[3\] = 3 is outside 0..2"),
        ("centers", 1, 2, r"centers must be sorted: centers\[2\] = 1 comes after 2"),
        ("neighbor_species", 2, -1, r"neighbor_species\[2\] = -1 is outside 0..1"),
        ("tables", 0, 2, r"tables\[0\] = 2 is outside 0..1"),
    ]:
        kept = int(given[name][position])
        given[name][position] = value
        with pytest.raises(ValueError, match=message):
            compiled.density(**given)
        given[name][position] = kept
        assert torch.equal(compiled.density(**given), before)
    given["centers"][1] = 1
    assert not torch.equal(compiled.density(**given)[:2], before[:2])
    with pytest.raises(ValueError, match=r"centers\[3\] = 2 is outside 0..1"):
        compiled.density(**given | {"n_atoms": 2})
    assert compiled.density(**given | {"n_atoms": 5}).shape[0] == 5
    wide = torch.stack([given["centers"], given["centers"]], dim=1)[:, 0]
    assert torch.equal(compiled.density(**given | {"centers": wide}), compiled.density(**given))
    with torch.inference_mode():
        fresh = edges()
        assert torch.equal(compiled.density(**fresh), before)
        fresh["centers"][3] = 3
        with pytest.raises(ValueError, match=r"centers\[3\] = 3 is outside 0..2"):
            compiled.density(**fresh)


@on_each_device
def test_tables_are_read_again_when_they_change() -> None:
    given, radial = product(), edges()
    message = {k: here(v).clone() if isinstance(v, torch.Tensor) else v for k, v in MESSAGE.items()}
    first = [compiled.symmetric_product(**given), compiled.message(**message), compiled.density(**radial)]
    given["tree"][0, 0] = 1 - given["tree"][0, 0]
    given["A"][:, 0] = 2.0
    message["couplings"][0] = 2.0
    radial["table"][1] = 2.0
    second = [compiled.symmetric_product(**given), compiled.message(**message), compiled.density(**radial)]
    assert torch.equal(second[1], 2 * first[1])
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    given["tree"][0, 0] = 9
    with pytest.raises(ValueError, match=r"tree\[0\] leads outside"):
        compiled.symmetric_product(**given)
    message["terms"][0, 2] = 1
    with pytest.raises(ValueError, match=r"terms\[0\] names harmonic 1"):
        compiled.message(**message)


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_may_begin_anywhere_in_memory(dtype: torch.dtype) -> None:
    """Parameters may be views of one array of all."""
    species, table = torch.tensor([0, 2, 1, 1, 0]), symmetric_basis(2, 3)
    tree, roots = torch.tensor(table.tree), torch.tensor(table.roots)
    cases = [
        (lambda x, w: compiled.mix(x, w, species), (5, 6, 9), (3, 3, 6, 16)),
        (lambda x, w: compiled.map_rows(x, w, [0, 1], species), (5, 4, 16), (3, 2, 16, 16)),
        (lambda a, c: compiled.symmetric_product(a, c, species, tree, roots), (5, 9, 16), (3, len(table.tree), 16)),
    ]
    for function, *shapes in cases:
        found = []
        for place in (lambda tensor: tensor, at_odd_address):
            inputs = [place(random(shape, dtype, n)).requires_grad_(True) for n, shape in enumerate(shapes)]
            value = function(*inputs)
            found.append([value, *torch.autograd.grad(value, inputs, place(random(tuple(value.shape), dtype, 2)))])
        for actual, expected in zip(found[1], found[0], strict=True):
            assert_close(actual, expected, TOLERANCE[dtype])


def at_odd_address(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers where 16 bytes cannot be read at once."""
    memory = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
    view = memory[1:].view(tensor.shape).copy_(tensor)
    assert view.is_contiguous() and view.data_ptr() % 16 != 0
    return view


@on_each_device
def test_mixing_to_no_channels() -> None:
    features, weights = torch.ones(2, 4, 4, requires_grad=True), torch.zeros(2, 2, 4, 0, requires_grad=True)
    mixed = compiled.mix(features, weights, torch.tensor([0, 1]))
    assert mixed.shape == (2, 4, 0)
    gradients = torch.autograd.grad(mixed.sum(), [features, weights])
    assert not gradients[0].any() and gradients[1].shape == weights.shape


# ---- models ----


def tables_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Trees, terms and couplings of all layers."""
    names = ("product_tree", "product_roots", "tree", "roots", "terms", "couplings")
    found = {}
    for path, part in module.named_modules():
        for name in names:
            value = getattr(part, name, None)
            if isinstance(value, torch.Tensor):
                found[f"{path}.{name}".removeprefix(".")] = value
    return found


def test_tables_stay_on_the_cpu_and_exact_where_the_model_goes(model: EnergyModel) -> None:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(model), stream)
    stream.seek(0)
    program, moved, before = torch.jit.load(stream), copy.deepcopy(model), tables_of(model)
    assert len(before) >= 2
    for module in (program.to(torch.float32), moved.to(torch.float32), moved.to("meta")):
        after = tables_of(module)
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)
        assert not after.keys() & dict(module.named_buffers()).keys()  # what `to` moves
    assert all(tensor.device.type == "meta" for tensor in (*moved.buffers(), *moved.parameters()))


def test_a_model_computes_where_its_arguments_are(model: EnergyModel, atoms: Atoms) -> None:
    """Nothing is made on another device on the way, the results are those of the CPU."""
    energies, gradients = model(*graph(atoms))
    derivatives = torch.autograd.grad(loss(model, atoms), list(model.parameters()))
    with PretendedDevice():
        there = [tensor.to(PRETENDED) for tensor in graph(atoms)]
        with pytest.raises(RuntimeError, match="tensors on the CPU and on cuda:0"):
            model(*there)
        model = copy.deepcopy(model).to(PRETENDED)
        found = model(*there)
        assert all(isinstance(tensor, Distant) for tensor in found)
        assert torch.equal(found[0].cpu(), energies) and torch.equal(found[1].cpu(), gradients)
        trained = model.training_energies_and_gradients(*there)
        weights = torch.linspace(-1.0, 1.0, trained[1].numel(), dtype=torch.float64, device=PRETENDED)
        total = trained[0].sum() + (trained[1] * weights.reshape(-1, 3)).sum() + trained[1].square().sum()
        for actual, expected in zip(torch.autograd.grad(total, list(model.parameters())), derivatives, strict=True):
            assert torch.equal(actual.cpu(), expected)
        assert all(array.dtype.kind in "if" for array in model.native_parameters().values())
        if not isinstance(model, MaceModel):
            model.normalise(*there)
        if model.n_layers > 1:
            n_atoms, h = len(atoms), torch.zeros(0, device=PRETENDED)
            for index in range(model.n_layers):
                h, parts = model.layer(index, *there, n_atoms, h)
                assert isinstance(parts, Distant)


def test_exact_numbers_come_back_on_a_device() -> None:
    """A training in float32 exports in float64, both on the device."""
    model = MAKE["mace"]()
    assert isinstance(model, MaceModel)
    with PretendedDevice():
        moved = copy.deepcopy(model).to(torch.float32).to(PRETENDED)
        exported = copy.deepcopy(moved).double()
        for name in model.exact_buffers:
            before, after = getattr(model, name), getattr(exported, name)
            assert isinstance(after, Distant) and torch.equal(after.cpu(), before)
            assert before.numel() == 0 or not torch.equal(getattr(moved, name).cpu().double(), before)


def test_programs_with_their_tables_among_the_buffers_still_run(model: EnergyModel, atoms: Atoms) -> None:
    """As in files of earlier versions, which convert the couplings with the model and move the tables."""
    expected = model(*graph(atoms))
    for part in model.modules():
        for name, value in tables_of(torch.nn.ModuleList([part])).items():
            if name.startswith("0.") and name.count(".") == 1:
                attribute = name.removeprefix("0.")
                delattr(part, attribute)
                part.register_buffer(attribute, value, persistent=False)
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(model), stream)
    stream.seek(0)
    program = torch.jit.load(stream)
    for actual, wanted in zip(program(*graph(atoms)), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-12)
    single = program.to(torch.float32)(*graph(atoms))[1]
    torch.testing.assert_close(single, expected[1], rtol=1e-3, atol=1e-4 * float(expected[1].abs().max()))


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_programs_run(name: str) -> None:
    program = load_torchscript(SHIPPED_FOLDER / f"{name}.pt")
    vectors = torch.tensor([[0.0, 0.0, 2.5], [0.0, 0.0, -2.5]], dtype=torch.float64)
    ends = torch.tensor([0, 1])
    energies, gradients = program(vectors, ends, ends.flip(0), torch.tensor([0, 0]))
    assert torch.isfinite(energies).all() and torch.isfinite(gradients).all()
    torch.testing.assert_close(gradients[0], -gradients[1])


# ---- training ----


@pytest.mark.parametrize(
    ("name", "cuda", "count", "message"),
    [
        ("cuda", None, 0, r"training.device: cuda, but this torch \(.*\) has no CUDA; install a torch with CUDA, or"),
        ("cuda:1", "13.0", 0, r"training.device: cuda:1, but this torch \(.*\) finds no GPU; choose cpu"),
        ("cuda:1", "13.0", 1, r"training.device: cuda:1, but this torch \(.*\) finds 1 GPUs, none of the number 1"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, cuda: str | None, count: int, message: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ValueError, match=message):
        training_device(name)
    assert training_device("cpu") == torch.device("cpu")


def test_an_unknown_device_is_refused_by_the_configuration() -> None:
    assert TrainingConfig(device="cuda:1").device == "cuda:1"
    with pytest.raises(ValueError, match="expected cpu, cuda or cuda:1 for the GPU of this number, got 'gpu'"):
        TrainingConfig(device="gpu")
