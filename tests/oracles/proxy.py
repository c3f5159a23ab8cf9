"""A proxy before PostgreSQL's socket that cuts the connection at a COMMIT, before or after it got there.

With `hold` the COMMIT is done, and its answer kept back until `let_go`: time to kill somebody in between.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Literal

SOCKET = ".s.PGSQL.5432"
Where = Literal["before", "after", "hold"]


class Proxy:
    """Forwards every connection; `cut` says what happens to the next COMMITs. Counts what it cut."""

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
        while data := await client_in.read(65536):
            # asyncpg sends COMMIT as a simple query of its own, after everything before was answered.
            if self._cuts and b"COMMIT;" in data:
                where = self._cuts.pop(0)
                self.cut_count += 1
                if where != "before":
                    answers.cancel()
                    await asyncio.wait([answers])
                    server_out.write(data)
                    await server_out.drain()
                    # The answer is the proof that the commit is done; nobody else will ever see it.
                    assert b"COMMIT" in await server_in.read(65536)
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
