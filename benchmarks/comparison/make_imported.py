"""A model file imported from a MACE model with random weights: `python make_imported.py OUT CUTOFF Z ...`.

Run by the Python that has mace-torch, with Tesseral on its path.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path


def main(output: Path, cutoff: float, atomic_numbers: list[int]) -> None:
    """Build the model in float64, import it, write the file."""
    import torch

    from tesseral.benchmarks.comparison.workers.mace_model import build_model
    from tesseral.models.mace_import.importer import import_mace, save_imported

    warnings.simplefilter("ignore")  # of the other package
    torch.set_default_dtype(torch.float64)
    source = output.with_suffix(".model")
    torch.save(build_model(sorted(atomic_numbers), cutoff), source)
    model, report = import_mace(source, trust_pickle=True)
    save_imported(output, model, report)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), [int(number) for number in sys.argv[3:]])
