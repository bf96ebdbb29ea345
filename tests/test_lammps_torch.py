"""pair_style tesseral/torch runs any TorchScript program that follows the interface, and refuses one that does not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ase.calculators.morse import MorsePotential
from ase.neighborlist import neighbor_list
from lammps_decks import atoms_table, crystal, needs_lammps
from torch import Tensor

from tesseral.calculator.lammps import evaluate_in_lammps
from tesseral.calculator.lammps_process import LammpsError, run_lammps

pytestmark = needs_lammps
CUTOFF, WELL, STEEPNESS, LENGTH = 4.0, 0.8, 5.0, 2.3


class Morse(torch.nn.Module):
    """A potential of someone else: half of a Morse bond per directed edge, smoothly switched off as ASE does it."""

    def __init__(self):
        super().__init__()
        self.well = torch.nn.Parameter(torch.tensor(WELL, dtype=torch.float64))

    def forward(
        self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        r = vectors.detach().requires_grad_(True)
        d = torch.sqrt((r * r).sum(1))
        x = torch.exp(-5.0 / 2.3 * (d - 2.3))
        s = torch.clamp((4.0 - d) / 0.8, 0.0, 1.0)
        switch = s * s * s * (10.0 + s * (6.0 * s - 15.0))
        energies = 0.5 * self.well * x * (x - 2.0) * switch
        gradients = torch.autograd.grad([energies.sum()], [r])[0]
        assert gradients is not None
        zeros = torch.zeros(species.size(0), dtype=vectors.dtype)
        bonds = zeros.index_add(0, centers, torch.ones_like(energies.detach()))
        return zeros.index_add(0, centers, energies.detach()), gradients, {"bonds": bonds}


class Embedded(torch.nn.Module):
    """Two layers: a bond is the stronger, the more neighbours both of its ends have."""

    def __init__(self, cutoff: float):
        super().__init__()
        self.cutoff = cutoff

    @torch.jit.export
    def baseline(self) -> Tensor:
        return torch.tensor([-1.5, -2.5])

    def overlap(self, vectors: Tensor) -> Tensor:
        r2 = (vectors * vectors).sum(1)
        return torch.clamp(1.0 - r2 / self.cutoff**2, 0.0) ** 3

    @torch.jit.export
    def layer(
        self,
        index: int,
        vectors: Tensor,
        centers: Tensor,
        neighbors: Tensor,
        species: Tensor,
        n_centers: int,
        h: Tensor,
    ) -> tuple[Tensor, Tensor]:
        overlap = self.overlap(vectors) * (1.0 + 0.5 * species[neighbors])
        zeros = torch.zeros(n_centers, dtype=vectors.dtype)
        if index == 0:
            crowd = zeros.index_add(0, centers, overlap)
            return torch.stack([crowd, crowd * crowd, torch.ones_like(crowd)], 1)[:, None], zeros
        strength = (h[centers, 0] * h[neighbors, 0]).sum(1)
        return h[:n_centers], zeros.index_add(0, centers, -0.01 * overlap * strength)

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors


class OtherRows(Embedded):
    """Gives features of one row in all."""

    @torch.jit.export
    def layer(
        self,
        index: int,
        vectors: Tensor,
        centers: Tensor,
        neighbors: Tensor,
        species: Tensor,
        n_centers: int,
        h: Tensor,
    ) -> tuple[Tensor, Tensor]:
        return torch.zeros(3, 4, dtype=vectors.dtype), torch.zeros(n_centers, dtype=vectors.dtype)


class Wrong(torch.nn.Module):
    """Gives a number per edge where one per atom is due."""

    def forward(self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        return vectors[:, 0], vectors


class Reordered(torch.nn.Module):
    """Has another signature."""

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors.sum()


class NoTuple(torch.nn.Module):
    """Gives the energies alone."""

    def forward(self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor) -> Tensor:
        return torch.zeros(species.size(0))


class Fails(torch.nn.Module):
    """Follows the interface until there are neighbours."""

    def forward(self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        assert vectors.size(0) == 0, "neighbours are too much"
        return torch.zeros(species.size(0)), vectors


METADATA = {"species": ["O", "Si"], "cutoff": CUTOFF, "n_layers": 1}


def save(path, module=None, metadata=METADATA):
    files = {} if metadata is None else {"metadata.json": json.dumps(metadata)}
    torch.jit.save(module or torch.jit.script(Morse()), str(path), _extra_files=files)
    return path


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_model_of_someone_else_runs(tmp_path, ranks):
    from ase.build import bulk

    atoms = bulk("Si", cubic=True) * (2, 2, 2)
    atoms.rattle(0.1, seed=3)
    result = evaluate_in_lammps(save(tmp_path / "morse.pt"), [atoms], style="tesseral/torch", ranks=ranks)[0]
    # ASE's Morse potential has the same form: epsilon exp(-rho0 (r/r0 - 1)) (exp(-rho0 (r/r0 - 1)) - 2)
    atoms.calc = MorsePotential(epsilon=WELL, rho0=STEEPNESS, r0=LENGTH, rcut1=3.2 / LENGTH, rcut2=CUTOFF / LENGTH)
    np.testing.assert_allclose(result["forces"], atoms.get_forces(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(result["stress"], atoms.get_stress(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(result["energy"], atoms.get_potential_energy(), rtol=1e-10)


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_a_layered_model_of_someone_else_runs(tmp_path, ranks):
    from ase.build import bulk

    atoms = bulk("Si", cubic=True) * (2, 2, 1)
    atoms.symbols[::3] = "O"
    atoms.rattle(0.1, seed=3)
    program = Embedded(CUTOFF)
    save(tmp_path / "embedded.pt", torch.jit.script(program), {**METADATA, "n_layers": 2})
    result = evaluate_in_lammps(tmp_path / "embedded.pt", [atoms], style="tesseral/torch", ranks=ranks)[0]
    # the same energy in one graph, differentiated by positions
    first, second, shifts = neighbor_list("ijS", atoms, CUTOFF)
    centers, neighbors = torch.tensor(first), torch.tensor(second)
    species = torch.tensor([["O", "Si"].index(symbol) for symbol in atoms.symbols])
    positions = torch.tensor(atoms.positions, requires_grad=True)
    vectors = positions[neighbors] - positions[centers] + torch.tensor(shifts @ atoms.cell.array)
    h, none = program.layer(0, vectors, centers, neighbors, species, len(atoms), torch.zeros(0))
    energies = (
        program.baseline()[species] + none + program.layer(1, vectors, centers, neighbors, species, len(atoms), h)[1]
    )
    energies.sum().backward()
    np.testing.assert_allclose(result["energies"], energies.detach(), rtol=1e-10)
    np.testing.assert_allclose(result["forces"], -positions.grad, rtol=0, atol=1e-10)
    assert np.abs(result["forces"]).max() > 0.1


def test_its_further_outputs_reach_fix_pair(tmp_path):
    save(tmp_path / "morse.pt")
    deck = crystal() + (
        "pair_style tesseral/torch\npair_coeff * * morse.pt O Si\nfix b all pair 1 tesseral/torch bonds 1\n"
        "compute near all coord/atom cutoff 4.0\ndump d all custom 1 frame id f_b c_near\nrun 0\n"
    )
    run_lammps(deck, tmp_path, ranks=2)
    table = atoms_table(tmp_path / "frame")
    assert table[:, 1].min() > 4
    np.testing.assert_array_equal(table[:, 1], table[:, 2])


@pytest.mark.parametrize(
    ("module", "metadata", "match"),
    [
        (None, None, "has no metadata.json among its extra files"),
        (
            None,
            {**METADATA, "n_layers": 2},
            r"does not follow the interface layer\(index.*Method 'layer' is not defined",
        ),
        (None, {**METADATA, "n_layers": 0}, "other.pt: n_layers is 0, must be at least 1"),
        (
            torch.jit.script(OtherRows(CUTOFF)),
            {**METADATA, "n_layers": 2},
            r"the features have the shape \[3, 4\], expected one row for each of 1 centers",
        ),
        (None, {"species": ["Si"], "n_layers": 1}, "other.pt: key 'cutoff' is missing"),
        (torch.jit.script(Wrong()), METADATA, r"does not follow the interface forward\(vectors"),
        (torch.jit.script(Reordered()), METADATA, r"does not follow the interface forward\(vectors"),
        (torch.jit.script(NoTuple()), METADATA, r"it returns Tensor, not a tuple"),
        (torch.jit.script(Fails()), METADATA, r"the TorchScript program failed: .*neighbours are too much"),
    ],
    ids=[
        "no metadata",
        "no layers",
        "zero layers",
        "wrong rows",
        "no cutoff",
        "wrong shape",
        "other signature",
        "no tuple",
        "fails",
    ],
)
def test_a_program_that_does_not_follow_the_interface_is_refused(tmp_path, module, metadata, match):
    save(tmp_path / "other.pt", module, metadata)
    deck = crystal() + "pair_style tesseral/torch\npair_coeff * * other.pt O Si\nrun 0\n"
    with pytest.raises(LammpsError, match=match):
        run_lammps(deck, tmp_path, timeout=60)
