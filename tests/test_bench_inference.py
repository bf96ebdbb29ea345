"""`tesseral bench`: what it measures of the engine, and how its cost compares with the machine's rate."""

from __future__ import annotations

import numpy as np
import pytest
from tesseral.kernel._engine import multiply_adds_per_second

from tesseral.benchmarks.inference import measure_inference, multiply_adds
from tesseral.models.coupling import symmetric_basis


def test_multiply_adds_of_the_product_are_those_of_its_loop() -> None:
    """Without neighbours only mixing, product and readout are left; the product's are counted by walking the tree."""
    table = symmetric_basis(3, 3)

    def count(first: int, last: int) -> int:
        # value and gradient of a node; one more for the adjoint that goes down to its children
        below = [table.tree[n] for n in range(first, last)]
        return sum(2 + (start < end) + count(start, end) for _, start, end in below)

    product = 64 * count(int(table.roots[0]), int(table.roots[1]))
    assert multiply_adds(0) == product + 2 * 16 * 8 * 64 + 2 * 64 * 32


def test_multiply_adds_grow_by_the_same_for_each_neighbor() -> None:
    costs = np.array([multiply_adds(n) for n in (0, 10, 20)])
    assert np.diff(costs, 2) == 0
    assert np.diff(costs)[0] >= 10 * 3 * 8 * 16


def test_rate_of_the_machine() -> None:
    assert multiply_adds_per_second("mixed") > 1e8
    with pytest.raises(ValueError, match="auto, baseline"):
        multiply_adds_per_second("float32", "avx1024")
    with pytest.raises(ValueError, match="float16"):
        multiply_adds_per_second("float16")


def test_measure_inference_with_an_instruction_set() -> None:
    result = measure_inference(cells=1, repeats=7, instruction_set="baseline")
    assert result["instruction_set"] == "baseline"
    assert result["md_step"] == {}
    assert set(result["engine"]) == set(result["of_peak"]) == {"float64", "float32", "mixed"}
    assert all(0 < share < 1 for share in result["of_peak"].values())
