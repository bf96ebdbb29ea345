"""The command line: help, suggestions, errors, and the commands models, bench, eval and train."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import ase.io
import pytest
import torch
from ase.build import bulk
from typer.testing import CliRunner

from tesseral import __version__, cli
from tesseral.benchmarks import peers, timing
from tesseral.models import registry


@pytest.fixture
def shipped(tmp_path, monkeypatch, write_random_model) -> Path:
    """A folder of shipped models with random weights: silicon and water."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    write_random_model(folder / "silicon.pt", ["Si"])
    write_random_model(folder / "water.pt", ["H", "O"])
    monkeypatch.setattr(registry, "SHIPPED_FOLDER", folder)
    return folder


def run(*arguments: str, exit_code: int = 0):
    result = CliRunner().invoke(cli.app, arguments)
    unexpected = result.exception is not None and not isinstance(result.exception, SystemExit)
    assert not unexpected and result.exit_code == exit_code, result.output
    return result


# --- the frame around the commands


def test_help_names_every_command_and_imports_neither_torch_nor_the_commands():
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from tesseral.cli import COMMANDS, app\n"
        "output = CliRunner().invoke(app, ['--help']).output\n"
        "assert all(name in output for name in COMMANDS), output\n"
        "loaded = {'torch', 'ase', *(module for module, _, _ in COMMANDS.values())} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_has_help(command):
    assert "Usage" in run(command, "--help").output


def test_version_is_printed():
    assert run("--version").output == f"tesseral {__version__}\n"


def test_version_of_a_source_tree_is_told(monkeypatch):
    import importlib
    import importlib.metadata

    import tesseral

    def not_installed(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", not_installed)
        assert importlib.reload(tesseral).__version__ == "0+not-installed"
    importlib.reload(tesseral)


def test_no_command_shows_the_help():
    assert "Commands" in run(exit_code=2).output


def test_a_misspelt_command_or_option_is_answered_with_the_nearest():
    assert "'models'" in run("modles", exit_code=2).output
    assert "--json" in run("models", "--jsn", exit_code=2).output


@pytest.mark.parametrize("error", [ValueError("bad value"), RuntimeError("bad value"), ImportError("bad value")])
def test_user_errors_are_one_line_without_traceback(error, monkeypatch):
    def fail() -> None:
        raise error

    monkeypatch.setattr(registry, "list_models", fail)
    result = run("models", exit_code=1)
    assert result.stderr == "tesseral: bad value\n"


@pytest.mark.parametrize("arguments", [("--debug", "models"), ("models", "--debug")])
def test_debug_shows_the_error_itself(arguments, monkeypatch):
    def fail() -> None:
        raise ValueError("bad value")

    monkeypatch.setattr(registry, "list_models", fail)
    result = CliRunner().invoke(cli.app, arguments)
    assert isinstance(result.exception, ValueError)


def test_programming_errors_are_not_hidden(monkeypatch):
    def fail() -> None:
        raise KeyError("a mistake in the program")

    monkeypatch.setattr(registry, "list_models", fail)
    assert isinstance(CliRunner().invoke(cli.app, ["models"]).exception, KeyError)


def test_a_closed_pipe_is_not_a_user_error(monkeypatch):
    def fail() -> None:
        raise BrokenPipeError

    monkeypatch.setattr(registry, "list_models", fail)
    assert "tesseral:" not in CliRunner().invoke(cli.app, ["models"]).output


def test_errors_of_files_name_the_file():
    assert cli.explain(FileNotFoundError(2, "No such file or directory", "x.xyz")) == "x.xyz: No such file or directory"
    assert cli.explain(OSError("model.pt: disk full")) == "model.pt: disk full"
    assert cli.explain(MemoryError()) == "MemoryError"


def test_the_entry_point_runs_the_application(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tesseral", "--version"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0 and __version__ in capsys.readouterr().out


# --- shipped models


def test_models_lists_names_errors_and_paths(shipped):
    output = run("models").output
    assert "silicon" in output and "H O" in output and "2.5" in output and "test" in output
    assert str(shipped / "water.pt") in output.replace("\n", "")


def test_models_as_json(shipped):
    entries = json.loads(run("models", "--json").output)
    assert [entry["name"] for entry in entries] == ["silicon", "water"]
    assert entries[1]["species"] == ["H", "O"] and entries[1]["path"] == str(shipped / "water.pt")
    assert entries[0]["errors"]["test"]["energy_per_atom"]["rmse"] == 2.5


def test_no_shipped_models_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "SHIPPED_FOLDER", tmp_path / "none")
    assert "No models are shipped" in run("models").output
    assert json.loads(run("models", "--json").output) == []


def test_a_name_stands_for_the_path_of_a_shipped_model(shipped, tmp_path, monkeypatch):
    assert registry.resolve_model("silicon") == shipped / "silicon.pt"
    assert registry.resolve_model(shipped / "water.pt") == shipped / "water.pt"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "silicon").mkdir()
    assert registry.resolve_model("silicon") == shipped / "silicon.pt"
    assert run("info", "silicon").output


