"""A proxy in front of the HTTP interface that loses requests and answers, whole or in half, from a seed."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Literal
from urllib.parse import urlsplit

Loss = Literal["request", "answer", "half an answer"]


class LossyProxy:
    """Forwards one request a connection, then hangs up; every third time too early. Counts its losses."""

    def __init__(self, url: str, seed: int) -> None:
        address = urlsplit(url)
        self._to = (address.hostname or "", address.port or 0)
        self._random = Random(seed)  # noqa: S311 - losses are drawn, not secrets
        self.lost: Counter[Loss] = Counter()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """The URL to ask instead."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._forward(reader, writer)
        writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loss: Loss | None = self._random.choice(("request", "answer", "half an answer", *[None] * 6))  # type: ignore[arg-type]
        request = await _message(reader)
        if loss is not None:
            self.lost[loss] += 1
        if loss == "request":
            return
        server_in, server_out = await asyncio.open_connection(*self._to)
        server_out.write(request)
        # Read whole whatever is lost: the server has done what it was asked to.
        answer = await _message(server_in)
        server_out.close()
        kept = {"answer": 0, "half an answer": len(answer) // 2}.get(loss or "", len(answer))
        writer.write(answer[:kept])
        await writer.drain()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """One HTTP message with a Content-Length or without a body."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.partition(b":")[2]))
    return head
