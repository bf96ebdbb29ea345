"""The examples run with the shipped silicon model and give the physics they promise."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import ase.io
import numpy as np
import pytest

from tesseral.calculator import evaluate

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    tested = {"molecular_dynamics", "geometry_optimisation", "elastic_constants", "phonons", "train_on_generated"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_molecular_dynamics_keeps_its_temperature():
    atoms, temperatures = example("molecular_dynamics").run(n_steps=600)
    assert len(temperatures) == 61
    assert np.mean(temperatures[20:]) == pytest.approx(300.0, abs=60.0)
    assert np.abs(atoms.get_forces()).max() < 5.0


def test_geometry_optimisation_finds_lattice_constant_and_vacancy():
    module = example("geometry_optimisation")
    lattice = module.lattice_constant()
    assert lattice == pytest.approx(5.469, abs=0.02)  # PBE
    assert 2.5 < module.vacancy_energy(lattice=lattice) < 4.5  # eV; PBE 3.6 in large cells


def test_elastic_constants_are_those_of_the_training_labels():
    module = example("elastic_constants")
    clamped, relaxed = module.elastic_constants(relax=False), module.elastic_constants(relax=True)
    assert clamped["C11"] == pytest.approx(153.0, abs=15.0)
    assert clamped["C12"] == pytest.approx(56.0, abs=15.0)
    assert clamped["C44"] == pytest.approx(99.0, abs=12.0)
    assert 0.65 < relaxed["C44"] / clamped["C44"] < 0.9  # internal relaxation softens the shear


def test_phonons_have_zero_acoustic_and_right_optical_frequencies(tmp_path):
    module = example("phonons")
    fractions, frequencies = module.bands(n_points=5)
    np.testing.assert_allclose(frequencies[0, :3], 0.0, atol=0.05)
    assert frequencies[0, 3:] == pytest.approx(15.3, abs=1.0)  # THz; PBE 15.3
    assert np.all(frequencies[1:] > 0)
    module.plot(fractions, frequencies, tmp_path / "bands.png")
    assert (tmp_path / "bands.png").read_bytes().startswith(b"\x89PNG")


def test_training_on_the_generated_set_learns_it(tmp_path):
    module = example("train_on_generated")
    tables = module.run(tmp_path / "ethanol", ["training.epochs=40"])
    frames = ase.io.read(EXAMPLES / "generated" / "ethanol_test.xyz", ":")
    spread = np.sqrt(np.mean([np.mean(frame.arrays["REF_forces"] ** 2) for frame in frames]))
    assert tables["test"]["forces"]["rmse"] < 0.15 * 1000 * spread
    results = evaluate(tmp_path / "ethanol" / "model.pt", frames)
    errors = [result["forces"] - frame.arrays["REF_forces"] for result, frame in zip(results, frames, strict=True)]
    assert 1000 * np.sqrt(np.mean(np.square(errors))) == pytest.approx(tables["test"]["forces"]["rmse"], rel=1e-6)


@pytest.mark.parametrize("page", ["README.md", "docs/calculator.md"])
def test_python_snippets_of_the_documentation_run(page):
    text = (EXAMPLES.parent / page).read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), {})


def test_links_of_the_documentation_lead_somewhere():
    pages = [EXAMPLES.parent / "README.md", *(EXAMPLES.parent / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_generated_set_is_small_and_labelled():
    for path in (EXAMPLES / "generated").glob("*.xyz"):
        assert path.stat().st_size < 300_000
        assert all("REF_energy" in frame.info and "REF_forces" in frame.arrays for frame in ase.io.read(path, ":"))
