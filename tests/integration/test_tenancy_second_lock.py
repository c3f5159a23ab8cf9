"""Row-level security as the second lock between tenants: what a read sees when the program forgets to ask.

Every statement here is raw SQL of the role that the program reads as, without any WHERE of the program's.
The tables are taken from the database's own catalogue, so that a new one is held to the same by itself.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from finflow.db.pool import open_pool
from finflow.db.readers import ROLE, open_readers
from finflow.fx.service import FxService, QuoteDraft, RateDraft
from finflow.kernel.clock import to_datetime
from finflow.kernel.errors import FinFlowError
from finflow.ledger import commands as c
from oracles.service import Desk, desk, transfer

# Where each table says whose its rows are.
OF_A_TENANT = ("tenants", "ledgers")
OF_A_LEDGER = ("heads", "assets", "accounts", "journal", "entries", "fx_rates", "fx_quotes")


@pytest_asyncio.fixture
async def two(database_url: str) -> AsyncIterator[tuple[Desk, Desk]]:
    """Two tenants with a ledger each (numbers 1 and 2), both with something in every table."""
    async with desk(database_url) as one:
        service = one.ledgers.of((await one.ledgers.create_tenant("other")).tenant_id)
        ledger = await service.create_ledger("other")
        other = Desk(service, one.ledgers, ledger.ledger_id, one.pool, one.clock)
        for each in (one, other):
            a, b = await each.open(2)
            await each.do(c.DeclareAsset("POINTS", 0), transfer(a, b), transfer(a, b, "2"))
            await _trade(each)
        yield one, other


async def _trade(one: Desk) -> None:
    """A rate, and a quote by it."""
    fx = FxService(one.pool, one.clock).of(one.service)
    rate = RateDraft("EUR", "USD", "1.1", "test", to_datetime(one.clock.at))
    await fx.add_rates(one.ledger_id, [rate])
    await fx.quote(one.ledger_id, QuoteDraft("EUR", "USD", "sell", "1", "0", 60), None, "test")


@pytest_asyncio.fixture
async def reader(database_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url, server_settings={"role": ROLE})
    yield connection
    await connection.close()


async def seen(reader: Any) -> dict[str, set[int]]:
    """Whose rows each table shows to whoever asks for all of them."""
    columns = dict.fromkeys(OF_A_TENANT, "tenant_no") | dict.fromkeys(OF_A_LEDGER, "ledger_no")
    return {
        table: {row[0] for row in await reader.fetch(f"select distinct {column} from {table}")}  # noqa: S608 - constants
        for table, column in columns.items()
    }


def nothing_but(numbers: set[int], *tables: str) -> dict[str, set[int]]:
    return {table: set(numbers) for table in tables}


async def test_a_read_sees_nothing_before_it_has_entered(two: object, reader: Any) -> None:
    assert await seen(reader) == nothing_but(set(), *OF_A_TENANT, *OF_A_LEDGER)


async def test_a_read_sees_the_one_ledger_it_has_entered(two: object, reader: Any) -> None:
    for number in (1, 2, 1):
        assert await reader.fetchval("select enter_ledger($1, $1)", number) == number
        assert await seen(reader) == nothing_but({number}, *OF_A_TENANT, *OF_A_LEDGER)


@pytest.mark.parametrize("place", [(1, 2), (1, 99), (1, None), (99, 2), (None, 2)])
async def test_what_is_not_ones_own_cannot_be_entered(
    two: object, reader: Any, place: tuple[int | None, int | None]
) -> None:
    """Neither from outside nor out of one's own ledger, which is left by the attempt."""
    for _ in range(2):
        assert await reader.fetchval("select enter_ledger($1, $2)", *place) is None
        found = await seen(reader)
        assert {table: found[table] for table in OF_A_LEDGER} == nothing_but(set(), *OF_A_LEDGER)
        assert found["ledgers"] == found["tenants"] == ({1} if place[0] == 1 else set())
        await reader.fetchval("select enter_ledger(1, 1)")


