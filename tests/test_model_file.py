"""The model file: contents, checks, and that writing never destroys a good file. Reading must not need torch."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tesseral.models import file as model_file
from tesseral.models.file import (
    ModelFileError,
    load_torchscript,
    read_metadata,
    read_model,
    save_model,
    write_atomically,
)

METADATA: dict[str, Any] = {
    "name": "test",
    "model_type": "local",
    "species": ["Si"],
    "atomic_numbers": [14],
    "cutoff": 5.0,
    "n_layers": 1,
    "architecture": {"l_max": 3},
    "units": {"energy": "eV"},
    "e0": {"Si": -0.8},
    "description": "Ångström",
}
PARAMETERS = {
    "mixing": np.random.default_rng(0).normal(size=(1, 4, 8, 16)),
    "product_tree": np.arange(6, dtype=np.int32).reshape(2, 3),
    "scale": np.array([0.5]),
}


class Double(torch.nn.Module):
    """Stands for a model."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return 2.0 * values


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "model.pt"
    save_model(target, torch.jit.script(Double()), METADATA, PARAMETERS)
    return target


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy of an archive with the content of each entry changed; None leaves the entry out."""
    target = path.with_name("changed.pt")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            content = change(name, source.read(name))
            if content is not None:
                archive.writestr(name, content)
    return target


def with_metadata(path: Path, **changes: Any) -> Path:
    def change(name: str, content: bytes) -> bytes:
        return json.dumps(json.loads(content) | changes).encode() if name.endswith("metadata.json") else content

    return rewritten(path, change)


def test_contents_read_back(path: Path) -> None:
    content = read_model(path)
    assert content.metadata == read_metadata(path)
    assert {key: content.metadata[key] for key in METADATA} == METADATA
    assert content.metadata["format"] == "tesseral-model" and content.metadata["format_version"] == 1
    assert set(content.parameters) == set(PARAMETERS)
    for name, array in PARAMETERS.items():
        np.testing.assert_array_equal(content.parameters[name], array)
        assert content.parameters[name].dtype == array.dtype


def test_extra_files_are_stored_uncompressed_and_the_checksum_is_theirs(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.split("/", 1)[1]: entry for entry in archive.infolist()}
        packed = archive.read(entries["extra/parameters.safetensors"])
    assert entries["extra/metadata.json"].compress_type == zipfile.ZIP_STORED
    assert entries["extra/parameters.safetensors"].compress_type == zipfile.ZIP_STORED
    assert read_metadata(path)["parameters_sha256"] == hashlib.sha256(packed).hexdigest()


def test_the_same_file_is_a_torchscript_program(path: Path) -> None:
    assert torch.jit.load(str(path))(torch.ones(2)).tolist() == [2.0, 2.0]
    assert load_torchscript(path)(torch.ones(2)).tolist() == [2.0, 2.0]


def test_a_file_names_no_folder_of_the_machine_it_was_written_on(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    assert not any(str(Path(__file__).parent).encode() in content for content in contents)


def test_reading_does_not_import_torch(path: Path) -> None:
    code = (
        "import sys; from tesseral.models.file import read_model; read_model(sys.argv[1]);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)


def test_files_that_are_not_models_are_refused(path: Path, tmp_path: Path) -> None:
    def check(content: bytes, message: str) -> None:
        other = tmp_path / "other.pt"
        other.write_bytes(content)
        for read in (read_model, read_metadata):
            with pytest.raises(ModelFileError, match=rf"other\.pt: {message}"):
                read(other)

    check(b"", r"is empty \(0 bytes\), not a model")
    check(b"pair_style tesseral", r"not a Tesseral model: not a TorchScript archive \(zip\), starts with b'pair'")
    check(b"PK\x03\x04" + b"\0" * 100, r"truncated or corrupted model file \(104 bytes")
    with pytest.raises(ModelFileError, match=r"absent\.pt: no such model file"):
        read_model(tmp_path / "absent.pt")
    with pytest.raises(ModelFileError, match=r"is a folder, expected a model file"):
        read_model(tmp_path)
    torch.jit.save(torch.jit.script(Double()), str(tmp_path / "plain.pt"))
    with pytest.raises(ModelFileError, match=r"plain\.pt: not a Tesseral model: an archive without extra/metadata"):
        read_model(tmp_path / "plain.pt")
    with pytest.raises(ModelFileError, match=r'does not say "format": "tesseral-model"'):
        read_model(with_metadata(path, format="other"))


def test_newer_and_damaged_metadata_are_refused(path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"newer Tesseral: format version 2, this one reads up to 1\. Upgrade"):
        read_model(with_metadata(path, format_version=2))
    with pytest.raises(ModelFileError, match=r"format_version is 'x', expected a positive integer"):
        read_model(with_metadata(path, format_version="x"))

    def without_cutoff(name: str, content: bytes) -> bytes:
        return content.replace(b'"cutoff"', b'"cutofx"') if name.endswith("metadata.json") else content

    def not_json(name: str, content: bytes) -> bytes:
        return content[:-5] if name.endswith("metadata.json") else content

    with pytest.raises(ModelFileError, match=r"corrupted model file: metadata\.json lacks cutoff"):
        read_metadata(rewritten(path, without_cutoff))
    with pytest.raises(ModelFileError, match=r"corrupted model file: its metadata\.json is not JSON"):
        read_metadata(rewritten(path, not_json))


def test_truncated_files_are_refused_at_every_length(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    cut = tmp_path / "cut.pt"
    for length in np.random.default_rng(0).integers(5, len(content) - 1, 40):
        cut.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match=r"cut\.pt: truncated or corrupted model file \(\d+ bytes"):
            read_model(cut)


def test_changed_parameters_are_refused(path: Path) -> None:
    def flip(name: str, content: bytes) -> bytes:
        return content[:-1] + bytes([content[-1] ^ 1]) if name.endswith(".safetensors") else content

    def garble(name: str, content: bytes) -> bytes:
        return b"\xff" * 64 if name.endswith(".safetensors") else content

    with pytest.raises(ModelFileError, match=r"corrupted model file: the checksum of its parameters does not match"):
        read_model(rewritten(path, flip))
    checksum = hashlib.sha256(b"\xff" * 64).hexdigest()
    garbled = with_metadata(rewritten(path, garble).rename(path.with_name("garbled.pt")), parameters_sha256=checksum)
    with pytest.raises(ModelFileError, match=r"corrupted model file: its parameters cannot be read"):
        read_model(garbled)
    missing = rewritten(path, lambda name, content: None if name.endswith(".safetensors") else content)
    with pytest.raises(ModelFileError, match=r"an archive without extra/parameters\.safetensors"):
        read_model(missing)


def test_flipped_bytes_are_found_or_harmless(path: Path, tmp_path: Path) -> None:
    content = bytearray(path.read_bytes())
    damaged = tmp_path / "damaged.pt"
    rng = np.random.default_rng(1)
    found = 0
    for position in rng.integers(4, len(content), 300):
        changed = bytearray(content)
        changed[position] ^= int(rng.integers(1, 256))
        damaged.write_bytes(changed)
        try:
            parameters = read_model(damaged).parameters
        except ModelFileError as error:
            assert str(error).startswith(str(damaged))
            found += 1
        else:  # padding or archive bookkeeping: what is read is unchanged
            assert all(np.array_equal(parameters[name], array) for name, array in PARAMETERS.items())
    assert found > 100


def test_full_disk_keeps_the_existing_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(model_file.os, "fsync", full)
    message = r"model\.pt: cannot be written: No space left on device; the existing file is unchanged"
    with pytest.raises(OSError, match=message) as caught:
        save_model(path, torch.jit.script(Double()), METADATA | {"name": "new"}, PARAMETERS)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_device_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "with_name", lambda self, name: Path("/dev/full"))
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    with pytest.raises(OSError, match=r"new\.pt: cannot be written: No space left on device$"):
        write_atomically(tmp_path / "new.pt", b"content" * 10000)


def test_unwritable_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"model\.pt: cannot be written: No such file or directory"):
        write_atomically(tmp_path / "absent" / "model.pt", b"content")


def test_parameters_that_are_not_finite_are_not_saved(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"model\.pt: not saved: the parameter scale is not finite"):
        save_model(path, torch.jit.script(Double()), METADATA, PARAMETERS | {"scale": np.array([np.nan])})
    assert path.read_bytes() == before


def test_links_and_devices_are_written_to_and_not_replaced(tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, b"new")
    assert os.read(reader, 10) == b"new" and pipe.is_fifo()
    os.close(reader)


def test_a_read_only_file_system_is_reported_by_the_name_of_the_file(tmp_path: Path, monkeypatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "temporary")

    monkeypatch.setattr(model_file, "open", refuse, raising=False)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError, match=r"model\.pt: cannot be written: Read-only file system$"):
        write_atomically(tmp_path / "model.pt", b"content")
