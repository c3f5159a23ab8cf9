"""Clients and their public keys: made, listed, rotated, revoked by administrators."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from finflow.db.pool import acquired
from finflow.identity import jose, store
from finflow.identity.model import OPERATOR_SCOPES, SCOPES
from finflow.identity.views import ClientView
from finflow.kernel.errors import FinFlowError

if TYPE_CHECKING:
    import asyncpg


# A key's name stands in a path.
_KID: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}")


class ClientService:
    """`of` is the tenant of the administrator who asks: None is the operator, who sees everybody's clients.

    Another tenant's client answers exactly as one that does not exist: client_unknown.
    """

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", clock: Callable[[], int]) -> None:
        self._pool = pool
        self._clock = clock

    async def create(
        self,
        of: str | None,
        tenant_id: str | None,
        name: str,
        scopes: Sequence[str],
        jwk: Mapping[str, Any],
    ) -> ClientView:
        """A client with its first key. Raises tenant_unknown, scope_not_granted, jwk_malformed."""
        if of is not None and tenant_id not in (None, of):
            raise FinFlowError("tenant_unknown", f"no tenant {str(tenant_id)[:40]!r}")
        owner = of if of is not None else tenant_id
        grantable = OPERATOR_SCOPES if owner is None else SCOPES
        if not scopes or not set(scopes) <= set(grantable):
            raise FinFlowError("scope_not_granted", f"It may have: {' '.join(grantable)}.", "scopes")
        key = _key(jwk)
        async with acquired(self._pool) as connection, connection.transaction():
            tenant_no = None if owner is None else await store.find_tenant(connection, owner)
            ordered = [scope for scope in SCOPES if scope in scopes]
            number = await store.add(connection, tenant_no, name, ordered, self._clock())
            await store.add_key(connection, number, key.kid, _stored(key), self._clock())
            return (await store.find_by_number(connection, number)).view

    async def page(self, of: str | None, after: int, limit: int) -> tuple[list[ClientView], list[int]]:
        """Up to `limit` clients behind a position, in the order of their making, and their positions."""
        async with acquired(self._pool) as connection:
            tenant_no = None if of is None else await store.find_tenant(connection, of)
            found = await store.page(connection, after, limit, tenant_no)
        return [client.view for client in found], [client.client_no for client in found]

    async def read(self, of: str | None, client_id: str) -> ClientView:
        """One client. Raises client_unknown."""
        async with acquired(self._pool) as connection:
            return (await _own(connection, of, client_id)).view

    async def add_key(self, of: str | None, client_id: str, jwk: Mapping[str, Any]) -> ClientView:
        """The client with one more key; the former ones stay until they are revoked.

        Raises client_unknown, client_revoked, jwk_malformed, client_key_taken, client_keys_full.
        """
        key = _key(jwk)
        async with acquired(self._pool) as connection, connection.transaction():
            client = await _own(connection, of, client_id)
            await store.lock(connection, client.client_no)
            client = await store.find_by_number(connection, client.client_no)
            if client.view.revoked_at is not None:
                raise FinFlowError("client_revoked")
            if len(client.jwks) >= store.MAX_LIVE_KEYS:
                raise FinFlowError("client_keys_full")
            if not await store.add_key(connection, client.client_no, key.kid, _stored(key), self._clock()):
                raise FinFlowError("client_key_taken", param="jwk.kid")
            return (await store.find_by_number(connection, client.client_no)).view

    async def revoke_key(self, of: str | None, client_id: str, kid: str) -> ClientView:
        """The client without this key; doing it again changes nothing.

        Raises client_unknown, client_key_unknown.
        """
        async with acquired(self._pool) as connection, connection.transaction():
            client = await _own(connection, of, client_id)
            if not await store.revoke_key(connection, client.client_no, kid, self._clock()):
                raise FinFlowError("client_key_unknown")
            return (await store.find_by_number(connection, client.client_no)).view

    async def revoke(self, of: str | None, client_id: str) -> ClientView:
        """The client, revoked for ever: no new tokens, and those it has die within seconds.

        Raises client_unknown.
        """
        async with acquired(self._pool) as connection, connection.transaction():
            client = await _own(connection, of, client_id)
            await store.revoke(connection, client.client_no, self._clock())
            return (await store.find_by_number(connection, client.client_no)).view


async def _own(connection: "store.Connection", of: str | None, client_id: str) -> store.Client:
    client = await store.find(connection, client_id)
    if client is None or (of is not None and client.view.tenant_id != of):
        raise FinFlowError("client_unknown", f"no client {client_id[:40]!r}")
    return client


def _key(jwk: Mapping[str, Any]) -> jose.PublicKey:
    try:
        key = jose.public_key(jwk)
    except (ValueError, FinFlowError) as error:
        raise FinFlowError("jwk_malformed", f"The key is not taken: {error}.", "jwk") from error
    if not _KID.fullmatch(key.kid):
        raise FinFlowError("jwk_malformed", "A `kid` is 1 to 128 of A-Z a-z 0-9 . _ ~ -.", "jwk.kid")
    return key


def _stored(key: jose.PublicKey) -> dict[str, str]:
    """What is kept of it, its algorithm among it, so that nothing later can change it."""
    return {**key.jwk, "alg": jose.preferred(key)}
