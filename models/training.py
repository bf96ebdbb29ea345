"""The optimisation loop: batches, validation of averaged weights, early stop, checkpoints, interruption."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from tesseral.models.checkpoint import (
    Progress,
    TrainingState,
    load_checkpoint,
    save_checkpoint,
)
from tesseral.models.config import TrainingConfig
from tesseral.models.data import Batch, Structure, batch_order, batches_by_atoms, collate, label_counts
from tesseral.models.energy_model import EnergyModel
from tesseral.models.loss import LABELS, ErrorSums, error_sums, loss_value, predict, residuals, weights_at
from tesseral.models.optimisation import AveragedWeights, copy_into, learning_rate, make_optimizer
from tesseral.models.processes import Processes

CHECKPOINT_NAME = "checkpoint.safetensors"
#: atoms per batch where no gradient of the parameters is needed
EVALUATION_ATOMS = 2000
CPU, ALONE = torch.device("cpu"), Processes()


class TrainingError(RuntimeError):
    """The training cannot go on, for instance because it diverged."""


class TrainingInterrupted(Exception):
    """The training was stopped by a signal; a checkpoint has been written."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class Monitor(Protocol):
    """What is told about a running training."""

    def step(self, progress: Progress, n_batches: int, errors: ErrorSums) -> None:
        """After every step, with the errors of the epoch so far."""

    def epoch(self, record: dict[str, Any]) -> None:
        """After every epoch; ``record`` is the entry of the history."""


