"""Telling the rails what a cycle pays through them, and hearing what they say.

A rail is sent one message a submission, until it has it; then it is waited for. What it answers is kept once
for each submission, so that answers which come twice, late or in another order change nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg

from finflow.db.pool import acquired
from finflow.kernel.clock import Clock, to_datetime
from finflow.kernel.errors import FinFlowError
from finflow.settlement import cycle_store, duplicates, order_store, rail_messages, traced, work_store
from finflow.settlement.cycle_store import CycleRow, KeptMessage, Submission
from finflow.settlement.database import transaction
from finflow.settlement.ports import Incoming, Rail
from finflow.settlement.rail_messages import Answer, Heard
from finflow.settlement.reconciliation import Reconciler
from finflow.telemetry import tracing

if TYPE_CHECKING:
    from finflow.ledger.store import Connection

log = logging.getLogger(__name__)

# Participant 0 of a submission: the ledger itself, and what it decided of the attempt.
LEDGER: Final = 0
OUR_NAME: Final = "FinFlow"
TAKEN_AT_ONCE: Final = 16


class Submitter:
    """Submissions of cycles to rails, which are known by the names of their participants."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        rails: Mapping[str, Rail],
        clock: Clock,
        reconciler: Reconciler,
        tenant_id: Callable[[int], Awaitable[str]],
        reached: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._pool = pool
        self._reconciler = reconciler
        self._tenant_id = tenant_id
        self._rails = rails
        self._clock = clock
        self._reached = reached

    async def known(self, row: CycleRow) -> list[Submission]:
        """What was sent of a cycle, and what was answered and decided."""
        async with acquired(self._pool) as connection:
            return await cycle_store.read_submissions(connection, row.ledger_no, row.cycle.cycle_no)

    async def ask(self, row: CycleRow) -> bool:
        """Send to each rail that has not got this submission; whether all have answered.

        Raises rail_unavailable.
        """
        cycle = row.cycle
        async with acquired(self._pool) as connection:
            rails = await cycle_store.read_rails(connection, row.ledger_no, cycle.cycle_no)
        known = {e.participant_no: e for e in await self.known(row) if e.attempt == cycle.submissions}
        waiting = [rail for rail in rails if rail[0] not in known or known[rail[0]].verdict is None]
        await asyncio.gather(*(self._send(row, *rail, known.get(rail[0])) for rail in waiting))
        return not waiting

    async def _send(self, row: CycleRow, participant_no: int, name: str, sent: Submission | None) -> None:
        """One message to one rail. What is noted after it was sent says that it need not be sent again."""
        cycle, ledger_no = row.cycle, row.ledger_no
        message_id = rail_messages.message_id(ledger_no, cycle.cycle_no, participant_no, cycle.submissions)
        key = (ledger_no, cycle.cycle_no, cycle.submissions, participant_no)
        sent_at = self._clock() if sent is None else sent.sent_at
        async with acquired(self._pool) as connection:
            if await cycle_store.find_digest(connection, ledger_no, OUR_NAME, "pacs.008", message_id):
                return
            outgoing = await cycle_store.read_outgoing(connection, ledger_no, cycle.cycle_no, participant_no)
        async with transaction(self._pool) as connection:
            await cycle_store.add_submission(connection, key, message_id, len(outgoing), sent_at)
            if not outgoing:
                await cycle_store.add_answer(connection, key, "accepted", "nothing to pay", sent_at)
        self._reached("submission kept")
        if outgoing:
            data = rail_messages.credit_transfers(
                message_id, outgoing, cycle.currency, cycle.value_date, to_datetime(sent_at), OUR_NAME
            )
            facts: tracing.Attributes = {"finflow.rail": name, "finflow.orders": len(outgoing)}
            with tracing.span("settlement.send", "client", **facts):
                await self._hand_over(ledger_no, name, message_id, data)

    async def _hand_over(self, ledger_no: int, name: str, message_id: str, data: bytes) -> None:
        rail = self._rails.get(name)
        if rail is None:
            raise FinFlowError("rail_unavailable", f"this worker has no rail {name!r}")
        await rail.send(message_id, data)
        self._reached("message sent")
        message = KeptMessage("out", "pacs.008", OUR_NAME, message_id, duplicates.digest(data), None)
        async with transaction(self._pool) as connection:
            await cycle_store.add_message(connection, ledger_no, message, self._clock())

    # --- answers ---

    async def listen(self) -> int:
        """Take what the rails have said; how many messages were taken. A poisoned one is put aside."""
        taken = 0
        for name, rail in self._rails.items():
            try:
                for message in await rail.incoming(TAKEN_AT_ONCE):
                    taken += await self._hear(name, rail, message)
            except FinFlowError as error:
                if not error.kind.retryable:
                    raise
                log.warning("a rail is left alone", extra={"rail": name, "error": repr(error)})
        return taken

    async def _hear(self, name: str, rail: Rail, message: Incoming) -> bool:
        with traced.step("hear") as root:
            root.attributes["finflow.rail"] = name
            try:
                heard = await self.take(name, message.data)
            except FinFlowError as error:
                if error.kind.retryable:
                    raise
                root.error = tracing.error_name(error)
                log.error("a message of a rail is put aside", extra={"rail": name, "error": repr(error)})
                await rail.acknowledge(message.name, taken=False)
                return False
            ledger_no = rail_messages.ledger_of(next(iter(heard.named))) or 0
            root.attributes["finflow.ledger_no"] = ledger_no
            root.tenant = await self._tenant_id(ledger_no)
            self._reached("answer kept")
            await rail.acknowledge(message.name, taken=True)
            return True

    async def take(self, rail: str, data: bytes, ledger_no: int | None = None) -> Heard:
        """Keep what a message says; with `ledger_no`, of that ledger alone. A repetition changes nothing.

        Raises the reader's codes, message_duplicate for other content under a known name, answer_malformed.
        """
        heard = await asyncio.to_thread(rail_messages.hear, data)
        ledger_nos = {rail_messages.ledger_of(each) for each in heard.named}
        if len(ledger_nos) != 1 or None in ledger_nos:
            raise FinFlowError("answer_malformed", "it names no message of ours, or those of several ledgers")
        named = ledger_nos.pop() or 0
        if ledger_no not in (None, named):
            raise FinFlowError("answer_malformed", "it names no message of this ledger")
        message = KeptMessage("in", heard.kind, rail, heard.message_id, duplicates.digest(data), data)
        now = self._clock()
        async with transaction(self._pool) as connection:
            try:
                message_no = await cycle_store.add_message(connection, named, message, now)
            except asyncpg.ForeignKeyViolationError as error:
                raise FinFlowError("answer_malformed", "it names a ledger that is not there") from error
            if message_no is None:
                before = await cycle_store.find_digest(connection, named, rail, heard.kind, heard.message_id)
                if before != message.digest:
                    raise FinFlowError("message_duplicate", f"{heard.message_id!r} of {rail!r}")
                return heard
            source = _Source(named, rail, heard.message_id, message_no, now)
            for answer in heard.answers:
                await self._keep(connection, source, answer)
            if heard.returned:
                await self._keep_returns(connection, source, heard)
        return heard

    async def _keep(self, connection: "Connection", source: "_Source", answer: Answer) -> None:
        ledger_no, now = source.ledger_no, source.at
        key = await self._submission(connection, source, answer.message_id)
        if answer.refused:
            found = await order_store.find_by_uetr(connection, ledger_no, list(answer.refused), key[3])
            if found.keys() != answer.refused.keys():
                raise FinFlowError("answer_malformed", "it refuses payments that it was not sent")
            reasons = {found[uetr].order_no: reason for uetr, reason in answer.refused.items()}
            await self._bring_back(connection, source, reasons)
            await self._reconciler.withdraw(connection, ledger_no, sorted(reasons), source.message_id, now)
        if answer.verdict is not None:
            await cycle_store.add_answer(connection, key, answer.verdict, answer.detail, now)
            await work_store.hurry(connection, (ledger_no, "cycle", key[1]), now)

    async def _submission(
        self, connection: "Connection", source: "_Source", message_id: str
    ) -> tuple[int, int, int, int]:
        """The submission that a message speaks of; that it does is kept."""
        key = await cycle_store.find_submission(connection, source.ledger_no, message_id, source.rail)
        if key is None:
            raise FinFlowError("answer_malformed", f"{source.rail!r} was sent no {message_id!r}")
        await cycle_store.add_reference(connection, key, source.message_no)
        return key

    async def _bring_back(self, connection: "Connection", source: "_Source", reasons: dict[int, str]) -> None:
        ledger_no = source.ledger_no
        await cycle_store.add_returns(connection, ledger_no, reasons, source.rail, source.at)
        await cycle_store.add_return_messages(connection, ledger_no, sorted(reasons), source.message_no)

    async def _keep_returns(self, connection: "Connection", source: "_Source", heard: Heard) -> None:
        ledger_no, payee_no = source.ledger_no, 0
        for message_id in heard.named:
            payee_no = (await self._submission(connection, source, message_id))[3]
        found = await order_store.find_by_uetr(connection, ledger_no, list(heard.returned), payee_no)
        for uetr, (minor, currency, _, _) in heard.returned.items():
            order = found.get(uetr)
            if order is None or (order.amount_minor, order.currency) != (minor, currency):
                raise FinFlowError("answer_malformed", f"{uetr} was not sent so: a part is not returned")
        returned = {found[uetr].order_no: each for uetr, each in heard.returned.items()}
        reasons = {number: reason for number, (_, _, reason, _) in returned.items()}
        await self._bring_back(connection, source, reasons)
        days = {number: day for number, (_, _, _, day) in returned.items()}
        await self._reconciler.expect_back(connection, ledger_no, days, heard.message_id, source.at)


class _Source(NamedTuple):
    """Which message of which rail says something of a ledger, and when it was taken."""

    ledger_no: int
    rail: str
    message_id: str
    message_no: int
    at: int
