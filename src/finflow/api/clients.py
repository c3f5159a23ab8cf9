"""Clients as routes: made, listed, given keys, revoked by a tenant's administrator or the operator."""

from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import delete, get, post
from litestar.params import FromPath

from finflow.api.answers import Answer, created, ok
from finflow.api.cursors import span_of
from finflow.api.decoding import Body, HttpRequest, Query
from finflow.api.identity import ADMIN, principal_of
from finflow.api.listings import listed
from finflow.api.schemas import Name, NoQuery, PageQuery
from finflow.api.state import services_of
from finflow.identity.clients import ClientService
from finflow.identity.views import ClientView
from finflow.ledger.lists import Page

Scope = Literal[
    "accounts:read", "accounts:write", "transactions:read", "transactions:write",
    "ledgers:read", "ledgers:write", "fx:read", "fx:write", "admin",
]  # fmt: skip


class PublicJwk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A public key: Ed25519 (`OKP`), P-256 (`EC`) or RSA of 2,048 to 4,096 bits. Never a private one."""

    kty: Literal["OKP", "EC", "RSA"]
    crv: str | None = None
    x: str | None = None
    y: str | None = None
    n: str | None = None
    e: str | None = None
    kid: str | None = None
    alg: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None


class NewClient(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A client with its first key. The operator names the tenant, or none for a client of the operator."""

    name: Name
    scopes: Annotated[list[Scope], msgspec.Meta(min_length=1, max_length=20)]
    jwk: PublicJwk
    tenant_id: str | None = None


class NewClientKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One more key of a client."""

    jwk: PublicJwk


class Revocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Revoking takes nothing but the client's id."""


class ClientPage(msgspec.Struct, frozen=True):
    """Clients in the order of their making."""

    items: list[ClientView]
    next: str | None


_NEW: Final = Body(NewClient)
_KEY: Final = Body(NewClientKey)
_REVOCATION: Final = Body(Revocation, optional=True)
_PAGE: Final = Query(PageQuery)
_NOTHING: Final = Query(NoQuery)


@post(
    "/v1/clients",
    opt={"scope": ADMIN, "tenant": "optional", "takes": NewClient, "gives": ClientView},
    summary="Add a client",
)
async def create_client(request: HttpRequest) -> Answer:
    new = await _NEW.read(request)
    jwk = _jwk(new.jwk)
    return created(await _clients(request).create(_tenant(request), new.tenant_id, new.name, new.scopes, jwk))


@get(
    "/v1/clients",
    opt={"scope": ADMIN, "tenant": "optional", "query": PageQuery, "gives": ClientPage},
    summary="List clients",
)
async def list_clients(request: HttpRequest) -> Answer:
    query = _PAGE.read(request)
    span = span_of(request, query)
    found, positions = await _clients(request).page(_tenant(request), span.after or 0, span.limit + 1)
    return await listed(request, query, Page.of(found, span, positions), ClientPage)


@get(
    "/v1/clients/{client_id:str}",
    opt={"scope": ADMIN, "tenant": "optional", "gives": ClientView},
    summary="Read a client",
)
async def read_client(request: HttpRequest, client_id: FromPath[str]) -> Answer:
    _NOTHING.read(request)
    return ok(await _clients(request).read(_tenant(request), client_id))


@post(
    "/v1/clients/{client_id:str}/keys",
    opt={"scope": ADMIN, "tenant": "optional", "takes": NewClientKey, "gives": ClientView},
    summary="Give a client one more key",
)
async def add_client_key(request: HttpRequest, client_id: FromPath[str]) -> Answer:
    new = await _KEY.read(request)
    return created(await _clients(request).add_key(_tenant(request), client_id, _jwk(new.jwk)))


@delete(
    "/v1/clients/{client_id:str}/keys/{kid:str}",
    opt={"scope": ADMIN, "tenant": "optional", "gives": ClientView},
    summary="Revoke a client's key",
    status_code=200,
)
async def revoke_client_key(request: HttpRequest, client_id: FromPath[str], kid: FromPath[str]) -> Answer:
    _NOTHING.read(request)
    return ok(await _clients(request).revoke_key(_tenant(request), client_id, kid))


@post(
    "/v1/clients/{client_id:str}/revoke",
    opt={"scope": ADMIN, "tenant": "optional", "takes": Revocation, "gives": ClientView},
    summary="Revoke a client and its tokens",
    status_code=200,
)
async def revoke_client(request: HttpRequest, client_id: FromPath[str]) -> Answer:
    await _REVOCATION.read(request)
    identity = services_of(request).identity
    client = await identity.clients.revoke(_tenant(request), client_id)
    # Here at once; in the other workers within seconds.
    await identity.refresh()
    return ok(client)


def _clients(request: HttpRequest) -> ClientService:
    return services_of(request).identity.clients


def _tenant(request: HttpRequest) -> str | None:
    return principal_of(request).tenant_id


def _jwk(jwk: PublicJwk) -> dict[str, Any]:
    given: dict[str, Any] = msgspec.to_builtins(jwk)
    return given
