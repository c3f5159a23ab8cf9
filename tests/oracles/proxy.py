"""A proxy before PostgreSQL's socket that cuts the connection at a commit, before or after it got there.

A commit is the word COMMIT, or the statement that writes a few records outside a transaction.

With `hold` the commit is done, and its answer kept back until `let_go`: time to kill somebody in between.
"""

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Literal

SOCKET = ".s.PGSQL.5432"
Where = Literal["before", "after", "hold"]
AT_ONCE = re.compile(rb"(__asyncpg_stmt_\w+__)\x00\s*with moved as")
IDLE = b"Z\x00\x00\x00\x05I"


class Talk:
    """What a connection's bytes say so far: whether a transaction is open, and which statement commits."""

    def __init__(self) -> None:
        self._open = False
        self._name: bytes | None = None

    def commits(self, data: bytes) -> bool:
        """Whether these bytes ask the server to commit what it was told to write."""
        if found := AT_ONCE.search(data):
            self._name = found[1]
        # asyncpg sends these as simple queries of their own, after everything before was answered.
        if b"BEGIN;" in data:
            self._open = True
        elif b"ROLLBACK;" in data or b"COMMIT;" in data:
            self._open = False
            return b"COMMIT;" in data
        bound = self._name is not None and re.search(rb"B....\x00" + self._name + rb"\x00", data, re.DOTALL)
        return bool(bound) and not self._open


class Proxy:
    """Forwards every connection; `cut` says what happens to the next commits. Counts what it cut."""

    def __init__(self, server: Path, folder: Path) -> None:
        self._server = server / SOCKET
        self._folder = folder
        self._cuts: list[Where] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut_count = 0
        self.held, self.let_go = asyncio.Event(), asyncio.Event()

    def cut(self, *where: Where) -> None:
        self._cuts += where

    async def start(self) -> None:
        self._listener = await asyncio.start_unix_server(self._serve, self._folder / SOCKET)

    async def stop(self) -> None:
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        server_in, server_out = await asyncio.open_unix_connection(self._server)
        answers = asyncio.create_task(self._forward(server_in, client_out))
        try:
            await self._watch(client_in, server_out, answers, server_in)
        except OSError:
            pass
        finally:
            answers.cancel()
            for writer in (client_out, server_out):
                writer.close()

    async def _watch(
        self, client_in: asyncio.StreamReader, server_out: asyncio.StreamWriter,
        answers: "asyncio.Task[None]", server_in: asyncio.StreamReader,
    ) -> None:  # fmt: skip
        talk = Talk()
        while data := await client_in.read(65536):
            if talk.commits(data) and self._cuts:
                where = self._cuts.pop(0)
                self.cut_count += 1
                if where != "before":
                    answers.cancel()
                    await asyncio.wait([answers])
                    server_out.write(data)
                    await server_out.drain()
                    # The answer is the proof that the commit is done; nobody else will ever see it.
                    answer = b""
                    while not answer.endswith(IDLE):
                        answer += await server_in.read(65536)
                    assert b"COMMIT" in answer or b"SELECT 1" in answer
                if where == "hold":
                    self.held.set()
                    await self.let_go.wait()
                return
            server_out.write(data)
            await server_out.drain()

    async def _forward(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                to.write(data)
                await to.drain()
        # A client that said goodbye waits for the server's end of the line to close.
        to.close()
