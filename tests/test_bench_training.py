"""Optimisation steps beside those of mace-torch, as `tesseral bench --train` times them."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tesseral.benchmarks import mace_training, training

#: answers like the process of mace-torch, whose steps take ten seconds on one thread and six on two
ANSWERS = """import json, sys
print(json.dumps({"version": "0.3.16"}), flush=True)
for line in sys.stdin:
    print(json.dumps({"seconds": {"1": 10.0, "2": 6.0}[line.strip()]}), flush=True)
"""


@pytest.fixture
def program(monkeypatch, tmp_path):
    """Writes the program that runs instead of mace-torch."""

    def write(text: str) -> None:
        (tmp_path / "program.py").write_text(text)
        start = mace_training.subprocess.Popen
        command = [sys.executable, str(tmp_path / "program.py")]
        monkeypatch.setattr(mace_training.subprocess, "Popen", lambda _, **options: start(command, **options))

    return write


def test_the_process_makes_a_step_when_it_is_asked(program):
    program(ANSWERS)
    with mace_training.MaceSteps(Path("model"), Path("structures")) as steps:
        assert steps.version == "0.3.16"
        assert [steps.seconds(n) for n in (1, 2, 1)] == [10.0, 6.0, 10.0]
    assert steps.process.returncode is not None


def test_a_process_that_fails_says_why(program):
    program("raise ValueError('no such element')")
    with pytest.raises(RuntimeError, match="mace-torch does not train here: ValueError: no such element"):
        mace_training.MaceSteps(Path("model"), Path("structures"))


def test_both_models_are_timed_beside_mace_torch():
    pytest.importorskip("mace")
    threads = torch.get_num_threads()
    report = training.measure_beside_mace(1, 1, 1)
    assert torch.get_num_threads() == threads
    assert [(case["system"], case["threads"]) for case in report["cases"]] == [
        (system, n) for system in ("silicon", "water") for n in training.THREADS
    ]
    for case in report["cases"]:
        for kind in ("layered", "imported"):
            assert case[f"{kind}_factor"] == pytest.approx(case["mace_torch"] / case[kind])
            assert math.isfinite(case[kind]) and case[kind] > 0


@pytest.mark.parametrize("reason", ["mace-torch is not installed", "mace-torch does not run here: no e3nn"])
def test_without_mace_torch_the_reason_is_given(monkeypatch, reason):
    installed = "not installed" not in reason
    monkeypatch.setattr(training, "mace_missing", lambda: None if installed else reason)
    monkeypatch.setattr(training, "write_mace_model", lambda path, numbers: reason)
    expected: dict[str, Any] = {"skipped": reason}
    assert training.measure_beside_mace(1, 1, 1) == expected
