"""The model file: a TorchScript archive that carries metadata and plain parameters, and its safe reading.

A ``*.pt`` file is a zip archive. Beside the TorchScript program (``torch.jit.load`` opens it in Python and C++) it
holds two extra files, stored uncompressed: ``extra/metadata.json`` and ``extra/parameters.safetensors``. They are all
that the native engine needs; nothing here unpickles, and reading does not import torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

if TYPE_CHECKING:
    import torch

FORMAT = "tesseral-model"
FORMAT_VERSION = 1
METADATA_KEYS = (
    "name",
    "model_type",
    "species",
    "atomic_numbers",
    "cutoff",
    "n_layers",
    "architecture",
    "units",
    "e0",
    "parameters_sha256",
)


class ModelFileError(ValueError):
    """A file that cannot be used as a model; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True)
class ModelFile:
    """What a model file says without running it.

    Attributes:
        path: the file.
        metadata: contents of ``metadata.json``.
        parameters: arrays by name, scales folded in; see ``native_parameters`` of the models.
    """

    path: Path
    metadata: dict[str, Any]
    parameters: dict[str, np.ndarray]


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that at every moment either the old or the new content is there, also on a full disk.

    A symbolic link stays and its target is written; what is no plain file, such as /dev/stdout, is written to directly.

    Raises:
        OSError: the content cannot be written; an existing file is unchanged.
    """
    path = Path(path)
    special = path.exists() and not path.is_file() and not path.is_dir()
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        if special:
            path.write_bytes(content)
            return
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except OSError as error:
        if not special:
            with contextlib.suppress(OSError):  # a read-only file system refuses this too
                temporary.unlink(missing_ok=True)
        kept = "; the existing file is unchanged" if path.exists() else ""
        raise OSError(error.errno, f"{path}: cannot be written: {error.strerror or error}{kept}") from error


def save_model(
    path: str | Path,
    module: torch.jit.ScriptModule,
    metadata: dict[str, Any],
    parameters: dict[str, np.ndarray],
) -> None:
    """Write a model file; an existing file is replaced only by a complete one.

    Args:
        path: file to write, usually ``*.pt``.
        module: the scripted model.
        metadata: everything of ``metadata.json`` except ``format``, ``format_version`` and ``parameters_sha256``,
            which are added here.
        parameters: arrays for the native engine, scales folded in.

    Raises:
        ValueError: a parameter is not finite.
        OSError: the file cannot be written.
    """
    import torch

    for name, array in parameters.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: not saved: the parameter {name} is not finite")
    packed = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in parameters.items()})
    complete = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **metadata,
        "parameters_sha256": hashlib.sha256(packed).hexdigest(),
    }
    text = json.dumps(complete, indent=1, ensure_ascii=False, allow_nan=False)
    buffer = io.BytesIO()
    torch.jit.save(
        module, buffer, _extra_files={"metadata.json": text.encode("utf-8"), "parameters.safetensors": packed}
    )
    write_atomically(path, without_debug_records(buffer.getvalue()))


def without_debug_records(archive: bytes) -> bytes:
    """A TorchScript archive without the tables that point from its code to the source files of this machine."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(buffer, "w") as target:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))
    return buffer.getvalue()


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of a model file, checked for format and version but without its parameters.

    Raises:
        ModelFileError: not a model, truncated, corrupted, or written by a newer version.
    """
    path = Path(path)
    with _open(path) as archive:
        return _metadata(path, archive)


def read_model(path: str | Path) -> ModelFile:
    """Metadata and parameters of a model file, with every checksum verified; torch is not imported.

    Raises:
        ModelFileError: not a model, truncated, corrupted, or written by a newer version.
    """
    path = Path(path)
    with _open(path) as archive:
        metadata = _metadata(path, archive)
        for name in archive.namelist():  # reading an entry to its end compares its CRC-32
            _entry(path, archive, name)
        packed = _entry(path, archive, _extra_name(path, archive, "parameters.safetensors"))
    if hashlib.sha256(packed).hexdigest() != metadata["parameters_sha256"]:
        raise _corrupted(path, "the checksum of its parameters does not match")
    try:
        parameters = safetensors.numpy.load(packed)
    except Exception as error:
        raise _corrupted(path, f"its parameters cannot be read: {error}") from error
    return ModelFile(path, metadata, parameters)


def load_torchscript(path: str | Path) -> torch.jit.ScriptModule:
    """The TorchScript program of a verified model file, on the CPU.

    Raises:
        ModelFileError: see :func:`read_model`.
    """
    import torch

    from tesseral.kernel import load_operators

    read_model(path)
    load_operators()
    return torch.jit.load(str(path), map_location="cpu")


def _corrupted(path: Path, reason: str) -> ModelFileError:
    return ModelFileError(f"{path}: corrupted model file: {reason}. Copy or train it again")


def _open(path: Path) -> zipfile.ZipFile:
    if path.is_dir():
        raise ModelFileError(f"{path}: is a folder, expected a model file (*.pt)")
    if not path.exists():
        raise ModelFileError(f"{path}: no such model file")
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            start = stream.read(4)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
    if size == 0:
        raise ModelFileError(f"{path}: is empty (0 bytes), not a model")
    if start != b"PK\x03\x04":
        raise ModelFileError(f"{path}: not a Tesseral model: not a TorchScript archive (zip), starts with {start!r}")
    try:
        return zipfile.ZipFile(path)
    except Exception as error:
        raise ModelFileError(
            f"{path}: truncated or corrupted model file ({size} bytes, the directory at the end of the archive is "
            f"missing or unreadable). Copy it again"
        ) from error


def _extra_name(path: Path, archive: zipfile.ZipFile, name: str) -> str:
    for entry in archive.namelist():
        if entry.endswith(f"/extra/{name}"):
            return entry
    raise ModelFileError(
        f"{path}: not a Tesseral model: an archive without extra/{name}; expected a file written by tesseral train"
    )


def _entry(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except Exception as error:  # a damaged directory makes zipfile raise anything
        raise _corrupted(path, f"its entry {name} is damaged ({error})") from error


def _metadata(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    text = _entry(path, archive, _extra_name(path, archive, "metadata.json"))
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise _corrupted(path, f"its metadata.json is not JSON: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ModelFileError(f'{path}: not a Tesseral model: metadata.json does not say "format": "{FORMAT}"')
    version = metadata.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise _corrupted(path, f"format_version is {version!r}, expected a positive integer")
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: written by a newer Tesseral: format version {version}, this one reads up to {FORMAT_VERSION}. "
            f"Upgrade with: pip install --upgrade tesseral"
        )
    missing = [key for key in METADATA_KEYS if key not in metadata]
    if missing:
        raise _corrupted(path, f"metadata.json lacks {', '.join(missing)}")
    return metadata
