"""Accounts: open, change, list, and what happened on them."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from litestar import get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from finflow.api import outcomes
from finflow.api.answers import Answer
from finflow.api.conditions import account_tag, etag, expected_settings, read_answer
from finflow.api.cursors import span_of
from finflow.api.decoding import Body, HttpRequest, Query, micros
from finflow.api.idempotency import key_or_fresh
from finflow.api.listings import listed
from finflow.api.schemas import (
    AccountChange,
    AccountPage,
    AccountsQuery,
    BalanceQuery,
    EntriesQuery,
    EntryPage,
    HoldPage,
    HoldsQuery,
    NewAccount,
    NoQuery,
    StatusChange,
)
from finflow.api.state import ledger_of
from finflow.kernel.errors import FinFlowError
from finflow.ledger.book import Record
from finflow.ledger.commands import AccountStatus, ChangeAccount, OpenAccount
from finflow.ledger.lists import Page
from finflow.ledger.views import AccountView, BalanceView, show_account

_NEW: Final = Body(NewAccount)
_CHANGE: Final = Body(AccountChange)
_PAGE: Final = Query(AccountsQuery)
_BALANCE: Final = Query(BalanceQuery)
_ENTRIES: Final = Query(EntriesQuery)
_HOLDS: Final = Query(HoldsQuery)
_STATUS: Final = Body(StatusChange, optional=True)
_NOTHING: Final = Query(NoQuery)


@post(
    "/v1/accounts",
    opt={
        "scope": "accounts:write",
        "takes": NewAccount,
        "gives": AccountView,
        "key": "optional",
        "tagged": True,
    },
    summary="Open an account",
)
async def open_account(request: HttpRequest) -> Answer:
    key = key_or_fresh(request)
    new = await _NEW.read(request)
    command = OpenAccount(
        new.currency, new.kind, new.overdraft_limit, new.upper_limit, new.external_reference, new.metadata
    )
    record = await outcomes.submit(request, new.ledger_id, key, command)
    return _answer(request, new.ledger_id, record, 201)


@patch(
    "/v1/accounts/{account_id:str}",
    opt={
        "scope": "accounts:write",
        "takes": AccountChange,
        "gives": AccountView,
        "key": "optional",
        "tagged": True,
        "match": "required",
    },
    summary="Change status, limits or metadata",
)
async def change_account(request: HttpRequest, account_id: FromPath[str]) -> Answer:
    key, expected = key_or_fresh(request), expected_settings(request, required=True)
    change = await _CHANGE.read(request)
    command = ChangeAccount(
        account_id, change.status, change.overdraft_limit, change.upper_limit, change.metadata, expected
    )
    return await _change(request, key, command)


_Handler = Callable[[Callable[[HttpRequest, str], Awaitable[Answer]]], HTTPRouteHandler]


def _status_route(verb: str, summary: str) -> _Handler:
    opt = {
        "scope": "accounts:write",
        "takes": StatusChange,
        "gives": AccountView,
        "key": "optional",
        "tagged": True,
        "match": "optional",
    }
    return post(f"/v1/accounts/{{account_id:str}}/{verb}", status_code=200, opt=opt, summary=summary)


@_status_route("freeze", "Freeze an account: nothing is posted on it until it is unfrozen")
async def freeze_account(request: HttpRequest, account_id: FromPath[str]) -> Answer:
    return await _set_status(request, account_id, "frozen")


@_status_route("unfreeze", "Unfreeze an account")
async def unfreeze_account(request: HttpRequest, account_id: FromPath[str]) -> Answer:
    return await _set_status(request, account_id, "open")


@_status_route("close", "Close an empty account for good")
async def close_account(request: HttpRequest, account_id: FromPath[str]) -> Answer:
    return await _set_status(request, account_id, "closed")


async def _set_status(request: HttpRequest, account_id: str, status: AccountStatus) -> Answer:
    key, expected = key_or_fresh(request), expected_settings(request, required=False)
    await _STATUS.read(request)
    return await _change(request, key, ChangeAccount(account_id, status, if_match=expected))


async def _change(request: HttpRequest, key: str, command: ChangeAccount) -> Answer:
    ledger_id = (await ledger_of(request).ledger_holding("acc", command.account_id)).ledger_id
    await ledger_of(request).account(command.account_id)
    record = await outcomes.submit(request, ledger_id, key, command)
    return _answer(request, ledger_id, record, 200)


def _answer(request: HttpRequest, ledger_id: str, record: Record, status: int) -> Answer:
    answer = outcomes.answer(request, record, partial(_shown, ledger_id), status)
    # A replay shows what was answered once; only what was just done is known to be the account's state.
    if record.account is not None and not record.replayed:
        answer.headers = [*answer.headers, etag(account_tag(record.account))]
    return answer


def _shown(ledger_id: str, record: Record) -> AccountView:
    assert record.account is not None, "an accepted command on an account keeps the account"
    return show_account(record.account, ledger_id)


@get(
    "/v1/accounts",
    opt={"scope": "accounts:read", "query": AccountsQuery, "gives": AccountPage},
    summary="List accounts",
)
async def list_accounts(request: HttpRequest) -> Answer:
    query, ledger = _PAGE.read(request), ledger_of(request)
    span = span_of(request, query)
    if query.external_reference is None:
        page = await ledger.accounts(query.ledger_id, span)
    else:
        page = Page(await ledger.accounts_by_reference(query.ledger_id, query.external_reference), None)
    shown = [show_account(account, query.ledger_id) for account in page.items]
    return await listed(request, query, Page(shown, page.next), AccountPage)


@get(
    "/v1/accounts/{account_id:str}",
    opt={"scope": "accounts:read", "gives": AccountView, "tagged": True, "conditional": True},
    summary="Read an account",
)
async def read_account(request: HttpRequest, account_id: FromPath[str]) -> Answer:
    _NOTHING.read(request)
    account = await ledger_of(request).account(account_id)
    holder = await ledger_of(request).ledger_holding("acc", account_id)
    return read_answer(request, show_account(account, holder.ledger_id), account_tag(account))


@get(
    "/v1/accounts/{account_id:str}/balance",
    opt={
        "scope": "accounts:read",
        "query": BalanceQuery,
        "gives": BalanceView,
        "tagged": True,
        "conditional": True,
    },
    summary="Read a balance, now or as of a moment",
)
async def read_balance(request: HttpRequest, account_id: FromPath[str]) -> Answer:
    query = _BALANCE.read(request)
    if sum(moment is not None for moment in (query.as_of, query.effective_at, query.at_seq)) > 1:
        raise FinFlowError("request_malformed", "Give one of as_of, effective_at and at_seq.", "as_of")
    as_of, effective_at = micros(query.as_of, "as_of"), micros(query.effective_at, "effective_at")
    balance = await ledger_of(request).balance(account_id, query.at_seq, as_of, effective_at)
    return read_answer(request, balance)


@get(
    "/v1/accounts/{account_id:str}/entries",
    opt={"scope": "accounts:read", "query": EntriesQuery, "gives": EntryPage},
    summary="List an account's entries, newest first",
)
async def list_entries(request: HttpRequest, account_id: FromPath[str]) -> Answer:
    query = _ENTRIES.read(request)
    page = await ledger_of(request).entries(account_id, span_of(request, query, query.order == "newest"))
    return await listed(request, query, page, EntryPage)


@get(
    "/v1/accounts/{account_id:str}/holds",
    opt={"scope": "accounts:read", "query": HoldsQuery, "gives": HoldPage},
    summary="List the amounts that pending transactions hold on an account",
)
async def list_holds(request: HttpRequest, account_id: FromPath[str]) -> Answer:
    query = _HOLDS.read(request)
    page = await ledger_of(request).holds(account_id, span_of(request, query, query.order == "newest"))
    return await listed(request, query, page, HoldPage)
