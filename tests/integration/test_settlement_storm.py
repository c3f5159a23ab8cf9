"""The retry storm: 500 clients, a database that stands still, and what becomes of both.

The failure that it guards against is reproduced first: without bounds, and with clients that give up early
and ask again at once, attempts multiply and sessions pile up behind the lock.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from finflow.settlement.acceptance import ACCEPTING_AT_ONCE
from oracles.service import Clock, desk
from oracles.settling import MONDAY, Bank, books_are_whole, micros, settling

sys.path.append(str(Path(__file__).parents[2]))

from bench.storm import Clients, Intent, Storm, accepting, made_work, unbounded, weather

MEMBERS = [f"BANK{number}" for number in range(10)]
# What works beside acceptance: a ledger's writer never waits for settlement's tables.
BESIDE = 1


@asynccontextmanager
async def crowd(url: str, pool_size: int) -> AsyncIterator[Bank]:
    async with desk(url, clock=Clock(micros(MONDAY)), max_size=pool_size) as one:
        made = settling(one)
        for name in MEMBERS:
            await made.add(name, "100000")
        yield made


async def storm(here: Bank, url: str, clients: Clients, work: list[list[Intent]], locked_s: float) -> Storm:
    async def connection() -> Any:
        return await asyncpg.connect(url)

    return await weather(here.one.pool, connection, clients, work, locked_s)


async def each_once(here: Bank, work: list[list[Intent]]) -> None:
    """Every order of every intent is there once, and settles; no currency has money that was not there."""
    wanted = sorted(draft.end_to_end_id for mine in work for intent in mine for draft in intent.drafts)
    rows = await here.one.rows("select end_to_end_id from settlement_orders")
    assert sorted(row["end_to_end_id"] for row in rows) == wanted
    await here.past_cut_off()
    settled = await here.one.value(
        "select count(*) from settlement_orders o where posted_on(o.ledger_no, o.ledger_no, o.order_no)"
    )
    assert settled == len(wanted)
    assert await here.one.value("select count(*) from settlement_work") == 0
    await books_are_whole(here.one)


async def test_without_bounds_attempts_multiply_and_sessions_pile_up(database_url: str) -> None:
    async with crowd(database_url, 40) as here, unbounded(here.room):
        work = made_work(100, 1, "naive", MEMBERS)
        clients = Clients(accepting(here.settlement, here.ledger_id), naive_s=0.5)
        seen = await storm(here, database_url, clients, work, 2.5)
        assert seen.amplification > 1.2
        assert seen.most_waiting > 2 * (ACCEPTING_AT_ONCE + BESIDE)


async def test_500_clients_and_a_database_that_stands_still(database_url: str) -> None:
    async with crowd(database_url, 8) as here:
        work = made_work(500, 1, "storm", MEMBERS)
        clients = Clients(accepting(here.settlement, here.ledger_id))
        seen = await storm(here, database_url, clients, work, 5.0)
        print(f"storm_amplification {seen.amplification:.3f}, storm_waiting {seen.most_waiting}")
        first = min(each for each in seen.done_at_s if each >= seen.released_at_s) - seen.released_at_s
        print(f"the first answer {first:.2f} s after the end of the lock")
        assert seen.intents == 500
        assert seen.attempts > seen.intents, "the lock was felt"
        assert seen.amplification <= 1.2
        assert 0 < seen.most_waiting <= ACCEPTING_AT_ONCE + BESIDE
        assert seen.waiting_after == 0
        await each_once(here, work)


async def test_hasty_clients_do_not_reach_the_database_either(database_url: str) -> None:
    """Clients that are not ours: the attempts are theirs, the sessions that wait are bounded all the same."""
    async with crowd(database_url, 8) as here:
        work = made_work(100, 1, "hasty", MEMBERS)
        clients = Clients(accepting(here.settlement, here.ledger_id), naive_s=0.7)
        seen = await storm(here, database_url, clients, work, 3.0)
        assert seen.most_waiting <= ACCEPTING_AT_ONCE + BESIDE
        assert seen.waiting_after == 0
        await each_once(here, work)
