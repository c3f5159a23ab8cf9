"""What a caller can ask of a ledger: the commands, exactly as they are received, kept and decided again.

Amounts are decimal strings in the currency of the account and always positive; the direction says debit
or credit. A command is a plain value without bounds of its own: they are rules, and stand in `model.py`, so
that the journal can be read by a release with other bounds.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec

Direction = Literal["debit", "credit"]
AccountKind = Literal["asset", "liability", "equity", "income", "expense"]
AccountStatus = Literal["open", "frozen", "closed"]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Metadata = dict[str, str]


class EntryLine(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One line of a transaction: which account, which side, how much."""

    account_id: str
    direction: Direction
    amount: str
    currency: str


class QuoteUse(msgspec.Struct, frozen=True, gc=False):
    """The quote that a transaction uses up: its number on this ledger, and its last moment."""

    number: int
    expires_at: Moment


class PostTransaction(msgspec.Struct, frozen=True, tag="post", omit_defaults=True):
    """Book a transaction, or with `pending` hold its amounts until it is posted, voided or times out.

    With `quote` only if no accepted transaction of the ledger used that quote before, and not after its end.
    """

    entries: list[EntryLine] = []
    pending: bool = False
    timeout_s: int | None = None
    description: str | None = None
    reference: str | None = None
    effective_at: Moment | None = None
    metadata: Metadata | None = None
    quote: QuoteUse | None = None


class PostPending(msgspec.Struct, frozen=True, tag="capture", omit_defaults=True):
    """Post a pending transaction, whole or, with `amount`, in part; the rest of the hold is released."""

    transaction_id: str
    amount: str | None = None
    description: str | None = None
    effective_at: Moment | None = None


class VoidPending(msgspec.Struct, frozen=True, tag="void", omit_defaults=True):
    """Release a pending transaction's holds without booking anything."""

    transaction_id: str
    description: str | None = None


class ExpirePending(msgspec.Struct, frozen=True, tag="expire", omit_defaults=True):
    """Release a pending transaction's holds because its time is over; refused before that."""

    transaction_id: str


class ReverseTransaction(msgspec.Struct, frozen=True, tag="reverse", omit_defaults=True):
    """Book the opposite of a posted transaction, at most once."""

    transaction_id: str
    description: str | None = None
    effective_at: Moment | None = None


class OpenAccount(msgspec.Struct, frozen=True, tag="open_account", omit_defaults=True):
    """Open an account. Overdraft limit None means unlimited, upper limit None means none."""

    currency: str
    kind: AccountKind
    overdraft_limit: str | None = "0"
    upper_limit: str | None = None
    external_reference: str | None = None
    metadata: Metadata | None = None


class ChangeAccount(msgspec.Struct, frozen=True, tag="change_account", omit_defaults=True):
    """Change what an account may do. A field left out (UNSET) stays as it is; null limits are unlimited.

    With `if_match` only if the account's settings are one of those that these tags stand for.
    """

    account_id: str
    status: AccountStatus | msgspec.UnsetType = msgspec.UNSET
    overdraft_limit: str | msgspec.UnsetType | None = msgspec.UNSET
    upper_limit: str | msgspec.UnsetType | None = msgspec.UNSET
    metadata: Metadata | msgspec.UnsetType | None = msgspec.UNSET
    if_match: list[str] | None = None


class DeclareAsset(msgspec.Struct, frozen=True, tag="declare_asset"):
    """Declare a currency of one's own on this ledger: points, shares, metal."""

    code: str
    exponent: int


TransactionCommand = PostTransaction | PostPending | VoidPending | ExpirePending | ReverseTransaction
MOVES_MONEY: Final = (PostTransaction, PostPending, VoidPending, ExpirePending, ReverseTransaction)
Command = TransactionCommand | OpenAccount | ChangeAccount | DeclareAsset


class Request(msgspec.Struct, frozen=True, gc=False):
    """A command under its idempotency key, and who sent it."""

    key: str
    command: Command
    caller: str


Requests = Sequence[Request]
