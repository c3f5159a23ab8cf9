"""Settlement accepted on a clone; every kind of damage to it found and named; production untouched."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from finflow.acceptance import service, store
from finflow.acceptance.model import FUNDS_MINOR, decimal, plan
from finflow.app.accepting import clone_of_embedded, clone_of_template
from finflow.kernel.errors import FinFlowError
from finflow.stack.postgres import EmbeddedPostgres
from oracles.settling import bank

_ORDERS = 80


@pytest.fixture
async def production(database_url: str) -> str:
    """A bank with a day's work behind it and some before it: settled orders, and orders in an open cycle."""
    async with bank(database_url) as one:
        for name in ("ALFA", "BETA", "CITI"):
            await one.add(name)
        await one.pay(one.draft("ALFA", "BETA", "100"), one.draft("BETA", "CITI", "90"))
        await one.past_cut_off()
        await one.pay(one.draft("CITI", "ALFA", "70"), one.draft("CITI", "ALFA", "5000"))
    return database_url


@pytest.fixture
async def clone(production: str) -> AsyncIterator[str]:
    async with clone_of_template(production) as url:
        yield url


async def _sql(url: str, *statements: str) -> Any:
    """As a superuser whom no trigger holds up."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("set session_replication_role = replica")
        # The triggers that guard history fire always; whoever owns the tables can put them out.
        tables = await connection.fetch("select relname from pg_class where relkind = 'r' and relhastriggers")
        for row in tables:
            await connection.execute(f"alter table if exists public.{row['relname']} disable trigger user")
        for statement in statements:
            found = await connection.fetch(statement)
            assert found or not statement.startswith(("update", "delete", "insert")), statement
        return found
    finally:
        await connection.close()


_MD5 = "select md5(string_agg(t::text, '|' order by t::text)) from (select 1) one, lateral (table "


async def _digest(url: str) -> str:
    """Everything that matters of production as one word."""
    connection = await asyncpg.connect(url)
    try:
        parts = [
            await connection.fetchval(_MD5 + f"{table}) t")
            for table in ("tenants", "heads", "journal", "entries", "settlement_orders", "settlement_work")
        ]
        return "/".join(map(str, parts))
    finally:
        await connection.close()


async def test_a_healthy_clone_is_accepted_and_production_is_untouched(
    production: str, tmp_path: Path
) -> None:
    before = await _digest(production)
    async with clone_of_template(production) as url:
        result = await service.accept(url, tmp_path, source_url=production, orders=_ORDERS)
        assert (result.differences, result.accepted) == ([], True)
        assert result.compared > 2 * _ORDERS
        assert result.ledgers == 1
        await _recounted(url)
    assert await _digest(production) == before
    assert len(list((tmp_path / "done").iterdir())) == len(list((tmp_path / "out").iterdir())) > 0
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(url)


# Balances as the journal keeps them: the running totals of each account's last entry.
_MONEY = """
select p.name, e.posted_credits - e.posted_debits as money
  from settlement_participants p
  join ledgers l on l.ledger_no = p.ledger_no and l.name like 'finflow-acceptance%'
  join settlement_accounts a on a.ledger_no = p.ledger_no and a.participant_no = p.participant_no
  join lateral (select * from entries e
                 where e.ledger_no = p.ledger_no and e.account_no = a.position_account
                 order by version desc limit 1) e on true
"""


async def _recounted(url: str) -> None:
    """The members' money once more, from the balances that the journal keeps and by a sum of our own."""
    paid = [each for each in plan(_ORDERS) if each.fate == "paid"]
    rows = await _sql(url, _MONEY)
    money = {row["name"]: row["money"] for row in rows}
    for name in ("ALFA", "BETA", "CITI"):
        came = sum(each.amount_minor for each in paid if each.payee == name)
        went = sum(each.amount_minor for each in paid if each.payer == name)
        assert decimal(money[name]) == decimal(FUNDS_MINOR + came - went)


_ORDER_1 = "order 1 of ledger 1 is booked in ledger 1's journal, and missing"
_ORDER_2 = "order 2 of ledger 1 is for 9999 minor units, and 9000 were booked"
# What a superuser did, and what must be said of it.
_DAMAGE = {
    "an entry's amount": (
        "update entries set amount = amount + 1 where ledger_no = 1 and version = 2 returning 1",
        "do not sum to zero",
    ),
    "an entry's balance": (
        "update entries set posted_debits = posted_debits + 500"
        " where ledger_no = 1 and version = 2 returning 1",
        "the balance is not its entries' sum",
    ),
    "a missing entry": (
        "delete from entries where ledger_no = 1 and version = 2 returning 1",
        "the balance is not its entries' sum",
    ),
    "a missing order": ("delete from settlement_orders where order_no = 1 returning 1", _ORDER_1),
    "an order's amount": (
        "update settlement_orders set amount_minor = 9999 where order_no = 2 returning 1",
        _ORDER_2,
    ),
    "a missing journal row": (
        "delete from journal where ledger_no = 1 and seq = 8 returning 1",
        "ledger 1: its head is at",
    ),
    "a head that was moved": (
        "update heads set seq = seq + 3 where ledger_no = 1 returning 1",
        "ledger 1: its head is at",
    ),
    "an order that was slipped in": (
        "insert into settlement_orders overriding system value"
        " select (o).* from (select jsonb_populate_record(s,"
        """ '{"order_no": 900, "batch_no": 900, "end_to_end_id": "slipped"}') as o"""
        " from settlement_orders s where order_no = 1) x returning 1",
        "order 900 of ledger 1 was accepted and never booked",
    ),
}


