"""The worker: takes what is due from the queue, does it, puts back what waits. Any number may run.

Work is taken with `for update skip locked` and a lease, renewed while it is done. A worker that dies leaves
its lease to run out; one that is only slow may find another at the same work, which harms nothing, because
every step is keyed in the ledger. What fails is tried again later and later, with jitter, one piece of work
at a time: a slow database or rail sees fewer attempts, never more.
"""

import asyncio
import logging
import os
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from finflow.db.pool import acquired
from finflow.kernel.errors import FinFlowError
from finflow.settlement import mirrors, traced, work_store
from finflow.settlement.service import SettlementService
from finflow.settlement.work_store import Work, WorkKind
from finflow.telemetry.tracing import error_name

log = logging.getLogger(__name__)

LEASE_S: Final = 15.0
AT_ONCE: Final = 4
POLL_S: Final = 0.25
MIRROR_EVERY_S: Final = 5.0
DEADLINE_S: Final = 600.0
FIRST_DELAY_US: Final = 500_000
LONGEST_DELAY_US: Final = 60_000_000
_FAILED: Final = (FinFlowError, TimeoutError, asyncpg.PostgresError)
# How the trace of a step is called; a cycle's steps say which they are.
_CALLED: Final[dict[WorkKind, str]] = {
    "batch": "finish_batch", "cycle": "cycle", "return": "return", "reconcile": "reconcile",
}  # fmt: skip


class Worker:
    """Drives batches that were cut off, cycles, returns and reconciliations of all ledgers, or of one."""

    def __init__(
        self,
        settlement: SettlementService,
        ledger_no: int | None = None,
        lease_s: float = LEASE_S,
        poll_s: float = POLL_S,
    ) -> None:
        self._room = settlement
        self._ledger_no = ledger_no
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.disagreeing: list[mirrors.Mirror] = []

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._work_on())
            group.create_task(self._watch_mirrors())

    async def _work_on(self) -> None:
        while True:
            if not await self._look():
                await asyncio.sleep(self._poll_s * random.uniform(0.5, 1.5))  # noqa: S311 # jitter

    async def _look(self) -> int:
        with traced.poll("round") as root:
            try:
                return await self.round()
            except FinFlowError as error:
                root.error = error_name(error)
                log.warning("settlement waits", extra={"error": repr(error)})
                return 0

    async def round(self) -> int:
        """Hear the rails, then do what is due now; how much was done. Raises what the database raises."""
        heard = await self._room.submitter.listen()
        return heard + len(await self._do_due())

    async def until_idle(self, rounds: int = 1_000) -> None:
        """Do everything that is due at this moment of the clock, and whatever that makes due."""
        for _ in range(rounds):
            if not await self.round():
                return

    async def _do_due(self) -> list[Work]:
        async with acquired(self._room.pool) as connection:
            taken = await work_store.claim(
                connection, self._room.clock(), self._lease_s, self._name, AT_ONCE, self._ledger_no
            )
        outcomes = await asyncio.gather(*(self._do(work) for work in taken), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return list(taken)

    async def _do(self, work: Work) -> None:
        """One piece of work, as far as it goes. Whatever happens, it goes back to the queue or is done."""
        try:
            async with self._leased(work):
                due = await self._advance(work)
        except _FAILED as error:
            await self._put_back_failed(work, error)
            return
        async with acquired(self._room.pool) as connection:
            if due is None and not await work_store.finish(connection, work.key, work.asked):
                due = self._room.clock()
            if due is None:
                await work_store.forget_causes(connection, work.key)
            else:
                await work_store.put_back(connection, work, due, 0, None, self._name)

    async def _advance(self, work: Work) -> int | None:
        """Go on while there is something to do now; when to go on later, or None when all is done."""
        until = asyncio.get_running_loop().time() + DEADLINE_S
        while True:
            due = await self._traced_step(work, until)
            if due is None or due > self._room.clock():
                return due

    async def _traced_step(self, work: Work, until: float) -> int | None:
        """One step as its own trace, in which the log says what stopped it."""
        with traced.step(_CALLED[work.kind], work.causes) as root:
            root.attributes["finflow.ledger_no"] = work.ledger_no
            try:
                async with asyncio.timeout_at(until):
                    root.tenant = await self._room.acceptance.tenant_id(work.ledger_no)
                    return await self._step(work)
            except _FAILED as error:
                log.warning("settlement is tried again", extra={"work": work.key, "error": repr(error)})
                raise

    async def _step(self, work: Work) -> int | None:
        room = self._room
        if work.kind == "cycle":
            return await room.steps.advance(work.ledger_no, work.number)
        if work.kind == "return":
            return await room.returns.advance(work.ledger_no, work.number)
        if work.kind == "reconcile":
            return await room.reconciler.advance(work.ledger_no, work.number)
        await room.acceptance.resume(work.ledger_no, None, work.number)
        await room.acceptance.post_gross(work.ledger_no, work.number)
        return None

    async def _put_back_failed(self, work: Work, error: Exception) -> None:
        """Later and later, up to a minute, and never two at the same moment for the same reason."""
        failures = work.failures + 1
        delay = min(LONGEST_DELAY_US, FIRST_DELAY_US << min(failures, 20))
        jittered = int(delay * random.uniform(0.5, 1.0))  # noqa: S311 # jitter
        async with acquired(self._room.pool) as connection:
            due = self._room.clock() + jittered
            await work_store.put_back(connection, work, due, failures, str(error), self._name)

    @asynccontextmanager
    async def _leased(self, work: Work) -> AsyncIterator[None]:
        renewal = asyncio.create_task(self._renew(work))
        try:
            yield
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)

    async def _renew(self, work: Work) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                async with acquired(self._room.pool) as connection:
                    await work_store.renew(connection, work, self._lease_s, self._name)
            except FinFlowError as error:
                # A lease that runs out lets another worker in, which is safe.
                log.warning("a lease is not renewed", extra={"work": work.key, "error": repr(error)})

    async def _watch_mirrors(self) -> None:
        while True:
            with traced.step("check_mirrors") as root:
                try:
                    await self.check_mirrors()
                except FinFlowError as error:
                    root.error = error_name(error)
                    log.warning("mirrors are not checked", extra={"error": repr(error)})
            await asyncio.sleep(MIRROR_EVERY_S)

    async def check_mirrors(self) -> list[mirrors.Mirror]:
        """Pairs of ledgers that do not agree; each is a bug or a hand in the books, and is logged as such."""
        async with acquired(self._room.pool) as connection:
            numbers = await mirrors.read_ledgers(connection)
            found = await mirrors.read_mirrors(connection, numbers)
        self.disagreeing = [each for each in found if not each.agrees]
        for each in self.disagreeing:
            log.error("mirrored settlement accounts disagree", extra={"mirror": each._asdict()})
        return self.disagreeing
