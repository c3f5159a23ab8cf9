"""Brings the schema up to date when a program starts: what only adds is applied, once, whoever starts first.

Expand steps are applied here, in the order of their numbers. Backfills, verification and contracts are for
`finflow db` and the rollout; only a database that is new has them all at once, because no other release uses
it. How a step is applied stands in apply.py and indexes.py, what the ledger remembers in steps.py.
"""

from pathlib import Path
from time import monotonic
from typing import Any, Final

import asyncpg

from finflow.db import phases, steps
from finflow.db.apply import LOCK_KEY, apply, prepare_ledger, rehearsal
from finflow.db.backfill import Backfill
from finflow.db.indexes import LEASE_S, ConcurrentStep
from finflow.db.phases import Migration, Phase
from finflow.db.pool import CONNECT_ERRORS, connect, unreachable
from finflow.db.verifying import raise_unless_held, verify

__all__ = ["DEADLINE_S", "LOCK_KEY", "PACKAGED", "Migration", "apply_step", "load", "migrate"]

PACKAGED: Final = Path(__file__).parent / "migrations"
DEADLINE_S: Final = 120.0

_HAS_NO_TABLES: Final = """
SELECT NOT EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'f') AND c.relname <> 'schema_migrations'
       AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema')"""


def load(folder: Path = PACKAGED) -> list[Migration]:
    """The steps of a folder in the order in which a new database gets them."""
    return phases.load(folder)


async def migrate(
    target: "str | asyncpg.Connection[Any]", folder: Path = PACKAGED, deadline_s: float = DEADLINE_S
) -> list[str]:
    """Applies what is missing and returns the names of what it applied, in order.

    Raises migration_changed, migration_failed, migration_busy (the lock or a table stayed taken for
    `deadline_s` seconds), database_full or database_unreachable.
    """
    found = load(folder)
    if not isinstance(target, str):
        return await _migrate(target, found, monotonic() + deadline_s)
    connection = await connect(
        target, application_name="finflow migrate", command_timeout_s=None, statement_cache_size=0
    )
    try:
        return await _migrate(connection, found, monotonic() + deadline_s)
    except CONNECT_ERRORS as error:
        raise unreachable(target, error) from error
    finally:
        await connection.close(timeout=5)


async def _migrate(
    connection: "asyncpg.Connection[Any]", found: list[Migration], deadline: float
) -> list[str]:
    await prepare_ledger(connection, deadline)
    ledger = await steps.applied(connection)
    steps.check_unchanged(found, ledger)
    async with connection.transaction():
        new = not ledger and await connection.fetchval(_HAS_NO_TABLES)
    return [
        step.name
        for step in found
        if (new or step.phase is Phase.EXPAND) and await _missing(connection, step, ledger, deadline)
    ]


async def _missing(
    connection: "asyncpg.Connection[Any]",
    step: Migration,
    ledger: dict[str, steps.Applied],
    deadline: float,
) -> bool:
    row = ledger.get(step.name)
    return (row is None or row.state != steps.DONE) and await apply_step(connection, step, deadline)


async def apply_step(
    connection: "asyncpg.Connection[Any]", step: Migration, deadline: float, lease_s: float = LEASE_S
) -> bool:
    """Applies a step of whichever phase, at full speed; False if it was done already."""
    if step.phase is Phase.BACKFILL:
        return await Backfill(connection, step).run()
    if step.phase is Phase.VERIFY:
        raise_unless_held(await verify(connection, step))
        return True
    if step.concurrent:
        return await ConcurrentStep(connection, step, lease_s).apply(deadline)
    return await apply(connection, step, deadline)


async def rehearse(
    connection: "asyncpg.Connection[Any]", found: list[Migration], deadline: float
) -> list[str]:
    """The same steps in one transaction that is rolled back; what needs no transaction is left out."""
    inside = [step for step in found if not step.concurrent]
    async with rehearsal(connection):
        if not await steps.is_prepared(connection):
            await steps.prepare(connection)
        for step in inside:
            await apply(connection, step, deadline)
    return [step.name for step in inside]
