"""What the database of a clone says, in plain SQL of our own: nothing here goes through the ledger's code."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

MARK: Final = "production-clone"
READ: Final = (
    "accounts", "entries", "heads", "journal", "settlement_accounts", "settlement_orders",
    "settlement_participants", "settlement_positions", "settlement_work",
)  # fmt: skip
_MOST: Final = 20

_IDENTITY = """
select current_setting('finflow.environment', true) as mark, current_database() as name,
       pg_postmaster_start_time() as started, pg_is_in_recovery() as standby
"""
# Each statement lists what is wrong, and names it; see docs/howto/accept-on-a-clone.md.
_BOOKS: Final[Sequence[tuple[str, str]]] = (
    (
        "ledger {ledger_no}, account {account_no}, version {version}: the balance is not its entries' sum",
        """
        select ledger_no, account_no, version from (
            select ledger_no, account_no, version, posted_debits, posted_credits,
                   pending_debits, pending_credits,
                   row_number() over chain as place, sum(greatest(amount, 0)) over chain as debits,
                   sum(greatest(-amount, 0)) over chain as credits, sum(held) over chain as held
              from entries window chain as (partition by ledger_no, account_no order by version)
        ) summed
         where version <> place or posted_debits <> debits or posted_credits <> credits
            or pending_debits - pending_credits <> held
        """,
    ),
    (
        "ledger {ledger_no}, transaction {seq}: its entries in {currency} do not sum to zero",
        """
        select e.ledger_no, e.seq, a.currency from entries e join accounts a using (ledger_no, account_no)
         group by e.ledger_no, e.seq, a.currency having sum(e.amount) <> 0 or sum(e.held) <> 0
        """,
    ),
    (
        "ledger {ledger_no}: its head is at {seq}, and its journal has {count} rows up to {last}",
        """
        select ledger_no, h.seq, coalesce(j.rows, 0) as count, coalesce(j.last, 0) as last from heads h
          left join (select ledger_no, count(*) as rows, max(seq) as last from journal group by ledger_no) j
               using (ledger_no)
         where h.seq <> coalesce(j.last, 0) or coalesce(j.rows, 0) <> coalesce(j.last, 0)
        """,
    ),
    (
        "ledger {ledger_no}, journal {seq}: a {kind} of money without entries",
        """
        select j.ledger_no, j.seq, j.kind from journal j
         where j.code is null and j.kind in ('post', 'hold', 'capture', 'void', 'expire', 'reverse')
           and not exists (select from entries e where e.ledger_no = j.ledger_no and e.seq = j.seq)
        """,
    ),
    (
        "ledger {ledger_no}, transaction {seq}: entries without a row in the journal",
        """
        select distinct e.ledger_no, e.seq from entries e
          left join journal j on j.ledger_no = e.ledger_no and j.seq = e.seq and j.code is null
         where j.seq is null
        """,
    ),
    (
        "order {order_no} of ledger {order_ledger} is booked in ledger {ledger_no}'s journal, and missing",
        """
        select j.ledger_no, (k.parts)[1] as order_ledger, (k.parts)[2] as order_no from journal j
         cross join lateral (select regexp_match(j.key, '^§order:(\\d+)\\.(\\d+):pay$') as parts) k
          left join settlement_orders o
               on o.ledger_no = (k.parts)[1]::integer and o.order_no = (k.parts)[2]::bigint
         where j.key like '§order:%' and k.parts is not null and o.order_no is null
        """,
    ),
    (
        "order {order_no} of ledger {ledger_no} was accepted and never booked or refused",
        """
        select o.ledger_no, o.order_no from settlement_orders o
          left join journal j on j.ledger_no = o.ledger_no
               and j.key = '§order:' || o.ledger_no || '.' || o.order_no || ':pay'
         where j.seq is null and not exists (
               select from settlement_work w
                where w.ledger_no = o.ledger_no and w.kind = 'batch' and w.number = o.batch_no)
        """,
    ),
    (
        "order {order_no} of ledger {ledger_no} is for {ordered} minor units, and {booked} were booked",
        """
        select o.ledger_no, o.order_no, o.amount_minor as ordered, max(abs(e.amount) + abs(e.held)) as booked
          from settlement_orders o
          join journal j on j.ledger_no = o.ledger_no and j.code is null
               and j.key = '§order:' || o.ledger_no || '.' || o.order_no || ':pay'
          join entries e on e.ledger_no = j.ledger_no and e.seq = j.seq and e.account_no = o.payer_account
         where o.payer_account <> o.payee_account
         group by o.ledger_no, o.order_no, o.amount_minor
        having max(abs(e.amount) + abs(e.held)) <> o.amount_minor
        """,
    ),
)

_POSITIONS = """
select p.name, a.currency, x.net as position, y.net as settlement from settlement_participants p
  join settlement_accounts a using (ledger_no, participant_no)
  join lateral (select coalesce(sum(amount), 0)::bigint as net from entries e
                 where e.ledger_no = p.ledger_no and e.account_no = a.position_account) x on true
  join lateral (select coalesce(sum(amount), 0)::bigint as net from entries e
                 where e.ledger_no = p.ledger_no and e.account_no = a.settlement_account) y on true
 where p.ledger_no = $1
