"""What callers see of settlement: ids, decimal strings and moments."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import msgspec

from finflow.kernel import ids, money
from finflow.kernel.clock import to_datetime, to_micros
from finflow.settlement.cycle_store import CycleRow, Submission
from finflow.settlement.mirrors import Mirror
from finflow.settlement.netting import NettingReport
from finflow.settlement.order_reads import OrderRow
from finflow.settlement.orders import account_id, cycle_id, order_id
from finflow.settlement.participant_store import Participant


class ParticipantAccounts(msgspec.Struct, frozen=True):
    """A participant's accounts in one currency: payments are booked on one, net positions on the other."""

    currency: str
    position_account_id: str
    settlement_account_id: str


class ParticipantView(msgspec.Struct, frozen=True):
    """Somebody who settles on a ledger: a member of it, another ledger, or a rail outside."""

    participant_id: str
    ledger_id: str
    name: str
    kind: str
    accounts: list[ParticipantAccounts]


class OrderView(msgspec.Struct, frozen=True):
    """A payment order, and what became of it. The transactions named are of the payer's ledger."""

    order_id: str
    ledger_id: str
    cycle_id: str | None
    status: str
    code: str | None
    payer: str
    payee: str
    payer_account_id: str
    payee_account_id: str
    currency: str
    amount: str
    end_to_end_id: str
    uetr: str | None
    accepted_at: dt.datetime
    paid_by: str | None
    ended_by: str | None
    returned_by: str | None


class StepView(msgspec.Struct, frozen=True):
    """A step of a cycle's timeline."""

    action: str
    at: dt.datetime
    evidence: str
    attempt: int


class SubmissionView(msgspec.Struct, frozen=True):
    """What a rail was sent of a cycle, and its verdict; the rail `ledger` is the decision of the bank."""

    attempt: int
    rail: str
    message_id: str
    orders: int
    sent_at: dt.datetime
    verdict: str | None
    detail: str | None


class PendingWork(msgspec.Struct, frozen=True):
    """When a cycle goes on, how often in a row it could not, and why."""

    due_at: dt.datetime
    failures: int
    last_error: str | None


class CycleView(msgspec.Struct, frozen=True):
    """A cycle with its timeline."""

    cycle_id: str
    ledger_id: str
    currency: str
    value_date: dt.date
    cut_off_at: dt.datetime
    opened_at: dt.datetime
    state: str
    steps: list[StepView]
    submissions: list[SubmissionView]
    work: PendingWork | None


class NetPositionView(msgspec.Struct, frozen=True):
    """What one participant owes, is owed, and settles in a cycle; a positive net is received."""

    participant: str
    payable: str
    receivable: str
    net: str
    obligations: int


class ReportView(msgspec.Struct, frozen=True):
    """A netting report. `faults` is what a recount from the orders found wrong: nothing, if it is sound."""

    cycle_id: str
    currency: str
    digest: str
    obligations: int
    gross: str
    settled: str
    saved: str
    saved_share: float
    positions: list[NetPositionView]
    faults: list[str]


class MirrorView(msgspec.Struct, frozen=True):
    """Two ledgers' accounts for each other in one currency: debits less credits on both, and in transit.

    They agree when what both have and what is posted on one ledger only, so far, add up to nothing.
    """

    ledger_id: str
    peer_ledger_id: str
    currency: str
    here: str
    there: str
    in_transit: str
    agrees: bool


def show_participant(participant: Participant, ledger_id: str) -> ParticipantView:
    accounts = [
        ParticipantAccounts(currency, each.position_id, each.settlement_id)
        for currency, each in participant.accounts.items()
    ]
    return ParticipantView(
        participant.participant_id, ledger_id, participant.name, participant.kind, accounts
    )


def show_order(found: OrderRow, ledger_id: str) -> OrderView:
    row = found.row
    ledger_no, order_no, cycle_no = row["ledger_no"], row["order_no"], row["cycle_no"]
    cycle = None if cycle_no is None else cycle_id(ledger_no, cycle_no, to_micros(row["cycle_opened_at"]))
    return OrderView(
        order_id(ledger_no, order_no, to_micros(row["accepted_at"])), ledger_id, cycle, found.status,
        row["code"], row["payer"], row["payee"],
        account_id(ledger_no, row["payer_account"], to_micros(row["payer_at"])),
        account_id(ledger_no, row["payee_account"], to_micros(row["payee_at"])),
        row["currency"], money.to_text(row["amount_minor"], row["exponent"]), row["end_to_end_id"],
        None if row["uetr"] is None else str(row["uetr"]), row["accepted_at"],
        _transaction_id(row, "pay"), _transaction_id(row, "end"), _transaction_id(row, "return"),
    )  # fmt: skip


def _transaction_id(row: Any, which: str) -> str | None:
    seq, at = row[f"{which}_seq"], row[f"{which}_at"]
    return None if seq is None else ids.mint("txn", to_micros(at), row["ledger_no"], seq)


def show_cycle(
    row: CycleRow, ledger_id: str, submissions: Sequence[Submission], work: PendingWork | None
) -> CycleView:
    cycle = row.cycle
    return CycleView(
        cycle_id(row.ledger_no, cycle.cycle_no, row.opened_at), ledger_id, cycle.currency, cycle.value_date,
        cycle.cut_off_at, to_datetime(row.opened_at), cycle.state,
        [StepView(step.action, step.at, step.evidence, step.attempt) for step in cycle.steps],
        [
            SubmissionView(
                each.attempt, each.rail, each.message_id, each.orders, to_datetime(each.sent_at),
                each.verdict, each.detail,
            )
            for each in submissions
        ],
        work,
    )  # fmt: skip


def show_report(row: CycleRow, report: NettingReport, faults: list[str]) -> ReportView:
    def text(minor: int) -> str:
        return money.to_text(minor, row.exponent)

    totals = report.totals[0] if report.totals else None
    return ReportView(
        cycle_id(row.ledger_no, row.cycle.cycle_no, row.opened_at),
        row.cycle.currency,
        report.obligations_digest,
        0 if totals is None else totals.obligations,
        text(0 if totals is None else totals.gross_minor),
        text(0 if totals is None else totals.settled_minor),
        text(0 if totals is None else totals.saved_minor),
        0.0 if totals is None else totals.saved_share,
        [
            NetPositionView(
                each.participant, text(each.payable_minor), text(each.receivable_minor),
                text(each.net_minor), each.obligations,
            )
            for each in report.positions
        ],
        faults,
    )  # fmt: skip


def show_mirror(mirror: Mirror, ledger_id: str, peer_ledger_id: str) -> MirrorView:
    def text(minor: int) -> str:
        return money.to_text(minor, mirror.exponent)

    return MirrorView(
        ledger_id, peer_ledger_id, mirror.currency, text(mirror.here_minor), text(mirror.there_minor),
        text(mirror.in_transit_minor), mirror.agrees,
    )  # fmt: skip
