"""Cycles from open to their end: settled, failed and tried again, returned; with rails and other ledgers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from finflow.kernel.errors import FinFlowError
from finflow.ledger.commands import ChangeAccount
from finflow.ledger.lists import Span
from finflow.settlement import database
from finflow.settlement.iso20022 import messages, rules
from finflow.settlement.iso20022.transfers import CreditTransfers
from finflow.settlement.rails import Breaker, FakeRail, FileRail
from finflow.settlement.register import NewParticipant
from oracles.rail import payment_return, report, uetrs_of
from oracles.settling import CREDITOR, Bank, bank, neighbour, settling


async def _members(one: Bank) -> None:
    for name in ("ALFA", "BETA", "CITI"):
        await one.add(name)


async def _state(one: Bank, cycle_id: str | None) -> str:
    assert cycle_id is not None
    return (await one.settlement.cycle(cycle_id)).state


async def test_a_cycle_settles_what_is_left_of_its_orders(database_url: str) -> None:
    async with bank(database_url) as one:
        await _members(one)
        taken = await one.pay(
            one.draft("ALFA", "BETA", "100"), one.draft("BETA", "CITI", "90"),
            one.draft("CITI", "ALFA", "85"), one.draft("ALFA", "CITI", "5000"),
        )  # fmt: skip
        assert [each.code for each in taken] == [None, None, None, "exceeds_available"]
        cycle_id = taken[0].cycle_id
        await one.worker.until_idle()
        assert await _state(one, cycle_id) == "open", "its cut-off lies ahead"
        await one.past_cut_off()
        cycle = await one.settlement.cycle(cycle_id or "")
        assert [step.action for step in cycle.steps] == ["close", "net", "submit", "settle"]
        assert cycle.work is None
        seen = await one.settlement.report(cycle_id or "")
        assert {(p.participant, p.payable, p.receivable, p.net) for p in seen.positions} == {
            ("ALFA", "100.00", "85.00", "-15.00"), ("BETA", "90.00", "100.00", "10.00"),
            ("CITI", "85.00", "90.00", "5.00"),
        }  # fmt: skip
        assert (seen.gross, seen.settled, seen.saved, seen.faults) == ("275.00", "15.00", "260.00", [])
        assert [await one.balance(name) for name in ("ALFA", "BETA", "CITI")] == [
            "985.00", "1010.00", "1005.00",
        ]  # fmt: skip
        assert [await one.balance(name, True) for name in ("ALFA", "BETA", "CITI")] == [
            "-15.00", "10.00", "5.00",
        ]  # fmt: skip
        assert [await one.status(each) for each in taken] == ["settled"] * 3 + ["refused"]
        await one.whole()


async def test_payments_to_oneself_are_settled_and_owe_nothing(
    database_url: str,
) -> None:
    async with bank(database_url) as one:
        await _members(one)
        [other] = await one.one.open(kind="liability")
        [taken] = await one.pay(one.draft("ALFA", "ALFA", "40", payee_account_id=other))
        await one.past_cut_off()
        assert await one.status(taken) == "settled"
        assert (await one.settlement.report(taken.cycle_id or "")).positions == []
        assert (await one.one.service.balance(other)).balance == "40.00"
        await one.whole()


async def test_no_liquidity_fails_the_cycle_until_there_is_some(database_url: str) -> None:
    async with bank(database_url) as one:
        await one.add("ALFA", settlement_limit="50")
        await one.add("BETA")
        [taken] = await one.pay(one.draft("ALFA", "BETA", "60"))
        await one.past_cut_off()
        cycle = await one.settlement.cycle(taken.cycle_id or "")
        assert (cycle.state, await one.status(taken)) == ("failed", "held")
        assert cycle.steps[-1].evidence == "exceeds_available: net positions"
        assert await one.one.codes(ChangeAccount(one.ids["ALFA"][1], overdraft_limit="60")) == [None]
        await one.settlement.retry(taken.cycle_id or "")
        await one.worker.until_idle()
        assert (await _state(one, taken.cycle_id), await one.status(taken)) == ("settled", "settled")
        await one.whole()


async def test_a_cycle_that_fails_too_often_is_returned(database_url: str) -> None:
    async with bank(database_url) as one:
        await one.add("ALFA", settlement_limit="50")
        await one.add("BETA")
        [taken] = await one.pay(one.draft("ALFA", "BETA", "60"))
        await one.past_cut_off()
        for _ in range(4):
            assert await _state(one, taken.cycle_id) == "failed"
            await one.past_cut_off()
        cycle = await one.settlement.cycle(taken.cycle_id or "")
        assert [step.action for step in cycle.steps[2:]] == ["submit", "fail"] * 4 + ["submit", "return"]
        assert (cycle.state, cycle.work, await one.status(taken)) == ("returned", None, "voided")
        assert await one.balance("ALFA") == "1000.00"
        await one.whole()


async def test_a_frozen_account_holds_settlement_up_and_nothing_is_lost(database_url: str) -> None:
    async with bank(database_url) as one:
        await _members(one)
        taken = await one.pay(one.draft("ALFA", "BETA", "10"), one.draft("CITI", "BETA", "20"))
        assert await one.one.codes(ChangeAccount(one.ids["CITI"][0], status="frozen")) == [None]
        await one.past_cut_off()
        cycle = await one.settlement.cycle(taken[0].cycle_id or "")
        assert cycle.state == "submitted"
        assert cycle.work is not None
        assert "account_frozen" in (cycle.work.last_error or "")
        with pytest.raises(FinFlowError, match="cycle_step_conflict"):
            await one.settlement.end_cycle(taken[0].cycle_id or "", "too late")
        assert await one.one.codes(ChangeAccount(one.ids["CITI"][0], status="open")) == [None]
        one.one.clock.at += 120_000_000
        await one.worker.until_idle()
        assert [await one.status(each) for each in taken] == ["settled", "settled"]
        await one.whole()


# --- rails ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def _railed(url: str, rail: FakeRail) -> AsyncIterator[Bank]:
    async with bank(url, {"BIFAST": rail}) as one:
        await _members(one)
        await one.add("BIFAST", kind="rail")
        yield one


async def test_a_rail_is_sent_one_valid_message_and_the_cycle_waits_for_its_answer(database_url: str) -> None:
    rail = FakeRail()
    async with _railed(database_url, rail) as one:
        taken = await one.pay(
            one.draft("ALFA", "BIFAST", "12.34", creditor=CREDITOR, remittance="invoice 7"),
            one.draft("BETA", "BIFAST", "1", creditor=CREDITOR), one.draft("ALFA", "BETA", "3"),
        )  # fmt: skip
        await one.past_cut_off()
        await one.worker.until_idle()
        assert await _state(one, taken[0].cycle_id) == "submitted"
        [(message_id, data)] = rail.sent.items()
        assert rail.sends == 1
        message = messages.read(data)
        rules.check(message)
        assert isinstance(message.body, CreditTransfers)
        assert [str(each.amount.value) for each in message.body.transfers] == ["12.34", "1.00"]
        rail.give(report("R1", message_id, "PDNG"))
        await one.worker.until_idle()
        assert await _state(one, taken[0].cycle_id) == "submitted", "pending is no verdict"
        rail.give(report("R2", message_id, "ACSC"))
        await one.worker.until_idle()
        assert await _state(one, taken[0].cycle_id) == "settled"
        assert (await one.balance("BIFAST"), await one.balance("BIFAST", True)) == ("13.34", "13.34")
        rail.give(report("R2", message_id, "ACSC"))
        rail.give(report("R3", message_id, "RJCT"))
        await one.worker.until_idle()
        assert await _state(one, taken[0].cycle_id) == "settled", "the first verdict stands"
        assert set(rail.done.values()) == {True}
        await one.whole()


async def test_a_rejected_message_is_sent_again_under_a_new_id_and_at_last_returned(
    database_url: str,
) -> None:
    rail = FakeRail(lambda message_id, _: [report(f"R-{message_id}", message_id, "RJCT")])
    async with _railed(database_url, rail) as one:
        [taken] = await one.pay(one.draft("ALFA", "BIFAST", "5", creditor=CREDITOR))
        for _ in range(6):
            await one.past_cut_off()
            one.one.clock.at += 2_000_000
            await one.worker.until_idle()
        assert len(rail.sent) == 5
        assert len({tuple(uetrs_of(data)) for data in rail.sent.values()}) == 1
        assert (await _state(one, taken.cycle_id), await one.status(taken)) == ("returned", "voided")
        await one.whole()


async def test_payments_that_a_rail_refuses_or_returns_come_back(database_url: str) -> None:
    rail = FakeRail()
    async with _railed(database_url, rail) as one:
        taken = await one.pay(*(one.draft("ALFA", "BIFAST", str(n), creditor=CREDITOR) for n in (1, 2, 3)))
        await one.past_cut_off()
        [(message_id, data)] = rail.sent.items()
        first, second, _ = uetrs_of(data)
        rail.give(report("R1", message_id, "PART", [first]))
        one.one.clock.at += 2_000_000
        await one.worker.until_idle()
        one.one.clock.at += 2_000_000
        await one.worker.until_idle()
        by_uetr = {(await one.settlement.order(each.order_id or "")).uetr: each for each in taken}
        assert await one.status(by_uetr[first]) == "returned"
        amount = (await one.settlement.order(by_uetr[second].order_id or "")).amount
        rail.give(payment_return("B1", message_id, second, "0.50"))
        rail.give(payment_return("B2", message_id, second, amount))
        await one.worker.until_idle()
        assert await one.status(by_uetr[second]) == "returned"
        assert sorted(rail.done.values()) == [False, True, True], "a part of a payment is not taken back"
        statuses = sorted([await one.status(each) for each in taken])
        assert statuses == ["returned", "returned", "settled"]
        await one.whole()


async def test_poison_from_a_rail_is_put_aside(database_url: str) -> None:
    rail = FakeRail()
    async with _railed(database_url, rail) as one:
        [taken] = await one.pay(one.draft("ALFA", "BIFAST", "1", creditor=CREDITOR))
        await one.past_cut_off()
        [(message_id, data)] = rail.sent.items()
        for poison in (
            b"not xml", data, report("R1", "FF1C999P1A1"), report("R2", "somebody-elses"),
            report("R3", message_id, None, ["8a562c67-ca16-48ba-b074-65581be6f011"]),
            report("R4", "FF999999C1P1A1"), report("R5", "FF99999999999C1P1A1"),
        ):  # fmt: skip
            rail.give(poison)
        rail.give(report("R9", message_id))
        one.one.clock.at += 2_000_000
        await one.worker.until_idle()
        assert list(rail.done.values()) == [False] * 7 + [True]
        assert await _state(one, taken.cycle_id) == "settled"
        await one.whole()


async def test_an_operator_ends_a_cycle_that_no_rail_answers(database_url: str) -> None:
    rail = FakeRail()
    async with _railed(database_url, rail) as one:
        [taken] = await one.pay(one.draft("ALFA", "BIFAST", "1", creditor=CREDITOR))
        await one.past_cut_off()
        await one.settlement.end_cycle(taken.cycle_id or "", "the rail has nothing of it")
        await one.worker.until_idle()
        assert (await _state(one, taken.cycle_id), await one.status(taken)) == ("returned", "voided")
        await one.whole()


async def test_files_go_out_and_answers_come_in(database_url: str, tmp_path: Path) -> None:
    rail = FileRail(tmp_path)
    async with bank(database_url, {"BIFAST": rail}) as one:
        await _members(one)
        await one.add("BIFAST", kind="rail")
        [taken] = await one.pay(one.draft("ALFA", "BIFAST", "1", creditor=CREDITOR))
        await one.past_cut_off()
        [file] = (tmp_path / "out").iterdir()
        (tmp_path / "in" / "answer.xml").write_bytes(report("R1", file.stem))
        one.one.clock.at += 2_000_000
        await one.worker.until_idle()
        assert await _state(one, taken.cycle_id) == "settled"
        assert [each.name for each in (tmp_path / "done").iterdir()] == ["answer.xml"]
        await one.whole()


async def test_the_breaker_leaves_a_broken_rail_alone(database_url: str) -> None:
    broken = True

    def on_send(message_id: str, _: bytes) -> list[bytes]:
        if broken:
            raise FinFlowError("rail_unavailable")
        return [report("R1", message_id)]

    fake = FakeRail(on_send)
    async with bank(database_url) as plain:
        breaker = Breaker(fake, plain.one.clock)
        one = settling(plain.one, {"BIFAST": breaker})
        await _members(one)
        await one.add("BIFAST", kind="rail")
        [taken] = await one.pay(one.draft("ALFA", "BIFAST", "1", creditor=CREDITOR))
        one.one.clock.at += 10 * 3_600_000_000
        for _ in range(40):
            one.one.clock.at += 1_000_000
            await one.worker.until_idle()
        assert 3 <= fake.sends <= 7, "three failures open it, then one trial in ten seconds"
        broken = False
        one.one.clock.at += 120_000_000
        await one.worker.until_idle()
        one.one.clock.at += 120_000_000
        await one.worker.until_idle()
        assert await _state(one, taken.cycle_id) == "settled"
        await one.whole()


# --- between ledgers -----------------------------------------------------------------------------------


@asynccontextmanager
async def _two(url: str) -> AsyncIterator[tuple[Bank, Bank]]:
    """Two ledgers of two tenants that know each other in SGD; each has a member with 1,000."""
    async with bank(url) as here:
        there = await neighbour(here)
        await here.add("ALFA")
        await there.add("BETA")
        await here.add("THERE", kind="ledger", peer_ledger_id=there.ledger_id)
        yield here, there


async def test_both_ledgers_must_know_each_other(database_url: str) -> None:
    async with _two(database_url) as (here, there):
        draft = here.draft("ALFA", "THERE", "7", payee_account_id=there.ids["BETA"][0])
        assert (await here.pay(draft))[0].code == "mirror_missing"
        await there.add("HERE", kind="ledger", peer_ledger_id=here.ledger_id)
        assert (await here.pay(draft))[0].code is None
        with pytest.raises(FinFlowError, match="participant_conflict"):
            await there.settlement.add_participant(
                there.ledger_id, NewParticipant("HERE2", "ledger", ["SGD"], here.ledger_id)
            )


@pytest.mark.parametrize("mode", ["net", "gross"])
async def test_money_between_ledgers_moves_through_accounts_that_agree(database_url: str, mode: str) -> None:
    async with _two(database_url) as (here, there):
        await there.add("HERE", kind="ledger", peer_ledger_id=here.ledger_id)
        to_beta = {"payee_account_id": there.ids["BETA"][0], "mode": mode}
        to_alfa = {"payee_account_id": here.ids["ALFA"][0], "mode": mode}
        out = await here.pay(*(here.draft("ALFA", "THERE", "30", **to_beta) for _ in range(3)))
        back = await there.pay(there.draft("BETA", "HERE", "12", **to_alfa))
        assert [each.code for each in out + back] == [None] * 4
        assert await here.worker.check_mirrors() == []
        await here.past_cut_off()
        assert await here.worker.check_mirrors() == []
        [seen] = await here.settlement.mirrors(here.ledger_id)
        assert (seen.here, seen.there, seen.in_transit, seen.agrees) == ("-78.00", "78.00", "0.00", True)
        assert (await here.balance("ALFA"), await there.balance("BETA")) == ("922.00", "1078.00")
        assert [await here.status(each) for each in out] == ["settled"] * 3
        assert [await there.status(each) for each in back] == ["settled"]
        await here.settlement.return_order(out[0].order_id or "", "wrong account", "test")
        await here.worker.until_idle()
        assert await here.worker.check_mirrors() == []
        assert await here.status(out[0]) == "returned"
        assert (await here.balance("ALFA"), await there.balance("BETA")) == ("952.00", "1048.00")
        await here.whole()


@pytest.mark.parametrize("mode", ["net", "gross"])
async def test_a_payee_that_cannot_take_the_money_frees_the_payer_s(database_url: str, mode: str) -> None:
    async with _two(database_url) as (here, there):
        await there.add("HERE", kind="ledger", peer_ledger_id=here.ledger_id)
        assert await there.one.codes(ChangeAccount(there.ids["BETA"][0], status="frozen")) == [None]
        draft = here.draft("ALFA", "THERE", "30", payee_account_id=there.ids["BETA"][0], mode=mode)
        [refused] = await here.pay(draft, key="k")
        assert refused.code == "account_frozen"
        assert (await here.one.service.balance(here.ids["ALFA"][0])).available == "1000.00"
        assert (await here.pay(draft, key="k"))[0].code == "account_frozen"
        await here.past_cut_off()
        assert await here.status(refused) == "voided"
        await here.whole()


async def test_a_hand_in_the_books_is_seen(database_url: str) -> None:
    async with _two(database_url) as (here, there):
        await there.add("HERE", kind="ledger", peer_ledger_id=here.ledger_id)
        await here.fund(here.ids["THERE"][0], "0.01")
        found, *_ = await here.worker.check_mirrors()
        assert (found.here_minor, found.there_minor, found.agrees) == (-1, 0, False)


async def test_pages_of_cycles(database_url: str) -> None:
    async with bank(database_url) as one:
        await _members(one)
        for _ in range(3):
            assert (await one.pay(one.draft("ALFA", "BETA", "1")))[0].code is None
            one.one.clock.at += 24 * 3_600_000_000
        page = await one.settlement.cycles(one.ledger_id, Span(limit=2))
        rest = await one.settlement.cycles(one.ledger_id, Span(page.next, limit=2))
        dates = [each.value_date.isoformat() for each in [*page.items, *rest.items]]
        assert dates == sorted(set(dates))
        assert len(dates) == 3


async def test_a_cycle_is_not_closed_while_an_order_joins_it_and_nobody_waits_for_ever(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_LIMITS", "set local lock_timeout = 100")
    async with bank(database_url) as one:
        await _members(one)
        [taken] = await one.pay(one.draft("ALFA", "BETA", "1"))
        async with one.one.pool.acquire() as joining, joining.transaction():
            await joining.execute("select from settlement_cycles for share")
            await one.past_cut_off()
            cycle = await one.settlement.cycle(taken.cycle_id or "")
            assert cycle.state == "open"
            assert cycle.work is not None
            assert "overloaded" in (cycle.work.last_error or "")
        one.one.clock.at += 60_000_000
        await one.worker.until_idle()
        assert await _state(one, taken.cycle_id) == "settled"


async def test_an_order_comes_back_only_after_it_was_settled_and_only_once(database_url: str) -> None:
    async with bank(database_url) as one:
        await _members(one)
        [taken, gross] = await one.pay(
            one.draft("ALFA", "BETA", "400"), one.draft("ALFA", "BETA", "50", mode="gross")
        )
        with pytest.raises(FinFlowError, match="order_not_settled"):
            await one.settlement.return_order(taken.order_id or "", "too early", "test")
        await one.past_cut_off()
        for order in (taken, gross, taken):
            await one.settlement.return_order(order.order_id or "", "not ours", "test")
            await one.worker.until_idle()
        assert [await one.status(taken), await one.status(gross)] == ["returned", "returned"]
        assert [await one.balance(name) for name in ("ALFA", "BETA")] == ["1000.00", "1000.00"]
        assert [await one.balance(name, True) for name in ("ALFA", "BETA")] == ["0.00", "0.00"]
        await one.whole()


async def test_money_that_the_payee_has_spent_comes_back_when_it_is_there_again(database_url: str) -> None:
    async with bank(database_url) as one:
        await _members(one)
        [taken] = await one.pay(one.draft("ALFA", "BETA", "400", mode="gross"))
        [spent] = await one.pay(one.draft("BETA", "CITI", "1400", mode="gross"))
        assert spent.code is None
        await one.settlement.return_order(taken.order_id or "", "not ours", "test")
        await one.worker.until_idle()
        assert await one.status(taken) == "settled"
        await one.fund(one.ids["BETA"][0], "400")
        one.one.clock.at += 120_000_000
        await one.worker.until_idle()
        assert (await one.status(taken), await one.balance("BETA")) == ("returned", "0.00")
        await one.whole()
