"""ASE structures as LAMMPS takes them: its units, its orientation of the cell, its data files.

LAMMPS wants the first cell vector along x, the second in the xy plane and a right-handed cell of full volume. So the
lattice is turned, a left-handed one after its vectors were reversed (which is the same lattice), and directions that
are not periodic get an edge of their own, perpendicular to the periodic ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tesseral.calculator.neighbors import checked_geometry

#: CODATA 2018: elementary charge (C, exact) and Avogadro constant (1/mol, exact)
ELEMENTARY_CHARGE, AVOGADRO = 1.602176634e-19, 6.02214076e23
#: tilts shorter than this part of the cell are rounding errors of the rotation
SMALLEST_TILT = 1e-14


@dataclass(frozen=True)
class Units:
    """One of LAMMPS' systems of units.

    Attributes:
        energy: LAMMPS' unit of energy in eV.
        length: LAMMPS' unit of length in Å.
        pressure: LAMMPS' `nktv2p`, which turns its energy per volume into its pressure.
    """

    energy: float
    length: float
    pressure: float


UNITS = {
    "metal": Units(1.0, 1.0, 1.6021765e6),
    "real": Units(4184.0 / (AVOGADRO * ELEMENTARY_CHARGE), 1.0, 68568.415),
    "si": Units(1.0 / ELEMENTARY_CHARGE, 1e10, 1.0),
    "electron": Units(27.211386245988, 0.529177210903, 2.94210108e13),
}


class LammpsBox:
    """A structure in LAMMPS' orientation, lengths in Å.

    Attributes:
        periodic: [3] bool.
        cell: [3, 3] lower triangular, vectors as rows.
        origin: [3], zero in periodic directions.
        positions: [n_atoms, 3] inside the box.
        frame: [3, 3] LAMMPS' axes as rows in ASE's frame.
    """

    def __init__(self, atoms: Atoms, margin: float) -> None:
        """Turn and wrap a structure.

        Args:
            atoms: the structure; it is not changed.
            margin: empty space in Å on either side in directions that are not periodic.

        Raises:
            StructureError: a position or periodic cell vector cannot be used.
        """
        positions, cell, self.periodic = checked_geometry(atoms.positions, atoms.cell.array, atoms.pbc)
        lattice = np.where(self.periodic[:, None], cell, 0.0)
        n_periodic = int(self.periodic.sum())
        if n_periodic == 0:
            lattice = np.eye(3)
        elif n_periodic < 3:
            lattice[~self.periodic] = np.linalg.svd(cell[self.periodic])[2][n_periodic:]
        self.cell, self.frame = _turned(lattice if np.linalg.det(lattice) > 0 else -lattice)
        turned = positions @ self.frame.T
        images = np.floor(turned @ np.linalg.inv(self.cell)) * self.periodic
        self._offsets = images @ self.cell
        self.positions = turned - self._offsets
        low = self.positions.min(axis=0, initial=np.inf) - margin
        high = self.positions.max(axis=0, initial=-np.inf) + margin
        self.origin = np.where(self.periodic, 0.0, low)
        self.cell[~self.periodic, ~self.periodic] = (high - low)[~self.periodic]

    def vectors_in_ase(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Vectors [..., 3] of LAMMPS in ASE's orientation."""
        return vectors @ self.frame

    def tensors_in_ase(self, tensors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Tensors [..., 3, 3] of LAMMPS in ASE's orientation."""
        return self.frame.T @ tensors @ self.frame

    def positions_in_ase(self, unwrapped: NDArray[np.float64]) -> NDArray[np.float64]:
        """LAMMPS' unwrapped positions [n_atoms, 3] in the order of the structure, as continued from ASE's."""
        return (unwrapped + self._offsets) @ self.frame

    def data_file(
        self,
        types: NDArray[np.integer],
        masses: Sequence[float],
        length: float,
        velocities: NDArray[np.float64] | None = None,
    ) -> str:
        """Text of a LAMMPS data file of `atom_style atomic`; atom k has the id k + 1.

        Args:
            types: [n_atoms] LAMMPS type of each atom, from 1.
            masses: of each type, in LAMMPS' unit.
            length: LAMMPS' unit of length in Å.
            velocities: [n_atoms, 3] in LAMMPS' unit and ASE's orientation; None is at rest.
        """
        low, high = self.origin / length, (self.origin + self.cell.diagonal()) / length
        lines = ["# written by Tesseral", f"{len(self.positions)} atoms", f"{len(masses)} atom types"]
        lines += [f"{low[k]:.17g} {high[k]:.17g} {axis}lo {axis}hi" for k, axis in enumerate("xyz")]
        tilts = np.array([self.cell[1, 0], self.cell[2, 0], self.cell[2, 1]]) / length
        if tilts.any():
            lines.append("{:.17g} {:.17g} {:.17g} xy xz yz".format(*tilts))
        lines += ["", "Masses", "", *(f"{k} {mass:.17g}" for k, mass in enumerate(masses, 1))]
        lines += ["", "Atoms # atomic", ""]
        for k, (kind, (x, y, z)) in enumerate(zip(types, self.positions / length, strict=True), 1):
            lines.append(f"{k} {kind} {x:.17g} {y:.17g} {z:.17g}")
        if velocities is not None:
            lines += ["", "Velocities", ""]
            lines += [f"{k} {x:.17g} {y:.17g} {z:.17g}" for k, (x, y, z) in enumerate(velocities @ self.frame.T, 1)]
        return "\n".join(lines) + "\n"

    @property
    def boundary(self) -> str:
        """Arguments of LAMMPS' command `boundary`."""
        return " ".join("p" if periodic else "f" for periodic in self.periodic)


def _turned(lattice: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`cell`, lower triangular with a positive diagonal, and the rotation `frame` in lattice = cell @ frame."""
    orthogonal, upper = np.linalg.qr(lattice.T)
    signs = np.sign(upper.diagonal())
    cell = upper.T * signs
    cell[np.abs(cell) < SMALLEST_TILT * np.abs(cell).max()] = 0.0
    return cell, signs[:, None] * orthogonal.T