@pytest.mark.parametrize(("statement", "named"), _DAMAGE.values(), ids=_DAMAGE.keys())
async def test_damage_that_the_clone_came_with_is_named(
    clone: str, tmp_path: Path, statement: str, named: str
) -> None:
    await _sql(clone, statement)
    result = await service.accept(clone, tmp_path, orders=40)
    assert not result.accepted
    assert any(named in each.found for each in result.differences), result.differences


# The ledger of the acceptance is the newest; its first participant is ALFA.
_OURS = "(select max(ledger_no) from ledgers)"
_FOUR = f"where ledger_no = {_OURS} and end_to_end_id = 'ACC-00004' returning 1"
_ALFA = "(select min(position_account) from settlement_accounts where ledger_no = OURS)".replace(
    "OURS", _OURS
)


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        (f"delete from settlement_orders {_FOUR}", "order ACC-00004: fate"),  # noqa: S608 - the test's own words
        (f"update settlement_orders set amount_minor = 1 {_FOUR}", "order ACC-00004: amount"),  # noqa: S608 - the same
        (
            "update entries set amount = amount + 7 where version = 2"  # noqa: S608 - the same
            f" and ledger_no = {_OURS} and account_no = {_ALFA} returning 1",
            "ALFA: position",
        ),
        (
            "update settlement_positions set net_minor = net_minor + 5,"  # noqa: S608 - the same
            " receivable_minor = receivable_minor + 5"
            f" where ledger_no = {_OURS} returning 1",
            "BETA: net in the cycle",
        ),
    ],
)
async def test_damage_after_settlement_is_named(
    clone: str, tmp_path: Path, statement: str, named: str
) -> None:
    async def hurt() -> None:
        await _sql(clone, statement)

    damaged: Callable[[], Awaitable[None]] = hurt
    result = await service.accept(clone, tmp_path, orders=40, settled=damaged)
    assert named in [each.what for each in result.differences], result.differences


async def test_only_what_says_that_it_is_a_clone_is_written_to(production: str, tmp_path: Path) -> None:
    before = await _digest(production)
    for source in (None, production):
        with pytest.raises(FinFlowError) as raised:
            await service.accept(production, tmp_path, source_url=source, orders=40)
        assert raised.value.kind.code == "clone_unmarked"
    # Marked by mistake: production is still known by what it is.
    connection = await asyncpg.connect(production)
    await store.mark(connection)
    await connection.close()
    with pytest.raises(FinFlowError) as raised:
        await service.accept(production, tmp_path, source_url=production, orders=40)
    assert raised.value.kind.code == "clone_unmarked"
    assert await _digest(production) == before


async def test_a_plain_copy_does_not_inherit_the_mark(
    clone: str, production: str, postgres: EmbeddedPostgres
) -> None:
    await service.check_clone(clone, production)
    name = clone.split("/")[3].partition("?")[0]
    connection = await asyncpg.connect(postgres.url("postgres"))
    await connection.execute(f"create database copied template {name}")
    try:
        with pytest.raises(FinFlowError) as raised:
            await service.check_clone(postgres.url("copied"), production)
    finally:
        await connection.execute("drop database copied")
        await connection.close()
    assert raised.value.kind.code == "clone_unmarked"


async def test_a_database_in_use_is_not_copied(production: str) -> None:
    connection = await asyncpg.connect(production)
    try:
        with pytest.raises(FinFlowError) as raised:
            async with clone_of_template(production):
                pytest.fail("it was copied")
    finally:
        await connection.close()
    assert raised.value.kind.code == "clone_failed"
    assert "being accessed by other users" in raised.value.detail


async def test_no_time_is_said_so(clone: str, tmp_path: Path) -> None:
    with pytest.raises(FinFlowError) as raised:
        await service.accept(clone, tmp_path, orders=400, deadline_s=0.2)
    assert (raised.value.kind.code, raised.value.kind.exit_code) == ("deadline_exceeded", 3)


async def test_a_base_backup_of_the_embedded_server_is_a_clone(
    postgres: EmbeddedPostgres, template: str, tmp_path: Path
) -> None:
    connection = await asyncpg.connect(postgres.url())
    marker = await connection.fetchval("select 'finflow' from pg_database where datname = 'finflow'")
    await connection.close()
    assert marker == "finflow"
    async with clone_of_embedded(postgres.url()) as url:
        result = await service.accept(url, tmp_path, source_url=postgres.url(), orders=40)
        assert result.accepted, result.differences
        folder = Path(url.partition("host=")[2])
        assert folder.exists()
    assert not folder.exists()
    # The source was read only: it has no schema of ours even now.
    connection = await asyncpg.connect(postgres.url())
    assert await connection.fetchval("select to_regclass('heads')") is None
    await connection.close()


async def test_no_statement_that_compares_the_books_reads_a_table_without_statistics(
    clone: str, tmp_path: Path
) -> None:
    """A backup of a young database has none, and plans made without them took minutes in the demo."""
    statements = [statement for _, statement in store._BOOKS]
    statements += [store._POSITIONS, store._ORDERS, store._NET, store._OTHERS]
    connection = await asyncpg.connect(clone)
    try:
        planned = [
            await connection.fetchval(f"explain (format json) {each.replace('$1', '1')}")
            for each in statements
        ]
        read = set(re.findall(r'"Relation Name": "(\w+)"', " ".join(planned)))
        assert {"entries", "journal", "settlement_orders"} <= read <= set(store.READ)
        await service.accept(clone, tmp_path, orders=_ORDERS)
        counted = await connection.fetch(
            "select relname from pg_class where relkind = 'r' and reltuples >= 0 and relname = any($1)",
            list(store.READ),
        )
        assert {row["relname"] for row in counted} == set(store.READ)
    finally:
        await connection.close()
