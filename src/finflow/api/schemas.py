"""The shapes of requests and answers that are the interface's own; the ledger's views are the rest.

Bodies and queries refuse fields that they do not know: a misspelt `effective_at` must not book today.
"""

from typing import Annotated, Literal

import msgspec

from finflow.ledger.commands import (
    AccountKind,
    AccountStatus,
    EntryLine,
    Metadata,
    Moment,
    PostTransaction,
)
from finflow.ledger.lists import Kind, Status
from finflow.ledger.model import MAX_TIMEOUT_S
from finflow.ledger.views import (
    AccountView,
    ChangeView,
    EntryView,
    HoldView,
    LedgerView,
    TenantView,
    TransactionView,
)

MAX_PAGE = 1_000
MAX_BATCH = 10_000

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Order = Literal["newest", "oldest"]
Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)]
Position = Annotated[int, msgspec.Meta(ge=0, le=(1 << 62) - 1)]


class NewTenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Name


class NewLedger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A ledger of the caller's tenant, which its token names."""

    name: Name


class NewAsset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A currency of one's own on a ledger; `exponent` is its number of decimals."""

    ledger_id: str
    code: str
    exponent: Annotated[int, msgspec.Meta(ge=0, le=18)]


class NewAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an account is opened with; a null `overdraft_limit` is unlimited, a null `upper_limit` none."""

    ledger_id: str
    currency: str
    kind: AccountKind
    overdraft_limit: str | None = "0"
    upper_limit: str | None = None
    external_reference: str | None = None
    metadata: Metadata | None = None


class AccountChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What changes about an account; a field that is left out stays as it is."""

    status: AccountStatus | msgspec.UnsetType = msgspec.UNSET
    overdraft_limit: str | msgspec.UnsetType | None = msgspec.UNSET
    upper_limit: str | msgspec.UnsetType | None = msgspec.UNSET
    metadata: Metadata | msgspec.UnsetType | None = msgspec.UNSET


class TransactionFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a transaction says, alone or in a batch."""

    entries: list[EntryLine]
    pending: bool = False
    timeout_s: Annotated[int, msgspec.Meta(ge=1, le=MAX_TIMEOUT_S)] | None = None
    description: str | None = None
    reference: str | None = None
    effective_at: Moment | None = None
    metadata: Metadata | None = None

    def command(self) -> PostTransaction:
        return PostTransaction(
            self.entries, self.pending, self.timeout_s, self.description, self.reference, self.effective_at,
            self.metadata,
        )  # fmt: skip


class NewTransaction(TransactionFields, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A transaction to be posted, or with `pending` to be held."""

    ledger_id: str


class BatchMember(TransactionFields, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A transaction of a batch; without a key of its own it gets the header's key, a colon and its index."""

    idempotency_key: str | None = None


class NewBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Transactions to be posted in order; with `atomic` all or none."""

    ledger_id: str
    transactions: list[BatchMember]
    atomic: bool = False


class Capture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Posting a pending transaction, whole or up to `amount`."""

    amount: str | None = None
    description: str | None = None
    effective_at: Moment | None = None


class Expiry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Expiring a pending transaction takes nothing but its id."""


class StatusChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Freezing, unfreezing and closing take nothing but the account's id."""


class Void(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    description: str | None = None


class Reversal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    description: str | None = None
    effective_at: Moment | None = None


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query of a route that takes none."""


class BatchQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the lines of an NDJSON batch belong; a JSON batch says it in its body."""

    ledger_id: str | None = None
    atomic: bool = False


class PageQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which part of a list: `cursor` is the `next` of the page before, and keeps to that page's filter."""

    cursor: str | None = None
    limit: Limit = 50


class AccountsQuery(PageQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    ledger_id: str
    external_reference: str | None = None


class BalanceQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Now, or as booked by `as_of`, or by value date `effective_at`, or after journal row `at_seq`."""

    as_of: Moment | None = None
    effective_at: Moment | None = None
    at_seq: Position | None = None


class EntriesQuery(PageQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    order: Order = "newest"


class HoldsQuery(PageQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    order: Order = "oldest"


class ChangesQuery(PageQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    order: Order = "newest"


class TransactionsQuery(PageQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which transactions of a ledger. `from` is inclusive and `before` is not, so that ranges tile."""

    ledger_id: str
    after_seq: Position = 0
    account_id: str | None = None
    reference: str | None = None
    status: Status | None = None
    kind: Kind | None = None
    effective_from: Moment | None = None
    effective_before: Moment | None = None
    recorded_from: Moment | None = None
    recorded_before: Moment | None = None
    order: Order = "oldest"


class Asset(msgspec.Struct, frozen=True):
    ledger_id: str
    code: str
    exponent: int


class TenantPage(msgspec.Struct, frozen=True):
    """Tenants in the order of their making; `next` is the next page's `cursor`, null at the end."""

    items: list[TenantView]
    next: str | None


class LedgerPage(msgspec.Struct, frozen=True):
    """Ledgers in the order of their opening; `next` is the next page's `cursor`, null at the end."""

    items: list[LedgerView]
    next: str | None


class AccountPage(msgspec.Struct, frozen=True):
    """Accounts in the order of their opening; `next` is the next page's `cursor`, null at the end."""

    items: list[AccountView]
    next: str | None


class EntryPage(msgspec.Struct, frozen=True):
    """Entries in the order asked for; `next` is the next page's `cursor`, null at the end."""

    items: list[EntryView]
    next: str | None


class HoldPage(msgspec.Struct, frozen=True):
    """Open holds; a page may be shorter than its limit, `next` is null only at the end."""

    items: list[HoldView]
    next: str | None


class ChangePage(msgspec.Struct, frozen=True):
    """What was asked of accounts and assets; `next` is the next page's `cursor`, null at the end."""

    items: list[ChangeView]
    next: str | None


class TransactionPage(msgspec.Struct, frozen=True):
    """Transactions; a page may be shorter than its limit, `next` is null only at the end."""

    items: list[TransactionView]
    next: str | None


class MemberResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one member: 201 with its transaction, or the status and code of its refusal."""

    idempotency_key: str
    status: int
    replayed: bool
    transaction_id: str | None = None
    seq: int | None = None
    code: str | None = None
    detail: str | None = None
    param: str | None = None


class BatchResult(msgspec.Struct, frozen=True):
    """The outcomes of a batch in the order of its members; the three counts add up to their number."""

    posted: int
    refused: int
    replayed: int
    results: list[MemberResult]


class Health(msgspec.Struct, frozen=True):
    status: str
    pid: int
    release: str


class Readiness(msgspec.Struct, frozen=True):
    status: str
    database: str


class Problem(msgspec.Struct, frozen=True):
    """RFC 9457 problem details with the catalogue's code, and the request's id to quote."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    param: str | None
    hint: str
    request_id: str
    retryable: bool
