"""Database checks: reads in a read-only transaction, writes in one that is rolled back."""

import datetime as dt
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from finflow.db.pool import connect
from finflow.kernel.errors import FinFlowError
from finflow.verification.model import Failed, Unanswered, difference
from finflow.verification.scene import Scene
from finflow.verification.spec import SqlCheck, SqlReading

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any]


async def look(check: SqlCheck, scene: Scene) -> str:
    """Run the statements. Raises Failed."""
    async with _transaction(check.database, scene, check.timeout_s, check.writes) as connection:
        rows: Sequence[Any] = []
        for number, statement in enumerate(check.statements, 1):
            last = number == len(check.statements)
            rows, touched = await _run(connection, statement, check.arguments if last else [])
            if check.writes and not touched:
                raise Failed(f"statement {number} touched no row")
        _compare(check, rows)
    count = len(check.statements)
    how = "written and rolled back" if check.writes else "read"
    return f"{count} statement{'s' if count > 1 else ''} {how}"


async def number(reading: SqlReading, scene: Scene, timeout_s: float) -> float:
    """The one number that a statement answers. Raises Failed."""
    async with _transaction(reading.database, scene, timeout_s, writes=False) as connection:
        rows, _ = await _run(connection, reading.statement, reading.arguments)
    value: Any = rows[0][0] if rows else None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise Failed(f"the statement answers {value!r}, not a number") from error


@asynccontextmanager
async def _transaction(
    name: str, scene: Scene, timeout_s: float, writes: bool
) -> "AsyncIterator[Connection]":
    """A transaction that ends in a rollback, whatever happens. The driver's errors become Failed."""
    url = scene.secret(name)
    connection: Connection | None = None
    try:
        connection = await connect(
            url, application_name="finflow verify", connect_timeout_s=timeout_s, command_timeout_s=timeout_s
        )
        transaction = connection.transaction(readonly=not writes)
        await transaction.start()
        # What waits for a lock that live traffic holds gives up before traffic waits behind it.
        await connection.execute("set local lock_timeout = '2s'")
        yield connection
        await transaction.rollback()
    except FinFlowError as error:
        raise Unanswered(error.detail) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        raise Failed(str(error) or type(error).__name__) from error
    finally:
        if connection is not None:
            connection.terminate()


async def _run(connection: "Connection", statement: str, given: Sequence[Any]) -> tuple[Sequence[Any], int]:
    """The rows, and how many rows were touched."""
    prepared = await connection.prepare(statement)
    rows = await prepared.fetch(*_typed(prepared.get_parameters(), given))
    counted = re.search(r"(\d+)$", prepared.get_statusmsg() or "")
    return rows, int(counted[1]) if counted else 0


def _typed(parameters: Sequence[Any], given: Sequence[Any]) -> list[Any]:
    """Arguments as the driver wants them: texts from variables become numbers where those are asked."""
    if len(parameters) != len(given):
        raise Failed(f"the statement takes {len(parameters)} arguments, and has {len(given)}")
    return [_as(parameter.name, value) for parameter, value in zip(parameters, given, strict=True)]


def _as(type_name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return str(value) if type_name in ("text", "varchar") and value is not None else value
    if type_name in ("int2", "int4", "int8"):
        return int(value)
    if type_name in ("float4", "float8"):
        return float(value)
    return dt.datetime.fromisoformat(value) if type_name == "timestamptz" else value


def _compare(check: SqlCheck, rows: Sequence[Any]) -> None:
    expect = check.expect
    if expect.rows is not None and len(rows) != expect.rows:
        raise Failed(f"{len(rows)} rows, not {expect.rows}")
    if expect.rows_min is not None and len(rows) < expect.rows_min:
        raise Failed(f"{len(rows)} rows, not at least {expect.rows_min}")
    if expect.first:
        found = dict(rows[0]) if rows else {}
        if words := difference(expect.first, found):
            raise Failed(f"the first row: {words}")
