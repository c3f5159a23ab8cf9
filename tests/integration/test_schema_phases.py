"""The phases of a change: what each does, what it refuses, and what it leaves alone."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from finflow.db.backfill import News
from finflow.db.change import SchemaChange
from finflow.db.contracting import Permit
from finflow.db.migrations import migrate
from finflow.db.throttle import Pace
from finflow.kernel.errors import FinFlowError
from oracles.changes import shape, write

_FILES = {
    "0001_full.expand": "ALTER TABLE people ADD COLUMN full_name text;",
    "0001_full.backfill": (
        "-- finflow: table=people key=(no) batch=100\n"
        "UPDATE people SET full_name = first || ' x' WHERE no BETWEEN $1 AND $2;"
    ),
    "0001_full.verify": (
        "SELECT no FROM people WHERE full_name IS NULL;\n"
        "-- finflow: equal\n"
        "SELECT count(*), count(full_name) FROM people;"
    ),
    "0001_full.contract": "ALTER TABLE people DROP COLUMN first;",
}
_PERMIT = Permit(at_full=True, ignored=("test",))


@pytest.fixture
async def connection(database_url_empty: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url_empty, server_settings={"application_name": "test"})
    await connection.execute(
        "CREATE TABLE people (no int PRIMARY KEY, first text NOT NULL);"
        "INSERT INTO people SELECT n, 'f' || n FROM generate_series(1, 1000) n"
    )
    yield connection
    await connection.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "change", _FILES)


async def _refused(work: Any) -> str:
    with pytest.raises(FinFlowError) as caught:
        await work
    return caught.value.kind.code


async def _states(change: SchemaChange) -> list[str]:
    return [each.state for each in await change.status()]


async def test_each_phase_waits_for_the_one_before(
    folder: Path, connection: Any, database_url_empty: str
) -> None:
    change = SchemaChange(database_url_empty, folder)
    assert await _refused(change.backfill()) == "phase_missing"
    assert await _refused(change.verify()) == "phase_missing"
    assert await _refused(change.contract(_PERMIT)) == "phase_missing"
    assert await change.expand() == ["0001_full.expand"]
    assert await change.expand() == []
    assert await _refused(change.contract(_PERMIT)) == "phase_missing"
    await change.backfill()
    assert await _refused(change.contract(_PERMIT)) == "phase_missing"
    assert [finding.held for finding in await change.verify()] == [True, True]
    assert await change.contract(_PERMIT) == ["0001_full.contract"]
    assert await _states(change) == ["done"] * 4
    rows = await connection.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'people'"
    )
    assert {row[0] for row in rows} == {"no", "full_name"}


async def test_a_dry_run_changes_nothing(folder: Path, connection: Any, database_url_empty: str) -> None:
    before = await shape(connection)
    change = SchemaChange(database_url_empty, folder)
    assert await change.expand(dry_run=True) == ["0001_full.expand"]
    assert await shape(connection) == before, "not even the ledger is there"
    await change.expand()
    assert await change.backfill(dry_run=True) == ["0001_full.backfill"]
    assert await connection.fetchval("SELECT count(full_name) FROM people") == 0
    await change.backfill()
    await change.verify()
    before = await shape(connection)
    assert await change.contract(_PERMIT, dry_run=True) == ["0001_full.contract"]
    assert await shape(connection) == before


async def test_what_the_old_release_wrote_since_keeps_the_contract_away(
    folder: Path, connection: Any, database_url_empty: str
) -> None:
    change = SchemaChange(database_url_empty, folder)
    await change.expand()
    await change.backfill()
    await change.verify()
    await connection.execute("INSERT INTO people (no, first) VALUES (5000, 'late')")
    assert await _refused(change.contract(_PERMIT)) == "schema_not_verified"
    findings = await change.verify()
    assert [each.held for each in findings] == [False, False]
    assert findings[0].rows == [["5000"]]
    assert findings[1].rows == [["1001", "1000"]]
    assert await connection.fetchval("SELECT first FROM people WHERE no = 5000") == "late"


async def test_a_contract_waits_for_all_traffic_and_a_quiet_period(
    folder: Path, connection: Any, database_url_empty: str
) -> None:
    change = SchemaChange(database_url_empty, folder)
    await change.expand()
    await change.backfill()
    await change.verify()
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    assert await _refused(change.contract(Permit(ignored=("test",)))) == "contract_too_early"
    early = Permit(an_hour_ago, quiet_s=3700, ignored=("test",))
    assert await _refused(change.contract(early)) == "contract_too_early"
    late = Permit(an_hour_ago, quiet_s=3500, ignored=("test",))
    assert await change.contract(late) == ["0001_full.contract"]


async def test_sessions_of_the_old_release_keep_the_contract_away(
    folder: Path, connection: Any, database_url_empty: str
) -> None:
    change = SchemaChange(database_url_empty, folder)
    await change.expand()
    await change.backfill()
    await change.verify()
    assert await _refused(change.contract(Permit(at_full=True))) == "release_still_connected", "the fixture's"
    young = await asyncpg.connect(database_url_empty, server_settings={"application_name": "bank 1.0 worker"})
    named = Permit(at_full=True, release="bank 1.0", ignored=("test",))
    assert await _refused(change.contract(named)) == "release_still_connected"
    await young.close()
    while await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'bank%'"
    ):
        await asyncio.sleep(0.01)
    assert await change.contract(named) == ["0001_full.contract"]


async def test_who_may_not_see_sessions_is_known(
    folder: Path, connection: Any, database_url_empty: str
) -> None:
    await connection.execute("drop role if exists finflow_blind; create role finflow_blind login")
    blind = database_url_empty.replace("finflow@", "finflow_blind@", 1)
    assert await SchemaChange(database_url_empty, folder).sees_sessions()
    assert not await SchemaChange(blind, folder).sees_sessions()
    await connection.execute("drop role finflow_blind")


async def test_a_step_that_waits_for_a_lock_lets_readers_through(
    folder: Path, connection: Any, database_url_empty: str
) -> None:
    long_reader = await asyncpg.connect(database_url_empty)
    await long_reader.execute("BEGIN; SELECT count(*) FROM people")
    change = SchemaChange(database_url_empty, folder)
    expanding = asyncio.create_task(change.expand())
    tried = 0
    for _ in range(3):
        # Each wait of the step is one attempt: it ends by its own lock_timeout while the reader still reads.
        await _until(connection, _WAITS)
        await connection.fetchval("SELECT count(*) FROM people", timeout=10)
        tried += 1
        await _until(connection, f"SELECT NOT ({_WAITS.removeprefix('SELECT ')})")
    assert tried == 3
    assert not expanding.done()
    await long_reader.execute("COMMIT")
    assert await expanding == ["0001_full.expand"]
    await long_reader.close()


async def test_the_same_without_a_lock_timeout_would_stop_readers(
    connection: Any, database_url_empty: str
) -> None:
    long_reader = await asyncpg.connect(database_url_empty)
    await long_reader.execute("BEGIN; SELECT count(*) FROM people")
    other = await asyncpg.connect(database_url_empty)
    altering = asyncio.create_task(other.execute(_FILES["0001_full.expand"]))
    await _until(connection, _WAITS)
    await connection.execute("SET statement_timeout = '1500ms'")
    with pytest.raises(asyncpg.QueryCanceledError):
        await connection.fetchval("SELECT count(*) FROM people")
    await long_reader.execute("COMMIT")
    await altering
    await other.close()
    await long_reader.close()


_WAITS = (
    "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'people'::regclass"
    " AND mode = 'AccessExclusiveLock' AND NOT granted)"
)


async def _until(connection: Any, question: str) -> None:
    while not await connection.fetchval(question):
        await asyncio.sleep(0.01)


async def test_a_backfill_is_paused_and_resumed_from_elsewhere(
    folder: Path, connection: Any, database_url_empty: str
) -> None:
    heard: list[News] = []
    change = SchemaChange(database_url_empty, folder, pace=Pace(share=0.2, batch_ms=2))
    await change.expand()
    running = asyncio.create_task(change.backfill(heard.append))
    while not heard:
        await asyncio.sleep(0.01)
    assert await SchemaChange(database_url_empty, folder).pause() == ["0001_full.backfill"]
    while heard[-1].doing != "paused":
        await asyncio.sleep(0.01)
    rows = await connection.fetchval("SELECT count(full_name) FROM people")
    assert 0 < rows < 1000
    assert "paused" in await _states(change)
    assert not running.done()
    assert await SchemaChange(database_url_empty, folder).pause(False) == ["0001_full.backfill"]
    assert await running == ["0001_full.backfill"]
    assert await connection.fetchval("SELECT count(full_name) FROM people") == 1000
    assert heard[-1].progress.rows == 1000


async def test_a_batch_that_meets_a_locked_row_is_tried_again(
    folder: Path, connection: Any, database_url_empty: str
) -> None:
    counting = "UPDATE people SET first = first || '+' WHERE no BETWEEN $1 AND $2"
    write(folder, {"0001_full.backfill": f"-- finflow: table=people key=no batch=200\n{counting}"})
    heard: list[News] = []
    change = SchemaChange(database_url_empty, folder, pace=Pace(share=1))
    await change.expand()
    await connection.execute("BEGIN; UPDATE people SET full_name = 'live' WHERE no = 450")
    running = asyncio.create_task(change.backfill(heard.append))
    while not heard or heard[-1].doing != "waits for a lock":
        await asyncio.sleep(0.01)
    await connection.execute("COMMIT")
    assert await running == ["0001_full.backfill"]
    assert await connection.fetchval("SELECT bool_and(first = 'f' || no || '+') FROM people")
    assert await connection.fetchval("SELECT full_name FROM people WHERE no = 450") == "live"


async def test_a_step_gives_up_when_its_table_stays_locked(
    folder: Path, connection: Any, database_url_empty: str
) -> None:
    await connection.execute("BEGIN; SELECT count(*) FROM people")
    change = SchemaChange(database_url_empty, folder, deadline_s=0.2)
    assert await _refused(change.expand()) == "migration_busy"
    await connection.execute("COMMIT")
    assert await change.expand() == ["0001_full.expand"]


async def test_a_backfill_that_fails_is_mended_and_goes_on(
    folder: Path, connection: Any, database_url_empty: str
) -> None:
    text = _FILES["0001_full.backfill"].replace("first || ' x'", "(100 / (no - 500))::text")
    write(folder, {"0001_full.backfill": text})
    change = SchemaChange(database_url_empty, folder)
    await change.expand()
    assert await _refused(change.backfill()) == "migration_failed"
    before = await connection.fetchval("SELECT count(full_name) FROM people")
    assert 0 < before < 500
    write(folder, {"0001_full.backfill": text.replace("500)", "500.5)")})
    mended = SchemaChange(database_url_empty, folder)
    assert await _refused(mended.backfill()) == "migration_changed"
    await mended.adopt()
    assert await mended.backfill() == ["0001_full.backfill"]
    assert await connection.fetchval("SELECT count(full_name) FROM people") == 1000


@pytest.mark.parametrize(
    "header",
    ["table=people key=nothing", "table=nobody key=no", "table=people key=first", "table=people", "key=no"],
)
async def test_a_backfill_without_a_true_key_is_refused(
    header: str, folder: Path, connection: Any, database_url_empty: str
) -> None:
    sql = "UPDATE people SET full_name = 'x' WHERE no BETWEEN $1 AND $2"
    write(folder, {"0001_full.backfill": f"-- finflow: {header}\n{sql}"})
    change = SchemaChange(database_url_empty, folder)
    await change.expand()
    assert await _refused(change.backfill()) == "backfill_malformed"
    assert await connection.fetchval("SELECT count(full_name) FROM people") == 0


async def test_keys_of_every_common_type_are_walked_and_resumed(
    tmp_path: Path, connection: Any, database_url_empty: str
) -> None:
    await connection.execute(
        "CREATE TABLE odd (u uuid, t timestamptz, s text, n numeric(9,3), hits int DEFAULT 0,"
        " PRIMARY KEY (u, t, s, n));"
        "INSERT INTO odd SELECT gen_random_uuid(), now() + n * interval '1 min 1 us', 'é' || n, n / 7.0"
        " FROM generate_series(1, 700) n"
    )
    upper = "(u, t, s, n) >= ($1, $2, $3, $4) AND (u, t, s, n) <= ($5, $6, $7, $8)"
    sql = f"-- finflow: table=odd key=(u, t, s, n) batch=60\nUPDATE odd SET hits = hits + 1 WHERE {upper}"
    folder = write(tmp_path / "odd", {"0001_odd.backfill": sql})
    await SchemaChange(database_url_empty, folder).backfill()
    assert await connection.fetchval("SELECT min(hits) = 1 AND max(hits) = 1 FROM odd")


async def test_a_ledger_of_the_releases_before_goes_on_as_it_is(
    tmp_path: Path, connection: Any, database_url_empty: str
) -> None:
    folder = write(tmp_path / "old", {"0001_a": "CREATE TABLE a ();"})
    await connection.execute(
        "CREATE TABLE schema_migrations (name text PRIMARY KEY, checksum text NOT NULL,"
        " applied_at timestamptz NOT NULL DEFAULT clock_timestamp()); CREATE TABLE a ()"
    )
    [step] = await SchemaChange(database_url_empty, folder).status()
    assert step.state == "pending", "a ledger without the file's row"
    checksum = "1bf7d2e3fc1b1a3f2a9ab0ef6bc3b4d2"
    await connection.execute("INSERT INTO schema_migrations (name, checksum) VALUES ('0001_a', $1)", checksum)
    assert await _refused(migrate(database_url_empty, folder)) == "migration_changed"
    real = hashlib.sha256(b"CREATE TABLE a ();").hexdigest()
    await connection.execute("UPDATE schema_migrations SET checksum = $1", real)
    assert await migrate(database_url_empty, folder) == []
    # What an old instance writes on the new ledger is done.
    await connection.execute("INSERT INTO schema_migrations (name, checksum) VALUES ('0002_b', 'x')")
    assert await connection.fetchval("SELECT state FROM schema_migrations WHERE name = '0002_b'") == "done"


async def test_a_new_database_has_all_phases_at_once_and_a_used_one_only_expands(
    tmp_path: Path, connection: Any, database_url_empty: str
) -> None:
    first = {"0000_people": "CREATE TABLE IF NOT EXISTS people (no int PRIMARY KEY, first text NOT NULL);"}
    folder = write(tmp_path / "both", first | _FILES)
    assert await migrate(database_url_empty, folder) == ["0000_people", "0001_full.expand"]
    await connection.execute("DROP TABLE people, schema_migrations")
    assert await migrate(database_url_empty, folder) == sorted([*first, *_FILES], key=_in_order)
    assert await migrate(database_url_empty, folder) == []


def _in_order(name: str) -> tuple[str, int]:
    change, _, phase = name.partition(".")
    return change, ["", "expand", "backfill", "verify", "contract"].index(phase)


async def test_an_index_by_concurrently_stands_alone_in_its_file(
    tmp_path: Path, connection: Any, database_url_empty: str
) -> None:
    together = "CREATE TABLE b (); CREATE INDEX CONCURRENTLY i ON people (first);"
    unnamed = "CREATE INDEX CONCURRENTLY ON people (first);"
    for sql in (together, unnamed):
        change = SchemaChange(database_url_empty, write(tmp_path / "m", {"0001_i.expand": sql}))
        assert await _refused(change.expand()) == "concurrent_not_alone"
    assert await connection.fetchval("SELECT to_regclass('b') IS NULL")


async def test_a_unique_index_that_cannot_be_is_named_and_tried_again_once_it_can(
    tmp_path: Path, connection: Any, database_url_empty: str
) -> None:
    await connection.execute("UPDATE people SET first = 'same' WHERE no < 3")
    sql = 'CREATE UNIQUE INDEX CONCURRENTLY "People First" ON people (first);'
    change = SchemaChange(database_url_empty, write(tmp_path / "m", {"0001_i.expand": sql}), lease_s=0.1)
    assert await _refused(change.expand()) == "migration_failed"
    await connection.execute("UPDATE people SET first = no::text")
    assert await change.expand() == ["0001_i.expand"]
    assert await connection.fetchval(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = '\"People First\"'::regclass"
    )
