"""Energies, forces and stresses of many structures in few calls of the engine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed

from tesseral.calculator.ase_calculator import ase_results
from tesseral.calculator.device_neighbors import verlet_list
from tesseral.calculator.errors import StructureError
from tesseral.calculator.native import NativeModel
from tesseral.calculator.neighbors import VerletList, cartesian_shifts, checked_geometry, neighbor_list


def evaluate(
    model: str | os.PathLike[str],
    images: Iterable[Atoms],
    *,
    dtype: str = "float64",
    device: str = "cpu",
    threads: int | None = None,
    batch_atoms: int = 20_000,
) -> list[dict[str, Any]]:
    """Evaluate a model on many structures, which may differ in size, species, cell and periodicity.

    Args:
        model: path of a model file, or the name of a shipped model.
        images: structures; they are not changed.
        dtype: "float64", "float32" or "mixed".
        device: "cpu", "cuda" (the first NVIDIA GPU) or "cuda:N".
        threads: threads of the engine; None is 1.
        batch_atoms: structures are joined until a call of the engine has about this many atoms; bounds
            memory.

    Returns:
        For each structure a dictionary with ``energy`` (eV), ``energies`` [n_atoms] (eV), ``forces``
        [n_atoms, 3] (eV/Å) and ``stress`` [6] (eV/Å^3; xx, yy, zz, yz, xz, xy), None unless periodic in
        three directions.

    Raises:
        StructureError: a structure cannot be computed (unknown element, position that is not finite, unusable
            cell); names the image and the atom.
        CalculationFailed: energy or forces of an image are not finite.
        ValueError: an option or the model file cannot be used.
        FileNotFoundError: no such file and no shipped model of that name.
    """
    if batch_atoms < 1:
        raise ValueError(f"batch_atoms must be at least 1, got {batch_atoms}")
    native = NativeModel(model, dtype, threads, device=device)
    single = verlet_list(native, 0.0)
    results: list[dict[str, Any]] = []
    for batch in _batches(images, batch_atoms):
        results += _evaluate_batch(native, single, batch, len(results))
    return results


def _batches(images: Iterable[Atoms], batch_atoms: int) -> Iterator[list[Atoms]]:
    """Consecutive images with together at most `batch_atoms` atoms, or one larger image."""
    batch: list[Atoms] = []
    n_atoms = 0
    for atoms in images:
        if batch and n_atoms + len(atoms) > batch_atoms:
            yield batch
            batch, n_atoms = [], 0
        batch.append(atoms)
        n_atoms += len(atoms)
    if batch:
        yield batch


def _evaluate_batch(
    native: NativeModel, single: VerletList, batch: Sequence[Atoms], first_image: int
) -> list[dict[str, Any]]:
    """Results of images that go through the engine together; `first_image` counts the images before them. An image
    that goes alone has its list from `single`, which may be on a device."""
    graph = joined_graph(native, batch, first_image, single)
    starts = np.cumsum([0] + [len(atoms) for atoms in batch])
    try:
        energies, forces, virials = native.compute(*graph)
    except CalculationFailed as error:
        if len(batch) == 1:
            raise CalculationFailed(f"image {first_image}: {error}") from error
        for index, atoms in enumerate(batch):  # find the image, so that the message can name it
            _evaluate_batch(native, single, [atoms], first_image + index)
        raise
    results = []
    for atoms, start, stop in zip(batch, starts[:-1], starts[1:], strict=True):
        complete = ase_results(atoms, energies[start:stop], forces[start:stop], virials[start:stop])
        results.append({key: complete.get(key) for key in ("energy", "energies", "forces", "stress")})
    return results


def joined_graph(
    native: NativeModel, images: Sequence[Atoms], first_image: int = 0, single: VerletList | None = None
) -> tuple[Any, ...]:
    """One disconnected graph of at least one image: the arguments of :meth:`NativeModel.compute`.

    Args:
        native: the model.
        images: the structures.
        first_image: number of the first in error messages.
        single: searches the list of an image that is alone; None is the processor.

    Raises:
        StructureError: see :func:`evaluate`; images are counted from `first_image`.
    """
    graphs = []
    for index, atoms in enumerate(images):
        try:
            graphs.append(_graph(native, atoms, single if len(images) == 1 else None))
        except StructureError as error:
            raise StructureError(f"image {first_image + index}: {error}") from error
    if len(images) == 1:
        return graphs[0]
    positions, species, firsts, neighbors, shifts = zip(*graphs, strict=True)
    starts = np.cumsum([0] + [len(part) for part in positions])
    n_edges = np.concatenate([np.diff(first) for first in firsts])
    offsets = np.repeat(starts[:-1], [len(part) for part in neighbors])
    return (
        np.concatenate(positions),
        np.concatenate(species),
        np.concatenate([[0], np.cumsum(n_edges)]).astype(np.int64),
        (np.concatenate(neighbors) + offsets).astype(np.int32),
        np.concatenate(shifts),
    )


def _graph(native: NativeModel, atoms: Atoms, single: VerletList | None) -> tuple[Any, ...]:
    """Positions, species and edges of one structure, as the engine takes them."""
    species = native.species_indices(atoms.numbers)
    positions, cell, pbc = checked_geometry(atoms.positions, atoms.cell.array, atoms.pbc)
    if single is not None:
        return positions, species, *single.update(positions, cell, pbc)
    edges = neighbor_list(positions, cell, pbc, native.cutoff, threads=native.threads)
    return positions, species, edges.first, edges.neighbors, cartesian_shifts(edges, cell, pbc)
