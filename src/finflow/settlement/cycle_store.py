"""SQL of cycles: opening, joining and stepping them; their positions, submissions and answers."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from finflow.kernel.clock import to_datetime, to_micros
from finflow.ledger.store import Connection
from finflow.settlement import work_store
from finflow.settlement.model import Cycle, Step
from finflow.settlement.netting import Position
from finflow.settlement.orders import Details, account_id, order_id
from finflow.settlement.rail_messages import Outgoing

_OPEN: Final = """
insert into settlement_cycles (ledger_no, currency, exponent, value_date, cut_off_at, opened_at)
values ($1, $2, $3, $4, $5, $6) on conflict do nothing
"""
# Whoever adds orders shares the cycle's row; who closes it has it alone. So nothing joins a closed cycle.
_JOIN: Final = """
select cycle_no, opened_at from settlement_cycles
 where ledger_no = $1 and currency = $2 and cut_off_at = $3 for share
"""
# Asked after the lock is held, in a statement of its own, which sees what its last holder has committed.
_CLOSED: Final = "select exists (select from settlement_steps where ledger_no = $1 and cycle_no = $2)"
_LOCK: Final = """
select * from settlement_cycles where ledger_no = $1 and cycle_no = $2 for no key update
"""
_CYCLE: Final = "select * from settlement_cycles where ledger_no = $1 and cycle_no = $2"
_PAGE: Final = """
select * from settlement_cycles where ledger_no = $1 and cycle_no > $2 order by cycle_no limit $3
"""
_OPENINGS: Final = """
select cycle_no, opened_at from settlement_cycles where ledger_no = $1 and cycle_no = any($2::bigint[])
"""
_STEPS: Final = """
select * from settlement_steps where ledger_no = $1 and cycle_no = any($2::bigint[])
 order by cycle_no, step_no
"""
_ADD_STEP: Final = """
insert into settlement_steps (ledger_no, cycle_no, step_no, action, at, evidence, attempt)
values ($1, $2, $3, $4, $5, $6, $7)
"""
_LAST_ORDER: Final = """
select count(*) as orders, coalesce(max(order_no), 0) as last from settlement_orders
 where ledger_no = $1 and cycle_no = $2
"""
_ADD_POSITIONS: Final = """
insert into settlement_positions (ledger_no, cycle_no, participant_no, payable_minor, receivable_minor,
                                  net_minor, obligations)
select $1, $2, * from unnest($3::integer[], $4::bigint[], $5::bigint[], $6::bigint[], $7::integer[])
"""
_POSITIONS: Final = """
select s.*, p.name, c.currency from settlement_positions s
  join settlement_participants p using (ledger_no, participant_no)
  join settlement_cycles c using (ledger_no, cycle_no)
 where ledger_no = $1 and cycle_no = $2 order by p.name
"""
_OUTGOING: Final = """
select o.order_no, o.accepted_at, o.amount_minor, o.end_to_end_id, o.uetr, o.details, o.payer_account,
       a.created_at as payer_at, p.name as payer
  from settlement_orders o
  join accounts a on a.ledger_no = o.ledger_no and a.account_no = o.payer_account
  join settlement_participants p on p.ledger_no = o.ledger_no and p.participant_no = o.payer_no
  join journal j on j.ledger_no = o.ledger_no and j.code is null
                and j.key = '§order:' || o.ledger_no || '.' || o.order_no || ':pay'
 where o.ledger_no = $1 and o.cycle_no = $2 and o.payee_no = $3 order by o.order_no
"""
_RAILS: Final = """
select o.payee_no, p.name, count(*) as orders from settlement_orders o
  join settlement_participants p on p.ledger_no = o.ledger_no and p.participant_no = o.payee_no
 where o.ledger_no = $1 and o.cycle_no = $2 and p.kind = 'rail' group by o.payee_no, p.name order by p.name
