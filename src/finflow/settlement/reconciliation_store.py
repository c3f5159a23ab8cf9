"""SQL of reconciliation: nostros, what is expected on them, what is reported, and what was matched.

Everything that is open stands in settlement_unmatched as long as it is; nothing else is read to match.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from finflow.kernel.clock import to_datetime
from finflow.ledger.store import Connection
from finflow.settlement.matching import Expected, Line
from finflow.settlement.order_store import HERE

_ADD_NOSTRO: Final = """
insert into settlement_nostros (ledger_no, participant_no, currency, exponent, account, owner, created_at)
values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing
"""
_NOSTROS: Final = """
select n.*, p.name as participant from settlement_nostros n
  join settlement_participants p using (ledger_no, participant_no)
 where ledger_no = $1 order by nostro_no
"""
_LOCK: Final = """
select nostro_no from settlement_nostros where ledger_no = $1 and nostro_no = any($2::integer[])
 order by nostro_no for no key update
"""
_QUEUED: Final = """
queued as (
    insert into settlement_unmatched (ledger_no, nostro_no, movement_no, since)
    select $1, nostro_no, movement_no, since from fresh
)
"""
# A page of a settled cycle's orders: those that a rail with a nostro took and did not refuse. What it sent
# back by a pacs.004 it had taken.
_EXPECT_OUT: Final = f"""
with o as materialized (
    select ledger_no, order_no, payee_no, amount_minor, end_to_end_id, uetr from settlement_orders
     where ledger_no = $1 and cycle_no = $2 and order_no > $3 order by order_no limit $4
),
fresh as (
    insert into settlement_movements (ledger_no, nostro_no, order_no, direction, amount_minor, value_date,
                                      since, uetr, end_to_end_id, batch)
    select $1, n.nostro_no, o.order_no, 'out', -o.amount_minor, c.value_date, $5, o.uetr, o.end_to_end_id,
           s.message_id
      from o
      join settlement_cycles c on c.ledger_no = $1 and c.cycle_no = $2
      join settlement_nostros n
        on n.ledger_no = $1 and n.participant_no = o.payee_no and n.currency = c.currency
      join settlement_participants q on q.ledger_no = $1 and q.participant_no = o.payee_no
      join settlement_submissions s
        on s.ledger_no = $1 and s.cycle_no = $2 and s.attempt = $6 and s.participant_no = o.payee_no
      join settlement_answers a
        on a.ledger_no = $1 and a.cycle_no = $2 and a.attempt = $6 and a.participant_no = o.payee_no
       and a.verdict = 'accepted'
      {HERE}
     where j.code is null and r.kind = 'capture'
       and not exists (
           select from settlement_returns b
            where b.ledger_no = $1 and b.order_no = o.order_no and b.source in ('rail', q.name)
              and not exists (
                  select from settlement_return_messages x
                    join settlement_messages m using (ledger_no, message_no)
                   where x.ledger_no = $1 and x.order_no = o.order_no and m.kind = 'pacs.004'))
    on conflict do nothing returning movement_no, nostro_no, since
), {_QUEUED}
select coalesce((select max(order_no) from o), 0) as last, (select count(*) from o) as orders,
       array(select distinct nostro_no from fresh) as nostros,
       array(select x.order_no from settlement_return_messages x
              where x.ledger_no = $1 and x.order_no = any(select order_no from o)) as returned
