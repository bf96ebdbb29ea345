"""The emulation of a device names what kernels do wrong with memory: what would go unnoticed on the processor."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import pytest
from device_emulation import build_emulation, faults

#: what is said of each kernel of faulty_kernels.cu; None: nothing
EXPECTED = [
    None,
    "a race in shared memory",
    "a race in shared memory",
    "a race in the device's memory",
    "a race in the device's memory",
    "beyond the end of an allocation",
    "beyond the shared memory",
    "memory that is not the device's",
    "another thread's own memory",
    "an access of the host to the device's memory",
]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("faulty")
    return build_emulation([Path(__file__).parent / "cpp/faulty_kernels.cu"], folder / "libfaulty.so")


@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_faults_of_kernels_are_named(number, library):
    ctypes.CDLL(str(library)).run_kernel(number)
    found, expected = faults(library), EXPECTED[number]
    if expected is None:
        assert found == ""
    else:
        assert all(line.partition(": ")[2].startswith(expected) for line in found.splitlines()) and found
    assert faults(library) == ""  # said once
