"""Training objective: errors of energies per atom, force components and stresses, each where it is labelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tesseral.models.config import LossConfig, LossWeights
from tesseral.models.data import Batch

#: labels in the order of the fields of Prediction and Residuals
LABELS = ("energy", "forces", "stress")


class EdgeModel(Protocol):
    """What the training needs of a model."""

    def energies_and_gradients(
        self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor, differentiable: bool
    ) -> tuple[Tensor, Tensor]:
        """Energies [N] without E0 and shift, and dE/d vectors [E, 3]; if asked, in the graph of the parameters."""


class Prediction(NamedTuple):
    """Predictions for a batch of S structures with N atoms."""

    energy: Tensor  # [S] eV, float64, relative to the baseline
    forces: Tensor  # [N, 3] eV/Å
    stress: Tensor | None  # [S, 3, 3] eV/Å^3; None when not asked for


class Residuals(NamedTuple):
    """Predicted minus labelled values, 0 where there is no label, the number of labels, and factors in the loss."""

    energy: Tensor  # [S] eV/atom
    forces: Tensor  # [N, 3] eV/Å
    stress: Tensor  # [S, 3, 3] eV/Å^3, or [0]
    counts: tuple[int, int, int]  # structures; force components; stress components (9 per structure)
    weights: tuple[Tensor, Tensor, Tensor]  # of the structures: [S], [N, 1], [S, 1, 1] (or [0])


def predict(model: EdgeModel, batch: Batch, with_stress: bool, differentiable: bool) -> Prediction:
    """Energies, forces and stresses of a batch from the energies per atom and the gradients per edge.

    With g_ij = dE/dr_ij: F_i = sum_j g_ij - sum_j g_ji, and dE/dstrain = sum_ij r_ij (x) g_ij. The result has a graph
    to the parameters of the model if ``differentiable``, for training; otherwise it has none.
    """
    energies, gradients = model.energies_and_gradients(
        batch.vectors, batch.centers, batch.neighbors, batch.species, differentiable
    )
    if not differentiable:
        energies, gradients = energies.detach(), gradients.detach()
    n_structures = len(batch.n_atoms)
    energy = torch.zeros_like(batch.energy).scatter_add(0, batch.structure, energies.double())
    # scatter_add along rows is several times faster on CPU than index_add
    forces = torch.zeros_like(batch.forces)
    forces = forces.scatter_add(0, batch.centers[:, None].expand(-1, 3), gradients)
    forces = forces.scatter_add(0, batch.neighbors[:, None].expand(-1, 3), -gradients)
    if not with_stress:
        return Prediction(energy, forces, None)
    products = (batch.vectors[:, :, None] * gradients[:, None, :]).reshape(-1, 9)
    strain_gradient = products.new_zeros(n_structures, 9)
    strain_gradient = strain_gradient.scatter_add(0, batch.edge_structure[:, None].expand(-1, 9), products)
    strain_gradient = strain_gradient.reshape(-1, 3, 3)
    stress = 0.5 * (strain_gradient + strain_gradient.transpose(1, 2)) / batch.volume[:, None, None]
    return Prediction(energy, forces, stress)


def residuals(prediction: Prediction, batch: Batch) -> Residuals:
    """Errors of a batch, masked to the labels that are present."""
    labelled_atoms = batch.has_forces[batch.structure]
    n_energies, n_forces, n_stresses = batch.n_labels
    if prediction.stress is None:
        stress, n_stresses, weights = batch.stress.new_zeros(0), 0, batch.stress.new_zeros(0)
    else:
        stress = (prediction.stress - batch.stress) * batch.has_stress[:, None, None]
        weights = batch.weight[:, None, None]
    return Residuals(
        energy=(prediction.energy - batch.energy) / batch.n_atoms * batch.has_energy,
        forces=(prediction.forces - batch.forces) * labelled_atoms[:, None],
        stress=stress,
        counts=(n_energies, n_forces, n_stresses),
        weights=(batch.weight, batch.weight[batch.structure][:, None], weights),
    )


def penalties(errors: Tensor, kind: str, delta: float) -> Tensor:
    """Squared errors ("mse"), or for "huber" e^2 up to ``delta`` and delta (2 abs(e) - delta) beyond.

    P. J. Huber, Ann. Math. Stat. 35, 73 (1964), doi:10.1214/aoms/1177703732; twice his, to equal the square inside.
    """
    if kind == "mse":
        return errors * errors
    size = errors.abs()
    return torch.where(size <= delta, errors * errors, delta * (2.0 * size - delta))


def loss_value(errors: Residuals, weights: LossWeights, loss: LossConfig) -> Tensor:
    """Weighted sum of the mean penalties, a float64 scalar; a label that nothing carries adds nothing.

    The penalties of a structure count ``Structure.weight`` times; a mean is over the number of labels.
    """
    total = errors.energy.new_zeros((), dtype=torch.float64)
    for label, values, count, factors in zip(LABELS, errors[:3], errors.counts, errors.weights, strict=True):
        weight = getattr(weights, label)
        if weight > 0 and count > 0:
            weighted = factors * penalties(values, loss.kind, loss.huber_delta)
            total = total + weight / count * weighted.sum(dtype=torch.float64)
    return total


def weights_at(loss: LossConfig, epoch: int, epochs: int) -> LossWeights:
    """The weights of an epoch (counted from 0): those of the second stage once it has started."""
    stage = loss.second_stage
    return loss if stage is None or epoch < stage.start * epochs else stage


def error_sums(errors: Residuals, loss: LossConfig) -> Tensor:
    """Sums of absolute errors, squares and weighted penalties of each label, [9] in float64."""
    sums = []
    for given, factors in zip(errors[:3], errors.weights, strict=True):
        values = given.detach()
        for terms in (values.abs(), values * values, factors * penalties(values, loss.kind, loss.huber_delta)):
            sums.append(terms.sum(dtype=torch.float64))
    return torch.stack(sums)


class ErrorSums:
    """Sums of errors over batches, from which root mean squares and the loss of a whole set follow.

    ``sums`` has for each label the count, the sum of absolute errors, that of squares, and that of weighted penalties.
    """

    def __init__(self, sums: dict[str, list[float]] | None = None) -> None:
        self.sums = sums or {label: [0.0, 0.0, 0.0, 0.0] for label in LABELS}

    def add(self, errors: Residuals, loss: LossConfig) -> None:
        """Add one batch."""
        self.add_sums(errors.counts, error_sums(errors, loss).tolist())

    def add_sums(self, counts: Sequence[float], sums: Sequence[float]) -> None:
        """Add the counts of the labels and what `error_sums` gives for them."""
        for index, label in enumerate(LABELS):
            new = (counts[index], *sums[3 * index : 3 * index + 3])
            self.sums[label][:] = [old + more for old, more in zip(self.sums[label], new, strict=True)]

    def joined(self, other: ErrorSums) -> ErrorSums:
        """The sums of both sets together."""
        pairs = {label: zip(self.sums[label], other.sums[label], strict=True) for label in LABELS}
        return ErrorSums({label: [one + two for one, two in pair] for label, pair in pairs.items()})

    def loss(self, weights: LossWeights) -> float:
        """The weighted loss of everything added."""
        terms = [getattr(weights, label) * s[3] / s[0] for label, s in self.sums.items() if s[0]]
        return float(sum(terms))

    def summary(self) -> dict[str, float]:
        """``<label>_mae`` and ``<label>_rmse`` in meV/atom, meV/Å and meV/Å^3 of the labels that are present."""
        result = {}
        for label, (count, absolute, square, _) in self.sums.items():
            if count:
                result[f"{label}_mae"] = 1000.0 * absolute / count
                result[f"{label}_rmse"] = 1000.0 * (square / count) ** 0.5
        return result
