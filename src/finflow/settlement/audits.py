"""A settlement audit as callers see it: one order with everything that it touched, by one round trip."""

import datetime as dt
from functools import lru_cache
from typing import Any, Final, TypeVar

import msgspec

from finflow.kernel import ids
from finflow.kernel.clock import to_micros
from finflow.kernel.money import to_text
from finflow.settlement.model import TRANSITIONS, State
from finflow.settlement.order_reads import OrderRow
from finflow.settlement.orders import Creditor, Details, account_id, cycle_id
from finflow.settlement.views import (
    NetPositionView,
    OrderView,
    PendingWork,
    StepView,
    SubmissionView,
    show_order,
)

T = TypeVar("T")


class AuditEntry(msgspec.Struct, frozen=True):
    """One line of a transaction; `balance` is the account's after it, `held` is pending or released."""

    account_id: str
    direction: str
    amount: str
    held: str
    version: int
    balance: str


class AuditTransaction(msgspec.Struct, frozen=True):
    """A transaction of an order, on its own ledger or on the payee's; `code` says why it was refused."""

    transaction_id: str | None
    ledger_id: str
    seq: int
    kind: str
    recorded_at: dt.datetime
    code: str | None
    entries: list[AuditEntry]


class AuditCycle(msgspec.Struct, frozen=True):
    """The cycle of an order: its timeline, the two netted positions, what the rail was sent and said."""

    cycle_id: str
    state: str
    value_date: dt.date
    cut_off_at: dt.datetime
    steps: tuple[StepView, ...]
    positions: list[NetPositionView]
    submissions: tuple[SubmissionView, ...]
    work: PendingWork | None


class AuditMessage(msgspec.Struct, frozen=True):
    """A message that brought the order, carried it or spoke of it; `digest` is the SHA-256 of its bytes."""

    direction: str
    kind: str
    sender: str
    message_id: str
    at: dt.datetime
    digest: str


class AuditReturn(msgspec.Struct, frozen=True):
    """Why an order comes back, and who said so."""

    at: dt.datetime
    reason: str
    source: str


class AuditMovement(msgspec.Struct, frozen=True):
    """Money that is expected on an account of ours: where it was seen and by which rule, or its break."""

    direction: str
    account: str
    owner: str
    amount: str
    value_date: dt.date
    expected_at: dt.datetime
    rule: str | None
    line_id: str | None
    matched_at: dt.datetime | None
    break_kind: str | None


class AuditView(msgspec.Struct, frozen=True):
    """Everything about one settlement order, as of one moment."""

    order: OrderView
    remittance: str | None
    creditor: Creditor | None
    transactions: list[AuditTransaction]
    cycle: AuditCycle | None
    messages: list[AuditMessage]
    returned: AuditReturn | None
    movements: list[AuditMovement]


class _Movement(msgspec.Struct, frozen=True):
    direction: str
    account: str
    owner: str
    amount: int
    value_date: dt.date
    expected_at: dt.datetime
    rule: str | None
    matched_at: dt.datetime | None
    line_id: str | None
    open: bool


class _Entry(msgspec.Struct, frozen=True, array_like=True, gc=False, order=True):
    place: int
    account_no: int
    created_us: int
    exponent: int
    normal: int
    version: int
    amount: int
    held: int
    posted: int


class _Transaction(msgspec.Struct, frozen=True, array_like=True):
    ledger_no: int
    seq: int
    recorded_at: dt.datetime
    kind: str
    code: str | None
    entries: list[_Entry] | None


class _Position(msgspec.Struct, frozen=True):
    participant: str
    payable: int
    receivable: int
    net: int
    obligations: int


_TRANSACTIONS: Final = msgspec.json.Decoder(list[_Transaction])
_POSITIONS: Final = msgspec.json.Decoder(list[_Position])
_STEPS: Final = msgspec.json.Decoder(tuple[StepView, ...])
_SUBMISSIONS: Final = msgspec.json.Decoder(tuple[SubmissionView, ...])
_MESSAGES: Final = msgspec.json.Decoder(list[AuditMessage])
_MOVEMENTS: Final = msgspec.json.Decoder(list[_Movement])
_RETURN: Final = msgspec.json.Decoder(AuditReturn)
_DETAILS: Final = msgspec.json.Decoder(Details)


