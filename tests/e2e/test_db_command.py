"""`finflow db` as a person and a pipeline run it: words, JSON, exit codes."""

import asyncio
import functools
import json
import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from finflow.app.schema_check import RolloutSchema, SchemaVerified
from finflow.db.change import SchemaChange
from finflow.kernel.errors import FinFlowError
from finflow.rollout.checks_spec import SchemaSpec
from finflow.rollout.verdicts import Verdict
from oracles.changes import write

_FILES = {
    "0001_full.expand": "alter table people add column full_name text;",
    "0001_full.backfill": (
        "-- finflow: table=people key=no batch=100\n"
        "update people set full_name = first where no between $1 and $2;"
    ),
    "0001_full.verify": "select no from people where full_name is null;",
    "0001_full.contract": "alter table people drop column first;",
}


@pytest.fixture
async def folder(tmp_path: Path, database_url_empty: str) -> Path:
    connection = await asyncpg.connect(database_url_empty)
    await connection.execute(
        "create table people (no int primary key, first text);"
        "insert into people select n, 'f' || n from generate_series(1, 500) n"
    )
    await connection.close()
    return write(tmp_path / "change", _FILES)


class _Command:
    def __init__(self, url: str, data: Path) -> None:
        self._environment = {**os.environ, "FINFLOW_DATABASE_URL": url, "FINFLOW_DATA": str(data)}

    async def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "finflow", "db", *map(str, arguments), env=self._environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
def db(database_url_empty: str, tmp_path: Path) -> _Command:
    return _Command(database_url_empty, tmp_path / "data")


async def test_a_change_from_plan_to_contract(db: _Command, folder: Path) -> None:
    where = ("--folder", folder)
    status, out, _ = await db("plan", *where)
    assert status == 0
    assert "ACCESS EXCLUSIVE on people (about " in out
    assert "blocks reads and writes" in out
    status, out, _ = await db("plan", *where, "--json")
    phases = [step["phase"] for step in json.loads(out)["steps"]]
    assert phases == ["expand", "backfill", "verify", "contract"]

    assert await db("expand", *where, "--dry-run", "--json") == (
        0, '{"applied":["0001_full.expand"],"dry_run":true}\n', "",
    )  # fmt: skip
    assert (await db("expand", *where))[:2] == (0, "applied 0001_full.expand\n")
    status, _, err = await db("verify", *where)
    assert (status, "0001_full.verify waits for 0001_full.backfill" in err) == (1, True)
    assert (await db("backfill", *where, "--share", "1"))[:2] == (0, "backfilled 0001_full.backfill\n")
    status, out, _ = await db("verify", *where, "--json")
    assert (status, json.loads(out)["held"]) == (0, True)

    status, _, err = await db("contract", *where)
    assert (status, "Take away" in err) == (130, True), "nobody says yes"
    status, _, err = await db("contract", *where, "--yes")
    assert (status, "No rollout says" in err) == (1, True)
    assert (await db("contract", *where, "--yes", "--at-full"))[:2] == (0, "contracted 0001_full.contract\n")
    status, out, _ = await db("status", *where)
    assert status == 0
    assert [line.split()[1] for line in out.splitlines()] == ["done"] * 4
    assert "500 rows in " in out


async def test_a_verify_that_does_not_hold_is_the_answer_no(
    db: _Command, folder: Path, database_url_empty: str
) -> None:
    await db("expand", "--folder", folder)
    await db("backfill", "--folder", folder, "--share", "1")
    connection = await asyncpg.connect(database_url_empty)
    await connection.execute("update people set full_name = null where no in (7, 8)")
    await connection.close()
    status, out, _ = await db("verify", "--folder", folder)
    assert status == 1
    assert "BROKEN  0001_full.verify.sql:1" in out


async def test_ctrl_c_loses_nothing(folder: Path, database_url_empty: str, tmp_path: Path) -> None:
    connection = await asyncpg.connect(database_url_empty)
    await connection.execute("update people set first = '0'")
    counting = "update people set first = first::int + 1 where no between $1 and $2"
    write(folder, {"0001_full.backfill": f"-- finflow: table=people key=no batch=1\n{counting}"})
    await SchemaChange(database_url_empty, folder).expand()
    environment = {**os.environ, "FINFLOW_DATABASE_URL": database_url_empty, "FINFLOW_DATA": str(tmp_path)}
    command = [sys.executable, "-m", "finflow", "db", "backfill", "--folder", str(folder), "--share", "0.05"]
    # Whoever runs the tests in the background may have had Ctrl-C ignored, which children inherit.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = await asyncio.create_subprocess_exec(*command, env=environment, preexec_fn=heard)
    while not await connection.fetchval("select exists (select from people where first = '1')"):
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), 30) == 130
    assert await connection.fetchval("select count(*) filter (where first = '0') from people") > 0
    holder = "select holder from schema_migrations where name = '0001_full.backfill'"
    assert await connection.fetchval(holder) is None, "the next one need not wait"
    assert await SchemaChange(database_url_empty, folder).backfill() == ["0001_full.backfill"]
    assert await connection.fetchval("select bool_and(first = '1') from people")
    await connection.close()