"""
_ADD_SUBMISSION: Final = """
insert into settlement_submissions (ledger_no, cycle_no, attempt, participant_no, message_id, orders, sent_at)
values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing
"""
_SUBMISSIONS: Final = """
select s.*, coalesce(p.name, 'ledger') as name, a.verdict, a.detail, a.at as answered_at
  from settlement_submissions s
  left join settlement_participants p using (ledger_no, participant_no)
  left join settlement_answers a using (ledger_no, cycle_no, attempt, participant_no)
 where ledger_no = $1 and cycle_no = $2 order by attempt, participant_no
"""
_BY_MESSAGE: Final = """
select ledger_no, cycle_no, attempt, participant_no
  from settlement_submissions join settlement_participants p using (ledger_no, participant_no)
 where ledger_no = $1 and message_id = $2 and p.name = $3
"""
_ADD_ANSWER: Final = """
insert into settlement_answers (ledger_no, cycle_no, attempt, participant_no, verdict, detail, at)
values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing
"""
_ADD_RETURNS: Final = """
insert into settlement_returns (ledger_no, order_no, at, reason, source)
select $1, r.order_no, $3, r.reason, $4 from unnest($2::bigint[], $5::text[]) as r (order_no, reason)
on conflict do nothing
"""
_ADD_RETURN_WORK: Final = """
insert into settlement_work (ledger_no, kind, number, due_at)
select $1, 'return', order_no, $3 from unnest($2::bigint[]) as r (order_no) on conflict do nothing
"""
_ADD_MESSAGE: Final = """
insert into settlement_messages (ledger_no, direction, kind, sender, message_id, digest, at, body)
values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing returning message_no
"""
_ADD_REFERENCE: Final = """
insert into settlement_references (ledger_no, cycle_no, attempt, participant_no, message_no)
values ($1, $2, $3, $4, $5) on conflict do nothing
"""
_ADD_RETURN_MESSAGES: Final = """
insert into settlement_return_messages (ledger_no, order_no, message_no)
select $1, order_no, $3 from unnest($2::bigint[]) as r (order_no) on conflict do nothing
"""
_MESSAGE: Final = """
select digest, message_no from settlement_messages
 where ledger_no = $1 and sender = $2 and kind = $3 and message_id = $4
