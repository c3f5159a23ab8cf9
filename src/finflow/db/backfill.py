"""Backfills: many short transactions, each with its range of keys and the row that says how far it has come.

The progress commits with the rows, so a kill at any moment leaves each row done once or not at all. Nobody
holds a lock between batches: a lease in the ledger's row says who works, and a batch checks it under the
row's lock. A batch need not reach the disk by itself (synchronous_commit off): if the server loses the last
ones, it loses their progress too.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import asyncpg
import msgspec

from finflow.db import keys, steps
from finflow.db.apply import RETRYABLE, guarded, interruptible, rehearsal
from finflow.db.indexes import new_holder
from finflow.db.phases import Keyed, Migration, keyed
from finflow.db.sql_text import statements
from finflow.db.throttle import FULL_SPEED, Lag, Pace, Throttle
from finflow.kernel.errors import FinFlowError
from finflow.telemetry import tracing

LEASE_S: Final = 15.0
# This long a backfill may go on failing for locks alone before it says so.
HINDERED_S: Final = 120.0
_LAG_EVERY_S: Final = 1.0
_WAIT_S: Final = 0.25
_HINDERED_PAUSE_S: Final = 0.1

_BATCH_LIMITS: Final = """
SET LOCAL lock_timeout = '500ms'; SET LOCAL statement_timeout = '60s';
SET LOCAL synchronous_commit = off"""
# A batch that takes too long is tried again with fewer rows.
_PASSING: Final = (*RETRYABLE, asyncpg.QueryCanceledError)
# Under the row's lock until the commit: whoever else holds a lease meanwhile is not us.
_MINE: Final = """
SELECT state, progress::text AS progress,
       holder IS NULL OR holder = $2 OR lease_until < clock_timestamp() AS free
  FROM schema_migrations WHERE name = $1 FOR UPDATE"""
_ADVANCE: Final = """
UPDATE schema_migrations
   SET progress = $2::text::jsonb, holder = $3, lease_until = clock_timestamp() + $4 * interval '1 s'
 WHERE name = $1"""
_LAG: Final = """
SELECT coalesce(max(extract(epoch FROM replay_lag)), 0)::float8 AS seconds,
       coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)), 0)::int8 AS bytes
  FROM pg_stat_replication WHERE state = 'streaming'"""
_ON_PRIMARY: Final = "SELECT NOT pg_is_in_recovery()"


class Progress(msgspec.Struct, frozen=True):
    """How far a backfill has come: `last` is the key, as text, up to which everything is done."""

    last: list[str] | None = None
    rows: int = 0
    changed: int = 0
    batches: int = 0


class News(msgspec.Struct, frozen=True):
    """What is told after every batch: `estimated_rows` is the catalogue's guess, `doing` a word for now."""

    name: str
    progress: Progress
    estimated_rows: int
    doing: str
    batch_s: float = 0.0
    pause_s: float = 0.0


Told = Callable[[News], None]


def _nobody(_: News) -> None:
    """Where nobody wants to hear it."""


