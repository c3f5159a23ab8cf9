"""`finflow top`: what the running FinFlow does, on a screen that moves. Reads /metrics and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic, strftime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from finflow.cli import echo_json
from finflow.cli.options import api_options
from finflow.kernel.errors import FinFlowError

if TYPE_CHECKING:
    from rich.text import Text

    from finflow.cli.top_model import Top, Watch
    from finflow.cli.top_screen import Line
    from finflow.telemetry.samples import Scrape

_MAX_BYTES: Final = 32 << 20
_TIMEOUT_S: Final = 10.0


@click.command
@click.option("--once", is_flag=True, help="Print one screen and end.")
@click.option(
    "--interval", "interval_s", type=click.FloatRange(0.2, 60), default=2.0, show_default=True,
    help="Seconds between two readings.",
)  # fmt: skip
@api_options
def top(once: bool, interval_s: float, **where: Any) -> None:
    """Watch requests, latency, group commit, tenants and releases, until Ctrl-C."""
    from finflow.cli.until import run

    if where["as_json"] and not once:
        raise click.UsageError("--json prints one screen: give --once, too.")
    if not once:
        run(lambda _: _watch(where, interval_s))
        return
    found = asyncio.run(_measured(where, interval_s))
    if where["as_json"]:
        echo_json(found)
    else:
        _print(found)


def metrics_url(where: dict[str, Any]) -> str:
    """Where the metrics are. Raises stack_not_running, and setting_malformed for what is no URL."""
    from finflow.app import Config
    from finflow.cli.connect import running_url

    url = running_url(where, Config.load({"data": where["data"]}))
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        # It is not repeated: what has no scheme may hold a password that nothing tells from a path.
        raise FinFlowError("setting_malformed", "--url (or FINFLOW_URL): it is not an http(s) URL.", "--url")
    return f"{url.rstrip('/').removesuffix('/metrics')}/metrics"


async def _measured(where: dict[str, Any], interval_s: float) -> "Top":
    from finflow.cli.top_model import Watch

    url = metrics_url(where)
    watch = Watch(await scrape(url))
    await asyncio.sleep(interval_s)
    return watch.next(await scrape(url))


async def scrape(url: str) -> "Scrape":
    """What the URL counts now. Raises api_unreachable."""
    import aiohttp

    from finflow.telemetry import outbound

    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with outbound.session(timeout=timeout) as session, session.get(url) as answer:
            if answer.status != 200:
                words = f"answers {answer.status}; it answers callers on its own machine only."
                raise _unreachable(url, words)
            body = await answer.content.read(_MAX_BYTES)
            while piece := await answer.content.read(_MAX_BYTES - len(body)):
                body += piece
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise _unreachable(url, f"gives no answer: {error or type(error).__name__}") from error
    return read(url, body.decode(errors="replace"))


def read(url: str, text: str) -> "Scrape":
    """What an answer of the URL counts. Raises api_unreachable for one that is not FinFlow's."""
    from finflow.telemetry.samples import Scrape

    try:
        found = Scrape(text, monotonic())
    except ValueError as error:
        raise _unreachable(url, "answers, but not with metrics.") from error
    # Every FinFlow shows its processes, whatever it has done so far.
    if not found.of("finflow_processes"):
        raise _unreachable(url, "answers, but without metrics of FinFlow.")
    return found


def _unreachable(url: str, words: str) -> FinFlowError:
    from finflow.telemetry.redaction import redact

    return FinFlowError("api_unreachable", redact(f"{url} {words}"))


# --- screens that follow each other ------------------------------------------------------------------------


async def _watch(where: dict[str, Any], interval_s: float) -> None:
    """Screens until cancelled: in place on a terminal, one below the other elsewhere."""
    from rich.console import Console
    from rich.live import Live

    from finflow.cli.top_model import Watch
    from finflow.cli.top_screen import plain

    shown = looks(where, interval_s, Watch(await scrape(metrics_url(where))))
    console = Console()
    if not console.is_terminal:
        async for found, url, trouble in shown:
            click.echo(plain(_lines(None if trouble else found, url, trouble)) + "\n")
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        live.update(_text([[(f"finflow top looks again in {interval_s:g} s ...", "bold")]]), refresh=True)
        async for look in shown:
            live.update(_text(_lines(*look, *console.size)), refresh=True)


async def looks(
    where: dict[str, Any], interval_s: float, watch: "Watch"
) -> AsyncIterator[tuple["Top | None", str, str]]:
    """Each interval what was measured last, where, and what keeps it from being newer.

    Who has answered once may be starting again, also on another port of the same data folder.
    """
    from finflow.telemetry.redaction import redact

    found, url, since = None, "", ""
    while True:
        await asyncio.sleep(interval_s)
        try:
            url = metrics_url(where)
            found, since, trouble = watch.next(await scrape(url)), "", ""
        except FinFlowError as error:
            since = since or strftime("%H:%M:%S")
            trouble = f"no answer since {since}: {error.detail}"
        yield found, redact(url), trouble


def _lines(found: "Top | None", url: str, trouble: str, *size: int) -> list["Line"]:
    from finflow.cli.top_screen import UNBOUNDED, screen

    width, height = size or (UNBOUNDED, UNBOUNDED)
    above: list[Line] = [[(trouble, "red bold")]] if trouble else []
    return above if found is None else [*above, *screen(found, url, width, height - len(above))]


def _text(lines: list["Line"]) -> "Text":
    from rich.text import Text

    return Text("\n", no_wrap=True, overflow="ellipsis").join(Text.assemble(*line) for line in lines)


def _print(found: "Top") -> None:
    from rich.console import Console

    from finflow.cli.top_screen import plain, screen

    console = Console()
    if console.is_terminal:
        console.print(_text(screen(found, "", console.width)))
    else:
        click.echo(plain(screen(found, "")))
