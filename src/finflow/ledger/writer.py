"""Group commit: whatever is queued for a ledger when one batch commits becomes the next batch.

One writer per ledger and process. Jobs are decided on a book kept in memory while the batch before them
is still committing; the head's `seq`, compared and advanced in one statement that also takes its lock,
says whether that book was exact. If it was not (another process wrote), the batch is decided again under
the lock. A large batch is also written ahead: its rows are copied on a second connection while the batch
before commits, and its turn at the head comes after. Whatever goes wrong, a batch is tried again only
together with a look-up of its keys under the head's lock, which the lost transaction must have released:
so an unknown outcome becomes a known one, and nothing is written twice. See docs/adr/0003.
"""

import asyncio
import logging
import random
from collections import deque
from functools import partial
from time import perf_counter
from typing import Final, NoReturn

import asyncpg

from finflow.db.pool import is_open
from finflow.kernel.clock import Clock
from finflow.kernel.errors import FinFlowError
from finflow.ledger import meter, save, store
from finflow.ledger.batch import Batch, Job
from finflow.ledger.book import Account, Record
from finflow.ledger.commands import Request
from finflow.ledger.decider import ACQUIRE_TIMEOUT_S, Decider
from finflow.ledger.failures import STATEMENT_FAILED, TRY_AGAIN, final_answer
from finflow.ledger.replay import unjournaled
from finflow.ledger.traced import gave_up, traced
from finflow.telemetry.tracing import detached, running, within

log = logging.getLogger(__name__)

MAX_BATCH: Final = 3_000
MAX_QUEUED: Final = 40_000
# From this size on a batch is written while the one before commits; smaller ones are better gathered.
WRITE_AHEAD_FROM: Final = 1_000
MAX_IN_FLIGHT: Final = 2
RETRY_FOR_S: Final = 20.0

Writing = asyncio.Task[None]


class _Unconfirmed(Exception):
    """COMMIT answered with a warning, so it may not be where it should be."""


class _Void(Exception):
    """What was decided ahead does not stand; nothing of the batch was written."""


