"""The invariants' SQL: what of the books is not as it must be. Every statement names what it finds, bounded.

`$1` is a ledger, and seqs are (low, high]. OFFSET 0 keeps the planner to looking each entry up.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from finflow.db.pool import PoolConnection

MOST: Final = 5

_HEADS: Final = """
select h.ledger_no, h.seq, h.account_no, l.created_at,
       coalesce((select seq from journal j
                  where j.ledger_no = h.ledger_no order by seq desc limit 1), 0) as last
  from heads h join ledgers l using (ledger_no) order by h.ledger_no
"""
_HEADLESS: Final = (
    "select ledger_no from ledgers l where not exists (select from heads h where h.ledger_no = l.ledger_no)"
)
# Keys stay unique by an index: without it, or with one that is not valid, nobody can say that they are.
_UNIQUE_KEYS: Final = """
select exists (
    select from pg_index i
     where i.indrelid = 'journal'::regclass and i.indisunique and i.indisvalid and i.indpred is null
       and (select array_agg(a.attname::text order by k.place)
              from unnest(i.indkey::smallint[]) with ordinality k (attnum, place)
              join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum)
           = array['ledger_no', 'key']
)
"""
_GAP: Final = """
select gap from (
    select seq, lag(seq, 1, $2::bigint) over (order by seq) + 1 as gap from journal
     where ledger_no = $1 and seq > $2 and seq <= $3
) j where seq <> gap
union all
select coalesce(max(seq), $2) + 1 from journal where ledger_no = $1 and seq > $2 and seq <= $3
having coalesce(max(seq), $2) < $3
limit 1
"""
_TWICE: Final = """
select key, min(seq) as seq, max(seq) as again from journal
 where ledger_no = $1 and seq > $2 and seq <= $3 group by key having count(*) > 1 order by 3 limit 5
"""
_LEGS: Final = (
    "select seq, legs from journal where ledger_no = $1 and seq > $2 and seq <= $3 and legs is not null"
)
_WRONG: Final = """
with named as materialized (
    select leg.seq, leg.account_no, leg.version, e.seq as entry_seq, a.currency, e.amount, e.held,
           p.version is null and leg.version > 1 as orphan,
           e.posted_debits - e.posted_credits as posted, e.pending_debits - e.pending_credits as pending,
           coalesce(p.posted_debits - p.posted_credits, 0) as posted_before,
           coalesce(p.pending_debits - p.pending_credits, 0) as pending_before
      from unnest($2::bigint[], $3::integer[], $4::bigint[]) as leg (seq, account_no, version)
      left join lateral (
          select * from entries where ledger_no = $1 and account_no = leg.account_no and version = leg.version
          offset 0
      ) e on true
      left join lateral (
          select * from entries
           where ledger_no = $1 and account_no = leg.account_no and version = leg.version - 1 offset 0
      ) p on true
      left join lateral (
          select currency from accounts where ledger_no = $1 and account_no = leg.account_no offset 0
      ) a on true
)
(select seq, account_no, version,
        case when entry_seq is null then 'missing' when entry_seq <> seq then 'of another transaction'
             when currency is null then 'without account' when orphan then 'after a gap in its versions'
             else 'not what the one before and its amount make' end as what
   from named
  where entry_seq is distinct from seq or currency is null or orphan
     or posted <> posted_before + amount or pending <> pending_before + held
  order by seq limit 5)
union all
(select seq, null, null, 'sum of ' || currency || ' is ' || sum(amount) || ' booked, ' || sum(held) || ' held'
   from named where currency is not null group by seq, currency
 having sum(amount) <> 0 or sum(held) <> 0 order by seq limit 5)
"""
_NEWEST: Final = """
  from accounts a cross join lateral (
      select * from entries n where n.ledger_no = a.ledger_no and n.account_no = a.account_no
       order by n.version desc limit 1
  ) e
 where a.ledger_no = $1
"""
_TRIAL: Final = f"""
select a.currency, sum(e.posted_debits::numeric - e.posted_credits) as posted,
       sum(e.pending_debits::numeric - e.pending_credits) as pending
{_NEWEST} group by a.currency
having sum(e.posted_debits::numeric - e.posted_credits) <> 0
    or sum(e.pending_debits::numeric - e.pending_credits) <> 0
"""
_LOW: Final = f"""
select a.account_no, e.seq {_NEWEST} and ($2::integer[] is null or a.account_no = any($2))
   and a.normal * (e.posted_debits::numeric - e.posted_credits)
       - case when a.normal = 1 then e.pending_credits else e.pending_debits end < a.floor
 order by a.account_no limit 5
"""


async def heads(connection: "PoolConnection") -> Sequence[Any]:
    """Each ledger's head, and the last seq that its journal has."""
    return await connection.fetch(_HEADS)


async def headless(connection: "PoolConnection") -> list[int]:
    """Ledgers without a head."""
    return [row[0] for row in await connection.fetch(_HEADLESS)]


async def keys_are_unique(connection: "PoolConnection") -> bool:
    """Whether the index stands that keeps idempotency keys unique."""
    return bool(await connection.fetchval(_UNIQUE_KEYS))


async def first_gap(connection: "PoolConnection", ledger_no: int, low: int, high: int) -> int | None:
    """The first seq that is missing, or is there twice."""
    found: int | None = await connection.fetchval(_GAP, ledger_no, low, high)
    return found


async def keys_twice(connection: "PoolConnection", ledger_no: int, low: int, high: int) -> Sequence[Any]:
    """Keys that stand twice among these rows."""
    return await connection.fetch(_TWICE, ledger_no, low, high)


async def legs(connection: "PoolConnection", ledger_no: int, low: int, high: int) -> Sequence[Any]:
    """Which entries these rows name."""
    return await connection.fetch(_LEGS, ledger_no, low, high)


async def wrong_entries(
    connection: "PoolConnection", ledger_no: int, named: tuple[list[int], list[int], list[int]]
) -> Sequence[Any]:
    """Of (seq, account, version) those whose entry is not there, not theirs, or does not add up."""
    return await connection.fetch(_WRONG, ledger_no, *named)


async def trial_balance(connection: "PoolConnection", ledger_no: int) -> Sequence[Any]:
    """Currencies whose debits and credits, over all accounts, are not equal."""
    return await connection.fetch(_TRIAL, ledger_no)


async def below_floor(
    connection: "PoolConnection", ledger_no: int, account_nos: list[int] | None
) -> Sequence[Any]:
    """Accounts, of these or of all, whose available balance is below their floor."""
    return await connection.fetch(_LOW, ledger_no, account_nos)
