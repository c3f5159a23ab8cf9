"""Orders that come back after they were settled: reversed on the payee's ledger first, then on the payer's.

On the payer's ledger, what the order took out of the settlement accounts through its cycle goes back in the
same all-or-nothing group as the reversal.
"""

from typing import TYPE_CHECKING, Final

from finflow.db.pool import acquired
from finflow.kernel.clock import Clock
from finflow.kernel.errors import FinFlowError
from finflow.settlement import cycle_store, order_reads, order_store, orders, traced
from finflow.settlement.acceptance import Acceptance
from finflow.settlement.books import Books, resolve_all
from finflow.settlement.database import transaction

if TYPE_CHECKING:
    import asyncpg

ASK_AGAIN_US: Final = 1_000_000
_OVER: Final = frozenset({"refused", "voided", "returned"})


class Returns:
    """Returns orders one by one; each step safe to repeat."""

    def __init__(
        self, pool: "asyncpg.Pool[asyncpg.Record]", acceptance: Acceptance, ledgers: Books, clock: Clock
    ) -> None:
        self._pool = pool
        self._acceptance = acceptance
        self._ledgers = ledgers
        self._clock = clock

    async def ask(self, ledger_no: int, order_no: int, reason: str, source: str) -> None:
        """Keep that a settled order is to come back. Raises order_not_settled."""
        async with acquired(self._pool) as connection:
            [found] = await order_reads.read_order_rows(connection, ledger_no, [order_no])
        if found.status not in ("settled", "returned"):
            raise FinFlowError("order_not_settled", f"it is {found.status}")
        async with transaction(self._pool) as connection:
            await cycle_store.add_returns(connection, ledger_no, {order_no: reason}, source, self._clock())

    async def advance(self, ledger_no: int, order_no: int) -> int | None:
        """Bring one order back; None when it is, or when it never left, else when to look again (µs).

        Raises order_blocked where the ledger refuses, as when the payee has spent the money.
        """
        async with acquired(self._pool) as connection:
            [found] = await order_reads.read_order_rows(connection, ledger_no, [order_no])
            [order] = await order_store.read_orders(connection, ledger_no, [order_no])
            ends = await order_store.read_ends(connection, ledger_no, order_no)
        traced.say({"finflow.order.id": orders.order_id(ledger_no, order_no, order.accepted_at)})
        if found.status in _OVER:
            return None
        if found.status != "settled" or (order.peer_ledger_no is not None and ends.there is None):
            traced.nothing_new()
            return self._clock() + ASK_AGAIN_US
        if order.peer_ledger_no is not None and ends.there is not None:
            peer_id = await self._acceptance.ledger_id(order.peer_ledger_no)
            await resolve_all(self._ledgers, peer_id, [orders.reversal(ends.there)], self._clock)
        assert ends.here is not None, "a settled order was posted"
        group = [orders.reversal(ends.here)]
        unwinding = orders.unwinding(order)
        if unwinding is not None:
            group.append(unwinding)
        home = await self._acceptance.ledger_id(ledger_no)
        await resolve_all(self._ledgers, home, group, self._clock, atomic=True)
        return None