"""


class CycleRow(NamedTuple):
    """A cycle as it is kept, with its steps; times in microseconds."""

    ledger_no: int
    opened_at: int
    exponent: int
    cycle: Cycle


class Joined(NamedTuple):
    """A cycle that orders are about to join, and whether it is too late."""

    cycle_no: int
    opened_at: int
    closed: bool


class Submission(NamedTuple):
    """What a rail was sent, and the verdict if it has answered.

    Participant 0 is the ledger itself: its verdict is the decision to settle an attempt or to give it up,
    which is made once, whoever makes it.
    """

    attempt: int
    participant_no: int
    rail: str
    message_id: str
    orders: int
    sent_at: int
    verdict: str | None
    detail: str | None


async def open_cycle(
    connection: Connection,
    ledger_no: int,
    currency: str,
    exponent: int,
    dates: tuple[dt.date, dt.datetime],
    at: int,
) -> None:
    """Open the cycle of a value date and a cut-off, unless it is open."""
    await connection.execute(_OPEN, ledger_no, currency, exponent, *dates, to_datetime(at))


async def join_cycle(
    connection: Connection, ledger_no: int, currency: str, cut_off_at: dt.datetime
) -> Joined | None:
    """The cycle of a cut-off, if it was opened; nobody closes it before the transaction ends."""
    row = await connection.fetchrow(_JOIN, ledger_no, currency, cut_off_at)
    if row is None:
        return None
    closed = await connection.fetchval(_CLOSED, ledger_no, row["cycle_no"])
    return Joined(row["cycle_no"], to_micros(row["opened_at"]), closed)


async def read_cycle(
    connection: Connection, ledger_no: int, cycle_no: int, lock: bool = False
) -> CycleRow | None:
    """A cycle with its steps; with `lock` nobody else steps it, or joins it, until the transaction ends."""
    row = await connection.fetchrow(_LOCK if lock else _CYCLE, ledger_no, cycle_no)
    if row is None:
        return None
    return _cycle(row, await connection.fetch(_STEPS, ledger_no, [cycle_no]))


async def read_cycle_page(connection: Connection, ledger_no: int, after: int, limit: int) -> list[CycleRow]:
    """Cycles after one of them, in the order of their opening."""
    rows = await connection.fetch(_PAGE, ledger_no, after, limit)
    steps = await connection.fetch(_STEPS, ledger_no, [row["cycle_no"] for row in rows])
    return [_cycle(row, [each for each in steps if each["cycle_no"] == row["cycle_no"]]) for row in rows]


def _cycle(row: Any, steps: Sequence[Any]) -> CycleRow:
    taken = tuple(Step(each["action"], each["at"], each["evidence"], each["attempt"]) for each in steps)
    cycle = Cycle(row["cycle_no"], row["currency"], row["value_date"], row["cut_off_at"], taken)
    return CycleRow(row["ledger_no"], to_micros(row["opened_at"]), row["exponent"], cycle)


async def read_openings(
    connection: Connection, ledger_no: int, cycle_nos: Sequence[int]
) -> list[tuple[int, int]]:
    """Numbers of cycles, and when they were opened."""
    rows = await connection.fetch(_OPENINGS, ledger_no, cycle_nos) if cycle_nos else []
    return [(row["cycle_no"], to_micros(row["opened_at"])) for row in rows]


async def add_step(connection: Connection, ledger_no: int, cycle: Cycle) -> None:
    """Keep the last step of a cycle, which the model has taken."""
    step = cycle.steps[-1]
    await connection.execute(
        _ADD_STEP, ledger_no, cycle.cycle_no, len(cycle.steps), step.action, step.at, step.evidence,
        step.attempt,
    )  # fmt: skip


async def read_extent(connection: Connection, ledger_no: int, cycle_no: int) -> str:
    """What a cycle is closed over: how many orders, and up to which."""
    row = await connection.fetchrow(_LAST_ORDER, ledger_no, cycle_no)
    assert row is not None, "a count has a row"
    return f"orders:{row['orders']}:{row['last']}"


async def add_positions(
    connection: Connection, ledger_no: int, cycle_no: int, positions: Sequence[tuple[int, Position]]
) -> None:
    """Keep a netting report: each position under its participant's number."""
    columns = [
        [no for no, _ in positions],
        [each.payable_minor for _, each in positions],
        [each.receivable_minor for _, each in positions],
        [each.net_minor for _, each in positions],
        [each.obligations for _, each in positions],
    ]
    await connection.execute(_ADD_POSITIONS, ledger_no, cycle_no, *columns)


async def read_positions(connection: Connection, ledger_no: int, cycle_no: int) -> list[tuple[int, Position]]:
    """A cycle's netted positions with their participants' numbers, in the report's order."""
    rows = await connection.fetch(_POSITIONS, ledger_no, cycle_no)
    found = [
        (
            row["participant_no"],
            Position(
                row["name"], row["currency"], row["payable_minor"], row["receivable_minor"],
                row["net_minor"], row["obligations"],
            ),
        )
        for row in rows
    ]  # fmt: skip
    return sorted(found, key=lambda each: each[1].participant)


async def read_rails(connection: Connection, ledger_no: int, cycle_no: int) -> list[tuple[int, str]]:
    """Numbers and names of the rails that a cycle has orders to."""
    rows = await connection.fetch(_RAILS, ledger_no, cycle_no)
    return [(row["payee_no"], row["name"]) for row in rows]


async def read_outgoing(
    connection: Connection, ledger_no: int, cycle_no: int, participant_no: int
) -> list[Outgoing]:
    """A cycle's orders to one rail, those that the ledger refused left out."""
    rows = await connection.fetch(_OUTGOING, ledger_no, cycle_no, participant_no)
    return [_outgoing(ledger_no, row) for row in rows]


def _outgoing(ledger_no: int, row: Any) -> Outgoing:
    details = msgspec.json.decode(row["details"], type=Details)
    assert details.creditor is not None, "an order to a rail is accepted with its creditor"
    return Outgoing(
        order_id(ledger_no, row["order_no"], to_micros(row["accepted_at"])), row["payer"],
        account_id(ledger_no, row["payer_account"], to_micros(row["payer_at"])), row["amount_minor"],
        row["end_to_end_id"], str(row["uetr"]), details.remittance, details.creditor,
        details.carried,
    )  # fmt: skip


