"""Tesseral models in ASE: the calculator, batched evaluation and neighbour lists. Does not import torch."""

from __future__ import annotations

from tesseral.calculator.ase_calculator import TesseralCalculator
from tesseral.calculator.errors import StructureError
from tesseral.calculator.evaluate import evaluate
from tesseral.calculator.neighbors import NeighborList, VerletList, neighbor_list

__all__ = ["NeighborList", "StructureError", "TesseralCalculator", "VerletList", "evaluate", "neighbor_list"]
