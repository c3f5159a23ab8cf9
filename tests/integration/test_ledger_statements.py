"""A ratchet: how many statements a batch and a read cost, as the server's own log counts them."""

import asyncio
import re
from collections.abc import AsyncIterator
from itertools import count
from typing import NoReturn

import asyncpg
import pytest
import pytest_asyncio

from finflow.kernel import ids
from finflow.kernel.errors import FinFlowError
from finflow.ledger import commands as c
from finflow.ledger import save
from finflow.ledger.lists import Span
from finflow.ledger.views import Label
from finflow.stack.postgres import EmbeddedPostgres
from oracles.service import Desk, desk, transfer

numbers = count(1)

# A few money movements are one statement that commits by itself; from WARM on it is COPY.
AT_ONCE = ["with heads"]
WARM = ["BEGIN", "update heads", "COPY journal", "COPY entries", "COMMIT"]
COLD = ["BEGIN", "select heads", "select accounts", "update heads", "COPY journal", "COPY entries", "COMMIT"]


class Logged:
    """A ledger whose statements the server logs, and the part of its log that came since `mark`."""

    def __init__(self, one: Desk, server: EmbeddedPostgres, name: str) -> None:
        self.one = one
        self.name = name
        self._log = server.folder.logs / "postgres.log"
        self._start = 0

    def mark(self) -> None:
        self._start = self._log.stat().st_size

    async def statements(self) -> list[str]:
        """Verb and table of each statement; asyncpg's own look-ups and resets are none of ours."""
        await asyncio.sleep(0.05)
        with self._log.open() as file:
            file.seek(self._start)
            lines = [line for line in file.read().split("\n20") if f"] {self.name} LOG" in line]
        found = [re.search(r"(?:statement|execute [^:]*): (.*)", line, re.DOTALL) for line in lines]
        return [verb for match in found if match and (verb := words(match[1]))]


def words(sql: str) -> str:
    verb = sql.split(None, 1)[0].strip(";")
    if verb in ("BEGIN", "COMMIT", "ROLLBACK"):
        return verb
    if "enter_ledger" in sql:
        return "enter"
    tables = re.findall(r"\b(heads|journal|entries|accounts|assets|ledgers|tenants)\b", sql)
    return f"{verb} {tables[0]}" if tables else ""


@pytest_asyncio.fixture
async def logged(database_url: str, postgres: EmbeddedPostgres) -> AsyncIterator[Logged]:
    """One connection to write and one to read, so that what a connection remembers is no chance."""
    name = f"ratchet_{next(numbers)}"
    connection = await asyncpg.connect(database_url)
    database = await connection.fetchval("select current_database()")
    await connection.execute(f"alter database {database} set log_statement = 'all'")
    await connection.close()
    async with desk(database_url, name=name, max_size=1) as one:
        yield Logged(one, postgres, name)


@pytest.mark.parametrize("size", [1, save.AT_ONCE_UP_TO])
async def test_a_warm_batch_of_a_few_costs_one_statement(logged: Logged, size: int) -> None:
    a, b = await logged.one.open(2)
    await logged.one.do(transfer(a, b))
    logged.mark()
    await logged.one.do(*[transfer(a, b)] * size)
    assert await logged.statements() == AT_ONCE


async def test_a_cold_batch_of_one_costs_five(logged: Logged) -> None:
    a, b = await logged.one.open(2)
    logged.one.service._shared.writers.clear()
    logged.mark()
    await logged.one.do(transfer(a, b))
    assert await logged.statements() == ["BEGIN", "select heads", "select accounts", "with heads", "COMMIT"]


@pytest.mark.parametrize("size", [save.AT_ONCE_UP_TO + 1, 100, 3_000])
async def test_a_warm_batch_costs_five_statements(logged: Logged, size: int) -> None:
    a, b = await logged.one.open(2)
    await logged.one.do(transfer(a, b))
    logged.mark()
    await logged.one.do(*[transfer(a, b)] * size)
    assert await logged.statements() == WARM


@pytest.mark.parametrize("size", [100, 3_000])
async def test_a_cold_batch_costs_two_more(logged: Logged, size: int) -> None:
    a, b = await logged.one.open(2)
    logged.one.service._shared.writers.clear()
    logged.mark()
    await logged.one.do(*[transfer(a, b)] * size)
    assert await logged.statements() == COLD