def show_audit(found: OrderRow, ledger_id: str) -> AuditView:
    """What the one statement of `audit_store` found, for people."""
    row = found.row
    places = {row["ledger_no"]: ledger_id}
    if row["peer_ledger_no"] is not None:
        peer_at = to_micros(row["peer_ledger_at"])
        places[row["peer_ledger_no"]] = ids.mint("led", peer_at, row["peer_ledger_no"], 0)
    details = Details() if row["details"] is None else _DETAILS.decode(row["details"])
    order = show_order(found, ledger_id)
    here = row["ledger_no"]
    named = {(here, row["pay_seq"]): order.paid_by, (here, row["end_seq"]): order.ended_by}
    return AuditView(
        order,
        details.remittance,
        details.creditor,
        [_transaction(each, places, named) for each in _parts(_TRANSACTIONS, row["transactions"])],
        None if row["cycle_no"] is None else _cycle(row),
        _parts(_MESSAGES, row["messages"]),
        None if row["returned"] is None else _RETURN.decode(row["returned"]),
        [_movement(each, row["exponent"]) for each in _parts(_MOVEMENTS, row["movements"])],
    )


def _movement(found: _Movement, exponent: int) -> AuditMovement:
    differs = "missing" if found.line_id is None else "amount_differs"
    return AuditMovement(
        found.direction, found.account, found.owner, to_text(found.amount, exponent),
        found.value_date, found.expected_at, found.rule, found.line_id, found.matched_at,
        differs if found.open else None,
    )  # fmt: skip


def _parts(decoder: "msgspec.json.Decoder[list[T]]", text: str | None) -> list[T]:
    return [] if text is None else decoder.decode(text)


def _transaction(
    found: _Transaction, places: dict[int, str], named: dict[tuple[int, int], str | None]
) -> AuditTransaction:
    """For people. `named` has the ids of transactions, by ledger and number, that are known already."""
    ledger_no, seq = found.ledger_no, found.seq
    transaction_id = None
    if found.code is None:
        transaction_id = named.get((ledger_no, seq)) or ids.mint(
            "txn", to_micros(found.recorded_at), ledger_no, seq
        )
    return AuditTransaction(
        transaction_id, places[ledger_no], seq, found.kind, found.recorded_at, found.code,
        [_entry(each, ledger_no) for each in sorted(found.entries or ())],
    )  # fmt: skip


def _entry(found: _Entry, ledger_no: int) -> AuditEntry:
    amount, held, exponent = found.amount, found.held, found.exponent
    return AuditEntry(
        account_id(ledger_no, found.account_no, found.created_us),
        "debit" if (amount or held) > 0 else "credit", to_text(abs(amount), exponent),
        to_text(abs(held), exponent), found.version, to_text(found.normal * found.posted, exponent),
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _timeline(text: str | None) -> tuple[tuple[StepView, ...], State]:
    """A cycle's steps, and the state that they led to: the same for all of its orders."""
    steps = () if text is None else _STEPS.decode(text)
    state: State = "open"
    for step in steps:
        state = TRANSITIONS[state, step.action]  # type: ignore[index] # the column's check names the actions
    return steps, state


@lru_cache(maxsize=1024)
def _submissions(text: str | None) -> tuple[SubmissionView, ...]:
    """What the rails were sent of a cycle: the same for all of its orders to one of them."""
    return () if text is None else _SUBMISSIONS.decode(text)


def _cycle(row: Any) -> AuditCycle:
    steps, state = _timeline(row["steps"])
    exponent = row["exponent"]
    return AuditCycle(
        cycle_id(row["ledger_no"], row["cycle_no"], to_micros(row["cycle_opened_at"])), state,
        row["value_date"], row["cut_off_at"], steps,
        [
            NetPositionView(
                each.participant, to_text(each.payable, exponent), to_text(each.receivable, exponent),
                to_text(each.net, exponent), each.obligations,
            )
            for each in _parts(_POSITIONS, row["positions"])
        ],
        _submissions(row["submissions"]),
        None
        if row["work_due_at"] is None
        else PendingWork(row["work_due_at"], row["work_failures"], row["work_error"]),
    )  # fmt: skip
