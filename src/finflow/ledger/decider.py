"""Decisions of one ledger in this process: the book, whether it is exact, and both ways to decide on it.

Ahead: on the book as the batches in flight will leave it, before their commit is known. Under the lock:
the head's row is locked, the book brought up to it. The epoch ties the two together: it changes whenever
the book stops being what decisions made ahead were made on, and voids them.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import asyncpg

from finflow.kernel.clock import Clock
from finflow.kernel.errors import FinFlowError
from finflow.ledger import model, store
from finflow.ledger.batch import Batch, Run, next_run
from finflow.ledger.book import Account, Book, Head, Record
from finflow.ledger.commands import Request
from finflow.ledger.loader import load, needs
from finflow.ledger.replay import answer, unjournaled
from finflow.ledger.save import Decided

log = logging.getLogger(__name__)

MAX_BOOK_ACCOUNTS: Final = 100_000
MAX_BOOK_TARGETS: Final = 20_000
ACQUIRE_TIMEOUT_S: Final = 5.0
# After another process wrote, or a key came back, the next batches expect the same again.
CAUTIOUS_BATCHES: Final = 8
# Further behind than this, reading what changed costs more than reading what is needed.
MAX_CATCH_UP: Final = 5_000


class Decider:
    """Turns the requests of a batch into records, packed for COPY. Not for two batches at once."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        ledger_no: int,
        clock: Clock,
        release: str | None = None,
    ) -> None:
        self._release = release
        self._pool = pool
        self._ledger_no = ledger_no
        self._clock = clock
        self._book = Book(ledger_no)
        self._exact = False
        self._under_lock = False
        self._cautious = 0
        self._look_up = 0
        self.epoch = 0
        self.epoch_over: asyncio.Future[None] | None = None

    # --- ahead -------------------------------------------------------------------------------------

    @property
    def can_see_ahead(self) -> bool:
        """Whether the book is exact and likely to stay so: nobody else writes, no key came back lately."""
        calm = not self._cautious and not self._look_up
        return self._exact and calm and not self._under_lock and not self._too_large()

    async def decide_ahead(self, batch: Batch) -> None:
        """Decide what is undecided in a batch; `batch.head` is set where all of it could be."""
        if not self.can_see_ahead:
            return
        if batch.epoch != self.epoch:
            batch.restart(self.epoch, self._book.seq)
        try:
            while batch.decided_jobs < len(batch.jobs):
                run, jobs = next_run(batch.jobs, batch.decided_jobs)
                if not await self._decide_run(batch, run):
                    return
                batch.decided_jobs += jobs
        except Exception as error:
            # The write decides it again under the lock, and says there what is wrong.
            log.warning("batch was not decided ahead", extra={"error": repr(error)})
            self.forget()
            return
        batch.head = self._book.head

    def stands(self, batch: Batch) -> bool:
        """Whether a batch's decisions stand: the book is still the one they were made on."""
        return batch.epoch == self.epoch and not self._under_lock

    async def _decide_run(self, batch: Batch, run: Run) -> bool:
        wanted = needs(self._book, run.requests)
        if wanted:
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                found = await load(connection, self._ledger_no, wanted)
            if not self.stands(batch):
                return False
            found.add_to(self._book)
        batch.on_book = True
        for requests in run.slices():
            self._decide_slice(requests, run.atomic, {}, batch.decided)
            await asyncio.sleep(0)
            if not self.stands(batch):
                return False
        return True

    # --- under the lock ----------------------------------------------------------------------------

    async def decide_under_lock(
        self,
        connection: store.Connection,
        batch: Batch,
        look_up: bool,
        top_up: Callable[[Batch], None],
    ) -> tuple[Decided, Head, Head]:
        """Lock the head, bring the book up to it, decide: what was decided, the head before and after.

        `look_up` answers requests whose key the journal has from there; `top_up` may add jobs once the lock
        is held. Until `confirm` or `forget`, nothing is decided ahead. Raises ledger_unknown.
        """
        self._under_lock = True
        self._end_epoch()
        head = await store.lock_head(connection, self._ledger_no)
        if head is None:
            raise FinFlowError("ledger_unknown")
        top_up(batch)
        await self._bring_up(connection, batch, head)
        known = await self._known(connection, batch, look_up or self._look_up > 0)
        self._look_up, self._cautious = max(0, self._look_up - 1), max(0, self._cautious - 1)
        wanted = needs(self._book, batch.requests())
        if wanted:
            (await load(connection, self._ledger_no, wanted)).add_to(self._book)
        decided, start = Decided(self._release), 0
        while start < len(batch.jobs):
            run, jobs = next_run(batch.jobs, start)
            for requests in run.slices():
                self._decide_slice(requests, run.atomic, known, decided)
                await asyncio.sleep(0)
            start += jobs
        return decided, head, self._book.head

    async def _known(self, connection: store.Connection, batch: Batch, look_up: bool) -> dict[str, Record]:
        keys = [request.key for request in batch.requests()] if look_up else []
        return await store.find_by_key(connection, self._ledger_no, keys) if keys else {}

    async def _bring_up(self, connection: store.Connection, batch: Batch, head: Head) -> None:
        """Make the book exact at the head: forget what others changed, or everything where that is less."""
        behind = head.seq - self._book.seq
        # What was decided ahead but not written is on the book; its `seq` may equal the head's by chance.
        if batch.on_book or not self._exact or self._too_large() or not 0 <= behind <= MAX_CATCH_UP:
            self._book.reset(head)
        elif behind:
            self.expect_others()
            await store.catch_up(connection, self._book, head)

    # --- what the writer tells ---------------------------------------------------------------------

    def confirm(self) -> None:
        """What was decided under the lock is committed: the book is exact."""
        if self._under_lock:
            self._under_lock, self._exact = False, True

    def account(self, account_no: int) -> Account | None:
        """An account of the book, if it is there."""
        return self._book.by_number.get(account_no)

    def forget(self) -> None:
        """The book may not be what the database holds: read it anew before the next decision."""
        self._end_epoch()
        self._exact = False
        self._under_lock = False

    def expect_others(self) -> None:
        """Another process writes to this ledger: for a while, decide under the lock."""
        self._cautious = CAUTIOUS_BATCHES

    def expect_known_keys(self) -> None:
        """A key came back: for a while, look keys up before deciding."""
        self._look_up = CAUTIOUS_BATCHES

    async def until_epoch_ends(self, other: "asyncio.Task[None]") -> None:
        """Wait for the end of another task, or of the epoch, whichever comes first."""
        if self.epoch_over is None:
            self.epoch_over = asyncio.get_running_loop().create_future()
        await asyncio.wait({other, self.epoch_over}, return_when=asyncio.FIRST_COMPLETED)

    def _end_epoch(self) -> None:
        self.epoch += 1
        if self.epoch_over is not None:
            self.epoch_over.set_result(None)
            self.epoch_over = None

    def _too_large(self) -> bool:
        return len(self._book.accounts) > MAX_BOOK_ACCOUNTS or len(self._book.targets) > MAX_BOOK_TARGETS

    # --- deciding ----------------------------------------------------------------------------------

    def _decide_slice(
        self, requests: list[Request], atomic: bool, known: dict[str, Record], decided: Decided
    ) -> None:
        at = max(self._clock(), self._book.recorded_at)
        records = self._decide(requests, atomic, at, known)
        self._book.settle()
        decided.add(self._ledger_no, records)

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
            answer(before, request) if before else unjournaled(request, "idempotency_conflict")
            for before, request in pairs
        ]
        if all(record.replayed for record in answers):
            return answers
        return [unjournaled(request, "idempotency_conflict") for request in requests]
