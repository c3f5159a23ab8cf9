"""SQL of settlement audits: everything about orders by one statement, whatever tables it lies in.

One statement serves one audit or hundreds. Its parts are found by keys: an order's transactions by the keys
that settlement gives them and by what they resolved, their entries by the legs that the journal names.
OFFSET 0 leaves the planner nothing but to look each row up, however small it thinks a table is.
"""

from collections.abc import Sequence
from typing import Final

from finflow.ledger.store import Connection
from finflow.settlement.order_reads import VIEWS, OrderRow

# What stands under the journal's `legs`: pairs of a 4-byte account number and an 8-byte version.
_LEG: Final = """
generate_series(0, coalesce(length(b.legs), 0) / 12 - 1) as place
cross join lateral (
    select ('x' || encode(substr(b.legs, place * 12 + 1, 4), 'hex'))::bit(32)::integer as account_no,
           ('x' || encode(substr(b.legs, place * 12 + 5, 8), 'hex'))::bit(64)::bigint as version offset 0
) leg
"""
# What the statement of the orders has found already: of the journal of each order's own ledger, and to which
# rail the order goes, 0 for none.
_AT_HOME: Final = """,
j.kind as pay_kind, j.code as pay_code, j.legs as pay_legs, r.kind as end_kind, r.legs as end_legs,
z.kind as return_kind, z.legs as return_legs,
case y.kind when 'rail' then o.payee_no else 0 end as rail_no, case y.kind when 'rail' then y.name end as rail
"""
# What people are shown of it; rows of fewer columns are read in less time.
_SHOWN: Final = """
o.ledger_no, o.order_no, o.cycle_no, o.accepted_at, o.payer_account, o.payee_account, o.peer_ledger_no,
o.currency, o.exponent, o.amount_minor, o.end_to_end_id, o.uetr, o.details, o.status, o.code, o.pay_seq,
o.pay_at, o.end_seq, o.end_at, o.return_seq, o.return_at, o.payer_at, o.payee_at, o.payer, o.payee,
o.cycle_opened_at
"""
_HOME: Final = """
select o.ledger_no as home_no, o.order_no, o.ledger_no, b.*
  from o cross join lateral (values
      (o.pay_seq, o.pay_at, o.pay_kind, o.pay_code, o.pay_legs),
      (o.end_seq, o.end_at, o.end_kind, null, o.end_legs),
      (o.return_seq, o.return_at, o.return_kind, null, o.return_legs)
  ) b (seq, recorded_at, kind, code, legs)
 where b.seq is not null
"""
# Which order it belongs to, then the journal row. `part` is where the rows of one step come from.
_STEP: Final = """
select p.home_no, p.order_no, j.* from {part} p cross join lateral (
    select ledger_no, seq, recorded_at, kind, code, legs from journal where {found} offset 0) j
"""
_BY_KEY: Final = "ledger_no = p.ledger_no and key = '§order:' || p.home_no || '.' || p.order_no || '{suffix}'"
_RESOLVED: Final = "ledger_no = p.ledger_no and target = p.seq and code is null"


def _step(part: str, found: str) -> str:
    return _STEP.format(part=part, found=found)


