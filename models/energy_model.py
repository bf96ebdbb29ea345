"""What all models share: arguments, energies and edge gradients of the interface, operators, plain parameters."""

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
from tesseral.models.readout import Readout


class EnergyModel(torch.nn.Module):
    """Base class: energies per atom and their derivatives by the edge vectors, from the neighbours within the cutoff.

    E_i = e0[z_i] + shift[z_i] + learned energy + ZBL_i; an isolated atom has e0 + shift. A subclass gives the learned
    energy by `learned_energies_and_gradients`, its parameters (`mixing_weights` [S, l_max+1, C, K] and `readout` among
    them), and `model_type`, `n_layers` for the model file. Trainable parameters are of order one; fixed buffers, among
    them density_scale [l_max+1, C], normalise the intermediate results on data, see `normalise`. A model is created in
    float64; `.to(torch.float32)` converts all but e0, shift and scale, which are Python floats and are added in
    float64. `torch.jit.script(model)` gives a module that calls torch.ops.tesseral and needs no Python.

    Args:
        species: chemical symbols; the integer species in all calls index this list.
        cutoff: Å.
        l_max: highest degree of the harmonics.
        n_radial: radial functions per neighbour species; C = n_species * n_radial.
        channels: K.
        nu: highest order of the symmetric products, 1..4.
        features: per atom, that the readout sees.
        readout: hidden widths of the MLP; empty for a linear readout only.
        e0: energy of each free atom in eV.
        radial_basis: "bessel", "chebyshev", "gaussian" or "spline"; "spline" reads `radial_table`
            [n_intervals, n_radial, 4], see tesseral.kernel.reference.radial_basis.
        shift: further energy per atom of each species in eV, default 0.
        scale: energy of one unit of the readout in eV.
        zbl: (inner, outer) in Å of the core repulsion, or None.

    Raises ValueError for an argument out of range or in contradiction to another, naming both.
    """

    if TYPE_CHECKING:  # TorchScript does not take annotations in the class body
        model_type: str
        n_layers: int
        mixing_weights: torch.nn.Parameter
        readout: Readout
        density_scale: Tensor
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

        n_density = self.n_species * n_radial
        self.constant("density_scale", np.full((l_max + 1, n_density), n_density**-0.5), persistent=True)
        table = np.zeros((0, n_radial, 4)) if radial_table is None else np.asarray(radial_table)
        self.constant("radial_table", table)
        self.constant("numbers", np.array([atomic_numbers[symbol] for symbol in species], dtype=np.float64))

    def constant(self, name: str, values: Any, persistent: bool = False) -> None:
        """Register a buffer; only persistent ones are saved in checkpoints."""
        self.register_buffer(name, torch.tensor(values), persistent=persistent)

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

        Both are in the graph of the parameters if `differentiable`; the vectors are constants.
        """
        edges = vectors.detach().to(self.density_scale.dtype)
        energies, gradients = self.learned_energies_and_gradients(edges, centers, neighbors, species, differentiable)
        if self.has_zbl:
            repulsion, repulsion_gradients = self.repulsion(edges, centers, neighbors, species)
            energies, gradients = energies + repulsion, gradients + repulsion_gradients
        return energies, gradients

    def learned_energies_and_gradients(
        self, edges: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor, differentiable: bool
    ) -> tuple[Tensor, Tensor]:
        """As `energies_and_gradients`, without ZBL and with edge vectors in the dtype of the model."""
        raise NotImplementedError

    def repulsion(self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        """Core repulsion per atom [N] and its edge gradients [E, 3]; without parameters, so both detached."""
        leaf = vectors.detach().requires_grad_(True)
        energies = self.core_repulsion(leaf, centers, neighbors, species, species.size(0))
        gradients = torch.autograd.grad([energies.sum()], [leaf])[0]
        assert gradients is not None  # for the type checker of TorchScript
        return energies.detach(), gradients

    def core_repulsion(
        self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor, n_atoms: int
    ) -> Tensor:
        """Core repulsion [n_atoms] in eV, differentiable by the vectors."""
        numbers = self.numbers[species]
        return self.zbl(vectors, centers, numbers[centers], numbers[neighbors], n_atoms)

    def mixing(self) -> Tensor:
        """Weights of `mix` with their fixed scales: [S, l_max+1, C, K]."""
        return self.mixing_weights * self.density_scale[None, :, :, None]

    # The operators with the sizes of this model. ReferenceOperators replaces these and nothing else.

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

    def product(self, A: Tensor, coefficients: Tensor, species: Tensor, tree: Tensor, roots: Tensor) -> Tensor:
        """Polynomials [N, n_outputs, K] of A [N, (l_max+1)^2, K]."""
        return torch.ops.tesseral.symmetric_product(A, coefficients, species, tree, roots)

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

    def normalise(self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor) -> None:
        """Set the fixed scales on a sample of the training data, see `tesseral.models.normalisation`.

        Arguments as in `forward`.  Raises ValueError without a single atom, or when no atom has a neighbour.
        """
        raise NotImplementedError

    def trainable_parameters(self, which: str) -> list[torch.nn.Parameter]:
        """The parameters that `training.trainable` names.

        "readout": from the features of the atoms to their energies.  "last_layer": also what makes the features of the
        last layer.  "all": everything.  Raises ValueError for any other name.
        """
        if which == "all":
            return list(self.parameters())
        if which == "readout":
            return self.readout_parameters()
        if which == "last_layer":
            return [*self.last_layer_parameters(), *self.readout_parameters()]
        raise ValueError(f"model: trainable must be all, last_layer or readout, got {which!r}")

    def learns_isolated_atoms(self) -> bool:
        """Whether the energy of an atom without neighbours depends on parameters; if not, it is e0 + shift."""
        return False

    def readout_parameters(self) -> list[torch.nn.Parameter]:
        """What "readout" means in `trainable_parameters`."""
        return list(self.readout.parameters())

    def last_layer_parameters(self) -> list[torch.nn.Parameter]:
        """What "last_layer" means in `trainable_parameters`, without the readout."""
        raise NotImplementedError

    @classmethod
    def arguments_of_file(cls, metadata: Mapping[str, Any], parameters: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Arguments of a model like the one in a file, but for its weights, from what the file says.

        metadata, parameters: contents of metadata.json (with what `architecture` gives) and of `native_parameters`.
        Raises KeyError or TypeError when something is missing or misshapen.
        """
        architecture, species = dict(metadata["architecture"]), metadata["species"]
        zbl = architecture.pop("zbl")
        energies = {name: dict(zip(species, parameters[name].tolist(), strict=True)) for name in ("e0", "shift")}
        return {
            **architecture,
            **energies,
            "species": species,
            "cutoff": metadata["cutoff"],
            "scale": parameters["scale"].item(),
            "zbl": None if zbl is None else (zbl["inner"], zbl["outer"]),
            "radial_table": parameters.get("radial_table"),
        }

    def architecture(self) -> dict[str, Any]:
        """The entry "architecture" of a model file's metadata."""
        zbl = {"inner": self.zbl_inner, "outer": self.zbl_outer} if self.has_zbl else None
        sizes = {name: getattr(self, name) for name in ("l_max", "n_radial", "channels", "nu", "features")}
        return {**sizes, "readout": self.readout_widths, "radial_basis": self.radial_basis, "zbl": zbl}

    @torch.no_grad()
    def native_parameters(self) -> dict[str, NDArray[Any]]:
        """Arrays of the model file, float64 with all scales folded in; trees and terms are int32.

        Of all models: mixing [S, l_max+1, C, K], readout_linear [F], readout_mlp_{i}_weight [in, out],
        readout_mlp_{i}_bias [out], e0 [S], shift [S], scale [1], and for the basis "spline" radial_table.
        """
        tensors = {"mixing": self.mixing_weights.double() * self.density_scale.double()[None, :, :, None]}
        if self.radial_basis == "spline":
            tensors["radial_table"] = self.radial_table.double()
        numbers = {"e0": np.array(self.e0), "shift": np.array(self.shift), "scale": np.array([self.scale])}
        return {**as_arrays(tensors), **self.readout.native_parameters(), **numbers}


