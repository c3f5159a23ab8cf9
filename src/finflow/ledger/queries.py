"""Reads for people and other rooms. None of them takes a lock, none of them decides anything."""

from collections.abc import Sequence
from typing import Any, Final

from finflow.kernel.clock import to_datetime, to_micros
from finflow.ledger.book import Account, Entry, Record
from finflow.ledger.directory import read_ledger
from finflow.ledger.lists import END, Page, Span
from finflow.ledger.store import (
    ACCOUNT_COLUMNS,
    JOURNAL_COLUMNS,
    NEWEST_ENTRY,
    Connection,
    account_from_row,
    bare_record,
    entry_from_row,
    read_records,
)
from finflow.ledger.views import LedgerView

_ACCOUNT_PAGE: Final = f"""
select {ACCOUNT_COLUMNS} from accounts a {NEWEST_ENTRY}
 where a.ledger_no = $1 and a.account_no > $2
 order by a.account_no limit $3
"""  # noqa: S608 # constants
_ACCOUNT_BY_REFERENCE: Final = f"""
select {ACCOUNT_COLUMNS} from accounts a {NEWEST_ENTRY}
 where a.ledger_no = $1 and a.external_reference = $2
"""  # noqa: S608 # constants
_ACCOUNT_AT_VERSION: Final = f"""
select {ACCOUNT_COLUMNS}, e.seq as entry_seq from accounts a
  left join entries e on e.ledger_no = a.ledger_no and e.account_no = a.account_no and e.version = {{version}}
 where a.ledger_no = $1 and a.account_no = $2
"""  # noqa: S608 # constants
_AT_SEQ: Final = _ACCOUNT_AT_VERSION.format(version="(select version_at_seq($1, $2, $3))")
_AT_TIME: Final = _ACCOUNT_AT_VERSION.format(version="(select version_at_seq($1, $2, seq_at_time($1, $3)))")
_AT_VALUE_DATE: Final = _ACCOUNT_AT_VERSION.format(version="(select version_at_value_date($1, $2, $3))")
_NEWEST: Final = f"""
select {ACCOUNT_COLUMNS}, e.seq as entry_seq from accounts a {NEWEST_ENTRY}
 where a.ledger_no = $1 and a.account_no = $2
"""  # noqa: S608 # constants
# Entries that came late, with a value date before the moment asked for: what each changed is its totals
# less those of the version before it, which always exists, since a first entry cannot be late.
_LATE_SUMS: Final = """
select coalesce(sum(e.posted_debits - p.posted_debits), 0)::bigint,
       coalesce(sum(e.posted_credits - p.posted_credits), 0)::bigint
  from entries e
  join entries p on p.ledger_no = e.ledger_no and p.account_no = e.account_no and p.version = e.version - 1
 where e.ledger_no = $1 and e.account_no = $2 and e.version > $3 and e.late_at <= $4
"""
_ENTRY_PAGE: Final = """
select e.*, j.kind, j.recorded_at from entries e
  join journal j on j.ledger_no = e.ledger_no and j.seq = e.seq
 where e.ledger_no = $1 and e.account_no = $2 and e.version > $3 and e.version < $4
 order by e.version {direction} limit $5
"""
_JOURNAL_PAGE: Final = f"""
select {JOURNAL_COLUMNS} from journal j
 where ledger_no = $1 and seq > $2 order by seq limit $3
"""  # noqa: S608 # constants
_WITH_TARGETS: Final = f"""
select {JOURNAL_COLUMNS} from journal j where ledger_no = $1 and seq = any($2::bigint[])
union all
select {JOURNAL_COLUMNS} from journal j where ledger_no = $1 and target = any($3::bigint[]) and code is null
"""  # noqa: S608 # constants
_TRIAL_BALANCE: Final = """
select h.seq, t.* from heads h left join lateral (
select a.currency, a.exponent,
       coalesce(sum(e.posted_debits), 0) as posted_debits,
       coalesce(sum(e.posted_credits), 0) as posted_credits,
       coalesce(sum(e.pending_debits), 0) as pending_debits,
       coalesce(sum(e.pending_credits), 0) as pending_credits
  from accounts a
  left join lateral (
      select * from entries n where n.ledger_no = a.ledger_no and n.account_no = a.account_no
       order by n.version desc limit 1
  ) e on true
 where a.ledger_no = h.ledger_no group by a.currency, a.exponent
) t on true where h.ledger_no = $1 order by t.currency
"""
_DUE_LEDGERS: Final = """
select l.ledger_no from ledgers l where exists (
    select from journal j
     where j.ledger_no = l.ledger_no and j.expires_at > $1 and j.expires_at <= $2 and j.code is null
       and not exists (
           select from journal r where r.ledger_no = j.ledger_no and r.target = j.seq and r.code is null
       )
)
"""
_EXPIRING: Final = """
select j.ledger_no, j.seq, j.recorded_at, j.expires_at from journal j
 where j.ledger_no = $1 and j.expires_at > $2 and j.expires_at <= $3 and j.code is null
   and not exists (
       select from journal r where r.ledger_no = j.ledger_no and r.target = j.seq and r.code is null
   )
 order by j.expires_at limit $4
"""


