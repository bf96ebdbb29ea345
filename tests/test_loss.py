"""Loss, learning rate and averaged weights, against values written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from tesseral.models.config import LossConfig, LossWeights, TrainingConfig
from tesseral.models.data import Batch, build_structure, collate
from tesseral.models.frames import Frame
from tesseral.models.loss import ErrorSums, loss_value, penalties, predict, residuals, weights_at
from tesseral.models.optimisation import AveragedWeights, learning_rate


class TwoSprings(torch.nn.Module):
    """E_i = sum_j k r_ij^2 / 2 + c: energies, forces and stress known on paper."""

    def __init__(self, stiffness: float) -> None:
        super().__init__()
        self.stiffness = torch.nn.Parameter(torch.tensor([[stiffness]], dtype=torch.float64))

    def energies_and_gradients(
        self, vectors: Tensor, centers: Tensor, neighbors: Tensor, species: Tensor, differentiable: bool
    ) -> tuple[Tensor, Tensor]:
        k = self.stiffness[0, 0]
        energies = torch.zeros(len(species), dtype=vectors.dtype)
        return energies.index_add(0, centers, 0.5 * k * vectors.square().sum(1)), k * vectors


def spring_batch() -> tuple[Batch, list[Frame]]:
    """A dimer with energy and forces, and a crystal with energy and stress."""
    dimer = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.5]])
    crystal = bulk("Cu")
    frames = [
        Frame(dimer, 3.0, np.ones((2, 3)), None, "a", "dimer"),
        Frame(crystal, -1.0, None, 0.1 * np.eye(3), "b", "crystal"),
    ]
    return collate([build_structure(f, ["Cu"], 3.0, np.array([0.5]), torch.float64) for f in frames]), frames


def test_energies_forces_and_stress_of_springs() -> None:
    batch, frames = spring_batch()
    result = predict(TwoSprings(0.2), batch, True, False)
    distance = frames[1].atoms.cell.cellpar()[0]  # 12 nearest neighbours
    assert result.energy.tolist() == pytest.approx([0.2 * 2.5**2, 12 * 0.1 * distance**2])
    # each directed edge carries k r^2 / 2: the bond is a spring of 2 k
    np.testing.assert_allclose(result.forces[:2], [[0, 0, 1.0], [0, 0, -1.0]], atol=1e-12)
    np.testing.assert_allclose(result.forces[2:], 0.0, atol=1e-12)
    assert result.stress is not None
    expected = 12 * 0.2 * distance**2 / 3 / frames[1].atoms.get_volume()
    np.testing.assert_allclose(result.stress[1], expected * np.eye(3), atol=1e-12)
    assert predict(TwoSprings(0.2), batch, False, False).stress is None


def test_loss_is_the_weighted_mean_over_what_is_labelled() -> None:
    batch, _ = spring_batch()
    result = predict(TwoSprings(0.2), batch, True, False)
    assert result.stress is not None
    weights = LossWeights(energy=2.0, forces=3.0, stress=5.0)
    energy = [(float(result.energy[0]) - 2.0) / 2, float(result.energy[1]) + 1.5]
    forces = (result.forces[:2] - 1.0).square().mean()
    stress = (result.stress[1] - 0.1 * torch.eye(3, dtype=torch.float64)).square().mean()
    expected = 2.0 * np.mean(np.square(energy)) + 3.0 * float(forces) + 5.0 * float(stress)
    assert float(loss_value(residuals(result, batch), weights, LossConfig())) == pytest.approx(expected, rel=1e-12)
    sums = ErrorSums()
    sums.add(residuals(result, batch), LossConfig())
    assert sums.loss(weights) == pytest.approx(expected, rel=1e-12)
    assert sums.summary()["energy_mae"] == pytest.approx(1000 * np.mean(np.abs(energy)))
    assert sums.summary()["forces_rmse"] == pytest.approx(1000 * math.sqrt(forces))


def test_frames_count_as_often_as_their_weight_says() -> None:
    dimer, crystal = spring_batch()[1]
    weights, loss = LossWeights(energy=2.0, forces=3.0, stress=5.0), LossConfig()

    def value(factor: float) -> tuple[float, ErrorSums]:
        structures = [
            build_structure(frame, ["Cu"], 3.0, np.array([0.5]), torch.float64, weight)
            for frame, weight in ((dimer, 1.0), (crystal, factor))
        ]
        batch = collate(structures)
        errors = residuals(predict(TwoSprings(0.2), batch, True, False), batch)
        sums = ErrorSums()
        sums.add(errors, loss)
        return float(loss_value(errors, weights, loss)), sums

    result = predict(TwoSprings(0.2), spring_batch()[0], True, False)
    assert result.stress is not None
    energy = 2.0 * (float(result.energy[1]) + 1.5) ** 2 / 2  # mean over two frames
    stress = 5.0 * float((result.stress[1] - 0.1 * torch.eye(3, dtype=torch.float64)).square().mean())
    (whole, sums), (part, part_sums) = value(1.0), value(0.25)
    assert whole - part == pytest.approx(0.75 * (energy + stress), rel=1e-12)
    assert part_sums.loss(weights) == pytest.approx(part, rel=1e-12)
    assert part_sums.summary() == sums.summary()
    joined = sums.joined(part_sums)
    assert joined.loss(weights) == pytest.approx((whole + part) / 2, rel=1e-12)


def test_huber_is_square_inside_linear_outside_and_smooth() -> None:
    errors = torch.tensor([-3.0, -0.5, 0.2, 2.0], dtype=torch.float64, requires_grad=True)
    values = penalties(errors, "huber", 0.5)
    assert values.tolist() == pytest.approx([2.75, 0.25, 0.04, 1.75])
    assert torch.autograd.grad(values.sum(), errors)[0].tolist() == pytest.approx([-1.0, -1.0, 0.4, 1.0])


def test_second_stage_weights_hold_from_its_fraction_of_the_epochs() -> None:
    loss = LossConfig(energy=1.0, second_stage={"start": 0.5, "energy": 100.0})
    assert [weights_at(loss, epoch, 4).energy for epoch in range(4)] == [1.0, 1.0, 100.0, 100.0]


def test_learning_rate_warms_up_and_falls_to_its_final_fraction() -> None:
    options = TrainingConfig(epochs=10, warmup_epochs=1, learning_rate=1.0, final_learning_rate_fraction=0.1)
    rates = [learning_rate(options, step, 5) for step in range(51)]
    assert rates[:5] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert rates[5] == 1.0 and rates[50] == pytest.approx(0.1)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    constant = options.model_copy(update={"schedule": "constant"})
    assert learning_rate(constant, 40, 5) == 1.0


def test_averaged_weights_follow_their_formula_and_leave_the_model_alone() -> None:
    model = TwoSprings(1.0)
    average = AveragedWeights(model, 0.9)
    with torch.no_grad():
        model.stiffness.fill_(2.0)
    average.update(1)  # decay min(0.9, 2/11)
    expected = 2 / 11 * 1.0 + 9 / 11 * 2.0
    with average.in_place():
        assert model.stiffness.item() == pytest.approx(expected)
    assert model.stiffness.item() == 2.0
