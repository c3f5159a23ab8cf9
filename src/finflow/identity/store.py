"""The SQL of clients, their keys, and the assertions that were used."""

import json
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from finflow.identity.views import ClientView, KeyView
from finflow.kernel import ids
from finflow.kernel.clock import to_datetime, to_micros
from finflow.kernel.errors import FinFlowError

if TYPE_CHECKING:
    import asyncpg

    from finflow.db.pool import PoolConnection

    Connection: TypeAlias = "asyncpg.Connection[Any] | PoolConnection"

MAX_LIVE_KEYS: Final = 8

_TENANT: Final = "select tenant_no, created_at from tenants where tenant_no = $1"
_ADD: Final = """
insert into clients (tenant_no, name, scopes, created_at) values ($1, $2, $3, $4) returning client_no
"""
_CLIENTS: Final = """
select c.*, t.created_at as tenant_created_at, k.*
  from clients c
  left join tenants t using (tenant_no)
 cross join lateral (
    select array_agg(kid order by created_at, kid) as kids,
           array_agg(jwk order by created_at, kid) as jwks,
           array_agg(created_at order by created_at, kid) as keys_created_at,
           array_agg(revoked_at order by created_at, kid) as keys_revoked_at
      from client_keys where client_no = c.client_no
 ) k
"""
_BY_NUMBER: Final = _CLIENTS + " where c.client_no = $1"
_ALL: Final = _CLIENTS + " where c.client_no > $1 order by c.client_no limit $2"
_OF_TENANT: Final = _CLIENTS + " where c.tenant_no = $3 and c.client_no > $1 order by c.client_no limit $2"
# Whoever changes a client's keys holds its row, so that two cannot both add the last one that fits.
_LOCK: Final = "select 1 from clients where client_no = $1 for update"
_ADD_KEY: Final = """
insert into client_keys (client_no, kid, jwk, created_at) values ($1, $2, $3, $4)
on conflict (client_no, kid) do nothing returning kid
"""
_REVOKE_KEY: Final = """
update client_keys set revoked_at = coalesce(revoked_at, $3) where client_no = $1 and kid = $2 returning kid
"""
_REVOKE: Final = "update clients set revoked_at = coalesce(revoked_at, $2) where client_no = $1"
_REVOKED: Final = "select client_no, created_at from clients where revoked_at > $1"
_USE: Final = """
insert into used_assertions (client_no, jti_hash, expires_at) values ($1, $2, $3)
on conflict (client_no, jti_hash) do nothing returning true
"""
_SWEEP: Final = """
delete from used_assertions
 where (client_no, jti_hash) in (
    select client_no, jti_hash from used_assertions where expires_at < $1 order by expires_at limit $2
    for update skip locked
 )
"""


class Client(msgspec.Struct, frozen=True):
    """A client as it is stored; `jwks` are the keys that are not revoked, by `kid`."""

    client_no: int
    tenant_no: int | None
    view: ClientView
    jwks: dict[str, dict[str, Any]]


async def find_tenant(connection: "Connection", tenant_id: str) -> int:
    """The number of a tenant. Raises tenant_unknown."""
    place = ids.parse("ten", tenant_id)
    row = None if place is None else await connection.fetchrow(_TENANT, place.number)
    if row is None or ids.mint("ten", to_micros(row["created_at"]), 0, row["tenant_no"]) != tenant_id:
        raise FinFlowError("tenant_unknown", f"no tenant {tenant_id[:40]!r}")
    number: int = row["tenant_no"]
    return number


async def add(connection: "Connection", tenant_no: int | None, name: str, scopes: list[str], at: int) -> int:
    number: int = await connection.fetchval(_ADD, tenant_no, name, scopes, to_datetime(at))
    return number


async def find(connection: "Connection", client_id: str) -> Client | None:
    """The client of this id, or None."""
    place = ids.parse("cli", client_id)
    row = None if place is None else await connection.fetchrow(_BY_NUMBER, place.number)
    found = None if row is None else _client(row)
    return found if found is not None and found.view.client_id == client_id else None


async def find_by_number(connection: "Connection", client_no: int) -> Client:
    row = await connection.fetchrow(_BY_NUMBER, client_no)
    assert row is not None, "clients are never deleted"
    return _client(row)


async def page(connection: "Connection", after: int, limit: int, tenant_no: int | None) -> list[Client]:
    """Clients in the order of their making: one tenant's, or everybody's."""
    if tenant_no is None:
        rows = await connection.fetch(_ALL, after, limit)
    else:
        rows = await connection.fetch(_OF_TENANT, after, limit, tenant_no)
    return [_client(row) for row in rows]


async def lock(connection: "Connection", client_no: int) -> None:
    await connection.execute(_LOCK, client_no)


async def add_key(connection: "Connection", client_no: int, kid: str, jwk: dict[str, str], at: int) -> bool:
    """Whether the name was free."""
    text = json.dumps(jwk, separators=(",", ":"))
    return await connection.fetchval(_ADD_KEY, client_no, kid, text, to_datetime(at)) is not None


async def revoke_key(connection: "Connection", client_no: int, kid: str, at: int) -> bool:
    """Whether there is such a key."""
    return await connection.fetchval(_REVOKE_KEY, client_no, kid, to_datetime(at)) is not None


async def revoke(connection: "Connection", client_no: int, at: int) -> None:
    await connection.execute(_REVOKE, client_no, to_datetime(at))


async def revoked_since(connection: "Connection", at: int) -> list[str]:
    """The ids of the clients that were revoked after that moment."""
    rows = await connection.fetch(_REVOKED, to_datetime(at))
    return [_client_id(row) for row in rows]


async def use_assertion(connection: "Connection", client_no: int, jti_hash: bytes, until: int) -> bool:
    """Whether it is the first time; the database decides, for all processes."""
    return bool(await connection.fetchval(_USE, client_no, jti_hash, to_datetime(until)))


async def sweep_assertions(connection: "Connection", before: int, most: int) -> None:
    await connection.execute(_SWEEP, to_datetime(before), most)


def _client_id(row: Any) -> str:
    return ids.mint("cli", to_micros(row["created_at"]), 0, row["client_no"])


def _client(row: Any) -> Client:
    tenant_id = None
    if row["tenant_no"] is not None:
        tenant_id = ids.mint("ten", to_micros(row["tenant_created_at"]), 0, row["tenant_no"])
    columns = (row[name] or () for name in ("kids", "jwks", "keys_created_at", "keys_revoked_at"))
    stored = list(zip(*columns, strict=True))
    keys = [KeyView(kid, _algorithm(jwk), created, revoked) for kid, jwk, created, revoked in stored]
    times = row["created_at"], row["revoked_at"]
    view = ClientView(_client_id(row), tenant_id, row["name"], list(row["scopes"]), *times, keys)
    live = {kid: json.loads(jwk) for kid, jwk, _, revoked in stored if revoked is None}
    return Client(row["client_no"], row["tenant_no"], view, live)


def _algorithm(jwk: str) -> str:
    found: str = json.loads(jwk)["alg"]
    return found