# Numbers alone: arrays of them are made and read in half of the time that JSON takes.
_ENTRIES: Final = f"""
select array_agg(array[
           place, n.account_no, (extract(epoch from a.created_at) * 1000000)::bigint, a.exponent, a.normal,
           n.version, n.amount, n.held, n.posted_debits - n.posted_credits]) as rows
  from {_LEG}
 cross join lateral (
     select * from entries where ledger_no = b.ledger_no and account_no = leg.account_no
        and version = leg.version offset 0) n
 cross join lateral (
     select * from accounts where ledger_no = b.ledger_no and account_no = leg.account_no offset 0) a
"""  # noqa: S608 # constants of this file
# What all orders of a cycle share, of those to one rail also what that was sent: found once for all of them.
_STEPS: Final = """
select json_agg(json_build_object('action', s.action, 'at', s.at, 'evidence', s.evidence,
                                  'attempt', s.attempt) order by s.step_no)
  from settlement_steps s where s.ledger_no = o.ledger_no and s.cycle_no = o.cycle_no
"""
_POSITIONS: Final = """
select json_agg(json_build_object(
           'participant', case p.participant_no when o.payer_no then o.payer else o.payee end,
           'payable', p.payable_minor, 'receivable', p.receivable_minor,
           'net', p.net_minor, 'obligations', p.obligations) order by p.participant_no)
  from settlement_positions p
 where p.ledger_no = o.ledger_no and p.cycle_no = o.cycle_no and p.participant_no in (o.payer_no, o.payee_no)
"""
_SUBMISSIONS: Final = """
select json_agg(json_build_object(
           'attempt', s.attempt, 'rail', case s.participant_no when 0 then 'ledger' else o.rail end,
           'message_id', s.message_id, 'orders', s.orders, 'sent_at', s.sent_at, 'verdict', a.verdict,
           'detail', a.detail) order by s.attempt, s.participant_no)
  from settlement_submissions s
  left join settlement_answers a using (ledger_no, cycle_no, attempt, participant_no)
 where s.ledger_no = o.ledger_no and s.cycle_no = o.cycle_no and s.participant_no in (0, o.rail_no)
"""
# The message that brought the order, those that carried it to a rail, and those that spoke of it: of its
# submission, or, where payments come back one by one, of itself. A message's orders have its number in their
# keys, which no client can make: the interface takes printable ASCII only.
_MESSAGES: Final = """
select json_agg(json_build_object(
           'direction', m.direction, 'kind', m.kind, 'sender', m.sender, 'message_id', m.message_id,
           'at', m.at, 'digest', encode(m.digest, 'hex')) order by m.message_no)
  from (
      select case when o.key like '§msg:%' then split_part(o.key, ':', 2)::bigint end as message_no
      union
      select k.message_no from settlement_submissions s cross join lateral (
          select message_no from settlement_messages
           where ledger_no = s.ledger_no and message_id = s.message_id and direction = 'out' offset 0) k
       where s.ledger_no = o.ledger_no and s.cycle_no = o.cycle_no and s.participant_no = o.rail_no
         and o.rail_no > 0
      union
      select r.message_no from settlement_references r cross join lateral (
          select kind from settlement_messages
           where ledger_no = r.ledger_no and message_no = r.message_no offset 0) k
       where r.ledger_no = o.ledger_no and r.cycle_no = o.cycle_no and r.participant_no = o.rail_no
         and o.rail_no > 0 and k.kind = 'pacs.002'
      union
      select message_no from settlement_return_messages
       where ledger_no = o.ledger_no and order_no = o.order_no
  ) named cross join lateral (
      select * from settlement_messages
       where ledger_no = o.ledger_no and message_no = named.message_no offset 0) m
"""
_MOVEMENTS: Final = """
select json_agg(json_build_object(
           'direction', v.direction, 'account', n.account, 'owner', n.owner, 'amount', abs(v.amount_minor),
           'value_date', v.value_date, 'expected_at', v.since, 'rule', x.rule, 'matched_at', x.at,
           'line_id', l.line_id, 'open', u.unmatched_no is not null) order by v.movement_no)
  from settlement_movements v
  join settlement_nostros n on n.ledger_no = v.ledger_no and n.nostro_no = v.nostro_no
  left join lateral (
      select rule, at, line_no from settlement_matches
       where ledger_no = v.ledger_no and movement_no = v.movement_no offset 0) x on true
  left join lateral (
      select unmatched_no, other_no from settlement_unmatched
       where ledger_no = v.ledger_no and movement_no = v.movement_no offset 0) u on true
  left join lateral (
      select line_id from settlement_lines
       where ledger_no = v.ledger_no and line_no = coalesce(x.line_no, u.other_no) offset 0) l on true
 where v.ledger_no = o.ledger_no and v.order_no = o.order_no
"""
_RETURN: Final = """
select json_build_object('at', r.at, 'reason', r.reason, 'source', r.source)
  from settlement_returns r where r.ledger_no = o.ledger_no and r.order_no = o.order_no
"""
_ORDERS: Final = VIEWS.format(
    orders="""
    select found.* from unnest($1::integer[], $2::bigint[]) as wanted (ledger_no, order_no)
     cross join lateral (
         select * from settlement_orders
          where ledger_no = wanted.ledger_no and order_no = wanted.order_no offset 0) found""",
    also=_AT_HOME,
)
# PostgreSQL plans a statement once for all where that looks no dearer than planning each time anew, and
# counts on ten rows of an array that it does not know. Planning this one takes 3 ms, so few become many:
# nothing is looked up for what is null.
_PLANNED_FOR: Final = 64
_AUDITS: Final = f"""
with o as materialized ({_ORDERS}),
peers as (
    select ledger_no as home_no, order_no, peer_ledger_no as ledger_no from o where peer_ledger_no is not null
),
paid as materialized ({_step("peers", _BY_KEY.format(suffix=":pay"))}),
ended as materialized ({_step("paid", _RESOLVED)}),
places as (select * from peers union all select ledger_no, order_no, ledger_no from o),
booked as (
    {_HOME} union all select * from paid union all select * from ended
     union all {_step("ended", _RESOLVED)} union all {_step("places", _BY_KEY.format(suffix=":unwind"))}
),
cycles as materialized (
    select o.*, ({_STEPS}) as steps, ({_SUBMISSIONS}) as submissions
      from (select distinct ledger_no, cycle_no, rail_no, rail from o where cycle_no is not null) o
),
transactions as (
    select b.home_no, b.order_no, json_agg(json_build_array(
               b.ledger_no, b.seq, b.recorded_at, b.kind, b.code, e.rows)
               order by b.recorded_at, b.ledger_no, b.seq) as rows
      from booked b left join lateral ({_ENTRIES}) e on true
     group by b.home_no, b.order_no
)
select {_SHOWN}, t.rows as transactions, k.steps, ({_POSITIONS}) as positions,
       k.submissions, ({_MESSAGES}) as messages, ({_RETURN}) as returned,
       ({_MOVEMENTS}) as movements,
       c.value_date, c.cut_off_at, p.created_at as peer_ledger_at, w.due_at as work_due_at,
       w.failures as work_failures, w.last_error as work_error
  from o
  left join transactions t on t.home_no = o.ledger_no and t.order_no = o.order_no
  left join settlement_cycles c on c.ledger_no = o.ledger_no and c.cycle_no = o.cycle_no
  left join cycles k on k.ledger_no = o.ledger_no and k.cycle_no = o.cycle_no and k.rail_no = o.rail_no
  left join ledgers p on p.ledger_no = o.peer_ledger_no
  left join settlement_work w
    on w.ledger_no = o.ledger_no and w.kind = 'cycle' and w.number = o.cycle_no
"""  # noqa: S608 # constants of this file


async def read_audits(connection: Connection, wanted: Sequence[tuple[int, int]]) -> list[OrderRow | None]:
    """Orders by ledger and number, what became of them, and their parts as JSON texts; None if unknown."""
    nobodies = [None] * (_PLANNED_FOR - len(wanted))
    ledger_nos, order_nos = [place[0] for place in wanted], [place[1] for place in wanted]
    rows = await connection.fetch(_AUDITS, [*ledger_nos, *nobodies], [*order_nos, *nobodies])
    found = {(row["ledger_no"], row["order_no"]): OrderRow(row, row["status"]) for row in rows}
    return [found.get(place) for place in wanted]
