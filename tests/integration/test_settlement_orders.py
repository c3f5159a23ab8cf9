"""Orders taken in: what is refused, what is a repetition, which cycle they join, what gross mode does."""

import asyncio
from datetime import UTC, datetime, time

import pytest

from finflow.kernel.errors import FinFlowError
from finflow.ledger.lists import Span
from finflow.settlement.calendars import CutOff
from finflow.settlement.orders import OrderDraft
from finflow.settlement.register import NewParticipant
from oracles.settling import HOUR_US, Bank, bank, micros, settling

UETR = "8a562c67-ca16-48ba-b074-65581be6f011"


async def _three(one: Bank) -> Bank:
    for name in ("ALFA", "BETA", "CITI"):
        await one.add(name)
    return one


async def test_money_is_held_when_an_order_is_taken(database_url: str) -> None:
    async with bank(database_url) as one:
        await _three(one)
        [taken] = await one.pay(one.draft("ALFA", "BETA", "300.05"))
        assert taken.code is None
        assert await one.status(taken) == "held"
        balance = await one.one.service.balance(one.ids["ALFA"][0])
        assert (balance.balance, balance.available) == ("1000.00", "699.95")
        [poor] = await one.pay(one.draft("ALFA", "BETA", "699.96"))
        assert poor.code == "exceeds_available"
        assert await one.status(poor) == "refused"
        view = await one.settlement.order(taken.order_id or "")
        assert (view.payer, view.payee, view.amount, view.cycle_id) == (
            "ALFA", "BETA", "300.05", taken.cycle_id,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"payer": "NOBODY"}, "participant_unknown", "payer"),
        ({"payee": "NOBODY"}, "participant_unknown", "payee"),
        ({"currency": "USD"}, "participant_unknown", "payer"),
        ({"amount": "1.005"}, "amount_too_precise", "amount"),
        ({"amount": "0"}, "amount_not_positive", "amount"),
        ({"amount": "1e3"}, "amount_malformed", "amount"),
        ({"uetr": "8A562C67-CA16-48BA-B074-65581BE6F011"}, "uetr_malformed", "uetr"),
        ({"end_to_end_id": "x" * 36}, "order_malformed", "end_to_end_id"),
        ({"remittance": "x" * 141}, "order_malformed", "remittance"),
        ({"payee": "ALFA"}, "order_malformed", "payee"),
        ({"payee_account_id": "acc_nonsense"}, "account_unknown", "payee_account_id"),
    ],
)
async def test_what_is_refused(database_url: str, change: dict[str, str], code: str, param: str) -> None:
    async with bank(database_url) as one:
        await _three(one)
        draft = {"payer": "ALFA", "payee": "BETA", "currency": "SGD", "amount": "1", "end_to_end_id": "e"}
        good = one.draft("BETA", "CITI")
        [refused, taken] = await one.pay(OrderDraft(**(draft | change)), good)
        assert (refused.order_id, refused.code, refused.param) == (None, code, param)
        assert taken.code is None, "one bad order does not spoil the others of its batch"


async def test_duplicates_are_refused_and_repetitions_answered(database_url: str) -> None:
    async with bank(database_url) as one:
        await _three(one)
        first = one.draft("ALFA", "BETA", "5", end_to_end_id="same", uetr=UETR)
        [taken] = await one.pay(first, key="a")
        assert await one.pay(first, key="a") == [taken]
        assert (await one.pay(first, key="b"))[0].code == "order_duplicate"
        changed = OrderDraft("ALFA", "BETA", "SGD", "6", "same", UETR)
        assert (await one.pay(changed, key="a"))[0].code == "order_duplicate"
        other = one.draft("CITI", "BETA", "5", end_to_end_id="same", uetr=UETR)
        assert (await one.pay(other))[0].code == "uetr_duplicate"
        theirs = one.draft("CITI", "BETA", "5", end_to_end_id="same")
        assert (await one.pay(theirs))[0].code is None, "another payer's reference is its own"
        [fine, twice] = await one.pay(
            one.draft("ALFA", "BETA", end_to_end_id="t"), one.draft("ALFA", "CITI", end_to_end_id="t")
        )
        assert (fine.code, twice.code) == (None, "order_duplicate")
        balance = await one.one.service.balance(one.ids["ALFA"][0])
        assert balance.available == "985.00"
        await one.past_cut_off()
        assert await one.pay(first, key="a") == [taken], "the same answer, also after its cycle has settled"
        assert await one.balance("ALFA") == "985.00"


