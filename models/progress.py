"""Progress of a training on the console: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from tesseral.models.checkpoint import Progress
from tesseral.models.loss import ErrorSums

#: seconds between lines when the output is not a terminal
LINE_INTERVAL = 15.0


def error_text(errors: dict[str, float]) -> str:
    """Root mean square errors in a few words, for instance ``E 3.1 meV/atom F 52.0 meV/Å``."""
    parts = []
    if "energy_rmse" in errors:
        parts.append(f"E {errors['energy_rmse']:.2f} meV/atom")
    if "forces_rmse" in errors:
        parts.append(f"F {errors['forces_rmse']:.1f} meV/Å")
    if "stress_rmse" in errors:
        parts.append(f"S {errors['stress_rmse']:.2f} meV/Å^3")
    return " ".join(parts) or "no labels"


class ConsoleMonitor:
    """Shows epochs, errors (RMSE) and the time left; use as a context manager around :meth:`Trainer.fit`."""

    def __init__(self, console: Console, epochs: int, completed: int) -> None:
        self.console = console
        self.epochs = epochs
        self.last_line = -LINE_INTERVAL
        self.validation = ""
        self.bar = Bar(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TimeRemainingColumn(),
            TextColumn("{task.fields[errors]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("epoch", total=epochs, completed=completed, errors="")

    def __enter__(self) -> ConsoleMonitor:
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def step(self, progress: Progress, n_batches: int, errors: ErrorSums) -> None:
        """Update the bar after a step."""
        if self.console.is_terminal:
            text = f"train {error_text(errors.summary())}{self.validation}"
            self.bar.update(self.task, completed=progress.epoch + progress.batch / n_batches, errors=text)

    def epoch(self, record: dict[str, Any]) -> None:
        """Remember the validation errors; without a terminal print a line if the last one is old."""
        names = [name for name in ("validation", "replay validation") if name in record]
        if names:
            self.validation = "".join(f" | {name} {error_text(record[name])}" for name in names)
        if self.console.is_terminal:
            self.bar.update(self.task, completed=record["epoch"])
        elif record["epoch"] == self.epochs or time.monotonic() - self.last_line >= LINE_INTERVAL:
            self.last_line = time.monotonic()
            text = f"train {error_text(record['training'])}{self.validation}"
            position = f"epoch {record['epoch']}/{self.epochs} ({record['seconds']:.0f} s)"
            self.console.print(f"{position} {text}", soft_wrap=True)
