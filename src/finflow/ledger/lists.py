"""Lists of transactions, holds and changes: which index serves which filter, and where a page ends.

Every page is one walk along one index, from a position on, in one direction. A filter that the index does
not know is applied on the way, over at most WINDOW rows: a page may therefore be shorter than its limit,
or empty, and still name the position where the next one goes on. So a page costs the same in a ledger of
ten million entries as in one of ten. Positions never move, so rows that arrive meanwhile disturb nothing.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

import msgspec

from finflow.kernel.clock import to_datetime
from finflow.ledger.book import Entry, Record
from finflow.ledger.store import JOURNAL_COLUMNS, Connection, entry_from_row, read_records

T = TypeVar("T")

WINDOW: Final = 2_000
END: Final = 1 << 62

Status = Literal["posted", "pending", "voided", "expired", "reversed"]
Kind = Literal["post", "hold", "capture", "void", "expire", "reverse"]
CHANGES: Final = ["open_account", "change_account", "declare_asset"]


class Page(NamedTuple, Generic[T]):
    """Items, and the position of the last row that was looked at if there may be more behind it."""

    items: list[T]
    next: int | None

    @staticmethod
    def of(found: list[T], span: "Span", positions: list[int]) -> "Page[T]":
        """The page of rows that were asked for with one more than the limit."""
        if len(found) <= span.limit:
            return Page(found, None)
        return Page(found[: span.limit], positions[span.limit - 1])


class Span(NamedTuple):
    """What part of a list is asked for: from which position on (None: its start), which way, how much."""

    after: int | None = None
    newest: bool = False
    limit: int = 50

    def within(self, low: int, high: int) -> tuple[int, int]:
        """The bounds of an index walk, both exclusive."""
        if self.after is None:
            return low, high
        return (low, min(high, self.after)) if self.newest else (max(low, self.after), high)


class TransactionFilter(msgspec.Struct, frozen=True):
    """Which transactions; None: all. Times in microseconds, from inclusive, before exclusive."""

    account_no: int | None = None
    reference: str | None = None
    status: Status | None = None
    kind: Kind | None = None
    effective_from: int | None = None
    effective_before: int | None = None
    recorded_from: int | None = None
    recorded_before: int | None = None
    after_seq: int = 0

    @property
    def dates(self) -> tuple[int | None, int | None, int | None, int | None]:
        return self.effective_from, self.effective_before, self.recorded_from, self.recorded_before


# Each walk yields (position, seq) in the order of its index. Positions are versions by account, else seqs.
# $1 ledger, $2 and $3 the bounds, $4 the window, $5 what the index begins with after the ledger.
_BY_ACCOUNT: Final = """
select version as position, seq from entries
 where ledger_no = $1 and account_no = $5::integer and version > $2 and version < $3
 order by version {direction} limit $4
"""
_BY_HOLD: Final = """
select version as position, seq from entries
 where ledger_no = $1 and account_no = $5::integer and version > $2 and version < $3 and held <> 0
 order by version {direction} limit $4
"""
_BY_REFERENCE: Final = """
select seq as position, seq from journal
 where ledger_no = $1 and reference = $5::text and seq > $2 and seq < $3
 order by seq {direction} limit $4
"""
# One walk along journal_by_kind for each kind, merged.
_BY_KIND: Final = """
select w.seq as position, w.seq from unnest($5::text[]) as wanted (kind)
 cross join lateral (
     select seq from journal j
      where j.ledger_no = $1 and j.kind = wanted.kind and j.kind <> 'post' and j.seq > $2 and j.seq < $3
      order by j.seq {direction} limit $4
 ) w
 order by w.seq {direction} limit $4
"""
# What was resolved or reversed, in the order of what it happened to: journal_by_target.
_BY_TARGET: Final = """
select target as position, target as seq from journal
 where ledger_no = $1 and target > $2 and target < $3 and target is not null and code is null
   and $5::text is null
 order by target {direction} limit $4
"""
_BY_SEQ: Final = """
select seq as position, seq from journal
 where ledger_no = $1 and seq > $2 and seq < $3 and $5::text is null
 order by seq {direction} limit $4
