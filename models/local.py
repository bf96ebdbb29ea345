"""The local equivariant model: density, channel mixing, symmetric product, readout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.data import atomic_numbers
from numpy.typing import NDArray
from torch import Tensor

from tesseral.kernel import load_operators
from tesseral.kernel.reference import RADIAL_BASES
from tesseral.models.coupling import symmetric_basis
from tesseral.models.normalisation import initialise_scales
from tesseral.models.readout import Readout, normal_parameter


class LocalModel(torch.nn.Module):
    """Energies per atom and their derivatives by the edge vectors, from the neighbours within the cutoff.

    D = density(edges)                                          [N, C, LM], C = n_species * n_radial
    A[i, lm, k] = sum_c D[i, c, lm] mixing[z_i, l, c, k]        [N, LM, K]
    B[i, k] = symmetric products of A[i, :, k], orders 1..nu    [N, K], weights [n_species, n_paths, K]
    h = B @ features                                            [N, F]
    E_i = e0[z_i] + shift[z_i] + scale (h . linear + MLP(h) - MLP(0)) + ZBL_i

    The atomic cluster expansion (Drautz, 10.1103/PhysRevB.99.014104) with learned radial channels, as in the
    first layer of MACE (Batatia et al., arXiv:2206.07697), and a nonlinear readout. An isolated atom has e0 +
    shift. Trainable parameters are of order one; the fixed buffers density_scale [l_max+1, C] and path_scale
    [n_paths] normalise the intermediate results on data, see `initialise_scales`. The model is created in
    float64; `.to(torch.float32)` converts all but e0, shift and scale, which are Python floats and are added
    in float64. `torch.jit.script(model)` gives a module that calls torch.ops.tesseral and needs no Python.

    Args:
        species: chemical symbols; the integer species in all calls index this list.
        cutoff: Å.
        l_max, n_radial, channels, nu, features: sizes, see above; nu is 1..4.
        radial_basis: "bessel", "chebyshev", "gaussian" or "spline"; "spline" reads `radial_table`
            [n_intervals, n_radial, 4], see tesseral.kernel.reference.radial_basis.
        readout: hidden widths of the MLP; empty for a linear readout only.
        e0: energy of each free atom in eV.  shift: further energy per atom of each species in eV, default 0.
        scale: energy of one unit of the readout in eV.
        zbl: (inner, outer) in Å of the core repulsion, or None.
        seed: of the random initial parameters.

    Raises ValueError for an argument out of range or in contradiction to another, naming both.
    """

    if TYPE_CHECKING:  # buffers; TorchScript does not take annotations in the class body
        density_scale: Tensor
        path_scale: Tensor
        product_basis: Tensor
        product_tree: Tensor
        product_roots: Tensor
        radial_table: Tensor
        numbers: Tensor

    def __init__(
        self,
        *,
        species: Sequence[str],
        cutoff: float,
        l_max: int,
        n_radial: int,
        channels: int,
        nu: int,
        features: int,
        readout: Sequence[int],
        e0: Mapping[str, float],
        radial_basis: str = "bessel",
        shift: Mapping[str, float] | None = None,
        scale: float = 1.0,
        zbl: tuple[float, float] | None = None,
        radial_table: NDArray[np.float64] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_species(species, e0, shift or {})
        _check_ranges(cutoff, zbl, (l_max + 1, n_radial, channels, features, *readout))
        _check_radial_basis(radial_basis, n_radial, radial_table)
        self.prepare_operators()
        self.species, self.n_species = list(species), len(species)
        self.cutoff, self.l_max, self.n_radial, self.radial_basis = (
            float(cutoff),
            l_max,
            n_radial,
            radial_basis,
        )
        self.channels, self.nu, self.features, self.readout_widths = channels, nu, features, list(readout)
        self.e0 = [float(e0[symbol]) for symbol in species]
        self.shift = [float((shift or {}).get(symbol, 0.0)) for symbol in species]
        self.scale = float(scale)
        self.has_zbl = zbl is not None
        self.zbl_inner, self.zbl_outer = (float(zbl[0]), float(zbl[1])) if zbl is not None else (0.0, 0.0)

        generator = torch.Generator().manual_seed(seed)
        table = symmetric_basis(l_max, nu)
        n_paths, n_density = len(table.paths), self.n_species * n_radial
        self.mixing_weights = normal_parameter((self.n_species, l_max + 1, n_density, channels), generator)
        self.product_weights = normal_parameter((self.n_species, n_paths, channels), generator)
        self.features_weight = normal_parameter((channels, features), generator)
        self.readout = Readout(features, self.readout_widths, generator)

        def constant(name: str, values: Any, persistent: bool = False) -> None:
            self.register_buffer(name, torch.tensor(values), persistent=persistent)

        constant("density_scale", np.full((l_max + 1, n_density), n_density**-0.5), persistent=True)
        constant("path_scale", np.full(n_paths, n_paths**-0.5), persistent=True)
        constant("product_basis", table.basis)
        constant("product_tree", table.tree)
        constant("product_roots", table.roots)
        constant("radial_table", np.zeros((0, n_radial, 4)) if radial_table is None else np.asarray(radial_table))
        constant("numbers", np.array([atomic_numbers[symbol] for symbol in species], dtype=np.float64))

    def forward(self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        """Energies and edge gradients g_ij = dE/dr_ij.

        vectors: [E, 3] Å, r_ij = r_j - r_i + S @ cell; edges beyond the cutoff contribute nothing.
        centers, neighbors: [E] int64, sorted by center.  species: [N] int64.
        Returns energies [N] eV in float64 and edge gradients [E, 3] eV/Å in the dtype of `vectors`.
        """
        grad_was_enabled = torch.is_grad_enabled()
        if torch.jit.is_scripting():
            torch.set_grad_enabled(True)  # TorchScript has no context manager for this
            energies, gradients = self.energies_and_gradients(vectors, centers, neighbors, species, False)
            torch.set_grad_enabled(grad_was_enabled)
        else:
            with torch.enable_grad():
                energies, gradients = self.energies_and_gradients(vectors, centers, neighbors, species, False)
        energies = self.baseline().to(species.device)[species] + energies.detach().to(torch.float64)
        return energies, gradients.detach().to(vectors.dtype)

    def baseline(self) -> Tensor:
        """e0 + shift of each species [S], float64; one by one: TorchScript's torch.tensor(list) rounds to float32."""
        values = torch.zeros(self.n_species, dtype=torch.float64)
        for index in range(self.n_species):
            values[index].fill_(self.e0[index] + self.shift[index])
        return values

    def training_energies_and_gradients(
        self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Energies without e0 and shift, and edge gradients, differentiable by the parameters.

        Arguments as in `forward`; `vectors` are constants. Returns energies [N] eV and gradients [E, 3] eV/Å
        in the dtype of the model; under torch.no_grad() their values only.
        """
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            energies, gradients = self.energies_and_gradients(vectors, centers, neighbors, species, differentiable)
        return (energies, gradients) if differentiable else (energies.detach(), gradients.detach())

    def energies_and_gradients(
        self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor, differentiable: bool
    ) -> tuple[Tensor, Tensor]:
        """Energies [N] without e0 and shift, and edge gradients [E, 3]; needs the gradient mode.

        The density has no parameters: with g_D = dE/dD the edge gradient is the density's vector-Jacobian
        product of g_D, linear in g_D. So training differentiates g_D by the parameters, never the density
        twice.
        """
        edges = vectors.detach().to(self.density_scale.dtype)
        neighbor_species = species[neighbors]
        features = self.density(edges, centers, neighbor_species, species.size(0)).requires_grad_(True)
        energies = self.scaled_energies(features, species)
        derivative = torch.autograd.grad([energies.sum()], [features], create_graph=differentiable)[0]
        assert derivative is not None  # for the type checker of TorchScript
        gradients = self.density_gradient(derivative, edges, centers, neighbor_species)
        if self.has_zbl:
            repulsion, repulsion_gradients = self.repulsion(edges, centers, neighbors, species)
            energies, gradients = energies + repulsion, gradients + repulsion_gradients
        return energies, gradients

    def scaled_energies(self, features: Tensor, species: Tensor) -> Tensor:
        """Energy of each atom in eV without e0, shift and ZBL, from its density.

        features: [N, C, (l_max+1)^2] as given by `density`.  species: [N] int64.  Returns [N].
        """
        A = self.mix(features, self.mixing(), species)  # [N, LM, K]
        B = self.symmetric_product(A, self.product_coefficients(), species)[:, 0]  # [N, K]
        return self.scale * self.readout(B @ self.feature_matrix())

    def repulsion(self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        """Core repulsion per atom [N] and its edge gradients [E, 3]; without parameters, so both detached."""
        numbers = self.numbers[species]
        leaf = vectors.detach().requires_grad_(True)
        energies = self.zbl(leaf, centers, numbers[centers], numbers[neighbors], species.size(0))
        gradients = torch.autograd.grad([energies.sum()], [leaf])[0]
        assert gradients is not None  # for the type checker of TorchScript
        return energies.detach(), gradients

    # Weights as the operators take them, with the fixed scales.

    def mixing(self) -> Tensor:
        """[S, l_max+1, C, K]"""
        return self.mixing_weights * self.density_scale[None, :, :, None]

    def product_coefficients(self) -> Tensor:
        """[S, n_nodes, K]: the path weights spread over the tree of monomials."""
        return torch.matmul(self.product_basis * self.path_scale, self.product_weights)

    def feature_matrix(self) -> Tensor:
        """[K, F]"""
        return self.features_weight / math.sqrt(self.channels)

    # The operators with the sizes of this model. ReferenceLocalModel replaces these and nothing else.

    def density(self, vectors: Tensor, centers: Tensor, neighbor_species: Tensor, n_atoms: int) -> Tensor:
        """Neighbour density [n_atoms, C, (l_max+1)^2] of edge vectors [E, 3] Å in the model's dtype."""
        return torch.ops.tesseral.density(
            vectors,
            centers,
            neighbor_species,
            n_atoms,
            self.n_species,
            self.l_max,
            self.radial_basis,
            self.n_radial,
            self.cutoff,
            self.radial_table,
        )

    def density_gradient(self, gradient: Tensor, vectors: Tensor, centers: Tensor, neighbor_species: Tensor) -> Tensor:
        """Vector-Jacobian product [E, 3] of `density` with `gradient` [N, C, (l_max+1)^2]."""
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
        )

    def mix(self, features: Tensor, weights: Tensor, species: Tensor) -> Tensor:
        """The density in channels [N, (l_max+1)^2, K]."""
        return torch.ops.tesseral.mix(features, weights, species)

    def symmetric_product(self, A: Tensor, coefficients: Tensor, species: Tensor) -> Tensor:
        """Invariant polynomials [N, 1, K] of A [N, (l_max+1)^2, K]."""
        return torch.ops.tesseral.symmetric_product(A, coefficients, species, self.product_tree, self.product_roots)

    def zbl(
        self, vectors: Tensor, centers: Tensor, center_numbers: Tensor, neighbor_numbers: Tensor, n_atoms: int
    ) -> Tensor:
        """Core repulsion [n_atoms] in eV."""
        return torch.ops.tesseral.zbl(
            vectors, centers, center_numbers, neighbor_numbers, n_atoms, self.zbl_inner, self.zbl_outer
        )

    # Set-up and export, in Python only.

    def prepare_operators(self) -> None:
        """Load the compiled operators; called before anything else."""
        load_operators()

    def _apply(self, function: Any, recurse: bool = True) -> LocalModel:
        """Convert dtype or device; coupling coefficients are taken anew, never rounded on the way."""
        super()._apply(function, recurse)
        basis = torch.tensor(symmetric_basis(self.l_max, self.nu).basis)
        self.product_basis = basis.to(self.density_scale)
        return self

    def initialise_scales(self, densities: Sequence[Tensor], species: Sequence[Tensor]) -> None:
        """Normalise on a sample of the training data, see `tesseral.models.normalisation`."""
        initialise_scales(self, densities, species)

    def architecture(self) -> dict[str, Any]:
        """The entry "architecture" of a model file's metadata."""
        zbl = {"inner": self.zbl_inner, "outer": self.zbl_outer} if self.has_zbl else None
        sizes = {name: getattr(self, name) for name in ("l_max", "n_radial", "channels", "nu", "features")}
        return {**sizes, "readout": self.readout_widths, "radial_basis": self.radial_basis, "zbl": zbl}

    @torch.no_grad()
    def native_parameters(self) -> dict[str, NDArray[Any]]:
        """Arrays of the model file: float64, all scales folded in; product_tree and product_roots are int32.

        mixing [S, l_max+1, C, K], product [S, n_nodes, K], features [K, F], readout_linear [F],
        readout_mlp_{i}_weight [in, out], readout_mlp_{i}_bias [out], e0 [S], shift [S], scale [1], and for
        the basis "spline" radial_table.
        """
        basis = torch.tensor(symmetric_basis(self.l_max, self.nu).basis, device=self.path_scale.device)
        tensors = {
            "mixing": self.mixing_weights.double() * self.density_scale.double()[None, :, :, None],
            "product": torch.matmul(basis * self.path_scale.double(), self.product_weights.double()),
            "product_tree": self.product_tree,
            "product_roots": self.product_roots,
            "features": self.features_weight.double() / math.sqrt(self.channels),
        }
        if self.radial_basis == "spline":
            tensors["radial_table"] = self.radial_table.double()
        arrays = {name: tensor.cpu().numpy().copy() for name, tensor in tensors.items()}
        numbers = {"e0": np.array(self.e0), "shift": np.array(self.shift), "scale": np.array([self.scale])}
        return {**arrays, **self.readout.native_parameters(), **numbers}


