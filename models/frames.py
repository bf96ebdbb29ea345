"""Reading labelled structures: extended XYZ (also .xz, .gz, .bz2) or any other file that ASE reads.

Does not import torch, so ``tesseral eval`` stays light.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import ase.io
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from tesseral.calculator.errors import StructureError
from tesseral.calculator.neighbors import checked_geometry

LABELS = ("energy", "forces", "stress")
DECOMPRESSORS: dict[str, Any] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
#: Order of the six components in ASE's Voigt notation.
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


class DataError(ValueError):
    """Structures or labels that cannot be used; the message names file, frame and atom."""


@dataclass(frozen=True)
class LabelKeys:
    """Under which keys labels are looked up.

    None stands for ``REF_<label>`` and, in files that have none of those, the plain ``<label>`` (also where ASE
    moves it into a calculator). False: the label is not read.
    """

    energy: str | Literal[False] | None = None
    forces: str | Literal[False] | None = None
    stress: str | Literal[False] | None = None
    #: isotropic stress in eV/Å^3 subtracted from every stress label
    stress_offset: float = 0.0


@dataclass(frozen=True, eq=False)
class Frame:
    """One structure and its labels; an absent label is None.

    Attributes:
        atoms: species, positions (Å), cell (Å, rows) and periodicity; carries no calculator.
        energy: total energy in eV.
        forces: [n_atoms, 3] in eV/Å.
        stress: [3, 3] in eV/Å^3, (1/V) dE/dstrain, tensile positive.
        config_type: group of the frame in its file, ``default`` where none is given.
        source: file and frame number, for messages.
    """

    atoms: Atoms
    energy: float | None
    forces: np.ndarray | None
    stress: np.ndarray | None
    config_type: str
    source: str

    def __len__(self) -> int:
        return len(self.atoms)


@dataclass
class LabelReport:
    """How many frames of a file carry each label, and under which key."""

    path: str
    n_frames: int
    n_atoms: int
    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{key} in {count}" for label in LABELS for key, count in self.counts.get(label, Counter()).items()]
        return f"{Path(self.path).name}: {self.n_frames} frames, {self.n_atoms} atoms; {', '.join(parts)}"


def read_frames(
    paths: str | Path | Iterable[str | Path], keys: LabelKeys | None = None
) -> tuple[list[Frame], list[LabelReport]]:
    """Read all frames of one or more files and check positions, cells and labels.

    Args:
        paths: file or files.
        keys: names of the labels.

    Returns:
        The frames in the order of the files, and one report per file.

    Raises:
        DataError: a file cannot be read, holds no frame or no label, mixes two sets of labels, or has a
            non-finite or misshapen position, cell or label.
    """
    keys = keys or LabelKeys()
    frames: list[Frame] = []
    reports: list[LabelReport] = []
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        structures = _read_file(Path(path))
        names = _label_names(structures, keys, str(path))
        new = [_frame(atoms, names, keys, f"{path}, frame {index}") for index, atoms in enumerate(structures)]
        report = LabelReport(str(path), len(new), sum(map(len, new)))
        for label in LABELS:
            count = sum(getattr(frame, label) is not None for frame in new)
            report.counts[label] = Counter({names[label] or label: count})
        if not any(count for counter in report.counts.values() for count in counter.values()):
            raise DataError(_no_labels(structures, keys, str(path)))
        _check_same_names(reports, report)
        frames += new
        reports.append(report)
    return frames, reports


def _check_same_names(earlier: Sequence[LabelReport], report: LabelReport) -> None:
    """Files read together carry a label under one name, or two kinds of energies could be mixed.

    Raises:
        DataError: two files use two names.
    """
    for other in earlier:
        for label in LABELS:
            names = [sorted(name for name, count in one.counts[label].items() if count) for one in (other, report)]
            if names[0] and names[1] and names[0] != names[1]:
                raise DataError(
                    f"two kinds of {label} labels: {names[0][0]} in {other.path}, {names[1][0]} in {report.path}. "
                    f"Name the key that is meant, or rename the labels of one file"
                )


def frames_from_atoms(structures: Sequence[Atoms], keys: LabelKeys | None = None, source: str = "atoms") -> list[Frame]:
    """The same checks as :func:`read_frames` for structures in memory; ``source`` opens the messages."""
    keys = keys or LabelKeys()
    names = _label_names(structures, keys, source)
    return [_frame(atoms, names, keys, f"{source}, frame {index}") for index, atoms in enumerate(structures)]


def _read_file(path: Path) -> list[Atoms]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    decompress = DECOMPRESSORS.get(path.suffix, open)
    extended = path.name.removesuffix(path.suffix if path.suffix in DECOMPRESSORS else "").endswith((".xyz", ".extxyz"))
    text = ""
    try:
        if extended:  # from memory: ASE seeks backwards, which would decompress the file again for every frame
            with decompress(path, "rt", encoding="utf-8") as stream:
                text = stream.read()
            structures = ase.io.read(io.StringIO(text), ":", format="extxyz")
        else:
            structures = ase.io.read(path, ":")
    except Exception as error:  # the readers of ASE raise anything from KeyError to EOFError
        where = f"{path}{_unreadable_frame(text)}"
        raise DataError(f"{where}: cannot be read as structures: {type(error).__name__}: {error}") from error
    structures = structures if isinstance(structures, list) else [structures]
    if not structures:
        raise DataError(f"{path}: holds no frames")
    return structures


def _unreadable_frame(text: str) -> str:
    """``, frame 3 (line 31)`` for the first frame of extended XYZ that cannot be read, or nothing if each can."""
    lines = text.rstrip().splitlines(keepends=True)
    start = frame = 0
    while start < len(lines):
        try:
            stop = start + 2 + int(lines[start])
            ase.io.read(io.StringIO("".join(lines[start:stop])), format="extxyz")
        except Exception:
            return f", frame {frame} (line {start + 1})"
        start, frame = stop, frame + 1
    return ""


def _lookup(atoms: Atoms, label: str, name: str) -> Any:
    """The value stored under ``name``; plain labels may have been moved into a calculator by ASE."""
    store = atoms.arrays if label == "forces" else atoms.info
    if name in store:
        return store[name]
    results = {} if atoms.calc is None else getattr(atoms.calc, "results", {})
    return results.get(name)


def _label_names(structures: Sequence[Atoms], keys: LabelKeys, source: str) -> dict[str, str | None]:
    """Key of each label for one whole file; None where the label is absent."""
    names: dict[str, str | None] = {}
    for label in LABELS:
        key = getattr(keys, label)
        if key is False:
            names[label] = None
        elif key is not None:
            if not any(_lookup(atoms, label, key) is not None for atoms in structures):
                where = "arrays" if label == "forces" else "info"
                present = sorted({name for atoms in structures for name in getattr(atoms, where)})
                raise DataError(
                    f"{source}: {label}_key is {key!r}, which none of the {len(structures)} frames has; "
                    f"{where} keys there: {', '.join(present) or 'none'}"
                )
            names[label] = key
    automatic = [label for label in LABELS if getattr(keys, label) is None]
    return names | _automatic_names(structures, automatic, source)


def _automatic_names(structures: Sequence[Atoms], labels: list[str], source: str) -> dict[str, str | None]:
    """``REF_*`` if any frame has one, else plain labels; a file that needs both is refused."""
    found: dict[str, list[int]] = {}
    for label in labels:
        has_reference = [_lookup(atoms, label, f"REF_{label}") is not None for atoms in structures]
        has_plain = [_lookup(atoms, label, label) is not None for atoms in structures]
        found[f"REF_{label}"] = [i for i, yes in enumerate(has_reference) if yes]
        found[label] = [i for i, yes in enumerate(has_plain) if yes and not has_reference[i]]
    prefixed = any(found[f"REF_{label}"] for label in labels)
    plain_only = [label for label in labels if found[label]]
    if prefixed and plain_only:
        counts = ", ".join(f"{name} in {len(indices)} frames" for name, indices in found.items() if indices)
        label = plain_only[0]
        raise DataError(
            f"{source}: mixed label kinds: {counts} (the first without REF_{label} but with {label}: frame "
            f"{found[label][0]}). They may come from different methods: name the keys to use with "
            f"data.energy_key, data.forces_key, data.stress_key (false: not read)"
        )
    names = {label: f"REF_{label}" if prefixed else label for label in labels}
    return {label: name if found[name] else None for label, name in names.items()}


def _no_labels(structures: Sequence[Atoms], keys: LabelKeys, source: str) -> str:
    present = sorted({name for atoms in structures for name in (*atoms.info, *atoms.arrays)})
    expected = [
        f"REF_{label} or {label}" if getattr(keys, label) is None else str(getattr(keys, label))
        for label in LABELS
        if getattr(keys, label) is not False
    ]
    return (
        f"{source}: none of the {len(structures)} frames has a label; expected {', '.join(expected)}; keys there: "
        f"{', '.join(present) or 'none'}. Name them with data.energy_key, data.forces_key, data.stress_key"
    )


def _frame(atoms: Atoms, names: dict[str, str | None], keys: LabelKeys, source: str) -> Frame:
    check_geometry(atoms, source)
    values = {label: None if name is None else _lookup(atoms, label, name) for label, name in names.items()}
    energy = None if values["energy"] is None else _energy(values["energy"], source)
    forces = None if values["forces"] is None else _forces(values["forces"], len(atoms), source)
    stress = None
    if values["stress"] is not None:
        stress = _stress(values["stress"], atoms, source) - keys.stress_offset * np.eye(3)
    bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    return Frame(bare, energy, forces, stress, str(atoms.info.get("config_type", "default")), source)


def check_geometry(atoms: Atoms, source: str) -> None:
    """Refuse structures without a meaning.

    Raises:
        DataError: no atoms, a placeholder species, a position or cell that is not finite, or a periodic
            direction without a usable cell vector.
    """
    if len(atoms) == 0:
        raise DataError(f"{source}: has no atoms")
    known = (atoms.numbers > 0) & (atoms.numbers < len(chemical_symbols))
    if not known.all():
        atom = int(np.argmin(known))
        what = "no element (X)" if atoms.numbers[atom] == 0 else f"the atomic number {atoms.numbers[atom]}"
        raise DataError(f"{source}: atom {atom} has {what}")
    try:
        checked_geometry(atoms.positions, atoms.cell.array, atoms.pbc)
    except StructureError as error:
        raise DataError(f"{source}: {error}") from error


def _numbers(value: Any, label: str, source: str) -> np.ndarray:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{source}: the {label} label is not numeric: {value!r}") from error


def _energy(value: Any, source: str) -> float:
    energy = _numbers(value, "energy", source)
    if energy.size != 1:
        raise DataError(f"{source}: the energy label has shape {energy.shape}, expected one number")
    if not np.isfinite(energy).all():
        raise DataError(f"{source}: the energy label is not finite: {energy.item()}")
    return float(energy.item())


def _forces(value: Any, n_atoms: int, source: str) -> np.ndarray:
    forces = _numbers(value, "forces", source)
    if forces.shape != (n_atoms, 3):
        raise DataError(f"{source}: the forces label has shape {forces.shape}, expected ({n_atoms}, 3)")
    bad = ~np.isfinite(forces).all(axis=1)
    if bad.any():
        atom = int(np.argmax(bad))
        raise DataError(f"{source}, atom {atom}: the force label is not finite: {forces[atom].tolist()}")
    return forces


def _stress(value: Any, atoms: Atoms, source: str) -> np.ndarray:
    stress = _numbers(value, "stress", source)
    if stress.size not in (6, 9):
        raise DataError(f"{source}: the stress label has shape {stress.shape}, expected 6 (Voigt) or 3x3 numbers")
    stress = voigt_to_matrix(stress.ravel()) if stress.size == 6 else stress.reshape(3, 3)
    if not np.isfinite(stress).all():
        raise DataError(f"{source}: the stress label is not finite: {stress.tolist()}")
    if np.abs(stress - stress.T).max() > 1e-3 * np.abs(stress).max() + 1e-8:
        raise DataError(f"{source}: the stress label is not symmetric: {stress.tolist()}")
    if not atoms.pbc.all():
        raise DataError(
            f"{source}: has a stress label, but is periodic in {int(atoms.pbc.sum())} of 3 directions and has no "
            f"volume; remove the label, or do not read stress (data.stress_key: false)"
        )
    return 0.5 * (stress + stress.T)


def voigt_to_matrix(stress: np.ndarray) -> np.ndarray:
    """[..., 6] in the order xx, yy, zz, yz, xz, xy -> [..., 3, 3]."""
    return np.asarray(stress)[..., [[0, 5, 4], [5, 1, 3], [4, 3, 2]]]


def matrix_to_voigt(stress: np.ndarray) -> np.ndarray:
    """[..., 3, 3] -> [..., 6] in the order xx, yy, zz, yz, xz, xy."""
    rows, columns = zip(*VOIGT, strict=True)
    return np.asarray(stress)[..., rows, columns]
