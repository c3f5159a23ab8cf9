"""Settlement over HTTP: participants, payment orders, cycles and their netting reports."""

from typing import Final

from litestar import get, post
from litestar.params import FromPath

from finflow.api.answers import Answer, created, ok
from finflow.api.cursors import span_of
from finflow.api.decoding import BATCH_BODY_LIMIT, Body, HttpRequest, Query
from finflow.api.idempotency import required_key
from finflow.api.listings import listed
from finflow.api.schemas import NoQuery
from finflow.api.settlement_schemas import (
    CyclePage,
    CyclesQuery,
    CycleStep,
    NewOrder,
    NewOrders,
    OrderMember,
    OrderPage,
    OrderResult,
    OrderResults,
    OrdersQuery,
    ParticipantDraft,
    Participants,
    ParticipantsQuery,
)
from finflow.api.state import settlement_of
from finflow.kernel.errors import FinFlowError
from finflow.settlement.audits import AuditView
from finflow.settlement.orders import MAX_ORDERS
from finflow.settlement.service import Outcome
from finflow.settlement.views import CycleView, OrderView, ParticipantView, ReportView

_PARTICIPANT: Final = Body(ParticipantDraft)
_ORDER: Final = Body(NewOrder)
_ORDERS: Final = Body(NewOrders, BATCH_BODY_LIMIT)
_STEP: Final = Body(CycleStep, optional=True)
_PARTICIPANTS: Final = Query(ParticipantsQuery)
_ORDER_PAGE: Final = Query(OrdersQuery)
_CYCLE_PAGE: Final = Query(CyclesQuery)
_NOTHING: Final = Query(NoQuery)


@post(
    "/v1/settlement/participants",
    opt={"scope": "settlement:write", "takes": ParticipantDraft, "gives": ParticipantView},
    summary="Register a participant, or add currencies to one; the same again changes nothing",
)
async def add_participant(request: HttpRequest) -> Answer:
    new = await _PARTICIPANT.read(request)
    return created(await settlement_of(request).add_participant(new.ledger_id, new.participant()))


@get(
    "/v1/settlement/participants",
    opt={"scope": "settlement:read", "query": ParticipantsQuery, "gives": Participants},
    summary="List a ledger's participants",
)
async def list_participants(request: HttpRequest) -> Answer:
    query = _PARTICIPANTS.read(request)
    return ok(Participants(await settlement_of(request).participants(query.ledger_id)))


@post(
    "/v1/settlement/orders",
    opt={"scope": "settlement:write", "takes": NewOrder, "gives": OrderView, "key": "required"},
    summary="Take a payment order and hold its money",
)
async def give_order(request: HttpRequest) -> Answer:
    key = required_key(request)
    new = await _ORDER.read(request)
    settlement = settlement_of(request)
    [outcome] = await settlement.accept(new.ledger_id, [new.draft()], key)
    if outcome.code is not None or outcome.order_id is None:
        raise FinFlowError(outcome.code or "internal", None, outcome.param)
    return created(await settlement.order(outcome.order_id))


@post(
    "/v1/settlement/orders:batch",
    status_code=200,
    opt={"scope": "settlement:write", "takes": NewOrders, "gives": OrderResults, "key": "required"},
    summary="Take up to 10,000 payment orders",
)
async def give_orders(request: HttpRequest) -> Answer:
    key = required_key(request)
    new = await _ORDERS.read(request)
    if not new.orders:
        raise FinFlowError("batch_empty", param="orders")
    if len(new.orders) > MAX_ORDERS:
        raise FinFlowError("batch_too_large", param="orders")
    drafts = [each.draft() for each in new.orders]
    outcomes = await settlement_of(request).accept(new.ledger_id, drafts, key)
    return ok(_results(new.orders, outcomes))


