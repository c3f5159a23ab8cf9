"""The client against the real API: its worker processes, over real sockets, on a database of its own."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec
import pytest

from finflow.app import Config, running
from finflow.cli.connect import LocalTokens
from finflow.client import (
    administration,
    fx,
    model,
    service,
    settlement,
    settlement_audit,
    settlement_messages,
)
from finflow.client.administration import LimitsChange
from finflow.client.fx import NewRate
from finflow.client.model import AccountChange, Leg, NewAccount, NewTransaction, TransactionFilter
from finflow.client.service import Client
from finflow.client.transport import Reply, Request, Transport
from finflow.fx import views as fx_views
from finflow.identity import views as identity_views
from finflow.kernel.errors import FinFlowError
from finflow.ledger import views
from finflow.limits.service import LimitsView
from finflow.settlement import audits, inbox, reconciliation_reads
from finflow.settlement import views as settlement_views
from oracles.letters import entry, notification, payment, transfers
from oracles.lossy import LossyProxy
from oracles.oauth import key, public

# What a person's browser or a probe asks for, and no program that moves money.
_NOT_OURS = {
    "GET /healthz",
    "GET /readyz",
    "GET /.well-known/jwks.json",
    "GET /.well-known/oauth-authorization-server",
    # Tokens have a way of their own: tests/integration/test_tokens_client.py.
    "POST /oauth/token",
}


class Place(NamedTuple):
    """An API that runs, and tokens for it."""

    url: str
    tokens: LocalTokens

    def operator(self) -> Client:
        return Client(self.url, token=self.tokens.operator())

    @asynccontextmanager
    async def bank(self) -> AsyncIterator[tuple[Client, str, str]]:
        """A client of a new tenant, the tenant's id, and the id of a ledger of it."""
        async with self.operator() as platform:
            tenant_id = (await platform.create_tenant("Bank")).tenant_id
        async with Client(self.url, token=self.tokens.of(tenant_id)) as api:
            yield api, tenant_id, (await api.create_ledger("Retail")).ledger_id


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Place]:
    flags = {"database_url": database_url, "data": str(tmp_path / "data"), "workers": 1, "log_level": "error"}
    config = Config.load(flags, {})
    async with running(config) as stack:
        yield Place(stack.url, LocalTokens(config, stack.url))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Method and path of every request that a client sends in this test."""
    seen: list[str] = []
    send = Transport.send

    async def noted(self: Transport, request: Request) -> Reply:
        seen.append(f"{request.method} {request.path}")
        return await send(self, request)

    monkeypatch.setattr(Transport, "send", noted)
    return seen


def transfer(debit: str, credit: str, amount: str, **fields: object) -> NewTransaction:
    legs = (Leg(debit, "debit", amount, "SGD"), Leg(credit, "credit", amount, "SGD"))
    return msgspec.structs.replace(NewTransaction(entries=legs), **fields)


def code(caught: pytest.ExceptionInfo[FinFlowError]) -> tuple[str, str | None]:
    return caught.value.kind.code, caught.value.param


async def test_every_route_has_a_method_and_every_answer_its_shape(place: Place, asked: list[str]) -> None:
    async with place.operator() as platform:
        tenant = await platform.create_tenant("Bank")
        assert await platform.tenant(tenant.tenant_id) == tenant
        assert tenant in [each async for each in platform.tenants()]
        limits = await platform.limits(tenant.tenant_id)
        changed = await platform.change_limits(
            tenant.tenant_id, LimitsChange(burst=7), if_match=limits.etag or ""
        )
        assert (changed.burst, changed.overridden) == (7, ["burst"])
        await platform.change_limits(tenant.tenant_id, LimitsChange(burst=None))
        await clients(platform, tenant.tenant_id)
    async with Client(place.url, token=place.tokens.of(tenant.tenant_id)) as api:
        ledger = await api.create_ledger("Retail")
        assert await api.ledger(ledger.ledger_id) == ledger
        assert ledger in await api.ledgers()
        assert (await api.declare_asset(ledger.ledger_id, "POINTS", 3)).exponent == 3
        await accounts(api, ledger.ledger_id)
        await transactions(api, ledger.ledger_id)
        await exchange(api, ledger.ledger_id)
        await settling(api, ledger.ledger_id)
        books = await api.trial_balance(ledger.ledger_id)
        assert books.balanced
        changes = [each async for each in api.changes(ledger.ledger_id, order="oldest", page_size=3)]
        assert changes[0].requested == {"code": "POINTS", "exponent": 3}
        assert {each.outcome for each in changes} == {"done", "refused"}
    assert await undone(place.url, asked) == set()


async def clients(platform: Client, tenant_id: str) -> None:
    jwk, other = public(key()), public(key())
    made = await platform.create_client("Teller", ["accounts:read"], jwk, tenant_id)
    assert (made.name, made.tenant_id, made.scopes) == ("Teller", tenant_id, ["accounts:read"])
    second = await platform.create_client("Second", ["accounts:read"], other, tenant_id)
    assert [each.client_id async for each in platform.clients(page_size=1)] == [
        made.client_id,
        second.client_id,
    ]
    grown = await platform.add_client_key(made.client_id, other)
    assert len(grown.keys) == 2
    shrunk = await platform.revoke_client_key(made.client_id, made.keys[0].kid)
    assert [each.revoked_at is None for each in shrunk.keys] == [False, True]
    assert await platform.client(made.client_id) == shrunk
    assert (await platform.revoke_client(made.client_id)).revoked_at is not None


async def accounts(api: Client, ledger_id: str) -> None:
    new = NewAccount(ledger_id, "SGD", "liability", "alice", "10", {"branch": "1"}, "1000")
    alice = await api.open_account(new)
    assert (alice.overdraft_limit, alice.upper_limit, alice.normal_side) == ("10.00", "1000.00", "credit")
    assert alice.etag
    assert await api.account(alice.account_id) == alice
    assert await api.find_account(ledger_id, "alice") == msgspec.structs.replace(alice, etag=None)
    assert await api.find_account(ledger_id, "nobody") is None
    assert (await api.ensure_account(new)).account_id == alice.account_id
    change = AccountChange(overdraft_limit=None, metadata={"branch": "2"})
    changed = await api.change_account(alice.account_id, change)
    assert (changed.overdraft_limit, changed.upper_limit) == (None, "1000.00")
    assert changed.metadata == {"branch": "2"}
    with pytest.raises(FinFlowError, match="precondition_failed"):
        await api.change_account(alice.account_id, AccountChange(upper_limit=None), if_match=alice.etag)
    assert changed.etag
    await api.change_account(alice.account_id, AccountChange(upper_limit=None), if_match=changed.etag)
    assert (await api.freeze_account(alice.account_id)).status == "frozen"
    assert (await api.unfreeze_account(alice.account_id)).status == "open"
    assert (await api.close_account(alice.account_id)).status == "closed"
    made = [await api.open_account(NewAccount(ledger_id, "SGD", "asset")) for _ in range(4)]
    listed = [account.account_id async for account in api.accounts(ledger_id, page_size=2)]
    assert listed == [alice.account_id, *(account.account_id for account in made)]


async def transactions(api: Client, ledger_id: str) -> None:
    cash = (await api.open_account(NewAccount(ledger_id, "SGD", "asset", None, None))).account_id
    alice = (await api.open_account(NewAccount(ledger_id, "SGD", "liability", None, "50"))).account_id
    deposit = await api.post(ledger_id, transfer(cash, alice, "100", reference="d-1", description="In"))
    assert (deposit.kind, deposit.reference, deposit.entries[1].balance) == ("post", "d-1", "100.00")
    hold = await api.post(ledger_id, transfer(alice, cash, "30", pending=True, timeout_s=600))
    assert hold.expires_at is not None
    assert (hold.expires_at - hold.recorded_at).total_seconds() == 600
    [held] = [each async for each in api.holds(alice)]
    assert (held.transaction_id, held.amount) == (hold.transaction_id, "30.00")
    with pytest.raises(FinFlowError, match="not_expired"):
        await api.expire(hold.transaction_id)
    captured = await api.capture(hold.transaction_id, "20", description="Taken")
    assert (captured.pending_id, captured.entries[0].amount) == (hold.transaction_id, "20.00")
    other = await api.post(ledger_id, transfer(alice, cash, "5", pending=True))
    assert (await api.void(other.transaction_id)).status == "voided"
    back = await api.reverse(deposit.transaction_id, effective_at="2026-01-01T00:00:00Z", key="back")
    again = await api.reverse(deposit.transaction_id, effective_at="2026-01-01T00:00:00Z", key="back")
    assert (back.reverses_id, again.replayed) == (deposit.transaction_id, True)
    assert msgspec.structs.replace(again, replayed=False) == back
    read = await api.transaction(deposit.transaction_id)
    assert (read.status, read.resolved_by_id) == ("reversed", back.transaction_id)
    assert (await api.balance(alice)).balance == "-20.00"
    assert (await api.balance(alice, at_seq=deposit.seq)).balance == "100.00"
    assert (await api.balance(alice, as_of=deposit.recorded_at)).balance == "100.00"
    assert (await api.balance(alice, effective_at="2025-12-31T00:00:00Z")).balance == "0.00"
    versions = [entry.version async for entry in api.entries(alice, page_size=2)]
    assert versions == [6, 5, 4, 3, 2, 1]
    oldest = [entry.version async for entry in api.entries(alice, order="oldest", page_size=4)]
    assert oldest == versions[::-1]
    booked = [each.transaction_id async for each in api.transactions(ledger_id, page_size=2)]
    assert booked[0] == deposit.transaction_id
    assert len(booked) == len(set(booked)) == 6
    found = [each async for each in api.transactions(ledger_id, TransactionFilter(reference="d-1"))]
    assert [each.transaction_id for each in found] == [deposit.transaction_id]
    which = TransactionFilter(account_id=alice, kind="hold", recorded_from=hold.recorded_at, order="newest")
    found = [each async for each in api.transactions(ledger_id, which, page_size=1)]
    assert [each.transaction_id for each in found] == [other.transaction_id, hold.transaction_id]
    await batches(api, ledger_id, cash, alice)


async def exchange(api: Client, ledger_id: str) -> None:
    at = datetime.now(UTC) - timedelta(hours=1)
    moments = [at + timedelta(seconds=number) for number in range(3)]
    given = [NewRate("EUR", "USD", f"1.{n}", "test", moment) for n, moment in enumerate(moments, 1)]
    pushed = await api.fx.push_rates(ledger_id, given)
    assert [each async for each in api.fx.rates(ledger_id, "USD", "EUR", page_size=2)] == pushed[::-1]
    found = await api.fx.rate(ledger_id, "USD", "EUR", at=at)
    assert (found.method, found.rate, found.via) == ("inverse", "0.90909090909090909", pushed[:1])
    euro = (await api.open_account(NewAccount(ledger_id, "EUR", "liability", None, None))).account_id
    dollar = (await api.open_account(NewAccount(ledger_id, "USD", "liability"))).account_id
    quote = await api.fx.quote(ledger_id, "EUR", "USD", sell_amount="10", spread="0.01", key="q")
    assert await api.fx.quote(ledger_id, "EUR", "USD", sell_amount="10", spread="0.01", key="q") == quote
    assert (quote.buy_amount, quote.status) == ("12.87", "open")
    booked = await api.fx.convert(quote.quote_id, euro, dollar, key="c")
    again = await api.fx.convert(quote.quote_id, euro, dollar, key="c")
    assert (again.replayed, again.transaction_id) == (True, booked.transaction_id)
    assert (await api.fx.read_quote(quote.quote_id)).transaction_id == booked.transaction_id
    with pytest.raises(FinFlowError) as caught:
        await api.fx.convert(quote.quote_id, euro, dollar)
    assert code(caught) == ("quote_used", "quote_id")
    bought = await api.fx.quote(ledger_id, "EUR", "USD", buy_amount="1.30")
    assert bought.sell_amount == "1.00"
    held = {each.currency: each.position for each in (await api.fx.positions(ledger_id)).positions}
    assert held == {"EUR": "10.00", "USD": "-13.00"}


async def settling(api: Client, ledger_id: str) -> None:
    room = api.settlement
    added = [
        await room.add_participant(ledger_id, name, "member", ["SGD"], overdraft_limit=None)
        for name in ("ALFA", "BETA")
    ]
    assert await room.participants(ledger_id) == added
    order = settlement.NewOrder("ALFA", "BETA", "SGD", "7", "E2E-1")
    taken = await room.order(ledger_id, order, key="one")
    assert await room.order(ledger_id, order, key="one") == taken
    [gross] = await room.orders_batch(
        ledger_id, [settlement.NewOrder("BETA", "ALFA", "SGD", "1", "E2E-2", mode="gross")]
    )
    assert [(await room.read_order(each)).status for each in (taken.order_id, gross.order_id or "")] == [
        "held", "settled",
    ]  # fmt: skip
    seen = await room.audit(taken.order_id)
    assert (seen.order, seen.cycle and seen.cycle.cycle_id) == (taken, taken.cycle_id)
    assert [(each.kind, each.transaction_id) for each in seen.transactions] == [("hold", taken.paid_by)]
    listed = [each.order_id async for each in room.orders(ledger_id, page_size=1)]
    assert listed == [taken.order_id, gross.order_id]
    in_cycle = [each async for each in room.orders(ledger_id, cycle_id=taken.cycle_id)]
    assert in_cycle == [taken]
    [cycle] = [each async for each in room.cycles(ledger_id, page_size=1)]
    assert (cycle.cycle_id, cycle.state) == (taken.cycle_id, "open")
    assert (await room.cycle(cycle.cycle_id)).work is not None
    for refused, expected in (
        (room.run(cycle.cycle_id), "cycle_not_due"),
        (room.retry(cycle.cycle_id), "cycle_step_refused"),
        (room.report(cycle.cycle_id), "cycle_not_netted"),
        (room.read_order(".."), "order_unknown"),
        (room.audit(".."), "order_unknown"),
    ):
        with pytest.raises(FinFlowError) as caught:
            await refused
        assert caught.value.kind.code == expected
    await messages(api, ledger_id, gross.order_id or "", cycle.cycle_id)


async def messages(api: Client, ledger_id: str, settled: str, cycle_id: str) -> None:
    room = api.settlement
    await room.add_participant(ledger_id, "RAIL", "rail", ["SGD"])
    nostro = await room.add_nostro(ledger_id, "RAIL", "SGD", "N-1", "treasury")
    assert await room.nostros(ledger_id) == [nostro]
    sent = transfers("M-1", [payment("E-9", "3")], "2020-01-06")
    taken = await room.send_message(ledger_id, "ALFA", sent)
    assert (taken.accepted, taken) == (1, await room.send_message(ledger_id, "ALFA", sent))
    reported = await room.send_message(ledger_id, "RAIL", notification("C-1", [entry("5"), entry("6")]))
    assert reported.lines == 2
    first = await room.reconciliation(ledger_id, limit=1)
    second = await room.reconciliation(ledger_id, limit=1, cursor=first.next)
    assert [each.difference for each in (*first.items, *second.items)] == ["-5.00", "-6.00"]
    assert (first.breaks, second.next) == (2, None)
    assert (await room.return_order(settled, "AC04")).order_id == settled
    await room.set_cut_off(ledger_id, "SGD", "12:00", "Asia/Singapore", "SG")
    assert await room.mirrors(ledger_id) == []
    with pytest.raises(FinFlowError) as caught:
        await room.end_cycle(cycle_id, "no answer")
    assert caught.value.kind.code == "cycle_step_refused"


async def batches(api: Client, ledger_id: str, cash: str, alice: str) -> None:
    members = [transfer(cash, alice, "1"), transfer(alice, cash, "500"), transfer(cash, alice, "2")]
    results = await api.post_batch(ledger_id, members, key="evening")
    assert [result.code for result in results] == [None, "exceeds_available", None]
    assert [result.idempotency_key for result in results] == ["evening:0", "evening:1", "evening:2"]
    again = await api.post_batch(ledger_id, members, key="evening")
    assert all(result.replayed for result in again)
    grouped = await api.post_batch(ledger_id, members, atomic=True)
    assert [result.code for result in grouped] == ["group_refused", "exceeds_available", "group_refused"]


async def undone(url: str, asked: list[str]) -> set[str]:
    """The operations of the document that nobody asked for."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/openapi.json") as answer:
        paths = (await answer.json())["paths"]
    operations = {
        f"{method.upper()} {path}" for path, item in paths.items() for method in item if method != "head"
    }
    done = {each for each in operations if any(_matches(each, request) for request in asked)}
    return operations - done - _NOT_OURS


