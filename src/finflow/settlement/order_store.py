"""SQL of payment orders: they come in by one statement, and are read with what the journal says of them."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from finflow.kernel import ids
from finflow.kernel.clock import to_datetime, to_micros
from finflow.ledger.store import Connection
from finflow.settlement.orders import Held, Order, account_id, order_key

_ADD: Final = """
insert into settlement_orders (ledger_no, batch_no, accepted_at, cycle_no, payer_no, payee_no, payer_account,
                               payee_account, peer_ledger_no, peer_account, currency, exponent, amount_minor,
                               end_to_end_id, uetr, key, details)
select $1, $2, $3, given.*
  from unnest($4::bigint[], $5::integer[], $6::integer[], $7::integer[], $8::integer[], $9::integer[],
              $10::integer[], $11::text[], $12::smallint[], $13::bigint[], $14::text[], $15::uuid[],
              $16::text[], $17::text[]) as given
on conflict do nothing
returning order_no, payer_no, end_to_end_id
"""
_BY_END_TO_END: Final = """
select o.* from unnest($2::integer[], $3::text[]) as wanted (payer_no, end_to_end_id)
 cross join lateral (
     select * from settlement_orders
      where ledger_no = $1 and payer_no = wanted.payer_no and end_to_end_id = wanted.end_to_end_id offset 0
 ) o
"""
# The first transaction of each order, and what resolved it: OFFSET 0 leaves the planner nothing but to look
# each up, where a join might read all of a journal that it thinks is small. The key is order_key's.
_OUTCOME: Final = """
  left join lateral (
      select seq, recorded_at, kind, code, legs from journal
       where ledger_no = {ledger} and key = '§order:' || o.ledger_no || '.' || o.order_no || ':pay' offset 0
  ) {pay} on true
  left join lateral (
      select seq, recorded_at, kind, legs from journal
       where ledger_no = {ledger} and target = {pay}.seq and code is null offset 0
  ) {end} on true
"""
HERE: Final = _OUTCOME.format(ledger="o.ledger_no", pay="j", end="r")
THERE: Final = _OUTCOME.format(ledger="o.peer_ledger_no", pay="p", end="pr")
_CYCLE_PAGE: Final = f"""
select o.order_no, o.accepted_at, o.payer_no, o.payee_no, o.amount_minor, j.seq, j.recorded_at,
       coalesce(j.code, p.code) as code, r.kind as ended
  from (select * from settlement_orders
         where ledger_no = $1 and cycle_no = $2 and order_no > $3 order by order_no limit $4) o
  {HERE}
  left join lateral (
      select code from journal
       where ledger_no = o.peer_ledger_no
         and key = '§order:' || o.ledger_no || '.' || o.order_no || ':pay' offset 0
  ) p on true
 order by o.order_no
"""  # noqa: S608 # constants of this file
_PAID: Final = "j.code is null and j.kind = 'hold'"
_PEER_PAGE: Final = f"""
select o.order_no, o.peer_ledger_no, p.seq, p.recorded_at, p.code, pr.kind as ended, r.kind as ended_here
  from (select * from settlement_orders
         where ledger_no = $1 and {{which}} and order_no > $3 and peer_ledger_no is not null
         order by order_no limit $4) o
  {HERE} {THERE}
 order by o.order_no