@pytest.mark.parametrize(
    "model, message",
    [
        ("silicn", r"silicn: no such model file, and the shipped models are: silicon, water; did you mean 'silicon'\?"),
        ("other.pt", r"other.pt: no such model file, and the shipped models are: silicon, water$"),
        (".", r"\.: is a folder, not a model file, and the shipped"),
    ],
)
def test_an_unknown_model_is_answered_with_the_known_ones(shipped, model, message):
    with pytest.raises(FileNotFoundError, match=message):
        registry.resolve_model(model)


def test_without_shipped_models_the_message_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "SHIPPED_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="the shipped models are: none"):
        registry.resolve_model("silicon")


# --- bench


def test_bench_times_the_native_engine(monkeypatch):
    report = json.loads(run("bench", "--cells", "1", "--repeats", "7", "--no-peers", "--json").output)
    inference = report["inference"]
    assert report["processor"] and report["versions"]["torch"] == version("torch")
    assert inference["n_atoms"] == 8 and inference["n_neighbors"] == 28.0 and inference["instruction_set"]
    assert set(inference["engine"]) == {"float64", "float32", "mixed"}
    assert set(inference["two_layers"]) == set(inference["engine"])
    figures = (*inference["engine"].values(), *inference["md_step"].values(), *inference["two_layers"].values())
    assert min(*figures, inference["neighbor_list"]) > 0
    assert report["mace_torch"] == {"skipped": "--no-peers"}


def test_bench_prints_a_table_and_says_that_mace_is_not_installed(monkeypatch):
    def missing(package: str) -> str:
        raise peers.PackageNotFoundError(package)

    monkeypatch.setattr(peers, "version", missing)
    output = run("bench", "--cells", "1", "--repeats", "7").output
    assert "native engine, mixed" in output
    assert "mace-torch 128x0e: skipped, mace-torch is not installed" in output


@pytest.mark.parametrize(
    "finished, expected",
    [
        (SimpleNamespace(returncode=0, stdout='a note\n{"us_per_atom": 7.0}\n', stderr=""), {"us_per_atom": 7.0}),
        (
            SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nImportError: no e3nn"),
            {"skipped": "mace-torch does not run here: ImportError: no e3nn"},
        ),
        (
            SimpleNamespace(returncode=-9, stdout="", stderr=""),
            {"skipped": "mace-torch does not run here: exit code -9"},
        ),
    ],
)
def test_mace_is_timed_in_a_process_with_its_allocator_setting(finished, expected, monkeypatch):
    seen = {}

    def fake_run(command, env, **options):
        seen.update(env)
        return finished

    monkeypatch.setattr(peers, "version", lambda package: "0.3")
    monkeypatch.setattr(peers.subprocess, "run", fake_run)
    assert peers.measure_mace() == expected
    assert seen["MALLOC_MMAP_THRESHOLD_"] == seen["MALLOC_TRIM_THRESHOLD_"] and seen["OMP_NUM_THREADS"] == "1"


def test_bench_train_compares_the_compiled_with_the_reference_path():
    threads = torch.get_num_threads()
    report = json.loads(run("bench", "--train", "--no-peers", "--repeats", "7", "--json").output)
    training = report["training"]
    assert report["mace_training"] == {"skipped": "--no-peers"}
    assert training["ratio"] == pytest.approx(training["reference"] / training["compiled"])
    assert training["n_atoms"] == 256 and torch.get_num_threads() == threads


def test_bench_train_table(monkeypatch):
    from tesseral.benchmarks import training

    numbers = {"n_structures": 4, "n_atoms": 256, "compiled": 40.0, "reference": 800.0, "ratio": 20.0, "layered": 90.0}
    case = {"system": "water", "n_atoms": 324, "threads": 2, "layered": 70.0, "imported": 90.5, "mace_torch": 9100.0}
    beside = {"version": "0.3.16", "cases": [{**case, "layered_factor": 130.0, "imported_factor": 100.5}]}
    monkeypatch.setattr(training, "measure_training", lambda repeats: numbers)
    monkeypatch.setattr(training, "measure_beside_mace", lambda rounds: beside)
    output = run("bench", "--train").output
    assert "800.0" in output and "20.0" in output and "90.0" in output
    assert all(text in output for text in ("0.3.16", "324 atoms", "90.5", "100.5 times as long", "9100"))
    monkeypatch.setattr(training, "measure_beside_mace", lambda rounds: {"skipped": "mace-torch is not installed"})
    assert "skipped, mace-torch is not installed" in run("bench", "--train").output


