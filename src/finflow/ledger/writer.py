"""Group commit: whatever is queued for a ledger when one batch commits becomes the next batch.

One writer per ledger and process. Jobs are decided on a book kept in memory while the batch before them
is still committing; the head's `seq`, compared and advanced in one statement that also takes its lock,
says whether that book was exact. If it was not (another process wrote), the book is read anew under the
lock and the batch decided again. Whatever goes wrong, a batch is tried again only together with a look-up
of its keys under the head's lock, which the lost transaction must have released: so an unknown outcome
becomes a known one, and nothing is written twice. See docs/adr/0003.
"""

import asyncio
import logging
import random
from collections import deque
from typing import Final

import asyncpg

from finflow.kernel.clock import Clock
from finflow.kernel.errors import FinFlowError
from finflow.ledger import model, store
from finflow.ledger.batch import Batch, Job
from finflow.ledger.book import Book, Head, Record
from finflow.ledger.commands import Request
from finflow.ledger.loader import load, needs
from finflow.ledger.replay import answer, unjournaled

log = logging.getLogger(__name__)

MAX_BATCH: Final = 5_000
MAX_QUEUED: Final = 40_000
MAX_BOOK_ACCOUNTS: Final = 100_000
MAX_BOOK_TARGETS: Final = 20_000
# Commands decided between two looks at the event loop: about a millisecond.
SLICE: Final = 128
RETRY_FOR_S: Final = 20.0
ACQUIRE_TIMEOUT_S: Final = 5.0
# After another process wrote, or a key came back, the next batches expect the same again.
CAUTIOUS_BATCHES: Final = 8
# Further behind than this, reading what changed costs more than reading what is needed.
MAX_CATCH_UP: Final = 5_000

_TRY_AGAIN: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,
    asyncpg.InsufficientResourcesError,
    asyncpg.LockNotAvailableError,
    OSError,
    TimeoutError,
)


class _Unconfirmed(Exception):
    """COMMIT answered with a warning, so it may not be where it should be."""


