"""Connections for reads: bound by row-level security to the one ledger that they have entered.

They run as the role finflow_reader, which may select and sees no row before a connection has entered a
tenant or one of its ledgers (migration 0004_tenancy). A connection remembers what it has entered, so only
a change of ledger costs a statement. See docs/adr/0010.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from finflow.db.pool import acquired, open_pool
from finflow.db.traced import Plain, TracedConnection
from finflow.kernel.errors import FinFlowError
from finflow.telemetry import tracing

if TYPE_CHECKING:
    import asyncpg

    from finflow.db.pool import PoolConnection

ROLE: Final = "finflow_reader"
_MAX_TURNS: Final = 10_000
_ENTER: Final = "select enter_ledger($1, $2)"

# The number of a tenant and, unless its directory alone is read, of one of its ledgers.
Place = tuple[int, int | None]


class _Placed(Plain):
    """A connection that knows where it is."""

    _place: Place | None = None

    async def enter(self, place: Place) -> None:
        """Go there, unless it is there already; the tenant's directory is seen from each of its ledgers.

        Raises ledger_unknown for a ledger of another tenant.
        """
        if self._place == place or (place[1] is None and self._place and self._place[0] == place[0]):
            return
        # Until the answer has come nobody knows where the connection is.
        self._place = None
        entered = await self.fetchval(_ENTER, *place)
        if entered != place[1]:
            raise FinFlowError("ledger_unknown", f"no ledger number {place[1]} of this tenant")
        self._place = place


class _TracedPlaced(_Placed, TracedConnection):
    """The same where traces are kept."""


class Readers:
    """A pool of reading connections, each lent for one read in one place.

    A tenant has three quarters of them at a time: whatever it asks for, others do not wait behind all of it.
    Whoever holds one must not ask for another.
    """

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool
        self._share = pool.get_max_size() - pool.get_max_size() // 4
        self._turns: dict[int, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def entered(self, tenant_no: int, ledger_no: int | None) -> "AsyncIterator[PoolConnection]":
        """A connection that sees this ledger and nothing else; without one, the tenant's directory.

        Raises ledger_unknown for a ledger that is not the tenant's, and database_unreachable.
        """
        async with self._turn(tenant_no), acquired(self._pool) as connection:
            await cast(Any, connection).enter((tenant_no, ledger_no))
            yield connection

    def _turn(self, tenant_no: int) -> asyncio.Semaphore:
        turn = self._turns.get(tenant_no)
        if turn is None:
            if len(self._turns) >= _MAX_TURNS:
                # Who has one keeps it: the worst that comes of this is a share too many for a moment.
                self._turns.clear()
            turn = self._turns[tenant_no] = asyncio.Semaphore(self._share)
        return turn

    async def close(self) -> None:
        """Waits for reads under way, then closes every connection."""
        await self._pool.close()


async def open_readers(url: str, **settings: Any) -> Readers:
    """Readers over a pool of `open_pool`, which takes the settings and raises."""
    kind = _TracedPlaced if tracing.tracer().recording else _Placed
    return Readers(await open_pool(url, role=ROLE, connection_class=kind, **settings))
