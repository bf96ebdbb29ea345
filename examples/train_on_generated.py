"""Train on the ethanol set that generated/generate_ethanol.py made, then use the model.

python train_on_generated.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
from rich.console import Console

from tesseral.calculator import TesseralCalculator
from tesseral.models.config_file import load_config
from tesseral.models.pipeline import train

GENERATED = Path(__file__).parent / "generated"


def run(output: Path, overrides: list[str] | None = None, console: Console | None = None) -> dict[str, Any]:
    """Train into the folder `output`; returns the error tables of the training, validation and test
    frames."""
    return train(load_config(GENERATED / "train.yaml", overrides), output, console=console)


if __name__ == "__main__":
    folder = Path("ethanol-gfn2")
    tables = run(folder, console=Console())
    molecule = ase.io.read(GENERATED / "ethanol_test.xyz", 0)
    molecule.calc = TesseralCalculator(folder / "model.pt")
    print(f"test forces: {tables['test']['forces']['mae']:.0f} meV/Å mean absolute error")
    print(f"first test frame: {molecule.get_potential_energy():.3f} eV, GFN2-xTB {molecule.info['REF_energy']:.3f} eV")
