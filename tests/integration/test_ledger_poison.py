"""Commands that one caller can send and that must not harm anybody else's, whatever they answer."""

import random
import string
from datetime import UTC, datetime, timedelta, timezone

import pytest

from finflow.kernel import ids
from finflow.kernel.errors import FinFlowError
from finflow.ledger import commands as c
from finflow.ledger.lists import Span
from oracles.service import Desk, desk, transfer

MOST = "92233720368547758.07"


async def harmless(one: Desk, *commands: c.Command) -> list[str | None]:
    """The codes of commands that share their batch with somebody else's, which must be booked."""
    a, b = await one.open(2)
    codes = await one.codes(transfer(a, b, "1"), *commands, transfer(a, b, "1"))
    assert (codes[0], codes[-1]) == (None, None)
    assert (await one.service.balance(b)).balance == "2.00"
    return codes[1:-1]


async def test_an_account_may_dip_below_its_floor_inside_a_transaction(database_url: str) -> None:
    async with desk(database_url) as one:
        [poor] = await one.open(overdraft_limit="0")
        entries = [c.EntryLine(poor, side, "5", "SGD") for side in ("credit", "debit")]
        assert await harmless(one, c.PostTransaction(entries)) == [None]


async def test_a_limit_lowered_after_a_payment_in_the_same_batch(database_url: str) -> None:
    async with desk(database_url) as one:
        [poor, rich] = [*(await one.open(overdraft_limit="100")), *(await one.open())]
        codes = await harmless(
            one,
            transfer(poor, rich, "5"),
            transfer(rich, poor, "5"),
            c.ChangeAccount(poor, overdraft_limit="0"),
        )
        assert codes == [None, None, None]


async def test_the_largest_balance_and_the_largest_hold(database_url: str) -> None:
    async with desk(database_url) as one:
        a, b = await one.open(2)
        assert await harmless(one, transfer(a, b, MOST), transfer(a, b, MOST, pending=True)) == [None, None]


async def test_a_reference_longer_than_an_index_entry(database_url: str) -> None:
    letters = random.Random(7).choices(string.ascii_letters + string.digits, k=9000)  # noqa: S311 - text that does not compress
    async with desk(database_url) as one:
        a, b = await one.open(2)
        assert await harmless(one, transfer(a, b, reference="".join(letters))) == ["field_too_long"]


@pytest.mark.parametrize("place", ["reference", "external_reference", "asset"])
async def test_a_nul_in_a_text(database_url: str, place: str) -> None:
    async with desk(database_url) as one:
        a, b = await one.open(2)
        command = {
            "reference": transfer(a, b, reference="a\0b"),
            "external_reference": c.OpenAccount("SGD", "asset", external_reference="a\0b"),
            "asset": c.DeclareAsset("A\0", 2),
        }[place]
        assert await harmless(one, command) == ["text_malformed"]


async def test_a_nul_in_what_is_kept_as_json(database_url: str) -> None:
    async with desk(database_url) as one:
        a, b = await one.open(2)
        opening = c.OpenAccount("SGD", "asset", metadata={"a": "\0"})
        assert await harmless(one, opening, transfer(a, b, description="\0", metadata={"\0": "\0"})) == [
            None,
            None,
        ]


async def test_an_id_that_was_never_given(database_url: str) -> None:
    async with desk(database_url) as one:
        [a] = await one.open()
        ledger_no = (ids.parse("led", one.ledger_id) or ids.Locator(0, 0)).ledger_no
        for number in (1 << 31, 1 << 33, ids.MAX_NUMBER):
            forged = ids.mint("acc", one.clock(), ledger_no, number)
            with pytest.raises(FinFlowError, match="resource_unknown"):
                await one.service.account(forged)
            assert await harmless(one, transfer(a, forged)) == ["account_unknown"]


async def test_a_tenant_that_was_never_given(database_url: str) -> None:
    async with desk(database_url) as one:
        with pytest.raises(FinFlowError, match="tenant_unknown"):
            await one.ledgers.of(ids.mint("ten", one.clock(), 0, 1 << 33)).create_ledger("x")