"""  # noqa: S608 # constants of this file
_PEERS_OF_CYCLE: Final = _PEER_PAGE.format(which="cycle_no = $2")
_PEERS_OF_BATCH: Final = _PEER_PAGE.format(which="cycle_no is null and batch_no = $2")
_FULL: Final = """
select o.*, a.created_at as payer_at, b.created_at as payee_at, s.settlement_account as payer_settlement,
       t.settlement_account as payee_settlement, c.created_at as payer_settlement_at,
       d.created_at as payee_settlement_at, pa.created_at as peer_at, m.position_account as mirror,
       n.created_at as mirror_at
  from settlement_orders o
  join accounts a on a.ledger_no = o.ledger_no and a.account_no = o.payer_account
  join accounts b on b.ledger_no = o.ledger_no and b.account_no = o.payee_account
  join settlement_accounts s
    on s.ledger_no = o.ledger_no and s.participant_no = o.payer_no and s.currency = o.currency
  join settlement_accounts t
    on t.ledger_no = o.ledger_no and t.participant_no = o.payee_no and t.currency = o.currency
  join accounts c on c.ledger_no = o.ledger_no and c.account_no = s.settlement_account
  join accounts d on d.ledger_no = o.ledger_no and d.account_no = t.settlement_account
  left join accounts pa on pa.ledger_no = o.peer_ledger_no and pa.account_no = o.peer_account
  left join settlement_participants q on q.ledger_no = o.peer_ledger_no and q.peer_ledger_no = o.ledger_no
  left join settlement_accounts m
    on m.ledger_no = q.ledger_no and m.participant_no = q.participant_no and m.currency = o.currency
  left join accounts n on n.ledger_no = m.ledger_no and n.account_no = m.position_account
 where o.ledger_no = $1 and o.order_no = any($2::bigint[])
 order by o.order_no
"""
# Orders whose acceptance was cut off: no hold yet, or not on both ledgers, or held here and refused there.
_UNDECIDED: Final = f"""
select o.order_no from settlement_orders o {HERE} {THERE}
 where o.ledger_no = $1 and {{which}}
   and (j.seq is null
        or ({_PAID} and r.seq is null and o.peer_ledger_no is not null
            and (p.seq is null or p.code is not null)))
 order by o.order_no limit $3
"""  # noqa: S608 # constants of this file
_UNDECIDED_OF_CYCLE: Final = _UNDECIDED.format(which="o.cycle_no = $2")
_UNDECIDED_OF_BATCH: Final = _UNDECIDED.format(which="o.batch_no = $2")
_UNPOSTED_OF_BATCH: Final = f"""
select o.order_no, j.seq, j.recorded_at, r.kind as ended from settlement_orders o {HERE}
 where o.ledger_no = $1 and o.batch_no = $2 and o.cycle_no is null and o.order_no > $3 and {_PAID}
 order by o.order_no limit $4
"""  # noqa: S608 # constants of this file
_ENDS: Final = f"""
select o.order_no, j.seq, j.recorded_at, j.kind, r.seq as end_seq, r.recorded_at as end_at,
       r.kind as ended, pr.seq as there_seq, pr.recorded_at as there_at, pr.kind as ended_there,
       o.peer_ledger_no
  from (select * from settlement_orders where ledger_no = $1 and order_no = $2) o {HERE} {THERE}
"""  # noqa: S608 # constants of this file
_BY_UETR: Final = """
select order_no, uetr::text as uetr, amount_minor, currency from settlement_orders
 where ledger_no = $1 and uetr = any($2::uuid[]) and payee_no = $3
