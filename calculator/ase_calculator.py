"""The ASE calculator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from tesseral.calculator.device_neighbors import verlet_list
from tesseral.calculator.native import NativeModel, refuse_unknown_keywords, voigt_stresses

#: Default Verlet skin in Å; silicon at 600 K then keeps a list for about 50 steps of 1 fs.
DEFAULT_SKIN = 1.0
OPTIONS = ("dtype", "device", "threads", "skin")


class TesseralCalculator(Calculator):
    """Energies, forces and stresses of a Tesseral model for ASE.

    ``energy`` and ``free_energy`` (eV) are the same number; ``energies`` sum to it. ``stress`` is (1/V)
    dE/dstrain in eV/Å^3, tensile positive, in Voigt order xx, yy, zz, yz, xz, xy; ``stresses`` sum to it.
    Stresses exist only for systems that are periodic in three directions; otherwise asking for one raises
    PropertyNotImplementedError. The atoms handed in are never changed.

    Attributes:
        metadata: contents of the model's metadata.json (species, cutoff, training errors, citation, ...).
        model: the opened model.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress", "stresses"]  # noqa: RUF012

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        dtype: str = "mixed",
        device: str = "cpu",
        threads: int | None = None,
        skin: float = DEFAULT_SKIN,
        **unknown: Any,
    ) -> None:
        """Open a model.

        Args:
            model: path of a model file, or the name of a shipped model such as ``silicon``.
            dtype: "float64"; "float32"; or "mixed", a float32 kernel with float64 accumulation.
            device: "cpu", "cuda" (the first NVIDIA GPU) or "cuda:N".
            threads: threads of the engine and the neighbour list; None is 1 (start many jobs, or ask for
                more).
            skin: extra radius of the neighbour list in Å. It changes the speed, not the results; 0 builds a
                new list at every call.

        Raises:
            TypeError: an unknown keyword, with the nearest known one.
            ValueError: an option or the model file cannot be used.
            FileNotFoundError: no such file and no shipped model of that name.
        """
        refuse_unknown_keywords("TesseralCalculator", unknown, OPTIONS)
        super().__init__()
        self.model = NativeModel(model, dtype, threads, device=device)
        self.metadata = self.model.metadata
        name = os.path.abspath(model) if os.path.isfile(model) else os.fspath(model)  # copies may be made elsewhere
        self.parameters.update(model=name, dtype=dtype, device=device, threads=self.model.threads, skin=float(skin))
        self._edges = verlet_list(self.model, skin)

    def set(self, **options: Any) -> dict[str, Any]:
        """Options are fixed when the model is opened.

        Raises:
            TypeError: any option.
        """
        if options:
            raise TypeError(f"TesseralCalculator.set({', '.join(options)}): options are fixed; make a new calculator")
        return {}

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """Which of positions, numbers, cell and pbc changed since the last calculation, however little."""
        if self.atoms is None:
            return list(all_changes)
        pairs = {
            "positions": (self.atoms.positions, atoms.positions),
            "numbers": (self.atoms.numbers, atoms.numbers),
            "cell": (self.atoms.cell.array, atoms.cell.array),
            "pbc": (self.atoms.pbc, atoms.pbc),
        }
        return [name for name, (old, new) in pairs.items() if not np.array_equal(old, new)]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute everything the model has for `atoms` into `results`; called by ASE.

        Raises:
            StructureError: an unknown element, a position that is not finite, or an unusable cell.
            PropertyNotImplementedError: a stress was asked for and the system is not periodic in three
                directions.
            CalculationFailed: the model's energy or forces are not finite there.
        """
        super().calculate(atoms, properties, system_changes)
        structure = cast(Atoms, self.atoms)
        _check_stress_exists(structure, properties)
        species = self.model.species_indices(structure.numbers)
        edges = self._edges.update(structure.positions, structure.cell.array, structure.pbc)
        self.results = ase_results(structure, *self.model.compute(structure.positions, species, *edges))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles open the model file again, with the same options and without results."""
        return _reopen, (dict(self.parameters),)


def _reopen(parameters: dict[str, Any]) -> TesseralCalculator:
    return TesseralCalculator(**parameters)


def _check_stress_exists(atoms: Atoms, properties: Sequence[str]) -> None:
    asked = [name for name in properties if name in ("stress", "stresses")]
    if asked and not atoms.pbc.all():
        raise PropertyNotImplementedError(
            f"{asked[0]} needs a system periodic in three directions (otherwise it has no volume), got "
            f"pbc = {atoms.pbc.tolist()}"
        )


def ase_results(atoms: Atoms, energies: np.ndarray, forces: np.ndarray, virials: np.ndarray) -> dict[str, Any]:
    """ASE's results of one structure.

    Args:
        atoms: the structure.
        energies: [n_atoms] in eV.
        forces: [n_atoms, 3] in eV/Å.
        virials: [n_atoms, 3, 3] in eV.

    Returns:
        energy, free_energy, energies, forces and, where periodic in three directions, stress [6] and stresses
        [n_atoms, 6] in eV/Å^3.
    """
    energy = float(energies.sum())
    results = {"energy": energy, "free_energy": energy, "energies": energies, "forces": forces}
    if atoms.pbc.all():
        stresses = voigt_stresses(virials, abs(np.linalg.det(atoms.cell.array)))
        results |= {"stress": stresses.sum(axis=0), "stresses": stresses}
    return results
