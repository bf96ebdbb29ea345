"""Structures as tensors: edges found once per frame, energies relative to E0, ragged batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers
from torch import Tensor

from tesseral.calculator.neighbors import cartesian_shifts, neighbor_list
from tesseral.models.frames import DataError, Frame

#: Two atoms closer than this (Å) are taken for one atom given twice.
COINCIDENT = 1e-3


@dataclass(frozen=True, eq=False)
class Structure:
    """One frame ready for the model. E edges, N atoms; vectors, forces, stress in the training precision.

    Absent labels hold zeros and a False flag.
    """

    vectors: Tensor  # [E, 3] Å, from center to neighbour, sorted by center
    centers: Tensor  # [E] int64
    neighbors: Tensor  # [E] int64
    species: Tensor  # [N] int64, index into the elements of the model
    energy: Tensor  # [1] float64, eV, relative to the sum of the atoms' baseline energies
    forces: Tensor  # [N, 3] eV/Å
    stress: Tensor  # [1, 3, 3] eV/Å^3
    volume: Tensor  # [1] Å^3; 1 where the frame has no stress label
    weight: Tensor  # [1] factor of the frame in the loss
    has_energy: Tensor  # [1] bool
    has_forces: Tensor  # [1] bool
    has_stress: Tensor  # [1] bool


@dataclass(frozen=True, eq=False)
class Batch(Structure):
    """Several structures one after the other; S structures, fields of length 1 above have length S here."""

    n_atoms: Tensor  # [S] int64
    structure: Tensor  # [N] int64, structure of each atom
    n_labels: tuple[int, int, int]  # see `label_counts`

    @property
    def edge_structure(self) -> Tensor:
        """Structure of each edge, [E] int64."""
        return self.structure[self.centers]

    def to(self, device: torch.device) -> Batch:
        """The batch with all its tensors on a device."""
        names = [field.name for field in fields(self) if field.name != "n_labels"]
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


def find_edges(atoms: Atoms, cutoff: float, source: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All directed pairs closer than ``cutoff`` (Å), periodic images included, sorted by center.

    Returns:
        centers [E] int64, neighbors [E] int64, vectors [E, 3] float64 in Å (r_j - r_i + S @ cell).

    Raises:
        DataError: two atoms coincide.
    """
    cell, periodic = atoms.cell.array, atoms.pbc
    edges = neighbor_list(atoms.positions, cell, periodic, cutoff)
    centers, neighbors = edges.centers, edges.neighbors.astype(np.int64)
    vectors = atoms.positions[neighbors] - atoms.positions[centers] + cartesian_shifts(edges, cell, periodic)
    squared = np.einsum("ij,ij->i", vectors, vectors)
    if (squared < COINCIDENT**2).any():
        edge = int(np.argmin(squared))
        raise DataError(
            f"{source}: atoms {centers[edge]} and {neighbors[edge]} (or their periodic images) coincide: "
            f"distance {np.sqrt(squared[edge]):.1e} Å"
        )
    return centers, neighbors, vectors


def species_indices(atoms: Atoms, elements: Sequence[str], source: str, owner: str = "the training data") -> np.ndarray:
    """Index of each atom's element in ``elements``, [n_atoms] int64; ``owner`` is in messages what has these elements.

    Raises:
        DataError: an element that is not among ``elements``.
    """
    table = np.full(max(atomic_numbers.values()) + 1, -1, dtype=np.int64)
    table[[atomic_numbers[element] for element in elements]] = np.arange(len(elements))
    indices = table[atoms.numbers]
    if (indices < 0).any():
        atom = int(np.argmax(indices < 0))
        raise DataError(
            f"{source}, atom {atom}: element {atoms.symbols[atom]} is not among those of {owner}: {', '.join(elements)}"
        )
    return indices


