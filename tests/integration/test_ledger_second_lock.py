"""PostgreSQL as the second lock: what no program may do, not even a superuser in a replica session.

Every attempt starts from a sound ledger, writes raw SQL that is sound but for one thing, and must fail
with the SQLSTATE that belongs to it. A sound attempt must pass, or the others would prove nothing.
"""

# ruff: noqa: E501 - one row of the table is one line

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from finflow.ledger import commands as c
from oracles.service import Desk, desk, transfer

ROLES = ["origin", "replica"]
MOMENT = "'2026-01-02T00:00:00Z'"
JOURNAL = "insert into journal (ledger_no, seq, recorded_at, kind, key, caller, target) values "
ENTRIES = (
    "insert into entries (ledger_no, account_no, version, seq, amount, held, posted_debits, posted_credits,"
    " pending_debits, pending_credits, effective_max) values "
)

# The ledger has accounts 1 (limit 0, balance 10.00, version 1), 2 (no limit, version 1), 3 (no entry);
# seq 1 to 3 opened them, 4 posted, 5 holds 1.00 of account 2 for account 3, 6 voided it.
SOUND = f"{ENTRIES} (1, 1, 2, 9, -100, 0, 1000, 100, 0, 0, {MOMENT}), (1, 2, 4, 9, 100, 0, 100, 1000, 0, 0, {MOMENT})"

# fmt: off
REFUSED = [
    ("unbalanced", "23514", f"{ENTRIES} (1, 1, 2, 9, -100, 0, 1000, 100, 0, 0, {MOMENT}), (1, 2, 4, 9, 99, 0, 99, 1000, 0, 0, {MOMENT})"),
    ("unbalanced hold", "23514", f"{ENTRIES} (1, 1, 2, 9, 0, -100, 1000, 0, 0, 100, {MOMENT}), (1, 2, 4, 9, 0, 99, 0, 1000, 99, 0, {MOMENT})"),
    ("one line alone", "23514", f"{ENTRIES} (1, 1, 2, 9, -100, 0, 1000, 100, 0, 0, {MOMENT})"),
    ("balanced over two transactions only", "23514", f"{ENTRIES} (1, 1, 2, 9, -100, 0, 1000, 100, 0, 0, {MOMENT}), (1, 2, 4, 10, 100, 0, 100, 1000, 0, 0, {MOMENT})"),
    ("balanced over two currencies only", "23514", f"{ENTRIES} (1, 1, 2, 9, -100, 0, 1000, 100, 0, 0, {MOMENT}), (1, 4, 1, 9, 100, 0, 100, 0, 0, 0, {MOMENT})"),
    ("unknown account", "23514", f"{ENTRIES} (1, 1, 2, 9, -100, 0, 1000, 100, 0, 0, {MOMENT}), (1, 77, 1, 9, 100, 0, 100, 0, 0, 0, {MOMENT})"),
    ("account of another ledger", "23514", f"{ENTRIES} (2, 1, 1, 9, -100, 0, 0, 100, 0, 0, {MOMENT}), (2, 2, 1, 9, 100, 0, 100, 0, 0, 0, {MOMENT})"),
    ("below the floor", "23514", f"{ENTRIES} (1, 1, 2, 9, -1001, 0, 1000, 1001, 0, 0, {MOMENT}), (1, 2, 4, 9, 1001, 0, 1001, 1000, 0, 0, {MOMENT})"),
    ("held below the floor", "23514", f"{ENTRIES} (1, 1, 2, 9, 0, -1001, 1000, 0, 0, 1001, {MOMENT}), (1, 2, 4, 9, 0, 1001, 0, 1000, 1001, 0, {MOMENT})"),
    ("negative total", "23514", f"{ENTRIES} (1, 1, 2, 9, -100, 0, 1000, -1, 0, 0, {MOMENT}), (1, 2, 4, 9, 100, 0, 100, 1000, 0, 0, {MOMENT})"),
    ("version taken", "23505", f"{ENTRIES} (1, 1, 1, 9, -100, 0, 1000, 100, 0, 0, {MOMENT}), (1, 2, 4, 9, 100, 0, 100, 1000, 0, 0, {MOMENT})"),
    ("seq taken", "23505", f"{JOURNAL} (1, 4, {MOMENT}, 'post', 'fresh', 'me', null)"),
    ("key taken", "23505", f"{JOURNAL} (1, 9, {MOMENT}, 'post', 'k3', 'me', null)"),
    ("hold resolved again", "23505", f"{JOURNAL} (1, 9, {MOMENT}, 'capture', 'fresh', 'me', 5)"),
    ("journal updated", "23001", "update journal set key = 'x' where seq = 4"),
    ("journal deleted", "23001", "delete from journal where seq = 4"),
    ("journal truncated", "23001", "truncate journal"),
    ("entries updated", "23001", "update entries set amount = 1 where account_no = 1"),
    ("entries deleted", "23001", "delete from entries where account_no = 1"),
    ("entries truncated", "23001", "truncate entries"),
    ("updated by none", "23001", "update journal set key = 'x' where false"),
    ("truncated from above", "23001", "truncate tenants, ledgers, heads, assets, accounts, journal, entries cascade"),
    ("merged", "23001", "merge into entries e using (select 1 as v) s on e.version = s.v when matched then delete"),
    ("overwritten on conflict", "23001", f"{JOURNAL} (1, 4, {MOMENT}, 'post', 'k3', 'me', null) on conflict (ledger_no, seq) do update set key = 'x'"),
]
# fmt: on