def _log(data: Path, service: str, full_at: datetime) -> None:
    folder = data / "rollouts" / service
    folder.mkdir(parents=True)
    told = {"event": "done", "intent": {"do": "set_weight", "step": 3, "weight_bp": 10_000}, "ok": True}
    line = {"hash": "0", "seq": 1, "prev": "0", "at": full_at.isoformat(), "who": "controller", "told": told}
    (folder / "000001.jsonl").write_text(json.dumps(line) + "\n")


async def test_a_contract_asks_the_rollouts_log(db: _Command, folder: Path, tmp_path: Path) -> None:
    for verb in ("expand", "backfill", "verify"):
        assert (await db(verb, "--folder", folder))[0] == 0
    _log(tmp_path / "data", "bank", datetime.now(UTC) - timedelta(minutes=10))
    arguments = ("contract", "--folder", folder, "--yes", "--service", "bank")
    status, _, err = await db(*arguments)
    assert (status, "the quiet period of 3600 s ends in" in err) == (1, True)
    assert (await db(*arguments, "--quiet-s", "60"))[0] == 0
    status, _, err = await db("contract", "--folder", folder, "--yes", "--service", "other")
    assert (status, "holds no decision log of a rollout" in err) == (1, True)


async def test_lint_answers_by_its_exit_code_and_writes_sarif(db: _Command, tmp_path: Path) -> None:
    assert (await db("lint"))[0] == 0, "our own migrations"
    bad = tmp_path / "0001_x.expand.sql"
    bad.write_text("insert into t select * from old;")
    status, out, _ = await db("lint", bad)
    assert status == 1
    assert f"{bad}:1:1: error: unkeyed-insert" in out
    report = tmp_path / "report.sarif"
    assert (await db("lint", bad, "--format", "sarif", "--output", report))[0] == 1
    assert json.loads(report.read_text())["version"] == "2.1.0"
    status, out, _ = await db("lint", bad, "--json")
    assert json.loads(out)["refused"] is True
    assert (await db("lint", tmp_path / "nowhere"))[0] == 2


async def test_a_server_that_is_not_there_is_exit_code_3(tmp_path: Path, folder: Path) -> None:
    away = _Command(f"postgresql://me:hunter2@/db?host={tmp_path}", tmp_path / "data")
    status, _, err = await away("status", "--folder", folder)
    assert status == 3
    assert "hunter2" not in err


# --- what a rollout does with a change --------------------------------------------------------------------


async def test_a_rollout_goes_through_the_phases(
    folder: Path, database_url_empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SchemaSpec(folder=folder.name, database_url_variable="ITS_DATABASE", quiet_s=0)
    with pytest.raises(FinFlowError, match="setting_malformed"):
        RolloutSchema(spec, folder.parent)
    monkeypatch.setenv("ITS_DATABASE", database_url_empty)
    schema = RolloutSchema(spec, folder.parent)
    assert (await schema.before_full()).verdict is Verdict.INCONCLUSIVE
    assert await schema.before_first_step() == ["0001_full.expand"]
    assert (await schema.before_full()).verdict is Verdict.INCONCLUSIVE
    assert await schema.during() == ["0001_full.backfill"]
    passed = await schema.before_full()
    assert (passed.verdict, passed.numbers) == (Verdict.PASS, {"queries": 1, "broken": 0})
    connection: Any = await asyncpg.connect(database_url_empty)
    await connection.execute("insert into people values (900, 'by the old release')")
    await connection.close()
    assert (await schema.before_full()).verdict is Verdict.FAIL
    with pytest.raises(FinFlowError, match="schema_not_verified"):
        await schema.after(datetime.now(UTC) - timedelta(seconds=5))
    write(folder, {"0001_full.verify": "select no from nowhere;"})
    broken = RolloutSchema(spec, folder.parent)
    assert (await broken.before_full()).verdict is Verdict.ERROR


async def test_a_gate_on_a_database_that_is_away_is_an_error(folder: Path, tmp_path: Path) -> None:
    gate = SchemaVerified(SchemaChange(f"postgresql://me@/db?host={tmp_path}", folder))
    assert (await gate.judge()).verdict is Verdict.ERROR
