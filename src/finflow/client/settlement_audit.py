"""The shapes of a settlement audit, as they travel: one payment order with everything that it touched."""

import datetime as dt

import msgspec

from finflow.client.settlement import Creditor, NetPosition, PaymentOrder, PendingWork, Step, Submission


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
    """The order's cycle: its timeline, the positions of payer and payee, what the rail was sent and said."""

    cycle_id: str
    state: str
    value_date: dt.date
    cut_off_at: dt.datetime
    steps: list[Step]
    positions: list[NetPosition]
    submissions: list[Submission]
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


class Audit(msgspec.Struct, frozen=True):
    """Everything about one payment order, as of one moment."""

    order: PaymentOrder
    remittance: str | None
    creditor: Creditor | None
    transactions: list[AuditTransaction]
    cycle: AuditCycle | None
    messages: list[AuditMessage]
    returned: AuditReturn | None
    movements: list[AuditMovement]
