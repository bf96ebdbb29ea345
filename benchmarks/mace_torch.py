"""A MACE model in mace-torch, as a process of its own: `python -m tesseral.benchmarks.mace_torch`.

The model of a file, or 128 scalar channels, correlation 3, l_max 3, two layers, cutoff 5 Å (I. Batatia et al., NeurIPS
2022, arXiv:2206.07697) with random weights: speed does not depend on training. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
from ase import Atoms

from tesseral.benchmarks.comparison.workers.mace_model import build_model
from tesseral.benchmarks.systems import CUTOFF, rattled_silicon
from tesseral.benchmarks.timing import median_seconds, peak_megabytes

MOVE = 1e-3  # Å, by which positions change before each call


def measure(model: Any, atoms: Atoms, options: argparse.Namespace) -> dict[str, Any]:
    """us/atom for energies, forces and stress on one thread or a GPU, the neighbour list given.

    The model is called as mace-torch's own calculator calls it, with the calculator's graph. What is on a GPU is copied
    to the processor's memory, as the calculator does.

    Args:
        model: MACE model.
        atoms: structure.
        options: dtype, repeats, device, ``compile``: whether in the calculator's compile mode, ``cuequivariance``:
            whether with NVIDIA's operators, ``head``: its name or None, ``results``: file for ``energy`` (eV) and
            ``forces`` (eV/Å), or None.
    """
    import torch
    from mace.calculators import MACECalculator

    torch.set_num_threads(1)
    mode = {"compile_mode": "default"} if options.compile else {}
    head = {} if options.head is None else {"head": options.head}
    if options.cuequivariance:
        mode["enable_cueq"] = True
    calculator = MACECalculator(models=[model], device=options.device, default_dtype=options.dtype, **mode, **head)
    graph, network = calculator._atoms_to_batch(atoms), calculator.models[0]

    def call(move: float = MOVE) -> dict[str, Any]:
        inputs = calculator._clone_batch(graph).to_dict()
        with torch.no_grad():
            inputs["positions"] += move * torch.rand_like(inputs["positions"])
        outputs: dict[str, Any] = network(inputs, compute_stress=True, training=options.compile)
        return {name: outputs[name].detach().cpu() for name in ("node_energy", "forces", "stress")}

    outputs = call(0.0)
    if options.results:
        own = slice(0, len(atoms))  # the compiled model is given more atoms, to fill its arrays
        energy = outputs["node_energy"][own].double().sum()
        np.savez(options.results, energy=energy.numpy(), forces=outputs["forces"][own].double().numpy())
    seconds = median_seconds(call, options.repeats)
    on_gpu = torch.device(options.device).type == "cuda"
    return {
        "us_per_atom": 1e6 * seconds / len(atoms),
        "n_atoms": len(atoms),
        "peak_mb": torch.cuda.max_memory_reserved() / 1e6 if on_gpu else peak_megabytes(),
        "version": version("mace-torch"),
    }


def main() -> None:
    """Measure and print JSON, or write a model."""
    import torch
    from ase.io import read

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", metavar="FILE", help="model file of mace-torch, a pickle, instead of random weights")
    parser.add_argument("--head", help="head of that model")
    parser.add_argument("--structure", metavar="FILE", help="instead of rattled silicon")
    parser.add_argument("--cells", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--compile", action="store_true", help="in the calculator's compile mode")
    parser.add_argument("--cuequivariance", action="store_true", help="with NVIDIA's operators")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--results", metavar="FILE", help="write energy and forces into an .npz file")
    parser.add_argument("--write", metavar="FILE", help="write a model instead")
    parser.add_argument("--elements", type=int, nargs="+", default=[14], help="atomic numbers of the model to write")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of the other package
    torch.set_default_dtype(getattr(torch, options.dtype))
    if options.write:
        torch.save(build_model(sorted(options.elements), CUTOFF), options.write)
        return
    if options.model:
        model = torch.load(Path(options.model), map_location="cpu", weights_only=False)
    else:
        model = build_model([14], CUTOFF)
    atoms = cast(Atoms, read(options.structure)) if options.structure else rattled_silicon(options.cells)
    print(json.dumps(measure(model, atoms, options)))


if __name__ == "__main__":
    main()
