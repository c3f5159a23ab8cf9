"""Steps that PostgreSQL runs outside of transactions only: indexes built, dropped and rebuilt concurrently.

Such a step has a row from its beginning. A process killed in between leaves a row that has begun, and either
an index that the server goes on building, or one that is not valid: the next process waits for the first and
drops the second. Two that build at once cost time and nothing else; the lease keeps it from being the rule.

CREATE INDEX CONCURRENTLY waits for every older transaction. It blocks no reader and no writer meanwhile, so
it has no lock_timeout; DROP INDEX CONCURRENTLY of a remnant has one.
"""

import os
import re
import socket
import uuid
from typing import Any, Final

import asyncpg

from finflow.db import steps
from finflow.db.apply import LOCK_TIMEOUT_MS, RETRYABLE, guarded, poll
from finflow.db.phases import Migration, is_concurrent
from finflow.db.sql_text import statements
from finflow.kernel.errors import FinFlowError
from finflow.telemetry import tracing

LEASE_S: Final = 5.0

_PART = r'(?:"(?:[^"]|"")+"|[A-Za-z_\x80-\U0010ffff][\w$]*)'
_CREATE: Final = re.compile(
    rf"create\s+(?:unique\s+)?index\s+concurrently\s+(?:if\s+not\s+exists\s+)?(?P<index>{_PART})\s+"
    rf"on\s+(?:only\s+)?(?P<table>(?:{_PART}\s*\.\s*)?{_PART})",
    re.IGNORECASE,
)
_DROP: Final = re.compile(
    rf"drop\s+index\s+concurrently\s+(?:if\s+exists\s+)?(?P<index>(?:{_PART}\s*\.\s*)?{_PART})\s*(?:cascade|restrict)?$",
    re.IGNORECASE,
)
_REINDEX: Final = re.compile(r"reindex\s", re.IGNORECASE)

# The index by this name in the table's schema: whether it is there, whole, and whether somebody builds it.
_STATE = """
SELECT i.indisvalid AND i.indisready AS valid, i.indexrelid::regclass::text AS name,
       EXISTS (SELECT FROM pg_stat_progress_create_index p
                WHERE p.datname = current_database() AND p.relid = t.oid) AS building
  FROM pg_class t
  LEFT JOIN pg_class c ON c.relnamespace = t.relnamespace AND c.relkind IN ('i', 'I') AND c.relname = $2
  LEFT JOIN pg_index i ON i.indexrelid = c.oid AND i.indrelid = t.oid
 WHERE t.oid = to_regclass($1)"""
_NO_LIMITS: Final = "SET lock_timeout = 0; SET statement_timeout = 0"
_LIMITS: Final = f"SET lock_timeout = '{LOCK_TIMEOUT_MS}ms'; SET statement_timeout = 0"
_AS_IT_WAS: Final = "RESET lock_timeout; RESET statement_timeout"


class _Parts:
    """One statement of a concurrent file: what it makes or drops."""

    def __init__(self, name: str, text: str) -> None:
        self.text = text
        self.create = _CREATE.match(text)
        self.drop = _DROP.match(text)
        if not (self.create or self.drop or _REINDEX.match(text)):
            raise FinFlowError("concurrent_not_alone", f"{name}.sql: {' '.join(text.split())[:80]}")


def parts_of(step: Migration) -> list[_Parts]:
    """The statements of a concurrent file. Raises concurrent_not_alone."""
    found = statements(step.sql)
    for each in found:
        if not is_concurrent(each):
            raise FinFlowError("concurrent_not_alone", f"{step.name}.sql: {' '.join(each.text.split())[:80]}")
    return [_Parts(step.name, each.text) for each in found]


def new_holder() -> str:
    """Who holds a lease: this process, by a name that nobody else has."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"


class ConcurrentStep:
    """A step of concurrent statements, applied or taken up where a killed process left it."""

    def __init__(
        self, connection: "asyncpg.Connection[Any]", step: Migration, lease_s: float = LEASE_S
    ) -> None:
        self._connection = connection
        self._step = step
        self._parts = parts_of(step)
        self._holder = new_holder()
        self._lease_s = lease_s

    async def apply(self, deadline: float) -> bool:
        """Applies it; False if it was done already. The deadline bounds waiting for others, not the work."""
        async with self._connection.transaction():
            await steps.begin(self._connection, self._step)
        waiting = f"{self._step.name} is being applied by another process."
        with tracing.root(f"db.migrate {self._step.name}"):
            await poll(self._claimed_or_done, deadline, waiting)
            if await steps.state_of(self._connection, self._step.name) == steps.DONE:
                return False
            for part in self._parts:
                await self._settle(part, deadline)
            async with self._connection.transaction():
                await steps.finish(self._connection, self._step.name)
        return True

    async def _claimed_or_done(self) -> bool:
        return await self._claim() or (await steps.state_of(self._connection, self._step.name) == steps.DONE)

    async def _claim(self) -> bool:
        async with self._connection.transaction():
            return await steps.claim(self._connection, self._step.name, self._holder, self._lease_s)

    async def _settle(self, part: _Parts, deadline: float) -> None:
        """Repeats until the statement's effect is there, waiting only while somebody else works on it."""
        waiting = f"{self._step.name} waits for an index that another session builds or uses."
        await poll(lambda: self._try(part), deadline, waiting)

    async def _try(self, part: _Parts) -> bool:
        await self._claim()
        try:
            if part.create:
                return await self._create(part.create["table"], _plain(part.create["index"]), part.text)
            if part.drop:
                return await self._drop(part.drop["index"])
            await self._execute(_NO_LIMITS, part.text)
        except (*RETRYABLE, asyncpg.DuplicateTableError):
            return False
        return True

    async def _create(self, table: str, index: str, text: str) -> bool:
        row = await self._look(table, index)
        if row is None or row["building"]:
            return await self._missing_table(table) if row is None else False
        if row["valid"]:
            return True
        if row["name"] is not None:
            await self._execute(_LIMITS, f"DROP INDEX CONCURRENTLY IF EXISTS {row['name']}")
        await self._execute(_NO_LIMITS, text)
        return True

    async def _missing_table(self, table: str) -> bool:
        raise FinFlowError("migration_failed", f"{self._step.name}: there is no table {table}.")

    async def _drop(self, index: str) -> bool:
        async with self._connection.transaction():
            there = await self._connection.fetchval("SELECT to_regclass($1) IS NOT NULL", index)
        if there:
            await self._execute(_LIMITS, f"DROP INDEX CONCURRENTLY IF EXISTS {index}")
        return True

    async def _look(self, table: str, index: str) -> Any:
        async with self._connection.transaction():
            return await self._connection.fetchrow(_STATE, table, index)

    async def _execute(self, limits: str, text: str) -> None:
        try:
            await self._connection.execute(limits)
            work = self._connection.execute(text, timeout=None)
            # Somebody may have built the same index a moment earlier: whether it is whole is looked at again.
            await guarded(self._step.name, work, (*RETRYABLE, asyncpg.DuplicateTableError))
        finally:
            if not self._connection.is_closed():
                await self._connection.execute(_AS_IT_WAS)


def _plain(identifier: str) -> str:
    """The name that the catalogue has for an identifier as it is written."""
    if identifier.startswith('"'):
        return identifier[1:-1].replace('""', '"')
    return identifier.lower()