class LedgerWriter:
    """Queues jobs of one ledger and writes them in batches, in order, one transaction a batch.

    It writes as the owner of the tables, whom row-level security does not bind: so it knows whose ledger it
    writes, and takes nothing from anybody else.
    """

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        ledger_no: int,
        clock: Clock,
        tenant_no: int,
        release: str | None = None,
    ) -> None:
        self._pool = pool
        self._ledger_no = ledger_no
        self._tenant_no = tenant_no
        self._release = release
        self._decider = Decider(pool, ledger_no, clock, release)
        self._jobs: deque[Job] = deque()
        self._keys: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._gathered = Batch(release)
        self._in_flight: list[Writing] = []
        self._last = Batch(release)
        # Whether every batch in flight was decided ahead, so that the book is what they will leave.
        self._foreseen = True

    async def submit(self, requests: list[Request], atomic: bool, tenant_no: int) -> list[Record]:
        """Decide and write; answers when durable, one record a request, in order.

        Raises FinFlowError: ledger_unknown (it is another tenant's), overloaded, idempotency_in_progress,
        database_unreachable, database_full, outcome_unknown. A request whose key is being decided already
        is answered so in its record.
        """
        if tenant_no != self._tenant_no:
            raise FinFlowError("ledger_unknown")
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
        reply: asyncio.Future[list[Record]] = asyncio.get_running_loop().create_future()
        self._keys.update([request.key for request in requests])
        job = Job(requests, atomic, reply, perf_counter(), running())
        self._jobs.append(job)
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(detached(self._run()), name=f"ledger-writer-{self._ledger_no}")
        # A caller that gives up takes its own reply with it, not the batch, nor its keys' place in it.
        try:
            return await reply
        except asyncio.CancelledError as error:
            gave_up(job, job.batch or self._gathered, self._ledger_no, error)
            raise

    async def close(self) -> None:
        """Refuse new jobs, write the queued ones, then stop."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    @property
    def queued(self) -> int:
        """Commands that wait for their answer."""
        return len(self._keys)

    @property
    def idle(self) -> bool:
        return self._task is None or self._task.done()

    def account(self, account_no: int) -> Account | None:
        """An account that was decided on lately, or None; what never changes of it may be read here."""
        return self._decider.account(account_no)

    # --- gathering ---------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Gather a batch while others are written, hand it on in its turn; ends when all is written."""
        while self._jobs or self._in_flight:
            batch = await self._gather()
            if batch.jobs:
                previous = self._in_flight[-1] if self._in_flight else None
                self._foreseen = batch.head is not None
                writing = asyncio.create_task(traced(self._write(batch, previous), batch, self._ledger_no))
                writing.add_done_callback(partial(self._written, batch))
                self._in_flight.append(writing)
                self._last = batch
        # An idle writer keeps no batch in memory.
        self._last = self._gathered = Batch(self._release)

    def _written(self, batch: Batch, _: Writing) -> None:
        batch.let_go()
        self._wake.set()

    async def _gather(self) -> Batch:
        """Collect jobs until they can be handed on, deciding each at once where the book allows."""
        batch = self._gathered = Batch(self._release)
        while True:
            self._wake.clear()
            self._fill(batch)
            self._in_flight = [writing for writing in self._in_flight if not writing.done()]
            if batch.jobs and (self._foreseen or not self._in_flight):
                await within(batch.root, self._decider.decide_ahead(batch))
            if self._may_go(batch):
                return batch
            await self._wake.wait()

    def _fill(self, batch: Batch) -> None:
        while self._jobs and (not batch.jobs or batch.size + len(self._jobs[0].requests) <= MAX_BATCH):
            batch.add(self._jobs.popleft())

    def _top_up(self, batch: Batch) -> None:
        """What came while another process held the head joins the batch that waited for it."""
        if batch.size + self._gathered.size <= MAX_BATCH:
            batch.take_over(self._gathered)
            self._fill(batch)

    def _may_go(self, batch: Batch) -> bool:
        self._in_flight = [writing for writing in self._in_flight if not writing.done()]
        return not self._in_flight or (len(self._in_flight) < MAX_IN_FLIGHT and self._may_go_ahead(batch))

    def _may_go_ahead(self, batch: Batch) -> bool:
        """Whether a batch may be written while the one before is.

        Not before that one holds the head: until then another process may hold it, and wait for our rows.
        """
        foreseen = self._foreseen and batch.head is not None and self._decider.stands(batch)
        large = batch.size >= WRITE_AHEAD_FROM and batch.money_only and self._last.money_only
        return foreseen and large and self._last.has_head

    # --- writing -----------------------------------------------------------------------------------

    async def _write(self, batch: Batch, previous: Writing | None) -> None:
        """Write one batch and answer its jobs, trying again for as long as that can help."""
        batch.began_s = perf_counter()
        deadline = asyncio.get_running_loop().time() + RETRY_FOR_S
        attempt, collisions, sent = 0, 0, False
        while True:
            try:
                await self._attempt(batch, attempt > 0, previous)
                return
            except _Void:
                meter.again("void")
                # Nobody's fault, so it does not count: decided again, under the lock, after the one before.
                await _end_of(previous)
                continue
            except asyncpg.UniqueViolationError as error:
                # A key that is in the journal already: the next attempt looks the keys up.
                self._decider.expect_known_keys()
                failure: Exception = error
                collisions += 1
            except (*TRY_AGAIN, _Unconfirmed) as error:
                failure = error
            except Exception as error:
                self._fail(batch, error)
                return
            sent = sent or batch.committing
            attempt += 1
            await _end_of(previous)
            final = final_answer(failure, sent, collisions, asyncio.get_running_loop().time() > deadline)
            if final is not None:
                self._fail(batch, final)
                return
            await self._back_off(failure, attempt)

    async def _back_off(self, failure: Exception, attempt: int) -> None:
        if isinstance(failure, asyncpg.UniqueViolationError):
            meter.again("key")
            return
        meter.again("database")
        log.warning("batch is tried again", extra={"ledger_no": self._ledger_no, "error": repr(failure)})
        await asyncio.sleep(min(1.0, 0.02 * 2**attempt) * random.uniform(0.5, 1.0))  # noqa: S311 # jitter

    async def _attempt(self, batch: Batch, look_up: bool, previous: Writing | None) -> None:
        """One database transaction. Raises _Void, _Unconfirmed or what the database said."""
        batch.committing = False
        warnings: list[str] = []

        def listen(_: object, message: asyncpg.PostgresLogMessage) -> None:
            if batch.committing:
                warnings.append(str(message))

        async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
            connection.add_log_listener(listen)
            try:
                records = await self._transact(connection, batch, look_up, previous)
            finally:
                if is_open(connection):
                    connection.remove_log_listener(listen)
        if warnings:
            self._decider.forget()
            raise _Unconfirmed(warnings[0])
        self._decider.confirm()
        self._keys.difference_update(batch.keys())
        batch.succeed(records)
        meter.committed(batch, records)

    async def _transact(
        self, connection: store.Connection, batch: Batch, look_up: bool, previous: Writing | None
    ) -> list[Record]:
        decided = batch.head is not None and not look_up and self._decider.stands(batch)
        if decided and batch.decided.few and (previous is None or previous.done()):
            return await self._write_at_once(connection, batch)
        transaction = connection.transaction()
        await transaction.start()
        try:
            if decided and self._decider.stands(batch):
                records = await self._write_decided(connection, batch, previous)
            else:
                records = await self._write_under_lock(connection, batch, look_up, previous)
            batch.committing, began_s = True, perf_counter()
            await transaction.commit()
            meter.commit(began_s)
        except _Void:
            await transaction.rollback()
            raise
        except BaseException:
            self._decider.forget()
            if is_open(connection) and not batch.committing:
                await transaction.rollback()
            raise
        return records

    async def _write_at_once(self, connection: store.Connection, batch: Batch) -> list[Record]:
        """Write a few records, decided ahead, by one statement that is its own transaction."""
        assert batch.head is not None, "only decided batches come here"
        batch.committing, began_s = True, perf_counter()
        try:
            moved = await save.advance_and_write(
                connection, self._ledger_no, batch.decided, batch.head, batch.base_seq
            )
        except STATEMENT_FAILED:
            batch.committing = False
            self._decider.forget()
            raise
        except BaseException:
            self._decider.forget()
            raise
        if not moved:
            batch.committing = False
            self._head_was_elsewhere()
        meter.commit(began_s)
        return batch.decided.records

    async def _write_decided(
        self, connection: store.Connection, batch: Batch, previous: Writing | None
    ) -> list[Record]:
        """Write what was decided ahead, and while the batch before is in flight, its rows before its turn.

        Whoever has rows in the journal but not yet the head never waits for the head: who holds it may be
        waiting for those rows. So it takes the head at once, or gives everything up.
        """
        assert batch.head is not None, "only decided batches come here"
        packed = batch.decided.packed(self._ledger_no)
        ahead = previous is not None and not previous.done()
        if previous is not None and ahead:
            await save.write(connection, self._ledger_no, packed, self._release)
            if self._decider.stands(batch):
                await self._decider.until_epoch_ends(previous)
            if not self._decider.stands(batch):
                raise _Void
        if not ahead:
            # While the server looks for the head.
            asyncio.get_running_loop().call_soon(save.pack_journal, packed)
        advance = store.advance_head_at_once if ahead else store.advance_head
        try:
            moved = await advance(connection, self._ledger_no, batch.head, batch.base_seq)
        except asyncpg.LockNotAvailableError:
            moved = False
        if not moved:
            self._head_was_elsewhere()
        batch.has_head = True
        self._wake.set()
        if not ahead:
            await save.write(connection, self._ledger_no, packed, self._release)
        return batch.decided.records

    def _head_was_elsewhere(self) -> NoReturn:
        """Another process wrote in between: what was decided ahead does not stand."""
        self._decider.expect_others()
        self._decider.forget()
        raise _Void

    async def _write_under_lock(
        self, connection: store.Connection, batch: Batch, look_up: bool, previous: Writing | None
    ) -> list[Record]:
        """The plain way: lock the head, decide, advance it, write."""
        if previous is not None and not previous.done():
            raise _Void
        decided, before, after = await self._decider.decide_under_lock(
            connection, batch, look_up, self._top_up
        )
        if after.seq != before.seq:
            await save.advance_and_write(connection, self._ledger_no, decided, after, before.seq)
        return decided.records

    def _fail(self, batch: Batch, error: Exception) -> None:
        self._decider.forget()
        if not isinstance(error, FinFlowError):
            log.error("batch failed", exc_info=error, extra={"ledger_no": self._ledger_no})
            error = FinFlowError("internal")
        self._keys.difference_update(batch.keys())
        batch.fail(error)
        meter.failed(batch, error)


async def _end_of(previous: Writing | None) -> None:
    """Whatever a batch does after its decisions were void, it does after the batch before it."""
    if previous is not None:
        await asyncio.wait({previous})
