"""What no single request did, in traces: gathered statements, and settlement's work behind the requests."""

import asyncio
import io
import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any

import asyncpg
import httpx
import pytest

from finflow.api.asgi import build
from finflow.app import Config, services
from finflow.fx.service import FxService, QuoteDraft, RateDraft
from finflow.kernel.clock import to_datetime
from finflow.kernel.errors import FinFlowError
from finflow.settlement import cycle_store, work_store
from finflow.settlement.rails import FakeRail
from finflow.settlement.worker import Worker
from finflow.telemetry import tracing
from finflow.telemetry.sampling import Sampling
from finflow.telemetry.service import tracing_on
from finflow.telemetry.trace_context import Parent
from finflow.telemetry.tracing import Trace
from oracles import otlp, settling
from oracles.http import Bank, client_of, lifespan
from oracles.otlp import Receiver, Seen
from oracles.rail import payment_return, report, uetrs_of
from oracles.service import desk
from oracles.tokens import FLAGS

ALL, NONE = Sampling(ratio=1.0, slow_ms=1e9, head_per_s=1e6), Sampling(ratio=0.0, slow_ms=1e9)
UPSTREAM = "4bf92f3577b34da6a3ce929d0e0e47{:02x}", "00f067aa0ba902b7"


@contextmanager
def receiving(sampling: Sampling = NONE) -> Iterator[Receiver]:
    """By default only those requests are kept whose caller says so."""
    with otlp.over_http() as receiver:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with tracing_on(environ, sampling, "2026.11-test"):
            yield receiver


def sampled(number: int) -> dict[str, str]:
    return {"traceparent": f"00-{UPSTREAM[0].format(number)}-{UPSTREAM[1]}-01"}


def trace_of(receiver: Receiver, number: int) -> dict[str, Seen]:
    """The spans of the request that was asked under this number, by their names."""
    return {span.name: span for span in receiver.spans if span.trace_id == UPSTREAM[0].format(number)}


@asynccontextmanager
async def two_banks(database_url: str, **built: Any) -> AsyncIterator[tuple[Bank, Bank]]:
    """Of two tenants, behind one application."""
    config = Config.load({"database_url": database_url, **FLAGS}, {})
    app = build(lambda: services(config), release="2026.11-test", **built)
    async with lifespan(app), client_of(app) as one, client_of(app) as other:
        yield await Bank(one).found(), await Bank(other).found()


async def order_of(bank: Bank) -> str:
    """The id of an order between two participants."""
    for name in ("ALFA", "BETA"):
        member = {"name": name, "kind": "member", "currencies": ["SGD"], "overdraft_limit": None}
        await bank.make("/v1/settlement/participants", {"ledger_id": bank.ledger_id, **member})
    draft = {"payer": "ALFA", "payee": "BETA", "currency": "SGD", "amount": "1", "end_to_end_id": "E1"}
    answer = await bank.send("/v1/settlement/orders", {"ledger_id": bank.ledger_id, **draft})
    assert answer.status_code == 201, answer.text
    order_id: str = answer.json()["order_id"]
    return order_id


async def audit(bank: Bank, order_id: str, number: int) -> httpx.Response:
    return await bank.client.get(f"/v1/settlement/orders/{order_id}/audit", headers=sampled(number))


