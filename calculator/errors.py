"""The errors that the calculators raise for structures they cannot compute."""

from __future__ import annotations

from ase.calculators.calculator import InputError


class StructureError(InputError, ValueError):
    """A structure that cannot be computed; the message names the atom or the cell vector.

    It is both ASE's own exception for unusable input and a ValueError.
    """