async def test_a_batch_has_bounds(database_url: str) -> None:
    async with bank(database_url) as one:
        await _three(one)
        for drafts, code in (([], "batch_empty"), ([one.draft("ALFA", "BETA")] * 10_001, "batch_too_large")):
            with pytest.raises(FinFlowError, match=code):
                await one.pay(*drafts)


# 17:00 in Singapore is 09:00 UTC.
@pytest.mark.parametrize(
    ("now", "cut_off"),
    [
        (datetime(2026, 6, 3, 8, 59, 59, tzinfo=UTC), datetime(2026, 6, 3, 9, tzinfo=UTC)),
        (datetime(2026, 6, 3, 9, 0, 0, tzinfo=UTC), datetime(2026, 6, 4, 9, tzinfo=UTC)),
        (datetime(2026, 6, 5, 9, 0, 1, tzinfo=UTC), datetime(2026, 6, 8, 9, tzinfo=UTC)),
        (datetime(2028, 2, 28, 9, 0, 0, tzinfo=UTC), datetime(2028, 2, 29, 9, tzinfo=UTC)),
        (datetime(2026, 7, 31, 12, 0, 0, tzinfo=UTC), datetime(2026, 8, 3, 9, tzinfo=UTC)),
        # 9 August 2026 is a Sunday and Singapore's National Day, so the Monday after it is a holiday.
        (datetime(2026, 8, 7, 9, 0, 0, tzinfo=UTC), datetime(2026, 8, 11, 9, tzinfo=UTC)),
    ],
)
async def test_the_cycle_that_an_order_joins(database_url: str, now: datetime, cut_off: datetime) -> None:
    async with bank(database_url) as one:
        await _three(one)
        one.one.clock.at = micros(now)
        [taken] = await one.pay(one.draft("ALFA", "BETA"))
        cycle = await one.settlement.cycle(taken.cycle_id or "")
        assert (cycle.cut_off_at, cycle.value_date, cycle.state) == (cut_off, cut_off.date(), "open")


async def test_several_cut_offs_a_day_make_several_cycles(database_url: str) -> None:
    async with bank(database_url) as one:
        await _three(one)
        for hour in (12, 17):
            await one.settlement.set_cut_off(
                one.ledger_id, CutOff("SGD", time(hour), "Asia/Singapore", "SG", 2)
            )
        one.one.clock.at = micros(datetime(2026, 6, 3, 1, tzinfo=UTC))
        [morning] = await one.pay(one.draft("ALFA", "BETA"))
        one.one.clock.at += 4 * 3_600_000_000
        [noon] = await one.pay(one.draft("ALFA", "BETA"))
        assert morning.cycle_id != noon.cycle_id
        dates = {
            (each.cut_off_at.hour, each.value_date.isoformat())
            for each in (await one.settlement.cycles(one.ledger_id, Span())).items
        }
        assert dates == {(4, "2026-06-05"), (9, "2026-06-05")}, "T+2 by business days"


async def test_gross_orders_settle_at_once(database_url: str) -> None:
    async with bank(database_url) as one:
        await _three(one)
        [paid, poor] = await one.pay(
            one.draft("ALFA", "BETA", "700", mode="gross"), one.draft("ALFA", "BETA", "301", mode="gross")
        )
        assert (paid.code, paid.cycle_id, poor.code) == (None, None, "exceeds_available")
        assert await one.status(paid) == "settled"
        assert (await one.balance("ALFA"), await one.balance("BETA")) == ("300.00", "1700.00")
        assert (await one.balance("ALFA", True), await one.balance("BETA", True)) == ("-700.00", "700.00")
        await one.whole()


