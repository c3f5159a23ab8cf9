"""The rails that are shipped: one of files in folders, one in memory; and the breaker before any of them."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from finflow.kernel.clock import Clock
from finflow.kernel.errors import FinFlowError
from finflow.settlement.ports import Incoming, Rail

T = TypeVar("T")

SEND_TIMEOUT_S: Final = 20.0
OPENS_AFTER: Final = 3
COOL_DOWN_US: Final = 10_000_000
MAX_FILE_BYTES: Final = 256 * 1024 * 1024


class FileRail:
    """Messages as files: written to `out`, answers read from `in`, then moved to `done` or `refused`.

    A file appears whole or not at all, under its message id, so a repetition replaces itself by itself.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in ("out", "in", "done", "refused"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    async def send(self, message_id: str, data: bytes) -> None:
        assert message_id.isalnum(), "a message id of ours is the name of a file"
        await self._try(_write_whole, self._folder / "out" / f"{message_id}.xml", data)

    async def incoming(self, limit: int) -> Sequence[Incoming]:
        return await self._try(_read_oldest, self._folder / "in", limit)

    async def acknowledge(self, name: str, taken: bool) -> None:
        source = self._folder / "in" / name
        await self._try(_move, source, self._folder / ("done" if taken else "refused") / name)

    async def _try(self, work: Callable[..., T], *arguments: object) -> T:
        try:
            return await asyncio.to_thread(work, *arguments)
        except OSError as error:
            raise FinFlowError("rail_unavailable", f"{self._folder.name}: {error.strerror}") from error


def _write_whole(path: Path, data: bytes) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_oldest(folder: Path, limit: int) -> list[Incoming]:
    paths = sorted(folder.glob("*.xml"), key=lambda path: (path.stat().st_mtime_ns, path.name))[:limit]
    return [Incoming(path.name, _read_bounded(path)) for path in paths]


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        # One byte more than is allowed shows that there is more; the reader of messages refuses it.
        return file.read(MAX_FILE_BYTES + 1)


def _move(source: Path, to: Path) -> None:
    # After a crash between the move and the note of it, there is nothing left to move.
    if source.exists():
        source.replace(to)


class FakeRail:
    """A rail in memory. `on_send` makes the answers to a message, or raises what a rail can raise."""

    def __init__(self, on_send: Callable[[str, bytes], Sequence[bytes]] | None = None) -> None:
        self.sent: dict[str, bytes] = {}
        self.sends = 0
        self.waiting: dict[str, bytes] = {}
        self.done: dict[str, bool] = {}
        self._on_send = on_send

    async def send(self, message_id: str, data: bytes) -> None:
        self.sends += 1
        answers = [] if self._on_send is None else self._on_send(message_id, data)
        self.sent[message_id] = data
        for answer in answers:
            self.give(answer)

    def give(self, data: bytes) -> None:
        """A message from outside arrives."""
        self.waiting[f"{len(self.waiting) + len(self.done):06}"] = data

    async def incoming(self, limit: int) -> Sequence[Incoming]:
        return [Incoming(name, data) for name, data in sorted(self.waiting.items())][:limit]

    async def acknowledge(self, name: str, taken: bool) -> None:
        if self.waiting.pop(name, None) is not None:
            self.done[name] = taken


class Breaker:
    """A rail that is left alone for a while after it failed several times in a row, then tried once.

    Every call has a deadline. Raises rail_unavailable at once while the breaker is open.
    """

    def __init__(self, rail: Rail, clock: Clock, timeout_s: float = SEND_TIMEOUT_S) -> None:
        self._rail = rail
        self._clock = clock
        self._timeout_s = timeout_s
        self.failures = 0
        self._open_until = 0

    async def send(self, message_id: str, data: bytes) -> None:
        await self._guarded(lambda: self._rail.send(message_id, data))

    async def incoming(self, limit: int) -> Sequence[Incoming]:
        return await self._guarded(lambda: self._rail.incoming(limit))

    async def acknowledge(self, name: str, taken: bool) -> None:
        await self._guarded(lambda: self._rail.acknowledge(name, taken))

    async def _guarded(self, call: Callable[[], Awaitable[T]]) -> T:
        if self._clock() < self._open_until:
            raise FinFlowError("rail_unavailable", f"it failed {self.failures} times in a row")
        # Whoever comes while the trial call runs is turned away, not let through beside it.
        if self.failures >= OPENS_AFTER:
            self._open_until = self._clock() + COOL_DOWN_US
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await call()
        except (FinFlowError, OSError, TimeoutError) as error:
            self.failures += 1
            if self.failures >= OPENS_AFTER:
                self._open_until = self._clock() + COOL_DOWN_US
            if isinstance(error, FinFlowError):
                raise
            raise FinFlowError("rail_unavailable", type(error).__name__) from error
        self.failures, self._open_until = 0, 0
        return answer
