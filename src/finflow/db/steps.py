"""The ledger of steps, table `schema_migrations`: what was applied, what has begun and how far it has come.

A step that runs in one transaction is `done` or not there: its row commits with it. A backfill and an index
that is built concurrently have a row from their beginning, so whoever comes after a kill knows what it finds.
Who works on such a row holds it by a lease, not by a lock of the session: leases work behind poolers. For the
same reason every question here has a transaction around it: a transaction pooler may give each statement
outside of one to another session.
"""

from datetime import datetime
from typing import Any, Final

import asyncpg
import msgspec

from finflow.db.phases import Migration, Phase
from finflow.kernel.errors import FinFlowError

BEGUN: Final = "begun"
PAUSED: Final = "paused"
DONE: Final = "done"

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name text PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)"""
# Releases before the phases wrote three columns and go on doing so: what they write is done.
_COLUMNS = """
ALTER TABLE schema_migrations
    ADD COLUMN IF NOT EXISTS state text NOT NULL DEFAULT 'done',
    ADD COLUMN IF NOT EXISTS progress jsonb,
    ADD COLUMN IF NOT EXISTS holder text,
    ADD COLUMN IF NOT EXISTS lease_until timestamptz"""
# Asked first, because even an ALTER that has nothing to do locks out every reader.
_IS_PREPARED = """
SELECT count(*) = 4 FROM pg_attribute
 WHERE attrelid = to_regclass('schema_migrations') AND NOT attisdropped
   AND attname IN ('state', 'progress', 'holder', 'lease_until')"""
_HAS_TABLE = "SELECT to_regclass('schema_migrations') IS NOT NULL"


class Applied(msgspec.Struct, frozen=True):
    """One row of the ledger."""

    name: str
    checksum: str
    state: str
    applied_at: datetime
    progress: dict[str, Any]
    holder: str | None
    lease_until: datetime | None


async def is_prepared(connection: "asyncpg.Connection[Any]") -> bool:
    """Whether the ledger is there with all its columns."""
    async with connection.transaction():
        return bool(await connection.fetchval(_IS_PREPARED))


async def prepare(connection: "asyncpg.Connection[Any]") -> None:
    """Makes the ledger, or adds what releases before the phases did not know. Call it under the lock."""
    await connection.execute(_TABLE)
    await connection.execute(_COLUMNS)


async def applied(connection: "asyncpg.Connection[Any]") -> dict[str, Applied]:
    """The ledger as it is, read without changing it, also where it is an old one or none."""
    async with connection.transaction():
        if not await connection.fetchval(_HAS_TABLE):
            return {}
        rows = await connection.fetch("SELECT to_jsonb(s)::text AS row FROM schema_migrations s")
    found = (msgspec.json.decode(row["row"]) for row in rows)
    return {row["name"]: _applied(row) for row in found}


def _applied(row: dict[str, Any]) -> Applied:
    moments = {
        name: datetime.fromisoformat(row[name]) if row.get(name) else None
        for name in ("applied_at", "lease_until")
    }
    at = moments["applied_at"]
    assert at is not None, "the column is not null"
    return Applied(
        row["name"], row["checksum"], row.get("state", DONE), at, row.get("progress") or {},
        row.get("holder"), moments["lease_until"],
    )  # fmt: skip


def check_unchanged(steps: list[Migration], ledger: dict[str, Applied]) -> None:
    """Raises migration_changed if a file is not the one that was applied, or has begun.

    A verify file may change until the contract: it changes nothing itself, and is asked anew then.
    """
    for step in steps:
        row = ledger.get(step.name)
        if row is not None and step.phase is not Phase.VERIFY and row.checksum != step.checksum:
            raise FinFlowError("migration_changed", f"{step.name}.sql is not the file that was applied.")


def is_done(step: Migration, ledger: dict[str, Applied]) -> bool:
    """Whether the step, as its file is now, is done."""
    row = ledger.get(step.name)
    return row is not None and row.state == DONE and row.checksum == step.checksum


async def insert_done(connection: "asyncpg.Connection[Any]", step: Migration) -> None:
    """The row of a step that commits together with it."""
    await connection.execute(
        "INSERT INTO schema_migrations (name, checksum) VALUES ($1, $2)", step.name, step.checksum
    )


async def begin(connection: "asyncpg.Connection[Any]", step: Migration) -> None:
    """The row of a step that takes many transactions. A second begin changes nothing."""
    await connection.execute(
        "INSERT INTO schema_migrations (name, checksum, state) VALUES ($1, $2, 'begun')"
        " ON CONFLICT (name) DO NOTHING",
        step.name,
        step.checksum,
    )


async def claim(connection: "asyncpg.Connection[Any]", name: str, holder: str, lease_s: float) -> bool:
    """Takes or renews the lease on a step that has begun; False while somebody else has it, or it is done."""
    claimed = await connection.fetchval(
        "UPDATE schema_migrations SET holder = $2, lease_until = clock_timestamp() + $3 * interval '1 s'"
        " WHERE name = $1 AND state = 'begun'"
        "   AND (holder IS NULL OR holder = $2 OR lease_until < clock_timestamp()) RETURNING true",
        name,
        holder,
        lease_s,
    )
    return bool(claimed)


async def state_of(connection: "asyncpg.Connection[Any]", name: str) -> str | None:
    """begun, paused or done; None for a step that nobody has begun."""
    async with connection.transaction():
        state: str | None = await connection.fetchval(
            "SELECT state FROM schema_migrations WHERE name = $1", name
        )
    return state


async def finish(connection: "asyncpg.Connection[Any]", name: str) -> None:
    """The step is done; nobody holds it any more."""
    await connection.execute(
        "UPDATE schema_migrations SET state = 'done', applied_at = clock_timestamp(), holder = NULL,"
        " lease_until = NULL WHERE name = $1 AND state = 'begun'",
        name,
    )


async def release(connection: "asyncpg.Connection[Any]", name: str, holder: str) -> None:
    """Gives a lease back before it ends, so that the next one need not wait."""
    await connection.execute(
        "UPDATE schema_migrations SET holder = NULL, lease_until = NULL WHERE name = $1 AND holder = $2",
        name,
        holder,
    )


async def set_paused(connection: "asyncpg.Connection[Any]", name: str, paused: bool) -> bool:
    """Stops a backfill that has begun, or lets it go on, whoever runs it; False if that changed nothing."""
    old, new = (BEGUN, PAUSED) if paused else (PAUSED, BEGUN)
    async with connection.transaction():
        changed = await connection.fetchval(
            "UPDATE schema_migrations SET state = $3 WHERE name = $1 AND state = $2 RETURNING true",
            name,
            old,
            new,
        )
    return bool(changed)


async def adopt(connection: "asyncpg.Connection[Any]", step: Migration) -> None:
    """Takes the file as it is now for what an unfinished step goes on with."""
    await connection.execute(
        "UPDATE schema_migrations SET checksum = $2 WHERE name = $1 AND state <> 'done'",
        step.name,
        step.checksum,
    )