async def test_a_settlement_limit_stops_gross_orders(database_url: str) -> None:
    async with bank(database_url) as one:
        await one.add("ALFA", settlement_limit="100")
        await one.add("BETA")
        [paid, stopped] = await one.pay(
            one.draft("ALFA", "BETA", "100", mode="gross"), one.draft("ALFA", "BETA", "0.01", mode="gross")
        )
        assert (paid.code, stopped.code) == (None, "exceeds_available")
        await one.whole()


async def test_participants_are_registered_once(database_url: str) -> None:
    async with bank(database_url) as one:
        await one.add("ALFA")
        again = await one.settlement.add_participant(
            one.ledger_id, NewParticipant("ALFA", "member", ["SGD", "JPY"])
        )
        assert [each.currency for each in again.accounts] == ["JPY", "SGD"]
        assert again.accounts[1].position_account_id == one.ids["ALFA"][0]
        with pytest.raises(FinFlowError, match="participant_conflict"):
            await one.settlement.add_participant(one.ledger_id, NewParticipant("ALFA", "rail", ["SGD"]))
        assert [each.name for each in await one.settlement.participants(one.ledger_id)] == ["ALFA"]


async def test_pages_of_orders(database_url: str) -> None:
    async with bank(database_url) as one:
        await _three(one)
        taken = await one.pay(*(one.draft("ALFA", "BETA", "1") for _ in range(5)))
        seen: list[str] = []
        after = None
        while True:
            page = await one.settlement.orders(one.ledger_id, Span(after, limit=2), taken[0].cycle_id)
            seen += [each.order_id for each in page.items]
            after = page.next
            if after is None:
                break
        assert sorted(seen) == sorted(each.order_id or "" for each in taken)
        with pytest.raises(FinFlowError, match="order_unknown"):
            await one.settlement.order(seen[0][:-1] + "x")


async def test_the_same_batches_from_several_at_once(database_url: str) -> None:
    """Two processes' worth of services, the same two batches in both orders: one answer, no deadlock."""
    async with bank(database_url) as one:
        await _three(one)
        batches = {
            key: [one.draft("ALFA", "BETA", "1") for _ in range(100)] + [one.draft("BETA", "CITI", "1")] * 2
            for key in ("a", "b")
        }
        other = settling(one.one)

        async def patiently(room: Bank, key: str) -> list[str | None]:
            while True:
                try:
                    taken = await room.settlement.accept(one.ledger_id, batches[key], key)
                except FinFlowError as error:
                    if not error.kind.retryable:
                        raise
                    await asyncio.sleep(0.01)
                    continue
                return [each.order_id for each in taken]

        answers = await asyncio.gather(*(patiently(room, key) for key in "abba" for room in (one, other)))
        assert len({tuple(answer) for answer in answers}) == 2
        assert await one.one.value("select count(*) from settlement_orders") == 202
        assert (
            await one.one.value("select deadlocks from pg_stat_database where datname = current_database()")
            == 0
        )
        await one.past_cut_off()
        assert await one.balance("ALFA") == "800.00"
        await one.whole()


async def test_what_a_faster_clock_has_closed_stays_closed(database_url: str) -> None:
    async with bank(database_url) as one:
        await _three(one)
        [first] = await one.pay(one.draft("ALFA", "BETA", "1"))
        await one.past_cut_off()
        one.one.clock.at -= 10 * HOUR_US
        [late] = await one.pay(one.draft("ALFA", "BETA", "2"))
        assert late.cycle_id != first.cycle_id
        assert (await one.settlement.cycle(late.cycle_id or "")).cut_off_at.day == 9
        assert await one.status(late) == "held"
        one.one.clock.at += 24 * HOUR_US
        await one.past_cut_off()
        assert await one.status(late) == "settled"
        await one.whole()
