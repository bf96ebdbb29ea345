"""`tesseral train`: fit a model to labelled structures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Argument(help="YAML file: data, model and training.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the results (default: ./<name>).")
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(help="Folder where relative data paths start (default: that of the YAML file)."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Replace a key of the file, as in --set training.epochs=100; repeatable."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint in the folder, if there is one.")
    ] = False,
) -> None:
    """Train a model as a YAML file describes.

    The folder receives model.pt, report/ (metrics.json and plots), log.jsonl, config.yaml and the
    checkpoint. Ctrl-C stops after the step under way; --resume continues, with the same result as an
    uninterrupted run.
    """
    from rich.console import Console

    from tesseral.models.config_file import ConfigError, load_config

    settings = load_config(config, assignments, data_root)
    folder = output or Path(settings.name)

    from tesseral.models.allocation import keep_freed_memory
    from tesseral.models.pipeline import CONFIG_NAME
    from tesseral.models.pipeline import train as run
    from tesseral.models.training import CHECKPOINT_NAME, TrainingInterrupted

    own = (folder / CHECKPOINT_NAME).exists()  # then the file there was written by the training
    if not own and (folder / CONFIG_NAME).exists() and (folder / CONFIG_NAME).samefile(config):
        raise ConfigError(f"{config}: would be overwritten by the record of the training; choose another --output")
    keep_freed_memory()
    try:
        run(settings, folder, resume, Console())
    except TrainingInterrupted as interruption:
        typer.echo(f"tesseral: {interruption}; continue with --resume", err=True)
        raise typer.Exit(128 + interruption.signal_number) from interruption