async def test_a_gathered_statement_is_in_nobodys_trace_and_linked_with_all_it_serves(
    database_url: str,
) -> None:
    """The first to ask starts it, and the next, of another tenant, are served by it later."""
    with receiving() as receiver:
        async with two_banks(database_url) as (a, b):
            of_a, of_b = await order_of(a), await order_of(b)
            other = await asyncpg.connect(database_url)
            async with other.transaction():
                await other.execute("lock table settlement_orders in access exclusive mode")
                asked = [asyncio.create_task(audit(a, of_a, 1))]
                await asyncio.sleep(0.2)
                asked += [asyncio.create_task(audit(*each)) for each in ((b, of_b, 2), (a, of_a, 3))]
                await asyncio.sleep(0.2)
            assert {(await each).status_code for each in asked} == {200}
            # Once more alone, so that a round has one tenant who did not start the task.
            assert (await audit(b, of_b, 4)).status_code == 200
            await other.close()
            rounds = await receiver.wait_for("db.gathered settlement.audit", 3)
            await receiver.wait_for("GET /v1/settlement/orders/{order_id}/audit", 4)
    first, both, last = sorted(rounds, key=lambda each: each.start)
    for number, round_ in ((1, first), (2, both), (3, both), (4, last)):
        spans = trace_of(receiver, number)
        server, waiting = spans["GET /v1/settlement/orders/{order_id}/audit"], spans["settlement.audit"]
        assert set(spans) == {server.name, waiting.name}
        assert waiting.parent_id == server.span_id
        assert server.start <= waiting.start <= waiting.end <= server.end
        assert waiting.links == [(round_.trace_id, round_.span_id)]
        assert (waiting.trace_id, waiting.span_id) in round_.links
        assert waiting.attributes["finflow.queue_wait_ms"] >= 0
        assert "finflow.commands" not in waiting.attributes
    assert [len(each.links) for each in (first, both, last)] == [1, 2, 1]
    assert [each.attributes["finflow.questions"] for each in (first, both, last)] == [1, 2, 1]
    tenants = [each.attributes.get("finflow.tenant.id") for each in (first, both, last)]
    assert tenants == [a.tenant_id, None, b.tenant_id]
    for round_ in rounds:
        inside = [span for span in receiver.spans if span.parent_id == round_.span_id]
        assert [span.name for span in inside if span.kind == "client"] == ["SELECT settlement_orders"]
        whose = [span.attributes.get("finflow.tenant.id") for span in inside]
        assert whose == [round_.attributes.get("finflow.tenant.id")]


async def test_a_round_that_fails_is_kept_and_says_so(database_url: str) -> None:
    with receiving() as receiver:
        async with two_banks(database_url) as (a, _):
            of_a = await order_of(a)
            connection = await asyncpg.connect(database_url)
            await connection.execute("alter table settlement_orders rename to gone")
            await connection.close()
            assert (await a.client.get(f"/v1/settlement/orders/{of_a}/audit")).status_code == 500
            [round_] = await receiver.wait_for("db.gathered settlement.audit")
            [waiting] = await receiver.wait_for("settlement.audit")
    assert (round_.failed, round_.attributes["error.type"]) == (True, "42P01")
    assert (waiting.failed, waiting.links) == (True, [(round_.trace_id, round_.span_id)])


async def test_who_gives_up_asking_leads_to_the_round_that_was_waited_for(database_url: str) -> None:
    with receiving() as receiver:
        async with two_banks(database_url, deadline_s=0.5) as (a, _):
            of_a = await order_of(a)
            other = await asyncpg.connect(database_url)
            async with other.transaction():
                await other.execute("lock table settlement_orders in access exclusive mode")
                assert (await audit(a, of_a, 1)).status_code == 504
                await asyncio.sleep(0.3)
            await other.close()
            [round_] = await receiver.wait_for("db.gathered settlement.audit")
    waiting = trace_of(receiver, 1)["settlement.audit"]
    assert waiting.attributes["error.type"] == "CancelledError"
    assert waiting.links == [(round_.trace_id, round_.span_id)]
    assert round_.links == [(waiting.trace_id, waiting.span_id)]
    assert round_.end - round_.start > waiting.end - waiting.start > 300_000_000


async def test_who_asks_for_a_price_is_linked_with_the_statements_that_gave_it(database_url: str) -> None:
    async def quote(fx: Any, ledger_id: str) -> Trace:
        async with request() as asked:
            await fx.quote(ledger_id, QuoteDraft("EUR", "USD", "sell", "1", "0", 60), None, "test")
        return asked

    with receiving() as receiver:
        async with desk(database_url) as one:
            fx = FxService(one.pool, one.clock).of(one.service)
            rate = RateDraft("EUR", "USD", "1.1", "test", to_datetime(one.clock.at))
            await fx.add_rates(one.ledger_id, [rate])
            asked = await asyncio.gather(*(quote(fx, one.ledger_id) for _ in range(3)))
            await receiver.wait_for("request", 3)
    for name in ("fx.rates_now", "fx.add_quote"):
        rounds = {place_of(each): each for each in receiver.named(f"db.gathered {name}")}
        waits = receiver.named(name)
        assert {each.trace_id for each in waits} == {place(each)[0] for each in asked}
        assert sum(each.attributes["finflow.questions"] for each in rounds.values()) == 3
        assert all(place_of(each) in rounds[each.links[0]].links for each in waits)
        assert {each.parent_id for each in receiver.spans if each.kind == "client"} >= {
            span_id for _, span_id in rounds
        }
    assert not [
        each
        for each in receiver.spans
        if each.parent_id in {place(one)[1] for one in asked} and each.kind == "client"
    ]


