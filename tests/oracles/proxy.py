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
# A row of one number, which is the head's new place; without it the head was elsewhere.
MOVED = b"D\x00\x00\x00\x12\x00\x01\x00\x00\x00\x08"
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
        kept = Kept(client_out)
        answers = asyncio.create_task(kept.forward(server_in))
        try:
            await self._watch(client_in, server_out, kept)
        except OSError:
            pass
        finally:
            answers.cancel()
            for writer in (client_out, server_out):
                writer.close()

    async def _watch(
        self, client_in: asyncio.StreamReader, server_out: asyncio.StreamWriter, kept: "Kept"
    ) -> None:
        talk = Talk()
        while data := await client_in.read(65536):
            committing = talk.commits(data) and bool(self._cuts)
            if committing and self._cuts[0] == "before":
                self._cut()
                return
            answer = kept.keep() if committing else None
            server_out.write(data)
            await server_out.drain()
            # A statement that failed, or moved nothing, was no commit: its answer goes its way.
            if answer is not None and committed(await answer) and self._cuts:
                if self._cut() == "hold":
                    self.held.set()
                    await self.let_go.wait()
                return
            kept.release()

    def _cut(self) -> Where:
        self.cut_count += 1
        return self._cuts.pop(0)


def committed(answer: bytes) -> bool:
    """Whether the server says that something was committed; nobody else will ever see it say so."""
    return b"COMMIT" in answer or MOVED in answer


class Kept:
    """The server's answers on their way to the client, kept back on request."""

    def __init__(self, to: asyncio.StreamWriter) -> None:
        self._to = to
        self._answer = b""
        self._whole: asyncio.Future[bytes] | None = None

    def keep(self) -> "asyncio.Future[bytes]":
        """Hold the next answer back; done when it is whole."""
        self._whole = asyncio.get_running_loop().create_future()
        return self._whole

    def release(self) -> None:
        """Let through what was held back, and what comes."""
        if self._whole is not None:
            self._whole, answer, self._answer = None, self._answer, b""
            self._to.write(answer)

    async def forward(self, source: asyncio.StreamReader) -> None:
        """Runs until the server ends the connection."""
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if self._whole is None:
                    self._to.write(data)
                    await self._to.drain()
                    continue
                self._answer += data
                if self._answer.endswith(IDLE) and not self._whole.done():
                    self._whole.set_result(self._answer)
        if self._whole is not None and not self._whole.done():
            self._whole.set_result(self._answer)
        # A client that said goodbye waits for the server's end of the line to close.
        self._to.close()