"""
# OFFSET 0 keeps each lookup a lookup: the walk stays in order and stops as soon as the page is full.
_FILTERED: Final = f"""
select c.position, {JOURNAL_COLUMNS} from ({{walk}}) c
 cross join lateral (select * from journal where ledger_no = $1 and seq = c.seq offset 0) j
  left join lateral (
      select r.kind from journal r
       where $9::text is not null and r.ledger_no = $1 and r.target = c.seq and r.code is null offset 0
  ) r on true
  left join lateral (
      select coalesce(e.late_at, e.effective_max) as effective_at from entries e
       where ($10::timestamptz is not null or $11::timestamptz is not null) and e.ledger_no = $1
         and e.account_no = ('x' || encode(substr(j.legs, 1, 4), 'hex'))::bit(32)::integer
         and e.version = ('x' || encode(substr(j.legs, 5, 8), 'hex'))::bit(64)::bigint offset 0
  ) e on true
 where j.code is null and j.legs is not null
   and j.kind = any(array['post', 'hold', 'capture', 'void', 'expire', 'reverse'])
   and ($7::text is null or j.reference = $7)
   and ($8::text[] is null or j.kind = any($8))
   and ($9::text is null or $9 = case coalesce(r.kind, j.kind)
        when 'hold' then 'pending' when 'void' then 'voided' when 'expire' then 'expired'
        when 'reverse' then case when r.kind is null then 'posted' else 'reversed' end
        else 'posted' end)
   and ($10::timestamptz is null or e.effective_at >= $10)
   and ($11::timestamptz is null or e.effective_at < $11) {{once}}
 order by c.position {{direction}} limit $6
"""  # noqa: S608 # constants
# A transaction with several entries on one account is listed at the last of them. OFFSET 0 again: under
# row-level security the planner would rather join with all the entries of the account.
_ONCE: Final = """
   and not exists (
       select from entries n
        where n.ledger_no = $1 and n.account_no = $5 and n.version = c.position + 1 and n.seq = c.seq
       offset 0
   )
"""
_HOLDS: Final = """
select c.position, e.*, j.kind, j.recorded_at, j.expires_at, j.reference from ({walk}) c
 cross join lateral (
     select * from entries where ledger_no = $1 and account_no = $5 and version = c.position offset 0
 ) e
 cross join lateral (select * from journal where ledger_no = $1 and seq = c.seq offset 0) j
 where j.kind = 'hold' and j.code is null
   and not exists (
       select from journal r where r.ledger_no = $1 and r.target = c.seq and r.code is null offset 0
   )
 order by c.position {direction} limit $6
"""
_CHANGES: Final = f"""
select c.position, {JOURNAL_COLUMNS} from ({{walk}}) c
 cross join lateral (select * from journal where ledger_no = $1 and seq = c.seq offset 0) j
 order by c.position {{direction}} limit $6
"""  # noqa: S608 # constants
# The same window once more, for the position of its last row: only asked where a page did not fill.
_WINDOW_END: Final = "select position from ({walk}) c order by position {direction} offset $4 - 1 limit 1"

_SEQ_BOUNDS: Final = """
select case when $2::timestamptz is null then 0 else seq_at_time($1, $2) end as low,
       case when $3::timestamptz is null then $4::bigint else seq_at_time($1, $3) + 1 end as high
"""
# Value dates of an account rise with its versions but for the late ones, which entries_late knows.
_VERSION_BOUNDS: Final = """
select greatest(version_at_seq($1, $2, $3),
                case when $5::timestamptz is null then 0 else version_at_value_date($1, $2, $5) end) as low,
       least(case when $4::bigint >= $7::bigint then $7 else version_at_seq($1, $2, $4 - 1) + 1 end,
             case when $6::timestamptz is null then $7 else 1 + greatest(
                 version_at_value_date($1, $2, $6),
                 coalesce((select version from entries
                            where ledger_no = $1 and account_no = $2 and late_at <= $6
                            order by version desc limit 1), 0)) end) as high
