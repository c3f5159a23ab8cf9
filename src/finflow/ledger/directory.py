"""Tenants and their ledgers: the SQL and the views of both."""

from typing import Any, Final

from finflow.kernel import ids
from finflow.kernel.clock import to_datetime, to_micros
from finflow.kernel.errors import FinFlowError
from finflow.ledger.lists import Page, Span
from finflow.ledger.store import Connection
from finflow.ledger.views import LedgerView, TenantView

_ADD_TENANT: Final = """
insert into tenants (name, created_at) values ($1, $2) returning tenant_no, name, created_at
"""
_TENANT: Final = "select tenant_no, name, created_at from tenants where tenant_no = $1"
_ADD_LEDGER: Final = """
with added as (
    insert into ledgers (tenant_no, name, created_at) values ($1, $2, $3)
    returning ledger_no, tenant_no, name, created_at
), head as (
    insert into heads (ledger_no, seq, account_no, recorded_at) select ledger_no, 0, 0, created_at from added
)
select a.*, t.created_at as tenant_created_at from added a join tenants t using (tenant_no)
"""
_TENANT_PAGE: Final = """
select tenant_no, name, created_at from tenants where tenant_no > $1 order by tenant_no limit $2
"""
_LEDGERS: Final = """
select l.*, t.created_at as tenant_created_at from ledgers l join tenants t using (tenant_no)
"""
_LEDGER_PAGE: Final = _LEDGERS + " where l.ledger_no > $1 order by l.ledger_no limit $2"
# The tenant's own: the number comes from the caller's token, and row-level security says the same once more.
_LEDGER_OF: Final = _LEDGERS + " where l.ledger_no = $2 and l.tenant_no = $1"
_LEDGER_PAGE_OF: Final = (
    _LEDGERS + " where l.tenant_no = $1 and l.ledger_no > $2 order by l.ledger_no limit $3"
)


async def add_tenant(connection: Connection, name: str, at: int) -> TenantView:
    row = await connection.fetchrow(_ADD_TENANT, name, to_datetime(at))
    assert row is not None, "an insert returns its row"
    return _tenant(row)


async def add_ledger(connection: Connection, tenant_id: str, name: str, at: int) -> LedgerView:
    """A ledger with its head at `seq` 0. Raises tenant_unknown."""
    tenant = await _find_tenant(connection, tenant_id)
    row = await connection.fetchrow(_ADD_LEDGER, tenant["tenant_no"], name, to_datetime(at))
    return _ledger(row)


async def read_tenants(connection: Connection, span: Span) -> Page[TenantView]:
    """Tenants in the order of their making."""
    rows = await connection.fetch(_TENANT_PAGE, span.after or 0, span.limit + 1)
    return Page.of([_tenant(row) for row in rows], span, [row["tenant_no"] for row in rows])


async def read_tenant(connection: Connection, tenant_id: str) -> TenantView:
    """One tenant. Raises tenant_unknown."""
    return _tenant(await _find_tenant(connection, tenant_id))


async def _find_tenant(connection: Connection, tenant_id: str) -> Any:
    place = ids.parse("ten", tenant_id)
    row = None if place is None else await connection.fetchrow(_TENANT, place.number)
    if row is None or _tenant(row).tenant_id != tenant_id:
        raise FinFlowError("tenant_unknown", f"no tenant {tenant_id[:40]!r}")
    return row


async def read_ledger_page(
    connection: Connection, span: Span, tenant_no: int | None = None
) -> Page[LedgerView]:
    """Ledgers in the order of their opening, of one tenant or of all."""
    bounds = (span.after or 0, span.limit + 1)
    if tenant_no is None:
        rows = await connection.fetch(_LEDGER_PAGE, *bounds)
    else:
        rows = await connection.fetch(_LEDGER_PAGE_OF, tenant_no, *bounds)
    return Page.of([_ledger(row) for row in rows], span, [row["ledger_no"] for row in rows])


async def read_ledger(connection: Connection, ledger_no: int) -> LedgerView | None:
    row = await connection.fetchrow(_LEDGERS + " where l.ledger_no = $1", ledger_no)
    return None if row is None else _ledger(row)


async def read_ledger_of(connection: Connection, tenant_no: int, ledger_no: int) -> LedgerView | None:
    """The tenant's ledger of this number, or None, whoever else may have one."""
    row = await connection.fetchrow(_LEDGER_OF, tenant_no, ledger_no)
    return None if row is None else _ledger(row)


def _tenant(row: Any) -> TenantView:
    tenant_id = ids.mint("ten", to_micros(row["created_at"]), 0, row["tenant_no"])
    return TenantView(tenant_id, row["name"], row["created_at"])


def _ledger(row: Any) -> LedgerView:
    ledger_id = ids.mint("led", to_micros(row["created_at"]), row["ledger_no"], 0)
    tenant_id = ids.mint("ten", to_micros(row["tenant_created_at"]), 0, row["tenant_no"])
    return LedgerView(ledger_id, tenant_id, row["name"], row["created_at"])
