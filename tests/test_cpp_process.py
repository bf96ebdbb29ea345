"""The model file's TorchScript program runs, with gradients, in a process that has no Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.cpp_extension import include_paths

from tesseral.kernel import library_path, load_operators
from tesseral.models.local import LocalModel


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_torchscript_runs_without_python(tmp_path):
    load_operators()
    model = LocalModel(
        species=["H", "O"],
        cutoff=4.0,
        l_max=2,
        n_radial=4,
        channels=8,
        nu=3,
        features=8,
        readout=[8],
        e0={"H": -1.0, "O": -2.0},
        zbl=(0.8, 1.5),
    )
    path = tmp_path / "model.pt"
    torch.jit.script(model).save(str(path))
    program = tmp_path / "run_model"
    libraries = Path(torch.__file__).parent / "lib"
    abi = int(torch.compiled_with_cxx11_abi())
    command = [
        "c++",
        "-std=c++20",
        "-O0",
        f"-D_GLIBCXX_USE_CXX11_ABI={abi}",
        str(Path(__file__).parent / "cpp/run_model.cpp"),
    ]
    command += [f"-I{folder}" for folder in include_paths()]
    command += [
        f"-L{libraries}",
        f"-Wl,-rpath,{libraries}",
        "-Wl,--no-as-needed",
        "-ltorch",
        "-ltorch_cpu",
        "-lc10",
        "-ldl",
        "-o",
        str(program),
    ]
    subprocess.run(command, check=True)
    printed = subprocess.run([program, library_path(), path], check=True, capture_output=True, text=True).stdout
    vectors = torch.tensor([[0.1, 0.2, 1.3], [-0.1, -0.2, -1.3]], dtype=torch.float64)
    pair = torch.tensor([0, 1])
    energies, gradients = model(vectors, pair, pair.flip(0), pair)
    expected = [float(energies.sum()), *gradients[0].tolist()]
    assert np.allclose([float(word) for word in printed.split()], expected, rtol=1e-12, atol=0)