"""  # noqa: S608 # constants of the room
_EXPECT_IN: Final = f"""
with fresh as (
    insert into settlement_movements (ledger_no, nostro_no, order_no, direction, amount_minor, value_date,
                                      since, uetr, end_to_end_id, batch)
    select m.ledger_no, m.nostro_no, m.order_no, 'in', -m.amount_minor, coalesce(g.day, m.value_date), $4,
           m.uetr, m.end_to_end_id, $5
      from unnest($2::bigint[], $3::date[]) as g (order_no, day)
      join settlement_movements m on m.ledger_no = $1 and m.order_no = g.order_no and m.direction = 'out'
      left join settlement_matches x on x.ledger_no = m.ledger_no and x.movement_no = m.movement_no
     where x.rule is distinct from 'refused'
    on conflict do nothing returning movement_no, nostro_no, since
), {_QUEUED}
select distinct nostro_no from fresh
"""  # noqa: S608 # constants of the room
_WITHDRAW: Final = """
with gone as (
    delete from settlement_unmatched u using settlement_movements m
     where m.ledger_no = $1 and m.order_no = any($2::bigint[]) and m.direction = 'out'
       and u.ledger_no = m.ledger_no and u.movement_no = m.movement_no
    returning u.movement_no
)
insert into settlement_matches (ledger_no, movement_no, line_no, rule, at)
select $1, movement_no, null, 'refused', $3 from gone
"""
# What another report of the bank has brought under the bank's own reference is not brought again.
_ADD_LINES: Final = """
with fresh as (
    insert into settlement_lines (ledger_no, nostro_no, message_no, line_id, booking, amount_minor,
                                  value_date, since, uetr, end_to_end_id, instruction_id, batch, words)
    select $1, g.nostro_no, $2, g.line_id, g.booking, g.amount_minor, g.value_date, $3, g.uetr,
           g.end_to_end_id, g.instruction_id, g.batch, g.words
      from unnest($4::integer[], $5::text[], $6::text[], $7::bigint[], $8::date[], $9::uuid[], $10::text[],
                  $11::text[], $12::text[], $13::text[])
           as g (nostro_no, line_id, booking, amount_minor, value_date, uetr, end_to_end_id,
                 instruction_id, batch, words)
     where g.booking is null or not exists (
           select from settlement_lines l
            where l.ledger_no = $1 and l.nostro_no = g.nostro_no and l.booking = g.booking
              and l.amount_minor = g.amount_minor and l.message_no <> $2)
    on conflict do nothing returning line_no, nostro_no, since
), queued as (
    insert into settlement_unmatched (ledger_no, nostro_no, line_no, since)
    select $1, nostro_no, line_no, since from fresh
)
select count(*) from fresh
"""
_LINES_BY_ID: Final = """
select line_id, nostro_no, amount_minor, value_date, uetr, end_to_end_id from settlement_lines
 where ledger_no = $1 and line_id = any($2::text[])
"""
_OPEN_MOVEMENTS: Final = """
select m.*, null as line_id from (
    select movement_no from settlement_unmatched
     where ledger_no = $1 and nostro_no = $2 and movement_no is not null
     order by unmatched_no desc limit $3) u
 cross join lateral (
    select * from settlement_movements where ledger_no = $1 and movement_no = u.movement_no offset 0) m
"""
_OPEN_LINES: Final = """
select l.* from (
    select line_no from settlement_unmatched
     where ledger_no = $1 and nostro_no = $2 and line_no is not null
     order by unmatched_no desc limit $3) u
 cross join lateral (
    select * from settlement_lines where ledger_no = $1 and line_no = u.line_no offset 0) l
"""
_SAME_UETR: Final = """
select m.movement_no, l.line_no
  from settlement_unmatched u
  join settlement_movements m on m.ledger_no = $1 and m.movement_no = u.movement_no
  join (settlement_unmatched v
        join settlement_lines k on k.ledger_no = $1 and k.line_no = v.line_no) on v.ledger_no = $1
   and v.nostro_no = $2 and k.uetr = m.uetr
  join settlement_lines l on l.ledger_no = $1 and l.line_no = k.line_no
 where u.ledger_no = $1 and u.nostro_no = $2
   and l.amount_minor = m.amount_minor
 order by m.uetr limit $3
"""
_MOVEMENTS: Final = "select * from settlement_movements where ledger_no = $1 and movement_no = any($2)"
_LINES: Final = "select * from settlement_lines where ledger_no = $1 and line_no = any($2)"
_MATCHED_MOVEMENTS: Final = """
delete from settlement_unmatched where ledger_no = $1 and movement_no = any($2::bigint[])
"""
_MATCHED_LINES: Final = (
    "delete from settlement_unmatched where ledger_no = $1 and line_no = any($2::bigint[])"
)
_ADD_MATCHES: Final = """
insert into settlement_matches (ledger_no, movement_no, line_no, rule, at)
select $1, g.*, $5 from unnest($2::bigint[], $3::bigint[], $4::text[]) as g (movement_no, line_no, rule)
"""
_COUNT: Final = """
insert into settlement_match_counts as c (ledger_no, nostro_no, rule, matched, in_time)
select $1, $2, g.* from unnest($3::text[], $4::bigint[], $5::bigint[]) as g
on conflict (ledger_no, nostro_no, rule) do update
   set matched = c.matched + excluded.matched, in_time = c.in_time + excluded.in_time
