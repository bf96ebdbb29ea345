"""The weights of a MACE model as plain arrays: what an import derives and `tesseral.models.mace` computes with.

Symbols: T layers t = 0..T-1; S species; K channels; Q_t radial functions of layer t; L_t = message_l, but 0 in the last
layer; P paths (l1, L, l) of ``message_table(l_max, message_l)``. The formulas are those of
:class:`tesseral.models.mace.MaceModel`. All arrays are float64, in the conventions of this package, with every
normalisation factor of MACE folded in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tesseral.kernel.reference import MAXIMUM_DEGREE
from tesseral.models.coupling import MAXIMUM_ORDER, tensor_basis
from tesseral.models.message_coupling import message_table

Array = NDArray[np.float64]

MAXIMUM_LAYERS = 3
N_EXPONENTIALS = 4  # of the screening function


@dataclass(frozen=True)
class Repulsion:
    """Screened nuclear repulsion with its own constants: half of the energy of a pair for each directed edge,

    E_ij = strength_ij/r sum_n amplitudes_n exp(-decays_n r inverse_screening_ij) f(r/outer_ij),
    f(x) = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2) for x < 1, otherwise 0.

    power: p.  amplitudes, decays: four each.  strength (eV Å), inverse_screening (1/Å), outer (Å): [S, S] by the
    species of both atoms, symmetric. The repulsion also ends at the cutoff of the model.
    """

    power: int
    amplitudes: list[float]
    decays: list[float]
    strength: Array
    inverse_screening: Array
    outer: Array


@dataclass(frozen=True)
class MaceNetwork:
    """A MACE model of T = len(nu) layers.

    species: chemical symbols.  cutoff: Å.  l_max: of the harmonics.  message_l: highest degree of the features that are
    passed on.  channels: K.  nu: order of the symmetric products of each layer.  e0, shift: energies of each species,
    eV; `shift` takes what the readouts have without features.  scale: energy of one unit of the readouts, eV.
    radial_tables: T of [n_tables, n_intervals, Q_t, degree+1], see ``tesseral.kernel.reference.radial_basis``; n_tables
        is 1, or S*S by center and neighbour species (center*S + neighbour).
    mixing: [S, l_max+1, S*Q_0, K].
    normaliser: [T, S, S*Q_0], or None without density normalisation.
    products: T of [S, n_paths, K], paths of ``tensor_basis(l_max, nu_t, L_t)``.
    updates: T of [L_t+1, K, K].
    constant: [S, K], part of the features of the first layer that does not depend on the neighbours.
    handed: T-1 of [message_l+1, K, K], from the features of layer t to what their neighbours receive in layer t+1.
    messages: T-1 of [P, Q_t, K].
    path_mixings: T-1 of [P, K, K].
    species_mixings: T-1 of [S, l_max+1, K, K] or None.
    residuals: T-1 of [S, L_t+1, K, K] or None.
    layer_readouts: [T-1, K].
    readout_linear: [K].
    readout_layers: (weight [in, out], bias [out]) of the MLP with SiLU between its layers, from K to 1; may be empty.
    repulsion: of the nuclei, or None.

    Raises ValueError for an array of the wrong type or shape or with a number that is not finite, naming it.
    """

    species: list[str]
    cutoff: float
    l_max: int
    message_l: int
    channels: int
    nu: list[int]
    e0: dict[str, float]
    shift: dict[str, float]
    scale: float
    radial_tables: list[Array]
    mixing: Array
    normaliser: Array | None
    products: list[Array]
    updates: list[Array]
    constant: Array
    handed: list[Array]
    messages: list[Array]
    path_mixings: list[Array]
    species_mixings: list[Array | None]
    residuals: list[Array | None]
    layer_readouts: Array
    readout_linear: Array
    readout_layers: list[tuple[Array, Array]]
    repulsion: Repulsion | None

    def __post_init__(self) -> None:
        self._check_sizes()
        T, S, L, K = self.n_layers, len(self.species), self.l_max + 1, self.channels
        n_paths = len(message_table(self.l_max, self.message_l).paths) if T > 1 else 0
        for t, table in enumerate(self.radial_tables):
            self._check_table(f"radial_tables[{t}]", table)
        n_radial = [table.shape[2] for table in self.radial_tables]
        _check("mixing", self.mixing, (S, L, S * n_radial[0], K))
        _check("normaliser", self.normaliser, (T, S, S * n_radial[0]), optional=True)
        _check("constant", self.constant, (S, K))
        for t, (product, update) in enumerate(zip(self.products, self.updates, strict=True)):
            n_products = len(tensor_basis(self.l_max, self.nu[t], self.degree_of_layer(t)).paths)
            _check(f"products[{t}]", product, (S, n_products, K))
            _check(f"updates[{t}]", update, (self.degree_of_layer(t) + 1, K, K))
        for t in range(T - 1):
            _check(f"handed[{t}]", self.handed[t], (self.message_l + 1, K, K))
            _check(f"messages[{t}]", self.messages[t], (n_paths, n_radial[t + 1], K))
            _check(f"path_mixings[{t}]", self.path_mixings[t], (n_paths, K, K))
            _check(f"species_mixings[{t}]", self.species_mixings[t], (S, L, K, K), optional=True)
            residual = (S, self.degree_of_layer(t + 1) + 1, K, K)
            _check(f"residuals[{t}]", self.residuals[t], residual, optional=True)
        self._check_readouts()
        if self.repulsion is not None:
            self._check_repulsion(self.repulsion)

    @property
    def n_layers(self) -> int:
        """T"""
        return len(self.nu)

    def degree_of_layer(self, index: int) -> int:
        """L_t, the highest degree of the features of a layer."""
        return self.message_l if index < self.n_layers - 1 else 0

    def _check_sizes(self) -> None:
        if not 1 <= self.n_layers <= MAXIMUM_LAYERS:
            raise ValueError(f"MaceNetwork: nu must have 1 to {MAXIMUM_LAYERS} orders, one per layer, got {self.nu}")
        if any(not 1 <= order <= MAXIMUM_ORDER for order in self.nu):
            raise ValueError(f"MaceNetwork: nu must be in 1..{MAXIMUM_ORDER}, got {self.nu}")
        if not 0 <= self.message_l <= min(2, self.l_max):
            raise ValueError(
                f"MaceNetwork: message_l must be in 0..2 and at most l_max = {self.l_max}, got {self.message_l}"
            )
        per_layer = ("radial_tables", "products", "updates")
        per_message = ("handed", "messages", "path_mixings", "species_mixings", "residuals")
        for names, length in ((per_layer, self.n_layers), (per_message, self.n_layers - 1)):
            for name in names:
                if len(getattr(self, name)) != length:
                    raise ValueError(
                        f"MaceNetwork: {name} must have {length} entries in a model of {self.n_layers} layers, "
                        f"got {len(getattr(self, name))}"
                    )

    def _check_table(self, name: str, table: Any) -> None:
        _check(name, table, (None, None, None, None))
        n_tables, n_intervals, n_radial, n_coefficients = table.shape
        allowed = {1, len(self.species) ** 2}
        if n_tables not in allowed or min(n_intervals, n_radial) < 1 or not 2 <= n_coefficients <= MAXIMUM_DEGREE + 1:
            raise ValueError(
                f"MaceNetwork: {name} must be [n_tables, n_intervals, Q, degree+1] with n_tables of "
                f"{' or '.join(map(str, sorted(allowed)))} and a degree of 1..{MAXIMUM_DEGREE}, got {list(table.shape)}"
            )

    def _check_readouts(self) -> None:
        _check("layer_readouts", self.layer_readouts, (self.n_layers - 1, self.channels))
        _check("readout_linear", self.readout_linear, (self.channels,))
        n_inputs = self.channels
        for index, (weight, bias) in enumerate(self.readout_layers):
            _check(f"readout_layers[{index}] weight", weight, (n_inputs, None))
            n_inputs = weight.shape[1]
            _check(f"readout_layers[{index}] bias", bias, (n_inputs,))
        if self.readout_layers and n_inputs != 1:
            raise ValueError(f"MaceNetwork: the last of readout_layers must have one output, got {n_inputs}")

    def _check_repulsion(self, repulsion: Repulsion) -> None:
        n_species = len(self.species)
        for name in ("strength", "inverse_screening", "outer"):
            _check(f"repulsion.{name}", getattr(repulsion, name), (n_species, n_species))
        if not (repulsion.outer > 0.0).all():
            raise ValueError("MaceNetwork: repulsion.outer must be positive")
        if repulsion.power < 1 or {len(repulsion.amplitudes), len(repulsion.decays)} != {N_EXPONENTIALS}:
            raise ValueError(
                f"MaceNetwork: repulsion needs a power of at least 1 and {N_EXPONENTIALS} amplitudes and decays, got "
                f"{repulsion.power}, {len(repulsion.amplitudes)} and {len(repulsion.decays)}"
            )


def _check(name: str, array: Any, shape: Sequence[int | None], optional: bool = False) -> None:
    """A float64 array of finite numbers with this shape, None for any length."""
    if array is None and optional:
        return
    if not isinstance(array, np.ndarray) or array.dtype != np.float64:
        kind = f"of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"MaceNetwork: {name} must be a float64 array, got {kind}")
    fits = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
    if not fits:
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"MaceNetwork: {name} must be [{expected}], got {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"MaceNetwork: {name} has numbers that are not finite")
