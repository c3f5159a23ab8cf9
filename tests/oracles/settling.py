"""A settlement room over a ledger of one's own: banks with money, orders in a word, books recounted."""

import hashlib
import io
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Any

from finflow.ledger.commands import EntryLine, PostTransaction
from finflow.ledger.lists import Span
from finflow.settlement.acceptance import Outcome
from finflow.settlement.calendars import CutOff
from finflow.settlement.inbox import MessageView, Spooled
from finflow.settlement.orders import Creditor, OrderDraft
from finflow.settlement.ports import Rail
from finflow.settlement.reconciliation_reads import ReconciliationView
from finflow.settlement.register import NewParticipant
from finflow.settlement.service import Settlement, SettlementService
from finflow.settlement.worker import Worker
from oracles.service import Clock, Desk, desk

# A Monday that is no holiday, 09:00 in Singapore.
MONDAY = datetime(2026, 6, 8, 1, 0, tzinfo=UTC)
HOUR_US = 3_600_000_000
CREDITOR = Creditor("Budi Santoso", "ID123456789", "BMRIIDJA")


def micros(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000


@dataclass
class Bank:
    """A ledger with its settlement room; `clock` is the one of all of it."""

    one: Desk
    room: SettlementService
    settlement: Settlement
    worker: Worker
    ids: dict[str, tuple[str, str]]
    orders: int = 0

    @property
    def ledger_id(self) -> str:
        return self.one.ledger_id

    async def add(self, name: str, money: str = "1000", currency: str = "SGD", **rest: Any) -> None:
        """A participant; a member gets money on its position account out of nowhere (an asset of ours)."""
        kind = rest.pop("kind", "member")
        view = await self.settlement.add_participant(
            self.ledger_id, NewParticipant(name, kind, [currency], **rest)
        )
        [accounts] = [each for each in view.accounts if each.currency == currency]
        self.ids[name] = (accounts.position_account_id, accounts.settlement_account_id)
        if kind == "member" and float(money):
            await self.fund(self.ids[name][0], money, currency)

    async def fund(self, account_id: str, money: str, currency: str = "SGD") -> None:
        [vault] = await self.one.open(currency=currency)
        lines = [
            EntryLine(vault, "debit", money, currency), EntryLine(account_id, "credit", money, currency)
        ]  # fmt: skip
        assert await self.one.codes(PostTransaction(lines)) == [None]

    def draft(self, payer: str, payee: str, amount: str = "10", **rest: Any) -> OrderDraft:
        self.orders += 1
        name = rest.pop("end_to_end_id", f"E2E-{self.orders}")
        return OrderDraft(payer, payee, rest.pop("currency", "SGD"), amount, name, **rest)

    async def pay(self, *drafts: OrderDraft, key: str | None = None) -> list[Outcome]:
        self.orders += 1
        return await self.settlement.accept(self.ledger_id, drafts, key or f"key-{self.orders}")

    async def balance(self, name: str, settlement: bool = False) -> str:
        return (await self.one.service.balance(self.ids[name][settlement])).balance

    async def status(self, outcome: Outcome) -> str:
        assert outcome.order_id is not None, outcome
        return (await self.settlement.order(outcome.order_id)).status

    async def past_cut_off(self) -> None:
        """Ten hours on, which is past 17:00 in Singapore; then everything that is due is done."""
        self.one.clock.at += 10 * HOUR_US
        await self.worker.until_idle()

    async def send(self, sender: str, data: bytes, rail: str | None = None) -> MessageView:
        """A message comes in."""
        content = Spooled(io.BytesIO(data), hashlib.sha256(data).digest())
        return await self.settlement.take_message(self.ledger_id, sender, rail, content)

    async def reconciled(self, limit: int = 1_000) -> ReconciliationView:
        """The report, once everything due is done."""
        await self.worker.until_idle()
        return (await self.settlement.reconciliation(self.ledger_id, Span(limit=limit)))[0]

    async def whole(self) -> None:
        await books_are_whole(self.one)


@asynccontextmanager
async def bank(
    url: str, rails: Mapping[str, Rail] | None = None, reached: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Bank]:
    async with desk(url, clock=Clock(micros(MONDAY)), max_size=8) as one:
        yield settling(one, rails, reached)


def settling(
    one: Desk, rails: Mapping[str, Rail] | None = None, reached: Callable[[str], None] = lambda _: None
) -> Bank:
    """The settlement room of a desk that is there already."""
    room = SettlementService(one.pool, one.ledgers, one.clock, rails, reached, lease_s=0.0)
    return Bank(one, room, room.of(one.service), Worker(room, lease_s=1.0), {})


async def neighbour(here: Bank) -> Bank:
    """Another tenant's bank under the same roof: its ledger, and settlement as that tenant sees it."""
    one = here.one
    service = one.ledgers.of((await one.ledgers.create_tenant("the other")).tenant_id)
    ledger = await service.create_ledger("there")
    other = Desk(service, one.ledgers, ledger.ledger_id, one.pool, one.clock, "there")
    return Bank(other, here.room, here.room.of(service), here.worker, {})


NIGHT = CutOff("SGD", time(23, 59, 59), "Asia/Singapore", "SG")

# What every order is, recounted from the journal by another way than the room's own SQL: by reference.
_ORDERS = """
select o.*, x.name as payer, y.name as payee,
       array(select j.kind from journal j
              where j.ledger_no = o.ledger_no and j.code is null
                and j.key like '§order:' || o.ledger_no || '.' || o.order_no || ':%' order by j.seq) as kinds
  from settlement_orders o
  join settlement_participants x on x.ledger_no = o.ledger_no and x.participant_no = o.payer_no
  join settlement_participants y on y.ledger_no = o.ledger_no and y.participant_no = o.payee_no
 order by o.ledger_no, o.order_no
"""
_TOTALS = """
select a.ledger_no, a.account_no, a.external_reference, a.currency, a.normal,
       coalesce(e.posted_debits - e.posted_credits, 0) as net,
       coalesce(e.pending_debits, 0) + coalesce(e.pending_credits, 0) as pending
  from accounts a
  left join lateral (
      select * from entries n where n.ledger_no = a.ledger_no and n.account_no = a.account_no
       order by version desc limit 1
  ) e on true
"""
_PAID: Sequence[Sequence[str]] = (["hold", "capture"], ["post"])


async def books_are_whole(one: Desk) -> None:
    """All is settled: no hold is left, currencies sum to zero, and netted equals gross per participant."""
    totals = await one.rows(_TOTALS)
    orders = await one.rows(_ORDERS)
    assert [row for row in totals if row["pending"]] == []
    sums: dict[tuple[int, str], int] = defaultdict(int)
    for row in totals:
        sums[row["ledger_no"], row["currency"]] += row["net"]
    assert set(sums.values()) <= {0}, sums
    expected: dict[tuple[int, int], int] = defaultdict(int)
    for order in orders:
        assert list(order["kinds"]) in ENDS, (order["order_no"], order["kinds"])
        if list(order["kinds"]) in _PAID and order["payer_no"] != order["payee_no"]:
            expected[order["ledger_no"], order["payer_no"]] -= order["amount_minor"]
            expected[order["ledger_no"], order["payee_no"]] += order["amount_minor"]
    accounts = await one.rows("select * from settlement_accounts")
    by_number = {(row["ledger_no"], row["account_no"]): row["net"] for row in totals}
    for row in accounts:
        key = row["ledger_no"], row["participant_no"]
        settled = by_number[row["ledger_no"], row["settlement_account"]]
        assert settled == expected[key], f"participant {key}: {settled} settled, {expected[key]} owed"


# Everything that an order may have become: refused, paid, released, paid and returned (with what took it out
# of the settlement accounts again, unless payer and payee are one or it was gross).
ENDS = (
    [], ["hold", "capture"], ["post"], ["hold", "void"], ["hold", "capture", "reverse"],
    ["hold", "capture", "reverse", "post"], ["post", "reverse"],
)  # fmt: skip