def _results(orders: list[OrderMember], outcomes: list[Outcome]) -> OrderResults:
    results = [
        OrderResult(order.end_to_end_id, *outcome) for order, outcome in zip(orders, outcomes, strict=True)
    ]
    refused = sum(each.code is not None for each in results)
    return OrderResults(len(results) - refused, refused, results)


@get(
    "/v1/settlement/orders",
    opt={"scope": "settlement:read", "query": OrdersQuery, "gives": OrderPage},
    summary="List a ledger's payment orders, or a cycle's",
)
async def list_orders(request: HttpRequest) -> Answer:
    query = _ORDER_PAGE.read(request)
    page = await settlement_of(request).orders(query.ledger_id, span_of(request, query), query.cycle_id)
    return await listed(request, query, page, OrderPage)


@get(
    "/v1/settlement/orders/{order_id:str}",
    opt={"scope": "settlement:read", "gives": OrderView},
    summary="Read a payment order and what became of it",
)
async def read_order(request: HttpRequest, order_id: FromPath[str]) -> Answer:
    _NOTHING.read(request)
    return ok(await settlement_of(request).order(order_id))


@get(
    "/v1/settlement/orders/{order_id:str}/audit",
    opt={"scope": "settlement:read", "gives": AuditView},
    summary="Read everything about a payment order: transactions, entries, cycle, messages, returns",
)
async def audit_order(request: HttpRequest, order_id: FromPath[str]) -> Answer:
    _NOTHING.read(request)
    return ok(await settlement_of(request).audit(order_id))


@get(
    "/v1/settlement/cycles",
    opt={"scope": "settlement:read", "query": CyclesQuery, "gives": CyclePage},
    summary="List a ledger's settlement cycles",
)
async def list_cycles(request: HttpRequest) -> Answer:
    query = _CYCLE_PAGE.read(request)
    page = await settlement_of(request).cycles(query.ledger_id, span_of(request, query))
    return await listed(request, query, page, CyclePage)


@get(
    "/v1/settlement/cycles/{cycle_id:str}",
    opt={"scope": "settlement:read", "gives": CycleView},
    summary="Read a cycle: its timeline, what rails were sent, and when it goes on",
)
async def read_cycle(request: HttpRequest, cycle_id: FromPath[str]) -> Answer:
    _NOTHING.read(request)
    return ok(await settlement_of(request).cycle(cycle_id))


@get(
    "/v1/settlement/cycles/{cycle_id:str}/report",
    opt={"scope": "settlement:read", "gives": ReportView, "codes": ("cycle_not_netted",)},
    summary="Read a cycle's netting report, recounted from its orders",
)
async def read_report(request: HttpRequest, cycle_id: FromPath[str]) -> Answer:
    _NOTHING.read(request)
    return ok(await settlement_of(request).report(cycle_id))


@post(
    "/v1/settlement/cycles/{cycle_id:str}/run",
    status_code=200,
    opt={"scope": "settlement:write", "takes": CycleStep, "gives": CycleView, "codes": ("cycle_not_due",)},
    summary="Have a cycle whose cut-off is over go on now",
)
async def run_cycle(request: HttpRequest, cycle_id: FromPath[str]) -> Answer:
    await _STEP.read(request)
    return ok(await settlement_of(request).run(cycle_id))


@post(
    "/v1/settlement/cycles/{cycle_id:str}/retry",
    status_code=200,
    opt={
        "scope": "settlement:write",
        "takes": CycleStep,
        "gives": CycleView,
        "codes": ("cycle_step_refused",),
    },
    summary="Have a failed cycle submitted again now",
)
async def retry_cycle(request: HttpRequest, cycle_id: FromPath[str]) -> Answer:
    await _STEP.read(request)
    return ok(await settlement_of(request).resubmit(cycle_id))


HANDLERS: Final = (
    add_participant,
    list_participants,
    give_order,
    give_orders,
    list_orders,
    read_order,
    audit_order,
    list_cycles,
    read_cycle,
    read_report,
    run_cycle,
    retry_cycle,
)