# --- settlement's own work ---


@asynccontextmanager
async def settling_bank(database_url: str, rail: FakeRail) -> AsyncIterator[settling.Bank]:
    async with settling.bank(database_url, {"RAIL": rail}) as here:
        await here.add("ALFA")
        await here.add("BETA")
        await here.add("RAIL", kind="rail")
        yield here


@asynccontextmanager
async def request(chosen: bool = True) -> AsyncIterator[Trace]:
    """What the block does is done for a request whose trace was chosen at its beginning, or was not."""
    tracer = tracing.tracer()
    root = tracer.begin("request", parent=Parent(random.getrandbits(128), random.getrandbits(64), chosen))
    token = tracing.enter(root)
    try:
        yield root
    finally:
        tracing.leave(token)
        tracer.finish(root)


def place(trace: Trace) -> tuple[str, str]:
    return f"{trace.trace_id:032x}", f"{trace.span_id:016x}"


def place_of(seen: Seen) -> tuple[str, str]:
    return seen.trace_id, seen.span_id


def steps_in(receiver: Receiver) -> list[Seen]:
    """The roots of settlement's traces, in the order of their beginning."""
    roots = [span for span in receiver.spans if span.name.startswith("settlement.") and not span.parent_id]
    return sorted(roots, key=lambda each: each.start)


def taken_at_once(message_id: str, _: bytes) -> list[bytes]:
    return [report(f"R-{message_id}", message_id)]


async def test_the_steps_of_a_cycle_are_traces_that_lead_to_its_requests_and_group_commits(
    database_url: str,
) -> None:
    # The dice choose nothing: what is kept is what the chosen order brings along.
    with receiving() as receiver:
        async with settling_bank(database_url, FakeRail(taken_at_once)) as here:
            async with request() as cause:
                await here.pay(here.draft("ALFA", "RAIL", creditor=settling.CREDITOR))
            async with request(chosen=False):
                await here.pay(here.draft("ALFA", "BETA"))
            assert await here.one.value("select count(*) from settlement_causes") == 1
            await here.past_cut_off()
            tenant = (await here.one.ledgers.ledger(here.ledger_id)).tenant_id
            assert await here.one.value("select count(*) from settlement_causes") == 0
            await receiver.wait_for("settlement.end")
    steps = steps_in(receiver)
    names = ["close", "net", "submit", "ask_rails", "settle", "end"]
    assert [span.name for span in steps] == [f"settlement.{name}" for name in names]
    assert len({span.attributes["finflow.cycle.id"] for span in steps}) == 1
    for span in steps:
        assert (span.failed, span.links) == (False, [place(cause)])
        assert span.attributes["finflow.tenant.id"] == tenant
        assert span.attributes["finflow.orders"] == 2
        asked = [each.name for each in receiver.spans if each.parent_id == span.span_id]
        assert "SELECT settlement_cycles" in asked
    [send] = receiver.named("settlement.send")
    assert send.parent_id == steps[names.index("ask_rails")].span_id
    assert (send.attributes["finflow.rail"], send.attributes["finflow.orders"]) == ("RAIL", 1)
    settle = steps[names.index("settle")]
    booked = [each for each in receiver.named("ledger.submit") if each.trace_id == settle.trace_id]
    commits = {place_of(each): each for each in receiver.named("ledger.group_commit")}
    assert booked
    assert all(place_of(each) in commits[each.links[0]].links for each in booked)


