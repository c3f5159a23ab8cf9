"""The shapes that travel. Pure.

Amounts are decimal strings in the currency's own decimals, moments are aware datetimes in UTC. What the
server sends is read by name: a field that this release does not know is left aside.
"""

from datetime import datetime
from typing import Any, Literal

import msgspec

Direction = Literal["debit", "credit"]
AccountKind = Literal["asset", "liability", "equity", "income", "expense"]
AccountStatus = Literal["open", "frozen", "closed"]
TransactionKind = Literal["post", "hold", "capture", "void", "expire", "reverse"]
TransactionStatus = Literal["posted", "pending", "voided", "expired", "reversed"]
Order = Literal["newest", "oldest"]
# RFC 3339 with a time zone where it is text.
Moment = datetime | str


class Tenant(msgspec.Struct, frozen=True):
    """A tenant: whoever owns ledgers."""

    tenant_id: str
    name: str
    created_at: datetime


class Ledger(msgspec.Struct, frozen=True):
    """One set of books."""

    ledger_id: str
    tenant_id: str
    name: str
    created_at: datetime


class Asset(msgspec.Struct, frozen=True):
    """A currency of a ledger's own; `exponent` is its number of decimals."""

    ledger_id: str
    code: str
    exponent: int


class Account(msgspec.Struct, frozen=True):
    """An account; `overdraft_limit` None is unlimited, `upper_limit` None is none.

    `etag` names this state of it: a change can be made to depend on it.
    """

    account_id: str
    ledger_id: str
    currency: str
    kind: AccountKind
    normal_side: Direction
    status: AccountStatus
    overdraft_limit: str | None
    upper_limit: str | None
    external_reference: str | None
    metadata: dict[str, str] | None
    created_at: datetime
    version: int
    etag: str | None = None


class NewAccount(msgspec.Struct, frozen=True):
    """What an account is opened with; an `overdraft_limit` of None is unlimited."""

    ledger_id: str
    currency: str
    kind: AccountKind
    external_reference: str | None = None
    overdraft_limit: str | None = "0"
    metadata: dict[str, str] = {}
    upper_limit: str | None = None


class AccountChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """What changes about an account; what is left UNSET stays as it is, None lifts a limit."""

    status: AccountStatus | msgspec.UnsetType = msgspec.UNSET
    overdraft_limit: str | msgspec.UnsetType | None = msgspec.UNSET
    upper_limit: str | msgspec.UnsetType | None = msgspec.UNSET
    metadata: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET


class Balance(msgspec.Struct, frozen=True):
    """Totals of an account after its entry `version`; balance and available are on its normal side."""

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


class Entry(msgspec.Struct, frozen=True):
    """One line of an account's history; balance and available are the account's after it."""

    account_id: str
    version: int
    seq: int
    transaction_id: str
    kind: Literal["posted", "pending", "captured", "released"]
    direction: Direction
    amount: str
    currency: str
    balance: str
    available: str
    effective_at: datetime
    recorded_at: datetime


class Hold(msgspec.Struct, frozen=True):
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


class Change(msgspec.Struct, frozen=True):
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


class Leg(msgspec.Struct, frozen=True):
    """One entry of a transaction to be posted; `amount` is a decimal string above zero."""

    account_id: str
    direction: Direction
    amount: str
    currency: str


class NewTransaction(msgspec.Struct, frozen=True, omit_defaults=True):
    """A transaction to be posted, or with `pending` to be held for at most `timeout_s` seconds.

    Without an `idempotency_key` the client makes one for the call. Give one, and keep it, where the intent
    outlives your process: an order's id, a row's.
    """

    idempotency_key: str | None = None
    entries: tuple[Leg, ...] = ()
    description: str | None = None
    reference: str | None = None
    effective_at: Moment | None = None
    metadata: dict[str, str] = {}
    pending: bool = False
    timeout_s: int | None = None


class Line(msgspec.Struct, frozen=True):
    """One entry of a booked transaction; `balance` is the account's after it, on its normal side."""

    account_id: str
    direction: Direction
    amount: str
    currency: str
    version: int
    balance: str


class Transaction(msgspec.Struct, frozen=True, omit_defaults=True):
    """A transaction as booked, or read later with what became of it.

    `replayed`: the answer is that of an earlier request with the same key.
    """

    transaction_id: str
    ledger_id: str
    seq: int
    kind: TransactionKind
    status: TransactionStatus
    entries: list[Line]
    recorded_at: datetime
    effective_at: datetime
    description: str | None = None
    reference: str | None = None
    metadata: dict[str, str] | None = None
    expires_at: datetime | None = None
    pending_id: str | None = None
    reverses_id: str | None = None
    resolved_by_id: str | None = None
    replayed: bool = False


class TransactionFilter(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which transactions of a ledger; `from` is inclusive and `before` is not, so that ranges tile."""

    after_seq: int | None = None
    account_id: str | None = None
    reference: str | None = None
    status: TransactionStatus | None = None
    kind: TransactionKind | None = None
    effective_from: Moment | None = None
    effective_before: Moment | None = None
    recorded_from: Moment | None = None
    recorded_before: Moment | None = None
    order: Order = "oldest"


class BatchResult(msgspec.Struct, frozen=True):
    """The outcome of one member of a batch: 201, or the status and code of its refusal."""

    idempotency_key: str
    status: int
    transaction_id: str | None = None
    seq: int | None = None
    code: str | None = None
    detail: str | None = None
    param: str | None = None
    replayed: bool = False


class BatchAnswer(msgspec.Struct, frozen=True):
    """The outcomes of a batch, in the order of its members."""

    results: list[BatchResult]


class CurrencyTotal(msgspec.Struct, frozen=True):
    """Totals of one currency over a ledger."""

    currency: str
    posted_debits: str
    posted_credits: str
    pending_debits: str
    pending_credits: str
    balanced: bool


class TrialBalance(msgspec.Struct, frozen=True):
    """Whether debits equal credits in every currency, and the totals that say so."""

    ledger_id: str
    seq: int
    balanced: bool
    currencies: list[CurrencyTotal]