class LedgerWriter:
    """Queues jobs of one ledger and writes them in batches, in order, one transaction a batch."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", ledger_no: int, clock: Clock) -> None:
        self._pool = pool
        self._ledger_no = ledger_no
        self._clock = clock
        self._book = Book(ledger_no)
        self._jobs: deque[Job] = deque()
        self._keys: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        # The epoch changes when the book is read anew: what was decided on the old book is void.
        self._epoch = 0
        self._exact = False
        self._under_lock = False
        self._cautious = 0
        self._look_up = 0

    async def submit(self, requests: list[Request], atomic: bool = False) -> list[Record]:
        """Decide and write; answers when durable, one record a request, in order.

        Raises FinFlowError: overloaded, idempotency_in_progress, database_unreachable, database_full,
        outcome_unknown. A request whose key is being decided already is answered so in its record.
        """
        if self._closing or len(self._keys) + len(requests) > MAX_QUEUED:
            raise FinFlowError("overloaded", f"{len(self._keys)} commands wait for this ledger")
        fresh = [request for request in requests if request.key not in self._keys]
        if len(fresh) == len(requests):
            return await self._enqueue(requests, atomic)
        if atomic or not fresh:
            raise FinFlowError("idempotency_in_progress")
        done = {record.key: record for record in await self._enqueue(fresh, atomic)}
        return [done.get(r.key) or unjournaled(r, "idempotency_in_progress") for r in requests]

    async def _enqueue(self, requests: list[Request], atomic: bool) -> list[Record]:
        keys = [request.key for request in requests]
        reply: asyncio.Future[list[Record]] = asyncio.get_running_loop().create_future()
        reply.add_done_callback(lambda _: self._keys.difference_update(keys))
        self._keys.update(keys)
        self._jobs.append(Job(requests, atomic, reply))
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"ledger-writer-{self._ledger_no}")
        # A caller that gives up must not take the batch with it: others share it.
        return await asyncio.shield(reply)

    async def close(self) -> None:
        """Refuse new jobs, write the queued ones, then stop."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    @property
    def idle(self) -> bool:
        return self._task is None or self._task.done()

    async def _run(self) -> None:
        """Gather a batch while the one before is written, hand it on; ends when nothing is queued."""
        writing: asyncio.Task[None] | None = None
        overlap = True
        while self._jobs or writing is not None:
            batch = await self._gather(writing, overlap)
            if writing is not None:
                await writing
            writing = asyncio.create_task(self._write(batch)) if batch.jobs else None
            # On top of a batch that is not decided yet, nothing can be decided.
            overlap = batch.head is not None
            if writing is not None:
                writing.add_done_callback(lambda _: self._wake.set())

    # --- gathering: decide ahead what can be decided ahead ------------------------------------------

    async def _gather(self, writing: "asyncio.Task[None] | None", overlap: bool) -> Batch:
        """Collect jobs until the writing before is done, deciding each at once where the book allows."""
        batch = Batch()
        while True:
            while self._jobs and (not batch.jobs or batch.size + len(self._jobs[0].requests) <= MAX_BATCH):
                batch.jobs.append(self._jobs.popleft())
                batch.size += len(batch.jobs[-1].requests)
            if overlap or writing is None or writing.done():
                await self._decide_ahead(batch)
            if writing is None or writing.done():
                break
            self._wake.clear()
            await self._wake.wait()
        await self._decide_ahead(batch)
        return batch

    async def _decide_ahead(self, batch: Batch) -> None:
        """Decide what is undecided in a batch on the book as the batches before it will leave it."""
        if not self._exact or self._under_lock or self._cautious or self._look_up or self._too_large():
            return
        if batch.epoch != self._epoch:
            batch.restart(self._epoch, self._book.seq)
        try:
            while len(batch.replies) < len(batch.jobs):
                if not await self._decide_job(batch, batch.jobs[len(batch.replies)]):
                    return
        except Exception as error:
            # The write decides it again under the lock, and says there what is wrong.
            log.warning("batch was not decided ahead", extra={"error": repr(error)})
            self._forget()
            return
        batch.head = self._book.head

    async def _decide_job(self, batch: Batch, job: Job) -> bool:
        wanted = needs(self._book, job.requests)
        if wanted:
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                found = await load(connection, self._ledger_no, wanted)
            if not self._still(batch):
                return False
            found.add_to(self._book)
        at = max(self._clock(), self._book.recorded_at)
        reply: list[Record] = []
        for requests in self._slices(job):
            records = self._decide(requests, job.atomic, at, {})
            self._book.settle()
            batch.packed.append(store.pack(self._ledger_no, _journaled(records)))
            reply += records
            await asyncio.sleep(0)
            if not self._still(batch):
                return False
        batch.replies.append(reply)
        return True

    def _still(self, batch: Batch) -> bool:
        """Whether the batch's decisions stand: nobody read the book anew or is deciding under the lock."""
        return self._exact and self._epoch == batch.epoch and not self._under_lock

    def _slices(self, job: Job) -> list[list[Request]]:
        if job.atomic:
            return [job.requests]
        return [job.requests[i : i + SLICE] for i in range(0, len(job.requests), SLICE)]

    def _decide(
        self, requests: list[Request], atomic: bool, at: int, known: dict[str, Record]
    ) -> list[Record]:
        """Records in the order of the requests; a known key, or one that stands twice, answers as before."""
        if not known and len({request.key for request in requests}) == len(requests):
            if atomic:
                return model.decide_group(self._book, requests, at)
            return list(model.decide(self._book, requests, at))
        if atomic:
            return self._decide_known_group(requests, at, known)
        records: list[Record] = []
        seen = dict(known)
        for request in requests:
            before = seen.get(request.key)
            record = answer(before, request) if before else model.decide_one(self._book, request, at)
            seen.setdefault(request.key, record)
            records.append(record)
        return records

    def _decide_known_group(self, requests: list[Request], at: int, known: dict[str, Record]) -> list[Record]:
        # A group is one intent: either all its keys are known and answer as before, or none is.
        found = [known.get(request.key) for request in requests]
        if not any(found) and len({request.key for request in requests}) == len(requests):
            return model.decide_group(self._book, requests, at)
        pairs = zip(found, requests, strict=True)
        answers = [
            answer(before, r) if before else unjournaled(r, "idempotency_conflict") for before, r in pairs
        ]
        if all(record.replayed for record in answers):
            return answers
        return [unjournaled(request, "idempotency_conflict") for request in requests]

    # --- writing -----------------------------------------------------------------------------------

    async def _write(self, batch: Batch) -> None:
        """Write one batch and answer its jobs, trying again for as long as that can help."""
        deadline = asyncio.get_running_loop().time() + RETRY_FOR_S
        attempt, sent = 0, False
        while True:
            try:
                await self._attempt(batch, look_up=attempt > 0)
                return None
            except asyncpg.UniqueViolationError as error:
                # A key that is in the journal already: the next attempt looks the keys up.
                self._look_up = CAUTIOUS_BATCHES
                failure: Exception = error
            except asyncpg.DiskFullError as error:
                return self._fail(batch, FinFlowError("database_full", str(error)))
            except (*_TRY_AGAIN, _Unconfirmed) as error:
                sent = sent or self._committing
                failure = error
            except Exception as error:
                return self._fail(batch, error)
            attempt += 1
            if asyncio.get_running_loop().time() > deadline or self._hopeless(failure, attempt):
                code = "outcome_unknown" if sent else "database_unreachable"
                return self._fail(batch, FinFlowError(code, repr(failure)))
            if not isinstance(failure, asyncpg.UniqueViolationError):
                log.warning(
                    "batch is tried again", extra={"ledger_no": self._ledger_no, "error": repr(failure)}
                )
                await asyncio.sleep(min(1.0, 0.02 * 2**attempt) * random.uniform(0.5, 1.0))  # noqa: S311 # jitter

    def _hopeless(self, failure: Exception, attempt: int) -> bool:
        return isinstance(failure, asyncpg.UniqueViolationError) and attempt > 3

    _committing = False

    async def _attempt(self, batch: Batch, look_up: bool) -> None:
        self._committing = False
        async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
            warnings: list[str] = []

            def listen(_: object, message: asyncpg.PostgresLogMessage) -> None:
                if self._committing:
                    warnings.append(str(message))

            connection.add_log_listener(listen)
            try:
                transaction = connection.transaction()
                await transaction.start()
                try:
                    replies = await self._write_in(connection, batch, look_up)
                    self._committing = True
                    await transaction.commit()
                except BaseException:
                    self._forget()
                    if not connection.is_closed() and not self._committing:
                        await transaction.rollback()
                    raise
            finally:
                connection.remove_log_listener(listen)
        if warnings:
            self._forget()
            raise _Unconfirmed(warnings[0])
        self._under_lock = False
        for job, reply in zip(batch.jobs, replies, strict=True):
            if not job.reply.done():
                job.reply.set_result(reply)

    async def _write_in(
        self, connection: store.Connection, batch: Batch, look_up: bool
    ) -> list[list[Record]]:
        # A job that joined when the book had become too large is not decided yet.
        whole = len(batch.replies) == len(batch.jobs)
        if whole and batch.head is not None and not look_up and self._epoch == batch.epoch:
            if await store.advance_head(connection, self._ledger_no, batch.head, batch.base_seq):
                await store.write(connection, self._ledger_no, batch.packed)
                return batch.replies
            self._cautious = CAUTIOUS_BATCHES
        return await self._decide_under_lock(connection, batch, look_up)

    async def _decide_under_lock(
        self, connection: store.Connection, batch: Batch, look_up: bool
    ) -> list[list[Record]]:
        """The plain way: lock the head, bring the book up to it, decide, write, advance."""
        self._under_lock = True
        self._epoch += 1
        head = await store.lock_head(connection, self._ledger_no)
        if head is None:
            raise FinFlowError("ledger_unknown")
        await self._bring_up(connection, batch, head)
        look_up = look_up or self._look_up > 0
        self._look_up, self._cautious = max(0, self._look_up - 1), max(0, self._cautious - 1)
        requests = batch.requests()
        keys = [request.key for request in requests] if look_up else []
        known = await store.find_by_key(connection, self._ledger_no, keys) if keys else {}
        wanted = needs(self._book, requests)
        if wanted:
            (await load(connection, self._ledger_no, wanted)).add_to(self._book)
        packed, replies = await self._decide_all(batch, known)
        if self._book.seq != head.seq:
            await store.advance_head(connection, self._ledger_no, self._book.head, head.seq)
            await store.write(connection, self._ledger_no, packed)
        self._exact = True
        return replies

    async def _bring_up(self, connection: store.Connection, batch: Batch, head: Head) -> None:
        """Make the book exact at the head: forget what others changed, or everything where that is less."""
        behind = head.seq - self._book.seq
        # What was decided ahead but not written is on the book; its `seq` may equal the head's by chance.
        if batch.packed or not self._exact or self._too_large() or not 0 <= behind <= MAX_CATCH_UP:
            self._book.reset(head)
        elif behind:
            self._cautious = CAUTIOUS_BATCHES
            await store.catch_up(connection, self._book, head)

    async def _decide_all(
        self, batch: Batch, known: dict[str, Record]
    ) -> tuple[list[store.Packed], list[list[Record]]]:
        at = max(self._clock(), self._book.recorded_at)
        packed: list[store.Packed] = []
        replies: list[list[Record]] = []
        for job in batch.jobs:
            reply: list[Record] = []
            for requests in self._slices(job):
                records = self._decide(requests, job.atomic, at, known)
                self._book.settle()
                packed.append(store.pack(self._ledger_no, _journaled(records)))
                reply += records
                await asyncio.sleep(0)
            replies.append(reply)
        return packed, replies

    def _too_large(self) -> bool:
        return len(self._book.accounts) > MAX_BOOK_ACCOUNTS or len(self._book.targets) > MAX_BOOK_TARGETS

    def _forget(self) -> None:
        """The book may not be what the database holds: read it anew before the next decision."""
        self._epoch += 1
        self._exact = False
        self._under_lock = False

    def _fail(self, batch: Batch, error: Exception) -> None:
        self._forget()
        if not isinstance(error, FinFlowError):
            log.error("batch failed", exc_info=error, extra={"ledger_no": self._ledger_no})
            error = FinFlowError("internal")
        for job in batch.jobs:
            if not job.reply.done():
                job.reply.set_exception(error)


def _journaled(records: list[Record]) -> list[Record]:
    """Those that take a place in the journal: not replays, not refusals for the key's sake."""
    return [record for record in records if record.seq and not record.replayed]
