"""The setting of malloc for trainings."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tesseral.models import allocation


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_glibc_takes_the_settings():
    """In a process of its own: they are for good."""
    program = "from tesseral.models.allocation import keep_freed_memory; assert keep_freed_memory()"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: object())
    assert allocation.keep_freed_memory() is False
