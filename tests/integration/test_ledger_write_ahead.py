"""Batches whose rows are written while the batch before is not committed yet, here from the first command on.

Each test sends commands to several batches at once that touch the same thing. A session that waits for one
that waits for it, out of PostgreSQL's sight, shows as a command that times out.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from finflow.ledger import commands as c
from finflow.ledger import writer
from oracles.service import ENTRY_SUMS, Desk, audit, desk, second_desk, transfer


@pytest_asyncio.fixture
async def ahead(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(writer, "WRITE_AHEAD_FROM", 1, raising=True)
    monkeypatch.setattr(writer, "RETRY_FOR_S", 0.0)
    async with (
        desk(database_url) as one,
        second_desk(database_url, one.ledger_id, "a", command_timeout_s=2) as other,
    ):
        yield other


async def stream(one: Desk, lists: list[list[c.Command]]) -> list[list[str | None]]:
    """Sends lists one after another without waiting for answers, so that they meet in flight."""
    jobs = []
    for number, commands in enumerate(lists):
        jobs.append(asyncio.create_task(one.codes(*commands)))
        await asyncio.sleep(0 if number % 3 else 0.002)
    return await asyncio.gather(*jobs)


async def test_payments_in_flight_are_booked_in_order(ahead: Desk) -> None:
    a, b = await ahead.open(2)
    await ahead.codes(transfer(a, b))
    assert await stream(ahead, [[transfer(a, b)] * 3] * 60) == [[None] * 3] * 60
    assert (await ahead.service.balance(b)).balance == "181.00"
    await audit(await ahead.rows(ENTRY_SUMS))


async def test_an_account_changed_by_two_batches_in_flight(ahead: Desk) -> None:
    [a] = await ahead.open(1)
    changes = [[c.ChangeAccount(a, metadata={"n": str(n)})] * 5 for n in range(40)]
    assert await stream(ahead, changes) == [[None] * 5] * 40
    assert (await ahead.service.account(a)).metadata == {"n": "39"}


async def test_an_asset_declared_by_two_batches_in_flight(ahead: Desk) -> None:
    await ahead.open(1)
    assert await stream(ahead, [[c.DeclareAsset("PTS", 3)] * 3] * 40) == [[None] * 3] * 40


async def test_a_limit_raised_by_the_batch_before(ahead: Desk) -> None:
    """The payment is allowed by a limit that is decided, but not committed."""
    [poor] = await ahead.open(overdraft_limit="0")
    [rich] = await ahead.open()
    lists: list[list[c.Command]] = []
    for _ in range(20):
        lists += [[c.ChangeAccount(poor, overdraft_limit="5")], [transfer(poor, rich, "5")]]
        lists += [[transfer(rich, poor, "5")], [c.ChangeAccount(poor, overdraft_limit="0")]]
    assert await stream(ahead, lists) == [[None]] * 80


async def test_another_writer_that_comes_between(ahead: Desk, database_url: str) -> None:
    a, b = await ahead.open(2)
    rounds = 30
    async with second_desk(database_url, ahead.ledger_id, "z", command_timeout_s=2) as other:

        async def pump(one: Desk) -> None:
            for _ in range(rounds):
                await stream(one, [[transfer(a, b)] * 2] * 40)

        await asyncio.gather(pump(ahead), pump(other))
    assert (await ahead.service.balance(b)).balance == f"{rounds * 160}.00"
    await audit(await ahead.rows(ENTRY_SUMS))
