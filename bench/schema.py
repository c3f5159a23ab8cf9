"""Schema changes: the time to lint 500 files, and what a backfill of five million rows does to live requests.

`python -m bench.schema [--json] [--keep] [--short]`. Live requests come at fixed moments whatever the answers
do (open loop): each reads a row of the table that is being filled in, changes another, and commits to the
disk; its latency counts from the moment at which it was due. `finflow db backfill` runs as a process of its
own with its defaults. It is paused and resumed by turns, so that both sides of the comparison lie in the
same minutes on the same machine; once it is killed with -9 and started again. Every row counts how often it
was filled in: `resumable` says that each was, once.
"""

import sys

if not __package__:
    # Run as a file, Python looks into this folder first, where http.py would stand for the library's http.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import asyncio
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

from bench.ground import durable_database, quantile, report
from finflow.db.change import SchemaChange
from finflow.db.lint.service import lint
from finflow.db.throttle import Pace

SEED: Final = 5
RATE: Final = 200
RUNNING_S: Final = 12.0
PAUSED_S: Final = 6.0
# A killed runner's lease lasts 15 s, which the one that follows it waits for; that is no time of work.
LEASE_S: Final = 15.5
_FILES: Final = {
    "0001_filled.expand": "alter table bench_clients add column filled int;",
    "0001_filled.backfill": (
        "-- finflow: table=bench_clients key=client_no batch=1000\n"
        "update bench_clients set filled = coalesce(filled, 0) + 1 where client_no between $1 and $2;"
    ),
}
_FILE_TO_LINT: Final = """
-- A change as people write them: a table, a column, a constraint, rows.
create table ledger_{n} (no bigint generated always as identity primary key, name text not null);
alter table accounts add column flag_{n} text default 'x';
alter table accounts add constraint flag_{n}_known check (flag_{n} <> '') not valid;
insert into kinds (code) values ('a{n}'), ('b{n}') on conflict (code) do nothing;
update accounts set flag_{n} = 'y' where flag_{n} is null and account_no between 1 and 1000;
create or replace function touch_{n}() returns trigger language plpgsql as $$
begin
    new.flag_{n} := coalesce(new.flag_{n}, 'z');
    return new;
end $$;
"""


def lint_500(files: int) -> dict[str, Any]:
    """The time to lint so many files, scaled to 500."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(files):
            text = _FILE_TO_LINT.replace("{n}", str(number))
            (folder / f"{number:04}_change.expand.sql").write_text(text)
        start = time.perf_counter()
        found = lint([folder])
        took_s = time.perf_counter() - start
    assert found.files == files
    return {
        "lint_files": files,
        "lint_findings": len(found.findings),
        "lint_500_s": round(took_s * 500 / files, 3),
    }


class Live:
    """Requests at fixed moments, and how long each took from the moment when it was due."""

    def __init__(self, pool: "asyncpg.Pool[Any]", rows: int) -> None:
        self._pool = pool
        self._rows = rows
        self._rng = random.Random(SEED)
        self._under_way: set[asyncio.Task[None]] = set()
        self.seen: list[tuple[float, float]] = []
        self.failed = 0

    async def run(self) -> None:
        due = time.perf_counter()
        while True:
            due += 1 / RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(self._request(due))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _request(self, due: float) -> None:
        read, written = self._rng.randint(1, self._rows), self._rng.randint(1, self._rows)
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.fetchrow("select * from bench_clients where client_no = $1", read)
                await connection.execute(
                    "update bench_clients set balance = balance + 1 where client_no = $1", written
                )
        except (asyncpg.PostgresError, OSError):
            self.failed += 1
        self.seen.append((due, time.perf_counter() - due))

    def between(self, first: float, last: float) -> list[float]:
        """Latencies of the requests that were due in this time."""
        return [took for due, took in self.seen if first <= due < last]


@asynccontextmanager
async def table(url: str, rows: int) -> "AsyncIterator[asyncpg.Connection[Any]]":
    """A table of so many rows, vacuumed; the connection that watches it."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "create table bench_clients"
            " (client_no bigint primary key, name text not null, balance bigint not null)"
        )
        filling = "insert into bench_clients select n, 'client ' || n, 0 from generate_series(1, $1::int) n"
        await connection.execute(filling, rows)
        await connection.execute("vacuum analyze bench_clients")
        await connection.execute("checkpoint")
        yield connection
    finally:
        await connection.close()


