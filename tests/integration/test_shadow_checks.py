"""Checksums find what no command did; what is meant is benign until its day; settlement is netted again."""

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from finflow.fx.service import Exchange
from finflow.ledger import commands as c
from finflow.shadow import checksum
from finflow.shadow.cases import Allowance
from finflow.shadow.model import Outcome
from oracles.service import desk, transfer
from oracles.settling import Bank, bank
from oracles.shadowing import cloned, damage, watched
from oracles.trading import market_of

INJECTED = {
    "a balance": "update entries set posted_debits = posted_debits + 1 where version = 1 and account_no = 1",
    "a status": "update accounts set status = 'frozen' where account_no = 2",
    "history": "update entries set amount = amount + 1, seq = seq where account_no = 1 and version = 1",
    "the journal": "update journal set caller = 'nobody' where seq = 3",
}


@pytest.mark.parametrize("name", INJECTED)
async def test_what_no_command_did_is_found(
    database_url: str, database_url_empty: str, tmp_path: Path, name: str
) -> None:
    async with desk(database_url) as one:
        accounts = await one.open(2)
        await one.do(transfer(*accounts, "5"), transfer(*accounts, "6"))
        await cloned(database_url, database_url_empty)
        async with watched(database_url, database_url_empty, tmp_path / "s") as shadow:
            await one.do(transfer(*accounts, "7"))
            await shadow.catch_up()
            sound = await checksum.verify(database_url, database_url_empty, 10)
            assert sound.equal
            assert (sound.accounts, sound.commands, sound.entries) == (2, 5, 6)
            await damage(database_url_empty, INJECTED[name])
            found = await checksum.verify(database_url, database_url_empty, 10)
            assert not found.equal
            assert found.unexplained > 0


async def test_the_checksum_waits_for_the_shadow_and_holds_it(
    database_url: str, database_url_empty: str, tmp_path: Path
) -> None:
    async with desk(database_url) as one:
        accounts = await one.open(2)
        await cloned(database_url, database_url_empty)
        async with watched(database_url, database_url_empty, tmp_path / "s") as shadow:
            stopping = asyncio.Event()
            running = asyncio.create_task(shadow.shadow.run(stopping))
            ending = False

            async def load() -> None:
                while not ending:
                    await one.do(*[transfer(*accounts, "1")] * 10)
                    await asyncio.sleep(0.005)

            loading = asyncio.create_task(load())
            for _ in range(3):
                found = await checksum.verify(database_url, database_url_empty, 30)
                assert found.equal
            ending = True
            await loading
            stopping.set()
            await running
        assert found.commands > 20


async def test_what_is_meant_is_benign_until_its_last_day(
    database_url: str, database_url_empty: str, tmp_path: Path
) -> None:
    today = dt.datetime.now(dt.UTC).date()
    meant = Allowance("spread shown", "it is shown with one digit now", today, ["metadata.fx_spread"])
    over = Allowance("spread shown", "the same", today - dt.timedelta(days=1), ["metadata.fx_spread"])
    async with desk(database_url) as one:
        market = await market_of(one)
        await cloned(database_url, database_url_empty)
        for allowances, outcome in (([meant], Outcome.BENIGN), ([over], Outcome.MISMATCH)):
            folder = tmp_path / outcome
            async with watched(database_url, database_url_empty, folder, allowances) as shadow:
                with pytest.MonkeyPatch.context() as patch:
                    spread_shown_anew(patch)
                    quote_id = await market.quote("EUR", "JPY", "20")
                    await market.convert(quote_id, "EUR", "JPY")
                report = await shadow.catch_up()
                assert shadow.cases[-1].outcome is outcome
                assert report.outcomes[outcome] == 1
                assert (report.wrong == 0) is (outcome is Outcome.BENIGN)


def spread_shown_anew(patch: pytest.MonkeyPatch) -> None:
    right = Exchange.conversion

    async def conversion(self: Exchange, *where: str) -> tuple[str, c.PostTransaction]:
        ledger_id, command = await right(self, *where)
        metadata = {**(command.metadata or {}), "fx_spread": "0.5 %"}
        return ledger_id, replace(command, metadata=metadata)

    patch.setattr(Exchange, "conversion", conversion)


async def test_a_gap_in_the_journal_is_missing(
    database_url: str, database_url_empty: str, tmp_path: Path
) -> None:
    async with desk(database_url) as one:
        accounts = await one.open(2)
        await cloned(database_url, database_url_empty)
        async with watched(database_url, database_url_empty, tmp_path / "s") as shadow:
            await one.do(transfer(*accounts, "5"), transfer(*accounts, "6"), transfer(*accounts, "7"))
            await damage(database_url, "delete from journal where seq = 4")
            report = await shadow.catch_up()
        kinds = [(case.outcome, case.number) for case in shadow.cases if case.outcome is Outcome.MISSING]
        assert kinds == [(Outcome.MISSING, 4)]
        assert report.wrong >= 1


async def test_settlement_is_netted_again(database_url: str, database_url_empty: str, tmp_path: Path) -> None:
    async with bank(database_url) as one:
        for name in ("ALFA", "BETA", "CITI"):
            await one.add(name)
        await settle(one)
        await cloned(database_url, database_url_empty)
        async with watched(database_url, database_url_empty, tmp_path / "s") as shadow:
            await settle(one)
            report = await shadow.catch_up()
            assert (shadow.cases, report.wrong) == ([], 0)
            before = sum(report.outcomes.values())
            with pytest.MonkeyPatch.context() as patch:
                wrong_netting(patch)
                await settle(one)
            report = await shadow.catch_up()
        [case] = shadow.cases
        assert (case.subject, case.outcome, report.wrong) == ("cycle", Outcome.MISMATCH, 1)
        places = {each.place for each in case.differences}
        assert {"obligations", "position[ALFA]", "position_hold"} <= places
        assert sum(report.outcomes.values()) > before


async def settle(one: Bank) -> None:
    """A cycle with orders that leave everybody something to settle."""
    taken = await one.pay(
        one.draft("ALFA", "BETA", "100"), one.draft("BETA", "CITI", "90"), one.draft("CITI", "ALFA", "50")
    )
    assert [each.code for each in taken] == [None] * 3
    await one.past_cut_off()
    one.one.clock.at += 14 * 3_600_000_000
    await one.worker.until_idle()


def wrong_netting(patch: pytest.MonkeyPatch) -> None:
    """Positions that forget one obligation, balanced all the same."""
    from finflow.settlement import netting, steps

    def net(obligations: Any) -> Any:
        return netting.net(obligations[1:])

    patch.setattr(steps, "net", net)