"""
_DIFFER: Final = """
update settlement_unmatched u set other_no = g.other_no
  from (select w.unmatched_no, d.other_no
          from settlement_unmatched w
          left join unnest($3::boolean[], $4::bigint[], $5::bigint[]) as d (is_line, number, other_no)
            on d.is_line = (w.line_no is not null) and d.number = coalesce(w.line_no, w.movement_no)
         where w.ledger_no = $1 and w.nostro_no = $2) g
 where u.ledger_no = $1 and u.unmatched_no = g.unmatched_no and u.other_no is distinct from g.other_no
"""


class Nostro(NamedTuple):
    """An account of ours at another bank: whose payments are seen on it, and who looks after its breaks."""

    ledger_no: int
    nostro_no: int
    participant: str
    currency: str
    exponent: int
    account: str
    owner: str
    created_at: dt.datetime


class Found(NamedTuple):
    """One movement that was found in a line."""

    movement_no: int
    line_no: int
    rule: str
    in_time: bool


async def add_nostro(
    connection: Connection,
    ledger_no: int,
    place: tuple[int, str, int],
    account: str,
    owner: str,
    at: int,
) -> None:
    """Keep a nostro, unless its participant has one or its account is taken; `place` is the participant's
    number, the currency and its exponent."""
    await connection.execute(_ADD_NOSTRO, ledger_no, *place, account, owner, to_datetime(at))


async def read_nostros(connection: Connection, ledger_no: int) -> list[Nostro]:
    """All nostros of a ledger in the order of their registration."""
    return [
        Nostro(
            row["ledger_no"], row["nostro_no"], row["participant"], row["currency"], row["exponent"],
            row["account"], row["owner"], row["created_at"],
        )
        for row in await connection.fetch(_NOSTROS, ledger_no)
    ]  # fmt: skip


async def lock_nostros(connection: Connection, ledger_no: int, nostro_nos: Iterable[int]) -> None:
    """Nobody else matches on these, or adds lines to them, until the transaction ends."""
    await connection.fetch(_LOCK, ledger_no, sorted(nostro_nos))


class OutPage(NamedTuple):
    """What became expected by a page of orders: where it ends, how many it had, and on which nostros.

    `returned` are those orders of the page that the rail has sent back already.
    """

    last: int
    orders: int
    nostro_nos: list[int]
    returned: list[int]


async def expect_out(
    connection: Connection, ledger_no: int, cycle_no: int, attempt: int, after: int, limit: int, at: int
) -> OutPage:
    """Expect what a page of a settled cycle's orders moves on nostros; those that are expected stay so."""
    row = await connection.fetchrow(_EXPECT_OUT, ledger_no, cycle_no, after, limit, to_datetime(at), attempt)
    assert row is not None, "a count has a row"
    return OutPage(row["last"], row["orders"], row["nostros"], row["returned"])


async def expect_in(
    connection: Connection, ledger_no: int, days: dict[int, dt.date | None], batch: str | None, at: int
) -> list[int]:
    """Expect back what went out for these orders, on their days; the nostros where that is new."""
    rows = await connection.fetch(
        _EXPECT_IN, ledger_no, list(days), list(days.values()), to_datetime(at), batch
    )
    return [row["nostro_no"] for row in rows]


async def withdraw(connection: Connection, ledger_no: int, order_nos: Sequence[int], at: int) -> None:
    """Expect no longer what the rail has refused after all, unless it was seen to go out."""
    await connection.execute(_WITHDRAW, ledger_no, order_nos, to_datetime(at))