"""
# The keys are listed, because no index finds a pattern that is made for each row.
_ORDERS = """
select o.end_to_end_id, o.amount_minor,
       coalesce(array_agg(j.kind order by j.seq) filter (where j.seq is not null), '{}') as kinds
  from settlement_orders o
 cross join unnest(array[':pay', ':post', ':void', ':return']) stage
  left join journal j on j.ledger_no = o.ledger_no and j.code is null
       and j.key = '§order:' || o.ledger_no || '.' || o.order_no || stage
 where o.ledger_no = $1 group by o.order_no, o.end_to_end_id, o.amount_minor
"""
_NET = """
select p.name, sum(n.net_minor)::bigint as net from settlement_positions n
  join settlement_participants p using (ledger_no, participant_no) where n.ledger_no = $1 group by p.name
"""
_OTHERS = """
select ledger_no, seq from heads where ledger_no <> $1 order by ledger_no
"""


async def identity(connection: "Connection") -> Any:
    """Which database this is, and whether it says that it is a clone."""
    return await connection.fetchrow(_IDENTITY)


async def mark(connection: "Connection") -> None:
    """Has the database say that it is a clone, to every session from now on."""
    name = await connection.fetchval("select quote_ident(current_database())")
    await connection.execute(f"alter database {name} set finflow.environment = '{MARK}'")


async def analyze(connection: "Connection") -> None:
    """Has the planner count what the statements here read.

    A clone of a young database has no statistics. Taking tables for empty, the planner joins every entry of a
    ledger to every row of its journal, which takes minutes.
    """
    await connection.execute(f"analyze {', '.join(READ)}")


async def faults(connection: "Connection") -> list[str]:
    """What does not fit in the books of any ledger, named; at most a few of each kind."""
    found: list[str] = []
    for sentence, statement in _BOOKS:
        rows = await connection.fetch(f"select * from ({statement}) listed limit {_MOST + 1}")  # noqa: S608 - our own text
        found += [sentence.format(**dict(row)) for row in rows[:_MOST]]
        if len(rows) > _MOST:
            found.append(f"... and more like it: {sentence.partition(':')[2].strip() or sentence}")
    return found


async def positions(connection: "Connection", ledger_no: int) -> Sequence[Any]:
    """Every participant's two accounts, summed from their entries: debits less credits."""
    return await connection.fetch(_POSITIONS, ledger_no)


async def orders(connection: "Connection", ledger_no: int) -> Sequence[Any]:
    """Every order of a ledger with the kinds of what the journal has of it, in order."""
    return await connection.fetch(_ORDERS, ledger_no)


async def nets(connection: "Connection", ledger_no: int) -> dict[str, int]:
    """What each participant's net positions of all cycles come to."""
    return {row["name"]: row["net"] for row in await connection.fetch(_NET, ledger_no)}


async def heads(connection: "Connection", but: int) -> dict[int, int]:
    """How far every other ledger's journal goes: acceptance must not move them."""
    return {row["ledger_no"]: row["seq"] for row in await connection.fetch(_OTHERS, but)}
