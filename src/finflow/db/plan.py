"""What would be done: which step in which phase, with which locks on which tables, how large those are."""

from typing import Any, Final

import asyncpg
import msgspec

from finflow.db import steps
from finflow.db.lint import locks, tree
from finflow.db.phases import Migration, Phase

_SIZES: Final = """
SELECT n.name, greatest(c.reltuples, 0)::int8 AS rows, pg_total_relation_size(c.oid) AS bytes
  FROM unnest($1::text[]) AS n (name) JOIN pg_class c ON c.oid = to_regclass(n.name)"""


class Locked(msgspec.Struct, frozen=True):
    """One table that a statement locks; its size as the catalogue guesses it, None if it is not there yet."""

    lock: str
    table: str
    rows: int | None
    bytes: int | None
    blocks: str | None


class PlannedStatement(msgspec.Struct, frozen=True):
    """One statement of a step that is to come."""

    line: int
    sql: str
    locks: list[Locked]


class PlannedStep(msgspec.Struct, frozen=True):
    """One step that is to come, or has begun."""

    name: str
    change: str
    phase: Phase
    state: str
    in_transaction: bool
    statements: list[PlannedStatement]


async def plan(connection: "asyncpg.Connection[Any]", found: list[Migration]) -> list[PlannedStep]:
    """The steps that are not done, phase by phase. Raises migration_changed and extra_missing."""
    ledger = await steps.applied(connection)
    steps.check_unchanged(found, ledger)
    order = list(Phase)
    missing = [step for step in found if not steps.is_done(step, ledger)]
    planned = []
    async with connection.transaction():
        for step in sorted(missing, key=lambda each: order.index(each.phase)):
            state = ledger[step.name].state if step.name in ledger else "pending"
            planned.append(await _planned(connection, step, state))
    return planned


async def _planned(connection: "asyncpg.Connection[Any]", step: Migration, state: str) -> PlannedStep:
    file = tree.read(f"{step.name}.sql", step.sql)
    taken = [locks.locks(each) for each in file.parsed]
    names = sorted({table for each in taken for _, table in each})
    sizes = {row["name"]: (row["rows"], row["bytes"]) for row in await connection.fetch(_SIZES, names)}
    planned = []
    for each, found in zip(file.parsed, taken, strict=True):
        tables = [
            Locked(lock, table, *sizes.get(table, (None, None)), locks.BLOCKS.get(lock))
            for lock, table in found
        ]
        line, _ = file.where(each.offset)
        planned.append(PlannedStatement(line, _head(file, each), tables))
    return PlannedStep(step.name, step.change, step.phase, state, not step.concurrent, planned)


def _head(file: tree.SqlFile, each: tree.Parsed) -> str:
    """The beginning of a statement, on one line."""
    following = [one.offset for one in file.parsed if one.offset > each.offset]
    text = file.text[each.offset : following[0] if following else len(file.text)]
    words = " ".join(text.partition(";")[0].split())
    return words if len(words) <= 120 else f"{words[:119]}…"
