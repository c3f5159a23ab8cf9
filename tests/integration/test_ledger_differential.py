"""The same commands one by one, in batches, and by several writers: the same rows, but for their times.

Ids hold the time of their row, so all ledgers share a clock that stands still.
"""

import asyncio
from random import Random
from typing import Any, NamedTuple

from finflow.ledger import commands as c
from oracles.draws import Draws
from oracles.ledger import Ledger
from oracles.service import Desk, desk, second_desk

ROWS = {
    "journal": "select seq, target, kind, key, caller, legs, code, param, reference, command,"
    " expires_at - recorded_at as timeout from journal where ledger_no = $1 order by seq",
    "entries": "select account_no, version, seq, amount, held, posted_debits, posted_credits, pending_debits,"
    " pending_credits, late_at is null as in_order from entries where ledger_no = $1"
    " order by account_no, version",
    "accounts": "select account_no, seq, currency, kind, status, floor, ceiling, external_reference,"
    " metadata::text from accounts where ledger_no = $1 order by account_no",
    "assets": "select code, exponent from assets where ledger_no = $1 order by code",
}
COUNT = 500


class Step(NamedTuple):
    """A request, and the last step before it that made something it names (-1: none)."""

    request: c.Request
    after: int


async def tables(one: Desk, ledger_no: int = 1) -> dict[str, list[tuple[Any, ...]]]:
    return {name: [tuple(row) for row in await one.rows(sql, ledger_no)] for name, sql in ROWS.items()}


async def play_single(one: Desk, seed: int) -> list[Step]:
    """Random commands one at a time, each drawn on what those before it left."""
    oracle = Ledger()
    draws = Draws(Random(seed), oracle)  # noqa: S311 - a test that can be repeated
    steps: list[Step] = []
    made: dict[str, int] = {}
    opening = [
        c.OpenAccount(currency, "asset", None)
        for currency in ("SGD", "SGD", "SGD", "JPY", "JPY", "BHD", "BHD")
    ]
    for number in range(COUNT):
        command = opening[number] if number < len(opening) else draws.any()
        request = c.Request(f"r{number}", command, "test")
        [record] = await one.service.submit(one.ledger_id, [request])
        name = record.transaction_id(1)
        if isinstance(command, c.OpenAccount) and record.account is not None:
            name = record.account.account_id
        assert oracle.decide(command, record.recorded_at, name) == record.code
        steps.append(
            Step(request, max((made[text] for text in names_in(command) if text in made), default=-1))
        )
        if record.code is None:
            made[name] = number
    return steps


def names_in(command: c.Command) -> set[str]:
    """The ids that a command names."""
    if isinstance(command, c.PostTransaction):
        return {line.account_id for line in command.entries}
    return {getattr(command, "transaction_id", ""), getattr(command, "account_id", "")}


async def play_batches(one: Desk, steps: list[Step], random: Random) -> None:
    """The same commands in lists of random sizes, several under way at once.

    Nobody can name what is not answered yet, since ids are part of the answer.
    """
    # The first look at a ledger is a read, in which lists sent at once could overtake each other.
    await one.service.ledger(one.ledger_id)
    jobs: list[asyncio.Task[Any]] = []
    start = answered = 0
    while start < len(steps):
        size = random.choice([1, 2, 7, 40, 200])
        if steps[start].after >= answered:
            await asyncio.gather(*jobs)
            answered = start
        stop = start + 1
        while stop < min(start + size, len(steps)) and steps[stop].after < answered:
            stop += 1
        requests = [step.request for step in steps[start:stop]]
        jobs.append(asyncio.create_task(one.service.submit(one.ledger_id, requests)))
        await asyncio.sleep(random.choice([0, 0, 0.001, 0.01]))
        start = stop
    await asyncio.gather(*jobs)


async def test_batches_write_what_single_commands_write(database_url: str) -> None:
    async with desk(database_url) as one:
        steps = await play_single(one, seed=11)
        single = await tables(one)
        assert len(single["journal"]) == COUNT
        assert len(single["entries"]) > COUNT // 2
        for seed in range(4):
            await forget_everything(one)
            async with second_desk(database_url, one.ledger_id, "b") as fresh:
                await play_batches(fresh, steps, Random(seed))  # noqa: S311 - the same
            batches = await tables(one)
            for name in ROWS:
                assert batches[name] == single[name], name


async def test_several_writers_write_what_one_would_in_the_order_of_the_journal(database_url: str) -> None:
    async with desk(database_url) as one:
        steps = await play_single(one, seed=12)
        await forget_everything(one)
        # Who names a transaction depends on its place in the journal, which chance decides here.
        plain = [
            step
            for step in steps[7:]
            if isinstance(step.request.command, c.PostTransaction | c.ChangeAccount)
        ]
        rest = [Step(step.request, -1) for step in plain]
        await one.service.submit(one.ledger_id, [step.request for step in steps[:7]])
        await asyncio.gather(
            *(play_beside(database_url, one, rest[start::3], Random(start)) for start in range(3))  # noqa: S311 - the same
        )
        together = await tables(one)
        order = [row[3] for row in together["journal"]]
        by_key = {step.request.key: step.request for step in [*steps[:7], *rest]}
        assert sorted(order) == sorted(by_key)
        await forget_everything(one)
        async with second_desk(database_url, one.ledger_id, "s") as alone:
            for key in order:
                await alone.service.submit(alone.ledger_id, [by_key[key]])
        again = await tables(one)
        for name in ROWS:
            assert together[name] == again[name], name


async def play_beside(url: str, one: Desk, part: list[Step], chance: Random) -> None:
    """Play a part through a service of one's own, as another process would."""
    async with second_desk(url, one.ledger_id, "o", one.clock) as other:
        await play_batches(other, part, chance)


async def forget_everything(one: Desk) -> None:
    """Empty the ledger behind everybody's back: only a test may, with the triggers off."""
    async with one.pool.acquire() as connection, connection.transaction():
        for table in ("journal", "entries"):
            await connection.execute(
                f"alter table {table} disable trigger user; delete from {table};"  # noqa: S608 - two constants
                f"alter table {table} enable trigger user"
            )
            for trigger in await connection.fetch(
                "select tgname from pg_trigger where tgrelid = $1::text::regclass and not tgisinternal", table
            ):
                await connection.execute(f"alter table {table} enable always trigger {trigger[0]}")
        await connection.execute(
            "delete from accounts; delete from assets; update heads set seq = 0, account_no = 0"
        )
    one.service._shared.writers.clear()
    one.service._shared.labels.clear()
