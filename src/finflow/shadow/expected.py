"""What the baseline would have asked the ledger for: commands that the house makes itself, made again.

A conversion is decided before the ledger sees it, in its quote, and a settlement order's hold in the order.
So replaying their commands alone would find nothing: they are built anew from the quote and the order, by
the baseline's own code, and it is these that the shadow books.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from finflow.fx.service import Exchange, FxService
from finflow.kernel import ids
from finflow.kernel.clock import to_micros
from finflow.kernel.errors import FinFlowError
from finflow.ledger import directory, queries
from finflow.ledger.book import Account, Record
from finflow.ledger.commands import Command, PostTransaction, Request
from finflow.ledger.store import Connection
from finflow.ledger.views import LedgerView
from finflow.settlement import order_store, orders
from finflow.shadow.live import LiveRow
from finflow.shadow.model import Difference

_ORDER_KEY: Final = re.compile(r"§order:(\d+)\.(\d+):(pay|unwind)")
_QUOTE_MADE: Final = """
select quote_no, created_at, sell_currency, buy_currency from fx_quotes
 where ledger_no = $1 and quote_no = any($2::bigint[])
"""


class Rebuilt(NamedTuple):
    """Commands by `seq`, and what stands where nothing is found that they could be built from."""

    commands: dict[int, Command]
    unfounded: dict[int, Difference]


class _Ledgers:
    """One ledger of the live books for the exchange, which may look accounts up in it and open none."""

    def __init__(self, live: Any, ledger: LedgerView, ledger_no: int) -> None:
        self._live = live
        self._ledger = ledger
        self._ledger_no = ledger_no

    async def ledger(self, ledger_id: str) -> LedgerView:
        return self._ledger

    async def ledger_holding(self, prefix: str, resource_id: str) -> LedgerView:
        return self._ledger

    async def accounts_by_reference(self, ledger_id: str, external_reference: str) -> list[Account]:
        async with self._live.acquire() as connection:
            return await queries.read_account_by_reference(connection, self._ledger_no, external_reference)

    async def submit(self, ledger_id: str, requests: list[Request], atomic: bool = False) -> list[Record]:
        raise FinFlowError("account_unknown", "the live ledger lacks an account that conversions go through")


class Rebuilder:
    """Makes the house's own commands of one ledger again. Quotes are read from the clone, orders live."""

    def __init__(self, live: Any, clone: Any, ledger_no: int, fx: FxService) -> None:
        self._live = live
        self._clone = clone
        self._ledger_no = ledger_no
        self._fx = fx
        self._exchange: Exchange | None = None

    async def rebuild(self, rows: Sequence[LiveRow]) -> Rebuilt:
        """Commands of conversions and of settlement orders among these rows."""
        rebuilt = Rebuilt({}, {})
        await self._conversions(rows, rebuilt)
        await self._orders(rows, rebuilt)
        return rebuilt

    # --- conversions ---

    async def _conversions(self, rows: Sequence[LiveRow], rebuilt: Rebuilt) -> None:
        used = {
            row.seq: (row.record.command.quote.number, row.record.command)
            for row in rows
            if isinstance(row.record.command, PostTransaction) and row.record.command.quote is not None
        }
        if not used:
            return
        async with self._clone.acquire() as connection:
            numbers = sorted({number for number, _ in used.values()})
            found = await connection.fetch(_QUOTE_MADE, self._ledger_no, numbers)
            exchange = await self._exchange_on(connection)
        made = {row["quote_no"]: row for row in found}
        waiting = []
        for seq, (number, command) in used.items():
            if number in made:
                waiting.append(self._convert(exchange, seq, made[number], command, rebuilt))
            else:
                rebuilt.unfounded[seq] = Difference("quote", number, None)
        await asyncio.gather(*waiting)

    async def _convert(
        self, exchange: Exchange, seq: int, quote: Any, command: PostTransaction, rebuilt: Rebuilt
    ) -> None:
        ends = _ends(command, quote["sell_currency"], quote["buy_currency"])
        if ends is None:
            rebuilt.unfounded[seq] = Difference("entries", len(command.entries), "a line on either side")
            return
        quote_id = ids.mint("fxq", to_micros(quote["created_at"]), self._ledger_no, quote["quote_no"])
        try:
            _, rebuilt.commands[seq] = await exchange.conversion(quote_id, *ends)
        except FinFlowError as error:
            rebuilt.unfounded[seq] = Difference("quote", quote["quote_no"], error.detail)

    async def _exchange_on(self, connection: Connection) -> Exchange:
        if self._exchange is None:
            ledger = await directory.read_ledger(connection, self._ledger_no)
            assert ledger is not None, "ledgers are copied before their rows are read"
            self._exchange = self._fx.of(_Ledgers(self._live, ledger, self._ledger_no))
        return self._exchange

    # --- settlement orders ---

    async def _orders(self, rows: Sequence[LiveRow], rebuilt: Rebuilt) -> None:
        named = {row.seq: match for row in rows if (match := _ORDER_KEY.fullmatch(row.record.key))}
        by_ledger: dict[int, set[int]] = {}
        for match in named.values():
            by_ledger.setdefault(int(match[1]), set()).add(int(match[2]))
        found: dict[tuple[int, int], orders.Order] = {}
        for ledger_no, numbers in by_ledger.items():
            async with self._live.acquire() as connection:
                for order in await order_store.read_orders(connection, ledger_no, sorted(numbers)):
                    found[ledger_no, order.order_no] = order
        for seq, match in named.items():
            order_of = found.get((int(match[1]), int(match[2])))
            request = None if order_of is None else self._request(order_of, match[3])
            if request is None:
                rebuilt.unfounded[seq] = Difference("order", match[0], None)
            else:
                rebuilt.commands[seq] = request.command

    def _request(self, order: orders.Order, stage: str) -> Request | None:
        if stage == "unwind":
            return orders.unwinding(order)
        own = order.ledger_no == self._ledger_no
        return orders.payment(order) if own else orders.peer_payment(order)


def _ends(command: PostTransaction, sell: str, buy: str) -> tuple[str, str] | None:
    """The customer's accounts of a conversion: the first line that sells, the first credit that buys."""
    sold = [line.account_id for line in command.entries if (line.currency, line.direction) == (sell, "debit")]
    bought = [
        line.account_id for line in command.entries if (line.currency, line.direction) == (buy, "credit")
    ]
    if command.entries and not sold:
        sold = [command.entries[0].account_id]
    if len(command.entries) > 3 and not bought:
        bought = [command.entries[3].account_id]
    return (sold[0], bought[0]) if sold and bought else None
