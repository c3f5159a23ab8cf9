"""The way out for every notice: told at once, delivered beside the controller, never in its way.

A notice is written down before it is queued, and each channel sends on its own: a dead mail server holds up
no webhook, and none of them an abort. After a kill whatever was not delivered is sent again, so a channel
gets each notice at least once; a repeated one carries the same key. Queues are bounded: when one is full,
the newest notice is dropped for that channel, logged and counted.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from finflow.kernel.errors import FinFlowError
from finflow.rollout.notices.journal import Journal, Settled, Told
from finflow.rollout.notices.model import key_of
from finflow.rollout.ports import Notice, Notifier

log = logging.getLogger(__name__)

CAPACITY: Final = 1_000
# Longer than this nobody waits for the disk: then the notice is sent without being written down.
WRITE_WITHIN_S: Final = 2.0


class Channel(NamedTuple):
    """One way of telling people, and which events it wants: all where none is named."""

    name: str
    notifier: Notifier
    events: tuple[str, ...] = ()


class Outbox:
    """A Notifier over all channels that never raises and never waits for any of them.

    `counts` has what became of notices, by channel and outcome: delivered, undelivered, dropped.
    """

    def __init__(
        self, channels: Sequence[Channel], path: Path | None = None, capacity: int = CAPACITY
    ) -> None:
        self._channels = {channel.name: channel for channel in channels}
        assert len(self._channels) == len(channels), "channels have names of their own"
        self._journal = None if path is None else Journal(path)
        self._queues: dict[str, asyncio.Queue[Notice]] = {
            name: asyncio.Queue(capacity) for name in self._channels
        }
        self._senders: list[asyncio.Task[None]] = []
        self._told: dict[str, None] = {}
        self._disk = asyncio.Lock()
        self._writes: set[asyncio.Task[None]] = set()
        self.counts: Counter[tuple[str, str]] = Counter()

    async def open(self) -> None:
        """Begin to send: what an earlier process left first. Raises data_unusable."""
        if self._journal is not None:
            try:
                await asyncio.to_thread(self._journal.open)
            except OSError as error:
                raise FinFlowError("data_unusable", f"{error.filename}: {error.strerror}") from error
            self._told = dict(self._journal.known)
            for owed in list(self._journal.owed.values()):
                await self._queue(owed)
        for name, channel in self._channels.items():
            self._senders.append(asyncio.create_task(self._send(channel), name=f"notices-{name}"))

    async def notify(self, notice: Notice) -> None:
        """Have everybody told who wants this event; a notice that was told before is not told again."""
        key = key_of(notice)
        if key in self._told:
            return
        self._told[key] = None
        while len(self._told) > 2 * CAPACITY:
            self._told.pop(next(iter(self._told)))
        wanted = [c.name for c in self._channels.values() if not c.events or notice.event in c.events]
        told = Told(key, tuple(wanted), notice)
        if wanted:
            await self._write(told)
            await self._queue(told)

    async def close(self, within_s: float) -> None:
        """Wait so long for what is queued, then stop; what is left is sent by the next process."""
        waits = [asyncio.create_task(queue.join()) for queue in self._queues.values()]
        try:
            async with asyncio.timeout(within_s):
                await asyncio.gather(*waits)
        except TimeoutError:
            left = sum(queue.qsize() for queue in self._queues.values())
            log.warning("notices were left unsent", extra={"left": left})
        for task in [*waits, *self._senders]:
            task.cancel()
        await asyncio.gather(*waits, *self._senders, return_exceptions=True)
        if self._writes:
            await asyncio.wait(self._writes, timeout=WRITE_WITHIN_S)
        if self._journal is not None and not self._writes:
            self._journal.close()

    async def _queue(self, told: Told) -> None:
        for name in told.channels:
            queue = self._queues.get(name)
            # A channel that the spec no longer has is owed nothing.
            if queue is None:
                await self._settle(told.notice, name, "dropped")
                continue
            try:
                queue.put_nowait(told.notice)
            except asyncio.QueueFull:
                log.error("a notice was dropped: the queue is full", extra={"channel": name})
                await self._settle(told.notice, name, "dropped")

    async def _send(self, channel: Channel) -> None:
        queue = self._queues[channel.name]
        while True:
            notice = await queue.get()
            try:
                await self._settle(notice, channel.name, await _outcome(channel, notice))
            finally:
                queue.task_done()

    async def _settle(self, notice: Notice, channel: str, outcome: str) -> None:
        self.counts[channel, outcome] += 1
        await self._write(Settled(key_of(notice), channel, outcome))

    async def _write(self, line: Told | Settled) -> None:
        """Write it down if the disk answers in time."""
        if self._journal is None:
            return
        if len(self._writes) >= CAPACITY:
            log.error("a notice could not be written down: the disk does not answer")
            return
        # A write that hangs goes on by itself, and those after it wait for it rather than for a thread each.
        write = asyncio.create_task(self._append(self._journal, line))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        await asyncio.wait({write}, timeout=WRITE_WITHIN_S)

    async def _append(self, journal: Journal, line: Told | Settled) -> None:
        try:
            async with self._disk:
                await asyncio.to_thread(journal.append, line)
        except OSError as error:
            log.error("a notice could not be written down", extra={"error": repr(error)})


async def _outcome(channel: Channel, notice: Notice) -> str:
    try:
        await channel.notifier.notify(notice)
    except FinFlowError as error:
        log.error("a notice was not delivered", extra={"channel": channel.name, "error": str(error)})
        return "undelivered"
    except Exception:
        log.exception("a notifier broke", extra={"channel": channel.name})
        return "undelivered"
    return "delivered"
