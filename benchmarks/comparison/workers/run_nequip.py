"""NequIP and Allegro: the ASE calculator of nequip with models of random weights, compiled as nequip-compile does."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import protocol


def prepare(task: dict[str, Any], structures: list[protocol.Structure]) -> protocol.Prepared:
    """``settings``: ``preset`` of nequip, or ``allegro``: arguments of AllegroModel; and ``compile``."""
    import torch
    from nequip.integrations.ase import NequIPCalculator
    from nequip.integrations.utils import basic_transforms
    from nequip.utils.global_state import set_global_state

    torch.set_num_threads(task["threads"])
    set_global_state()
    settings, symbols = task["settings"], protocol.symbols_of(structures)
    common = {
        "seed": 0,
        "model_dtype": task["precision"],
        "type_names": symbols,
        "r_max": task["cutoff"],
        "avg_num_neighbors": 28.0,
    }
    if "preset" in settings:
        from nequip.model import PresetNequIPGNNModel

        model = PresetNequIPGNNModel(preset=settings["preset"], **common)
    else:
        from allegro.model import AllegroModel

        embedding = {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 8}
        model = AllegroModel(radial_chemical_embed=embedding, **settings["allegro"], **common)
    model.eval()
    transforms = basic_transforms(
        model.metadata, task["cutoff"], symbols, {s: s for s in symbols}, neighborlist_backend="matscipy"
    )
    if settings["compile"]:
        calculator = _compiled(model, transforms, protocol.atoms_of(structures[0]))
    else:
        calculator = NequIPCalculator(model, "cpu", transforms=transforms)
    call = protocol.ase_call(calculator, structures[0])
    return protocol.Prepared(call, ("nequip", "nequip-allegro", "torch"))


def _compiled(model: Any, transforms: list[Any], atoms: Any) -> Any:
    """The calculator of the model as nequip-compile writes it, which is given this one instead of a file."""
    from nequip.data import from_ase
    from nequip.integrations.ase import NequIPCalculator
    from nequip.scripts import compile as program

    example = from_ase(atoms)
    for transform in transforms:
        example = transform(example)
    program.load_saved_model = lambda *arguments, **options: (model, example)
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.nequip.pt2")
        program.main(["a model", path, "--device", "cpu", "--mode", "aotinductor", "--target", "ase"])
        return NequIPCalculator.from_compiled_model(path, "cpu", neighborlist_backend="matscipy")


if __name__ == "__main__":
    protocol.run(prepare)