async def add_submission(
    connection: Connection,
    key: tuple[int, int, int, int],
    message_id: str,
    orders: int,
    at: int,
) -> None:
    """Keep that a message is sent to a rail; the key is ledger, cycle, attempt and participant."""
    await connection.execute(_ADD_SUBMISSION, *key, message_id, orders, to_datetime(at))


async def read_submissions(connection: Connection, ledger_no: int, cycle_no: int) -> list[Submission]:
    """What was sent of a cycle, by attempt and rail, with the answers."""
    rows = await connection.fetch(_SUBMISSIONS, ledger_no, cycle_no)
    return [
        Submission(
            row["attempt"], row["participant_no"], row["name"], row["message_id"], row["orders"],
            to_micros(row["sent_at"]), row["verdict"], row["detail"],
        )
        for row in rows
    ]  # fmt: skip


async def find_submission(
    connection: Connection, ledger_no: int, message_id: str, rail: str
) -> tuple[int, int, int, int] | None:
    """Ledger, cycle, attempt and participant of a message that this rail was sent."""
    row = await connection.fetchrow(_BY_MESSAGE, ledger_no, message_id, rail)
    return None if row is None else tuple(row)


async def add_answer(
    connection: Connection, key: tuple[int, int, int, int], verdict: str, detail: str, at: int
) -> bool:
    """Keep an answer, unless there is one; whether it was kept."""
    tag: str = await connection.execute(_ADD_ANSWER, *key, verdict, detail[:500], to_datetime(at))
    return tag == "INSERT 0 1"


async def add_returns(
    connection: Connection, ledger_no: int, reasons: dict[int, str], source: str, at: int
) -> None:
    """Keep that orders come back, and why, and queue their return; those that are known stay as they are."""
    numbers = sorted(reasons)
    moment = to_datetime(at)
    texts = [reasons[number][:140] for number in numbers]
    await connection.execute(_ADD_RETURNS, ledger_no, numbers, moment, source, texts)
    await connection.execute(_ADD_RETURN_WORK, ledger_no, numbers, moment)
    await work_store.add_cause(connection, ledger_no, "return", numbers)


class KeptMessage(NamedTuple):
    """A message that came or went."""

    direction: str
    kind: str
    sender: str
    message_id: str
    digest: bytes
    body: bytes | None


async def add_message(connection: Connection, ledger_no: int, message: KeptMessage, at: int) -> int | None:
    """Keep a message; its number, or None if one of this name is kept already."""
    number: int | None = await connection.fetchval(
        _ADD_MESSAGE, ledger_no, message.direction, message.kind, message.sender, message.message_id,
        message.digest, to_datetime(at), message.body,
    )  # fmt: skip
    return number


async def add_reference(connection: Connection, key: tuple[int, int, int, int], message_no: int) -> None:
    """Keep that a message speaks of a submission."""
    await connection.execute(_ADD_REFERENCE, *key, message_no)


async def add_return_messages(
    connection: Connection, ledger_no: int, order_nos: Sequence[int], message_no: int
) -> None:
    """Keep which message brought orders back; the first one stays."""
    await connection.execute(_ADD_RETURN_MESSAGES, ledger_no, order_nos, message_no)


async def find_message(
    connection: Connection, ledger_no: int, sender: str, kind: str, message_id: str
) -> tuple[int, bytes] | None:
    """Number and digest of a message that is kept under this name."""
    row = await connection.fetchrow(_MESSAGE, ledger_no, sender, kind, message_id)
    return None if row is None else (row["message_no"], row["digest"])


async def find_digest(
    connection: Connection, ledger_no: int, sender: str, kind: str, message_id: str
) -> bytes | None:
    """The digest of a message that is kept under this name."""
    found: bytes | None = await connection.fetchval(_MESSAGE, ledger_no, sender, kind, message_id)
    return found
