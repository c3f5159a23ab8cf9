"""Reconciliation as a service: nostros, what becomes expected, what is reported, and the matching of both.

A settled cycle or a return adds movements, a bank's report adds lines, each with its place in the queue of
what is unmatched in the same transaction, and asks for a look at the nostro. A worker looks: it reads what is
open, matches it by the pure rules of matching.py, and keeps the matches in small transactions, each of which
takes what it matched out of the queue. Killed anywhere, it has matched some, and the next look matches the
rest; two looks at once cannot match one thing twice, because it is in the queue once.
"""

import asyncio
import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from finflow.db.pool import acquired
from finflow.kernel.clock import Clock, to_datetime
from finflow.kernel.errors import FinFlowError
from finflow.settlement import reconciliation_store as store
from finflow.settlement import work_store
from finflow.settlement.cycle_store import CycleRow
from finflow.settlement.database import transaction
from finflow.settlement.matching import PROMISE_S, Line, Match, Reconciliation, reconcile
from finflow.settlement.participant_store import Participant
from finflow.settlement.reconciliation_store import Found, Nostro

if TYPE_CHECKING:
    import asyncpg

    from finflow.ledger.store import Connection

PAGE: Final = 10_000
# Matches of one transaction; a batch that was booked in one sum is never split.
MATCHES_AT_ONCE: Final = 5_000
# Of each side. More may be open: then what has a UETR is matched by it first, wherever in the queue it is.
MAX_OPEN: Final = 120_000


