"""`finflow top`: what the running FinFlow does, on a screen that moves. Reads /metrics and nothing else."""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import click

from finflow.cli import echo_json
from finflow.cli.options import api_options
from finflow.kernel.errors import FinFlowError

if TYPE_CHECKING:
    from rich.text import Text

    from finflow.cli.top_model import Top
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
    if where["as_json"] and not once:
        raise click.UsageError("--json prints one screen: give --once, too.")
    url = _metrics_url(where)
    if once:
        found = asyncio.run(_measured(url, interval_s))
        if where["as_json"]:
            echo_json(found)
        else:
            _print(found)
        return
    asyncio.run(_watch(url, interval_s))


def _metrics_url(where: dict[str, Any]) -> str:
    from finflow.app import Config
    from finflow.cli.connect import running_url

    config = Config.load({"data": where["data"]})
    return f"{running_url(where, config).rstrip('/').removesuffix('/metrics')}/metrics"


async def _measured(url: str, interval_s: float) -> "Top":
    from finflow.cli.top_model import Watch

    watch = Watch(await scrape(url))
    await asyncio.sleep(interval_s)
    return watch.next(await scrape(url))


async def scrape(url: str) -> "Scrape":
    """What the URL counts now. Raises api_unreachable."""
    import aiohttp

    from finflow.telemetry.samples import Scrape

    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            if answer.status != 200:
                reason = f"{url} answers {answer.status}; it answers callers on its own machine only."
                raise FinFlowError("api_unreachable", reason)
            body = await answer.content.read(_MAX_BYTES)
            while piece := await answer.content.read(_MAX_BYTES - len(body)):
                body += piece
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise FinFlowError("api_unreachable", f"{url}: {error or type(error).__name__}") from error
    return Scrape(body.decode(errors="replace"), monotonic())


async def _watch(url: str, interval_s: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from finflow.cli.top_model import Watch
    from finflow.cli.top_screen import screen

    console = Console()
    watch = Watch(await scrape(url))
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(interval_s)
            found = watch.next(await scrape(url))
            live.update(_text(screen(found, url, *console.size)), refresh=True)


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
