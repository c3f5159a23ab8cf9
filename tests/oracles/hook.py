"""An HTTP server that keeps what is posted to it and answers as it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import web


class Posted(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes


class Hook:
    """`answers` are given first, each once; then 200. `silent` answers nothing at all."""

    def __init__(self) -> None:
        self.posted: list[Posted] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.silent = False
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        """One request."""
        self.posted.append(Posted(request.path, dict(request.headers), await request.read()))
        if self.silent:
            await asyncio.sleep(30)
        status, headers = self.answers.pop(0) if self.answers else (200, {})
        return web.Response(status=status, headers=headers, text="ok")


@asynccontextmanager
async def hook() -> AsyncIterator[Hook]:
    """A server on a free port of 127.0.0.1."""
    made = Hook()
    application = web.Application()
    application.router.add_post("/{path:.*}", made.take)
    runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        made.url = f"http://{host}:{port}"
        yield made
    finally:
        await runner.cleanup()