class Reconciler:
    """Expects, takes reports and matches, on the nostros of all ledgers."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        clock: Clock,
        reached: Callable[[str], None] = lambda _: None,
        max_open: int = MAX_OPEN,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._reached = reached
        self._max_open = max_open

    async def nostros(self, ledger_no: int) -> list[Nostro]:
        """A ledger's nostros, in the order of their registration."""
        async with acquired(self._pool) as connection:
            return await store.read_nostros(connection, ledger_no)

    async def add_nostro(
        self, ledger_no: int, participant: Participant, currency: str, account: str, owner: str
    ) -> Nostro:
        """Register a nostro; the same again changes nothing. Raises nostro_conflict, participant_unknown."""
        accounts = participant.accounts.get(currency)
        if accounts is None:
            raise FinFlowError(
                "participant_unknown", f"{participant.name!r} in {currency[:10]!r}", "currency"
            )
        place = (participant.participant_no, currency, accounts.exponent)
        async with transaction(self._pool) as connection:
            await store.add_nostro(connection, ledger_no, place, account, owner, self._clock())
            found = await store.read_nostros(connection, ledger_no)
        wanted = (participant.name, currency, account, owner)
        for each in found:
            if (each.participant, each.currency, each.account, each.owner) == wanted:
                return each
        raise FinFlowError("nostro_conflict", param="account")

    # --- what is expected ---

    async def expect(self, row: CycleRow) -> None:
        """Expect what a cycle's orders move on nostros. Safe to repeat."""
        after, ledger_no, cycle = 0, row.ledger_no, row.cycle
        while True:
            now = self._clock()
            async with transaction(self._pool) as connection:
                page = await store.expect_out(
                    connection, ledger_no, cycle.cycle_no, cycle.submissions, after, PAGE, now
                )
                back: dict[int, dt.date | None] = dict.fromkeys(page.returned)
                await store.expect_in(connection, ledger_no, back, None, now)
                await work_store.ask(connection, ledger_no, "reconcile", sorted(page.nostro_nos), now)
            self._reached("movements kept")
            if page.orders < PAGE:
                return
            after = page.last

    async def expect_back(
        self,
        connection: "Connection",
        ledger_no: int,
        days: dict[int, dt.date | None],
        message_id: str,
        now: int,
    ) -> None:
        """Expect back what went out for these orders, in the transaction that keeps their return."""
        touched = await store.expect_in(connection, ledger_no, days, message_id, now)
        await work_store.ask(connection, ledger_no, "reconcile", sorted(touched), now)

    async def withdraw(
        self, connection: "Connection", ledger_no: int, order_nos: Sequence[int], message_id: str, now: int
    ) -> None:
        """Orders that a rail refused late: nothing moves for them or, if it did, it has to come back."""
        await store.withdraw(connection, ledger_no, order_nos, now)
        days: dict[int, dt.date | None] = dict.fromkeys(order_nos)
        await self.expect_back(connection, ledger_no, days, message_id, now)

    # --- what is reported ---

    async def report(self, ledger_no: int, message_no: int, lines: Sequence[tuple[int, Line]]) -> int:
        """Keep a part of a report's lines with their nostros' numbers; how many are new.

        Raises message_duplicate if one of these ids was reported with other content.
        """
        nostro_nos = {no for no, _ in lines}
        now = self._clock()
        async with transaction(self._pool) as connection:
            await store.lock_nostros(connection, ledger_no, nostro_nos)
            added = await store.add_lines(connection, ledger_no, message_no, now, lines)
            if added < len(lines):
                await self._refuse_other_content(connection, ledger_no, lines)
            if added:
                await work_store.ask(connection, ledger_no, "reconcile", sorted(nostro_nos), now)
        self._reached("lines kept")
        return added

    async def _refuse_other_content(
        self, connection: "Connection", ledger_no: int, lines: Sequence[tuple[int, Line]]
    ) -> None:
        kept = await store.read_lines_by_id(connection, ledger_no, [each.id for _, each in lines])
        told = {each.id: (each.amount_minor, each.value_date, each.end_to_end_id) for _, each in lines}
        for row in kept:
            if told[row["line_id"]] != (row["amount_minor"], row["value_date"], row["end_to_end_id"]):
                raise FinFlowError("message_duplicate", f"the line {row['line_id']!r} was reported otherwise")

    # --- matching ---

    async def advance(self, ledger_no: int, nostro_no: int) -> int | None:
        """Match what can be matched on a nostro now; None when that is all, else go on (µs)."""
        nostro = next(each for each in await self.nostros(ledger_no) if each.nostro_no == nostro_no)
        async with acquired(self._pool) as connection:
            expected, lines = await store.read_open(connection, nostro, self._max_open + 1)
            part = max(len(expected), len(lines)) > self._max_open
            if part:
                expected, lines = await store.read_same_uetr(connection, nostro, self._max_open)
        # Other requests go on meanwhile; what comes to the queue asks for another look.
        now = to_datetime(self._clock())
        result = await asyncio.to_thread(reconcile, expected, lines, now, part)
        for chunk in _chunks(result.matches):
            await self._keep(nostro, chunk)
        if not part:
            await self._mark(nostro, result)
        return self._clock() if part and result.matches else None

    async def _keep(self, nostro: Nostro, matches: Sequence[Match]) -> None:
        found = [
            Found(int(movement), int(each.line_id), each.rule, each.latency_s <= PROMISE_S)
            for each in matches
            for movement in each.expected_ids
        ]
        async with transaction(self._pool) as connection:
            await store.lock_nostros(connection, nostro.ledger_no, [nostro.nostro_no])
            if not await store.keep_matches(connection, nostro, found, self._clock()):
                raise FinFlowError("overloaded", "somebody else is matching on this nostro")
            self._reached("matches written")
        self._reached("matches kept")

    async def _mark(self, nostro: Nostro, result: Reconciliation) -> None:
        pairs = [
            (int(each.expected_id), int(each.line_id))
            for each in result.breaks
            if each.expected_id is not None and each.line_id is not None
        ]
        async with transaction(self._pool) as connection:
            await store.lock_nostros(connection, nostro.ledger_no, [nostro.nostro_no])
            await store.mark_differing(connection, nostro, pairs)


def _chunks(matches: Iterable[Match]) -> Iterator[list[Match]]:
    """Matches of about MATCHES_AT_ONCE movements together."""
    chunk: list[Match] = []
    size = 0
    for each in matches:
        chunk.append(each)
        size += len(each.expected_ids)
        if size >= MATCHES_AT_ONCE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
