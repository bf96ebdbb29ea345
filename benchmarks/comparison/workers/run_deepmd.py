"""DeePMD-kit: its ASE calculator with a frozen PyTorch model se_e2_a of random weights."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import protocol

#: neighbours per element that the descriptor has room for, by element; 100 for others
ROOM = {"H": 60, "O": 40, "Si": 60}


def prepare(task: dict[str, Any], structures: list[protocol.Structure]) -> protocol.Prepared:
    """No settings: embedding 25-50-100, 16 axis neurons, fitting 240-240-240, as in its example of water."""
    import torch
    from deepmd.calculator import DP
    from deepmd.pt.model.model import get_model

    torch.set_num_threads(task["threads"])
    symbols = protocol.symbols_of(structures)
    growth = (task["cutoff"] / 5.0) ** 3
    model = get_model(
        {
            "type_map": symbols,
            "descriptor": {
                "type": "se_e2_a",
                "sel": [int(ROOM.get(symbol, 100) * growth) for symbol in symbols],
                "rcut_smth": 0.5,
                "rcut": task["cutoff"],
                "neuron": [25, 50, 100],
                "axis_neuron": 16,
                "resnet_dt": False,
                "precision": task["precision"],
                "seed": 1,
            },
            "fitting_net": {
                "neuron": [240, 240, 240],
                "resnet_dt": True,
                "precision": task["precision"],
                "seed": 1,
            },
        }
    )
    model.eval()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"
        torch.jit.save(torch.jit.script(model), str(path))
        calculator = DP(path)
    return protocol.Prepared(protocol.ase_call(calculator, structures[0]), ("deepmd-kit", "torch"))


if __name__ == "__main__":
    protocol.run(prepare)
