"""The baseline against itself: whatever is asked of the live books, the shadow makes the same of it."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from finflow.ledger import commands as c
from finflow.ledger import copy
from finflow.shadow import replay
from oracles.draws import Draws
from oracles.ledger import Ledger
from oracles.service import Desk, desk
from oracles.shadowing import cloned, rows, watched
from oracles.trading import market_of, trade

BOOKS = """
select a.ledger_no, a.account_no, status, floor, ceiling, external_reference, metadata::text,
       e.version, e.posted_debits,
       e.posted_credits, e.pending_debits, e.pending_credits, e.effective_max, a.created_at
  from accounts a left join lateral (select * from entries e where e.ledger_no = a.ledger_no
       and e.account_no = a.account_no order by version desc limit 1) e on true
 order by a.ledger_no, a.account_no
"""
JOURNAL = """
select ledger_no, seq, recorded_at, target, case when code is null then expires_at end,
       kind, key, caller, legs, code, param, reference
  from journal order by ledger_no, seq
"""


@pytest.fixture(params=[False, True], ids=["entries", "whole"])
def kept(request: pytest.FixtureRequest) -> Iterator[bool]:
    copy.keep_commands_whole(request.param)
    yield request.param
    copy.keep_commands_whole(False)


async def play(one: Desk, seed: int, count: int) -> None:
    """Random commands of every kind, one by one and in groups, the clock going on, timeouts swept."""
    oracle, dice = Ledger(), Random(seed)  # noqa: S311 - a test that can be repeated
    draws = Draws(dice, oracle)
    opening = [c.OpenAccount(cur, "asset", None) for cur in ("SGD", "SGD", "SGD", "JPY", "JPY", "BHD", "BHD")]
    for number in range(count):
        if number % 10 == 0:
            one.clock.at += dice.randrange(3_000_000)
        if number >= len(opening) and dice.randrange(12) == 0:
            await one.do(*[draws.transfer() for _ in range(dice.randrange(1, 5))], atomic=True)
            continue
        command = opening[number] if number < len(opening) else draws.any()
        [record] = await one.do(command)
        name = record.transaction_id(1)
        if isinstance(command, c.OpenAccount) and record.account is not None:
            name = record.account.account_id
        oracle.decide(command, record.recorded_at, name)
        if number % 100 == 0:
            await one.service.expire_due(one.ledger_id)


async def test_random_commands_are_clean(
    database_url: str, database_url_empty: str, tmp_path: Path, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = 1 + kept
    if kept:
        # Groups, holds and accounts lie across the ends of batches.
        monkeypatch.setattr(replay, "BATCH", 17)
    async with desk(database_url) as one:
        await play(one, seed, 300)
        await cloned(database_url, database_url_empty)
        async with watched(database_url, database_url_empty, tmp_path / "s") as shadow:
            await play(one, seed + 100, 700)
            report = await shadow.catch_up()
        assert shadow.cases == []
        assert report.wrong == 0
        head = (await one.rows("select seq from heads"))[0][0]
        base = report.ledgers[0].base_seq
        assert report.compared + report.outcomes.get("late", 0) == head - base > 500
        assert report.lag_commands == 0
    assert await rows(database_url, BOOKS) == await rows(database_url_empty, BOOKS)
    assert await rows(database_url, JOURNAL) == await rows(database_url_empty, JOURNAL)


async def test_conversions_are_clean(database_url: str, database_url_empty: str, tmp_path: Path) -> None:
    async with desk(database_url) as one:
        market = await market_of(one)
        await cloned(database_url, database_url_empty)
        async with watched(database_url, database_url_empty, tmp_path / "s") as shadow:
            dice = random.Random(5)  # noqa: S311 - a test that can be repeated
            for _ in range(4):
                await trade(market, dice, 30)
                report = await shadow.catch_up()
        assert shadow.cases == []
        quotes = await one.value("select count(*) from fx_quotes")
        head = await one.value("select seq from heads")
        base = report.ledgers[0].base_seq
        assert report.compared + report.outcomes.get("late", 0) == head - base + quotes
        assert quotes >= 80
    numbers = """
    select quote_no, sell_minor, buy_minor, fair_minor, rate, residue, rate_nos, expires_at
      from fx_quotes order by 1
    """
    assert await rows(database_url, numbers) == await rows(database_url_empty, numbers)
    assert await rows(database_url, BOOKS) == await rows(database_url_empty, BOOKS)


@pytest.mark.parametrize(("after_s", "clean"), [(1, True), (100, False)])
async def test_a_rate_that_came_in_between(
    database_url: str, database_url_empty: str, tmp_path: Path, after_s: int, clean: bool
) -> None:
    """A quote may miss a rate that was recorded a moment before it, and none that was there long before."""
    async with desk(database_url) as one:
        market = await market_of(one)
        await cloned(database_url, database_url_empty)
        async with watched(database_url, database_url_empty, tmp_path / "s") as shadow:
            start = one.clock.at
            one.clock.at = start + after_s * 1_000_000
            await market.quote("EUR", "USD", "100")
            one.clock.at = start + after_s * 500_000
            await market.push("9")
            await shadow.catch_up()
        assert (shadow.cases == []) is clean


async def test_several_ledgers_opened_later(
    database_url: str, database_url_empty: str, tmp_path: Path
) -> None:
    async with desk(database_url) as one:
        await one.open(3)
        await cloned(database_url, database_url_empty)
        async with watched(database_url, database_url_empty, tmp_path / "s") as shadow:
            await shadow.catch_up()
            others = [await one.service.create_ledger(f"other {n}") for n in range(2)]
            other_tenant = one.ledgers.of((await one.ledgers.create_tenant("late")).tenant_id)
            theirs = await other_tenant.create_ledger("theirs")
            opening = one.request(c.OpenAccount("SGD", "asset", None))
            await asyncio.gather(
                *(one.service.submit(each.ledger_id, [opening]) for each in others),
                other_tenant.submit(theirs.ledger_id, [opening]),
            )
            report = await shadow.catch_up()
        assert {each.ledger_no: each.shadow_seq for each in report.ledgers} == {1: 3, 2: 1, 3: 1, 4: 1}
        assert shadow.cases == []
