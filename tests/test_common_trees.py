"""The trees that the compiler knows are those of today's couplings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tesseral.kernel._engine import common_tree

from tesseral.models.common_trees import SIZES, header
from tesseral.models.coupling import symmetric_basis, tensor_basis

FILE = Path(__file__).parent.parent / "kernel" / "include" / "tesseral" / "common_trees.hpp"


def test_the_compiled_trees_are_those_of_the_models():
    assert FILE.read_text() == header(), "write it anew: python -m tesseral.models.common_trees > common_trees.hpp"


@pytest.mark.parametrize("number, size", list(enumerate(SIZES)))
def test_the_engine_recognises_the_trees_of_the_models(number, size):
    table = tensor_basis(*size)
    assert common_tree(table.tree, np.asarray(table.roots, dtype=np.int32)) == number
    if size[2] == 0:
        scalar = symmetric_basis(*size[:2])
        assert common_tree(scalar.tree, scalar.roots) == number


def test_other_trees_are_not_taken_for_a_common_one():
    table = symmetric_basis(3, 3)
    for node, column in ((0, 0), (3, 2), (164, 0)):
        tree = table.tree.copy()
        tree[node, column] += 1
        assert common_tree(tree, table.roots) == -1
    assert common_tree(table.tree[:-1], table.roots) == -1
    assert common_tree(table.tree, table.roots[:-1]) == -1
    assert common_tree(symmetric_basis(2, 4).tree, symmetric_basis(2, 4).roots) == -1
