"""GET /metrics on a port of its own, so that scraping never waits for a worker, nor a worker for it.

The smallest server that a scraper needs: one request a connection, a bound on bytes, time and connections.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from finflow.telemetry.exposition import Exposition

_REQUEST_BYTES: Final = 16_384
_REQUEST_TIMEOUT_S: Final = 5.0
_ANSWER_TIMEOUT_S: Final = 15.0
_CONNECTIONS: Final = 16
_TEXT: Final = "text/plain; charset=utf-8"


@asynccontextmanager
async def serving(exposition: Exposition, host: str, port: int) -> AsyncIterator[int]:
    """Answers while the block runs; yields the port, which is a free one for 0. Raises OSError."""
    server = _Server(exposition)
    listening = await asyncio.start_server(server.answer, host, port, limit=_REQUEST_BYTES)
    try:
        yield int(listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        await listening.wait_closed()


class _Server:
    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition
        self._open = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer; whoever is slow is hung up on."""
        self._open += 1
        try:
            if self._open <= _CONNECTIONS:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _REQUEST_TIMEOUT_S)
                writer.write(await self._response(head.decode("latin-1")))
                await asyncio.wait_for(writer.drain(), _ANSWER_TIMEOUT_S)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            self._open -= 1
            writer.close()

    async def _response(self, head: str) -> bytes:
        request, *lines = head.split("\r\n")
        method, _, target = request.partition(" ")
        path = target.partition(" ")[0].partition("?")[0]
        if path != "/metrics":
            return _message("404 Not Found", b"Only /metrics is here.\n", _TEXT)
        if method not in ("GET", "HEAD"):
            return _message("405 Method Not Allowed", b"Only GET is answered.\n", _TEXT)
        headers = (line.partition(":") for line in lines)
        accept = ",".join(value for name, _, value in headers if name.strip().lower() == "accept")
        body, media_type = await self._exposition.render(accept)
        return _message("200 OK", b"" if method == "HEAD" else body, media_type)


def _message(status: str, body: bytes, media_type: str) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