async def start_backfill(url: str, folder: Path, share: float, batch_ms: float) -> asyncio.subprocess.Process:
    """`finflow db backfill` as a person would run it."""
    environment = {**os.environ, "FINFLOW_DATABASE_URL": url, "FINFLOW_DATA": str(folder.parent / "data")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "finflow", "db", "backfill", "--folder", str(folder), "--share", str(share),
        "--batch-ms", str(batch_ms),
        env=environment, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip


class Turns:
    """The backfill, running and paused by turns, and when which was."""

    def __init__(self, change: SchemaChange, watcher: "asyncpg.Connection[Any]", live: Live) -> None:
        self._change = change
        self._watcher = watcher
        self._live = live
        self.running: list[float] = []
        self.paused: list[float] = []
        self.working_s = 0.0

    async def state(self) -> str | None:
        # By the connection that is open: a new one for every look would be load of its own.
        return await self._watcher.fetchval(
            "select state from schema_migrations where name like '%.backfill'"
        )

    async def window(self, paused: bool) -> bool:
        """One window; False once the backfill is done."""
        await self._change.pause(paused)
        await asyncio.sleep(0.5)
        first = time.perf_counter()
        while time.perf_counter() < first + (PAUSED_S if paused else RUNNING_S):
            await asyncio.sleep(0.5)
            if await self.state() == "done":
                break
        last = time.perf_counter()
        (self.paused if paused else self.running).extend(self._live.between(first, last))
        if not paused:
            self.working_s += last - first + 0.5
        return await self.state() != "done"


async def backfill(rows: int, share: float, batch_ms: float) -> dict[str, Any]:
    """Figures of one backfill under live load, killed once on the way."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "change"
        folder.mkdir()
        for file, sql in _FILES.items():
            (folder / f"{file}.sql").write_text(sql)
        async with durable_database() as url, table(url, rows) as watcher:
            pool = await asyncpg.create_pool(url, min_size=16, max_size=16)
            change = SchemaChange(url, folder)
            await change.expand()
            live = Live(pool, rows)
            load = asyncio.create_task(live.run())
            turns = Turns(change, watcher, live)
            figures = await _killed_and_resumed(url, folder, share, batch_ms, turns)
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
            await asyncio.sleep(0.5)
            once = await watcher.fetchval("select count(*) from bench_clients where filled = 1")
            pool.terminate()
    before, during = quantile(turns.paused, 0.99), quantile(turns.running, 0.99)
    return {
        "backfill_rows": rows,
        "backfill_5m_s": round(turns.working_s * 5_000_000 / rows, 1),
        "backfill_rows_per_s": round(rows / turns.working_s),
        "live_requests": len(live.seen),
        "live_failed": live.failed,
        "live_ms_p50_before": round(statistics.median(turns.paused) * 1000, 2),
        "live_ms_p50_during": round(statistics.median(turns.running) * 1000, 2),
        "live_ms_p99_before": round(before * 1000, 2),
        "live_ms_p99_during": round(during * 1000, 2),
        "live_p99_ratio": round(during / before, 3),
        "resumable": once == rows,
        **figures,
    }


async def _killed_and_resumed(
    url: str, folder: Path, share: float, batch_ms: float, turns: Turns
) -> dict[str, Any]:
    await asyncio.sleep(3)
    process = await start_backfill(url, folder, share, batch_ms)
    while await turns.state() is None:  # noqa: ASYNC110 - it happens in another process
        await asyncio.sleep(0.05)
    kills = 0
    going = True
    while going:
        going = await turns.window(paused=True)
        going = going and await turns.window(paused=False)
        if going and kills == 0:
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
            kills += 1
            process = await start_backfill(url, folder, share, batch_ms)
            await asyncio.sleep(LEASE_S)
    assert await process.wait() == 0, "the backfill ended well"
    return {"killed": kills, "work_share": share, "batch_ms": batch_ms}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write bench/results/")
    parser.add_argument("--short", action="store_true", help="few rows: shows that it runs")
    parser.add_argument("--share", type=float, default=Pace().share, help="the backfill's share of the time")
    parser.add_argument("--batch-ms", type=float, default=Pace().batch_ms, help="how long its batches are")
    parser.add_argument("--rows", type=int, default=5_000_000)
    options = parser.parse_args()
    figures = lint_500(100 if options.short else 500)
    figures |= asyncio.run(
        backfill(60_000 if options.short else options.rows, options.share, options.batch_ms)
    )
    report("schema", figures, seed=SEED, as_json=options.json, keep=options.keep)


if __name__ == "__main__":
    main()
