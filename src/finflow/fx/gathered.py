"""The statements of foreign exchange that many ask at once: one statement answers all of them."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from finflow.db.gathering import Gathering
from finflow.db.pool import acquired
from finflow.fx import model, store
from finflow.fx.model import Known
from finflow.fx.store import PricedQuote
from finflow.kernel import ids
from finflow.kernel.clock import Clock
from finflow.kernel.errors import FinFlowError
from finflow.ledger.views import LedgerView

if TYPE_CHECKING:
    from finflow.db.pool import PoolConnection

# Lends a connection that sees one ledger, by the numbers of its tenant and its own.
Reading = Callable[[int, int], "AbstractAsyncContextManager[PoolConnection]"]
Newest = dict[tuple[str, str], Known]


class RatesNow(NamedTuple):
    """The newest rates of the pairs that were asked for, and of others, at a moment in microseconds."""

    at: int
    newest: Newest


class LedgerStatements:
    """The statements of one ledger that many ask at once. One ledger each, as row-level security wants it."""

    def __init__(
        self,
        ledger: LedgerView,
        pool: "asyncpg.Pool[asyncpg.Record]",
        reading: Reading | None,
        clock: Clock,
    ) -> None:
        place, owner = ids.parse("led", ledger.ledger_id), ids.parse("ten", ledger.tenant_id)
        assert place is not None, "the directory gives ids"
        assert owner is not None, "the directory gives ids"
        self.ledger_id = ledger.ledger_id
        self.ledger_no = place.ledger_no
        self._tenant_no = owner.number
        self._pool = pool
        self._reading = reading
        self._clock = clock
        self.rates_now = Gathering("fx.rates_now", self._read_rates)
        self.quote = Gathering("fx.quote", self._read_quotes)
        self.add_quote = Gathering("fx.add_quote", self._add_quotes)

    def reading(self) -> "AbstractAsyncContextManager[PoolConnection]":
        """A connection to read this ledger with."""
        if self._reading is None:
            return acquired(self._pool)
        return self._reading(self._tenant_no, self.ledger_no)

    @asynccontextmanager
    async def writing(self) -> "AsyncIterator[PoolConnection]":
        """A connection to add rows with. Raises database_full."""
        try:
            async with acquired(self._pool) as connection:
                yield connection
        except asyncpg.DiskFullError as error:
            raise FinFlowError("database_full", str(error)) from error

    async def _read_rates(self, asked: Sequence[tuple[str, str]]) -> list[RatesNow]:
        pairs = sorted({pair for sell, buy in set(asked) for pair in model.pairs_between(sell, buy)})
        at = self._clock()
        async with self.reading() as connection:
            newest = await store.read_newest(connection, self.ledger_no, pairs, at)
        return [RatesNow(at, newest)] * len(asked)

    async def _read_quotes(self, asked: Sequence[int]) -> list[Any]:
        async with self.reading() as connection:
            found = await store.read_quotes(connection, self.ledger_no, sorted(set(asked)))
        return [found.get(quote_no) for quote_no in asked]

    async def _add_quotes(self, asked: Sequence[PricedQuote]) -> list[int | None]:
        async with self.writing() as connection:
            return await store.add_quotes(connection, self.ledger_no, asked)
