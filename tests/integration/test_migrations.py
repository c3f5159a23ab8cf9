"""Migrations: once, in order, all or nothing, whoever starts together and whoever is killed."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from finflow.db.migrations import LOCK_KEY, load, migrate
from finflow.kernel.errors import FinFlowError

# Five of these start together. Each says what it applied; its application_name tells which one it is.
_RUNNER = """
import asyncio, json, sys
from pathlib import Path
import asyncpg
from finflow.db.migrations import migrate

async def main(url, folder, name):
    connection = await asyncpg.connect(url, server_settings={"application_name": name})
    print(json.dumps(await migrate(connection, Path(folder))))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def connection(database_url_empty: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url_empty)
    yield connection
    await connection.close()


def _write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, sql in files.items():
        (folder / f"{name.removeprefix('m')}.sql").write_text(sql)
    return folder


async def test_applies_what_is_missing_in_order_and_once(
    tmp_path: Path, connection: Any, database_url_empty: str
) -> None:
    folder = _write(
        tmp_path / "m",
        m0002_b="ALTER TABLE a ADD COLUMN b int;",
        m0001_a="CREATE TABLE a (); CREATE TABLE c ();",
    )
    (folder / "notes.txt").write_text("not a migration")
    assert await migrate(database_url_empty, folder) == ["0001_a", "0002_b"]
    assert await migrate(database_url_empty, folder) == []
    _write(folder, m0003_d="CREATE TABLE d ();")
    assert await migrate(connection, folder) == ["0003_d"]
    rows = await connection.fetch("SELECT name, checksum, applied_at FROM schema_migrations ORDER BY name")
    assert [row["name"] for row in rows] == ["0001_a", "0002_b", "0003_d"]
    assert [row["checksum"] for row in rows] == [migration.checksum for migration in load(folder)]
    assert await connection.fetchval("SELECT to_regclass('d') IS NOT NULL")


async def test_refuses_a_file_that_was_changed_after_it_was_applied(tmp_path: Path, connection: Any) -> None:
    folder = _write(tmp_path / "m", m0001_a="CREATE TABLE a ();")
    await migrate(connection, folder)
    _write(folder, m0001_a="CREATE TABLE a (b int);", m0002_b="CREATE TABLE b ();")
    with pytest.raises(FinFlowError, match="0001_a") as caught:
        await migrate(connection, folder)
    assert caught.value.kind.code == "migration_changed"
    assert await connection.fetchval("SELECT to_regclass('b') IS NULL"), "nothing else was applied"


async def test_an_older_release_starts_on_a_newer_schema(tmp_path: Path, connection: Any) -> None:
    folder = _write(tmp_path / "m", m0001_a="CREATE TABLE a ();", m0002_b="CREATE TABLE b ();")
    await migrate(connection, folder)
    (folder / "0002_b.sql").unlink()
    assert await migrate(connection, folder) == []


async def test_a_failing_migration_leaves_nothing_behind(tmp_path: Path, connection: Any) -> None:
    folder = _write(
        tmp_path / "m",
        m0001_a="CREATE TABLE a ();",
        m0002_b="CREATE TABLE b (); SELECT 1/0;",
        m0003_c="SELECT 1;",
    )
    with pytest.raises(FinFlowError, match="0002_b: division by zero") as caught:
        await migrate(connection, folder)
    assert caught.value.kind.code == "migration_failed"
    assert await connection.fetchval("SELECT to_regclass('b') IS NULL")
    assert await connection.fetchval("SELECT array_agg(name) FROM schema_migrations") == ["0001_a"]
    _write(folder, m0002_b="CREATE TABLE b ();")
    assert await migrate(connection, folder) == ["0002_b", "0003_c"], "the lock was given back"


async def test_a_migration_may_not_commit_by_itself(tmp_path: Path, connection: Any) -> None:
    folder = _write(tmp_path / "m", m0001_a="CREATE TABLE a (); COMMIT;")
    with pytest.raises(FinFlowError, match="ends its transaction itself"):
        await migrate(connection, folder)


async def test_gives_up_when_the_lock_stays_taken(
    tmp_path: Path, connection: Any, database_url_empty: str
) -> None:
    folder = _write(tmp_path / "m", m0001_a="CREATE TABLE a ();")
    await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
    with pytest.raises(FinFlowError) as caught:
        await migrate(database_url_empty, folder, deadline_s=0.2)
    assert caught.value.kind.code == "migration_busy"
    await connection.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)
    assert await migrate(database_url_empty, folder) == ["0001_a"]


async def test_an_unreachable_server_is_named_without_its_password(tmp_path: Path) -> None:
    folder = _write(tmp_path / "m", m0001_a="SELECT 1;")
    with pytest.raises(FinFlowError) as caught:
        await migrate(f"postgresql://me:hunter2@/db?host={tmp_path}", folder)
    assert caught.value.kind.code == "database_unreachable"
    assert "hunter2" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


async def _start_five(url: str, folder: Path) -> dict[str, asyncio.subprocess.Process]:
    return {
        f"runner-{number}": await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _RUNNER,
            url,
            str(folder),
            f"runner-{number}",
            stdout=asyncio.subprocess.PIPE,
        )
        for number in range(5)
    }


async def test_five_processes_at_once_apply_each_file_once(
    tmp_path: Path, connection: Any, database_url_empty: str
) -> None:
    files = {
        f"m{number:04}_x": f"CREATE TABLE t{number} (); SELECT pg_sleep(0.02);" for number in range(1, 11)
    }
    runners = await _start_five(database_url_empty, _write(tmp_path / "m", **files))
    outputs = [(await runner.communicate())[0] for runner in runners.values()]
    assert [runner.returncode for runner in runners.values()] == [0] * 5
    applied = [name for output in outputs for name in json.loads(output)]
    assert sorted(applied) == [f"{number:04}_x" for number in range(1, 11)]
    assert await connection.fetchval("SELECT count(*) FROM schema_migrations") == 10


async def test_a_process_killed_in_the_middle_is_replaced_by_the_next(
    tmp_path: Path, connection: Any, database_url_empty: str
) -> None:
    await connection.execute("CREATE TABLE tries (who text)")
    slow = "INSERT INTO tries SELECT current_setting('application_name'); SELECT pg_sleep(0.7);"
    folder = _write(tmp_path / "m", m0001_slow=slow, m0002_after="CREATE TABLE after ();")
    runners = await _start_five(database_url_empty, folder)
    victim = await _who_sleeps(connection)
    os.kill(runners[victim].pid, signal.SIGKILL)
    survivors = {name: runner for name, runner in runners.items() if name != victim}
    outputs = [(await runner.communicate())[0] for runner in survivors.values()]
    assert await runners[victim].wait() == -signal.SIGKILL
    assert [runner.returncode for runner in survivors.values()] == [0] * 4
    applied = [name for output in outputs for name in json.loads(output)]
    assert sorted(applied) == ["0001_slow", "0002_after"], "the survivors did each once"
    tried = await connection.fetch("SELECT who FROM tries")
    assert len(tried) == 1, "what the killed one did was rolled back"
    assert tried[0]["who"] in survivors


async def _who_sleeps(connection: Any) -> str:
    while True:
        name: str | None = await connection.fetchval(
            "SELECT application_name FROM pg_stat_activity WHERE state = 'active' "
            "AND application_name LIKE 'runner-%' AND query LIKE '%pg_sleep%' "
            "AND datname = current_database()"
        )
        if name:
            return name
        await asyncio.sleep(0.01)
