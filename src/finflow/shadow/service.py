"""The shadow as a process has it: every ledger replayed in turn, cycles netted again, the state told.

It outlives restarts of either database: what cannot be reached is tried again, from what the clone has.
"""

import asyncio
import datetime as dt
import logging
import os
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic, time
from typing import Any, Final

import asyncpg
import msgspec

from finflow.db.pool import connect, open_pool
from finflow.fx.service import FxService
from finflow.kernel.errors import FinFlowError
from finflow.ledger.store import Connection
from finflow.shadow import cycles, live, store
from finflow.shadow.cases import Allowance, Case, excused
from finflow.shadow.cycles import JudgedCycle
from finflow.shadow.judging import Numbers
from finflow.shadow.model import Outcome
from finflow.shadow.replay import TRY_AGAIN, LedgerReplayer
from finflow.shadow.report import LedgerLag, Report, write_cases, write_report

log = logging.getLogger(__name__)

REPORT_EVERY_S: Final = 1.0
CYCLES_EVERY_S: Final = 5.0
# Between two looks where there was not enough for a whole batch: many small ones would cost the live database
# more than they tell sooner.
IDLE_S: Final = 0.2
MAX_PAUSE_S: Final = 2.0
# A cycle whose net positions are not held by then is compared without that hold.
CYCLE_SETTLES_WITHIN: Final = dt.timedelta(minutes=10)
_LOCK: Final = 0x5AD0_0000_0001
_RATE_OVER_S: Final = 10.0
_MISSING_TENANTS: Final = "select * from tenants where tenant_no > $1 order by tenant_no"
_MISSING_LEDGERS: Final = """
select l.*, h.recorded_at from ledgers l join heads h using (ledger_no) where l.ledger_no = any($1::integer[])
"""


# What was netted before the clone was made, and what has been compared since.
_DONE_CYCLES: Final = """
select ledger_no, cycle_no from shadow.cycles
union select ledger_no, cycle_no from settlement_steps where action = 'net'
"""


_QUOTING: Final = """
select ledger_no from ledgers l where exists (select from fx_quotes q where q.ledger_no = l.ledger_no)
"""


class ShadowSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What to compare with what. URLs may hold secrets, and go nowhere else."""

    live_url: str
    clone_url: str
    folder: Path
    baseline: str = ""
    allowances: Sequence[Allowance] = ()


class Shadow:
    """A running shadow. Made by `shadowing()`."""

    def __init__(self, settings: ShadowSettings, live_pool: Any, clone_pool: Any) -> None:
        self.settings = settings
        self.last_error: str | None = None
        self._live, self._clone = live_pool, clone_pool
        self._fx = FxService(clone_pool)
        self._ledgers: dict[int, LedgerReplayer] = {}
        self._numbers = Numbers(1)
        self._bases: dict[int, int] = {}
        self._heads: dict[int, int] = {}
        self._release = False
        self._done_cycles: set[tuple[int, int]] = set()
        self._cycles_due_s = 0.0
        self._started_s = time()
        self._work: deque[tuple[float, int, float]] = deque()

    async def resume(self) -> None:
        """Stand where the clone stands. Raises shadow_target_live."""
        async with self._live.acquire() as connection, self._clone.acquire() as clone:
            await store.check_apart(connection, clone)
            await store.make_releases(clone)
            self._bases = await store.read_bases(clone)
            self._numbers = Numbers(await store.next_case_no(clone))
            done = await clone.fetch(_DONE_CYCLES)
            self._done_cycles = {(row["ledger_no"], row["cycle_no"]) for row in done}
            self._release = await live.has_release(connection)
            write_cases(self.settings.folder, await _all_cases(clone), anew=True)
        await self.close()

    async def close(self) -> None:
        """Give up what is being read."""
        for replayer in self._ledgers.values():
            await replayer.close()
        self._ledgers.clear()

    async def run(self, stopping: asyncio.Event) -> None:
        """Replay until told to stop; errors of the databases are tried again, others end it."""
        reporting = asyncio.create_task(self._report_on())
        pause_s, resumed = IDLE_S, False
        try:
            while not stopping.is_set():
                try:
                    if not resumed:
                        await self.resume()
                        resumed = True
                    busy = await self.round()
                    self.last_error, pause_s = None, IDLE_S
                    if busy:
                        continue
                except (*TRY_AGAIN, FinFlowError) as error:
                    if isinstance(error, FinFlowError) and not error.kind.retryable:
                        raise
                    self.last_error = f"{type(error).__name__}: {error}"
                    log.warning("the shadow tries again", extra={"error": repr(error)})
                    pause_s, resumed = min(MAX_PAUSE_S, pause_s * 2), False
                await _wait(stopping, pause_s)
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)

    async def round(self) -> bool:
        """One batch of every ledger that has something new; whether any was a whole one, so that there is
        more.
        """
        async with self._live.acquire() as connection, self._clone.acquire() as clone:
            self._heads = await live.read_heads(connection)
            unknown = [no for no in self._heads if no not in self._ledgers]
            if unknown:
                await self._meet(connection, clone, unknown)
            pauses = await store.read_pauses(clone)
        busy = False
        for ledger_no, head in self._heads.items():
            replayer = self._ledgers[ledger_no]
            if head > replayer.seq or replayer.unsettled:
                await self._step(replayer, pauses.get(ledger_no))
                busy = busy or replayer.more
        await self._net_again()
        return busy

    async def _step(self, replayer: LedgerReplayer, upto: int | None) -> None:
        began = monotonic()
        rows = await replayer.step(upto, self._release, self.settings.allowances)
        if rows:
            self._work.append((began, rows, monotonic() - began))
        self._tell(replayer.fresh_cases)

    def _tell(self, cases: list[Case]) -> None:
        if cases:
            write_cases(self.settings.folder, cases)
            cases.clear()

    # --- ledgers that were opened since the clone was made ---

    async def _meet(self, connection: Connection, clone: Connection, unknown: Sequence[int]) -> None:
        known = {row[0] for row in await clone.fetch("select ledger_no from ledgers")}
        fresh = [no for no in unknown if no not in known]
        if fresh:
            await _copy_ledgers(connection, clone, fresh)
        for ledger_no in unknown:
            pools = (self._live, self._clone)
            base = self._bases.get(ledger_no, 0)
            replayer = LedgerReplayer(ledger_no, base, pools, self._fx, self._numbers)
            await replayer.resume()
            self._ledgers[ledger_no] = replayer

    # --- settlement ---

    async def _net_again(self) -> None:
        """Compare cycles that were netted since the clone was made, and quotes that nothing has used yet."""
        if monotonic() < self._cycles_due_s:
            return
        self._cycles_due_s = monotonic() + CYCLES_EVERY_S
        async with self._live.acquire() as connection:
            self._release = self._release or await live.has_release(connection)
            quoting = [row[0] for row in await connection.fetch(_QUOTING)]
            for netted in await cycles.read_netted(connection, self._done_cycles):
                judged = await cycles.judge_cycle(connection, netted)
                old = dt.datetime.now(dt.UTC) - judged.at > CYCLE_SETTLES_WITHIN
                if judged.compared.differences or judged.whole or old:
                    await self._keep_cycle(judged)
        for replayer in [self._ledgers[no] for no in quoting if no in self._ledgers]:
            await replayer.bring_quotes(self.settings.allowances)
            self._tell(replayer.fresh_cases)

    async def _keep_cycle(self, judged: JudgedCycle) -> None:
        cases = []
        if judged.compared.outcome is not Outcome.MATCH:
            cases.append(self._cycle_case(judged))
        async with self._clone.acquire() as clone, clone.transaction():
            await store.add_cases(clone, cases)
            outcome = cases[0].outcome if cases else Outcome.MATCH
            await store.count(clone, judged.ledger_no, Counter([outcome]))
            await store.finish_cycle(clone, judged.ledger_no, judged.cycle_no)
        self._done_cycles.add((judged.ledger_no, judged.cycle_no))
        self._tell(cases)

    def _cycle_case(self, judged: JudgedCycle) -> Case:
        now = dt.datetime.now(dt.UTC)
        outcome, allowance = excused(
            judged.compared, "cycle", "cycle", self.settings.allowances, now.date()
        )  # fmt: skip
        return Case(
            self._numbers.take(), judged.ledger_no, "cycle", judged.cycle_no, outcome, "cycle", now,
            judged.at, judged.compared.differences, judged.live, judged.shadow, allowance=allowance,
        )  # fmt: skip

    # --- what is told ---

    async def _report_on(self) -> None:
        while True:
            try:
                await self.report("running")
            except (*TRY_AGAIN, FinFlowError, TimeoutError) as error:
                self.last_error = f"{type(error).__name__}: {error}"
            await asyncio.sleep(REPORT_EVERY_S)

    async def report(self, state: str) -> Report:
        """Write the report as of now."""
        async with asyncio.timeout(10):
            async with self._clone.acquire() as clone:
                tallies = await store.read_tallies(clone)
                releases = await store.read_releases(clone) if self._release else None
                cases: int = await clone.fetchval("select count(*) from shadow.cases")
            lags = [await self._lag(no, replayer) for no, replayer in sorted(self._ledgers.items())]
        outcomes = sum(tallies.values(), Counter[str]())
        report = Report(
            time(), os.getpid(), state, self.settings.baseline, self._started_s, dict(outcomes), lags,
            self._rate(), cases, None, self.last_error, releases,
        )  # fmt: skip
        write_report(self.settings.folder, report)
        return report

    async def _lag(self, ledger_no: int, replayer: LedgerReplayer) -> LedgerLag:
        head = max(self._heads.get(ledger_no, 0), replayer.seq)
        lag_s = 0.0
        if head > replayer.seq:
            async with self._live.acquire() as connection:
                at = await live.recorded_at(connection, ledger_no, replayer.seq + 1)
            lag_s = 0.0 if at is None else max(0.0, time() - at.timestamp())
        return LedgerLag(
            ledger_no, head, replayer.seq, replayer.base_seq, head - replayer.seq, round(lag_s, 3)
        )

    def _rate(self) -> float:
        """Commands a second while it works, lately."""
        while self._work and self._work[0][0] < monotonic() - _RATE_OVER_S:
            self._work.popleft()
        spent = sum(each[2] for each in self._work)
        return round(sum(each[1] for each in self._work) / spent, 1) if spent else 0.0


@asynccontextmanager
async def shadowing(settings: ShadowSettings) -> AsyncIterator[Shadow]:
    """A shadow over a marked clone, the only one on it. Raises shadow_running, database_unreachable."""
    lock = await connect(settings.clone_url, application_name="finflow shadow", command_timeout_s=None)
    live_pool: asyncpg.Pool[asyncpg.Record] | None = None
    clone_pool: asyncpg.Pool[asyncpg.Record] | None = None
    try:
        if not await lock.fetchval("select pg_try_advisory_lock($1)", _LOCK):
            raise FinFlowError("shadow_running", "another process replays on this clone")
        live_pool = await open_pool(settings.live_url, max_size=3, application_name="finflow shadow reads")
        clone_pool = await open_pool(settings.clone_url, max_size=4, application_name="finflow shadow")
        shadow = Shadow(settings, live_pool, clone_pool)
        try:
            yield shadow
        finally:
            await shadow.close()
    finally:
        for pool in (live_pool, clone_pool):
            if pool is not None:
                pool.terminate()
        lock.terminate()


async def _copy_ledgers(connection: Connection, clone: Connection, ledger_nos: Sequence[int]) -> None:
    """Tenants and ledgers that the clone lacks, the ledgers at their beginning."""
    last = await clone.fetchval("select coalesce(max(tenant_no), 0) from tenants")
    tenants = await connection.fetch(_MISSING_TENANTS, last)
    ledgers = await connection.fetch(_MISSING_LEDGERS, ledger_nos)
    async with clone.transaction():
        await clone.executemany(
            "insert into tenants (tenant_no, name, created_at) overriding system value values ($1, $2, $3)",
            [(row["tenant_no"], row["name"], row["created_at"]) for row in tenants],
        )
        await clone.executemany(
            "insert into ledgers (ledger_no, tenant_no, name, created_at) overriding system value"
            " values ($1, $2, $3, $4)",
            [(row["ledger_no"], row["tenant_no"], row["name"], row["created_at"]) for row in ledgers],
        )
        await clone.executemany(
            "insert into heads (ledger_no, seq, account_no, recorded_at) values ($1, 0, 0, $2)",
            [(row["ledger_no"], row["created_at"]) for row in ledgers],
        )


async def _all_cases(clone: Connection) -> list[Case]:
    found: list[Case] = []
    while page := await store.read_cases(clone, found[-1].case_no if found else 0):
        found += page
    return found


async def _wait(stopping: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return
