"""The device library compiled for the processor: CUDA's threads as fibers (kernel/src/cuda/emulation.hpp)."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

#: name of the library
EMULATED_DEVICE = "libtesseral_cuda_emulated.so"
KERNEL = Path(__file__).parent.parent / "kernel"
CUDA = KERNEL / "src/cuda"
EMULATION = [CUDA / "emulation.cpp", CUDA / "emulation_checks.cpp"]
FLAGS = ["-std=gnu++20", "-fPIC", "-fvisibility=hidden", "-U_FORTIFY_SOURCE", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]  # reads of many bytes at once, as on a GPU
FLAGS += ["-DTESSERAL_ISA=cuda", "-DTESSERAL_SCALAR", f"-I{KERNEL / 'include'}"]
FLAGS += ["-x", "c++", "-include", str(CUDA / "emulation.hpp")]
#: every access to memory is a call of emulation_checks.cpp
WATCHED = ["-O1", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"]


def build_emulation(sources: Sequence[Path], library: Path) -> Path:
    """Compile CUDA sources for the processor; returns the library. Raises CalledProcessError."""

    def compiled(source: Path) -> Path:
        target = library.parent / f"{source.stem}.o"
        flags = [*FLAGS, *(["-O2"] if source in EMULATION else WATCHED)]
        subprocess.run(["c++", *flags, "-c", str(source), "-o", str(target)], check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, [*EMULATION, *sources]))
    subprocess.run(["c++", "-shared", "-Wl,--no-undefined", "-o", str(library), *map(str, objects)], check=True)
    return library


def build_emulated_device(folder: Path) -> Path:
    """Compile kernel/src/cuda into `folder`; returns the library. Raises CalledProcessError."""
    return build_emulation([*sorted(CUDA.glob("*.cu")), KERNEL / "src/message_table.cpp"], folder / EMULATED_DEVICE)


def faults(library: Path) -> str:
    """What kernels have done wrong with memory since the last call, a line each; empty if nothing."""
    found = ctypes.CDLL(str(library)).tesseral_emulation_faults
    found.restype = ctypes.c_char_p
    return found().decode()


def allow_foreign_memory(library: Path, allowed: bool) -> None:
    """Whether kernels may use memory that CUDA has not given, such as tensors on the processor."""
    ctypes.c_int.in_dll(ctypes.CDLL(str(library)), "tesseral_emulation_foreign_memory").value = allowed
