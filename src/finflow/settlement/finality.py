"""What the end of a cycle does to the books: holds are posted or released, here and on other ledgers.

Everything is keyed by the order, or by the cycle and the attempt, and read back from the journal page by
page: whoever repeats it finds what is left to do, and the ledger refuses to do anything twice.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from finflow.db.pool import acquired
from finflow.kernel.clock import Clock
from finflow.kernel.errors import FinFlowError
from finflow.ledger.commands import Request
from finflow.settlement import cycle_store, order_store, orders
from finflow.settlement.acceptance import Acceptance
from finflow.settlement.books import Books, book_all, resolve_all
from finflow.settlement.cycle_store import CycleRow
from finflow.settlement.order_store import CycleOrder, PeerLeg
from finflow.settlement.orders import Held, NetLine

if TYPE_CHECKING:
    import asyncpg

PAGE: Final = 10_000


class ResolveStep(NamedTuple):
    """How a hold is resolved, and the kind of the transaction that then stands in the journal."""

    request: Callable[[Held], Request]
    leaves: str


_POST: Final = ResolveStep(orders.posting, "capture")
_RELEASE: Final = ResolveStep(orders.release, "void")


class Finality:
    """Holds, posts and releases what belongs to a cycle. `reached` hears of each place to crash at."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        acceptance: Acceptance,
        ledgers: Books,
        clock: Clock,
        reached: Callable[[str], None],
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._acceptance = acceptance
        self._ledgers = ledgers
        self._reached = reached

    async def pages(self, row: CycleRow) -> AsyncIterator[list[CycleOrder]]:
        """The orders of a cycle, a page at a time. The next page is read while one is worked on."""
        reading = asyncio.create_task(self._page(row, 0))
        try:
            while True:
                page = await reading
                last = len(page) < PAGE
                if not last:
                    reading = asyncio.create_task(self._page(row, page[-1].order_no))
                if page:
                    yield page
                if last:
                    return
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _page(self, row: CycleRow, after: int) -> list[CycleOrder]:
        async with acquired(self._pool) as connection:
            return await order_store.read_cycle_page(
                connection, row.ledger_no, row.cycle.cycle_no, after, PAGE
            )

    # --- net positions ---

    async def hold_positions(self, row: CycleRow) -> str | None:
        """Hold the net positions on the settlement accounts; the ledger's code if it refuses."""
        request = await self._position_request(row)
        if request is None:
            return None
        home = await self._acceptance.ledger_id(row.ledger_no)
        [record] = await book_all(self._ledgers, home, [request])
        return record.code

    async def post_positions(self, row: CycleRow) -> None:
        """Post them. Raises order_blocked."""
        await self._resolve_positions(row, _POST)

    async def release_positions(self, row: CycleRow) -> None:
        """Release them, if they were held."""
        await self._resolve_positions(row, _RELEASE)

    async def _resolve_positions(self, row: CycleRow, step: ResolveStep) -> None:
        request = await self._position_request(row)
        if request is None:
            return
        home = await self._acceptance.ledger_id(row.ledger_no)
        [held] = await book_all(self._ledgers, home, [request])
        if held.code is not None:
            return
        hold = Held(request.key, held.transaction_id(row.ledger_no))
        await resolve_all(self._ledgers, home, [step.request(hold)], self._clock)

    async def _position_request(self, row: CycleRow) -> Request | None:
        cycle = row.cycle
        known = await self._acceptance.participants(row.ledger_no)
        async with acquired(self._pool) as connection:
            kept = await cycle_store.read_positions(connection, row.ledger_no, cycle.cycle_no)
        lines = [
            NetLine(known[position.participant].accounts[cycle.currency].settlement_id, position.net_minor)
            for _, position in kept
        ]
        key = orders.position_key(row.ledger_no, cycle.cycle_no, cycle.submissions)
        reference = orders.cycle_id(row.ledger_no, cycle.cycle_no, row.opened_at)
        return orders.position_hold(key, lines, cycle.currency, row.exponent, reference)

    # --- orders ---

    async def post_orders(self, row: CycleRow) -> None:
        """Post every hold of a cycle: first here, then on other ledgers. Raises order_blocked."""
        await self._resolve_orders(row, _POST)
        self._reached("orders posted")
        await self._resolve_peers(row, _POST)

    async def release_orders(self, row: CycleRow) -> None:
        """Release every hold of a cycle: first on other ledgers, then here. Raises order_blocked."""
        await self._resolve_peers(row, _RELEASE)
        self._reached("peers released")
        await self._resolve_orders(row, _RELEASE)

    async def _resolve_orders(self, row: CycleRow, step: ResolveStep) -> None:
        home = await self._acceptance.ledger_id(row.ledger_no)
        async for page in self.pages(row):
            await resolve_all(self._ledgers, home, _open_holds(page, step), self._clock)
            self._reached("page booked")

    async def _resolve_peers(self, row: CycleRow, step: ResolveStep) -> None:
        after = 0
        while True:
            async with acquired(self._pool) as connection:
                page = await order_store.read_peer_page(
                    connection, row.ledger_no, row.cycle.cycle_no, 0, after, PAGE
                )
            for peer_no in sorted({each.peer_ledger_no for each in page}):
                mine = [each for each in page if each.peer_ledger_no == peer_no]
                peer_id = await self._acceptance.ledger_id(peer_no)
                await resolve_all(self._ledgers, peer_id, _open_holds(mine, step), self._clock)
            if len(page) < PAGE:
                return
            after = page[-1].order_no


def _open_holds(found: Sequence[CycleOrder | PeerLeg], step: ResolveStep) -> list[Request]:
    """What is left to resolve. Raises order_blocked where somebody else has resolved it otherwise."""
    wrong = [each for each in found if each.held is not None and each.ended not in (None, step.leaves)]
    if wrong:
        raise FinFlowError(
            "order_blocked", f"{len(wrong)} of them, the first {wrong[0].order_no}: {wrong[0].ended}"
        )
    return [step.request(each.held) for each in found if each.held is not None and each.ended is None]
