"""The blast radius: what each release wrote, in spans of time, against what the test itself sent."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from finflow.app import Config, services
from finflow.kernel.errors import FinFlowError
from finflow.ledger import commands as c
from finflow.shadow import impact_store
from finflow.shadow.impact import JournalBlastRadius
from oracles.service import Desk, desk, second_desk, transfer
from oracles.tokens import FLAGS

START = datetime(2026, 1, 1, tzinfo=UTC)
FOREVER = ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z")


def text(seconds: int) -> str:
    return (START + timedelta(seconds=seconds)).isoformat()


async def everything(radius: JournalBlastRadius, release: str, *span: str) -> list[Any]:
    return [row async for row in radius.listed(release, *span)]


async def test_each_release_has_what_it_wrote(database_url: str) -> None:
    async with desk(database_url, release="1.0") as old:
        [house] = await old.open()
        ada, bob = await old.open(2, kind="liability", external_reference=None)
        [eve] = await old.open(kind="liability", external_reference="customer-eve")
        [position] = await old.open(kind="liability", external_reference="fx:position:SGD")
        async with (
            second_desk(database_url, old.ledger_id, "new", old.clock, release="2.0") as new,
            second_desk(database_url, old.ledger_id, "nobody", old.clock) as unknown,
        ):
            await old.do(transfer(ada, house, "5"))
            done = await new.do(transfer(ada, house, "1.25"), transfer(eve, bob, "2"))
            await unknown.do(transfer(bob, house, "7"))
            [held] = await new.do(transfer(eve, house, "4", pending=True))
            [captured] = await new.do(c.PostPending(held.transaction_id(1), "3"))
            assert (await new.do(transfer(house, ada, "9", "EUR")))[0].code is not None
            more = await new.do(transfer(position, house, "0.75"))
        radius = JournalBlastRadius(old.pool)
        found = await radius.impact("2.0", *FOREVER)
        assert (found.customers, found.transactions, found.money) == (3, 5, {"SGD": "11.00"})
        assert (await radius.impact("1.0", *FOREVER)).money == {"SGD": "5.00"}
        assert (await radius.impact("3.0", *FOREVER)).transactions == 0
        listed = await everything(radius, "2.0", *FOREVER)
        ids = [record.transaction_id(1) for record in [*done, held, captured, *more]]
        assert [row["transaction_id"] for row in listed] == ids
        assert [row["kind"] for row in listed] == ["post", "post", "hold", "capture", "post"]
        assert [row["money"]["SGD"] for row in listed] == ["1.25", "2.00", "4.00", "3.00", "0.75"]
        names = [[ada], sorted([bob, "customer-eve"]), ["customer-eve"], ["customer-eve"], []]
        assert [row["customers"] for row in listed] == names
        assert {row["ledger_id"] for row in listed} == {old.ledger_id}
        assert {row["caller"] for row in listed} == {"test"}


async def test_a_span_begins_with_its_first_moment_and_ends_before_its_last(database_url: str) -> None:
    async with desk(database_url, release="1.0") as one:
        a, b = await one.open(2)
        began = one.clock.at
        for second in range(1, 60):
            one.clock.at = began + second * 1_000_000
            await one.do(transfer(a, b), *[transfer(b, a)] * (second % 3))
        radius = JournalBlastRadius(one.pool)
        for first, last in [(1, 60), (10, 20), (10, 11), (10, 10), (20, 10), (0, 1), (59, 90), (60, 99)]:
            expected = sum(1 + second % 3 for second in range(max(first, 1), min(last, 60)))
            assert (await radius.impact("1.0", text(first), text(last))).transactions == expected
            assert len(await everything(radius, "1.0", text(first), text(last))) == expected


async def test_several_ledgers_and_currencies_are_listed_by_time(database_url: str) -> None:
    async with desk(database_url, release="1.0") as one:
        other_ledger = (await one.service.create_ledger("other")).ledger_id
        two = Desk(one.service, one.ledgers, other_ledger, one.pool, one.clock, "other")
        sums: Counter[str] = Counter()
        for desk_, currency in ((one, "JPY"), (two, "SGD"), (two, "KWD")):
            a, b = await desk_.open(2, currency, kind="liability", overdraft_limit=None)
            for amount in (1, 2, 3):
                one.clock.at += 1_000_000
                await desk_.do(transfer(a, b, str(amount), currency))
                sums[currency] += amount
        radius = JournalBlastRadius(one.pool)
        found = await radius.impact("1.0", *FOREVER)
        assert found.money == {"JPY": "6", "KWD": "6.000", "SGD": "6.00"}
        assert {name: Decimal(amount) for name, amount in found.money.items()} == dict(sums)
        times = [row["recorded_at"] for row in await everything(radius, "1.0", *FOREVER)]
        assert times == sorted(times)
        assert len(times) == 9
        assert found.customers == 6


async def test_pages_are_put_together(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finflow.shadow.impact.PAGE", 7)
    async with desk(database_url, release="1.0") as one:
        a, b = await one.open(2)
        await one.do(*[transfer(a, b, "1")] * 50)
        radius = JournalBlastRadius(one.pool)
        found = await radius.impact("1.0", *FOREVER)
        assert (found.transactions, found.money) == (50, {"SGD": "50.00"})
        listed = await everything(radius, "1.0", *FOREVER)
        assert [row["seq"] for row in listed] == list(range(3, 53))


@pytest.mark.parametrize("moment", ["yesterday", "2026-01-01", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z"])
async def test_a_moment_that_is_none_is_refused(database_url: str, moment: str) -> None:
    pool = await asyncpg.create_pool(database_url, min_size=1, max_size=1)
    try:
        with pytest.raises(FinFlowError, match="moment_malformed"):
            await JournalBlastRadius(pool).impact("1.0", moment, FOREVER[1])
    finally:
        await pool.close()


async def test_the_interface_writes_the_release_of_its_configuration(database_url: str) -> None:
    config = Config.load({"database_url": database_url, **FLAGS}, {"FINFLOW_RELEASE": "2.4.0+a1b2c3d"})
    async with services(config) as made:
        tenant = made.ledger.of((await made.ledger.create_tenant("test")).tenant_id)
        ledger = await tenant.create_ledger("test")
        opening = c.OpenAccount("SGD", "asset")
        await tenant.submit(ledger.ledger_id, [c.Request("k", opening, "me")])
        async with made._pool.acquire() as connection:
            assert await connection.fetchval("select release from journal") == "2.4.0+a1b2c3d"


async def test_both_ways_of_writing_keep_the_release(database_url: str) -> None:
    async with desk(database_url, release="1.0") as one:
        a, b = await one.open(2)
        await one.do(transfer(a, b))  # one statement
        await one.do(*[transfer(a, b)] * 200)  # COPY
        async with second_desk(database_url, one.ledger_id, "none", one.clock) as unknown:
            await unknown.do(transfer(a, b))
            await unknown.do(*[transfer(a, b)] * 200)
        counted = await one.rows("select release, count(*) from journal group by 1 order by 1 nulls last")
        assert [tuple(row) for row in counted] == [("1.0", 203), (None, 201)]


def scans_of(explained: dict[str, Any], table: str) -> list[dict[str, Any]]:
    return [node for node in nodes(explained["Plan"]) if node.get("Relation Name") == table]


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *[node for each in plan.get("Plans", []) for node in nodes(each)]]


async def test_a_span_is_found_without_reading_the_journal(database_url: str) -> None:
    async with desk(database_url, release="1.0") as one:
        a, b = await one.open(2)
        began = one.clock.at
        for minute in range(100):
            one.clock.at = began + minute * 60_000_000
            await one.do(*[transfer(a, b)] * 200)
        await one.rows("analyze")
        arguments = ("1.0", START + timedelta(minutes=50), START + timedelta(minutes=51))
        explain = "explain (analyze, buffers, format json) "
        [found] = json.loads(await one.value(explain + impact_store.FOUND, *arguments))
        assert found["Plan"]["Actual Rows"] == 200
        [journal] = scans_of(found, "journal")
        assert journal["Node Type"] == "Index Scan"
        # Not a row outside of the span is looked at, of twenty thousand.
        assert journal["Actual Rows"] + journal.get("Rows Removed by Filter", 0) == 200
        legs = ([1] * 10, [1] * 10, list(range(1, 11)), [True] * 10, list(range(10)))
        [plan] = json.loads(await one.value(explain + impact_store.ENTRIES, *legs))
        assert {n["Node Type"] for n in scans_of(plan, "entries")} == {"Index Scan"}
        [plan] = json.loads(await one.value(explain + impact_store.TOTALS, *arguments, ["asset"], ["fx:%"]))
        [entries] = scans_of(plan, "entries")
        assert (entries["Node Type"], entries["Actual Loops"]) == ("Index Scan", 400)
        [journal] = scans_of(plan, "journal")
        assert journal["Actual Rows"] + journal.get("Rows Removed by Filter", 0) == 200
