"""The checkers that the settings in pyproject.toml and .clang-format describe find nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    str(p)
    for folder in ("kernel", "lammps_plugin", "tests/cpp")
    for ending in ("*.[ch]pp", "*.cu")
    for p in (ROOT / folder).rglob(ending)
)

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="not in a source tree")


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy", "--config-file", "pyproject.toml"],
        ["clang-format", "--dry-run", "--Werror", *SOURCES],
    ],
    ids=["ruff check", "ruff format", "mypy", "clang-format"],
)
def test_style(command):
    pytest.importorskip(command[0].replace("-", "_"), reason=f"{command[0]} is not installed")
    program = str(Path(sys.executable).parent / command[0])
    result = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