"""


class NewOrder(NamedTuple):
    """An order about to be kept: numbers for its columns, ids for its commands."""

    place: int
    cycle_no: int | None
    payer_no: int
    payee_no: int
    payer_account: tuple[int, str]
    payee_account: tuple[int, str]
    settlement_ids: tuple[str, str]
    peer: tuple[int, int, str, str] | None
    currency: str
    exponent: int
    amount_minor: int
    end_to_end_id: str
    uetr: str | None
    key: str
    details: str | None

    @property
    def name(self) -> tuple[int, str]:
        """What names an order among those of its ledger, as its payer says it."""
        return self.payer_no, self.end_to_end_id

    def order(self, ledger_no: int, batch_no: int, order_no: int, accepted_at: int) -> Order:
        """The order that it becomes."""
        peer_ledger, _, mirror, account = self.peer or (None, None, None, None)
        return Order(
            ledger_no, batch_no, order_no, self.cycle_no, accepted_at, self.payer_no, self.payee_no,
            self.payer_account[1], self.payee_account[1], self.currency, self.exponent, self.amount_minor,
            self.end_to_end_id, self.settlement_ids, peer_ledger, mirror, account,
        )  # fmt: skip

    def repeats(self, row: Any) -> bool:
        """Whether a kept order is this one: the same key and the same content."""
        peer = None if self.peer is None else self.peer[:2]
        kept_peer = None if row["peer_ledger_no"] is None else (row["peer_ledger_no"], row["peer_account"])
        mode = (self.cycle_no is None) == (row["cycle_no"] is None)
        own = (self.key, self.payee_no, self.payer_account[0], self.currency, self.amount_minor, self.details)
        kept = (row["key"], row["payee_no"], row["payer_account"], row["currency"], row["amount_minor"])
        return mode and own == (*kept, row["details"]) and peer == kept_peer


async def add_orders(
    connection: Connection, ledger_no: int, batch_no: int, at: int, new: Sequence[NewOrder]
) -> dict[tuple[int, str], int]:
    """Keep orders; the numbers of those that are new, by payer and end-to-end id."""
    rows = [
        (o.cycle_no, o.payer_no, o.payee_no, o.payer_account[0], o.payee_account[0],
         o.peer[0] if o.peer else None, o.peer[1] if o.peer else None, o.currency, o.exponent, o.amount_minor,
         o.end_to_end_id, None if o.uetr is None else UUID(o.uetr), o.key, o.details)
        for o in new
    ]  # fmt: skip
    columns = [list(column) for column in zip(*rows, strict=True)]
    added = await connection.fetch(_ADD, ledger_no, batch_no, to_datetime(at), *columns)
    return {(row["payer_no"], row["end_to_end_id"]): row["order_no"] for row in added}


async def find_by_end_to_end(
    connection: Connection, ledger_no: int, names: Sequence[tuple[int, str]]
) -> dict[tuple[int, str], Any]:
    """Rows of orders that were kept before, by payer and end-to-end id."""
    payers, references = [name[0] for name in names], [name[1] for name in names]
    rows = await connection.fetch(_BY_END_TO_END, ledger_no, payers, references)
    return {(row["payer_no"], row["end_to_end_id"]): row for row in rows}


async def next_batch_no(connection: Connection) -> int:
    number: int = await connection.fetchval("select nextval('settlement_batch_nos')")
    return number


class CycleOrder(NamedTuple):
    """An order of a cycle; `ended` says what became of its hold.

    An order that its ledger refused, or its payee's, has no hold that counts.
    """

    order_no: int
    accepted_at: int
    payer_no: int
    payee_no: int
    amount_minor: int
    held: Held | None
    ended: str | None


async def read_cycle_page(
    connection: Connection, ledger_no: int, cycle_no: int, after: int, limit: int
) -> list[CycleOrder]:
    """Orders of a cycle after one of them; refused ones have no hold."""
    rows = await connection.fetch(_CYCLE_PAGE, ledger_no, cycle_no, after, limit)
    return [
        CycleOrder(
            row["order_no"], to_micros(row["accepted_at"]), row["payer_no"], row["payee_no"],
            row["amount_minor"], _held(ledger_no, ledger_no, row) if row["code"] is None else None,
            row["ended"],
        )
        for row in rows
    ]  # fmt: skip


class PeerLeg(NamedTuple):
    """What an order to another ledger has there: the hold, what ended it, and what ended the one here."""

    order_no: int
    peer_ledger_no: int
    held: Held | None
    ended: str | None
    ended_here: str | None


async def read_peer_page(
    connection: Connection, ledger_no: int, cycle_no: int | None, batch_no: int, after: int, limit: int
) -> list[PeerLeg]:
    """Orders to other ledgers, of a cycle or, without one, of a batch's gross orders."""
    sql, number = (_PEERS_OF_BATCH, batch_no) if cycle_no is None else (_PEERS_OF_CYCLE, cycle_no)
    rows = await connection.fetch(sql, ledger_no, number, after, limit)
    return [
        PeerLeg(
            row["order_no"], row["peer_ledger_no"],
            _held(ledger_no, row["peer_ledger_no"], row) if row["code"] is None else None,
            row["ended"], row["ended_here"],
        )
        for row in rows
    ]  # fmt: skip