async def test_a_worker_that_ends_what_a_killed_request_began_leads_to_that_request(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as receiver:
        async with settling_bank(database_url, FakeRail()) as here:
            with monkeypatch.context() as patch:
                patch.setattr(here.room.acceptance, "pay", fails_with("killed"))
                async with request() as cause:
                    with pytest.raises(FinFlowError, match="killed"):
                        await here.pay(here.draft("ALFA", "BETA"))
            await here.worker.until_idle()
            [step] = await receiver.wait_for("settlement.finish_batch")
    assert step.links == [place(cause)]


async def test_a_return_leads_to_the_request_or_to_the_message_that_asked_for_it(database_url: str) -> None:
    rail = FakeRail(taken_at_once)
    with receiving(ALL) as receiver:
        async with settling_bank(database_url, rail) as here:
            [asked, told] = await here.pay(
                here.draft("ALFA", "BETA"), here.draft("ALFA", "RAIL", creditor=settling.CREDITOR)
            )
            await here.past_cut_off()
            async with request() as cause:
                await here.settlement.return_order(asked.order_id or "", "wrong payee", "us")
            [sent] = rail.sent.items()
            rail.give(payment_return("P-1", sent[0], uetrs_of(sent[1])[0], "10"))
            await here.worker.until_idle()
            await receiver.wait_for("settlement.return", 2)
            tenant = (await here.one.ledgers.ledger(here.ledger_id)).tenant_id
    heard = receiver.named("settlement.hear")
    assert {each.attributes["finflow.rail"] for each in heard} == {"RAIL"}
    assert {each.attributes["finflow.tenant.id"] for each in heard} == {tenant}
    links = {span.attributes["finflow.order.id"]: span.links for span in receiver.named("settlement.return")}
    last = max(heard, key=lambda each: each.start)
    assert links == {asked.order_id: [place(cause)], told.order_id: [place_of(last)]}


async def test_looking_whether_a_rail_has_answered_is_not_kept(database_url: str) -> None:
    with receiving(ALL) as receiver:
        async with settling_bank(database_url, FakeRail()) as here:
            async with request():
                await here.pay(here.draft("ALFA", "RAIL", creditor=settling.CREDITOR))
            await here.past_cut_off()
            for _ in range(5):
                here.one.clock.at += 1_000_000
                await here.worker.until_idle()
            await receiver.wait_for("settlement.ask_rails")
            await asyncio.sleep(0.3)
    names = [span.name.removeprefix("settlement.") for span in steps_in(receiver)]
    assert names == ["close", "net", "submit", "ask_rails"]


def fails_with(detail: str) -> Any:
    async def failing(*_: Any, **__: Any) -> Any:
        raise FinFlowError("database_unreachable", detail)

    return failing


async def test_a_step_that_fails_is_kept_and_its_line_in_the_log_leads_to_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch, log_stream: io.StringIO
) -> None:
    with receiving() as receiver:
        async with settling_bank(database_url, FakeRail()) as here:
            await here.pay(here.draft("ALFA", "BETA"))
            monkeypatch.setattr(cycle_store, "read_extent", fails_with("lost"))
            await here.past_cut_off()
            [step] = await receiver.wait_for("settlement.close")
            tenant = (await here.one.ledgers.ledger(here.ledger_id)).tenant_id
    assert (step.failed, step.attributes["error.type"]) == (True, "database_unreachable")
    said = line_of(log_stream, "settlement is tried again")
    assert (said["trace_id"], said["span_id"], said["tenant"]) == (step.trace_id, step.span_id, tenant)


@pytest.mark.parametrize("traced", [True, False])
async def test_the_line_that_settlement_waits_has_its_trace(
    database_url: str, monkeypatch: pytest.MonkeyPatch, log_stream: io.StringIO, traced: bool
) -> None:
    """Also where traces are off, and where nothing goes wrong, no round is kept."""
    with receiving(ALL) if traced else nullcontext() as receiver:
        async with settling_bank(database_url, FakeRail()) as here:
            working = asyncio.create_task(Worker(here.room, poll_s=0.01).run())
            await asyncio.sleep(0.1)
            monkeypatch.setattr(work_store, "claim", fails_with("lost"))
            while "settlement waits" not in log_stream.getvalue():
                await asyncio.sleep(0.01)
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            said = line_of(log_stream, "settlement waits")
            if receiver is None:
                assert len(said["trace_id"]) == 32
                return
            rounds = await receiver.wait_for("settlement.round")
    assert {each.failed for each in rounds} == {True}
    assert (said["trace_id"], said["span_id"]) in map(place_of, rounds)


def line_of(log_stream: io.StringIO, message: str) -> dict[str, Any]:
    found = [json.loads(text) for text in log_stream.getvalue().splitlines()]
    line: dict[str, Any] = next(each for each in found if each["message"] == message)
    return line
