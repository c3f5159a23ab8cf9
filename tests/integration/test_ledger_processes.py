"""Several writers on one ledger: another process is another service, or really another process."""

import asyncio
import sys
from collections import Counter
from pathlib import Path

import asyncpg
import msgspec

from oracles.service import ENTRY_SUMS, audit, desk, second_desk, transfer

POSTER = Path(__file__).parent.parent / "oracles" / "poster.py"
PROCESSES = 4
OWN, SHARED = 120, 40


async def test_a_writer_that_was_overtaken_by_as_many_commands_reads_its_book_anew(database_url: str) -> None:
    """The head stands where the writer's own book stands, but somebody else moved it there."""
    async with desk(database_url) as one, second_desk(database_url, one.ledger_id, "x") as other:
        a, b = await one.open(2)
        for _ in range(6):
            await one.do(transfer(a, b, "1"))
            await other.do(transfer(a, b, "100"))
        balance = await one.service.balance(b)
        assert balance.balance == "606.00"
        await audit(await one.rows(ENTRY_SUMS))


async def test_writers_that_take_turns_at_random_agree(database_url: str) -> None:
    async with desk(database_url) as one, second_desk(database_url, one.ledger_id, "x") as other:
        a, b = await one.open(2)

        async def post(who: object, times: int) -> None:
            for _ in range(times):
                await who.do(transfer(a, b, "1"))  # type: ignore[attr-defined]

        await asyncio.gather(*(post(who, 40) for who in (one, other) for _ in range(3)))
        assert (await one.service.balance(b)).balance == "240.00"
        await audit(await one.rows(ENTRY_SUMS))


async def test_processes_post_to_ledgers_at_once(database_url: str) -> None:
    """Dense `seq`, no deadlock, nothing lost, nothing twice, though some keys are sent by all processes."""
    async with desk(database_url) as one:
        ledgers = [one.ledger_id]
        ledgers.append((await one.service.create_ledger("second")).ledger_id)
        accounts = []
        for ledger_id in ledgers:
            one.ledger_id = ledger_id
            accounts.append(await one.open(6))
        jobs = [
            run_poster(database_url, f"p{number}", dict(zip(ledgers, accounts, strict=True)))
            for number in range(PROCESSES)
        ]
        answers = [line for lines in await asyncio.gather(*jobs) for line in lines]
        for ledger_id in ledgers:
            one.ledger_id = ledger_id
            await check_journal(one, [each for each in answers if each["ledger_id"] == ledger_id])
        await audit(await one.rows(ENTRY_SUMS))
        deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
        assert await one.value(deadlocks) == 0


async def check_journal(one: object, answers: list[dict[str, object]]) -> None:
    records = []
    while page := await one.service.journal(one.ledger_id, len(records), 1000):  # type: ignore[attr-defined]
        records += page
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    keys = Counter(record.key for record in records)
    assert max(keys.values()) == 1
    by_key = {record.key: record.seq for record in records}
    assert {(a["key"], a["seq"]) for a in answers} <= set(by_key.items()), (
        "an acknowledged command is not there"
    )
    sent = {f"p{n}-{i}" for n in range(PROCESSES) for i in range(OWN)} | {f"all-{i}" for i in range(SHARED)}
    assert set(by_key) - {key for key in by_key if key.startswith("k")} == sent
    fresh = Counter(a["key"] for a in answers if not a["replayed"])
    assert set(fresh) == sent
    assert max(fresh.values()) == 1
    assert (await one.service.trial_balance(one.ledger_id)).balanced  # type: ignore[attr-defined]


async def run_poster(url: str, name: str, accounts: dict[str, list[str]]) -> list[dict[str, object]]:
    plan = {"url": url, "name": name, "accounts": accounts, "own": OWN, "shared": SHARED}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(POSTER), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(msgspec.json.encode(plan)), 120)
    assert process.returncode == 0
    return [msgspec.json.decode(line) for line in output.splitlines()]


async def test_the_server_kept_the_entries_of_each_ledger_apart(database_url: str) -> None:
    """Two ledgers number their accounts alike; neither sees the other's."""
    async with desk(database_url) as one:
        a, b = await one.open(2)
        first = one.ledger_id
        one.ledger_id = (await one.service.create_ledger("second")).ledger_id
        x, y = await one.open(2)
        assert await one.codes(transfer(a, b)) == ["account_unknown"]
        assert await one.codes(transfer(x, y)) == [None]
        one.ledger_id = first
        assert await one.codes(transfer(x, y)) == ["account_unknown"]
        assert (await one.service.balance(a)).version == 0
        connection = await asyncpg.connect(database_url)
        assert await connection.fetchval("select count(*) from entries") == 2
        await connection.close()