def build_structure(
    frame: Frame,
    elements: Sequence[str],
    cutoff: float,
    baseline: np.ndarray,
    dtype: torch.dtype,
    weight: float = 1.0,
) -> Structure:
    """Edges, species and labels of one frame.

    Args:
        frame: the structure and its labels.
        elements: symbols in the order of the model.
        cutoff: in Å.
        baseline: [n_elements] float64, energy in eV of an atom of each element that the network does not learn
            (E0 + shift); subtracted here in float64, so that no digits are lost in single precision.
        dtype: precision of the training.
        weight: factor of the frame in the loss.

    Raises:
        DataError: unknown element or coinciding atoms.
    """
    species = species_indices(frame.atoms, elements, frame.source)
    centers, neighbors, vectors = find_edges(frame.atoms, cutoff, frame.source)
    energy = 0.0 if frame.energy is None else frame.energy - float(baseline[species].sum())
    forces = np.zeros((len(frame), 3)) if frame.forces is None else frame.forces
    stress = np.zeros((3, 3)) if frame.stress is None else frame.stress
    volume = 1.0 if frame.stress is None else frame.atoms.get_volume()
    return Structure(
        vectors=torch.as_tensor(vectors).to(dtype),
        centers=torch.as_tensor(centers),
        neighbors=torch.as_tensor(neighbors),
        species=torch.as_tensor(species),
        energy=torch.tensor([energy], dtype=torch.float64),
        forces=torch.as_tensor(forces).to(dtype),
        stress=torch.as_tensor(stress).to(dtype)[None],
        volume=torch.tensor([volume], dtype=dtype),
        weight=torch.tensor([weight], dtype=dtype),
        has_energy=torch.tensor([frame.energy is not None]),
        has_forces=torch.tensor([frame.forces is not None]),
        has_stress=torch.tensor([frame.stress is not None]),
    )


def collate(structures: Sequence[Structure]) -> Batch:
    """Concatenate structures; atom indices of the edges are shifted."""
    joined = {f.name: torch.cat([getattr(s, f.name) for s in structures]) for f in fields(Structure)}
    n_atoms = torch.tensor([len(s.species) for s in structures])
    n_edges = torch.tensor([len(s.centers) for s in structures])
    first = torch.cumsum(n_atoms, 0) - n_atoms
    shift = torch.repeat_interleave(first, n_edges)
    joined["centers"] += shift
    joined["neighbors"] += shift
    structure = torch.repeat_interleave(torch.arange(len(structures)), n_atoms)
    return Batch(**joined, n_atoms=n_atoms, structure=structure, n_labels=label_counts(structures))


def label_counts(structures: Sequence[Structure]) -> tuple[int, int, int]:
    """How many energies, force components and stress components (9 of each structure) are labelled."""
    energies = sum(bool(structure.has_energy) for structure in structures)
    forces = sum(len(structure.species) for structure in structures if structure.has_forces)
    return energies, 3 * forces, 9 * sum(bool(structure.has_stress) for structure in structures)


def batch_order(n_structures: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Batches of one epoch; a function of ``seed`` and ``epoch`` alone, so that a resumed run sees the same."""
    order = np.random.default_rng([seed, epoch]).permutation(n_structures).tolist()
    return [order[i : i + batch_size] for i in range(0, n_structures, batch_size)]


def batches_by_atoms(structures: Sequence[Structure], max_atoms: int) -> Iterator[Batch]:
    """Batches in the order given, each with at most ``max_atoms`` atoms (or one structure)."""
    group: list[Structure] = []
    total = 0
    for structure in structures:
        if group and total + len(structure.species) > max_atoms:
            yield collate(group)
            group, total = [], 0
        group.append(structure)
        total += len(structure.species)
    if group:
        yield collate(group)


def split_validation(
    frames: Sequence[Frame], fraction: float, seed: int, kind: str = "frames"
) -> tuple[list[Frame], list[Frame]]:
    """Split frames into training and validation, each ``config_type`` in proportion; ``kind`` names them in messages.

    Frames of a group stand together in a shuffled list, from which every 1/fraction-th is taken.

    Returns:
        The training frames and the validation frames, each in file order.

    Raises:
        DataError: nothing is left on one side.
    """
    n_validation = round(fraction * len(frames))
    if n_validation == 0 or n_validation == len(frames):
        raise DataError(
            f"data.validation: {fraction:g} of {len(frames)} {kind} is {n_validation}; training and validation "
            f"both need at least one. Give another fraction, or name validation files"
        )
    shuffled = np.random.default_rng([seed, 0x7E55]).permutation(len(frames))
    grouped = sorted(shuffled.tolist(), key=lambda index: frames[index].config_type)
    chosen = {grouped[int((k + 0.5) * len(frames) / n_validation)] for k in range(n_validation)}
    training = [frame for index, frame in enumerate(frames) if index not in chosen]
    return training, [frames[index] for index in sorted(chosen)]
