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

FOUND: Final = """
with spans as materialized (
    select h.ledger_no, l.created_at as ledger_created_at,
           seq_at_time(h.ledger_no, $2::timestamptz - interval '1 microsecond') as low,
           seq_at_time(h.ledger_no, $3::timestamptz - interval '1 microsecond') as high
      from heads h join ledgers l using (ledger_no)
)
select s.ledger_created_at, j.* from spans s cross join lateral (
    select ledger_no, seq, recorded_at, kind, key, caller, legs from journal
     where ledger_no = s.ledger_no and seq > s.low and seq <= s.high
       and release = $1 and code is null and legs is not null
       and kind in ('post', 'hold', 'capture', 'void', 'expire', 'reverse') offset 0
) j
 where s.low < s.high
"""
_OLDEST_FIRST: Final = " order by j.recorded_at, j.ledger_no, j.seq"

# An entry counts by what it books, or where its transaction only holds or releases, by what it holds; of a
# balanced transaction the debits are the half of all that it holds.
_NAMED: Final = """
  from unnest($1::integer[], $2::integer[], $3::bigint[], $4::boolean[], $5::integer[])
       as leg (ledger_no, account_no, version, booked, place)
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
_COLUMNS: Final = "a.created_at, a.kind, a.external_reference, a.currency, a.exponent"
ENTRIES: Final = f"""
select leg.ledger_no, leg.account_no, leg.place, {_COLUMNS},
       case when leg.booked then 2 * greatest(e.amount, 0)::numeric else abs(e.held::numeric) end as doubled
{_NAMED} {_ACCOUNT.format(leg="leg")}
 order by leg.place
"""
TOTALS: Final = f"""
select t.ledger_no, t.account_no, {_COLUMNS}, t.doubled from (
    select leg.ledger_no, leg.account_no, sum(case when leg.booked then 2 * greatest(e.amount, 0)::numeric
                                              else abs(e.held::numeric) end) as doubled
    {_NAMED} group by leg.ledger_no, leg.account_no
) t {_ACCOUNT.format(leg="t")}
"""  # noqa: S608 # constants of this file

Legs = tuple[list[int], list[int], list[int], list[bool], list[int]]


def found(
    connection: "PoolConnection", release: str, since: datetime, until: datetime, page: int, ordered: bool
) -> "asyncpg.cursor.CursorFactory[Any]":
    """A cursor over the journal's rows of a release; within a transaction."""
    return connection.cursor(FOUND + _OLDEST_FIRST * ordered, release, since, until, prefetch=page)


async def entries(connection: "PoolConnection", legs: Legs) -> Sequence[Any]:
    """The entries that these legs name, by place."""
    return await connection.fetch(ENTRIES, *legs)


async def totals(connection: "PoolConnection", legs: Legs) -> Sequence[Any]:
    """One row for each account that these legs name, with twice the money that they moved on it."""
    return await connection.fetch(TOTALS, *legs)
