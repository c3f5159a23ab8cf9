"""Whether two ledgers that pay each other have the same in their books, whatever is under way between them.

Each ledger has an account for the other one. What is posted on the payer's ledger and not yet on the
payee's (or has come back there and not yet here) is in transit: it is counted from the orders, in the same
snapshot as the balances, so the two accounts must agree at every moment, not only when all is quiet.
"""

from typing import Final, NamedTuple

from finflow.ledger.store import Connection

# Both directions of one pair: orders of either ledger to the other. An order counts as posted on a ledger
# from its posting until its reversal; a payment that is posted at once, from itself. Only orders that
# somebody still works on can differ.
_MIRRORS: Final = """
with pairs as (
    select p.ledger_no, p.peer_ledger_no, s.currency, s.position_account as here_no,
           t.position_account as there_no
      from settlement_participants p
      join settlement_accounts s using (ledger_no, participant_no)
      join settlement_participants q on q.ledger_no = p.peer_ledger_no and q.peer_ledger_no = p.ledger_no
      join settlement_accounts t
        on t.ledger_no = q.ledger_no and t.participant_no = q.participant_no and t.currency = s.currency
     where p.ledger_no = any($1::integer[])
), newest as (
    select pairs.*, coalesce(e.posted_debits - e.posted_credits, 0) as here,
           coalesce(f.posted_debits - f.posted_credits, 0) as there, a.exponent
      from pairs
      join accounts a on a.ledger_no = pairs.ledger_no and a.account_no = pairs.here_no
      left join lateral (
          select posted_debits, posted_credits from entries
           where ledger_no = pairs.ledger_no and account_no = pairs.here_no order by version desc limit 1
      ) e on true
      left join lateral (
          select posted_debits, posted_credits from entries
           where ledger_no = pairs.peer_ledger_no and account_no = pairs.there_no
           order by version desc limit 1
      ) f on true
), live as (
    select o.* from settlement_work w
      join settlement_orders o on o.ledger_no = w.ledger_no and o.cycle_no = w.number
     where w.kind = 'cycle' and o.peer_ledger_no is not null
    union
    select o.* from settlement_work w
      join settlement_orders o on o.ledger_no = w.ledger_no and o.batch_no = w.number
     where w.kind = 'batch' and o.peer_ledger_no is not null
    union
    select o.* from settlement_work w
      join settlement_orders o on o.ledger_no = w.ledger_no and o.order_no = w.number
     where w.kind = 'return' and o.peer_ledger_no is not null
), legs as (
    select n.ledger_no, n.peer_ledger_no, n.currency, o.amount_minor,
           posted_on(o.ledger_no, o.ledger_no, o.order_no)::integer as home,
           posted_on(o.peer_ledger_no, o.ledger_no, o.order_no)::integer as away
      from newest n
      join live o on o.currency = n.currency
                 and (o.ledger_no, o.peer_ledger_no) in ((n.ledger_no, n.peer_ledger_no),
                                                         (n.peer_ledger_no, n.ledger_no))
)
select n.ledger_no, n.peer_ledger_no, n.currency, n.exponent, n.here, n.there,
       coalesce((select sum(l.amount_minor * (l.home - l.away)) from legs l
                  where (l.ledger_no, l.peer_ledger_no, l.currency)
                        = (n.ledger_no, n.peer_ledger_no, n.currency)), 0)::bigint as in_transit
  from newest n order by n.ledger_no, n.peer_ledger_no, n.currency
"""


class Mirror(NamedTuple):
    """One pair of ledgers in one currency, in minor units: debits less credits of both accounts."""

    ledger_no: int
    peer_ledger_no: int
    currency: str
    exponent: int
    here_minor: int
    there_minor: int
    in_transit_minor: int

    @property
    def agrees(self) -> bool:
        return self.here_minor + self.there_minor + self.in_transit_minor == 0


async def read_mirrors(connection: Connection, ledger_nos: list[int]) -> list[Mirror]:
    """The mirrored accounts of ledgers that both sides have registered, in one snapshot."""
    return [Mirror(*row) for row in await connection.fetch(_MIRRORS, ledger_nos)]


async def read_ledgers(connection: Connection) -> list[int]:
    """Ledgers that another one is registered on."""
    rows = await connection.fetch(
        "select distinct ledger_no from settlement_participants where peer_ledger_no is not null"
    )
    return [row["ledger_no"] for row in rows]
