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
    "an address that is not aligned",
    "a copy or fill beyond an allocation",
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
    lines = [line.partition(": ")[2] for line in faults(library).splitlines() if not line.endswith(" more")]
    expected = EXPECTED[number]
    assert bool(lines) == (expected is not None)
    assert all(expected is not None and line.startswith(expected) for line in lines)
    assert faults(library) == ""  # said once
