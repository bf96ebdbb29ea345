"""Errors beside which the times are to be read: ours from the metadata of the shipped models, others as published."""

from __future__ import annotations

from tesseral.models.registry import list_models

#: test-set mean absolute errors, meV/atom and eV/Å, of GAP and MTP for the sets of Y. Zuo et al., J. Phys. Chem. A 124,
#: 731 (2020), doi:10.1021/acs.jpca.9b08723, as quoted in the benchmark of ACEpotentials
PUBLISHED = {
    "nickel": {"GAP": (0.42, 0.02), "MTP": (0.48, 0.01)},
    "copper": {"GAP": (0.46, 0.01), "MTP": (0.41, 0.01)},
    "lithium": {"GAP": (0.49, 0.01), "MTP": (0.49, 0.01)},
    "silicon": {"GAP": (2.91, 0.07), "MTP": (2.21, 0.06)},
}


def accuracy_table() -> list[list[str]]:
    """Rows, the header first: every shipped model with test errors, and what was published for its data."""
    table = [["model", "layers, channels", "meV/atom", "eV/Å", "GAP: meV/atom, eV/Å", "MTP: meV/atom, eV/Å"]]
    for model in list_models():
        errors = model.metadata.get("training", {}).get("errors", {}).get("test", {})
        energy, forces = errors.get("energy_per_atom"), errors.get("forces")
        if not energy or not forces:
            continue
        size = f"{model.metadata['n_layers']}, {model.metadata['architecture'].get('channels', '')}"
        published = PUBLISHED.get(model.name, {})
        others = ["{:.2f}, {:.2f}".format(*published[name]) if name in published else "" for name in ("GAP", "MTP")]
        table.append([f"`{model.name}`", size, f"{energy['mae']:.3g}", f"{forces['mae'] / 1000:.2g}", *others])
    return table
