"""What the ledger and the pool count, against what their callers saw."""

import asyncio
from typing import Any

import asyncpg
import pytest

from finflow.db import measured
from finflow.db.pool import open_pool
from finflow.kernel.errors import FinFlowError
from finflow.ledger import save, writer
from finflow.telemetry import instruments
from oracles.service import desk, second_desk, transfer


class Growth:
    """By how much counters grew since the last look."""

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> dict[str, float]:
        found = {outcome: counter.value for outcome, counter in instruments.COMMAND.items()}
        found |= {f"refused {code}": counter.value for code, counter in instruments.REFUSAL.items()}
        found |= {f"again {reason}": counter.value for reason, counter in instruments.RETRY.items()}
        found |= {f"failed {code}": counter.value for code, counter in instruments.WRITE_FAILURE.items()}
        return found | {
            "unknown": instruments.unknown_outcomes.value,
            "batches": instruments.batch_size.count,
            "commands": instruments.batch_size.sum,
            "jobs": instruments.queue_wait.count,
            "writes": instruments.write_duration.count,
            "commits": instruments.commit_duration.count,
        }

    def seen(self) -> dict[str, float]:
        """What grew."""
        now = self._now()
        grown = {name: now[name] - self._before[name] for name in now if now[name] != self._before[name]}
        self._before = now
        return grown


async def test_every_command_is_counted_once_by_its_outcome(database_url: str) -> None:
    async with desk(database_url) as found:
        first, second = await found.open(2)
        growth = Growth()
        good = [found.request(transfer(first, second)) for _ in range(30)]
        jobs = [found.service.submit(found.ledger_id, [each]) for each in good]
        await asyncio.gather(*jobs)
        seen = growth.seen()
        assert (seen["accepted"], seen["commands"], seen["jobs"]) == (30, 30, 30)
        assert seen["batches"] == seen["writes"] == seen["commits"] <= 30
        assert set(seen) == {"accepted", "commands", "jobs", "batches", "writes", "commits"}

        bad = [found.request(transfer(first, second, amount="0.001")) for _ in range(4)]
        await found.service.submit(found.ledger_id, bad)
        seen = growth.seen()
        assert (seen["refused"], seen["refused amount_too_precise"], seen["commands"]) == (4, 4, 4)

        await found.service.submit(found.ledger_id, good[:5])
        seen = growth.seen()
        assert (seen["replayed"], seen.get("accepted", 0), seen["again key"]) == (5, 0, 1)


async def test_writes_that_fail_are_counted_by_what_their_callers_were_told(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("the disk speaks in tongues")

    async with desk(database_url) as found:
        first, second = await found.open(2)
        growth = Growth()
        with monkeypatch.context() as patch:
            patch.setattr(save, "write_at_once", broken)
            with pytest.raises(FinFlowError, match="internal"):
                await found.do(transfer(first, second), transfer(first, second))
        assert growth.seen() == {"failed": 2, "failed internal": 1}
        assert await found.codes(transfer(first, second)) == [None]


async def test_outcomes_that_stay_unknown_are_counted_by_command(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any) -> None:
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    async with desk(database_url) as found:
        first, second = await found.open(2)
        growth = Growth()
        with monkeypatch.context() as patch:
            patch.setattr(writer, "RETRY_FOR_S", 0.0)
            patch.setattr(save, "write_at_once", lost)
            with pytest.raises(FinFlowError, match="outcome_unknown"):
                await found.do(*[transfer(first, second)] * 3)
        assert growth.seen() == {"failed": 3, "failed outcome_unknown": 1, "unknown": 3}


async def test_two_processes_writers_count_the_batches_that_the_other_voided(database_url: str) -> None:
    async with desk(database_url) as one, second_desk(database_url, one.ledger_id, "other") as two:
        first, second = await one.open(2)
        growth = Growth()
        for _ in range(20):
            await asyncio.gather(*(each.do(transfer(first, second)) for each in (one, two) for _ in range(3)))
        seen = growth.seen()
        assert seen["accepted"] == 120
        assert seen.get("again void", 0) > 0


async def test_commands_in_the_queue_are_a_gauge(database_url: str) -> None:
    async with desk(database_url) as found:
        first, second = await found.open(2)
        waiting = asyncio.create_task(found.do(*[transfer(first, second)] * 7))
        while not any(each.queued for each in found.ledgers._shared.writers.values()):
            await asyncio.sleep(0)
        found.ledgers.sample()
        assert instruments.queued_commands.value == 7
        await waiting
        found.ledgers.sample()
        assert instruments.queued_commands.value == 0


async def test_the_pool_counts_who_waits_and_who_gives_up(database_url: str) -> None:
    pool = await open_pool(database_url, max_size=2)
    try:
        measured.sample()
        others = instruments.pool_max.value - 2
        waits, timeouts = instruments.pool_wait.count, instruments.pool_timeouts.value
        async with pool.acquire(), pool.acquire():
            measured.sample()
            assert instruments.pool_used.value >= 2
            late = asyncio.create_task(_acquired(pool, 0.1))
            while instruments.pool_pending.value < 1:
                await asyncio.sleep(0)
            with pytest.raises(TimeoutError):
                await late
        assert instruments.pool_wait.count - waits == 3
        assert instruments.pool_timeouts.value - timeouts == 1
        assert instruments.pool_pending.value == 0
    finally:
        await pool.close()
    measured.sample()
    assert instruments.pool_max.value == others


async def _acquired(pool: "asyncpg.Pool[asyncpg.Record]", timeout_s: float) -> None:
    async with pool.acquire(timeout=timeout_s):
        pass
