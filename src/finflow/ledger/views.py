"""The ledger as the world sees it: ids, decimal strings, aware datetimes; one way out for all. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from finflow.kernel import ids, money
from finflow.kernel.clock import to_datetime, to_micros
from finflow.ledger.book import Account, Entry, Record, RecordKind
from finflow.ledger.commands import Direction, PostTransaction

EntryKind = Literal["posted", "pending", "captured", "released"]
_ENTRY_KINDS: dict[RecordKind, EntryKind] = {
    "post": "posted", "reverse": "posted", "hold": "pending",
    "capture": "captured", "void": "released", "expire": "released",
}  # fmt: skip
_STATUS = {"hold": "pending", "void": "voided", "expire": "expired"}
_RESOLVED_STATUS = {"capture": "posted", "void": "voided", "expire": "expired", "reverse": "reversed"}


class TenantView(msgspec.Struct, frozen=True):
    tenant_id: str
    name: str
    created_at: datetime


class LedgerView(msgspec.Struct, frozen=True):
    ledger_id: str
    tenant_id: str
    name: str
    created_at: datetime


class AccountView(msgspec.Struct, frozen=True):
    account_id: str
    ledger_id: str
    currency: str
    kind: str
    normal_side: Direction
    status: str
    overdraft_limit: str | None
    upper_limit: str | None
    external_reference: str | None
    metadata: dict[str, str] | None
    created_at: datetime
    version: int


class BalanceView(msgspec.Struct, frozen=True):
    """Totals of an account after entry `version`; balance and available are on its normal side."""

    account_id: str
    currency: str
    version: int
    seq: int
    posted_debits: str
    posted_credits: str
    pending_debits: str
    pending_credits: str
    balance: str
    available: str


class EntryView(msgspec.Struct, frozen=True):
    """One line of an account's history; balance and available are the account's after it."""

    account_id: str
    version: int
    seq: int
    transaction_id: str
    kind: EntryKind
    direction: Direction
    amount: str
    currency: str
    balance: str
    available: str
    effective_at: datetime
    recorded_at: datetime


class HoldView(msgspec.Struct, frozen=True):
    """An amount that a pending transaction holds on an account, until it is resolved or `expires_at`."""

    transaction_id: str
    version: int
    seq: int
    direction: Direction
    amount: str
    currency: str
    reference: str | None
    recorded_at: datetime
    expires_at: datetime | None


class ChangeView(msgspec.Struct, frozen=True):
    """What somebody asked of an account or an asset: who, when, what exactly, and what came of it."""

    seq: int
    recorded_at: datetime
    caller: str
    idempotency_key: str
    kind: str
    account_id: str | None
    outcome: Literal["done", "refused"]
    code: str | None
    param: str | None
    requested: dict[str, Any]


class LineView(msgspec.Struct, frozen=True):
    account_id: str
    direction: Direction
    amount: str
    currency: str
    version: int
    balance: str


class TransactionView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A transaction as booked or, read later, with what became of it (`status`, `resolved_by_id`)."""

    transaction_id: str
    ledger_id: str
    seq: int
    kind: str
    status: str
    entries: list[LineView]
    recorded_at: datetime
    effective_at: datetime
    description: str | None = None
    reference: str | None = None
    metadata: dict[str, str] | None = None
    expires_at: datetime | None = None
    pending_id: str | None = None
    reverses_id: str | None = None
    resolved_by_id: str | None = None


class CurrencyTotals(msgspec.Struct, frozen=True):
    currency: str
    posted_debits: str
    posted_credits: str
    pending_debits: str
    pending_credits: str
    balanced: bool


class TrialBalanceView(msgspec.Struct, frozen=True):
    ledger_id: str
    seq: int
    balanced: bool
    currencies: list[CurrencyTotals]


class Label(msgspec.Struct, frozen=True, gc=False):
    """What never changes about an account and is needed to show its entries."""

    account_id: str
    currency: str
    exponent: int
    normal: int


def label_of(account: Account) -> Label:
    return Label(account.account_id, account.currency, account.exponent, account.normal)


def show_account(account: Account, ledger_id: str) -> AccountView:
    exponent = account.exponent
    return AccountView(
        account.account_id, ledger_id, account.currency, account.kind,
        "debit" if account.normal == 1 else "credit", account.status,
        None if account.floor is None else money.to_text(-account.floor, exponent),
        None if account.ceiling is None else money.to_text(account.ceiling, exponent),
        account.external_reference, account.metadata, to_datetime(account.created_at), account.version,
    )  # fmt: skip


def show_balance(account: Account, seq: int) -> BalanceView:
    def text(minor: int) -> str:
        return money.to_text(minor, account.exponent)

    return BalanceView(
        account.account_id, account.currency, account.version, seq,
        text(account.posted_debits), text(account.posted_credits),
        text(account.pending_debits), text(account.pending_credits),
        text(account.balance), text(account.available),
    )  # fmt: skip