class Trainer:
    """Fits a model to structures; the state is saved now and then and can be resumed exactly.

    Args:
        model: what is fitted; it is moved to the device and its weights change in place.
        training, validation: structures; without validation the averaged weights of the last epoch are the result.
        replay_validation: further structures for validation, whose errors are told apart.
        device: where the model and the batch under way are; the structures stay where they are.
        processes: those that train this model together, each with the same arguments but for the device.
        settings: the ``training`` section of the configuration.
        folder: where the checkpoint is written.
        identity: JSON data that a checkpoint must agree with to be resumed.
    """

    def __init__(
        self,
        model: EnergyModel,
        training: Sequence[Structure],
        validation: Sequence[Structure],
        settings: TrainingConfig,
        folder: Path,
        identity: dict[str, Any],
        replay_validation: Sequence[Structure] = (),
        device: torch.device = CPU,
        processes: Processes = ALONE,
    ) -> None:
        self.model = model.to(device)
        self.device, self.processes = device, processes
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.training = training
        self.settings = settings
        self.checkpoint = folder / CHECKPOINT_NAME
        self.identity = identity
        self.steps_per_epoch = math.ceil(len(training) / settings.batch_size)
        self.validation_batches: list[Batch] = list(batches_by_atoms(validation, EVALUATION_ATOMS))
        self.replay_batches: list[Batch] = list(batches_by_atoms(replay_validation, EVALUATION_ATOMS))
        average = AveragedWeights(model, settings.ema_decay)
        best = {name: value.clone() for name, value in average.average.items()}
        self.state = TrainingState(model, make_optimizer(model, settings), average, best, Progress())
        self._received_signal: int | None = None

    def resume(self) -> None:
        """Continue from the checkpoint in the folder.

        Raises:
            CheckpointError: it is damaged, or belongs to another configuration, other data or another model.
        """
        load_checkpoint(self.checkpoint, self.state, self.identity)

    def validate_start(self) -> dict[str, Any]:
        """Validate the weights before the first step: the training can then only end with better ones.

        Returns:
            The record of epoch 0, with which the history begins; empty without validation structures.
        """
        if not self.validation_batches:
            return {}
        record: dict[str, Any] = {"epoch": 0, "step": 0, "seconds": 0.0}
        self._validate(record)
        self.state.progress.history.append(record)
        return record

    def fit(self, monitors: Sequence[Monitor]) -> dict[str, Tensor]:
        """Train until the last epoch or the early stop.

        Returns:
            The best averaged weights by validation loss, by name; they are also in the model when this returns.

        Raises:
            TrainingError: the loss is not finite.
            TrainingInterrupted: SIGINT or SIGTERM came; a checkpoint holds everything up to then.
        """
        progress = self.state.progress
        started = time.monotonic() - progress.seconds
        self._last_checkpoint = time.monotonic()
        with self._signals_caught():
            while not progress.finished:
                self._run_epoch(monitors, started)
        copy_into(self.state.average.parameters, self.state.best)
        return self.state.best

    def _run_epoch(self, monitors: Sequence[Monitor], started: float) -> None:
        progress = self.state.progress
        order = batch_order(len(self.training), self.settings.batch_size, self.settings.seed, progress.epoch)
        sums = ErrorSums(progress.epoch_sums)
        progress.epoch_sums = sums.sums
        for indices in order[progress.batch :]:
            self._step([self.training[i] for i in indices], sums)
            progress.batch += 1
            progress.seconds = time.monotonic() - started
            for monitor in monitors:
                monitor.step(progress, len(order), sums)
            self._save_if_due()
        self._finish_epoch(sums)
        progress.seconds = time.monotonic() - started
        for monitor in monitors:
            monitor.epoch(progress.history[-1])
        if progress.finished:
            self._save()

    def _step(self, structures: Sequence[Structure], sums: ErrorSums) -> None:
        """One step with the gradient of the loss of these structures, of which each process takes its share."""
        settings, progress = self.settings, self.state.progress
        weights = weights_at(settings.loss, progress.epoch, settings.epochs)
        n_energies, n_forces, n_stresses = label_counts(structures)
        with_stress = weights.stress > 0 and n_stresses > 0
        counts = (n_energies, n_forces, n_stresses if with_stress else 0)
        results = torch.zeros(10, dtype=torch.float64, device=self.device)  # errors and loss of the own share
        own = self.processes.share(structures)
        if own:
            batch = collate(own).to(self.device)
            errors = residuals(predict(self.model, batch, with_stress, True), batch)._replace(counts=counts)
            loss = loss_value(errors, weights, settings.loss)
            if loss.requires_grad:
                loss.backward(inputs=self.parameters)  # and by nothing else that the model differentiates by
            results = torch.cat([error_sums(errors, settings.loss), loss.detach()[None]])
        *error_results, loss_result = self.processes.summed(results).tolist()
        self._check_finite(loss_result)
        sums.add_sums(counts, error_results)
        optimizer = self.state.optimizer
        # not for structures whose only labels have no weight
        if any(getattr(weights, label) > 0 and count > 0 for label, count in zip(LABELS, counts, strict=True)):
            self.processes.sum_gradients(self.parameters)
            if settings.gradient_clip is not None:
                torch.nn.utils.clip_grad_norm_(self.parameters, settings.gradient_clip)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, progress.step, self.steps_per_epoch)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        self.state.average.update(progress.step)

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the training diverged: the loss is {loss} in epoch {self.state.progress.epoch + 1}, step "
                f"{self.state.progress.step + 1}; use a smaller training.learning_rate or training.gradient_clip"
            )

    def _finish_epoch(self, sums: ErrorSums) -> None:
        """Record the epoch, validate if due, keep the best weights, decide whether to stop."""
        settings, progress = self.settings, self.state.progress
        weights = weights_at(settings.loss, progress.epoch, settings.epochs)
        rate = learning_rate(settings, progress.step - 1, self.steps_per_epoch)
        progress.epoch += 1
        progress.batch, progress.epoch_sums = 0, None
        last = progress.epoch == settings.epochs
        record: dict[str, Any] = {
            "epoch": progress.epoch,
            "step": progress.step,
            "learning_rate": rate,
            "training": {"loss": sums.loss(weights), **sums.summary()},
            "seconds": progress.seconds,
        }
        if last or progress.epoch % settings.validation_interval == 0:
            self._validate(record)
        progress.history.append(record)
        progress.finished = last or (settings.patience is not None and progress.stale >= settings.patience)

    def _validate(self, record: dict[str, Any]) -> None:
        progress = self.state.progress
        if self.validation_batches:
            with self.state.average.in_place():
                sums, replay = self._evaluate(self.validation_batches), self._evaluate(self.replay_batches)
            # always with the weights of the last epoch, so that the stages compare
            weights = weights_at(self.settings.loss, self.settings.epochs, self.settings.epochs)
            loss = sums.joined(replay).loss(weights)
            self._check_finite(loss)
            record["validation"] = {"loss": loss, **sums.summary()}
            if self.replay_batches:
                record["replay validation"] = replay.summary()
            if progress.best_loss is not None and loss >= progress.best_loss:
                progress.stale = progress.stale + 1 if self._in_last_stage() else 0
                return
            progress.best_loss = loss
        progress.best_epoch, progress.stale = progress.epoch, 0
        copy_into(self.state.best, self.state.average.average)

    def _evaluate(self, batches: Sequence[Batch]) -> ErrorSums:
        results = torch.zeros(12, dtype=torch.float64, device=self.device)
        for given in self.processes.share(batches):
            batch = given.to(self.device)
            errors = residuals(predict(self.model, batch, batch.n_labels[2] > 0, False), batch)
            counts = results.new_tensor(errors.counts)
            results += torch.cat([counts, error_sums(errors, self.settings.loss)])
        numbers = self.processes.summed(results).tolist()
        sums = ErrorSums()
        sums.add_sums(numbers[:3], numbers[3:])
        return sums

    def _in_last_stage(self) -> bool:
        stage = self.settings.loss.second_stage
        return stage is None or self.state.progress.epoch > stage.start * self.settings.epochs

    def _save(self) -> None:
        if self.processes.is_first:
            save_checkpoint(self.checkpoint, self.state, self.identity)

    def _save_if_due(self) -> None:
        received = self.processes.largest(self._received_signal or 0, self.device)
        if received or time.monotonic() - self._last_checkpoint >= self.settings.checkpoint_interval:
            self._save()
            self._last_checkpoint = time.monotonic()
        if received:
            name = signal.Signals(received).name
            raise TrainingInterrupted(f"stopped by {name}; the state is in {self.checkpoint}", received)

    @contextmanager
    def _signals_caught(self) -> Iterator[None]:
        """Remember SIGINT and SIGTERM until the step under way is complete; a second one acts at once."""
        previous: dict[int, Any] = {}

        def remember(number: int, frame: Any) -> None:
            self._received_signal = number
            signal.signal(number, previous[number])

        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                previous[number] = signal.signal(number, remember)
        except ValueError:  # not in the main thread, where signals do not arrive
            yield
            return
        try:
            yield
        finally:
            for caught, handler in previous.items():
                signal.signal(caught, handler)
