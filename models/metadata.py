"""The metadata of a trained model: what it is, where it comes from, how good it is and where it is valid."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from tesseral.models.checkpoint import Progress
from tesseral.models.config import Config
from tesseral.models.data import find_edges
from tesseral.models.energy_model import EnergyModel
from tesseral.models.initial import InitialModel
from tesseral.models.metrics import UNITS
from tesseral.models.prepare import PreparedData

PACKAGES = ("tesseral", "torch", "numpy", "ase", "vesin", "safetensors")


def model_metadata(
    config: Config, data: PreparedData, model: EnergyModel, progress: Progress, tables: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything of metadata.json that :func:`tesseral.models.file.save_model` does not add itself.

    Args:
        config: of the training.
        data: frames and E0.
        model: the exported model.
        progress: at the end of the training.
        tables: error tables by set.
    """
    return {
        "name": config.name,
        "description": config.description,
        "model_type": model.model_type,
        "species": data.elements,
        "atomic_numbers": [atomic_numbers[element] for element in data.elements],
        "cutoff": model.cutoff,
        "n_layers": model.n_layers,
        "architecture": model.architecture(),
        "units": {"energy": "eV", "length": "Å", "stress": "eV/Å^3"},
        "e0": data.e0,
        "reference_method": config.reference_method,
        "citation": config.citation,
        "license": config.license,
        "training": {
            "frames": {name: table["n_frames"] for name, table in tables.items()},
            "errors": {name: _errors(table) for name, table in tables.items()},
            "error_units": UNITS,
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "steps": progress.step,
            "seconds": round(progress.seconds, 1),
            "config": portable_config(config),
        },
        "valid_range": valid_range(data, model.cutoff),
        "packages": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Versions of what wrote a file."""
    return {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}


def with_origin(metadata: dict[str, Any], initial: InitialModel, before: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a fine-tuned model: also from which model, whose citation stays, and the errors of that one.

    Args:
        metadata: as of any training.
        initial: the model at the start.
        before: its error tables by set.
    """
    old = initial.provenance().get("citation", "")
    new = metadata["citation"]
    citation = "; ".join(text for text in (new, f"initial model {initial.name}: {old}" if old else "") if text)
    errors = {name: _errors(table) for name, table in before.items()}
    training = metadata["training"] | {"errors_before": errors}
    return metadata | {"citation": citation, "init_from": initial.provenance(), "training": training}


def portable_config(config: Config) -> dict[str, Any]:
    """The configuration without the folders of this machine in its data paths."""
    content: dict[str, Any] = config.model_dump(mode="json")
    if content["init_from"] is not None:
        content["init_from"] = Path(content["init_from"]).name
    for key in ("train", "validation", "test", "replay"):
        paths = content["data"][key]
        if isinstance(paths, list):
            content["data"][key] = [Path(path).name for path in paths]
    return content


def valid_range(data: PreparedData, cutoff: float) -> dict[str, Any]:
    """Extremes of the training frames, those of replay among them; outside them the model extrapolates.

    Returns:
        ``minimum_distance`` (Å) by pair of elements (absent where a pair never meets inside the cutoff), ``neighbors``
        [least, most] of an atom within the cutoff, ``largest_force`` (eV/Å, None without forces),
        ``volume_per_atom`` [least, most] in Å^3 of fully periodic frames (None without), ``config_types``.
    """
    shortest: dict[str, float] = {}
    neighbors: list[int] = []
    trained = [*data.training, *data.replay]
    for frame in trained:
        centers, others, vectors = find_edges(frame.atoms, cutoff, frame.source)
        counts = np.bincount(centers, minlength=len(frame))
        neighbors += [int(counts.min()), int(counts.max())]
        distances = np.linalg.norm(vectors, axis=1)
        first, second = frame.atoms.numbers[centers], frame.atoms.numbers[others]
        for one in data.elements:
            for other in data.elements[data.elements.index(one) :]:
                chosen = distances[(first == atomic_numbers[one]) & (second == atomic_numbers[other])]
                if chosen.size:
                    pair = f"{one}-{other}"
                    shortest[pair] = round(min(float(chosen.min()), shortest.get(pair, np.inf)), 4)
    largest = [float(np.linalg.norm(f.forces, axis=1).max()) for f in trained if f.forces is not None]
    volumes = [f.atoms.get_volume() / len(f) for f in trained if f.atoms.pbc.all()]
    return {
        "minimum_distance": shortest,
        "neighbors": [min(neighbors), max(neighbors)],
        "largest_force": round(max(largest), 3) if largest else None,
        "volume_per_atom": [round(min(volumes), 3), round(max(volumes), 3)] if volumes else None,
        "config_types": sorted({frame.config_type for frame in trained}),
    }


def _errors(table: Mapping[str, Any]) -> dict[str, Any]:
    """Mean absolute and root mean square errors, rounded."""
    return {
        quantity: None
        if table[quantity] is None
        else {kind: round(table[quantity][kind], 4) for kind in ("mae", "rmse")}
        for quantity in UNITS
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