async def read_unposted(
    connection: Connection, ledger_no: int, batch_no: int, after: int, limit: int
) -> list[tuple[int, Held, str | None]]:
    """Holds of a batch's gross orders to other ledgers, and what ended them."""
    rows = await connection.fetch(_UNPOSTED_OF_BATCH, ledger_no, batch_no, after, limit)
    found = [(row, _held(ledger_no, ledger_no, row)) for row in rows]
    return [(row["order_no"], held, row["ended"]) for row, held in found if held is not None]


def _held(order_ledger_no: int, ledger_no: int, row: Any) -> Held | None:
    """The transaction on `ledger_no` of an order that was accepted on `order_ledger_no`."""
    if row["seq"] is None:
        return None
    transaction_id = ids.mint("txn", to_micros(row["recorded_at"]), ledger_no, row["seq"])
    return Held(order_key(order_ledger_no, row["order_no"]), transaction_id)


async def read_undecided(
    connection: Connection, ledger_no: int, cycle_no: int | None, batch_no: int, limit: int
) -> list[int]:
    """Orders of a cycle, or of a batch, whose acceptance was cut off before the ledger had decided."""
    sql, number = (_UNDECIDED_OF_BATCH, batch_no) if cycle_no is None else (_UNDECIDED_OF_CYCLE, cycle_no)
    return [row["order_no"] for row in await connection.fetch(sql, ledger_no, number, limit)]


async def read_orders(connection: Connection, ledger_no: int, order_nos: Sequence[int]) -> list[Order]:
    """Whole orders, as the ledger's commands need them, by number."""
    return [_order(row) for row in await connection.fetch(_FULL, ledger_no, order_nos)]


def _order(row: Any) -> Order:
    ledger_no, peer_no = row["ledger_no"], row["peer_ledger_no"]
    return Order(
        ledger_no, row["batch_no"], row["order_no"], row["cycle_no"], to_micros(row["accepted_at"]),
        row["payer_no"], row["payee_no"], _account_id(ledger_no, row["payer_account"], row["payer_at"]),
        _account_id(ledger_no, row["payee_account"], row["payee_at"]), row["currency"], row["exponent"],
        row["amount_minor"], row["end_to_end_id"],
        (
            _account_id(ledger_no, row["payer_settlement"], row["payer_settlement_at"]),
            _account_id(ledger_no, row["payee_settlement"], row["payee_settlement_at"]),
        ),
        peer_no,
        None if peer_no is None else _account_id(peer_no, row["mirror"], row["mirror_at"]),
        None if peer_no is None else _account_id(peer_no, row["peer_account"], row["peer_at"]),
    )  # fmt: skip


def _account_id(ledger_no: int, account_no: int, created_at: Any) -> str:
    return account_id(ledger_no, account_no, to_micros(created_at))


class Ends(NamedTuple):
    """The transactions that an order's money moved by, on its own ledger and on the payee's."""

    here: Held | None
    there: Held | None


async def read_ends(connection: Connection, ledger_no: int, order_no: int) -> Ends:
    """What would have to be reversed for an order to come back."""
    row = await connection.fetchrow(_ENDS, ledger_no, order_no)
    assert row is not None, "asked of orders that exist"
    key, here, there = order_key(ledger_no, order_no), None, None
    if row["kind"] == "post":
        here = Held(key, ids.mint("txn", to_micros(row["recorded_at"]), ledger_no, row["seq"]))
    elif row["ended"] == "capture":
        here = Held(key, ids.mint("txn", to_micros(row["end_at"]), ledger_no, row["end_seq"]))
    if row["ended_there"] == "capture":
        peer_no, at = row["peer_ledger_no"], to_micros(row["there_at"])
        there = Held(key, ids.mint("txn", at, peer_no, row["there_seq"]))
    return Ends(here, there)


class Sent(NamedTuple):
    """An order that a rail speaks of."""

    order_no: int
    amount_minor: int
    currency: str


async def find_by_uetr(
    connection: Connection, ledger_no: int, uetrs: Sequence[str], payee_no: int
) -> dict[str, Sent]:
    """Orders to one payee by their UETRs."""
    rows = await connection.fetch(_BY_UETR, ledger_no, [UUID(each) for each in uetrs], payee_no)
    return {row["uetr"]: Sent(row["order_no"], row["amount_minor"], row["currency"]) for row in rows}
