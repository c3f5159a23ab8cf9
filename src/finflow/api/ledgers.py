"""Tenants, their ledgers, and the assets that a ledger declares."""

from typing import Final

from litestar import get, post
from litestar.params import FromPath

from finflow.api import outcomes
from finflow.api.answers import Answer, created, ok
from finflow.api.cursors import span_of
from finflow.api.decoding import Body, HttpRequest, Query
from finflow.api.idempotency import key_or_fresh
from finflow.api.listings import listed
from finflow.api.schemas import (
    Asset,
    ChangePage,
    ChangesQuery,
    LedgerPage,
    NewAsset,
    NewLedger,
    NewTenant,
    NoQuery,
    PageQuery,
    TenantPage,
)
from finflow.api.state import directory_of, ledger_of, services_of
from finflow.ledger.commands import DeclareAsset
from finflow.ledger.views import LedgerView, TenantView, TrialBalanceView

_TENANT: Final = Body(NewTenant)
_LEDGER: Final = Body(NewLedger)
_ASSET: Final = Body(NewAsset)
_PAGE: Final = Query(PageQuery)
_CHANGES: Final = Query(ChangesQuery)
_NOTHING: Final = Query(NoQuery)
# Names and numbers of tenants and ledgers, which the platform's operator may read of all.
_DIRECTORY: Final = {"scope": "ledgers:read", "tenant": "optional"}


@post(
    "/v1/tenants",
    opt={"scope": "admin", "tenant": "none", "takes": NewTenant, "gives": TenantView},
    summary="Add a tenant",
)
async def create_tenant(request: HttpRequest) -> Answer:
    new = await _TENANT.read(request)
    return created(await services_of(request).ledger.create_tenant(new.name))


@post(
    "/v1/ledgers",
    opt={"scope": "ledgers:write", "takes": NewLedger, "gives": LedgerView},
    summary="Open a ledger",
)
async def create_ledger(request: HttpRequest) -> Answer:
    new = await _LEDGER.read(request)
    return created(await ledger_of(request).create_ledger(new.name))


@get(
    "/v1/tenants",
    opt={**_DIRECTORY, "query": PageQuery, "gives": TenantPage},
    summary="List the tenants that the caller may see: its own, or for the operator all",
)
async def list_tenants(request: HttpRequest) -> Answer:
    query = _PAGE.read(request)
    page = await directory_of(request).tenants(span_of(request, query))
    return await listed(request, query, page, TenantPage)


@get("/v1/tenants/{tenant_id:str}", opt={**_DIRECTORY, "gives": TenantView}, summary="Read a tenant")
async def read_tenant(request: HttpRequest, tenant_id: FromPath[str]) -> Answer:
    _NOTHING.read(request)
    return ok(await directory_of(request).tenant(tenant_id))


@get("/v1/ledgers", opt={**_DIRECTORY, "query": PageQuery, "gives": LedgerPage}, summary="List ledgers")
async def list_ledgers(request: HttpRequest) -> Answer:
    query = _PAGE.read(request)
    page = await directory_of(request).ledger_page(span_of(request, query))
    return await listed(request, query, page, LedgerPage)


@get("/v1/ledgers/{ledger_id:str}", opt={**_DIRECTORY, "gives": LedgerView}, summary="Read a ledger")
async def read_ledger(request: HttpRequest, ledger_id: FromPath[str]) -> Answer:
    _NOTHING.read(request)
    return ok(await directory_of(request).ledger(ledger_id))


@get(
    "/v1/ledgers/{ledger_id:str}/trial-balance",
    opt={"scope": "ledgers:read", "gives": TrialBalanceView},
    summary="Debits and credits of every currency",
)
async def read_trial_balance(request: HttpRequest, ledger_id: FromPath[str]) -> Answer:
    _NOTHING.read(request)
    return ok(await ledger_of(request).trial_balance(ledger_id))


@get(
    "/v1/ledgers/{ledger_id:str}/changes",
    opt={"scope": "ledgers:read", "query": ChangesQuery, "gives": ChangePage},
    summary="Who asked to open or change which account or asset, when, and what came of it",
)
async def list_changes(request: HttpRequest, ledger_id: FromPath[str]) -> Answer:
    query = _CHANGES.read(request)
    page = await ledger_of(request).changes(ledger_id, span_of(request, query, query.order == "newest"))
    return await listed(request, query, page, ChangePage)


@post(
    "/v1/assets",
    opt={"scope": "ledgers:write", "takes": NewAsset, "gives": Asset, "key": "optional"},
    summary="Declare a custom asset",
)
async def declare_asset(request: HttpRequest) -> Answer:
    key = key_or_fresh(request)
    new = await _ASSET.read(request)
    record = await outcomes.submit(request, new.ledger_id, key, DeclareAsset(new.code, new.exponent))
    shown = Asset(new.ledger_id, new.code, new.exponent)
    return outcomes.answer(request, record, lambda _: shown, 201)
