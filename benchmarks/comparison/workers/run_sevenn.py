"""SevenNet: its ASE calculator with a model of the default shape and random weights."""

from __future__ import annotations

import copy
from typing import Any

import protocol


def prepare(task: dict[str, Any], structures: list[protocol.Structure]) -> protocol.Prepared:
    """No settings."""
    import sevenn._keys as keys
    import torch
    from ase.data import atomic_numbers
    from sevenn._const import DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG
    from sevenn.calculator import SevenNetCalculator
    from sevenn.model_build import build_E3_equivariant_model

    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    numbers = sorted(atomic_numbers[symbol] for symbol in protocol.symbols_of(structures))
    configuration = copy.deepcopy(DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG) | {
        keys.CUTOFF: task["cutoff"],
        keys.NUM_SPECIES: len(numbers),
        keys.TYPE_MAP: {number: index for index, number in enumerate(numbers)},
        keys.CONV_DENOMINATOR: 28.0,
        keys.SHIFT: 0.0,
        keys.SCALE: 1.0,
    }
    model = build_E3_equivariant_model(configuration)
    calculator = SevenNetCalculator(model, file_type="model_instance", device="cpu")
    return protocol.Prepared(protocol.ase_call(calculator, structures[0]), ("sevenn", "torch"))


if __name__ == "__main__":
    protocol.run(prepare)
