"""Changes that are killed with -9 in every phase, and taken up: the same schema, each row once."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from finflow.db.change import SchemaChange
from finflow.db.contracting import Permit
from finflow.db.steps import is_prepared
from oracles.changes import finished, shape, start, write

ROWS = 12_000
_TABLE = """
CREATE TABLE people (region int, no bigint, first text NOT NULL, hits int NOT NULL DEFAULT 0,
                     PRIMARY KEY (region, no));
INSERT INTO people SELECT n % 7, n, 'f' || n FROM generate_series(1, 12000) n"""
_BUILDS = (
    "SELECT count(*) FROM pg_stat_progress_create_index"
    " WHERE datname = current_database() AND command LIKE '%CONCURRENTLY'"
)
# The backfill counts: a batch that ran twice shows.
_FILES = {
    "0001_hits.expand": "ALTER TABLE people ADD COLUMN full_name text; SELECT pg_sleep(0.05);",
    "0001_hits.backfill": (
        "-- finflow: table=people key=(region, no) batch=250\n"
        "UPDATE people SET hits = hits + 1, full_name = first\n"
        " WHERE (region, no) >= ($1, $2) AND (region, no) <= ($3, $4);"
    ),
    "0001_hits.verify": "SELECT no FROM people WHERE hits <> 1 OR full_name IS DISTINCT FROM first;",
    "0001_hits.contract": "ALTER TABLE people DROP COLUMN first; SELECT pg_sleep(0.3);",
    "0002_more.expand": "CREATE TABLE more (no int PRIMARY KEY); SELECT pg_sleep(0.05);",
    "0003_index.expand": "CREATE INDEX CONCURRENTLY people_by_name ON people (full_name);",
}


@pytest.fixture
async def connection(database_url_empty: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url_empty, server_settings={"application_name": "test"})
    await connection.execute(_TABLE)
    yield connection
    await connection.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "change", _FILES)


async def _kill(process: asyncio.subprocess.Process) -> None:
    # It may end by itself at this very moment.
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def _rows_done(connection: Any) -> int:
    if not await is_prepared(connection):
        return 0
    sql = "SELECT (progress->>'rows')::int FROM schema_migrations WHERE name = '0001_hits.backfill'"
    return await connection.fetchval(sql) or 0


async def test_every_phase_killed_at_random_ends_as_if_it_had_not_been(
    folder: Path, connection: Any, database_url_empty: str
) -> None:
    dice = random.Random(20)  # noqa: S311 - a seeded choice of moments
    for verb in ("expand", "backfill", "verify"):
        for _ in range(3):
            process = await start(database_url_empty, folder, verb)
            await asyncio.sleep(dice.uniform(0.3, 0.7))
            await _kill(process)
    change = SchemaChange(database_url_empty, folder, lease_s=0.5)
    await change.expand()
    await change.backfill()
    assert all(each.held for each in await change.verify())
    process = await start(database_url_empty, folder, "contract")
    await _until(connection, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    await _kill(process)
    assert await connection.fetchval("SELECT count(*) FROM pg_attribute WHERE attname = 'first'") == 1
    assert await finished(await start(database_url_empty, folder, "contract")) == ["0001_hits.contract"]
    assert await connection.fetchval("SELECT min(hits) = 1 AND max(hits) = 1 FROM people")
    assert await shape(connection) == await _uninterrupted(folder, connection)


async def _until(connection: Any, question: str) -> None:
    while not await connection.fetchval(question):
        await asyncio.sleep(0.01)


async def _uninterrupted(folder: Path, connection: Any) -> list[str]:
    """The same files by plain statements, one after another, on a fresh schema of the same database."""
    await connection.execute("DROP TABLE people, more, schema_migrations")
    await connection.execute(_TABLE)
    await connection.execute(_FILES["0001_hits.expand"])
    await connection.execute("UPDATE people SET hits = hits + 1, full_name = first")
    await connection.execute(_FILES["0002_more.expand"])
    await connection.execute(_FILES["0003_index.expand"])
    await connection.execute(_FILES["0001_hits.contract"])
    change = SchemaChange(await _url(connection), write(folder.parent / "none", {}))
    await change.expand()
    return await shape(connection)


async def _url(connection: Any) -> str:
    row = await connection.fetchrow(
        "SELECT current_database() AS d, current_setting('unix_socket_directories') AS f"
    )
    return f"postgresql://{await connection.fetchval('SELECT current_user')}@/{row['d']}?host={row['f']}"


async def test_a_backfill_killed_between_and_within_batches_does_each_row_once(
    folder: Path, connection: Any, database_url_empty: str
) -> None:
    await SchemaChange(database_url_empty, folder).expand()
    dice = random.Random(7)  # noqa: S311 - a seeded choice of moments
    seen = 0
    for _ in range(4):
        pair = [await start(database_url_empty, folder, "backfill") for _ in range(2)]
        while await _rows_done(connection) <= seen:
            await asyncio.sleep(0.005)
        await asyncio.sleep(dice.uniform(0, 0.03))
        for process in pair:
            await _kill(process)
        seen = await _rows_done(connection)
    assert 0 < seen < ROWS, "it was killed in the middle every time"
    touched = await connection.fetchval("SELECT count(*) FROM people WHERE hits > 0")
    assert touched == seen, "the progress is what was done, no row more or less"
    assert await finished(await start(database_url_empty, folder, "backfill")) == ["0001_hits.backfill"]
    row = await connection.fetchrow("SELECT min(hits), max(hits), count(*) FROM people")
    assert tuple(row) == (1, 1, ROWS)


@pytest.mark.parametrize("server_goes_on", [False, True])
async def test_an_index_whose_builder_was_killed_is_built_once_more_or_waited_for(
    server_goes_on: bool, folder: Path, connection: Any, database_url_empty: str
) -> None:
    reader = await asyncpg.connect(database_url_empty)
    await reader.execute("BEGIN; SELECT 1 FROM people LIMIT 1; LOCK TABLE people IN ROW EXCLUSIVE MODE")
    only = write(
        folder.parent / "only",
        {"0003_index.expand": _FILES["0003_index.expand"].replace("full_name", "first")},
    )
    builder = await start(database_url_empty, only, "expand")
    await _until(connection, _BUILDS)
    await _kill(builder)
    begun = await connection.fetchrow("SELECT state, checksum FROM schema_migrations")
    assert begun["state"] == "begun", "the row says that it was in the middle"
    if not server_goes_on:
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index")
        await _until(connection, f"SELECT ({_BUILDS}) = 0")
    first = await connection.fetchrow(
        "SELECT indexrelid, indisvalid FROM pg_index WHERE indrelid = 'people'::regclass AND NOT indisprimary"
    )
    assert not first["indisvalid"]
    heir = await start(database_url_empty, only, "expand")
    await reader.execute("COMMIT")
    assert await finished(heir) == ["0003_index.expand"]
    rows = await connection.fetch(
        "SELECT indexrelid, indisvalid FROM pg_index WHERE indrelid = 'people'::regclass AND NOT indisprimary"
    )
    assert [row["indisvalid"] for row in rows] == [True]
    assert (rows[0]["indexrelid"] == first["indexrelid"]) is server_goes_on
    assert await connection.fetchval("SELECT state FROM schema_migrations") == "done"
    await reader.close()


async def test_two_that_build_the_same_index_leave_one(
    folder: Path, connection: Any, database_url_empty: str
) -> None:
    processes = [await start(database_url_empty, folder, "expand") for _ in range(3)]
    names = [name for each in processes for name in await finished(each)]
    assert sorted(names) == ["0001_hits.expand", "0002_more.expand", "0003_index.expand"]
    assert await connection.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0


async def test_a_contract_after_all_of_it_needs_no_second_try(
    folder: Path, connection: Any, database_url_empty: str
) -> None:
    change = SchemaChange(database_url_empty, folder)
    permit = Permit(at_full=True, ignored=("test",))
    assert len(await change.expand()) == 3
    assert await change.backfill() == ["0001_hits.backfill"]
    await change.verify()
    assert await change.contract(permit) == ["0001_hits.contract"]
    assert await change.contract(permit) == []
