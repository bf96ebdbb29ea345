"""Small random MACE networks with every option, and an evaluation of their formulas in plain numpy."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
import torch

from tesseral.kernel.reference import spherical_harmonics
from tesseral.models.clebsch_gordan import real_clebsch_gordan
from tesseral.models.coupling import tensor_basis
from tesseral.models.mace_network import MaceNetwork, Repulsion
from tesseral.models.message_coupling import message_table

Array = np.ndarray
AMPLITUDES, DECAYS = [0.2, 0.5, 0.3, 0.03], [3.2, 0.94, 0.4, 0.2]


def smooth_tables(random: np.random.Generator, shape: Sequence[int]) -> Array:
    """Tables [n_tables, n_intervals, Q, degree+1] of positive polynomials 20 (1-x)^3 (1 + ..), exact in all pieces."""
    n_tables, n_intervals, n_radial, n_coefficients = shape
    tables = np.zeros(shape)
    for table, q in np.ndindex(n_tables, n_radial):
        factor = np.polynomial.Polynomial([1.0, *random.uniform(-0.4, 0.4, n_coefficients - 4)])
        function = 20.0 * np.polynomial.Polynomial([1.0, -1.0]) ** 3 * factor
        for k in range(n_intervals):
            piece = function(np.polynomial.Polynomial([k, 1.0]) / n_intervals).coef
            tables[table, k, q, : len(piece)] = piece
    return tables


def random_network(
    *,
    species: Sequence[str],
    nu: Sequence[int],
    e0: dict[str, float],
    shift: dict[str, float],
    cutoff: float = 3.6,
    l_max: int = 2,
    message_l: int = 0,
    channels: int = 4,
    scale: float = 1.7,
    readout: Sequence[int] = (),
    linear: bool = True,
    tables: Sequence[Sequence[int]] = (),
    normaliser: bool = False,
    constant: bool = False,
    species_mixing: Sequence[bool] = (),
    residual: Sequence[bool] = (),
    repulsion: bool = False,
    seed: int = 0,
) -> MaceNetwork:
    """Weights such that all intermediate results are of order one; `tables`: shapes of the radial tables."""
    random = np.random.default_rng(seed)
    n_layers, S, L, K = len(nu), len(species), l_max + 1, channels
    tables = list(tables) or [(1, 5, 3, 6)] * n_layers
    degrees = [message_l] * (n_layers - 1) + [0]
    n_paths = len(message_table(l_max, message_l).paths)

    def normal(*shape: int) -> Array:
        return random.normal(size=shape) / sqrt(shape[-2] if len(shape) > 1 else shape[-1])

    layers, inputs = [], K
    for width in [*readout, 1] if readout else []:
        layers.append((normal(inputs, width), random.normal(size=width)))
        inputs = width
    half = random.uniform(2.0, 5.0, (3, S, S))
    symmetric = half + half.transpose(0, 2, 1)
    return MaceNetwork(
        species=list(species),
        cutoff=cutoff,
        l_max=l_max,
        message_l=message_l,
        channels=K,
        nu=list(nu),
        e0=e0,
        shift=shift,
        scale=scale,
        radial_tables=[smooth_tables(random, shape) for shape in tables],
        mixing=normal(S, L, S * tables[0][2], K),
        normaliser=random.uniform(0.0, 0.05, (n_layers, S, S * tables[0][2])) if normaliser else None,
        products=[
            0.7 * normal(S, len(tensor_basis(l_max, order, degree).paths), K)
            for order, degree in zip(nu, degrees, strict=True)
        ],
        updates=[normal(degree + 1, K, K) for degree in degrees],
        constant=random.normal(size=(S, K)) if constant else np.zeros((S, K)),
        handed=[normal(message_l + 1, K, K) for _ in nu[1:]],
        messages=[0.5 * normal(n_paths, table[2], K) for table in tables[1:]],
        path_mixings=[normal(n_paths, K, K) for _ in nu[1:]],
        species_mixings=[normal(S, L, K, K) if given else None for given in species_mixing],
        residuals=[
            normal(S, degree + 1, K, K) if given else None for degree, given in zip(degrees[1:], residual, strict=True)
        ],
        layer_readouts=normal(n_layers - 1, K) if n_layers > 1 else np.zeros((0, K)),
        readout_linear=normal(K) if linear else np.zeros(K),
        readout_layers=layers,
        repulsion=Repulsion(5, AMPLITUDES, DECAYS, symmetric[0], symmetric[1] / 5.0, 2.4 + symmetric[2] / 10.0)
        if repulsion
        else None,
    )


class DenseMace:
    """The formulas of MaceModel edge by edge, without trees of monomials; orders up to 2.

    vectors: [E, 3]; centers, neighbors: [E]; species: [N].
    """

    def __init__(self, network: MaceNetwork, vectors: Array, centers: Array, neighbors: Array, species: Array) -> None:
        self.network, self.centers, self.neighbors, self.species = network, centers, neighbors, species
        self.distances = np.linalg.norm(vectors, axis=1)
        self.Y = spherical_harmonics(torch.tensor(vectors), network.l_max).numpy()
        self.slices = [slice(degree**2, (degree + 1) ** 2) for degree in range(network.l_max + 1)]

    def energies(self) -> Array:
        """[N] eV"""
        network, h, total = self.network, np.zeros(0), 0.0
        for t in range(network.n_layers):
            A = self.density_channels() if t == 0 else self.messages(t, h)
            B = np.stack([self.products(t, A[i], network.products[t][kind]) for i, kind in enumerate(self.species)])
            new = np.zeros_like(B)
            for degree in range(network.degree_of_layer(t) + 1):
                rows = self.slices[degree]
                new[:, rows] = B[:, rows] @ network.updates[t][degree]
                residual = network.residuals[t - 1] if t > 0 else None
                if residual is not None:
                    new[:, rows] += np.einsum("imk,ikn->imn", h[:, rows], residual[self.species, degree])
            if t == 0:
                new[:, 0] += network.constant[self.species]
            h = new
            if t < network.n_layers - 1:
                total = total + h[:, 0] @ network.layer_readouts[t]
        total = total + self.readout(h[:, 0]) - self.readout(np.zeros_like(h[:, 0]), linear=False)
        baseline = np.array([network.e0[symbol] + network.shift.get(symbol, 0.0) for symbol in network.species])
        return baseline[self.species] + network.scale * total + self.repulsion()

    def radial(self, t: int) -> Array:
        """[E, Q_t]"""
        tables = self.network.radial_tables[t]
        values = np.zeros((len(self.centers), tables.shape[2]))
        for e, r in enumerate(self.distances):
            if r >= self.network.cutoff:
                continue
            pair = self.species[self.centers[e]] * len(self.network.species) + self.species[self.neighbors[e]]
            k, x = divmod(r / self.network.cutoff * tables.shape[1], 1.0)
            values[e] = tables[pair if len(tables) > 1 else 0, int(k)] @ x ** np.arange(tables.shape[3])
        return values

    def density_channels(self) -> Array:
        n_radial, n_species = self.network.radial_tables[0].shape[2], len(self.network.species)
        R, D = self.radial(0), np.zeros((len(self.species), n_species, n_radial, self.Y.shape[1]))
        for e, (i, j) in enumerate(zip(self.centers, self.neighbors, strict=True)):
            D[i, self.species[j]] += np.outer(R[e], self.Y[e])
        D = D.reshape(len(self.species), n_species * n_radial, -1)
        self.scalars = D[:, :, 0]
        A = np.zeros((len(D), D.shape[2], self.network.channels))
        for degree, rows in enumerate(self.slices):
            A[:, rows] = np.einsum("icm,ick->imk", D[:, :, rows], self.network.mixing[self.species, degree])
        return A * self.normalisation(0)

    def normalisation(self, t: int) -> Array:
        if self.network.normaliser is None:
            return np.ones((len(self.species), 1, 1))
        rho = np.einsum("ic,ic->i", self.network.normaliser[t, self.species], self.scalars)
        return 1.0 / (1.0 + rho)[:, None, None]

    def messages(self, t: int, h: Array) -> Array:
        network = self.network
        A = np.zeros((len(self.species), self.Y.shape[1], network.channels))
        paths = message_table(network.l_max, network.message_l).paths
        for p, (l1, L, degree) in enumerate(paths):
            R = self.radial(t) @ network.messages[t - 1][p]
            up = h[:, self.slices[L]] @ network.handed[t - 1][L]
            C = real_clebsch_gordan(l1, L, degree)
            of_edges = np.einsum("ek,ea,exk,axm->emk", R, self.Y[:, self.slices[l1]], up[self.neighbors], C)
            M = np.zeros((len(self.species), 2 * degree + 1, network.channels))
            np.add.at(M, self.centers, of_edges)
            A[:, self.slices[degree]] += M @ network.path_mixings[t - 1][p]
        A = A * self.normalisation(t)
        Z = network.species_mixings[t - 1]
        if Z is not None:
            for degree, rows in enumerate(self.slices):
                A[:, rows] = np.einsum("imk,ikn->imn", A[:, rows], Z[self.species, degree])
        return A

    def products(self, t: int, A: Array, weights: Array) -> Array:
        """B [(L_t+1)^2, K] of one atom: couplings of pairs with unit variance for independent normal A."""
        degrees = range(self.network.l_max + 1)
        outputs, path = [], 0
        for L in range(self.network.degree_of_layer(t) + 1):
            terms = [A[self.slices[L]]]
            if self.network.nu[t] == 2:
                pairs = [(a, b) for a in degrees for b in degrees if a <= b and (a + b + L) % 2 == 0]
                for a, b in pairs:
                    if not abs(a - b) <= L <= a + b:
                        continue
                    coupled = np.einsum(
                        "xk,yk,xym->mk", A[self.slices[a]], A[self.slices[b]], real_clebsch_gordan(a, b, L)
                    )
                    same = sqrt(2.0) if L > 0 else sqrt(2 * a + 3)
                    terms.append(coupled / (same if a == b else 1.0))
            outputs.append(sum(term * w for term, w in zip(terms, weights[path : path + len(terms)], strict=True)))
            path += len(terms)
        assert path == len(weights)
        return np.concatenate(outputs)

    def readout(self, h: Array, linear: bool = True) -> Array:
        result = h @ self.network.readout_linear if linear else np.zeros(len(h))
        for index, (weight, bias) in enumerate(self.network.readout_layers):
            h = h / (1.0 + np.exp(-h)) if index > 0 else h
            h = h @ weight + bias
        return result + h[:, 0] if self.network.readout_layers else result

    def repulsion(self) -> Array:
        energies, given = np.zeros(len(self.species)), self.network.repulsion
        if given is None:
            return energies
        p = given.power
        for e, (i, j) in enumerate(zip(self.centers, self.neighbors, strict=True)):
            pair, r = (self.species[i], self.species[j]), self.distances[e]
            x = r / given.outer[pair]
            if x >= 1.0 or r >= self.network.cutoff:
                continue
            f = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
            phi = np.exp(-np.array(given.decays) * r * given.inverse_screening[pair]) @ np.array(given.amplitudes)
            energies[i] += given.strength[pair] / r * phi * f
        return energies


def arguments(**changes: Any) -> dict[str, Any]:
    """Of `random_network` for the species and energies of `model_contract`."""
    return {"species": ["Si", "O"], "e0": {"Si": -158.25, "O": -432.5}, "shift": {"O": 0.75}, **changes}
