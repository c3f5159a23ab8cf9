"""A pooler in transaction mode: a client's next transaction runs in another session of the server's.

Each client has two sessions. After every answer that says "idle" the next words go to the other one, so
whatever a client leaves behind in a session, it does not find there again.
"""

import asyncio
import contextlib
from pathlib import Path

_SOCKET = ".s.PGSQL.5432"
_READY = ord("Z")


class Pooler:
    """Listens in a folder as PostgreSQL does, before the server of another folder. Counts the switches."""

    def __init__(self, server: Path, folder: Path) -> None:
        self._server = server / _SOCKET
        self._folder = folder
        self._tasks: set[asyncio.Task[None]] = set()
        self.switches = 0

    async def __aenter__(self) -> "Pooler":
        self._folder.mkdir(exist_ok=True)
        self._listener = await asyncio.start_unix_server(self._accept, self._folder / _SOCKET)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await _Client(self, reader, writer).serve(self._server)
        writer.close()
        self._tasks.discard(task)


class _Client:
    def __init__(self, pooler: Pooler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._pooler = pooler
        self._reader, self._writer = reader, writer
        self._sessions: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._current = 0

    async def serve(self, server: Path) -> None:
        hello = await self._hello()
        for number in range(2):
            session = await asyncio.open_unix_connection(server)
            session[1].write(hello)
            self._sessions.append(session)
            await self._answers(number, until_ready=True, passed_on=number == 0)
        tasks = [asyncio.create_task(self._answers(number)) for number in range(2)]
        try:
            # A client that says goodbye waits until it is closed.
            while (data := await self._reader.read(65536)) and not data.startswith(b"X"):
                self._sessions[self._current][1].write(data)
        finally:
            for task in tasks:
                task.cancel()
            for _, writer in self._sessions:
                writer.close()

    async def _hello(self) -> bytes:
        """The first words of a client; one that asks for encryption first is told no."""
        while True:
            size = await self._reader.readexactly(4)
            rest = await self._reader.readexactly(int.from_bytes(size) - 4)
            if int.from_bytes(rest[:4]) != 80877103:
                return size + rest
            self._writer.write(b"N")

    async def _answers(self, number: int, until_ready: bool = False, passed_on: bool = True) -> None:
        reader, _ = self._sessions[number]
        while True:
            head = await reader.readexactly(5)
            body = await reader.readexactly(int.from_bytes(head[1:]) - 4)
            if passed_on:
                if head[0] == _READY and body == b"I" and not until_ready:
                    self._current = 1 - number
                    self._pooler.switches += 1
                self._writer.write(head + body)
            if until_ready and head[0] == _READY:
                return
