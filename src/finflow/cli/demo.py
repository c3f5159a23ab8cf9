"""`finflow demo`: a bank moves to a new release while its customers pay; or its history alone."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from finflow.app import Config, running
from finflow.cli import echo_json
from finflow.cli.connect import LocalTokens
from finflow.cli.demo_screen import card_lines, history_lines, live_line
from finflow.cli.import_ import FaultPrinter
from finflow.cli.options import json_option, port_option, workers_option
from finflow.cli.progress import ByteProgress
from finflow.cli.until import Stop, first, run
from finflow.client.service import Client
from finflow.demo.history import replay
from finflow.demo.model import Summary
from finflow.demo.source import Source, find
from finflow.imports.service import bounded_lines
from finflow.kernel.errors import EXIT_DONE, EXIT_NO, FinFlowError

T = TypeVar("T")

_EVERY_S: Final = 1.0


@click.command
@click.option("--exit", "leave", is_flag=True, help="End after the scorecard instead of staying up.")
@click.option("--silent-fault", is_flag=True, help="The bad release books wrong amounts instead of failing.")
@click.option(
    "--rate", type=click.IntRange(20, 2_000), default=200, show_default=True, help="Intents a second."
)
@click.option(
    "--bake-s",
    type=click.FloatRange(2, 600),
    default=10.0,
    show_default=True,
    help="Seconds a step is judged.",
)
@click.option("--history", "history_only", is_flag=True, help="Replay the history alone: no migration.")
@click.option("--file", metavar="FILE", help="A history in the format of examples/berka.toml to replay.")
@click.option("--rows", type=click.IntRange(min=1), help="Replay so many rows only.")
@click.option("--data", metavar="FOLDER", help="Keep the data there [a temporary folder, removed after].")
@port_option
@workers_option
@json_option
def demo(file: str | None, rows: int | None, data: str | None, **options: Any) -> int:
    """Move a bank to a new release under live traffic: a bad one is taken back, a good one goes to all."""
    with _folder(data) as folder:
        config = Config.load({"data": str(folder), "port": options["port"], "workers": options["workers"]})
        source = find(file, rows, os.environ, folder)
        act = _history if options["history_only"] else _migration
        return act(config, source, rows, options)


def _told(work_of: Callable[[Stop, list[T]], Awaitable[None]]) -> T:
    """What some work that may be interrupted came to."""
    found: list[T] = []

    async def work(stop: Stop) -> None:
        await work_of(stop, found)

    run(work)
    return found[0]


# --- the whole ---------------------------------------------------------------------------------------------


def _migration(config: Config, source: Source, rows: int | None, options: dict[str, Any]) -> int:
    from finflow.demo.scorecard import Scorecard
    from finflow.demo.service import Demonstration, Plan, Watch
    from finflow.demo.stage import staged

    faults = FaultPrinter(None)
    plan = Plan(
        source=source,
        fault="silent" if options["silent_fault"] else "loud",
        rate_per_s=options["rate"],
        bake_s=options["bake_s"],
        max_rows=rows,
        on_fault=faults.add,
        on_trouble=lambda words: click.echo(words, err=True),
    )

    async def work(stop: Stop, found: list[Scorecard]) -> None:
        click.echo("Starting PostgreSQL ...", err=True)
        async with AsyncExitStack() as undo:
            stage = await undo.enter_async_context(staged(config))
            tokens = LocalTokens(config, stage.url)
            operator = await undo.enter_async_context(Client(stage.url, token=tokens.operator()))
            watch = Watch()
            acting = Demonstration(stage, plan, tokens.of, operator, watch).run(undo)
            found.append(await _watched(acting, watch))
            faults.say_how_many_more()
            stop.arm()
            _show(found[0], options["as_json"])
            if not options["leave"]:
                click.echo(f"\n{plan.source.title} stays up at {stage.url}/docs. Ctrl-C stops it.", err=True)
                await stop.wait()

    card = _told(work)
    return EXIT_DONE if card.good() else EXIT_NO


async def _watched(acting: Awaitable[T], watch: Any) -> T:
    """The acts, with a line a second on standard error that says how it goes; a new act begins a new line."""
    task = asyncio.ensure_future(acting)
    screen = sys.stderr
    act = ""
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_EVERY_S)
            if watch.act != act:
                act = watch.act
                click.echo(f"\n{act} ..." if screen.isatty() else f"{act} ...", err=True)
            line = live_line(watch)
            if line and screen.isatty():
                click.echo(f"\r  {line}\x1b[K", err=True, nl=False)
        if screen.isatty():
            click.echo("", err=True)
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _show(card: msgspec.Struct, as_json: bool) -> None:
    if as_json:
        echo_json(card)
        return
    from rich.console import Console  # here, because --json needs no table
    from rich.table import Table

    lines = history_lines(card) if isinstance(card, Summary) else card_lines(card)
    console = Console()
    if not console.is_terminal:
        width = max(len(name) for name, _ in lines)
        click.echo("\n".join(f"{name:<{width}}  {value}" for name, value in lines))
        return
    table = Table(show_header=False)
    for name, value in lines:
        table.add_row(name, value)
    console.print(table)


# --- the history alone -------------------------------------------------------------------------------------


def _history(config: Config, source: Source, rows: int | None, options: dict[str, Any]) -> int:
    async def work(stop: Stop, found: list[Summary]) -> None:
        click.echo("Starting PostgreSQL and the API ...", err=True)
        # It shows how fast the house is, without a router in front.
        async with running(config, ingress=None) as stack:
            found.append(await _replay(stack.url, LocalTokens(config, stack.url), source, rows))
            stop.arm()
            _show(found[0], options["as_json"])
            if not options["leave"]:
                click.echo(f"\nThe API stays up at {stack.url} (try {stack.url}/docs).", err=True)
                await first(stop.wait(), stack.broken())

    summary = _told(work)
    return EXIT_DONE if summary.good() else EXIT_NO


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