async def test_searches_of_another_ledger_find_nothing(two: tuple[Desk, Desk], reader: Any) -> None:
    await reader.fetchval("select enter_ledger(1, 1)")
    sql = """select version_at_seq($1, 1, 1000), seq_at_time($1, 'infinity'),
                    version_at_value_date($1, 1, 'infinity')"""
    assert list(await reader.fetchrow(sql, 1)) == [2, 5, 2]
    assert list(await reader.fetchrow(sql, 2)) == [0, 0, 0]


async def test_every_table_is_either_locked_by_row_or_out_of_reach(two: tuple[Desk, Desk]) -> None:
    rows = await two[0].rows(
        """select c.relname, has_table_privilege($1, c.oid, 'select') as readable,
                  has_table_privilege($1, c.oid, 'insert, update, delete, truncate, references, trigger')
                      as writable,
                  has_any_column_privilege($1, c.oid, 'select') as partly,
                  c.relrowsecurity as locked, pg_get_userbyid(c.relowner) = $1 as owned
             from pg_class c
            where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')""",
        ROLE,
    )
    assert not any(row["writable"] or row["owned"] for row in rows)
    assert all(row["locked"] for row in rows if row["readable"] or row["partly"])
    assert {row["relname"] for row in rows if row["readable"]} == {*OF_A_TENANT, *OF_A_LEDGER}


async def test_the_role_can_neither_log_in_nor_pass_the_lock(two: tuple[Desk, Desk]) -> None:
    [row] = await two[0].rows(
        "select rolcanlogin, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb from pg_roles"
        " where rolname = $1",
        ROLE,
    )
    assert not any(row)


@pytest.mark.parametrize("table", [*OF_A_TENANT, *OF_A_LEDGER])
@pytest.mark.parametrize(
    "sql", ["insert into {0} default values", "update {0} set ctid = ctid", "delete from {0}", "truncate {0}"]
)
async def test_a_read_writes_nothing(two: object, reader: Any, table: str, sql: str) -> None:
    await reader.fetchval("select enter_ledger(1, 1)")
    # A system column cannot be set, whoever asks: the first column of each table can.
    column = {"tenants": "name", "ledgers": "name"}.get(table, "ledger_no")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await reader.execute(sql.format(table).replace("ctid", column))


async def test_a_reader_remembers_where_it_is_and_never_more(two: object, database_url: str) -> None:
    """Over one connection: in, elsewhere, refused, in again; and cut off on the way to another."""
    readers = await open_readers(database_url, max_size=1)
    count = "select array_agg(distinct ledger_no) from entries"
    try:
        for number in (1, 2, 1, 1):
            async with readers.entered(number, number) as connection:
                assert await connection.fetchval(count) == [number]
        with pytest.raises(FinFlowError, match="ledger_unknown"):
            async with readers.entered(1, 2):
                pass
        async with readers.entered(1, None) as connection:
            assert await connection.fetchval(count) is None
        async with readers.entered(1, 1) as connection:
            assert await connection.fetchval(count) == [1]
        blocker = await asyncpg.connect(database_url)
        async with blocker.transaction():
            await blocker.execute("lock table ledgers")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(readers.entered(2, 2).__aenter__(), 0.2)
        await blocker.close()
        for number in (2, 1):
            async with readers.entered(number, number) as connection:
                assert await connection.fetchval(count) == [number]
    finally:
        await readers.close()


async def test_a_role_that_is_not_there_is_named(database_url: str) -> None:
    with pytest.raises(FinFlowError, match="database_role_unusable: nobody_has_this"):
        await open_pool(database_url, role="nobody_has_this")


async def test_the_writer_takes_nothing_of_another_tenant(two: tuple[Desk, Desk]) -> None:
    one, other = two
    writers = one.service._shared.writers
    request = [one.request(transfer("acc_x", "acc_y"))]
    with pytest.raises(FinFlowError, match="ledger_unknown"):
        await writers[2].submit(request, False, 1)
    with pytest.raises(FinFlowError, match="ledger_unknown"):
        await one.service.submit(other.ledger_id, request)
    assert await one.value("select count(*) from journal where ledger_no = 2") == 5