"""


class Walk(NamedTuple):
    """One index, what it begins with after the ledger, and the bounds of the walk along it."""

    sql: str
    key: int | str | list[str] | None
    low: int
    high: int


async def read_transactions(
    connection: Connection, ledger_no: int, wanted: TransactionFilter, span: Span
) -> Page[Record]:
    """A page of accepted transactions, not whole; the index is chosen by what the filter names."""
    kinds = _KINDS_OF.get(wanted.status or "")
    if wanted.kind is not None:
        kinds = [wanted.kind]
    sql, key = _index(wanted, kinds)
    walk = Walk(sql, key, *await _bounds(connection, ledger_no, wanted))
    rest = (
        wanted.reference, kinds, wanted.status,
        _moment(wanted.effective_from), _moment(wanted.effective_before),
    )  # fmt: skip
    once = _ONCE if wanted.account_no is not None else ""
    rows, after = await _page(connection, ledger_no, _FILTERED.replace("{once}", once), walk, span, rest)
    return Page(await read_records(connection, ledger_no, rows, whole=False), after)


async def read_holds(
    connection: Connection, ledger_no: int, account_no: int, span: Span
) -> Page[tuple[Entry, Any]]:
    """Entries of an account that hold an amount which nothing has resolved yet, each with its row."""
    walk = Walk(_BY_HOLD, account_no, 0, END)
    rows, after = await _page(connection, ledger_no, _HOLDS, walk, span, ())
    return Page([(entry_from_row(row), row) for row in rows], after)


async def read_changes(connection: Connection, ledger_no: int, span: Span) -> Page[Record]:
    """What was asked of accounts and assets, refusals included."""
    rows, after = await _page(connection, ledger_no, _CHANGES, Walk(_BY_KIND, CHANGES, 0, END), span, ())
    return Page(await read_records(connection, ledger_no, rows), after)


async def _page(
    connection: Connection, ledger_no: int, sql: str, walk: Walk, span: Span, rest: tuple[Any, ...]
) -> tuple[Sequence[Any], int | None]:
    """The page's rows, and where the next page goes on: behind its last row or, short, behind the window."""
    direction = "desc" if span.newest else "asc"
    text = {"walk": walk.sql.format(direction=direction), "direction": direction}
    walked = (ledger_no, *span.within(walk.low, walk.high), WINDOW, walk.key)
    rows = await connection.fetch(sql.format(**text), *walked, span.limit + 1, *rest)
    if len(rows) > span.limit:
        return rows[:-1], rows[-2]["position"]
    return rows, await connection.fetchval(_WINDOW_END.format(**text), *walked)


def _index(wanted: TransactionFilter, kinds: list[str] | None) -> tuple[str, int | str | list[str] | None]:
    if wanted.account_no is not None:
        return _BY_ACCOUNT, wanted.account_no
    if wanted.reference is not None:
        return _BY_REFERENCE, wanted.reference
    if kinds is not None and "post" not in kinds:
        return _BY_KIND, kinds
    return (_BY_TARGET if wanted.status == "reversed" else _BY_SEQ), None


# Which kinds can have a status that few transactions have.
_KINDS_OF: Final[dict[str, list[str]]] = {
    "pending": ["hold"],
    "voided": ["hold", "void"],
    "expired": ["hold", "expire"],
}


async def _bounds(connection: Connection, ledger_no: int, wanted: TransactionFilter) -> tuple[int, int]:
    """The part of the walk that the dates leave, both ends exclusive."""
    low = wanted.after_seq
    if wanted.account_no is None and wanted.recorded_from is None and wanted.recorded_before is None:
        return low, END
    if not low and all(at is None for at in wanted.dates):
        return 0, END
    dates = [None if at is None else to_datetime(at - 1) for at in wanted.dates]
    found = await connection.fetchrow(_SEQ_BOUNDS, ledger_no, *dates[2:], END)
    assert found is not None, "a select of values has a row"
    low = max(low, found["low"])
    if wanted.account_no is None:
        return low, found["high"]
    by_account = (ledger_no, wanted.account_no, low, found["high"], *dates[:2], END)
    found = await connection.fetchrow(_VERSION_BOUNDS, *by_account)
    assert found is not None, "a select of values has a row"
    return found["low"], found["high"]


def _moment(at: int | None) -> datetime | None:
    return None if at is None else to_datetime(at)