async def test_many_callers_share_the_statements(logged: Logged) -> None:
    """What arrives while one batch is written makes one more batch, not one each."""
    a, b = await logged.one.open(2)
    await logged.one.do(transfer(a, b))
    logged.mark()
    await asyncio.gather(*(logged.one.do(transfer(a, b)) for _ in range(200)))
    statements = await logged.statements()
    assert statements.count("COMMIT") + statements.count("with heads") <= 2
    assert set(statements) <= {*WARM, *AT_ONCE}


async def test_a_batch_of_refusals_copies_no_entries(logged: Logged) -> None:
    a, b = await logged.one.open(2)
    await logged.one.do(transfer(a, b))
    logged.mark()
    await logged.one.do(*[transfer(a, b, "x")] * 100)
    assert await logged.statements() == [each for each in WARM if each != "COPY entries"]


async def test_a_replay_looks_its_keys_up_once(logged: Logged) -> None:
    a, b = await logged.one.open(2)
    requests = [logged.one.request(transfer(a, b)) for _ in range(100)]
    await logged.one.service.submit(logged.one.ledger_id, requests)
    logged.mark()
    records = await logged.one.service.submit(logged.one.ledger_id, requests)
    assert all(record.replayed for record in records)
    statements = await logged.statements()
    # The first attempt runs into the unique key; the second locks, looks up and has nothing to write.
    assert statements[-1] == "COMMIT"
    assert statements.count("BEGIN") == 2
    assert statements.count("select journal") == 1
    assert len(statements) <= 12


async def test_captures_load_what_they_name_at_once(logged: Logged) -> None:
    a, b = await logged.one.open(2)
    held = await logged.one.do(*[transfer(a, b, pending=True)] * 50)
    logged.mark()
    codes = await logged.one.codes(*[c.PostPending(record.transaction_id(1)) for record in held])
    assert codes == [None] * 50
    assert len(await logged.statements()) <= len(WARM) + 5


async def test_a_balance_costs_one_statement_where_one_reads_again(logged: Logged) -> None:
    a, b = await logged.one.open(2)
    await logged.one.do(transfer(a, b))
    await logged.one.service.balance(a)
    logged.mark()
    assert (await logged.one.service.balance(b)).balance == "1.00"
    assert await logged.statements() == ["select accounts"]


async def test_a_change_of_ledger_costs_one_more(logged: Logged) -> None:
    other = await second_bank(logged.one)
    [a], [b] = await logged.one.open(1), await other.open(1)
    for account, service in ((a, logged.one.service), (b, other.service), (a, logged.one.service)):
        await service.balance(account)
    logged.mark()
    await other.service.balance(b)
    await logged.one.service.balance(a)
    assert await logged.statements() == ["enter", "select accounts"] * 2


async def test_a_ledger_of_another_tenant_costs_what_one_of_nobody_costs(logged: Logged) -> None:
    """The same statements, so that time tells no more than the answer does; asked again, the same again."""
    other = await second_bank(logged.one)
    [theirs] = await other.open(1)
    at = logged.one.clock()
    nobodys = ids.mint("acc", at, 999, 1), ids.mint("led", at, 999, 0)
    seen = []
    for account, ledger in ((theirs, other.ledger_id), nobodys) * 2:
        await logged.one.service.ledger_page(Span())
        logged.mark()
        for question in (logged.one.service.account(account), logged.one.service.trial_balance(ledger)):
            with pytest.raises(FinFlowError, match="unknown"):
                await question
        seen.append(await logged.statements())
    assert seen == [["select ledgers"] * 2] * 4


async def second_bank(one: Desk) -> Desk:
    """Another tenant of the same process, with a ledger."""
    service = one.ledgers.of((await one.ledgers.create_tenant("other")).tenant_id)
    return Desk(service, one.ledgers, (await service.create_ledger("other")).ledger_id, one.pool, one.clock)


class Many(dict[int, Label]):
    """The labels of many accounts: to be asked for one at a time, never gone through as a whole."""

    def _whole(self, *_: object) -> NoReturn:
        raise AssertionError("one answer costs what all known accounts do")

    __or__ = __ror__ = __iter__ = keys = items = values = copy = _whole  # type: ignore[assignment]


async def test_a_view_costs_the_same_however_many_accounts_are_known(database_url: str) -> None:
    async with desk(database_url) as one:
        a, b, new = await one.open(3)
        [first, second] = await one.do(transfer(a, b), transfer(b, new))
        await one.service.show(one.ledger_id, first)
        known = one.service._shared.labels._known
        [where] = known
        known[where] = Many(known[where])
        # One account is known, the other is not; then both are.
        for _ in range(2):
            shown = await one.service.show(one.ledger_id, second)
            assert [entry.account_id for entry in shown.entries] == [b, new]
