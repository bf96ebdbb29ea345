"""The models on the plain-PyTorch operators: oracles of the tests and baseline of the benchmarks."""

from __future__ import annotations

from torch import Tensor

from tesseral.kernel import reference
from tesseral.models.energy_model import EnergyModel
from tesseral.models.layered import LayeredModel
from tesseral.models.local import LocalModel
from tesseral.models.mace import MaceModel
from tesseral.models.mace_operators import chosen_tables
from tesseral.models.message_model import MessageModel


class ReferenceOperators(EnergyModel):
    """The operators of a model without the compiled kernel; slow, not scriptable."""

    def prepare_operators(self) -> None:
        """Nothing to load."""

    def density(self, vectors: Tensor, centers: Tensor, neighbor_species: Tensor, n_atoms: int) -> Tensor:
        sizes = (self.n_species, self.l_max, self.radial_basis, self.n_radial, self.cutoff, self.radial_table)
        return reference.density(vectors, centers, neighbor_species, n_atoms, *sizes)

    def density_gradient(self, gradient: Tensor, vectors: Tensor, centers: Tensor, neighbor_species: Tensor) -> Tensor:
        sizes = (self.n_species, self.l_max, self.radial_basis, self.n_radial, self.cutoff, self.radial_table)
        return reference.density_gradient(gradient, vectors, centers, neighbor_species, *sizes)

    def mix(self, features: Tensor, weights: Tensor, species: Tensor) -> Tensor:
        return reference.mix(features, weights, species)

    def product(self, A: Tensor, coefficients: Tensor, species: Tensor, tree: Tensor, roots: Tensor) -> Tensor:
        return reference.symmetric_product(A, coefficients, species, tree, roots)

    def zbl(
        self, vectors: Tensor, centers: Tensor, center_numbers: Tensor, neighbor_numbers: Tensor, n_atoms: int
    ) -> Tensor:
        sizes = (n_atoms, self.zbl_inner, self.zbl_outer)
        return reference.zbl(vectors, centers, center_numbers, neighbor_numbers, *sizes)


class ReferenceLocalModel(ReferenceOperators, LocalModel):
    """`LocalModel` without the compiled kernel: same arguments, state and results."""


class ReferenceMessages(ReferenceOperators, MessageModel):
    """The operators of a model with messages without the compiled kernel."""

    def map_rows(self, values: Tensor, weights: Tensor, degrees: list[int], species: Tensor | None) -> Tensor:
        return reference.map_rows(values, weights, degrees, species)

    def harmonics(self, vectors: Tensor) -> Tensor:
        return reference.spherical_harmonics(vectors, self.l_max)

    def harmonics_gradient(self, gradient: Tensor, vectors: Tensor) -> Tensor:
        return reference.spherical_harmonics_gradient(gradient, vectors, self.l_max)

    def message(
        self,
        radial: Tensor,
        angular: Tensor,
        h: Tensor,
        weights: Tensor,
        centers: Tensor,
        neighbors: Tensor,
        n_atoms: int,
        terms: Tensor,
        couplings: Tensor,
        n_outputs: int | None = None,
    ) -> Tensor:
        return reference.message(radial, angular, h, weights, centers, neighbors, n_atoms, terms, couplings, n_outputs)


class ReferenceLayeredModel(ReferenceMessages, LayeredModel):
    """`LayeredModel` without the compiled kernel: same arguments, state and results."""

    def radial_basis_of(self, distances: Tensor) -> Tensor:
        return reference.radial_basis(distances, self.radial_basis, self.n_radial, self.cutoff, self.radial_table)

    def radial_basis_gradient(self, gradient: Tensor, distances: Tensor) -> Tensor:
        sizes = (self.radial_basis, self.n_radial, self.cutoff, self.radial_table)
        return reference.radial_basis_gradient(gradient, distances, *sizes)


class ReferenceMaceModel(ReferenceMessages, MaceModel):
    """`MaceModel` without the compiled kernel: same arguments, state and results."""

    def density(
        self,
        vectors: Tensor,
        centers: Tensor,
        neighbor_species: Tensor,
        n_atoms: int,
        tables: Tensor | None = None,
    ) -> Tensor:
        return MaceModel.density(self, vectors, centers, neighbor_species, n_atoms, tables)

    def density_of_degrees(
        self,
        l_max: int,
        vectors: Tensor,
        centers: Tensor,
        neighbor_species: Tensor,
        n_atoms: int,
        tables: Tensor | None,
    ) -> Tensor:
        sizes = (n_atoms, self.n_species, l_max, self.radial_basis, self.n_radial, self.cutoff, self.radial_table)
        return reference.density(vectors, centers, neighbor_species, *sizes, chosen_tables(self.radial_table, tables))

    def density_gradient(
        self,
        gradient: Tensor,
        vectors: Tensor,
        centers: Tensor,
        neighbor_species: Tensor,
        tables: Tensor | None = None,
    ) -> Tensor:
        sizes = (self.n_species, self.l_max, self.radial_basis, self.n_radial, self.cutoff, self.radial_table)
        which = chosen_tables(self.radial_table, tables)
        return reference.density_gradient(gradient, vectors, centers, neighbor_species, *sizes, which)

    def radial(self, distances: Tensor, table: Tensor, tables: Tensor | None) -> Tensor:
        return reference.radial_basis(distances, self.radial_basis, table.size(2), self.cutoff, table, tables)

    def radial_gradient(self, gradient: Tensor, distances: Tensor, table: Tensor, tables: Tensor | None) -> Tensor:
        sizes = (self.radial_basis, table.size(2), self.cutoff, table, tables)
        return reference.radial_basis_gradient(gradient, distances, *sizes)
