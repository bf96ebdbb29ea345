"""Energies of the free atoms: given, from isolated atoms in the training data, or by least squares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tesseral.models.data import find_edges, species_indices
from tesseral.models.frames import DataError, Frame

#: Two isolated atoms of one element may differ in energy by this much (eV).
ISOLATED_ATOM_TOLERANCE = 1e-3


def separate_isolated_atoms(frames: Sequence[Frame], cutoff: float) -> tuple[list[Frame], list[Frame]]:
    """Split off frames of one atom without a neighbour inside the cutoff.

    The energy of an isolated atom is E0 by construction, so such frames say what E0 is and are not trained on. Only
    imported models may have more there, see :meth:`tesseral.models.energy_model.EnergyModel.learns_isolated_atoms`.

    Returns:
        The other frames, and the isolated atoms.

    Raises:
        DataError: a frame with config_type IsolatedAtom is not an isolated atom.
    """
    others: list[Frame] = []
    isolated: list[Frame] = []
    for frame in frames:
        single = len(frame) == 1 and len(find_edges(frame.atoms, cutoff, frame.source)[0]) == 0
        if not single and frame.config_type.lower() == "isolatedatom":
            raise DataError(
                f"{frame.source}: config_type is {frame.config_type}, but it has {len(frame)} atom(s) and a "
                f"neighbour within the cutoff of {cutoff:g} Å; switch its periodicity off or enlarge the cell"
            )
        (isolated if single else others).append(frame)
    return others, isolated


def atomic_energies(
    setting: str | dict[str, float], frames: Sequence[Frame], isolated: Sequence[Frame], elements: Sequence[str]
) -> dict[str, float]:
    """E0 of every element in eV.

    Args:
        setting: ``least_squares``, ``isolated_atoms``, or the energies by symbol.
        frames: training frames, for least squares.
        isolated: frames of isolated atoms.
        elements: symbols that need an energy.

    Raises:
        DataError: an element has no energy, or two different ones.
    """
    if setting == "least_squares":
        return least_squares_energies(frames, elements)
    if isinstance(setting, dict):
        energies, origin = dict(setting), "model.e0"
    else:
        energies, origin = isolated_atom_energies(isolated), "isolated atoms in the training data"
    missing = [element for element in elements if element not in energies]
    if missing:
        raise DataError(
            f"{origin}: no energy of {', '.join(missing)}; the data holds {', '.join(elements)}. Add it, or use "
            f"model.e0: least_squares"
        )
    return {element: float(energies[element]) for element in elements}


def isolated_atom_energies(isolated: Sequence[Frame]) -> dict[str, float]:
    """Energies by symbol of frames of one atom each.

    Raises:
        DataError: two frames of an element differ.
    """
    energies: dict[str, float] = {}
    for frame in isolated:
        if frame.energy is None:
            continue
        symbol = frame.atoms.symbols[0]
        known = energies.setdefault(symbol, frame.energy)
        if abs(known - frame.energy) > ISOLATED_ATOM_TOLERANCE:
            raise DataError(f"{frame.source}: isolated {symbol} has {frame.energy} eV, an earlier frame {known} eV")
    return energies


def least_squares_energies(frames: Sequence[Frame], elements: Sequence[str]) -> dict[str, float]:
    """Energies per element that reproduce the total energies best; smallest norm where that is not unique.

    When all frames have the same composition only the sum is determined. The values then have no meaning one
    by one, and another composition needs energies from isolated atoms.

    Raises:
        DataError: no frame has an energy.
    """
    labelled = frames_with_energy(frames)
    return fitted_energies(labelled, np.array([frame.energy for frame in labelled]), elements)


def frames_with_energy(frames: Sequence[Frame]) -> list[Frame]:
    """The frames that carry an energy.

    Raises:
        DataError: none does.
    """
    labelled = [frame for frame in frames if frame.energy is not None]
    if not labelled:
        raise DataError(
            "model.e0: least_squares needs energies, but no training frame has one; give model.e0 by element "
            "(0 for each trains on forces alone)"
        )
    return labelled


def fitted_energies(frames: Sequence[Frame], energies: np.ndarray, elements: Sequence[str]) -> dict[str, float]:
    """Energies per element whose sums over the atoms of each frame come closest to ``energies`` [n_frames], per atom.

    Of smallest norm where that is not unique: an element that no frame has gets 0.
    """
    counts = np.zeros((len(frames), len(elements)))
    for row, frame in zip(counts, frames, strict=True):
        row += np.bincount(species_indices(frame.atoms, elements, frame.source), minlength=len(elements))
    sizes = counts.sum(axis=1)
    solution = np.linalg.lstsq(counts / sizes[:, None], energies / sizes, rcond=None)[0]
    return dict(zip(elements, solution.tolist(), strict=True))
