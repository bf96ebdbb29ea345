"""Screened nuclear repulsion with its own constants for each pair of species, as in MACE models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tesseral.models.exact_buffers import ExactBuffers
from tesseral.models.mace_network import Repulsion

KIND = "mace"  # in the entry "zbl" of an architecture


class PairRepulsion(ExactBuffers):
    """The formula of :class:`tesseral.models.mace_network.Repulsion`, without trainable parameters.

    Args:
        n_species: S; the arrays [S, S] are zeros until `take`.
        cutoff: of the model in Å; beyond it there is no repulsion.
        zbl: entry "zbl" of the architecture: kind, power, amplitudes, decays; None for no repulsion.
    """

    exact_buffers = ("strength", "inverse_screening", "outer")

    if TYPE_CHECKING:  # buffers; TorchScript does not take annotations of tensors in the class body
        strength: Tensor
        inverse_screening: Tensor
        outer: Tensor

    def __init__(self, n_species: int, cutoff: float, zbl: Mapping[str, Any] | None) -> None:
        super().__init__()
        if zbl is not None and zbl.get("kind") != KIND:
            raise ValueError(f"model: zbl of a MACE model must have the kind {KIND!r}, got {zbl.get('kind')!r}")
        self.cutoff = cutoff
        self.power = int(zbl["power"]) if zbl is not None else 1
        self.amplitudes = [float(value) for value in zbl["amplitudes"]] if zbl is not None else [0.0]
        self.decays = [float(value) for value in zbl["decays"]] if zbl is not None else [0.0]
        for name in self.exact_buffers:
            self.register_buffer(name, torch.zeros((n_species, n_species), dtype=torch.float64))

    def forward(self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor, n_atoms: int) -> Tensor:
        """Energies [n_atoms] in eV of edge vectors [E, 3] Å; centers, neighbors: [E] int64; species: [N] int64."""
        center_species, neighbor_species = species[centers], species[neighbors]
        distances = torch.linalg.vector_norm(vectors, dim=1)
        reduced = distances * self.inverse_screening[center_species, neighbor_species]
        screening = torch.zeros_like(distances)
        for amplitude, decay in zip(self.amplitudes, self.decays):  # noqa: B905 (TorchScript knows no `strict`)
            screening = screening + amplitude * torch.exp(-decay * reduced)
        outer = self.outer[center_species, neighbor_species]
        x, p = (distances / outer).clamp(max=1.0), self.power
        envelope = 1.0 - x**p * ((p + 1) * (p + 2) / 2 - x * (p * (p + 2) - x * (p * (p + 1) / 2)))
        within = (distances < outer) & (distances < self.cutoff)
        energies = self.strength[center_species, neighbor_species] / distances * screening * envelope
        energies = torch.where(within, energies, torch.zeros_like(energies))
        return torch.zeros(n_atoms, dtype=energies.dtype, device=energies.device).index_add(0, centers, energies)

    def take(self, repulsion: Repulsion) -> None:
        """Set the arrays."""
        for name in self.exact_buffers:
            getattr(self, name).copy_(torch.tensor(getattr(repulsion, name)))

    def architecture(self) -> dict[str, Any]:
        """The entry "zbl" of the architecture."""
        return {"kind": KIND, "power": self.power, "amplitudes": self.amplitudes, "decays": self.decays}

    def native_parameters(self) -> dict[str, NDArray[np.float64]]:
        """Arrays of the model file: repulsion_strength (eV Å), _inverse_screening (1/Å) and _outer (Å), [S, S]."""
        return {f"repulsion_{name}": getattr(self, name).double().cpu().numpy().copy() for name in self.exact_buffers}
