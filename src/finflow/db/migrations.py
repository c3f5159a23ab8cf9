"""Brings the schema up to date: SQL files, applied once, in lexical order, whoever starts first.

A file `NNNN_name.sql` and its row in `schema_migrations` commit in one transaction, so a process killed
in the middle leaves nothing behind. Instances that start together queue on an advisory lock which is
polled, not waited for: a waiting pg_advisory_lock() holds a snapshot, and CREATE INDEX CONCURRENTLY of
the holder would wait for that snapshot for ever.
"""

import asyncio
import hashlib
import random
import re
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

import asyncpg
import msgspec

from finflow.db.pool import CONNECT_ERRORS, connect, unreachable
from finflow.kernel.errors import FinFlowError
from finflow.telemetry import tracing

PACKAGED: Final = Path(__file__).parent / "migrations"
DEADLINE_S: Final = 120.0
# The lock's name among the advisory locks of one database: the first 63 bits of a hash of ours.
LOCK_KEY: Final = int.from_bytes(hashlib.sha256(b"finflow.schema_migrations").digest()[:8]) >> 1

_FILE_NAME = re.compile(r"\d{4}_[a-z0-9_]+\.sql")
_POLL_S: Final = 0.05
_POLL_MAX_S: Final = 1.0

_CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name text PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)"""
# A migration that queues behind a long reader makes everybody queue behind itself, so it gives up soon.
_LIMITS = "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '15min'"


class Migration(msgspec.Struct, frozen=True):
    """One file: its name without `.sql`, the SHA-256 of its bytes in hex, its SQL."""

    name: str
    checksum: str
    sql: str


def load(folder: Path = PACKAGED) -> list[Migration]:
    """The migrations of a folder in the order in which they are applied."""
    paths = sorted(path for path in folder.iterdir() if _FILE_NAME.fullmatch(path.name))
    return [_read(path) for path in paths]


def _read(path: Path) -> Migration:
    content = path.read_bytes()
    return Migration(path.stem, hashlib.sha256(content).hexdigest(), content.decode())


async def migrate(
    target: "str | asyncpg.Connection[Any]", folder: Path = PACKAGED, deadline_s: float = DEADLINE_S
) -> list[str]:
    """Applies what is missing and returns the names of what it applied, in order.

    Raises migration_changed, migration_failed, migration_busy (the lock or a table stayed taken for
    `deadline_s` seconds), database_full or database_unreachable.
    """
    if not isinstance(target, str):
        return await _migrate(target, load(folder), monotonic() + deadline_s)
    connection = await connect(target, application_name="finflow migrate", command_timeout_s=None)
    try:
        return await _migrate(connection, load(folder), monotonic() + deadline_s)
    except CONNECT_ERRORS as error:
        raise unreachable(target, error) from error
    finally:
        await connection.close(timeout=5)


async def _migrate(
    connection: "asyncpg.Connection[Any]", migrations: list[Migration], deadline: float
) -> list[str]:
    await _poll(lambda: _try_lock(connection), deadline, "Another process is migrating this database.")
    try:
        await _guarded("schema_migrations", connection.execute(_CREATE_TABLE))
        missing = _missing(migrations, await _applied(connection))
        for migration in missing:
            attempt = partial(_try_apply, connection, migration)
            await _poll(
                attempt, deadline, f"{migration.name} waits for a lock on a table that somebody uses."
            )
        return [migration.name for migration in missing]
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)


def _missing(migrations: list[Migration], applied: dict[str, str]) -> list[Migration]:
    for migration in migrations:
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise FinFlowError("migration_changed", f"{migration.name}.sql is not the file that was applied.")
    return [migration for migration in migrations if migration.name not in applied]


async def _applied(connection: "asyncpg.Connection[Any]") -> dict[str, str]:
    rows = await connection.fetch("SELECT name, checksum FROM schema_migrations")
    return {row["name"]: row["checksum"] for row in rows}


async def _try_lock(connection: "asyncpg.Connection[Any]") -> bool:
    return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY))


async def _try_apply(connection: "asyncpg.Connection[Any]", migration: Migration) -> bool:
    """Applies one file, or answers False if a table it needs is locked."""
    try:
        with tracing.root(f"db.migrate {migration.name}"):
            await _guarded(migration.name, _apply(connection, migration))
    except asyncpg.LockNotAvailableError:
        return False
    return True


async def _apply(connection: "asyncpg.Connection[Any]", migration: Migration) -> None:
    async with connection.transaction():
        await connection.execute(_LIMITS)
        await connection.execute(migration.sql)
        if not connection.is_in_transaction():
            raise FinFlowError("migration_failed", f"{migration.name}.sql ends its transaction itself.")
        await connection.execute(
            "INSERT INTO schema_migrations (name, checksum) VALUES ($1, $2)",
            migration.name,
            migration.checksum,
        )


async def _guarded(name: str, work: Awaitable[object]) -> None:
    try:
        await work
    except asyncpg.LockNotAvailableError:
        raise
    except asyncpg.DiskFullError as error:
        raise FinFlowError("database_full", f"{name}: {error}") from error
    except asyncpg.PostgresConnectionError:
        raise
    except asyncpg.PostgresError as error:
        raise FinFlowError("migration_failed", f"{name}: {error}") from error


async def _poll(attempt: Callable[[], Awaitable[bool]], deadline: float, waiting_for: str) -> None:
    """Repeats the attempt with growing, jittered pauses until it answers True or the deadline passes."""
    pause_s = _POLL_S
    while not await attempt():
        if monotonic() >= deadline:
            raise FinFlowError("migration_busy", waiting_for)
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 - it spreads the pollers out; nothing secret hangs on it
        await asyncio.sleep(pause_s * jitter)
        pause_s = min(pause_s * 2, _POLL_MAX_S)
