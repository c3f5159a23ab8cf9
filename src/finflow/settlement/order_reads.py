"""SQL of payment orders for people: each with names, its status, and the transactions that it became."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from finflow.ledger.store import Connection
from finflow.settlement.order_store import HERE, THERE
from finflow.settlement.orders import Status

_STATUS: Final = """
case when j.seq is null then 'received' when j.code is not null then 'refused'
     when j.kind = 'post' and r.kind = 'reverse' then 'returned' when j.kind = 'post' then 'settled'
     when r.kind is null then 'held' when r.kind = 'capture' and z.seq is not null then 'returned'
     when r.kind = 'capture' then 'settled' else 'voided' end
"""
_IN_ORDER: Final = " order by o.order_no"
VIEWS: Final = f"""
select o.*, {_STATUS} as status, coalesce(j.code, p.code) as code, j.seq as pay_seq,
       j.recorded_at as pay_at, r.seq as end_seq, r.recorded_at as end_at, z.seq as return_seq,
       z.recorded_at as return_at, a.created_at as payer_at, b.created_at as payee_at,
       x.name as payer, y.name as payee, c.opened_at as cycle_opened_at{{also}}
  from ({{orders}}) o
  {HERE} {THERE}
  left join lateral (
      select seq, recorded_at, kind, legs from journal
       where ledger_no = o.ledger_no and target = r.seq and code is null offset 0
  ) z on true
  cross join lateral (
      select created_at from accounts where ledger_no = o.ledger_no and account_no = o.payer_account offset 0
  ) a
  cross join lateral (
      select created_at from accounts where ledger_no = o.ledger_no and account_no = o.payee_account offset 0
  ) b
  cross join lateral (
      select name from settlement_participants
       where ledger_no = o.ledger_no and participant_no = o.payer_no offset 0
  ) x
  cross join lateral (
      select name, kind from settlement_participants
       where ledger_no = o.ledger_no and participant_no = o.payee_no offset 0
  ) y
  left join settlement_cycles c on c.ledger_no = o.ledger_no and c.cycle_no = o.cycle_no
"""  # noqa: S608 # constants of this file
_BY_NUMBER: Final = (
    VIEWS.format(
        orders="select * from settlement_orders where ledger_no = $1 and order_no = any($2::bigint[])",
        also="",
    )
    + _IN_ORDER
)
_PAGE: Final = (
    VIEWS.format(
        orders="""select * from settlement_orders
     where ledger_no = $1 and order_no > $2 order by order_no limit $3""",
        also="",
    )
    + _IN_ORDER
)
_PAGE_OF_CYCLE: Final = (
    VIEWS.format(
        orders="""select * from settlement_orders
     where ledger_no = $1 and order_no > $2 and cycle_no = $4 order by order_no limit $3""",
        also="",
    )
    + _IN_ORDER
)


_KEYS: Final = """
select uetr::text as uetr, key from settlement_orders where ledger_no = $1 and uetr = any($2::uuid[])
"""


class OrderRow(NamedTuple):
    """An order for people: its row with names, its status, and the transactions that it became."""

    row: Any
    status: Status


async def read_order_rows(connection: Connection, ledger_no: int, order_nos: Sequence[int]) -> list[OrderRow]:
    """Orders by number, with what became of them."""
    rows = await connection.fetch(_BY_NUMBER, ledger_no, order_nos)
    return [OrderRow(row, row["status"]) for row in rows]


async def read_keys_by_uetr(connection: Connection, ledger_no: int, uetrs: Sequence[str]) -> dict[str, str]:
    """The keys of orders by their UETRs, of those that are known."""
    rows = await connection.fetch(_KEYS, ledger_no, [UUID(each) for each in uetrs])
    return {row["uetr"]: row["key"] for row in rows}


async def read_order_page(
    connection: Connection, ledger_no: int, cycle_no: int | None, after: int, limit: int
) -> list[OrderRow]:
    """Orders after one of them, of one cycle or of all."""
    if cycle_no is None:
        rows = await connection.fetch(_PAGE, ledger_no, after, limit)
    else:
        rows = await connection.fetch(_PAGE_OF_CYCLE, ledger_no, after, limit, cycle_no)
    return [OrderRow(row, row["status"]) for row in rows]
