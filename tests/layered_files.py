"""Layered models with random parameters as files, and their energies by the plain twins of the operators."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from ase.data import atomic_numbers
from torch import Tensor

from tesseral.kernel import reference
from tesseral.models.clebsch_gordan import real_clebsch_gordan
from tesseral.models.coupling import symmetric_basis

ARCHITECTURE: dict[str, Any] = {
    "l_max": 2,
    "n_radial": 5,
    "channels": 16,
    "nu": 3,
    "features": 12,
    "readout": [10],
    "radial_basis": "bessel",
    "zbl": None,
    "n_layers": 2,
    "message_l": 0,
    "message_mixing": False,
}
ISOLATED = -13.0  # eV, e0 + shift of species n is n times that, plus a quarter


def message_terms(l_max: int, message_l: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(path, output, harmonic, component of h) [n_terms, 4], couplings [n_terms] and the number of paths."""
    terms, n_paths = [], 0
    for degree in range(message_l + 1):
        for l1 in range(l_max + 1):
            for out in range(abs(l1 - degree), min(l_max, l1 + degree) + 1):
                if (l1 + degree + out) % 2:
                    continue
                table = real_clebsch_gordan(l1, degree, out)
                for m1, M, m in np.argwhere(table).tolist():
                    key = n_paths, degree * degree + M, out * out + m, l1 * l1 + m1
                    terms.append((key, float(table[m1, M, m])))
                n_paths += 1
    terms.sort()
    indices = np.array([[path, lm, y, x] for (path, x, lm, y), _ in terms], dtype=np.int32)
    return indices, np.array([value for _, value in terms]), n_paths


def product_trees(l_max: int, nu: int, output_l: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """One tree for outputs of degrees 0..output_l, its roots, and the basis of each degree [n_nodes, n_paths]."""
    tables = [symmetric_basis(l_max, nu, degree, (-1) ** degree) for degree in range(output_l + 1)]
    n_roots = [int(table.roots[-1]) for table in tables]
    n_below = [len(table.tree) - n for table, n in zip(tables, n_roots, strict=True)]
    size = sum(n_roots) + sum(n_below)
    tree, roots, bases = np.zeros((size, 3), np.int32), [0], []
    for index, table in enumerate(tables):
        root_shift = sum(n_roots[:index])
        shift = sum(n_roots) + sum(n_below[:index]) - n_roots[index]  # of the nodes below the roots
        position = np.arange(len(table.tree)) + np.where(np.arange(len(table.tree)) < n_roots[index], root_shift, shift)
        tree[position] = table.tree + np.array([0, shift, shift])
        roots += (table.roots[1:] + root_shift).tolist()
        basis = np.zeros((size, table.basis.shape[1]))
        basis[position] = table.basis
        bases.append(basis)
    return tree, np.array(roots, np.int32), bases


def random_layered(species: list[str], cutoff: float = 4.5, seed: int = 0, **options: Any) -> tuple[dict, dict]:
    """Metadata and parameters of a layered model."""
    size = ARCHITECTURE | options
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape) / np.sqrt(shape[-2] if len(shape) > 1 else shape[0])

    S, K, Q, l_max = len(species), size["channels"], size["n_radial"], size["l_max"]
    parameters = {"mixing": 0.5 * normal(S, l_max + 1, S * Q, K)}
    for t in range(size["n_layers"]):
        last = t == size["n_layers"] - 1
        output_l, n_out = (0, size["features"]) if last else (size["message_l"], K)
        tree, roots, bases = product_trees(l_max, size["nu"], output_l)
        product = sum(basis @ normal(S, basis.shape[1], K) for basis in bases)
        layer = {"product": product, "tree": tree, "roots": roots, "update": normal(output_l + 1, K, n_out)}
        if t > 0:
            terms, couplings, n_paths = message_terms(l_max, size["message_l"])
            layer["residual"] = normal(S, output_l + 1, K, n_out)
            layer |= {"message": 0.3 * normal(n_paths, Q, K), "terms": terms, "couplings": couplings}
            if size["message_mixing"]:
                layer["mixing"] = normal(l_max + 1, K, K)
        if not last:
            layer["readout"] = normal(K)
        parameters |= {f"layer{t}_{name}": value for name, value in layer.items()}
    parameters["readout_linear"] = normal(size["features"])
    widths = [size["features"], *size["readout"], 1] if size["readout"] else []
    for n in range(len(widths) - 1):
        parameters[f"readout_mlp_{n}_weight"] = normal(widths[n], widths[n + 1])
        parameters[f"readout_mlp_{n}_bias"] = normal(widths[n + 1])
    if widths:  # without features no energy
        value = np.zeros(size["features"])
        for n in range(len(widths) - 1):
            value = value / (1.0 + np.exp(-value)) if n > 0 else value
            value = value @ parameters[f"readout_mlp_{n}_weight"] + parameters[f"readout_mlp_{n}_bias"]
        parameters[f"readout_mlp_{len(widths) - 2}_bias"] -= value
    parameters |= {"e0": ISOLATED * np.arange(S), "shift": np.full(S, 0.25), "scale": np.array([1.7])}
    if size["radial_basis"] == "spline":
        parameters["radial_table"] = random.normal(size=(32, Q, 4))
    metadata = {
        "format": "tesseral-model",
        "format_version": 1,
        "model_type": "layered",
        "species": species,
        "atomic_numbers": [atomic_numbers[symbol] for symbol in species],
        "cutoff": cutoff,
        "n_layers": size["n_layers"],
        "architecture": size,
    }
    return metadata, parameters


