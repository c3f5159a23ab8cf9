"""What administrators ask of an API beside the books: who may ask for tokens, how much a tenant may take."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec

from finflow.client.transport import Reply, Request, Transport

_CLIENTS: Final = "/v1/clients"


class Limits(msgspec.Struct, frozen=True):
    """What a tenant may do: requests a second and at once on a host, and under way in one worker.

    `overridden` names what is the tenant's own; the rest is the default. `etag` names this state of it.
    """

    tenant_id: str
    requests_per_s: int
    burst: int
    concurrency: int
    overridden: list[str]
    version: int
    etag: str | None = None


class LimitsChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """What changes about a tenant's limits; what is left UNSET stays as it is, None is the default again."""

    requests_per_s: int | msgspec.UnsetType | None = msgspec.UNSET
    burst: int | msgspec.UnsetType | None = msgspec.UNSET
    concurrency: int | msgspec.UnsetType | None = msgspec.UNSET


class ClientKey(msgspec.Struct, frozen=True):
    """A public key of a client."""

    kid: str
    algorithm: str
    created_at: datetime
    revoked_at: datetime | None


class RegisteredClient(msgspec.Struct, frozen=True):
    """A program that may ask for access tokens; without a tenant it works for the platform's operator."""

    client_id: str
    tenant_id: str | None
    name: str
    scopes: list[str]
    created_at: datetime
    revoked_at: datetime | None
    keys: list[ClientKey]


class _Clients(msgspec.Struct, frozen=True):
    items: list[RegisteredClient]
    next: str | None = None


class Administration:
    """The part of `Client` that moves no money."""

    _transport: Transport

    async def limits(self, tenant_id: str) -> Limits:
        """How many requests a tenant may send. Raises tenant_unknown."""
        return _limits(await self._transport.send(Request("GET", _path(tenant_id))))

    async def change_limits(self, tenant_id: str, change: LimitsChange, *, if_match: str = "*") -> Limits:
        """Other limits for a tenant; with an `etag` as `if_match` only if they still are so.

        Raises tenant_unknown, precondition_failed, and operator_required for a tenant's own token.
        """
        data = msgspec.json.encode(change)
        return _limits(
            await self._transport.send(Request("PATCH", _path(tenant_id), data, if_match=if_match))
        )

    async def create_client(
        self, name: str, scopes: Sequence[str], jwk: dict[str, Any], tenant_id: str | None = None
    ) -> RegisteredClient:
        """A client with its first public key; not repeated after a lost answer.

        Raises tenant_unknown, scope_not_granted, jwk_malformed.
        """
        body = {"name": name, "scopes": list(scopes), "jwk": jwk, "tenant_id": tenant_id}
        return await self._client("POST", _CLIENTS, body)

    async def clients(self, *, page_size: int = 100) -> AsyncIterator[RegisteredClient]:
        """The clients that the caller may see, in the order of their making."""
        query = {"limit": str(page_size)}
        while True:
            reply = await self._transport.send(Request("GET", _CLIENTS, query=query))
            page = msgspec.json.decode(reply.content, type=_Clients)
            for client in page.items:
                yield client
            if page.next is None:
                return
            query["cursor"] = page.next

    async def client(self, client_id: str) -> RegisteredClient:
        """One client. Raises client_unknown."""
        return await self._client("GET", _client_path(client_id))

    async def add_client_key(self, client_id: str, jwk: dict[str, Any]) -> RegisteredClient:
        """One more key for a client; not repeated after a lost answer.

        Raises client_unknown, client_revoked, client_keys_full, client_key_taken, jwk_malformed.
        """
        return await self._client("POST", _client_path(client_id, "keys"), {"jwk": jwk})

    async def revoke_client_key(self, client_id: str, kid: str) -> RegisteredClient:
        """The client without this key. Raises client_unknown, client_key_unknown."""
        return await self._client("DELETE", _client_path(client_id, "keys", kid))

    async def revoke_client(self, client_id: str) -> RegisteredClient:
        """The client, revoked for ever; its tokens die within seconds. Raises client_unknown."""
        return await self._client("POST", _client_path(client_id, "revoke"), repeatable=True)

    async def _client(
        self, method: str, path: str, body: object = None, *, repeatable: bool | None = None
    ) -> RegisteredClient:
        data = None if body is None else msgspec.json.encode(body)
        safe = method != "POST" if repeatable is None else repeatable
        reply = await self._transport.send(Request(method, path, data, repeatable=safe))
        return msgspec.json.decode(reply.content, type=RegisteredClient)


def _client_path(*parts: str) -> str:
    # What is no id must not name another route.
    quoted = (quote(part, safe="") for part in parts)
    return "/".join((_CLIENTS, *(part if part.strip(".") else "%20" for part in quoted)))


def _path(tenant_id: str) -> str:
    return f"/v1/tenants/{quote(tenant_id, safe='')}/limits"


def _limits(reply: Reply) -> Limits:
    return msgspec.structs.replace(msgspec.json.decode(reply.content, type=Limits), etag=reply.etag)
