"""SQL of the reconciliation report, and the report as callers see it. It reads what is open, and counts."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from finflow.kernel import money
from finflow.kernel.clock import to_datetime, to_micros
from finflow.ledger.store import Connection
from finflow.settlement.matching import PROMISE_S
from finflow.settlement.orders import order_id
from finflow.settlement.reconciliation_store import Nostro

# A line and a movement of one reference are one break, which the line's row stands for.
_IS_BREAK: Final = "(u.line_no is not null or u.other_no is null)"
_OPEN: Final = f"""
select u.nostro_no, count(*) filter (where {_IS_BREAK}) as breaks, min(u.since) as oldest,
       count(*) filter (where u.movement_no is not null and u.since < $2) as late
  from settlement_unmatched u where u.ledger_no = $1 group by u.nostro_no
"""  # noqa: S608 # constants of this file
_COUNTS: Final = "select * from settlement_match_counts where ledger_no = $1 order by nostro_no, rule"
_BREAKS: Final = f"""
select u.unmatched_no, least(u.since, m.since) as since, u.line_no, u.other_no, n.nostro_no,
       m.amount_minor as expected, m.value_date as expected_on, m.end_to_end_id, m.uetr, o.order_no,
       o.accepted_at, l.line_id, l.amount_minor as reported, l.value_date as reported_on,
       l.end_to_end_id as line_end_to_end_id, l.uetr as line_uetr
  from (select * from settlement_unmatched u
         where u.ledger_no = $1 and u.unmatched_no > $2 and {_IS_BREAK}
         order by u.unmatched_no limit $3) u
  join settlement_nostros n on n.ledger_no = u.ledger_no and n.nostro_no = u.nostro_no
  left join settlement_movements m
    on m.ledger_no = u.ledger_no and m.movement_no = coalesce(u.movement_no, u.other_no)
  left join settlement_orders o on o.ledger_no = m.ledger_no and o.order_no = m.order_no
  left join settlement_lines l on l.ledger_no = u.ledger_no and l.line_no = u.line_no
 order by u.unmatched_no
"""  # noqa: S608 # constants of this file


class NostroView(msgspec.Struct, frozen=True):
    """An account of ours at another bank, which a participant's payments are seen on."""

    ledger_id: str
    participant: str
    currency: str
    account: str
    owner: str
    created_at: dt.datetime


class RuleCount(msgspec.Struct, frozen=True):
    """How many movements a rule has matched."""

    rule: str
    matched: int


class NostroReport(msgspec.Struct, frozen=True):
    """How one nostro stands. `share_within_promise` is of the movements that are matched or late."""

    participant: str
    currency: str
    account: str
    owner: str
    matched: int
    matched_within_promise: int
    late: int
    share_within_promise: float
    oldest_unmatched_s: float
    breaks: int
    rules: list[RuleCount]


class BreakView(msgspec.Struct, frozen=True):
    """What does not agree: its difference is reported minus expected, `owner` is to look at it."""

    kind: str
    participant: str
    currency: str
    account: str
    owner: str
    difference: str
    since: dt.datetime
    age_s: float
    value_date: dt.date
    order_id: str | None
    line_id: str | None
    end_to_end_id: str | None
    uetr: str | None


class ReconciliationView(msgspec.Struct, frozen=True):
    """A ledger's reconciliation at a moment: the promise as figures, each nostro, and a page of breaks."""

    ledger_id: str
    at: dt.datetime
    matched: int
    matched_within_promise: int
    late: int
    share_within_promise: float
    oldest_unmatched_s: float
    breaks: int
    nostros: list[NostroReport]
    items: list[BreakView]
    next: str | None = None


def show_nostro(nostro: Nostro, ledger_id: str) -> NostroView:
    return NostroView(
        ledger_id, nostro.participant, nostro.currency, nostro.account, nostro.owner, nostro.created_at
    )


async def read_reports(
    connection: Connection, ledger_no: int, nostros: Sequence[Nostro], now: int
) -> list[NostroReport]:
    """How each nostro stands."""
    moment = to_datetime(now)
    late_before = moment - dt.timedelta(seconds=PROMISE_S)
    opened = {row["nostro_no"]: row for row in await connection.fetch(_OPEN, ledger_no, late_before)}
    counts = await connection.fetch(_COUNTS, ledger_no)
    return [
        _report(
            each, opened.get(each.nostro_no), [c for c in counts if c["nostro_no"] == each.nostro_no], moment
        )
        for each in nostros
    ]


def _report(nostro: Nostro, opened: Any, counts: Sequence[Any], now: dt.datetime) -> NostroReport:
    matched, in_time = sum(row["matched"] for row in counts), sum(row["in_time"] for row in counts)
    late = 0 if opened is None else opened["late"]
    return NostroReport(
        nostro.participant, nostro.currency, nostro.account, nostro.owner, matched, in_time, late,
        share(in_time, matched + late), 0.0 if opened is None else _age_s(now, opened["oldest"]),
        0 if opened is None else opened["breaks"],
        [RuleCount(row["rule"], row["matched"]) for row in counts],
    )  # fmt: skip


def share(part: int, whole: int) -> float:
    """Of nothing, all is in time."""
    return part / whole if whole else 1.0


def _age_s(now: dt.datetime, since: dt.datetime) -> float:
    return max(0.0, (now - since).total_seconds())


async def read_breaks(
    connection: Connection, ledger_no: int, nostros: Sequence[Nostro], now: int, after: int, limit: int
) -> list[tuple[int, BreakView]]:
    """Breaks in the order in which they came, each with its position, after one of them."""
    known = {each.nostro_no: each for each in nostros}
    rows = await connection.fetch(_BREAKS, ledger_no, after, limit)
    moment = to_datetime(now)
    # A nostro that was registered a moment ago may not be known yet; the next look has it.
    shown = [(row, known.get(row["nostro_no"])) for row in rows]
    return [(row["unmatched_no"], _break(row, each, moment)) for row, each in shown if each is not None]


def _break(row: Any, nostro: Nostro, now: dt.datetime) -> BreakView:
    kind = "missing" if row["line_no"] is None else "amount_differs" if row["other_no"] else "unexpected"
    uetr = row["uetr"] or row["line_uetr"]
    number = row["order_no"]
    return BreakView(
        kind, nostro.participant, nostro.currency, nostro.account, nostro.owner,
        money.to_text((row["reported"] or 0) - (row["expected"] or 0), nostro.exponent),
        row["since"], _age_s(now, row["since"]), row["expected_on"] or row["reported_on"],
        None if number is None else order_id(nostro.ledger_no, number, to_micros(row["accepted_at"])),
        row["line_id"], row["end_to_end_id"] or row["line_end_to_end_id"],
        None if uetr is None else str(uetr),
    )  # fmt: skip


def show_reconciliation(
    ledger_id: str, now: int, reports: list[NostroReport], breaks: list[BreakView]
) -> ReconciliationView:
    """The ledger's figures over those of its nostros, and a page of breaks."""
    matched, late = sum(each.matched for each in reports), sum(each.late for each in reports)
    in_time = sum(each.matched_within_promise for each in reports)
    oldest = max((each.oldest_unmatched_s for each in reports), default=0.0)
    return ReconciliationView(
        ledger_id, to_datetime(now), matched, in_time, late, share(in_time, matched + late), oldest,
        sum(each.breaks for each in reports), reports, breaks,
    )  # fmt: skip
