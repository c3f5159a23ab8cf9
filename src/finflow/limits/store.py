"""SQL of the tenants' limits: the newest version of each, and what changed lately."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from finflow.limits.model import Override

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
else:
    Connection = Any

_TENANT: Final = "select created_at from tenants where tenant_no = $1"
_NEWEST: Final = """
select version, requests_per_s, burst, concurrency from tenant_limits
 where tenant_no = $1 order by version desc limit 1
"""
_ADD: Final = """
insert into tenant_limits (tenant_no, version, changed_by, requests_per_s, burst, concurrency)
values ($1, $2, $3, $4, $5, $6) on conflict do nothing returning version
"""
# A transaction may commit a while after its now(): each look goes back a minute, which the index makes cheap.
_CHANGED: Final = """
select distinct on (tenant_no) tenant_no, requests_per_s, burst, concurrency, changed_at
  from tenant_limits where changed_at >= $1::timestamptz - interval '1 minute'
 order by tenant_no, version desc
"""


async def tenant_created_at(connection: Connection, tenant_no: int) -> datetime | None:
    """When the tenant was made, or None if there is none of this number."""
    created_at: datetime | None = await connection.fetchval(_TENANT, tenant_no)
    return created_at


async def newest(connection: Connection, tenant_no: int) -> tuple[int, Override]:
    """The version and the override that count; version 0 is the default."""
    row = await connection.fetchrow(_NEWEST, tenant_no)
    return (0, Override()) if row is None else (row["version"], _override(row))


async def add(connection: Connection, tenant_no: int, version: int, by: str, override: Override) -> bool:
    """Make this the newest version; False if another one took its number."""
    return await connection.fetchval(_ADD, tenant_no, version, by, *override) is not None


async def changed_since(connection: Connection, since: datetime) -> dict[int, tuple[datetime, Override]]:
    """Tenants whose limits changed after a moment (or up to a minute before), with what counts now."""
    rows = await connection.fetch(_CHANGED, since)
    return {row["tenant_no"]: (row["changed_at"], _override(row)) for row in rows}


def _override(row: Any) -> Override:
    return Override(row["requests_per_s"], row["burst"], row["concurrency"])
