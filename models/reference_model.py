"""The local model on the plain-PyTorch operators: oracle of the tests and baseline of the benchmarks."""

from __future__ import annotations

from torch import Tensor

from tesseral.kernel import reference
from tesseral.models.local import LocalModel


class ReferenceLocalModel(LocalModel):
    """`LocalModel` without the compiled kernel: same arguments, state and results; slow, not scriptable."""

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

    def symmetric_product(self, A: Tensor, coefficients: Tensor, species: Tensor) -> Tensor:
        return reference.symmetric_product(A, coefficients, species, self.product_tree, self.product_roots)

    def zbl(
        self, vectors: Tensor, centers: Tensor, center_numbers: Tensor, neighbor_numbers: Tensor, n_atoms: int
    ) -> Tensor:
        sizes = (n_atoms, self.zbl_inner, self.zbl_outer)
        return reference.zbl(vectors, centers, center_numbers, neighbor_numbers, *sizes)
