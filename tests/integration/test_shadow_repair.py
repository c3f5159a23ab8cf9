"""Repairs: proposed, applied once, refused where they must be, and proven by a checksum of both books."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest
from test_shadow_faults import (
    amount,
    conversion,
    currency,
    duplicate,
    no_upper_limit,
    over,
    payments,
    twice,
)

from finflow.client.model import NewTransaction
from finflow.kernel import ids
from finflow.kernel.clock import to_micros
from finflow.kernel.errors import FinFlowError
from finflow.ledger import commands as c
from finflow.ledger import copy
from finflow.shadow import checksum, repair
from oracles.service import Desk, desk, transfer
from oracles.shadowing import Watched, cloned, watched
from oracles.trading import Market, market_of


@pytest.fixture(autouse=True)
def whole() -> Any:
    copy.keep_commands_whole(True)
    yield
    copy.keep_commands_whole(False)


class Booked:
    """A transaction as the API answers it."""

    def __init__(self, record: Any) -> None:
        if record.code is not None:
            raise FinFlowError(record.code)
        self.transaction_id, self.replayed = record.transaction_id(1), record.replayed


class Asked:
    """The API, as far as repairs ask it, on the ledger itself."""

    def __init__(self, one: Desk) -> None:
        self._one = one

    async def api_of(self, tenant_id: str) -> repair.Api:
        assert tenant_id == self._one.service.tenant_id
        return repair.Api(self.reverse, self.void, self.post)

    async def reverse(self, name: str, *, description: str, effective_at: Any, key: str) -> Booked:
        return await self._do(c.ReverseTransaction(name, description, effective_at), key)

    async def void(self, name: str, *, description: str, key: str) -> Booked:
        return await self._do(c.VoidPending(name, description), key)

    async def post(self, ledger_id: str, new: NewTransaction) -> Booked:
        lines = [c.EntryLine(leg.account_id, leg.direction, leg.amount, leg.currency) for leg in new.entries]
        command = c.PostTransaction(
            lines, new.pending, None, new.description, new.reference, new.effective_at, new.metadata or None
        )  # fmt: skip
        return await self._do(command, new.idempotency_key or "")

    async def _do(self, command: c.Command, key: str) -> Booked:
        [record] = await self._one.service.submit(self._one.ledger_id, [c.Request(key, command, "repair")])
        return Booked(record)


async def start(one: Desk, *urls: str) -> Market:
    market = await market_of(one)
    for name in ("EUR2", "EUR3"):
        [market.accounts[name]] = await one.open(currency="EUR", kind="liability")
    await payments(market)
    await conversion(market)
    await cloned(*urls)
    return market


async def compared(shadow: Watched, live_url: str, clone_url: str) -> checksum.Verified:
    """The checksum, with nobody else driving the shadow."""
    await shadow.catch_up()
    return await checksum.verify(live_url, clone_url, 20)


async def plan_of(shadow: Watched, live_url: str) -> repair.Plan:
    connection = await asyncpg.connect(live_url)
    try:
        return await repair.make_plan(connection, shadow.cases, "2026-01-01T00:00:00Z")
    finally:
        await connection.close()


async def hold(market: Market) -> None:
    first, second = market.accounts["EUR"], market.accounts["EUR2"]
    await market.one.do(transfer(first, second, "3", "EUR", pending=True))


async def capture(market: Market) -> None:
    [held] = await market.one.rows(
        "select seq, recorded_at from journal where kind = 'hold' and code is null"
    )
    await market.one.do(c.PostPending(_transaction_id(held), "0.2"))


def _transaction_id(row: Any) -> str:
    return ids.mint("txn", to_micros(row["recorded_at"]), 1, row["seq"])


@pytest.mark.parametrize(
    ("fault", "traffic", "repaired"),
    [
        (amount, payments, 2), (currency, conversion, 2), (duplicate, twice, 1), (amount, hold, 1),
        (amount, capture, 1), (no_upper_limit, over, 1),
    ],
    ids=["amount", "currency", "duplicate", "hold", "capture", "limit"],
)  # fmt: skip
async def test_what_was_wrong_is_put_right(
    database_url: str, database_url_empty: str, tmp_path: Path, fault: Any, traffic: Any, repaired: int
) -> None:
    async with desk(database_url) as one:
        market = await start(one, database_url, database_url_empty)
        async with watched(database_url, database_url_empty, tmp_path / "s") as shadow:
            if traffic is capture:
                await hold(market)
            with pytest.MonkeyPatch.context() as patch:
                fault(patch)
                await traffic(market)
            await payments(market)
            found = await compared(shadow, database_url, database_url_empty)
            assert found.apart > 0
            assert found.unexplained == 0
            assert not found.equal
            plan = await plan_of(shadow, database_url)
            assert [item.action != "none" for item in plan.items] == [True] * repaired
            done = await repair.apply_plan(plan, Asked(one).api_of)
            assert [each.done for each in done] == [True] * repaired
            head = await one.value("select seq from heads")
            assert head > 0
            again = await repair.apply_plan(plan, Asked(one).api_of)
            assert all(each.done and each.replayed for each in again)
            assert await one.value("select seq from heads") == head
            assert [i for i in (await plan_of(shadow, database_url)).items if i.action == "none"] == []
            proven = await compared(shadow, database_url, database_url_empty)
    assert proven.apart == 0
    assert proven.unexplained == 0
    assert proven.equal


async def test_what_somebody_took_back_is_left_alone(
    database_url: str, database_url_empty: str, tmp_path: Path
) -> None:
    async with desk(database_url) as one:
        market = await start(one, database_url, database_url_empty)
        async with watched(database_url, database_url_empty, tmp_path / "s") as shadow:
            with pytest.MonkeyPatch.context() as patch:
                amount(patch)
                first, second = market.accounts["EUR"], market.accounts["EUR2"]
                [wrong] = await one.do(transfer(first, second, "5", "EUR"))
            await one.do(c.ReverseTransaction(wrong.transaction_id(1)))
            found = await compared(shadow, database_url, database_url_empty)
            assert (await plan_of(shadow, database_url)).items == []
            assert found.equal
            assert [case.outcome.value for case in shadow.cases] == ["mismatch", "follows"]
            assert shadow.cases[1].cause == shadow.cases[0].case_no


async def test_a_correction_that_is_refused_is_listed(
    database_url: str, database_url_empty: str, tmp_path: Path
) -> None:
    async with desk(database_url) as one:
        market = await start(one, database_url, database_url_empty)
        payer, payee = market.accounts["EUR"], market.accounts["EUR2"]
        async with watched(database_url, database_url_empty, tmp_path / "s") as shadow:
            with pytest.MonkeyPatch.context() as patch:
                amount(patch)
                await one.do(transfer(payer, payee, "5", "EUR"))
            await one.do(c.ChangeAccount(payee, status="frozen"))
            await shadow.catch_up()
            plan = await plan_of(shadow, database_url)
            [refused] = await repair.apply_plan(plan, Asked(one).api_of)
            assert (refused.done, refused.step, refused.code) == (False, "reverse", "account_frozen")
            await one.do(c.ChangeAccount(payee, status="open"))
            [still] = await repair.apply_plan(plan, Asked(one).api_of)
            assert still.code == "account_frozen"
            [done] = await repair.apply_plan(plan, Asked(one).api_of, attempt=2)
            assert done.done
            assert (await compared(shadow, database_url, database_url_empty)).equal


def test_an_edited_plan_is_not_read(tmp_path: Path) -> None:
    item = repair.Item(
        1, "ten_x", "led_x", "txn_x", 5, "mismatch", "reverse", None  # type: ignore[arg-type] # as decoded
    )  # fmt: skip
    repair.write_plan(tmp_path / "plan.json", repair.Plan("now", [item], repair.digest_of([item])))
    assert repair.read_plan(tmp_path / "plan.json").items[0].seq == 5
    text = (tmp_path / "plan.json").read_text()
    (tmp_path / "plan.json").write_text(text.replace('"seq": 5', '"seq": 6'))
    with pytest.raises(FinFlowError, match="repair_plan_malformed"):
        repair.read_plan(tmp_path / "plan.json")
