"""The compiled linear maps of channels against their plain-PyTorch reference."""

from __future__ import annotations

import os

import pytest
import torch
from operator_checks import DTYPES, TOLERANCE, compare, compiled, generator, here, on_each_device, random

from tesseral.kernel import reference


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_species", [1, 3])
@pytest.mark.parametrize(
    ("degrees", "n_inputs", "n_channels"), [([0], 3, 5), ([0, 1, 2, 3], 16, 37), ([1, 0, 1, 2, 0], 9, 16)]
)
def test_map_rows_equals_reference(dtype, n_species, degrees, n_inputs, n_channels):
    kinds = None if n_species == 1 else here(torch.randint(n_species, (70,), generator=generator(3), device="cpu"))
    values = random((70, sum(2 * degree + 1 for degree in degrees), n_inputs), dtype, 1)
    weights = random((n_species, len(degrees), n_inputs, n_channels), dtype, 2)
    for n_atoms in (0, 1, 70):
        species = None if kinds is None else kinds[:n_atoms]
        compare(
            lambda x, w, species=species: compiled.map_rows(x, w, degrees, species),
            lambda x, w, species=species: reference.map_rows(x, w, degrees, species),
            [values[:n_atoms], weights],
            TOLERANCE[dtype],
        )


@on_each_device
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"degrees": []}, "degrees: at least one is needed"),
        ({"degrees": [0, 2]}, "degrees: 1 is missing"),
        ({"degrees": [0, 9]}, "l_max = 9 is outside"),
        ({"degrees": [0, 0, 1]}, r"weights: expected shape \[1, 3, \*, \*\], got \[1, 2, 4, 5\]"),
        ({"values": torch.zeros(3, 5, 4)}, r"values: expected shape \[\*, 4, 4\], got \[3, 5, 4\]"),
        ({"weights": torch.zeros(1, 2, 4, 5, dtype=torch.float64)}, "values is Float but weights is Double"),
        ({"weights": torch.zeros(2, 2, 4, 5)}, r"weights: expected shape \[1, 2, \*, \*\]"),
        ({"species": torch.tensor([0, 1, 0])}, r"species\[1\] = 1 is outside 0..0"),
    ],
)
def test_map_rows_refuses_what_does_not_fit(changed, message):
    arguments = {"values": torch.zeros(3, 4, 4), "weights": torch.zeros(1, 2, 4, 5), "degrees": [0, 1], **changed}
    with pytest.raises(ValueError, match=message):
        compiled.map_rows(**arguments)


def test_threads_share_the_atoms_of_an_operator():
    """The same numbers on every number of threads, and in a forked process, which has none of its parent's threads."""
    values, weights = random((100, 4, 8), torch.float64, 1), random((1, 2, 8, 16), torch.float64, 2)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(compiled.map_rows(values, weights, [0, 1]))
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(compiled.map_rows(values, weights, [0, 1]), found[0]) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(before)
