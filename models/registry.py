"""The models that come with the package, found by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tesseral.models.file import read_metadata

SHIPPED_FOLDER = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class ShippedModel:
    """A model of the package.

    Attributes:
        name: what to write instead of a path.
        path: the model file.
        metadata: contents of its metadata.json.
    """

    name: str
    path: Path
    metadata: dict[str, Any]


def shipped_names() -> list[str]:
    """Names of the shipped models, sorted."""
    return sorted(path.stem for path in SHIPPED_FOLDER.glob("*.pt"))


def list_models() -> list[ShippedModel]:
    """The shipped models, sorted by name.

    Raises:
        ModelFileError: a file among them is damaged.
    """
    paths = (SHIPPED_FOLDER / f"{name}.pt" for name in shipped_names())
    return [ShippedModel(path.stem, path, read_metadata(path)) for path in paths]


def resolve_model(model: str | os.PathLike[str]) -> Path:
    """Path of a model given as a path or as the name of a shipped model.

    An existing file wins over a shipped model of the same name.

    Args:
        model: path such as ``water.pt``, or name such as ``silicon``.

    Raises:
        FileNotFoundError: neither a file nor the name of a shipped model; lists the names and the nearest
            one.
    """
    path = Path(model)
    if path.is_file():
        return path
    text, names = os.fspath(model), shipped_names()
    if text in names:
        return SHIPPED_FOLDER / f"{text}.pt"
    kind = "is a folder, not a model file" if path.is_dir() else "no such model file"
    raise FileNotFoundError(
        f"{text}: {kind}, and the shipped models are: {', '.join(names) or 'none'}{nearest(text, names)}"
    )


def nearest(word: object, known: Iterable[str]) -> str:
    """``; did you mean ...?`` for a misspelt word, or nothing if no known word is close."""
    matches = difflib.get_close_matches(str(word), list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""
