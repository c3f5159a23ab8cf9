"""Applies one step in one transaction with its row in the ledger, once, whoever tries at the same moment.

The lock is polled, not waited for, and it is the transaction's: no pooler can leave it behind. A waiting
pg_advisory_lock() would hold a snapshot, and CREATE INDEX CONCURRENTLY would wait for that for ever.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from time import monotonic
from typing import Any, Final, TypeVar

import asyncpg

from finflow.db import steps
from finflow.db.phases import Migration
from finflow.kernel.errors import FinFlowError
from finflow.kernel.tasks import is_cancelled
from finflow.telemetry import tracing

T = TypeVar("T")

# The lock's name among the advisory locks of one database: the first 63 bits of a hash of ours.
LOCK_KEY: Final = int.from_bytes(hashlib.sha256(b"finflow.schema_migrations").digest()[:8]) >> 1
LOCK_TIMEOUT_MS: Final = 500

# What is worth another try, and is not the step's own fault.
RETRYABLE: Final = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
)

_POLL_S: Final = 0.05
_POLL_MAX_S: Final = 1.0
# A step that queues behind a long reader makes everybody queue behind itself, so it gives up soon and often.
_LIMITS: Final = f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'; SET LOCAL statement_timeout = '15min'"


class Outcome(StrEnum):
    """What became of an attempt."""

    APPLIED = "applied"
    ALREADY = "already"
    BUSY = "busy"


class _RolledBack(Exception):
    """Ends a rehearsal: what was done in it is taken back."""


async def prepare_ledger(connection: "asyncpg.Connection[Any]", deadline: float) -> None:
    """Makes the ledger of steps where it is missing. Raises migration_busy and what `guarded` does."""

    async def attempt() -> bool:
        if await steps.is_prepared(connection):
            return True
        async with connection.transaction():
            await connection.execute(_LIMITS)
            if not await _locked(connection):
                return False
            await guarded("schema_migrations", steps.prepare(connection))
        return True

    await poll(_patient(attempt), deadline, "Another process is migrating this database.")


async def _locked(connection: "asyncpg.Connection[Any]") -> bool:
    return bool(await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK_KEY))


def _patient(attempt: Callable[[], Awaitable[bool]]) -> Callable[[], Awaitable[bool]]:
    """The same attempt, for which a lock that is taken is one more reason to try again."""

    async def tried() -> bool:
        try:
            return await attempt()
        except RETRYABLE:
            return False

    return tried


async def apply(connection: "asyncpg.Connection[Any]", step: Migration, deadline: float) -> bool:
    """Applies a step; False if it was there already. Raises migration_busy when the deadline passes first."""
    outcome = Outcome.BUSY

    async def attempt() -> bool:
        nonlocal outcome
        with tracing.root(f"db.migrate {step.name}"):
            outcome = await guarded(step.name, _once(connection, step))
        return outcome is not Outcome.BUSY

    await poll(_patient(attempt), deadline, f"{step.name} waits for a lock on a table that somebody uses.")
    return outcome is Outcome.APPLIED


async def _once(connection: "asyncpg.Connection[Any]", step: Migration) -> Outcome:
    async with connection.transaction():
        await connection.execute(_LIMITS)
        if not await _locked(connection):
            return Outcome.BUSY
        if await steps.state_of(connection, step.name) is not None:
            return Outcome.ALREADY
        await _run(connection, step)
        await steps.insert_done(connection, step)
    return Outcome.APPLIED


async def _run(connection: "asyncpg.Connection[Any]", step: Migration) -> None:
    before = await connection.fetchval("SELECT pg_current_xact_id()::text")
    await connection.execute(step.sql)
    # A file that ends its transaction and opens another is found out by the transaction's number.
    if (
        not connection.is_in_transaction()
        or await connection.fetchval("SELECT pg_current_xact_id()::text") != before
    ):
        raise FinFlowError("migration_failed", f"{step.name}.sql ends its transaction itself.")


@asynccontextmanager
async def rehearsal(connection: "asyncpg.Connection[Any]") -> AsyncIterator[None]:
    """A transaction around a dry run; everything in it is taken back at the end."""
    try:
        async with connection.transaction():
            yield
            raise _RolledBack
    except _RolledBack:
        return


async def guarded(name: str, work: Awaitable[T], passing: tuple[type[Exception], ...] = RETRYABLE) -> T:
    """Awaits the work of a step; what the server says against it becomes an error of the catalogue."""
    try:
        return await interruptible(work)
    except passing:
        raise
    except asyncpg.DiskFullError as error:
        raise FinFlowError("database_full", f"{name}: {error}") from error
    except asyncpg.PostgresConnectionError:
        raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        gone = getattr(error, "sqlstate", "")[:3] == "57P" or "closed" in str(error)
        if gone and not isinstance(error, asyncpg.DataError):
            # The server is going down, or an operator ended this session: nothing is wrong with the step.
            raise FinFlowError("database_unreachable", f"{name}: {error}") from error
        raise FinFlowError("migration_failed", f"{name}: {error}") from error


async def interruptible(work: Awaitable[T]) -> T:
    """Awaits what the server is asked. Where this task is cancelled meanwhile, that is what becomes of it.

    The driver asks the server to cancel the statement under way. That request may come late and hit the next
    one, the ROLLBACK, whose error then stands where the cancellation was.
    """
    try:
        return await work
    except asyncpg.QueryCanceledError as error:
        if is_cancelled():
            raise asyncio.CancelledError from error
        raise


async def poll(attempt: Callable[[], Awaitable[bool]], deadline: float, waiting_for: str) -> None:
    """Repeats the attempt with growing, jittered pauses until it answers True or the deadline passes."""
    pause_s = _POLL_S
    while not await attempt():
        if monotonic() >= deadline:
            raise FinFlowError("migration_busy", waiting_for)
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 - it spreads the pollers out; nothing secret hangs on it
        await asyncio.sleep(pause_s * jitter)
        pause_s = min(pause_s * 2, _POLL_MAX_S)
