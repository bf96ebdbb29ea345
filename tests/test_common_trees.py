"""The trees that the compiler knows are those of today's couplings."""

from __future__ import annotations

from pathlib import Path

from tesseral.models.common_trees import header

FILE = Path(__file__).parent.parent / "kernel" / "include" / "tesseral" / "common_trees.hpp"


def test_the_compiled_trees_are_those_of_the_models():
    assert FILE.read_text() == header(), "write it anew: python -m tesseral.models.common_trees > common_trees.hpp"