@pytest_asyncio.fixture
async def sound(database_url: str) -> AsyncIterator[Desk]:
    """The ledger that REFUSED speaks of."""
    async with desk(database_url) as one:
        [limited] = await one.open(overdraft_limit="0")
        rich, third = await one.open(2)
        await one.do(transfer(rich, limited, "10"))
        [held] = await one.do(transfer(rich, third, "1", pending=True))
        await one.do(c.VoidPending(held.transaction_id(1)))
        await one.open(1, "USD")
        yield one


async def attempt(one: Desk, role: str, sql: str) -> str | None:
    """The SQLSTATE with which a superuser's transaction fails, or None if it commits."""
    async with one.pool.acquire() as connection:
        await connection.execute(f"set session_replication_role = {role}")
        try:
            async with connection.transaction():
                await connection.execute(sql)
        except asyncpg.PostgresError as error:
            return error.sqlstate
        finally:
            await connection.execute("set session_replication_role = origin")
    return None


@pytest.mark.parametrize("role", ROLES)
async def test_the_database_refuses(sound: Desk, role: str) -> None:
    before = await state(sound)
    answers = {name: await attempt(sound, role, sql) for name, _, sql in REFUSED}
    assert answers == {name: code for name, code, _ in REFUSED}
    assert await state(sound) == before


@pytest.mark.parametrize("role", ROLES)
async def test_the_database_takes_what_is_sound(sound: Desk, role: str) -> None:
    assert await attempt(sound, role, SOUND) is None


async def test_a_copy_is_checked_like_an_insert(sound: Desk) -> None:
    columns = [
        "ledger_no", "account_no", "version", "seq", "amount", "held", "posted_debits", "posted_credits",
        "pending_debits", "pending_credits",
    ]  # fmt: skip
    async with sound.pool.acquire() as connection:
        at = await connection.fetchval(f"select {MOMENT}::timestamptz")
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.copy_records_to_table(
                "entries",
                records=[(1, 1, 2, 9, -100, 0, 1000, 100, 0, 0, at)],
                columns=[*columns, "effective_max"],
            )


async def test_the_violated_rule_is_named(sound: Desk) -> None:
    names = {}
    for name, code, sql in REFUSED:
        if code == "23514" and name in ("unbalanced", "account of another ledger", "below the floor"):
            async with sound.pool.acquire() as connection:
                with pytest.raises(asyncpg.CheckViolationError) as caught:
                    await connection.execute(sql)
            names[name] = caught.value.constraint_name
    assert names == {
        "unbalanced": "entries_balanced",
        "account of another ledger": "entries_have_accounts",
        "below the floor": "available_above_floor",
    }


async def state(one: Desk) -> list[object]:
    journal = await one.rows("select * from journal order by seq")
    entries = await one.rows("select * from entries order by account_no, version")
    return [tuple(row) for row in (*journal, *entries)]
