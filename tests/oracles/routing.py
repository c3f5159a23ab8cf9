"""Backends that say who they are, and clients on connections that stay open, for tests of routers."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from finflow.rollout.ports import Endpoint


@dataclass
class Backend:
    """A small server: answers with its name and what it was sent; counts each request's own number."""

    name: str
    port: int = 0
    executed: Counter[str] = field(default_factory=Counter)
    delay_s: float = 0.0
    drops: bool = False
    _runner: web.AppRunner | None = None

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port)

    async def start(self) -> "Backend":
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        assert site._server is not None
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        return self

    async def stop(self) -> None:
        """Finishes what is under way; refuses connections from then on."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.executed[request.headers.get("X-Number", "")] += 1
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.drops:
            assert request.transport is not None
            request.transport.abort()
        headers = {name.lower(): value for name, value in request.headers.items()}
        return web.json_response({"name": self.name, "headers": headers, "bytes": len(body)})


@asynccontextmanager
async def backends(*names: str) -> AsyncIterator[list[Backend]]:
    made = [await Backend(name).start() for name in names]
    try:
        yield made
    finally:
        for each in made:
            await each.stop()


class Failed(Exception):
    """The connection ended without an answer."""


class Connection:
    """One HTTP/1.1 connection that is used again until the server says otherwise."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(
        self,
        headers: Iterable[tuple[str, str]] = (),
        *,
        method: str = "POST",
        path: str = "/",
        body: bytes = b"{}",
    ) -> tuple[int, dict[str, object]]:
        """Status and decoded body. Raises Failed; nothing is ever sent twice."""
        lines = [f"{method} {path} HTTP/1.1", "Host: service.test", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        return await self.raw("\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body)

    async def raw(self, data: bytes) -> tuple[int, dict[str, object]]:
        try:
            async with asyncio.timeout(20):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = self._streams
                writer.write(data)
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                answer = await reader.readexactly(int(fields.get("content-length", "0")))
        except (OSError, EOFError, TimeoutError) as error:
            self.close()
            raise Failed(repr(error)) from error
        if fields.get("connection") == "close":
            self.close()
        known = answer.startswith(b"{")
        return int(head.split()[1]), json.loads(answer) if known else {
            "text": answer.decode(errors="replace")
        }

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Load:
    """Posts of many customers on several connections, as fast as they are answered, until it is stopped."""

    def __init__(self, port: int, customers: int = 2_000, connections: int = 16) -> None:
        self.port, self.customers, self.connections = port, customers, connections
        self.failures: list[str] = []
        self.sent: list[str] = []
        self.sides: Counter[str] = Counter()
        self._numbers = itertools.count()
        self._going = True

    async def _one(self) -> None:
        connection = Connection(self.port)
        while self._going:
            number = next(self._numbers)
            self.sent.append(str(number))
            headers = [("X-Customer-Id", f"cus_{number % self.customers}"), ("X-Number", str(number))]
            try:
                status, answer = await connection.send(headers)
            except Failed as failed:
                self.failures.append(str(failed))
                continue
            if status != 200:
                self.failures.append(f"{status}")
            self.sides[str(answer.get("name"))] += 1
        connection.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        tasks = [asyncio.ensure_future(self._one()) for _ in range(self.connections)]
        try:
            yield self
        finally:
            self._going = False
            await asyncio.gather(*tasks)
