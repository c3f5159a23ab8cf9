"""Settlement's transactions: short, bounded, and never open while the ledger or a rail is asked.

Rows are locked in one order: work, then the cycle (several by currency), then what is added. A lock that is
not there soon, a statement that runs too long and a deadlock are errors that the caller may try again, so
that a slow database meets fewer requests, not more.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import asyncpg

from finflow.db.pool import CONNECT_ERRORS, acquired
from finflow.kernel.errors import FinFlowError

if TYPE_CHECKING:
    from finflow.db.pool import PoolConnection

LOCK_TIMEOUT_MS: Final = 2_000
STATEMENT_TIMEOUT_MS: Final = 30_000
MAX_WAITING: Final = 512

_LIMITS: Final = (
    f"set local lock_timeout = {LOCK_TIMEOUT_MS}; set local statement_timeout = {STATEMENT_TIMEOUT_MS}"
)
_BUSY: Final = (asyncpg.LockNotAvailableError, asyncpg.TransactionRollbackError)


class Bound:
    """At most so many at a time, and so many waiting; more are told to come again."""

    def __init__(self, at_once: int, waiting: int = MAX_WAITING) -> None:
        self._slots = asyncio.Semaphore(at_once)
        self._waiting = 0
        self._most = waiting

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Raises overloaded if too many wait."""
        if self._waiting >= self._most:
            raise FinFlowError("overloaded", f"{self._waiting} requests wait for settlement")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()


@asynccontextmanager
async def transaction(pool: "asyncpg.Pool[asyncpg.Record]") -> "AsyncIterator[PoolConnection]":
    """A bounded transaction. Raises overloaded, deadline_exceeded, database_unreachable or database_full."""
    try:
        async with acquired(pool) as connection, connection.transaction():
            await connection.execute(_LIMITS)
            yield connection
    except _BUSY as error:
        raise FinFlowError("overloaded", f"settlement's tables are busy: {type(error).__name__}") from error
    except asyncpg.QueryCanceledError as error:
        raise FinFlowError("deadline_exceeded", "a statement of settlement took too long") from error
    except asyncpg.DiskFullError as error:
        raise FinFlowError("database_full", str(error)) from error
    except (*CONNECT_ERRORS, asyncpg.InternalClientError) as error:
        raise FinFlowError("database_unreachable", type(error).__name__) from error