def test_the_median_leaves_out_the_warm_up(monkeypatch):
    clock = iter([0.0, 1.0, 10.0, 13.0, 20.0, 22.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    calls = []
    assert timing.median_seconds(lambda: calls.append(1), repeats=3, warm_up=2) == 2.0
    assert len(calls) == 5


def test_the_processor_is_named_without_proc(monkeypatch):
    monkeypatch.setattr(timing, "Path", lambda name: Path("/nonexistent"))
    assert timing.processor()


# --- eval


def labelled(path: Path) -> list:
    """Two frames whose labels are the model's own results plus known errors; the second has no forces."""
    from tesseral.calculator import evaluate

    frames = [bulk("Si", cubic=True), bulk("Si", cubic=True) * (2, 1, 1)]
    for n, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=n)
        result = evaluate("silicon", [atoms])[0]
        atoms.info["REF_energy"] = result["energy"] - 0.002 * len(atoms) * (n + 1)
        atoms.info["config_type"] = f"group{n}"
        if n == 0:
            atoms.arrays["REF_forces"] = result["forces"] + 0.05
    ase.io.write(path, frames, format="extxyz")
    return frames


def test_eval_reports_known_errors_in_the_table_and_in_json(shipped, tmp_path):
    labelled(tmp_path / "data.xyz")
    output = run("eval", "silicon", str(tmp_path / "data.xyz"), "--json", str(tmp_path / "out.json")).output
    assert "group0" in output
    table = json.loads((tmp_path / "out.json").read_text())
    assert table["n_frames"] == 2
    energy, forces = table["energy_per_atom"], table["forces"]
    assert [energy[key] for key in ("mae", "rmse", "max")] == pytest.approx([3.0, 10**0.5, 4.0], rel=1e-6)
    assert [forces[key] for key in ("mae", "rmse", "max")] == pytest.approx([50.0, 50.0, 50.0], rel=1e-4)
    assert table["stress"] is None
    assert table["per_config_type"]["group1"]["energy_per_atom"]["mae"] == pytest.approx(4.0, rel=1e-6)
    assert table["per_element"]["Si"]["forces"]["mae"] == pytest.approx(50.0, rel=1e-4)


def test_eval_reads_compressed_files(shipped, tmp_path):
    import lzma

    labelled(tmp_path / "data.xyz")
    (tmp_path / "data.xyz.xz").write_bytes(lzma.compress((tmp_path / "data.xyz").read_bytes()))
    assert "2 frames" in run("eval", "silicon", str(tmp_path / "data.xyz.xz")).output


def test_eval_names_the_frame_of_an_unknown_element(shipped, tmp_path):
    frames = labelled(tmp_path / "data.xyz")
    frames[1].symbols[3] = "Ge"
    ase.io.write(tmp_path / "data.xyz", frames, format="extxyz")
    output = run("eval", "silicon", str(tmp_path / "data.xyz"), exit_code=1).output
    assert "Ge" in output and "atom 3" in output and "Si" in output
    assert "data.xyz, frame 1: atom 3" in output


def test_eval_does_not_read_labels_that_are_switched_off(shipped, tmp_path):
    labelled(tmp_path / "data.xyz")
    out = tmp_path / "out.json"
    run("eval", "silicon", str(tmp_path / "data.xyz"), "--forces-key", "false", "--json", str(out))
    assert json.loads(out.read_text())["forces"] is None


def test_a_model_of_an_element_that_does_not_exist_is_refused(shipped, tmp_path, write_random_model):
    labelled(tmp_path / "data.xyz")
    strange = SimpleNamespace(cutoff=4.0, species=["Qq"], instruction_set="baseline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tesseral.kernel._engine.Engine", lambda *arguments: strange)
        output = run("eval", "silicon", str(tmp_path / "data.xyz"), exit_code=1).output
    assert "silicon.pt: its species 'Qq' is no element" in output


def test_training_does_not_overwrite_the_configuration_it_reads(tmp_path):
    text = "# a comment to keep\nname: x\ndata: {train: absent.xyz}\n"
    (tmp_path / "config.yaml").write_text(text)
    output = run("train", str(tmp_path / "config.yaml"), "--output", str(tmp_path), exit_code=1).output
    assert "config.yaml: would be overwritten by the record of the training; choose another --output" in output
    assert (tmp_path / "config.yaml").read_text() == text


def test_what_cannot_be_written_is_reported_without_an_error_number(shipped, tmp_path):
    labelled(tmp_path / "data.xyz")
    absent = tmp_path / "absent" / "out.json"
    output = run("eval", "silicon", str(tmp_path / "data.xyz"), "--json", str(absent), exit_code=1).output
    assert f"tesseral: {absent}: cannot be written: No such file or directory" in output
