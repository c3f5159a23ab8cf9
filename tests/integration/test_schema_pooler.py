"""The phases behind a pooler in transaction mode, which keeps nothing of a session for its client."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from finflow.db.change import SchemaChange
from finflow.db.contracting import Permit
from oracles.changes import finished, start, write
from oracles.pooler import Pooler

_FILES = {
    "0001_hits.expand": "alter table people add column hits int not null default 0;",
    "0001_hits.backfill": (
        "-- finflow: table=people key=no batch=100\n"
        "update people set hits = hits + 1 where no between $1 and $2;"
    ),
    "0001_hits.verify": "select no from people where hits <> 1;",
    "0001_hits.contract": "alter table people drop column first;",
    "0002_index.expand": "create index concurrently people_by_hits on people (hits);",
}


@pytest.fixture
async def pooled(database_url_empty: str, short_folder: Path) -> AsyncIterator[tuple[str, Pooler]]:
    url = urlsplit(database_url_empty)
    server = Path(parse_qs(url.query)["host"][0])
    connection = await asyncpg.connect(database_url_empty)
    await connection.execute(
        "create table people (no int primary key, first text);"
        "insert into people select n, 'f' || n from generate_series(1, 2000) n"
    )
    await connection.close()
    async with Pooler(server, short_folder / "pooler") as pooler:
        yield f"postgresql://{url.netloc}{url.path}?host={short_folder / 'pooler'}", pooler


async def test_a_session_is_not_kept(pooled: tuple[str, Pooler]) -> None:
    url, _ = pooled
    connection = await asyncpg.connect(url, statement_cache_size=0)
    one = await connection.execute("set application_name = 'mine'")
    assert one == "SET"
    async with connection.transaction():
        first = await connection.fetchval("select pg_backend_pid()")
    async with connection.transaction():
        assert await connection.fetchval("select pg_backend_pid()") != first
    await connection.close()


async def test_every_phase_works_without_a_session(pooled: tuple[str, Pooler], tmp_path: Path) -> None:
    url, pooler = pooled
    change = SchemaChange(url, write(tmp_path / "m", _FILES), lease_s=0.5)
    assert len(await change.plan()) == 5
    assert await change.expand() == ["0001_hits.expand", "0002_index.expand"]
    assert await change.backfill() == ["0001_hits.backfill"]
    assert all(each.held for each in await change.verify())
    # Whose sessions there are cannot be told: they are the pooler's.
    assert await change.contract(Permit(at_full=True)) == ["0001_hits.contract"]
    assert {each.state for each in await change.status()} == {"done"}
    assert pooler.switches > 50


async def test_three_starters_without_sessions_do_each_row_once(
    pooled: tuple[str, Pooler], tmp_path: Path, database_url_empty: str
) -> None:
    url, _ = pooled
    folder = write(tmp_path / "m", _FILES)
    for verb, names in (("expand", 2), ("backfill", 1)):
        starters = [await start(url, folder, verb) for _ in range(3)]
        done = [name for each in starters for name in await finished(each)]
        assert len(done) == names
    connection = await asyncpg.connect(database_url_empty)
    assert await connection.fetchval("select min(hits) = 1 and max(hits) = 1 from people")
    assert await connection.fetchval("select count(*) from pg_index where not indisvalid") == 0
    await connection.close()