def write_layered(path: Path, metadata: dict, parameters: dict) -> Path:
    """The two entries of a model file that the native engine reads."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model/extra/metadata.json", json.dumps(metadata))
        arrays = {name: np.ascontiguousarray(value) for name, value in parameters.items()}
        archive.writestr("model/extra/parameters.safetensors", safetensors.numpy.save(arrays))
    return path


class LayeredOracle:
    """Energies of a layered model from plain PyTorch in float64, gradients by autograd."""

    def __init__(self, metadata: dict, parameters: dict) -> None:
        self.metadata, self.size = metadata, metadata["architecture"]
        self.parameters = {
            name: torch.tensor(value, dtype=torch.float64 if value.dtype == np.float64 else None)
            for name, value in parameters.items()
        }
        self.n_species = len(metadata["species"])

    def compute(self, vectors: np.ndarray, centers: np.ndarray, neighbors: np.ndarray, species: np.ndarray):
        """Energies [N] and gradients by the edge vectors [E, 3]."""
        leaf = torch.tensor(vectors, dtype=torch.float64).reshape(-1, 3).requires_grad_()
        edges = (leaf, torch.tensor(centers).long(), torch.tensor(neighbors).long(), torch.tensor(species).long())
        energies = self.energies(*edges)
        (gradients,) = torch.autograd.grad(energies.sum(), leaf)
        return energies.detach().numpy(), gradients.numpy()

    def energies(self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor) -> Tensor:
        p, size, n_atoms = self.parameters, self.size, len(species)
        table = p.get("radial_table", torch.zeros(0))
        basis = size["radial_basis"], size["n_radial"], self.metadata["cutoff"], table
        radial = reference.radial_basis(vectors.norm(dim=1), *basis)
        angular = reference.spherical_harmonics(vectors, size["l_max"])
        density = reference.density(
            vectors, centers, species[neighbors], n_atoms, self.n_species, size["l_max"], *basis
        )
        A = reference.mix(density, p["mixing"], species)
        h, energies = torch.zeros(0), torch.zeros(n_atoms, dtype=torch.float64)
        for t in range(size["n_layers"]):
            layer = {name.split("_", 1)[1]: value for name, value in p.items() if name.startswith(f"layer{t}_")}
            if t > 0:
                A = reference.message(
                    *(radial, angular, h, layer["message"], centers, neighbors, n_atoms),
                    *(layer["terms"], layer["couplings"]),
                )
                if size["message_mixing"]:
                    A = self.by_degree(A, layer["mixing"])
            B = reference.symmetric_product(A, layer["product"], species, layer["tree"], layer["roots"])
            new = self.by_degree(B, layer["update"])
            if t > 0:
                n_components = new.shape[1]
                per_atom = layer["residual"][species]
                new = new + torch.stack(
                    [torch.einsum("nk,nkf->nf", h[:, x], per_atom[:, int(x**0.5)]) for x in range(n_components)],
                    dim=1,
                )
            h = new
            if "readout" in layer:
                energies = energies + h[:, 0] @ layer["readout"]
        energies = p["scale"] * (energies + self.readout(h[:, 0])) + (p["e0"] + p["shift"])[species]
        if size["zbl"]:
            numbers = torch.tensor(self.metadata["atomic_numbers"]).double()[species]
            ranges = size["zbl"]["inner"], size["zbl"]["outer"]
            energies = energies + reference.zbl(
                vectors, centers, numbers[centers], numbers[neighbors], n_atoms, *ranges
            )
        return energies

    def readout(self, features: Tensor) -> Tensor:
        result, x = features @ self.parameters["readout_linear"], features
        n_layers = sum(name.endswith("_bias") for name in self.parameters)
        for n in range(n_layers):
            x = torch.nn.functional.silu(x) if n > 0 else x
            x = x @ self.parameters[f"readout_mlp_{n}_weight"] + self.parameters[f"readout_mlp_{n}_bias"]
        return result + x[:, 0] if n_layers else result

    @staticmethod
    def by_degree(x: Tensor, matrices: Tensor) -> Tensor:
        """x [N, (L+1)^2, K] times the matrix of each component's degree [L+1, K, F]."""
        degrees = torch.tensor([int(component**0.5) for component in range(x.shape[1])])
        return torch.einsum("nmk,mkf->nmf", x, matrices[degrees])
