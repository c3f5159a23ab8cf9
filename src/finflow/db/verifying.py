"""Verify files: queries that say whether a backfill is whole, asked on one snapshot that nobody can write on.

A query holds when it returns no rows. One that says `-- finflow: equal` before it holds when it returns one
row in which all columns are equal, and not null: counts and checksums of two sides.
"""

from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import msgspec

from finflow.db.apply import guarded
from finflow.db.phases import Migration, wants_equal
from finflow.db.sql_text import Statement, place, statements
from finflow.kernel.errors import FinFlowError
from finflow.telemetry import tracing

# So many offending rows are shown; one is enough to say no.
_SHOWN: Final = 5
_LIMITS: Final = "SET LOCAL lock_timeout = '500ms'; SET LOCAL statement_timeout = '15min'"
_RECORD: Final = """
INSERT INTO schema_migrations (name, checksum) VALUES ($1, $2)
    ON CONFLICT (name) DO UPDATE SET applied_at = clock_timestamp(), checksum = excluded.checksum"""


class Finding(msgspec.Struct, frozen=True):
    """What one query of a verify file says: `held`, and where it did not, the first rows that say so."""

    name: str
    line: int
    query: str
    held: bool
    rows: list[list[str | None]]


async def verify(connection: "asyncpg.Connection[Any]", step: Migration) -> list[Finding]:
    """Asks every query of a file; when all hold, the ledger says so. Raises migration_failed."""
    findings = await ask(connection, step)
    if all(finding.held for finding in findings):
        async with connection.transaction():
            await connection.execute(_RECORD, step.name, step.checksum)
    return findings


async def ask(connection: "asyncpg.Connection[Any]", step: Migration) -> list[Finding]:
    """The same, and the ledger hears nothing of it."""
    with tracing.root(f"db.verify {step.name}"):
        return await guarded(step.name, _ask(connection, step), passing=())


async def _ask(connection: "asyncpg.Connection[Any]", step: Migration) -> list[Finding]:
    questions = statements(step.sql)
    if not questions:
        raise FinFlowError("migration_failed", f"{step.name}.sql asks nothing.")
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(_LIMITS)
        return [await _asked(connection, step, each) for each in questions]


async def _asked(connection: "asyncpg.Connection[Any]", step: Migration, each: Statement) -> Finding:
    rows = await connection.fetch(each.text)
    texts = [[None if value is None else str(value) for value in row] for row in rows[:_SHOWN]]
    held = _equal(rows) if wants_equal(each) else not rows
    query = " ".join(each.text.split())[:200]
    line, _ = place(step.sql, each.offset)
    return Finding(step.name, line, query, held, [] if held else texts)


def _equal(rows: Sequence[Sequence[Any]]) -> bool:
    if len(rows) != 1:
        return False
    values = list(rows[0])
    return len(values) > 1 and None not in values and all(value == values[0] for value in values)


def raise_unless_held(findings: Sequence[Finding]) -> None:
    """Raises schema_not_verified with the first query that does not hold."""
    for finding in findings:
        if not finding.held:
            place_of = f"{finding.name}.sql:{finding.line}"
            raise FinFlowError("schema_not_verified", f"{place_of}: {finding.query} gave {finding.rows}.")
