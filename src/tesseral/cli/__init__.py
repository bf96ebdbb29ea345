"""The command line. Each command lives in a module of its own, imported only when the command runs."""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from tesseral import __version__

#: command -> (module, function or group of commands in it, one line for `tesseral --help`)
COMMANDS = {
    "demo": (
        "tesseral.cli.demo",
        "demo",
        "Molecular dynamics of silicon with a shipped model, in every engine.",
    ),
    "train": ("tesseral.cli.train", "train", "Train a model as a YAML file describes."),
    "import": ("tesseral.cli.import_mace", "app", "Model files from models of other programs: import mace."),
    "eval": ("tesseral.cli.evaluate", "evaluate", "Errors of a model on labelled structures."),
    "info": ("tesseral.cli.info", "info", "What a model file says about itself."),
    "models": ("tesseral.cli.models", "models", "The models that come with the package."),
    "verify": (
        "tesseral.cli.verify",
        "verify",
        "Check that every way into a model gives the same, correct numbers.",
    ),
    "ipi-driver": ("tesseral.cli.ipi_driver", "ipi_driver", "Where the driver for i-PI is."),
    "bench": ("tesseral.cli.bench", "bench", "Speed on this machine, beside other codes where installed."),
    "compare": ("tesseral.cli.compare", "compare", "Everything beside every other code: tables and pictures."),
}
#: errors that are the user's to mend: one line without a traceback
USER_ERRORS = (ValueError, OSError, RuntimeError, ImportError, MemoryError)


class Commands(typer.core.TyperGroup):
    """Lists its commands without importing them, and turns user errors into one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, (_, _, summary) in COMMANDS.items():
            self.add_command(typer.core.TyperCommand(name=name, help=summary), name)

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of COMMANDS."""
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Replace the listed stand-in by the command itself."""
        name, stand_in, rest = super().resolve_command(ctx, args)
        return (name, _load(name) if name in COMMANDS else stand_in, rest)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept --debug behind the command as well as before it."""
        end = args.index("--") if "--" in args else len(args)
        rest = [arg for arg in args[:end] if arg != "--debug"]
        return super().parse_args(ctx, (["--debug"] if len(rest) < end else []) + rest + args[end:])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; without --debug a user error ends it with one line and exit code 1."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):  # the first two are RuntimeErrors in name only
            raise
        except USER_ERRORS as error:
            if ctx.params.get("debug"):
                raise
            typer.echo(f"tesseral: {explain(error)}", err=True)
            raise typer.Exit(1) from error


def explain(error: BaseException) -> str:
    """The text of an error as a user reads it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _load(name: str) -> Any:
    module, attribute, summary = COMMANDS[name]
    command = getattr(importlib.import_module(module), attribute)
    if isinstance(command, typer.Typer):
        return typer.main.get_command(command)
    single = typer.Typer(add_completion=False)
    single.command(name, short_help=summary)(command)
    return typer.main.get_command(single)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"tesseral {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _tesseral(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
) -> None:
    """Equivariant machine-learned potentials for molecular dynamics: train them, check them, run them."""


def main() -> None:
    """Entry point of the command `tesseral`."""
    app()