def as_arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Copies of tensors for the model file."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}


def _check_species(species: Sequence[str], e0: Mapping[str, float], shift: Mapping[str, float]) -> None:
    known = [symbol for symbol in species if atomic_numbers.get(symbol, 0) > 0]
    if len(species) == 0 or len(set(known)) != len(species):
        raise ValueError(f"model: species must be different symbols of elements, got {list(species)}")
    for symbol in species:
        if symbol not in e0:
            raise ValueError(f"model: e0 has no energy for {symbol!r}; it has {', '.join(e0) or 'none'}")
    for symbol in shift:
        if symbol not in species:
            raise ValueError(f"model: shift names {symbol!r}, but species are {', '.join(species)}")


def _check_ranges(cutoff: float, zbl: tuple[float, float] | None, sizes: Sequence[int]) -> None:
    if not 0.0 < cutoff < math.inf:
        raise ValueError(f"model: cutoff must be positive, got {cutoff:g} Å")
    if min(sizes) < 1:
        raise ValueError(
            "model: l_max must be at least 0; n_radial, channels, features and readout widths at least "
            f"1; got {sizes[0] - 1}; {', '.join(map(str, sizes[1:]))}"
        )
    if zbl is not None and not 0.0 < zbl[0] < zbl[1] <= cutoff:
        raise ValueError(
            f"model: zbl needs 0 < inner < outer <= cutoff, got inner {zbl[0]:g}, outer {zbl[1]:g}, cutoff {cutoff:g} Å"
        )


def _check_radial_basis(basis: str, n_radial: int, table: NDArray[np.float64] | None) -> None:
    if basis not in RADIAL_BASES:
        raise ValueError(f"model: unknown radial_basis {basis!r}; known: {', '.join(RADIAL_BASES)}")
    if (basis == "spline") != (table is not None):
        given = "no table" if table is None else "a table"
        raise ValueError(f"model: radial_table belongs to radial_basis 'spline', got {basis!r} with {given}")
    if table is not None and (np.ndim(table) != 3 or len(table) == 0 or np.shape(table)[1:] != (n_radial, 4)):
        raise ValueError(f"model: radial_table must be [n_intervals, {n_radial}, 4], got {list(np.shape(table))}")