class Backfill:
    """One backfill, begun or taken up where it was left."""

    def __init__(
        self,
        connection: "asyncpg.Connection[Any]",
        step: Migration,
        *,
        pace: Pace = FULL_SPEED,
        told: Told = _nobody,
        lease_s: float = LEASE_S,
    ) -> None:
        self._connection = connection
        self._step = step
        self._keyed: Keyed = keyed(step.name, step.sql)
        self._statements = [each.text for each in statements(step.sql)]
        self._told = told
        self._lease_s = lease_s
        self._holder = new_holder()
        self._throttle = Throttle(pace, self._keyed.batch_rows)
        self._progress = Progress()
        self._rows_s = 0.0
        self._doing = "begins"
        self._finished = False
        self._lag_at = 0.0
        self._hindered_since: float | None = None

    async def run(self) -> bool:
        """Works until all is done; False if somebody else ended it. Waits while it is paused or others work.

        Raises backfill_malformed, migration_failed, migration_busy, database_full, database_unreachable.
        """
        if not self._statements:
            raise FinFlowError("backfill_malformed", f"{self._step.name}.sql has no statement.")
        self._range = await guarded(
            self._step.name, keys.read(self._connection, self._step.name, self._keyed)
        )
        async with self._connection.transaction():
            await steps.begin(self._connection, self._step)
        try:
            with tracing.root(f"db.backfill {self._step.name}"):
                while await self._next() != steps.DONE:
                    pass
        finally:
            if not self._connection.is_closed() and not self._connection.is_in_transaction():
                async with self._connection.transaction():
                    await steps.release(self._connection, self._step.name, self._holder)
        return self._finished

    async def rehearse(self) -> bool:
        """One batch in a transaction that is rolled back; True, as `run` would answer."""
        self._range = await guarded(
            self._step.name, keys.read(self._connection, self._step.name, self._keyed)
        )
        async with rehearsal(self._connection):
            if not await steps.is_prepared(self._connection):
                await steps.prepare(self._connection)
            await steps.begin(self._connection, self._step)
            self._doing = await guarded(self._step.name, self._batch())
            self._tell()
        return True

    async def _next(self) -> str:
        """One batch and the pause after it: done, worked, waits, paused."""
        begun = monotonic()
        before = self._progress.rows
        try:
            self._doing = await guarded(self._step.name, self._batch(), _PASSING)
        except _PASSING:
            await self._hindered()
            return "hindered"
        self._hindered_since = None
        batch_s = monotonic() - begun
        if self._doing != "worked":
            self._tell()
            await asyncio.sleep(0 if self._doing == steps.DONE else _WAIT_S)
            return self._doing
        pause_s = self._throttle.after(batch_s, self._progress.rows - before, self._rows_s)
        self._tell(batch_s, pause_s)
        await asyncio.sleep(pause_s)
        await self._rest_for_replicas()
        return "worked"

    async def _batch(self) -> str:
        async with self._connection.transaction():
            await self._connection.execute(_BATCH_LIMITS)
            row = await self._connection.fetchrow(_MINE, self._step.name, self._holder)
            if row is None or row["state"] == steps.DONE:
                return steps.DONE
            self._progress = msgspec.json.decode(row["progress"] or "{}", type=Progress)
            if row["state"] == steps.PAUSED:
                return steps.PAUSED
            if not row["free"]:
                return "waits"
            begun = monotonic()
            page = await self._range.page(self._connection, self._progress.last, self._throttle.rows)
            if page is None:
                return await self._finish()
            changed = await self._execute(page)
            self._rows_s = monotonic() - begun
            done = self._progress
            progress = Progress(page.last, done.rows + page.rows, done.changed + changed, done.batches + 1)
            await self._advance(progress)
        self._progress = progress
        return "worked"

    async def _execute(self, page: keys.Page) -> int:
        changed = 0
        for text in self._statements:
            status = await self._connection.execute(text, *page.lower, *page.upper)
            count = status.rpartition(" ")[2]
            changed += int(count) if count.isdigit() else 0
        return changed

    async def _advance(self, progress: Progress) -> None:
        text = msgspec.json.encode(progress).decode()
        await self._connection.execute(_ADVANCE, self._step.name, text, self._holder, self._lease_s)

    async def _finish(self) -> str:
        # The last commit is waited for: with it on the disk, all batches before it are there.
        await self._connection.execute("SET LOCAL synchronous_commit = on")
        await steps.finish(self._connection, self._step.name)
        self._finished = True
        return steps.DONE

    async def _hindered(self) -> None:
        now = monotonic()
        self._hindered_since = self._hindered_since or now
        if now - self._hindered_since > HINDERED_S:
            detail = f"{self._step.name} has met nothing but locks for {HINDERED_S:.0f} s."
            raise FinFlowError("migration_busy", detail)
        self._throttle.hindered()
        self._doing = "waits for a lock"
        self._tell()
        await asyncio.sleep(_HINDERED_PAUSE_S * self._throttle.pressure)

    async def _rest_for_replicas(self) -> None:
        while monotonic() - self._lag_at >= _LAG_EVERY_S:
            if not self._throttle.behind(await interruptible(read_lag(self._connection))):
                self._lag_at = monotonic()
                return
            self._doing = "waits for replicas"
            self._tell()
            await asyncio.sleep(_WAIT_S)

    def _tell(self, batch_s: float = 0.0, pause_s: float = 0.0) -> None:
        estimate = max(self._range.estimated_rows, self._progress.rows)
        self._told(News(self._step.name, self._progress, estimate, self._doing, batch_s, pause_s))


async def read_lag(connection: "asyncpg.Connection[Any]") -> Lag:
    """The farthest replica's lag; none where there are no replicas or their rows are not for us to see."""
    async with connection.transaction():
        if not await connection.fetchval(_ON_PRIMARY):
            return Lag()
        row = await connection.fetchrow(_LAG)
    return Lag(row["seconds"], row["bytes"]) if row else Lag()
