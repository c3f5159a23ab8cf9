"""One statement for all who ask at once, as group commit does for writers.

A request for a quote or a conversion needs one row; hundreds at a time would keep hundreds waiting for a
connection, the ledger's writer among them. Here, whatever is asked while a statement runs is in the next.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

import asyncpg

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

K = TypeVar("K")
V = TypeVar("V")

MAX_AT_ONCE: Final = 1_000
MAX_WAITING: Final = 20_000

# Lends a connection that sees one ledger, by the numbers of its tenant and its own.
Reading = Callable[[int, int], "AbstractAsyncContextManager[PoolConnection]"]
Newest = dict[tuple[str, str], Known]


class Gathering(Generic[K, V]):
    """Answers single questions by a function that answers many: one value for each, in their order."""

    def __init__(self, answer: Callable[[Sequence[K]], Awaitable[Sequence[V]]]) -> None:
        self._answer = answer
        self._waiting: list[tuple[K, asyncio.Future[V]]] = []
        self._task: asyncio.Task[None] | None = None

    async def ask(self, question: K) -> V:
        """Raises what the function raises, to everybody whom it was asked for; and overloaded."""
        if len(self._waiting) >= MAX_WAITING:
            raise FinFlowError("overloaded", f"{len(self._waiting)} questions wait")
        reply: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, reply))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await reply

    async def _run(self) -> None:
        while self._waiting:
            asked, self._waiting = self._waiting[:MAX_AT_ONCE], self._waiting[MAX_AT_ONCE:]
            try:
                answers = await self._answer([question for question, _ in asked])
            except Exception as error:  # noqa: BLE001,RUF100 - whoever asked gets it, and this must go on
                for _, reply in asked:
                    if not reply.done():
                        reply.set_exception(error)
                continue
            for (_, reply), answer in zip(asked, answers, strict=True):
                # Whoever gave up meanwhile is not told.
                if not reply.done():
                    reply.set_result(answer)


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
        self.rates_now = Gathering(self._read_rates)
        self.quote = Gathering(self._read_quotes)
        self.add_quote = Gathering(self._add_quotes)

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
