"""The driver that i-PI 3.3 loads, as a file or as this module: all beads in one call of the engine.

`tesseral ipi-driver` prints the path of this file. i-PI executes it outside the package, under the name `ipi_driver`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, cast

import ase.io
import numpy as np
from ase import Atoms
from ase.io.formats import filetype, open_with_compression
from numpy.typing import NDArray

from tesseral.calculator.bead_list import BeadList, BeadModel
from tesseral.calculator.errors import StructureError
from tesseral.calculator.ipi_programs import explained_start, guard_client, stop_ipi
from tesseral.calculator.native import refuse_unknown_keywords

try:
    from ipi.pes.dummy import Dummy_driver
    from ipi.utils.units import unit_to_internal
except ImportError as error:
    raise ImportError("the i-PI driver needs i-PI 3.3: pip install 'tesseral[ipi]'") from error

__DRIVER_NAME__ = "tesseral"
__DRIVER_CLASS__ = "TesseralDriver"

DEFAULT_SKIN = 1.0
OPTIONS = ("model", "template", "dtype", "device", "threads", "skin", "pbc", "atomic_energies")
#: formats of ASE that always say which directions are periodic
FORMATS_WITH_PBC = ("traj", "json", "db")

#: potential, forces [n_atoms, 3], virial [3, 3] in Hartree atomic units, extras as JSON or an empty string
BeadResult = tuple[float, NDArray[np.float64], NDArray[np.float64], str]


class TesseralDriver(Dummy_driver):
    """Potential, forces, virial and extras of a Tesseral model for i-PI.

    Attributes:
        model: the opened model.
        numbers: [n_atoms] atomic numbers of the template.
        pbc: [3] which directions are periodic.
        beads: the neighbour lists.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        template: str | os.PathLike[str] | None = None,
        *surplus: Any,
        dtype: str = "mixed",
        device: str = "cpu",
        threads: int = 1,
        skin: float = DEFAULT_SKIN,
        pbc: str | None = None,
        atomic_energies: bool = False,
        verbose: bool = False,
        verbosity: bool = False,
        **unknown: Any,
    ) -> None:
        """Open a model and read the template; prints both.

        Args:
            model: path of a model file, or the name of a shipped model.
            template: structure file that ASE reads, with the atoms in i-PI's order. Elements and their number matter;
                positions do not.
            dtype: "mixed", "float32" or "float64".
            device: "cpu", "cuda" (the first NVIDIA GPU) or "cuda:N".
            threads: threads of the engine and the neighbour list.
            skin: extra radius of the neighbour list in Å. It changes the speed, not the results.
            pbc: periodic directions such as "TTT", "FFF" or "TTF"; None is what the template says, and TTT if it
                says nothing.
            atomic_energies: add each atom's energy to the extras, in Hartree.
            verbose, verbosity: given by i-PI; not used.

        Raises:
            TypeError: an unknown option, with the nearest known one, or one of the wrong type.
            ValueError: an option, the model file or the template cannot be used, or an element is not in the model.
            FileNotFoundError: no such model or template.
            SystemExit: instead of these, with the message, in the programs `i-pi` and `i-pi-py_driver`.
        """
        with explained_start():
            refuse_unknown_keywords("the i-PI driver", unknown, OPTIONS)
            if model is None or template is None or surplus:
                raise TypeError("the i-PI driver needs model=FILE,template=FILE; all other options have names")
            if not isinstance(atomic_energies, bool):
                raise TypeError(f"atomic_energies must be true or false, got {atomic_energies!r}")
            if isinstance(skin, bool) or not isinstance(skin, (int, float)):
                raise TypeError(f"skin must be a length in Å, got {skin!r}")
            self.model = BeadModel(model, dtype, threads, device=device)
            atoms, says_pbc = read_template(os.fspath(template))
            self.numbers: NDArray[np.integer] = atoms.numbers
            try:
                self._species = self.model.species_indices(atoms.numbers)
            except StructureError as error:
                raise StructureError(f"template {template}: {error}") from error
            self.pbc = _periodic_directions(pbc) if pbc is not None else atoms.pbc if says_pbc else np.ones(3, bool)
            self.beads = BeadList(self.model.cutoff, skin, self.pbc, threads=self.model.threads)
        self._template, self._atomic_energies = os.fspath(template), atomic_energies
        self._angstrom = unit_to_internal("length", "angstrom", 1.0)
        self._electronvolt = unit_to_internal("energy", "electronvolt", 1.0)
        self._force = unit_to_internal("force", "ev/ang", 1.0)
        self._announce(atoms.get_chemical_formula(), assumed=pbc is None and not says_pbc)
        super().__init__(verbose=bool(verbose))
        guard_client()

    def compute_structure(self, cell: NDArray[np.float64], pos: NDArray[np.float64]) -> BeadResult:
        """Results of one structure; arguments and errors as in :meth:`compute`."""
        return self.compute([cell], [pos])[0]

    def compute(self, cell: Any, pos: Any) -> Any:
        """Results of one structure, or a list of results for lists of structures.

        Args:
            cell: [3, 3] in Bohr, lattice vectors as columns; or a list of them. Not kept: i-PI uses the memory again.
            pos: [n_atoms, 3] in Bohr; or a list of as many.

        Returns:
            For each structure the potential, the forces [n_atoms, 3], the virial [3, 3] (minus volume times stress;
            without a volume, minus the sum of r_ij (x) dE/dr_ij, symmetrised) in Hartree atomic units, and the extras.

        Raises:
            StructureError: another number of atoms than in the template, a position that is not finite, or an
                unusable cell.
            CalculationFailed: energy or forces of a structure are not finite.
        """
        try:
            if isinstance(cell, list):
                return self._compute(cell, pos)
            return self._compute([cell], [pos])[0]
        except Exception as error:
            stop_ipi(error)
            raise

    def _compute(
        self, cells: Sequence[NDArray[np.float64]], positions: Sequence[NDArray[np.float64]]
    ) -> list[BeadResult]:
        if len(cells) != len(positions):
            raise ValueError(f"i-PI sends {len(cells)} cells and {len(positions)} configurations")
        for configuration in positions:
            if len(configuration) != len(self.numbers):
                raise StructureError(
                    f"i-PI sends {len(configuration)} atoms, but the template {self._template} has "
                    f"{len(self.numbers)}: use the structure of i-PI's input as template"
                )
        n_different = _without_padding(cells, positions)
        points = np.stack(positions[:n_different]) / self._angstrom
        vectors = np.stack(cells[:n_different]).transpose(0, 2, 1) / self._angstrom
        results: list[BeadResult] = [None] * n_different  # type: ignore[list-item]
        for group in self.beads.update(points, vectors):
            batch = self.model.compute_batch(group, self._species)
            for member, *arrays in zip(group.members, *batch, strict=True):
                results[member] = self._in_internal_units(*arrays)
        return results + [_copy(results[-1]) for _ in range(len(positions) - n_different)]

    def _in_internal_units(
        self, energies: NDArray[np.float64], forces: NDArray[np.float64], virials: NDArray[np.float64]
    ) -> BeadResult:
        """Results of one structure; arguments [n_atoms], [n_atoms, 3], [n_atoms, 3, 3] in eV and Å."""
        total = virials.sum(axis=0)
        extras = ""
        if self._atomic_energies:
            extras = json.dumps({"atomic_energies": (energies * self._electronvolt).tolist()})
        return (
            float(energies.sum()) * self._electronvolt,
            forces * self._force,
            (total + total.T) * (-0.5 * self._electronvolt),
            extras,
        )

    def _announce(self, formula: str, assumed: bool) -> None:
        """Say what will be computed."""
        directions = "".join("FT"[int(periodic)] for periodic in self.pbc)
        note = f" (assumed: {self._template} does not say; pbc=FFF for a molecule without images)" if assumed else ""
        method = self.model.metadata.get("reference_method") or "reference method not stated"
        print(
            f" tesseral: {self.model.path}, {method}, cutoff {self.model.cutoff:g} Å\n"
            f" tesseral: {self.model.dtype} precision, threads {self.model.threads}, {self.model.instruction_set}\n"
            f" tesseral: {self._template}, {len(self.numbers)} atoms {formula}, pbc {directions}{note}",
            flush=True,
        )


