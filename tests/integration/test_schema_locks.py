"""What a plan says of locks and sizes, against the locks that PostgreSQL really takes; rest for replicas."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from finflow.db.backfill import News
from finflow.db.change import SchemaChange
from finflow.db.lint import locks, tree
from finflow.db.throttle import Pace
from oracles.changes import write

_STATEMENTS = [
    "alter table t add column c int",
    "alter table t add constraint positive check (a > 0) not valid",
    "alter table t add constraint f foreign key (b) references u (a) not valid",
    "alter table t validate constraint known",
    "alter table t alter column b set statistics 10",
    "alter table t set (fillfactor = 90)",
    "alter table t alter column b set default 1",
    "alter table t drop column b",
    "alter table t rename column b to c",
    "alter table t rename to v",
    "alter table t disable trigger all",
    "alter table t enable row level security",
    "create index i on t (b)",
    "create trigger g before insert on t for each row execute function suppress_redundant_updates_trigger()",
    "create table w (a int references u (a))",
    "create policy p on t using (true)",
    "drop table t",
    "truncate t",
    "insert into t values (9, 9)",
    "insert into t select a + 10, a from u",
    "update t set b = 1",
    "delete from t using u where t.a = u.a",
    "with gone as (delete from t returning a) insert into u select a + 100 from gone",
    "select * from t",
]

# The locks that this transaction holds on the two tables, by the names that they had at its beginning.
_HELD = """
SELECT n.name, array_agg(l.mode) AS modes
  FROM pg_locks l JOIN unnest($1::oid[], $2::text[]) AS n (oid, name) ON n.oid = l.relation
 WHERE l.pid = pg_backend_pid() AND l.granted GROUP BY n.name"""


def _strongest(modes: list[str]) -> str:
    """AccessExclusiveLock and the like, as the manual writes them; the strongest of them."""
    words = {f"{name.title().replace(' ', '')}Lock": name for name in locks.ORDER}
    return min((words[mode] for mode in modes), key=locks.ORDER.index)


@pytest.fixture
async def connection(database_url_empty: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url_empty, server_settings={"application_name": "test"})
    await connection.execute(
        "create table t (a int primary key, b int); create table u (a int primary key);"
        "insert into u values (1); alter table t add constraint known check (b > 0) not valid"
    )
    yield connection
    await connection.close()


@pytest.mark.parametrize("sql", _STATEMENTS, ids=lambda text: text[:40])
async def test_a_plan_knows_the_locks_that_are_taken(sql: str, connection: Any) -> None:
    numbers = [await connection.fetchval("SELECT $1::text::regclass::oid", name) for name in ("t", "u")]
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(sql)
    held = await connection.fetch(_HELD, numbers, ["t", "u"])
    await transaction.rollback()
    [parsed] = tree.read("0001_x.sql", sql).parsed
    said = {table: lock for lock, table in locks.locks(parsed) if table in ("t", "u")}
    assert said == {row["name"]: _strongest(row["modes"]) for row in held}


async def test_a_plan_guesses_sizes_from_the_catalogue(
    tmp_path: Path, connection: Any, database_url_empty: str
) -> None:
    await connection.execute("insert into t select n, n from generate_series(1, 5000) n; analyze t")
    folder = write(tmp_path / "m", {"0001_c.expand": "alter table t add column c int; create table w ();"})
    [step] = await SchemaChange(database_url_empty, folder).plan()
    [altered] = step.statements[0].locks
    size = await connection.fetchval("SELECT pg_total_relation_size('t')")
    assert (altered.lock, altered.table, altered.rows, altered.bytes) == ("ACCESS EXCLUSIVE", "t", 5000, size)
    assert altered.blocks == "reads and writes"
    assert step.statements[1].locks == []


async def test_a_backfill_rests_while_a_replica_is_behind(
    tmp_path: Path, connection: Any, database_url_empty: str
) -> None:
    # The view of replicas, played: the server has none, and the search path finds this table first.
    await connection.execute(
        "create table public.pg_stat_replication (state text, replay_lag interval, replay_lsn pg_lsn);"
        "insert into public.pg_stat_replication values ('streaming', '20 s', '0/0');"
        "insert into t select n, n from generate_series(1, 400) n"
    )
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"alter database {name} set search_path = public, pg_catalog")
    sql = "-- finflow: table=t key=a batch=20\nupdate t set b = 0 where a between $1 and $2"
    folder = write(tmp_path / "m", {"0001_b.backfill": sql})
    heard: list[News] = []
    change = SchemaChange(database_url_empty, folder, pace=Pace(share=0.5))
    await connection.execute("alter table t drop constraint known")
    running = asyncio.create_task(change.backfill(heard.append))
    while not heard or heard[-1].doing != "waits for replicas":
        await asyncio.sleep(0.01)
    rows = heard[-1].progress.rows
    assert 0 < rows < 400
    await connection.execute("delete from public.pg_stat_replication")
    assert await running == ["0001_b.backfill"]
    assert await connection.fetchval("SELECT count(*) FROM t WHERE b = 0") == 400
