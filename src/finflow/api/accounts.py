"""Accounts: open, change, list, and what happened on them."""

from functools import partial
from typing import Final

from litestar import get, patch, post
from litestar.params import FromPath

from finflow.api import outcomes
from finflow.api.answers import Answer, ok
from finflow.api.decoding import Body, HttpRequest, Query, check_moment
from finflow.api.idempotency import key_or_fresh
from finflow.api.schemas import (
    AccountChange,
    AccountPage,
    AccountsQuery,
    BalanceQuery,
    EntriesQuery,
    EntryPage,
    NewAccount,
    NoQuery,
)
from finflow.api.state import ledger_of
from finflow.kernel import ids
from finflow.kernel.clock import to_micros
from finflow.kernel.errors import FinFlowError
from finflow.ledger.book import Account, Record
from finflow.ledger.commands import ChangeAccount, OpenAccount
from finflow.ledger.views import AccountView, BalanceView, show_account

_NEW: Final = Body(NewAccount)
_CHANGE: Final = Body(AccountChange)
_PAGE: Final = Query(AccountsQuery)
_BALANCE: Final = Query(BalanceQuery)
_ENTRIES: Final = Query(EntriesQuery)
_NOTHING: Final = Query(NoQuery)


@post(
    "/v1/accounts",
    opt={"takes": NewAccount, "gives": AccountView, "key": "optional"},
    summary="Open an account",
)
async def open_account(request: HttpRequest) -> Answer:
    key = key_or_fresh(request)
    new = await _NEW.read(request)
    command = OpenAccount(
        new.currency, new.kind, new.overdraft_limit, new.upper_limit, new.external_reference, new.metadata
    )
    record = await outcomes.submit(request, new.ledger_id, key, command)
    return outcomes.answer(request, record, partial(_shown, new.ledger_id), 201)


@patch(
    "/v1/accounts/{account_id:str}",
    opt={"takes": AccountChange, "gives": AccountView, "key": "optional"},
    summary="Freeze, close, or change limits or metadata",
)
async def change_account(request: HttpRequest, account_id: FromPath[str]) -> Answer:
    key = key_or_fresh(request)
    change = await _CHANGE.read(request)
    ledger_id = (await ledger_of(request).ledger_holding("acc", account_id)).ledger_id
    await ledger_of(request).account(account_id)
    command = ChangeAccount(
        account_id, change.status, change.overdraft_limit, change.upper_limit, change.metadata
    )
    record = await outcomes.submit(request, ledger_id, key, command)
    return outcomes.answer(request, record, partial(_shown, ledger_id), 200)


def _shown(ledger_id: str, record: Record) -> AccountView:
    assert record.account is not None, "an accepted command on an account keeps the account"
    return show_account(record.account, ledger_id)


@get("/v1/accounts", opt={"query": AccountsQuery, "gives": AccountPage}, summary="List accounts")
async def list_accounts(request: HttpRequest) -> Answer:
    query, ledger = _PAGE.read(request), ledger_of(request)
    if query.external_reference is not None:
        found = await ledger.accounts_by_reference(query.ledger_id, query.external_reference)
        return ok(_page(query.ledger_id, found, more=False))
    if query.after is not None and ids.parse("acc", query.after) is None:
        raise FinFlowError("id_malformed", param="after")
    found = await ledger.accounts(query.ledger_id, query.after, query.limit)
    return ok(_page(query.ledger_id, found, more=len(found) == query.limit))


def _page(ledger_id: str, accounts: list[Account], more: bool) -> AccountPage:
    items = [show_account(account, ledger_id) for account in accounts]
    return AccountPage(items, items[-1].account_id if more else None)


@get("/v1/accounts/{account_id:str}", opt={"gives": AccountView}, summary="Read an account")
async def read_account(request: HttpRequest, account_id: FromPath[str]) -> Answer:
    _NOTHING.read(request)
    account = await ledger_of(request).account(account_id)
    holder = await ledger_of(request).ledger_holding("acc", account_id)
    return ok(show_account(account, holder.ledger_id))


@get(
    "/v1/accounts/{account_id:str}/balance",
    opt={"query": BalanceQuery, "gives": BalanceView},
    summary="Read a balance, now or as of a moment",
)
async def read_balance(request: HttpRequest, account_id: FromPath[str]) -> Answer:
    query = _BALANCE.read(request)
    if sum(moment is not None for moment in (query.as_of, query.effective_at, query.at_seq)) > 1:
        raise FinFlowError("request_malformed", "Give one of as_of, effective_at and at_seq.", "as_of")
    check_moment(query.as_of, "as_of")
    check_moment(query.effective_at, "effective_at")
    return ok(
        await ledger_of(request).balance(
            account_id,
            query.at_seq,
            None if query.as_of is None else to_micros(query.as_of),
            None if query.effective_at is None else to_micros(query.effective_at),
        )
    )


@get(
    "/v1/accounts/{account_id:str}/entries",
    opt={"query": EntriesQuery, "gives": EntryPage},
    summary="List an account's entries, newest first",
)
async def list_entries(request: HttpRequest, account_id: FromPath[str]) -> Answer:
    query = _ENTRIES.read(request)
    items = await ledger_of(request).entries(account_id, query.before, query.limit)
    more = len(items) == query.limit and items[-1].version > 1
    return ok(EntryPage(items, items[-1].version if more else None))
