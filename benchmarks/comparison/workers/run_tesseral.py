"""Tesseral: the ASE calculator, the native engine alone, or one optimisation step."""

from __future__ import annotations

from typing import Any

import protocol


def prepare(task: dict[str, Any], structures: list[protocol.Structure]) -> protocol.Prepared:
    """``settings``: ``way`` (calculator, engine or training), ``model`` (file) and ``skin`` (Å) or sizes of a model."""
    settings = task["settings"]
    if settings["way"] == "training":
        return _training(task, structures)
    if settings["way"] == "engine":
        return _engine(task, structures[0])
    from tesseral.calculator import TesseralCalculator

    calculator = TesseralCalculator(
        settings["model"], dtype=task["precision"], threads=task["threads"], skin=settings["skin"]
    )
    notes = {"instruction_set": calculator.model.instruction_set}
    return protocol.Prepared(protocol.ase_call(calculator, structures[0]), ("tesseral", "vesin"), notes)


def _engine(task: dict[str, Any], structure: protocol.Structure) -> protocol.Prepared:
    from tesseral.calculator.native import NativeModel
    from tesseral.calculator.neighbors import cartesian_shifts, neighbor_list

    model = NativeModel(task["settings"]["model"], task["precision"], task["threads"])
    cell, pbc = structure["cell"], structure["pbc"]
    edges = neighbor_list(structure["positions"], cell, pbc, model.cutoff)
    graph = (edges.first, edges.neighbors, cartesian_shifts(edges, cell, pbc))
    species = model.species_indices(structure["numbers"])
    notes = {"instruction_set": model.instruction_set}
    return protocol.Prepared(lambda positions: model.compute(positions, species, *graph), ("tesseral",), notes)


def _training(task: dict[str, Any], structures: list[protocol.Structure]) -> protocol.Prepared:
    import torch

    from tesseral.benchmarks.systems import SILICON_SIZE
    from tesseral.benchmarks.training import OptimisationStep, labelled_batch
    from tesseral.models.layered import LayeredModel
    from tesseral.models.local import LocalModel

    torch.set_num_threads(task["threads"])
    sizes = {**SILICON_SIZE, **task["settings"]["sizes"]}
    layers = sizes.pop("layers", 1)
    model = LocalModel(**sizes) if layers == 1 else LayeredModel(n_layers=layers, **sizes)
    labelled = []
    for structure in structures:
        atoms = protocol.atoms_of(structure)
        atoms.info.update(REF_energy=float(structure["energy"]), REF_stress=structure["stress"])
        atoms.arrays["REF_forces"] = structure["forces"]
        labelled.append(atoms)
    batch = labelled_batch(labelled)
    model = model.to(getattr(torch, task["precision"]))
    model.normalise(batch.vectors, batch.centers, batch.neighbors, batch.species)
    step = OptimisationStep(model, batch, stress_weight=1.0)
    return protocol.Prepared(lambda positions: step(), ("tesseral", "torch"), {"optimizer": "SOAP"})


if __name__ == "__main__":
    protocol.run(prepare)
