"""The operators with the sizes and tables of a MACE model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tesseral.models.mace_layers import MaceMessageLayer
from tesseral.models.message_model import MessageModel


class MaceOperators(MessageModel):
    """Density and radial functions of models whose layers have tables of their own, for pairs of species or for all.

    ReferenceMaceModel replaces `density_of_degrees`, `density_gradient`, `radial` and `radial_gradient`.
    """

    if TYPE_CHECKING:  # TorchScript does not take annotations in the class body
        later: Sequence[MaceMessageLayer]

    def tables_of_edges(self, centers: Tensor, neighbors: Tensor, species: Tensor) -> Tensor:
        """Index [E] of each edge's table where each pair of species has its own."""
        return species[centers] * self.n_species + species[neighbors]

    def radial_functions(self, index: int, distances: Tensor, tables: Tensor) -> Tensor:
        """Radial functions [E, Q_index] of a layer after the first."""
        table = self.table_of_layer(index)
        return self.radial(distances, table, chosen_tables(table, tables))

    def radial_functions_gradient(self, index: int, gradient: Tensor, distances: Tensor, tables: Tensor) -> Tensor:
        """Vector-Jacobian product [E] of `radial_functions` with `gradient` [E, Q_index]."""
        table = self.table_of_layer(index)
        return self.radial_gradient(gradient, distances, table, chosen_tables(table, tables))

    def table_of_layer(self, index: int) -> Tensor:
        """[n_tables, n_intervals, Q_t, degree+1]"""
        table = self.radial_table
        for position, layer in enumerate(self.later):
            if position + 1 == index:
                table = layer.radial_table
        return table

    def density(
        self,
        vectors: Tensor,
        centers: Tensor,
        neighbor_species: Tensor,
        n_atoms: int,
        tables: Tensor | None = None,
    ) -> Tensor:
        """See the base class; tables: [E], not needed where one table serves all pairs of species."""
        return self.density_of_degrees(self.l_max, vectors, centers, neighbor_species, n_atoms, tables)

    def scalar_density(
        self, vectors: Tensor, centers: Tensor, neighbor_species: Tensor, n_atoms: int, tables: Tensor
    ) -> Tensor:
        """The density of degree 0 only: [n_atoms, S*Q_0]."""
        return self.density_of_degrees(0, vectors, centers, neighbor_species, n_atoms, tables)[:, :, 0]

    def density_of_degrees(
        self,
        l_max: int,
        vectors: Tensor,
        centers: Tensor,
        neighbor_species: Tensor,
        n_atoms: int,
        tables: Tensor | None,
    ) -> Tensor:
        """The density up to a degree."""
        return torch.ops.tesseral.density(
            vectors,
            centers,
            neighbor_species,
            n_atoms,
            self.n_species,
            l_max,
            self.radial_basis,
            self.n_radial,
            self.cutoff,
            self.radial_table,
            chosen_tables(self.radial_table, tables),
        )

    def density_gradient(
        self,
        gradient: Tensor,
        vectors: Tensor,
        centers: Tensor,
        neighbor_species: Tensor,
        tables: Tensor | None = None,
    ) -> Tensor:
        """See the base class."""
        return torch.ops.tesseral.density_gradient(
            gradient,
            vectors,
            centers,
            neighbor_species,
            self.n_species,
            self.l_max,
            self.radial_basis,
            self.n_radial,
            self.cutoff,
            self.radial_table,
            chosen_tables(self.radial_table, tables),
        )

    def radial(self, distances: Tensor, table: Tensor, tables: Tensor | None) -> Tensor:
        """Radial functions [E, Q] of a table at distances [E] Å."""
        return torch.ops.tesseral.radial_basis(distances, self.radial_basis, table.size(2), self.cutoff, table, tables)

    def radial_gradient(self, gradient: Tensor, distances: Tensor, table: Tensor, tables: Tensor | None) -> Tensor:
        """Vector-Jacobian product [E] of `radial` with `gradient` [E, Q]."""
        return torch.ops.tesseral.radial_basis_gradient(
            gradient, distances, self.radial_basis, table.size(2), self.cutoff, table, tables
        )


def chosen_tables(table: Tensor, tables: Tensor | None) -> Tensor | None:
    """The indices of the edges' tables for a radial table [n_tables, ..] that has several."""
    return tables if table.size(0) > 1 else None
