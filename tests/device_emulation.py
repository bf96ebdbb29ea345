"""The device library compiled for the processor: CUDA's threads as fibers (kernel/src/cuda/emulation.hpp)."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

#: name of the library
EMULATED_DEVICE = "libtesseral_cuda_emulated.so"
KERNEL = Path(__file__).parent.parent / "kernel"
FLAGS = ["-std=gnu++20", "-O1", "-fPIC", "-fvisibility=hidden", "-U_FORTIFY_SOURCE", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]  # reads of many bytes at once, as on a GPU
DEFINITIONS = ["-DTESSERAL_ISA=cuda", "-DTESSERAL_SCALAR", f"-I{KERNEL / 'include'}"]


def build_emulated_device(folder: Path) -> Path:
    """Compile kernel/src/cuda into `folder`; returns the library. Raises CalledProcessError."""

    def compiled(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        language = ["-x", "c++", "-include", str(KERNEL / "src/cuda/emulation.hpp")]
        subprocess.run(["c++", *FLAGS, *DEFINITIONS, *language, "-c", str(source), "-o", str(target)], check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(
            pool.map(compiled, [*sorted((KERNEL / "src/cuda").glob("*.cu")), KERNEL / "src/message_table.cpp"])
        )
    library = folder / EMULATED_DEVICE
    subprocess.run(["c++", "-shared", "-o", str(library), *map(str, objects)], check=True)
    return library