def _check_species(species: Sequence[str], e0: Mapping[str, float], shift: Mapping[str, float]) -> None:
    known = [symbol for symbol in species if atomic_numbers.get(symbol, 0) > 0]
    if len(species) == 0 or len(set(known)) != len(species):
        raise ValueError(f"LocalModel: species must be different symbols of elements, got {list(species)}")
    for symbol in species:
        if symbol not in e0:
            raise ValueError(f"LocalModel: e0 has no energy for {symbol!r}; it has {', '.join(e0) or 'none'}")
    for symbol in shift:
        if symbol not in species:
            raise ValueError(f"LocalModel: shift names {symbol!r}, but species are {', '.join(species)}")


def _check_ranges(cutoff: float, zbl: tuple[float, float] | None, sizes: Sequence[int]) -> None:
    if not 0.0 < cutoff < math.inf:
        raise ValueError(f"LocalModel: cutoff must be positive, got {cutoff:g} Å")
    if min(sizes) < 1:
        raise ValueError(
            "LocalModel: l_max must be at least 0; n_radial, channels, features and readout widths at least "
            f"1; got {sizes[0] - 1}; {', '.join(map(str, sizes[1:]))}"
        )
    if zbl is not None and not 0.0 < zbl[0] < zbl[1] <= cutoff:
        raise ValueError(
            f"LocalModel: zbl needs 0 < inner < outer <= cutoff, got inner {zbl[0]:g}, outer {zbl[1]:g}, "
            f"cutoff {cutoff:g} Å"
        )


def _check_radial_basis(basis: str, n_radial: int, table: NDArray[np.float64] | None) -> None:
    if basis not in RADIAL_BASES:
        raise ValueError(f"LocalModel: unknown radial_basis {basis!r}; known: {', '.join(RADIAL_BASES)}")
    if (basis == "spline") != (table is not None):
        given = "no table" if table is None else "a table"
        raise ValueError(f"LocalModel: radial_table belongs to radial_basis 'spline', got {basis!r} with {given}")
    if table is not None and (np.ndim(table) != 3 or len(table) == 0 or np.shape(table)[1:] != (n_radial, 4)):
        raise ValueError(f"LocalModel: radial_table must be [n_intervals, {n_radial}, 4], got {list(np.shape(table))}")