def _matches(operation: str, request: str) -> bool:
    pattern = re.sub(r"\\\{\w+\\\}", "[^/:]+", re.escape(operation))
    return re.fullmatch(pattern, request) is not None


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_money_moves_once_however_many_answers_get_lost(place: Place, seed: int) -> None:
    async with place.bank() as (api, tenant_id, ledger_id):
        cash = (await api.open_account(NewAccount(ledger_id, "SGD", "asset", None, None))).account_id
        alice = (await api.open_account(NewAccount(ledger_id, "SGD", "liability"))).account_id
        proxy = LossyProxy(place.url, seed)
        token = place.tokens.of(tenant_id)
        async with proxy.running() as lossy_url, Client(lossy_url, token=token, max_connections=4) as careful:
            sending = (careful.post(ledger_id, transfer(cash, alice, "1")) for _ in range(60))
            posted = await asyncio.gather(*sending)
            hold = await careful.post(ledger_id, transfer(cash, alice, "5", pending=True))
            await careful.capture(hold.transaction_id, "2")
            balance = await careful.balance(alice)
        assert min(proxy.lost[loss] for loss in ("request", "answer", "half an answer")) > 0
        assert any(each.replayed for each in posted)
        assert len({each.transaction_id for each in posted}) == 60
        assert balance.balance == (await api.balance(alice)).balance == "62.00"


