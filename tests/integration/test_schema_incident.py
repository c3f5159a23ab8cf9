"""The incident that the phases are for: a data migration run again by every instance that starts."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from finflow.db.lint.service import lint
from finflow.db.steps import is_prepared
from oracles.changes import finished, start, write

ROWS = 4_700
_COPY = "INSERT INTO customers (legacy_no, name) SELECT no, name FROM legacy_customers"
_BEFORE = """
CREATE TABLE legacy_customers (no int PRIMARY KEY, name text NOT NULL);
INSERT INTO legacy_customers SELECT n, 'customer ' || n FROM generate_series(1, 4700) n;
CREATE TABLE customers (no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, legacy_no int, name text)"""
_KEYED = f"-- finflow: table=legacy_customers key=no batch=100\n{_COPY} WHERE no BETWEEN $1 AND $2;"


@pytest.fixture
async def connection(database_url_empty: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url_empty, server_settings={"application_name": "test"})
    await connection.execute(_BEFORE)
    yield connection
    await connection.close()


async def _counts(connection: Any) -> tuple[int, int]:
    row = await connection.fetchrow("SELECT count(*), count(DISTINCT legacy_no) FROM customers")
    return row[0], row[1]


async def test_check_then_apply_by_three_instances_gives_every_row_three_times(
    connection: Any, database_url_empty: str
) -> None:
    await connection.execute("CREATE TABLE applied (name text)")
    checked = asyncio.Barrier(3)

    async def instance() -> None:
        own = await asyncpg.connect(database_url_empty)
        seen = await own.fetchval("SELECT EXISTS (SELECT FROM applied WHERE name = 'copy')")
        await checked.wait()
        if not seen:
            await own.execute(_COPY)
            await own.execute("INSERT INTO applied VALUES ('copy')")
        await own.close()

    await asyncio.gather(*(instance() for _ in range(3)))
    assert await _counts(connection) == (14_100, ROWS)


def test_the_linter_finds_the_incident(tmp_path: Path) -> None:
    write(tmp_path, {"0001_copy.expand": f"{_COPY};", "0002_keyed.backfill": _KEYED})
    found = {(Path(each.file).name, each.rule) for each in lint([tmp_path]).findings}
    assert ("0001_copy.expand.sql", "unkeyed-insert") in found
    assert not any(file == "0002_keyed.backfill.sql" and rule == "unkeyed-insert" for file, rule in found)


@pytest.mark.parametrize("verb", ["expand", "backfill"])
async def test_five_instances_and_a_kill_give_every_row_once(
    verb: str, tmp_path: Path, connection: Any, database_url_empty: str
) -> None:
    slowly = f"{_COPY}; SELECT pg_sleep(0.4);" if verb == "expand" else _KEYED
    folder = write(tmp_path / "change", {f"0001_copy.{verb}": slowly})
    instances = [await start(database_url_empty, folder, verb) for _ in range(5)]
    victim = await _at_work(connection, verb, instances)
    os.kill(victim.pid, signal.SIGKILL)
    assert await victim.wait() == -signal.SIGKILL
    before, _ = await _counts(connection)
    assert before < ROWS, "it was killed in the middle"
    done = [await finished(each) for each in instances if each is not victim]
    assert sum(len(names) for names in done) == 1
    assert await _counts(connection) == (ROWS, ROWS)
    assert await connection.fetchval("SELECT count(*) FROM schema_migrations WHERE state = 'done'") == 1


async def _at_work(
    connection: Any, verb: str, instances: list[asyncio.subprocess.Process]
) -> asyncio.subprocess.Process:
    """The instance that is in the middle of the work, found by what the database says of it."""
    while True:
        pid = await (_sleeper(connection) if verb == "expand" else _holder(connection))
        for each in instances:
            if each.pid == pid:
                return each
        await asyncio.sleep(0.005)


async def _sleeper(connection: Any) -> int | None:
    """The process whose session sleeps in the step; sessions bear their process's number as a name."""
    name = await connection.fetchval(
        "SELECT application_name FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        " AND application_name LIKE 'finflow db %' AND datname = current_database()"
    )
    return int(name.split()[-1]) if name else None


async def _holder(connection: Any) -> int | None:
    """The process that holds the backfill's lease: the holder's name has the number."""
    if not await is_prepared(connection):
        return None
    holder = await connection.fetchval("SELECT holder FROM schema_migrations WHERE progress IS NOT NULL")
    return int(holder.split(":")[1]) if holder else None
