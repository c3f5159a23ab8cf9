"""Messages and reconciliation over HTTP, and what keeps settlement going: returns, cut-offs, mirrors."""

from typing import Final

import msgspec
from litestar import get, post
from litestar.params import FromPath

from finflow.api.answers import Answer, created, encode, ok
from finflow.api.cursors import next_cursor, span_of
from finflow.api.decoding import Body, HttpRequest, Query, media_type_of
from finflow.api.identity import principal_of
from finflow.api.listings import compressed
from finflow.api.settlement_schemas import (
    CutOffDraft,
    CycleEnd,
    LedgerQuery,
    MessageQuery,
    Mirrors,
    NostroDraft,
    Nostros,
    OrderReturn,
    ReconciliationQuery,
)
from finflow.api.spooling import spooled
from finflow.api.state import settlement_of
from finflow.kernel.errors import FinFlowError
from finflow.settlement.inbox import MessageView
from finflow.settlement.reconciliation_reads import NostroView, ReconciliationView
from finflow.settlement.views import CycleView, OrderView

_NOSTRO: Final = Body(NostroDraft)
_CUT_OFF: Final = Body(CutOffDraft)
_RETURN: Final = Body(OrderReturn)
_END: Final = Body(CycleEnd)
_MESSAGE: Final = Query(MessageQuery)
_LEDGER: Final = Query(LedgerQuery)
_RECONCILIATION: Final = Query(ReconciliationQuery)
_XML: Final = (b"application/xml", b"text/xml")


@post(
    "/v1/settlement/messages",
    status_code=200,
    opt={
        "scope": "settlement:write", "query": MessageQuery, "takes_xml": True, "gives": MessageView,
    },
    summary="Take an ISO 20022 message: payments, a rail's answers, or a bank's report",
)  # fmt: skip
async def take_message(request: HttpRequest) -> Answer:
    query = _MESSAGE.read(request)
    settlement = settlement_of(request)
    await settlement.check_ledger(query.ledger_id)
    if media_type_of(request) not in _XML:
        raise FinFlowError("media_type_unsupported", "A message is application/xml.")
    content = await spooled(request)
    return ok(await settlement.take_message(query.ledger_id, query.sender, query.rail, content))


@post(
    "/v1/settlement/nostros",
    opt={"scope": "settlement:write", "takes": NostroDraft, "gives": NostroView},
    summary="Register an account at another bank; the same again changes nothing",
)
async def add_nostro(request: HttpRequest) -> Answer:
    new = await _NOSTRO.read(request)
    settlement = settlement_of(request)
    return created(
        await settlement.add_nostro(new.ledger_id, new.participant, new.currency, new.account, new.owner)
    )


@get(
    "/v1/settlement/nostros",
    opt={"scope": "settlement:read", "query": LedgerQuery, "gives": Nostros},
    summary="List a ledger's accounts at other banks",
)
async def list_nostros(request: HttpRequest) -> Answer:
    query = _LEDGER.read(request)
    return ok(Nostros(await settlement_of(request).nostros(query.ledger_id)))


@get(
    "/v1/settlement/reconciliation",
    opt={"scope": "settlement:read", "query": ReconciliationQuery, "gives": ReconciliationView},
    summary="Read what was matched and in time, what was not, and a page of breaks",
)
async def read_reconciliation(request: HttpRequest) -> Answer:
    query = _RECONCILIATION.read(request)
    view, page = await settlement_of(request).reconciliation(query.ledger_id, span_of(request, query))
    shown = msgspec.structs.replace(view, next=next_cursor(request, query, page))
    return await compressed(request, encode(shown))


@post(
    "/v1/settlement/orders/{order_id:str}/return",
    status_code=200,
    opt={
        "scope": "settlement:write",
        "takes": OrderReturn,
        "gives": OrderView,
        "codes": ("order_not_settled", "order_malformed"),
    },
    summary="Have a settled order brought back; the same again changes nothing",
)
async def return_order(request: HttpRequest, order_id: FromPath[str]) -> Answer:
    asked = await _RETURN.read(request)
    source = principal_of(request).subject[:140]
    return ok(await settlement_of(request).return_order(order_id, asked.reason, source))


@post(
    "/v1/settlement/cycles/{cycle_id:str}/end",
    status_code=200,
    opt={
        "scope": "settlement:write",
        "takes": CycleEnd,
        "gives": CycleView,
        "codes": ("cycle_step_refused", "cycle_step_conflict"),
    },
    summary="Have a submitted cycle returned: its holds are released and nothing is paid",
)
async def end_cycle(request: HttpRequest, cycle_id: FromPath[str]) -> Answer:
    asked = await _END.read(request)
    return ok(await settlement_of(request).end_cycle(cycle_id, asked.reason))


@post(
    "/v1/settlement/cut-offs",
    opt={"scope": "settlement:write", "takes": CutOffDraft, "gives": CutOffDraft},
    summary="Keep a cut-off of a ledger's own; another one of this currency and time is replaced",
)
async def set_cut_off(request: HttpRequest) -> Answer:
    new = await _CUT_OFF.read(request)
    await settlement_of(request).set_cut_off(new.ledger_id, new.cut_off())
    return created(new)


@get(
    "/v1/settlement/mirrors",
    opt={"scope": "settlement:read", "query": LedgerQuery, "gives": Mirrors},
    summary="Compare a ledger's books with those of the ledgers that it pays",
)
async def list_mirrors(request: HttpRequest) -> Answer:
    query = _LEDGER.read(request)
    return ok(Mirrors(await settlement_of(request).mirrors(query.ledger_id)))


HANDLERS: Final = (
    take_message,
    add_nostro,
    list_nostros,
    read_reconciliation,
    return_order,
    end_cycle,
    set_cut_off,
    list_mirrors,
)
