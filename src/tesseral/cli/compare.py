"""`tesseral compare`: everything beside every other code, as tables and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def compare(
    out: Annotated[Path, typer.Option(help="Folder for results, table.md and pictures.")] = Path("comparison"),
    only: Annotated[
        list[str] | None, typer.Option(metavar="CASE", help="Measure this case anew and no other; may be repeated.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small systems, few calls: to see that all runs.")] = False,
    peer_python: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PYTHON", help="Python that has this peer installed; may be repeated."),
    ] = None,
    list_all: Annotated[bool, typer.Option("--list", help="Show cases and peers, measure nothing.")] = False,
) -> None:
    """Compare Tesseral with every other code that is installed, on this machine.

    What is measured is kept in results.jsonl; the same command again goes on where it was stopped.
    """
    from tesseral.benchmarks.comparison.cases import CASES, chosen
    from tesseral.benchmarks.comparison.processes import Interpreters

    interpreters = Interpreters(dict(_pair(text) for text in peer_python or ()))
    wanted = chosen(only or ())
    if list_all:
        _list(interpreters)
        return
    from tesseral.benchmarks.comparison.measure import Bench
    from tesseral.benchmarks.comparison.plots import draw
    from tesseral.benchmarks.comparison.session import Results, plan, run
    from tesseral.benchmarks.comparison.tables import report

    measurements = list(plan(wanted, quick))
    results = Results(out, quick, again=only or ())
    bench = Bench(interpreters, quick)
    try:
        with _progress() as progress:
            task = progress.add_task("", total=len(measurements), completed=-1)
            run(measurements, results, bench, lambda text: progress.update(task, advance=1, description=text))
    finally:
        bench.close()
    shown = [case for case in CASES.values() if any(r["case"] == case.name for r in results.records)]
    (out / "table.md").write_text(report(shown, results.machine, results.records), encoding="utf-8")
    pictures = [path for case in shown for path in draw(case, results.records, out)]
    typer.echo(f"{out / 'table.md'} and {len(pictures)} pictures in {out}")


def _pair(text: str) -> tuple[str, str]:
    """NAME=PYTHON taken apart."""
    name, equals, path = text.partition("=")
    if not equals or not path:
        raise typer.BadParameter(f"--peer-python takes NAME=PYTHON, got {text!r}")
    return name, path


def _list(interpreters: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from tesseral.benchmarks.comparison.cases import CASES
    from tesseral.benchmarks.comparison.codes import NOT_TIMED, PEERS

    cases = Table("case", "what", "codes", "rounds")
    for case in CASES.values():
        cases.add_row(case.name, case.title, str(len(case.codes)), str(case.rounds))
    peers = Table("peer", "version or how to install it")
    for name, peer in PEERS.items():
        peers.add_row(name, interpreters.version(name) or f"not installed: {peer.install}")
    for name, reason in NOT_TIMED.items():
        peers.add_row(name, f"never timed: {reason}")
    console = Console()
    console.print(cases)
    console.print(peers)


def _progress() -> Any:
    """A bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=Console(stderr=True))