def show_entry(entry: Entry, kind: RecordKind, recorded_at: int, ledger_no: int, label: Label) -> EntryView:
    shown = _ENTRY_KINDS[kind]
    # What a release gives back stood on the other side of zero.
    signed = -entry.held if shown == "released" else entry.amount or entry.held
    return EntryView(
        label.account_id, entry.version, entry.seq, ids.mint("txn", recorded_at, ledger_no, entry.seq), shown,
        "debit" if signed > 0 else "credit", money.to_text(abs(signed), label.exponent), label.currency,
        money.to_text(_balance(entry, label), label.exponent),
        money.to_text(_balance(entry, label) - _held_against(entry, label), label.exponent),
        to_datetime(entry.effective_at), to_datetime(recorded_at),
    )  # fmt: skip


def _balance(entry: Entry, label: Label) -> int:
    return label.normal * (entry.posted_debits - entry.posted_credits)


def _held_against(entry: Entry, label: Label) -> int:
    return entry.pending_credits if label.normal == 1 else entry.pending_debits


def show_transaction(
    record: Record,
    ledger_no: int,
    ledger_id: str,
    labels: dict[int, Label],
    target: Record | None = None,
    resolution: Record | None = None,
) -> TransactionView:
    """A journal record as a transaction.

    `target` is the one it resolves or reverses, `resolution` the one that did so to it.
    """
    command = record.command
    plain = command if isinstance(command, PostTransaction) else None
    target_id = None if target is None else target.transaction_id(ledger_no)
    status = _STATUS.get(record.kind, "posted")
    return TransactionView(
        record.transaction_id(ledger_no), ledger_id, record.seq, record.kind,
        status if resolution is None else _RESOLVED_STATUS[resolution.kind],
        [_show_line(entry, record.kind, labels[entry.account_no]) for entry in record.entries],
        to_datetime(record.recorded_at), to_datetime(record.entries[0].effective_at),
        description=getattr(command, "description", None),
        reference=plain.reference if plain else None,
        metadata=plain.metadata if plain else None,
        expires_at=None if record.expires_at is None else to_datetime(record.expires_at),
        pending_id=None if record.kind == "reverse" else target_id,
        reverses_id=target_id if record.kind == "reverse" else None,
        resolved_by_id=None if resolution is None else resolution.transaction_id(ledger_no),
    )  # fmt: skip


def _show_line(entry: Entry, kind: RecordKind, label: Label) -> LineView:
    signed = -entry.held if kind in ("void", "expire") else entry.amount or entry.held
    return LineView(
        label.account_id, "debit" if signed > 0 else "credit", money.to_text(abs(signed), label.exponent),
        label.currency, entry.version, money.to_text(_balance(entry, label), label.exponent),
    )  # fmt: skip


def show_hold(entry: Entry, row: Mapping[str, Any], ledger_no: int, label: Label) -> HoldView:
    """A pending entry with its journal row's times and reference."""
    recorded_at = to_micros(row["recorded_at"])
    return HoldView(
        ids.mint("txn", recorded_at, ledger_no, entry.seq), entry.version, entry.seq,
        "debit" if entry.held > 0 else "credit", money.to_text(abs(entry.held), label.exponent),
        label.currency, row["reference"], row["recorded_at"], row["expires_at"],
    )  # fmt: skip


def show_change(record: Record) -> ChangeView:
    account_id = getattr(record.command, "account_id", None)
    if account_id is None and record.account is not None:
        account_id = record.account.account_id
    requested = msgspec.to_builtins(record.command)
    del requested["type"]
    return ChangeView(
        record.seq, to_datetime(record.recorded_at), record.caller, record.key, record.kind, account_id,
        "done" if record.code is None else "refused", record.code, record.param, requested,
    )  # fmt: skip


def show_trial_balance(ledger_id: str, rows: Sequence[Mapping[str, Any]]) -> TrialBalanceView:
    """Rows of currency, exponent and four totals in minor units, each with the head's `seq`."""
    currencies = [_show_totals(row) for row in rows if row["currency"] is not None]
    seq = rows[0]["seq"] if rows else 0
    return TrialBalanceView(ledger_id, seq, all(totals.balanced for totals in currencies), currencies)


def _show_totals(row: Mapping[str, Any]) -> CurrencyTotals:
    names = ("posted_debits", "posted_credits", "pending_debits", "pending_credits")
    minor = [int(row[name]) for name in names]
    texts = [money.to_text(total, row["exponent"]) for total in minor]
    balanced = minor[0] == minor[1] and minor[2] == minor[3]
    return CurrencyTotals(row["currency"], texts[0], texts[1], texts[2], texts[3], balanced)
