"""The blast radius's SQL: what a release wrote in a span of time, found by time without an index on it.

`recorded_at` never falls along a ledger's `seq`, so each ledger's part of the span is found by probing its
primary key (seq_at_time), and only that part of the journal is read. OFFSET 0 leaves the planner nothing but
to look each ledger's part, each entry and each account up.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncpg

    from finflow.db.pool import PoolConnection

_SPANS: Final = """
with spans as materialized (
    select h.ledger_no, l.created_at as ledger_created_at,
           seq_at_time(h.ledger_no, $2::timestamptz - interval '1 microsecond') as low,
           seq_at_time(h.ledger_no, $3::timestamptz - interval '1 microsecond') as high
      from heads h join ledgers l using (ledger_no)
)"""
_WRITTEN: Final = """
  from spans s cross join lateral (
      select ledger_no, seq, recorded_at, kind, caller, legs from journal
       where ledger_no = s.ledger_no and seq > s.low and seq <= s.high
         and release = $1 and code is null and legs is not null
         and kind in ('post', 'hold', 'capture', 'void', 'expire', 'reverse') offset 0
  ) j
 where s.low < s.high
"""
FOUND: Final = f"{_SPANS} select s.ledger_created_at, j.* {_WRITTEN}"
_OLDEST_FIRST: Final = " order by j.recorded_at, j.ledger_no, j.seq"

# An entry counts by what it books, or where its transaction only holds or releases, by what it holds; of a
# balanced transaction the debits are the half of all that it holds: so everything is counted twice.
_DOUBLED: Final = """
case when leg.booked then 2 * greatest(e.amount, 0)::numeric else abs(e.held::numeric) end
"""
_ENTRY: Final = """
  cross join lateral (
      select amount, held from entries
       where ledger_no = leg.ledger_no and account_no = leg.account_no and version = leg.version offset 0
  ) e
"""
_ACCOUNT: Final = """
  cross join lateral (
      select created_at, kind, external_reference, currency, exponent from accounts
       where ledger_no = {leg}.ledger_no and account_no = {leg}.account_no offset 0
  ) a
"""
ENTRIES: Final = f"""
select leg.ledger_no, leg.account_no, leg.place, a.created_at, a.kind, a.external_reference, a.currency,
       a.exponent, leg.booked, e.amount, e.held
  from unnest($1::integer[], $2::integer[], $3::bigint[], $4::boolean[], $5::integer[])
       as leg (ledger_no, account_no, version, booked, place)
{_ENTRY} {_ACCOUNT.format(leg="leg")}
"""  # noqa: S608 # constants of this file
# Each account has one currency, so customers are counted with their money. A leg is the account's number in
# four bytes and the version in eight (ledger/copy.py).
TOTALS: Final = f"""
{_SPANS}, legs as (
    select j.ledger_no, j.kind in ('post', 'capture', 'reverse') as booked, place = 0 as is_first,
           ('x' || encode(substr(j.legs, 1 + 12 * place, 4), 'hex'))::bit(32)::integer as account_no,
           ('x' || encode(substr(j.legs, 5 + 12 * place, 8), 'hex'))::bit(64)::bigint as version
      from (select j.* {_WRITTEN}) j
     cross join lateral generate_series(0, length(j.legs) / 12 - 1) place
    offset 0
), touched as (
    select leg.ledger_no, leg.account_no, sum({_DOUBLED}) as doubled,
           count(*) filter (where leg.is_first) as transactions
      from legs leg {_ENTRY} group by leg.ledger_no, leg.account_no
)
select a.currency, a.exponent, sum(t.doubled) as doubled, sum(t.transactions)::bigint as transactions,
       count(*) filter (
           where a.kind = any($4::text[])
             and not coalesce(a.external_reference like any($5::text[]), false)
       ) as customers
  from touched t {_ACCOUNT.format(leg="t")}
 group by a.currency, a.exponent
"""  # noqa: S608 # constants of this file

Legs = tuple[list[int], list[int], list[int], list[bool], list[int]]


def found(
    connection: "PoolConnection", release: str, since: datetime, until: datetime, page: int
) -> "asyncpg.cursor.CursorFactory[Any]":
    """A cursor over the journal's rows of a release, oldest first; within a transaction."""
    return connection.cursor(FOUND + _OLDEST_FIRST, release, since, until, prefetch=page)


async def entries(connection: "PoolConnection", legs: Legs) -> Sequence[Any]:
    """The entries that these legs name, in no order."""
    return await connection.fetch(ENTRIES, *legs)


async def totals(
    connection: "PoolConnection",
    asked: tuple[str, datetime, datetime],
    customer_kinds: Sequence[str],
    own_references: Sequence[str],
) -> Sequence[Any]:
    """What a release touched in a span, one row for each currency; all of it in one statement."""
    beginnings = [f"{reference}%" for reference in own_references]
    return await connection.fetch(TOTALS, *asked, list(customer_kinds), beginnings)