@pytest.mark.parametrize("hours", [14, -12])
async def test_a_value_date_outside_of_the_calendar(database_url: str, hours: int) -> None:
    zone = timezone(timedelta(hours=hours))
    moment = datetime(1, 1, 1, tzinfo=zone) if hours > 0 else datetime(9999, 12, 31, 23, tzinfo=zone)
    async with desk(database_url) as one:
        a, b = await one.open(2)
        [code] = await harmless(one, transfer(a, b, "1", effective_at=moment))
        balance = await one.service.balance(b)
        assert balance.balance == ("1.00" if code is None else "0.00")


@pytest.mark.parametrize("year", [1, 9999])
async def test_a_value_date_at_the_ends_of_the_calendar(database_url: str, year: int) -> None:
    moment = datetime(year, 6, 1, tzinfo=UTC)
    async with desk(database_url) as one:
        a, b = await one.open(2)
        assert await harmless(one, transfer(a, b, "1", effective_at=moment)) == [None]
        [entry], _ = await one.service.entries(b, Span())
        assert entry.effective_at == moment


async def test_a_key_that_stands_twice_far_apart_in_one_list(database_url: str) -> None:
    async with desk(database_url) as one:
        a, b = await one.open(2)
        requests = [c.Request(f"d{i % 150}", transfer(a, b), "test") for i in range(200)]
        records = await one.service.submit(one.ledger_id, requests)
        assert [record.replayed for record in records] == [False] * 150 + [True] * 50
        assert (await one.service.balance(b)).balance == "150.00"


async def test_a_key_that_stands_twice_in_one_list(database_url: str) -> None:
    async with desk(database_url) as one:
        a, b = await one.open(2)
        other = transfer(a, b, "2")
        requests = [c.Request("twice", each, "test") for each in (transfer(a, b), transfer(a, b), other)]
        records = await one.service.submit(one.ledger_id, requests)
        assert [(r.code, r.replayed) for r in records] == [
            (None, False),
            (None, True),
            ("idempotency_conflict", False),
        ]


async def test_a_key_that_stands_twice_with_its_amount_spelled_twice(database_url: str) -> None:
    async with desk(database_url) as one:
        a, b = await one.open(2)
        requests = [c.Request("spelled", transfer(a, b, amount), "test") for amount in ("5", "5.0", "5.00")]
        records = await one.service.submit(one.ledger_id, requests)
        assert [record.replayed for record in records] == [False, True, True]


async def test_a_hold_expires_even_if_the_clock_stepped_back_during_a_sweep(database_url: str) -> None:
    async with desk(database_url) as one:
        a, b = await one.open(2)
        [held] = await one.do(transfer(a, b, "1", pending=True, timeout_s=10))
        start, asked = one.clock.at, 0

        def stepping() -> int:
            nonlocal asked
            asked += 1
            return start + (11_000_000 if asked == 1 else 1_000_000)

        one.service._shared.clock = stepping
        one.service._shared.writers.clear()
        assert await one.service.expire_due(one.ledger_id) == 0
        one.service._shared.clock = lambda: start + 20_000_000
        one.service._shared.writers.clear()
        await one.service.expire_due(one.ledger_id)
        assert (await one.service.transaction(held.transaction_id(1))).status == "expired"


async def test_no_total_by_value_date_is_negative(database_url: str) -> None:
    async with desk(database_url) as one:
        a, b = await one.open(2)
        [held] = await one.do(transfer(a, b, "10", pending=True))
        early = datetime(2025, 12, 1, tzinfo=UTC)
        assert await one.codes(c.PostPending(held.transaction_id(1), effective_at=early)) == [None]
        shown = await one.service.balance(b, effective_at=one.clock.at - 86_400_000_000)
        assert (shown.balance, shown.pending_debits) == ("10.00", "0.00")
