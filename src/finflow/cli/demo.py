"""`finflow demo`: everything started, a bank's history replayed over HTTP, every balance checked."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from finflow.app import Config, running
from finflow.cli import echo_json
from finflow.cli.connect import LocalTokens
from finflow.cli.import_ import FaultPrinter
from finflow.cli.options import json_option, port_option, workers_option
from finflow.cli.progress import ByteProgress
from finflow.cli.until import Stop, first, run
from finflow.client.service import Client
from finflow.demo.model import Summary
from finflow.demo.service import replay
from finflow.demo.source import Source, find
from finflow.imports.service import bounded_lines
from finflow.kernel.errors import EXIT_DONE, EXIT_NO, FinFlowError


@click.command
@click.option("--exit", "leave", is_flag=True, help="End after the summary instead of staying up.")
@click.option("--file", metavar="FILE", help="A history in the format of examples/berka.toml to replay.")
@click.option("--rows", type=click.IntRange(min=1), help="Replay so many rows only.")
@click.option("--data", metavar="FOLDER", help="Keep the data there [a temporary folder, removed after].")
@port_option
@workers_option
@json_option
def demo(leave: bool, file: str | None, rows: int | None, data: str | None, **options: Any) -> int:
    """Replay a bank's history over HTTP and check every balance."""
    as_json = options.pop("as_json")
    summaries: list[Summary] = []
    with _folder(data) as folder:
        config = Config.load({"data": str(folder), **options})
        source = find(file, rows, os.environ, folder)

        async def work(stop: Stop) -> None:
            click.echo("Starting PostgreSQL and the API ...", err=True)
            # It shows how fast the house is, without a router in front.
            async with running(config, ingress=None) as stack:
                summary = await _replay(stack.url, LocalTokens(config, stack.url), source, rows)
                summaries.append(summary)
                stop.arm()
                if as_json:
                    echo_json(summary)
                else:
                    _show(summary)
                if not leave:
                    click.echo(_stays_up(stack.url), err=True)
                    await first(stop.wait(), stack.broken())

        run(work)
    return EXIT_DONE if summaries[0].good() else EXIT_NO


async def _replay(url: str, tokens: LocalTokens, source: Source, rows: int | None) -> Summary:
    click.echo(f"Replaying {source.title} through {url} ...", err=True)
    faults = FaultPrinter(None)
    try:
        file = source.path.open("rb")
    except OSError as error:
        raise FinFlowError("file_unreadable", f"{source.path}: {error.strerror}", "--file") from error
    with file, ByteProgress("Replaying", file) as progress:
        async with Client(url, token=tokens.operator()) as platform:
            lines = progress.counted(bounded_lines(file))
            summary = await replay(
                platform,
                lambda tenant_id: Client(url, token=tokens.of(tenant_id)),
                source.mapping,
                lines,
                max_rows=rows,
                on_fault=faults.add,
            )
    faults.say_how_many_more()
    return summary


@contextmanager
def _folder(data: str | None) -> Iterator[Path]:
    """The named folder, which stays, or a fresh one, so that a demonstration can always be run again."""
    if data is not None:
        folder = Path(data).expanduser().absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="finflow-demo-") as temporary:
        yield Path(temporary)


def _stays_up(url: str) -> str:
    return f"\nThe API stays up at {url} (try {url}/docs). Ctrl-C stops everything."


def _show(summary: Summary) -> None:
    from rich.console import Console  # here, because --json needs no table
    from rich.table import Table

    table = Table(show_header=False)
    for name, value in _lines(summary):
        table.add_row(name, value)
    console = Console()
    if console.is_terminal:
        console.print(table)
    else:
        for name, value in _lines(summary):
            click.echo(f"{name:<22} {value}")


def _lines(summary: Summary) -> list[tuple[str, str]]:
    equal = f"{summary.balances_equal:,} of {summary.balances_checked:,}"
    return [
        ("transactions", f"{summary.transactions:,}"),
        ("refused", f"{summary.refused:,}"),
        ("balances equal", equal),
        ("books balanced", "yes" if summary.books_balanced else "NO"),
        ("transactions per s", f"{summary.transactions_per_s:,.0f}"),
        ("one transaction, p50", f"{summary.http_p50_ms:.1f} ms"),
        ("one transaction, p99", f"{summary.http_p99_ms:.1f} ms"),
    ]
