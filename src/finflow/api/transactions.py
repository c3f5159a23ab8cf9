"""Transactions one at a time: post, hold, capture, void, reverse, read."""

from typing import Final

from litestar import get, post
from litestar.params import FromPath

from finflow.api import outcomes
from finflow.api.answers import Answer
from finflow.api.conditions import read_answer
from finflow.api.cursors import span_of
from finflow.api.decoding import Body, HttpRequest, Query, check_moment, micros
from finflow.api.idempotency import required_key
from finflow.api.listings import listed
from finflow.api.schemas import (
    Capture,
    Expiry,
    NewTransaction,
    NoQuery,
    Reversal,
    TransactionPage,
    TransactionsQuery,
    Void,
)
from finflow.api.state import ledger_of
from finflow.kernel import ids
from finflow.kernel.errors import FinFlowError
from finflow.ledger.commands import ExpirePending, PostPending, ReverseTransaction, VoidPending
from finflow.ledger.lists import TransactionFilter
from finflow.ledger.views import TransactionView

_NEW: Final = Body(NewTransaction)
_CAPTURE: Final = Body(Capture, optional=True)
_VOID: Final = Body(Void, optional=True)
_REVERSAL: Final = Body(Reversal, optional=True)
_EXPIRY: Final = Body(Expiry, optional=True)
_PAGE: Final = Query(TransactionsQuery)
_NOTHING: Final = Query(NoQuery)


def _opt(takes: object) -> dict[str, object]:
    return {"scope": "transactions:write", "takes": takes, "gives": TransactionView, "key": "required"}


@post("/v1/transactions", opt=_opt(NewTransaction), summary="Post a transaction, or hold its amounts")
async def post_transaction(request: HttpRequest) -> Answer:
    key = required_key(request)
    new = await _NEW.read(request)
    if new.effective_at is not None:
        check_moment(new.effective_at, "effective_at")
    if new.timeout_s is not None and not new.pending:
        raise FinFlowError("request_malformed", "Only a pending transaction has a timeout.", "timeout_s")
    return await outcomes.book(request, new.ledger_id, key, new.command())


@post("/v1/transactions/{transaction_id:str}/post", opt=_opt(Capture), summary="Post a pending transaction")
async def post_pending(request: HttpRequest, transaction_id: FromPath[str]) -> Answer:
    key = required_key(request)
    body = await _CAPTURE.read(request)
    check_moment(body.effective_at, "effective_at")
    command = PostPending(transaction_id, body.amount, body.description, body.effective_at)
    return await outcomes.book(request, await _ledger_id(request, transaction_id), key, command)


@post("/v1/transactions/{transaction_id:str}/void", opt=_opt(Void), summary="Release a pending transaction")
async def void_pending(request: HttpRequest, transaction_id: FromPath[str]) -> Answer:
    key = required_key(request)
    body = await _VOID.read(request)
    command = VoidPending(transaction_id, body.description)
    return await outcomes.book(request, await _ledger_id(request, transaction_id), key, command)


@post(
    "/v1/transactions/{transaction_id:str}/reverse",
    opt=_opt(Reversal),
    summary="Reverse a posted transaction",
)
async def reverse_transaction(request: HttpRequest, transaction_id: FromPath[str]) -> Answer:
    key = required_key(request)
    body = await _REVERSAL.read(request)
    check_moment(body.effective_at, "effective_at")
    command = ReverseTransaction(transaction_id, body.description, body.effective_at)
    return await outcomes.book(request, await _ledger_id(request, transaction_id), key, command)


@post(
    "/v1/transactions/{transaction_id:str}/expire",
    opt=_opt(Expiry),
    summary="Release a pending transaction whose time is over",
)
async def expire_pending(request: HttpRequest, transaction_id: FromPath[str]) -> Answer:
    key = required_key(request)
    await _EXPIRY.read(request)
    ledger_id = await _ledger_id(request, transaction_id)
    return await outcomes.book(request, ledger_id, key, ExpirePending(transaction_id))


async def _ledger_id(request: HttpRequest, transaction_id: str) -> str:
    return (await ledger_of(request).ledger_holding("txn", transaction_id)).ledger_id


@get(
    "/v1/transactions/{transaction_id:str}",
    opt={"scope": "transactions:read", "gives": TransactionView, "tagged": True, "conditional": True},
    summary="Read a transaction",
)
async def read_transaction(request: HttpRequest, transaction_id: FromPath[str]) -> Answer:
    _NOTHING.read(request)
    return read_answer(request, await ledger_of(request).transaction(transaction_id))


@get(
    "/v1/transactions",
    opt={"scope": "transactions:read", "query": TransactionsQuery, "gives": TransactionPage},
    summary="List transactions",
)
async def list_transactions(request: HttpRequest) -> Answer:
    query = _PAGE.read(request)
    if query.account_id is not None and ids.parse("acc", query.account_id) is None:
        raise FinFlowError("id_malformed", param="account_id")
    page = await ledger_of(request).transactions(
        query.ledger_id, _filter(query), span_of(request, query, query.order == "newest"), query.account_id
    )
    return await listed(request, query, page, TransactionPage)


def _filter(query: TransactionsQuery) -> TransactionFilter:
    return TransactionFilter(
        None, query.reference, query.status, query.kind,
        micros(query.effective_from, "effective_from"), micros(query.effective_before, "effective_before"),
        micros(query.recorded_from, "recorded_from"), micros(query.recorded_before, "recorded_before"),
        query.after_seq,
    )  # fmt: skip