async def add_lines(
    connection: Connection, ledger_no: int, message_no: int, at: int, lines: Sequence[tuple[int, Line]]
) -> int:
    """Keep reported lines with their nostros' numbers; how many are new."""
    rows = [
        (no, each.id, each.booking, each.amount_minor, each.value_date, _uuid(each.uetr), each.end_to_end_id,
         each.instruction_id, each.batch, each.text)
        for no, each in lines
    ]  # fmt: skip
    columns = [list(column) for column in zip(*rows, strict=True)]
    added: int = await connection.fetchval(_ADD_LINES, ledger_no, message_no, to_datetime(at), *columns)
    return added


async def read_lines_by_id(connection: Connection, ledger_no: int, line_ids: Sequence[str]) -> list[Any]:
    """Lines as they are kept under their ids."""
    rows: list[Any] = await connection.fetch(_LINES_BY_ID, ledger_no, line_ids)
    return rows


def _uuid(text: str | None) -> UUID | None:
    return None if text is None else UUID(text)


async def read_open(connection: Connection, nostro: Nostro, limit: int) -> tuple[list[Expected], list[Line]]:
    """The newest movements and lines that are unmatched."""
    place = (nostro.ledger_no, nostro.nostro_no, limit)
    movements = await connection.fetch(_OPEN_MOVEMENTS, *place)
    lines = await connection.fetch(_OPEN_LINES, *place)
    return [_expected(row, nostro) for row in movements], [_line(row, nostro) for row in lines]


async def read_same_uetr(
    connection: Connection, nostro: Nostro, limit: int
) -> tuple[list[Expected], list[Line]]:
    """Unmatched movements and lines that have UETR and amount in common."""
    rows = await connection.fetch(_SAME_UETR, nostro.ledger_no, nostro.nostro_no, limit)
    movement_nos = sorted({row["movement_no"] for row in rows})
    line_nos = sorted({row["line_no"] for row in rows})
    movements = await connection.fetch(_MOVEMENTS, nostro.ledger_no, movement_nos)
    lines = await connection.fetch(_LINES, nostro.ledger_no, line_nos)
    return [_expected(row, nostro) for row in movements], [_line(row, nostro) for row in lines]


def _expected(row: Any, nostro: Nostro) -> Expected:
    return Expected(
        str(row["movement_no"]), nostro.account, nostro.currency, row["amount_minor"], row["value_date"],
        row["since"], _text(row["uetr"]), row["end_to_end_id"], None, row["batch"], nostro.owner,
    )  # fmt: skip


def _line(row: Any, nostro: Nostro) -> Line:
    return Line(
        str(row["line_no"]), nostro.account, nostro.currency, row["amount_minor"], row["value_date"],
        row["since"], _text(row["uetr"]), row["end_to_end_id"], row["instruction_id"], row["batch"],
        row["words"],
    )  # fmt: skip


def _text(uetr: Any) -> str | None:
    return None if uetr is None else str(uetr)


async def keep_matches(connection: Connection, nostro: Nostro, found: Sequence[Found], at: int) -> bool:
    """Keep matches, take them out of the queue and count them; False if somebody else has matched one."""
    ledger_no = nostro.ledger_no
    movements, lines = [each.movement_no for each in found], sorted({each.line_no for each in found})
    gone = await connection.execute(_MATCHED_MOVEMENTS, ledger_no, movements)
    also = await connection.execute(_MATCHED_LINES, ledger_no, lines)
    if (gone, also) != (f"DELETE {len(movements)}", f"DELETE {len(lines)}"):
        return False
    columns = [movements, [each.line_no for each in found], [each.rule for each in found]]
    await connection.execute(_ADD_MATCHES, ledger_no, *columns, to_datetime(at))
    rules = sorted({each.rule for each in found})
    matched = [sum(each.rule == rule for each in found) for rule in rules]
    in_time = [sum(each.rule == rule and each.in_time for each in found) for rule in rules]
    await connection.execute(_COUNT, ledger_no, nostro.nostro_no, rules, matched, in_time)
    return True


async def mark_differing(connection: Connection, nostro: Nostro, pairs: Sequence[tuple[int, int]]) -> None:
    """Keep which open movements and lines are one payment with two amounts; all others are no more."""
    both = [(False, *pair) for pair in pairs] + [(True, line, movement) for movement, line in pairs]
    columns = [[each[place] for each in both] for place in range(3)]
    await connection.execute(_DIFFER, nostro.ledger_no, nostro.nostro_no, *columns)
