"""Which API a command talks to: the one named, the one that runs on the data folder, or one of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click

from finflow.app import Config, running
from finflow.stack.folder import DataFolder


@asynccontextmanager
async def api_url(url: str | None, config: Config) -> AsyncIterator[str]:
    """The URL to use. Where nothing runs yet, FinFlow is started on the data folder for this block alone."""
    state = DataFolder(config.data).read_state() if url is None else None
    if url is not None or state is not None:
        yield url or (state.url if state else "")
        return
    click.echo(f"Starting FinFlow on {config.data} for this command ...", err=True)
    async with running(config) as stack:
        yield stack.url