async def test_refusals_have_the_server_s_code_and_place(place: Place) -> None:
    async with place.bank() as (api, _, ledger_id):
        alice = (await api.open_account(NewAccount(ledger_id, "SGD", "liability"))).account_id
        cash = (await api.open_account(NewAccount(ledger_id, "SGD", "asset", None, None))).account_id
        with pytest.raises(FinFlowError) as caught:
            await api.post(ledger_id, transfer(alice, cash, "1"))
        assert code(caught) == ("exceeds_available", "entries[0]")
        with pytest.raises(FinFlowError) as caught:
            await api.account("acc_x")
        assert code(caught) == ("resource_unknown", None)
        with pytest.raises(FinFlowError) as caught:
            [_ async for _ in api.entries(alice, page_size=1001)]
        assert code(caught) == ("request_malformed", "limit")
        await api.close_account(alice)
        with pytest.raises(FinFlowError) as caught:
            await api.unfreeze_account(alice)
        assert caught.value.kind.code == "account_closed"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (model.Tenant, views.TenantView),
        (model.Ledger, views.LedgerView),
        (model.Account, views.AccountView),
        (model.Balance, views.BalanceView),
        (model.Entry, views.EntryView),
        (model.Line, views.LineView),
        (model.Hold, views.HoldView),
        (model.Change, views.ChangeView),
        (model.Transaction, views.TransactionView),
        (model.CurrencyTotal, views.CurrencyTotals),
        (model.TrialBalance, views.TrialBalanceView),
        (administration.RegisteredClient, identity_views.ClientView),
        (administration.ClientKey, identity_views.KeyView),
        (administration.Limits, LimitsView),
        (fx.Rate, fx_views.RateView),
        (fx.FoundRate, fx_views.FoundRateView),
        (fx.Quote, fx_views.QuoteView),
        (fx.Position, fx_views.PositionView),
        (fx.Positions, fx_views.PositionsView),
        (settlement.Participant, settlement_views.ParticipantView),
        (settlement.ParticipantAccounts, settlement_views.ParticipantAccounts),
        (settlement.PaymentOrder, settlement_views.OrderView),
        (settlement.Cycle, settlement_views.CycleView),
        (settlement.Step, settlement_views.StepView),
        (settlement.Submission, settlement_views.SubmissionView),
        (settlement.PendingWork, settlement_views.PendingWork),
        (settlement.NetPosition, settlement_views.NetPositionView),
        (settlement.Report, settlement_views.ReportView),
        (settlement_audit.Audit, audits.AuditView),
        (settlement_audit.AuditMovement, audits.AuditMovement),
        (settlement_messages.TakenMessage, inbox.MessageView),
        (settlement_messages.Refusal, inbox.Refusal),
        (settlement_messages.Nostro, reconciliation_reads.NostroView),
        (settlement_messages.NostroReport, reconciliation_reads.NostroReport),
        (settlement_messages.RuleCount, reconciliation_reads.RuleCount),
        (settlement_messages.Reconciliation, reconciliation_reads.ReconciliationView),
        (settlement_messages.Break, reconciliation_reads.BreakView),
        (settlement_messages.Mirror, settlement_views.MirrorView),
    ],
)
def test_the_client_s_shapes_have_every_field_that_is_sent(
    ours: type[msgspec.Struct], theirs: type[msgspec.Struct]
) -> None:
    # These two come from headers.
    assert set(ours.__struct_fields__) - {"replayed", "etag"} == set(theirs.__struct_fields__)


def test_a_page_is_as_large_as_the_interface_lets_it() -> None:
    assert service.PAGE == 1000