def read_template(path: str) -> tuple[Atoms, bool]:
    """The (first) structure of a file, and whether the file says which directions are periodic.

    Raises:
        FileNotFoundError: no such file.
        ValueError: ASE cannot read it, or it has no atoms.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"template {path}: no such file")
    try:
        file_format = filetype(path)
        atoms = cast(Atoms, ase.io.read(path, index=0, format=file_format))
    except Exception as error:
        raise ValueError(f"template {path}: ASE cannot read it ({type(error).__name__}: {error})") from error
    if not len(atoms):
        raise ValueError(f"template {path}: there are no atoms in it")
    return atoms, bool(atoms.pbc.any()) or file_format in FORMATS_WITH_PBC or _has_pbc_entry(path, file_format)


def _has_pbc_entry(path: str, file_format: str) -> bool:
    """Whether the comment of an extended XYZ file has pbc="..."; without it, pbc="F F F" looks the same to ASE."""
    if file_format != "extxyz":
        return False
    with open_with_compression(path, "rt") as file:
        return "pbc=" in (file.readline() + file.readline()).lower()


def _periodic_directions(pbc: object) -> NDArray[np.bool_]:
    """[3] bool of a text such as TTF.

    Raises:
        ValueError: another text.
    """
    letters = str(pbc).upper()
    if len(letters) != 3 or set(letters) - {"T", "F"}:
        raise ValueError(f"pbc must be three letters T or F such as TTT or FFF, got {pbc!r}")
    return np.array([letter == "T" for letter in letters])


def _without_padding(cells: Sequence[NDArray[np.float64]], positions: Sequence[NDArray[np.float64]]) -> int:
    """Number of structures without repetitions of the last, with which i-PI's sockets fill up a batch."""
    n = len(positions)
    while n > 1 and np.array_equal(positions[n - 1], positions[n - 2]) and np.array_equal(cells[n - 1], cells[n - 2]):
        n -= 1
    return n


def _copy(result: BeadResult) -> BeadResult:
    """Results in memory of their own: i-PI writes into the virial."""
    potential, forces, virial, extras = result
    return potential, forces.copy(), virial.copy(), extras
