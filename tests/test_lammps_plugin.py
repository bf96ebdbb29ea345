"""The plugin is found by LAMMPS, free of torch, can be built for another LAMMPS and refuses one that does not fit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from lammps_decks import crystal, needs_lammps

from tesseral import lammps_plugin
from tesseral.calculator.lammps_process import run_lammps

pytestmark = needs_lammps
ROOT = Path(__file__).parent.parent
MODEL = "pair_style tesseral\npair_coeff * * random.pt O Si\nrun 0\n"


@pytest.fixture
def folder(tmp_path, write_random_model):
    write_random_model(tmp_path / "random.pt", ["O", "Si"])
    return tmp_path


def test_entry_point_leads_to_the_plugin():
    entries = [entry for entry in metadata.entry_points(group="lammps.plugins") if entry.name == "tesseral"]
    assert entries and entries[0].load()() == lammps_plugin.directory()
    assert (Path(lammps_plugin.directory()) / "tesseralplugin.so").is_file()


def test_a_missing_plugin_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(lammps_plugin, "__file__", str(tmp_path / "__init__.py"))
    assert lammps_plugin.directory() == str(tmp_path.resolve())
    assert "LAMMPS will not know pair_style tesseral" in capsys.readouterr().err


def test_both_styles_say_what_they_run(folder):
    output = run_lammps(crystal(units="real") + MODEL, folder, timeout=60)
    for line in (
        "Tesseral model random.pt",
        "reference method: not stated",
        "native engine",
        "precision mixed, threads per rank: 1",
        "cutoff: 4 Angstrom (4 Angstrom); 1 eV = 23.0605478",
        "atom type 1: O\n",
        "atom type 2: Si\n",
    ):
        assert line in output
    silicon = MODEL.replace("random.pt O Si", "silicon Si NULL").replace("tesseral", "tesseral/torch precision float64")
    output = run_lammps(crystal() + silicon, folder, timeout=60)
    for line in ("TorchScript, libtorch", "precision float64", "PBE", "atom type 2: NULL, not in the model\n"):
        assert line in output


def test_native_style_loads_no_torch(folder):
    script = (
        "from lammps import lammps\n"
        "lmp = lammps(cmdargs=['-log', 'none', '-screen', 'none'])\n"
        f"lmp.commands_string('''{crystal()}{MODEL}''')\n"
        "print(lmp.get_thermo('pe'))\n"
        "print(open('/proc/self/maps').read())\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert "tesseralplugin.so" in output and "torch" not in output
    energy = run_lammps(crystal() + "thermo_style custom step pe\nthermo_modify format float %.17g\n" + MODEL, folder)
    assert output.splitlines()[0][:14] in energy


@pytest.mark.skipif(shutil.which("ldd") is None, reason="no ldd")
def test_plugin_needs_no_torch_library():
    plugin = str(Path(lammps_plugin.directory()) / "tesseralplugin.so")
    needed = subprocess.run(["ldd", plugin], capture_output=True, text=True, check=True).stdout
    assert "libc.so" in needed and "torch" not in needed and "not found" not in needed


def lammps_alone(build: Path, folder: Path) -> str:
    """Output of the LAMMPS program itself, with the plugin of a build folder only."""
    files = metadata.files("mpich") or []
    mpi = next(Path(str(file.locate())).resolve().parent for file in files if file.name.startswith("libmpi.so"))
    program = Path(str(metadata.distribution("lammps").locate_file("lammps/lmp")))
    environment = {**os.environ, "LAMMPS_PLUGIN_PATH": str(build), "LD_LIBRARY_PATH": str(mpi)}
    (folder / "in.alone").write_text(crystal() + MODEL)
    result = subprocess.run(
        [program, "-in", "in.alone", "-log", "none"], cwd=folder, env=environment, capture_output=True, text=True
    )
    return result.stdout + result.stderr


@pytest.mark.skipif(not (ROOT / "lammps_plugin/CMakeLists.txt").exists(), reason="not in a source tree")
@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("c++") is None, reason="no cmake or no compiler")
def test_plugin_builds_alone_and_refuses_another_lammps(folder):
    headers = Path(str(metadata.distribution("lammps").locate_file("lammps/include/lammps")))
    source, build = folder / "source", folder / "build"
    shutil.copytree(headers, source)

    def compiled_for(version: str) -> str:
        (source / "version.h").write_text(f'#define LAMMPS_VERSION "{version}"\n')
        configure = ["cmake", "-S", str(ROOT / "lammps_plugin"), "-B", str(build), f"-DLAMMPS_SOURCE_DIR={source}"]
        configure += ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0"]
        for command in (configure, ["cmake", "--build", str(build), "--parallel", "2"]):
            result = subprocess.run(command, capture_output=True, text=True)
            assert result.returncode == 0, result.stdout + result.stderr
        return lammps_alone(build, folder)

    assert "Loop time" in compiled_for("22 Jul 2025")
    output = compiled_for("1 Jan 2024")
    assert "the Tesseral plugin is not loaded" in output
    assert "it was built for LAMMPS version 20240101, but this is version 20250722" in output
    assert "docs/lammps.md" in output and "Loop time" not in output