async def read_due_ledgers(connection: Connection, after: int, upto: int) -> list[LedgerView]:
    """Ledgers with open holds whose timeout lies in (after, upto]: one look into each one's index."""
    due = await connection.fetch(_DUE_LEDGERS, to_datetime(after), to_datetime(upto))
    found = [await read_ledger(connection, row["ledger_no"]) for row in due]
    return [ledger for ledger in found if ledger is not None]


async def read_account(connection: Connection, ledger_no: int, account_no: int) -> tuple[Account, int] | None:
    """An account with its newest totals, and the `seq` of its newest entry (0: none yet)."""
    return _with_seq(await connection.fetchrow(_NEWEST, ledger_no, account_no))


async def read_account_at_seq(
    connection: Connection, ledger_no: int, account_no: int, seq: int
) -> tuple[Account, int] | None:
    return _with_seq(await connection.fetchrow(_AT_SEQ, ledger_no, account_no, seq))


async def read_account_at_time(
    connection: Connection, ledger_no: int, account_no: int, at: int
) -> tuple[Account, int] | None:
    """As the books stood at a booking time, in microseconds."""
    return _with_seq(await connection.fetchrow(_AT_TIME, ledger_no, account_no, to_datetime(at)))


async def read_account_at_value_date(
    connection: Connection, ledger_no: int, account_no: int, at: int
) -> tuple[Account, int] | None:
    """Everything booked so far whose value date is not after `at`, late entries included.

    Holds have no value date, only what is booked has: pending totals are zero here.
    """
    moment = to_datetime(at)
    found = _with_seq(await connection.fetchrow(_AT_VALUE_DATE, ledger_no, account_no, moment))
    if found is not None:
        account = found[0]
        late = await connection.fetchrow(_LATE_SUMS, ledger_no, account_no, account.version, moment)
        assert late is not None, "a sum always has a row"
        account.posted_debits += late[0]
        account.posted_credits += late[1]
        account.pending_debits = account.pending_credits = 0
    return found


def _with_seq(row: Any) -> tuple[Account, int] | None:
    return None if row is None else (account_from_row(row), row["entry_seq"] or 0)


async def read_accounts(connection: Connection, ledger_no: int, span: Span) -> Page[Account]:
    """Accounts in the order of their opening."""
    rows = await connection.fetch(_ACCOUNT_PAGE, ledger_no, span.after or 0, span.limit + 1)
    found = [account_from_row(row) for row in rows]
    return Page.of(found, span, [account.account_no for account in found])


async def read_account_by_reference(connection: Connection, ledger_no: int, reference: str) -> list[Account]:
    return [
        account_from_row(row) for row in await connection.fetch(_ACCOUNT_BY_REFERENCE, ledger_no, reference)
    ]


async def read_entries(
    connection: Connection, ledger_no: int, account_no: int, span: Span
) -> Page[tuple[Entry, Any, int]]:
    """Entries by version, each with its record's kind and booking time."""
    sql = _ENTRY_PAGE.format(direction="desc" if span.newest else "asc")
    rows = await connection.fetch(sql, ledger_no, account_no, *span.within(0, END), span.limit + 1)
    found = [(entry_from_row(row), row["kind"], to_micros(row["recorded_at"])) for row in rows]
    return Page.of(found, span, [row["version"] for row in rows])


async def read_journal(connection: Connection, ledger_no: int, after_seq: int, limit: int) -> list[Record]:
    """The journal from a cursor on, refusals included: what another release decides again."""
    rows = await connection.fetch(_JOURNAL_PAGE, ledger_no, after_seq, limit)
    return await read_records(connection, ledger_no, rows)


async def read_with_relatives(
    connection: Connection, ledger_no: int, seqs: Sequence[int], targets: Sequence[int]
) -> list[Record]:
    """Records by `seq`, and the accepted records that resolved or reversed `targets`; not whole."""
    rows = await connection.fetch(_WITH_TARGETS, ledger_no, seqs, targets)
    return await read_records(connection, ledger_no, rows, whole=False)


async def read_relatives(
    connection: Connection, ledger_no: int, seqs: Sequence[int], targets: Sequence[int]
) -> list[Record]:
    """As `read_with_relatives`, without entries: enough to name them."""
    rows = await connection.fetch(_WITH_TARGETS, ledger_no, seqs, targets)
    return [bare_record(row) for row in rows]


async def read_trial_balance(connection: Connection, ledger_no: int) -> Sequence[Any]:
    """Per currency: exponent and totals over the newest entries; every row has the head's `seq`, and
    of a ledger without accounts there is one row without a currency.
    """
    rows: Sequence[Any] = await connection.fetch(_TRIAL_BALANCE, ledger_no)
    return rows


async def read_expiring(
    connection: Connection, ledger_no: int, after: int, upto: int, limit: int
) -> Sequence[Any]:
    """Open holds whose timeout lies in (after, upto], in microseconds: seq, recorded_at, expires_at."""
    bounds = (to_datetime(after), to_datetime(upto))
    rows: Sequence[Any] = await connection.fetch(_EXPIRING, ledger_no, *bounds, limit)
    return rows
