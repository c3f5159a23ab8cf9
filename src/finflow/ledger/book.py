"""The state that decisions are made on: accounts with their totals, and the transactions commands name.

A book is the accumulator of a fold over the journal. It holds only what the commands at hand need, knows
the `seq` it is exact at, and can take back what it applied since a mark. Pure: no I/O, no clock.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Literal, NamedTuple

import msgspec

from finflow.kernel import ids, money
from finflow.ledger.commands import AccountKind, AccountStatus, Command, Metadata

DEBIT = 1
CREDIT = -1

RecordKind = Literal[
    "post", "hold", "capture", "void", "expire", "reverse", "open_account", "change_account", "declare_asset"
]
NO_VALUE_DATE = -(1 << 62)


class Account(msgspec.Struct, gc=False):
    """An account and its totals after entry `version`. All amounts in minor units, times in microseconds."""

    ledger_no: int
    account_no: int
    seq: int
    created_at: int
    currency: str
    exponent: int
    kind: AccountKind
    normal: int
    status: AccountStatus
    floor: int | None
    ceiling: int | None
    external_reference: str | None = None
    metadata: Metadata | None = None
    version: int = 0
    posted_debits: int = 0
    posted_credits: int = 0
    pending_debits: int = 0
    pending_credits: int = 0
    effective_max: int = NO_VALUE_DATE
    known_id: str = ""

    @property
    def account_id(self) -> str:
        # It never changes and is asked for often: minted once.
        if not self.known_id:
            self.known_id = ids.mint("acc", self.created_at, self.ledger_no, self.account_no)
        return self.known_id

    @property
    def settings_tag(self) -> str:
        """A hash of all that a change of the account can touch; equal settings have equal tags."""
        settings = (self.status, self.floor, self.ceiling, self.metadata)
        return blake2b(msgspec.json.encode(settings, order="sorted"), digest_size=8).hexdigest()

    @property
    def balance(self) -> int:
        """Posted balance on the account's normal side."""
        return self.normal * (self.posted_debits - self.posted_credits)

    @property
    def available(self) -> int:
        """What can still be taken: the balance less every hold that would lower it."""
        held = self.pending_credits if self.normal == DEBIT else self.pending_debits
        return self.normal * (self.posted_debits - self.posted_credits) - held

    @property
    def expected(self) -> int:
        """The balance if every hold that would raise it were posted."""
        held = self.pending_debits if self.normal == DEBIT else self.pending_credits
        return self.normal * (self.posted_debits - self.posted_credits) + held


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One line of the books: what it changed (debits positive) and the account's totals after it."""

    account_no: int
    version: int
    seq: int
    amount: int
    held: int
    posted_debits: int
    posted_credits: int
    pending_debits: int
    pending_credits: int
    effective_max: int
    late_at: int | None

    @property
    def effective_at(self) -> int:
        return self.effective_max if self.late_at is None else self.late_at


class Leg(msgspec.Struct, frozen=True, gc=False):
    """A change about to be applied: direction, minor units posted, minor units held (negative: released)."""

    account: Account
    direction: int
    posted: int
    held: int


class Target(msgspec.Struct, gc=False):
    """A transaction that commands may name, its lines as (account number, direction, amount).

    Or a quote that a transaction uses up: `seq` is its number made negative, and it has no lines.
    """

    seq: int
    transaction_id: str
    kind: RecordKind
    lines: tuple[tuple[int, int, int], ...]
    expires_at: int | None
    resolved_by: RecordKind | None


class Record(msgspec.Struct, gc=False):
    """A journal row: the command as decided, its outcome (`code` None: accepted) and its effects."""

    seq: int
    recorded_at: int
    kind: RecordKind
    key: str
    caller: str
    command: Command
    code: str | None = None
    param: str | None = None
    target: int | None = None
    expires_at: int | None = None
    entries: tuple[Entry, ...] = ()
    account: Account | None = None
    replayed: bool = False

    def transaction_id(self, ledger_no: int) -> str:
        return ids.mint("txn", self.recorded_at, ledger_no, self.seq)


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why a command changes nothing: a code of the catalogue and the place in the command."""

    code: str
    param: str | None = None


class Head(NamedTuple):
    """How far a ledger is: last `seq`, last account number, last booking time in microseconds."""

    seq: int
    account_no: int
    recorded_at: int


_Undo = tuple[Account, Leg, int] | Callable[[], None]


class Book:
    """Accounts by id and by number, targets by seq, assets by code; exact at `seq` and `recorded_at`."""

    def __init__(self, ledger_no: int) -> None:
        self.ledger_no = ledger_no
        self.reset(Head(0, 0, 0))

    def reset(self, head: Head) -> None:
        """Forget everything that may be stale and stand at a head that was read under its lock."""
        self.seq, self.account_no, self.recorded_at = head
        self.accounts: dict[str, Account] = {}
        self.by_number: dict[int, Account] = {}
        self.targets: dict[int, Target] = {}
        self.references: dict[str, bool] = {}
        self.assets: dict[str, int] | None = None
        self._undo: list[_Undo] = []

    @property
    def head(self) -> Head:
        return Head(self.seq, self.account_no, self.recorded_at)

    def add(self, account: Account) -> None:
        self.accounts[account.account_id] = account
        self.by_number[account.account_no] = account

    def forget(self, account_no: int) -> None:
        """An account that somebody else changed is read anew when it is needed."""
        account = self.by_number.pop(account_no, None)
        if account is not None:
            del self.accounts[account.account_id]

    def exponent_of(self, currency: str) -> int | None:
        """Decimals of an ISO currency or of an asset of this ledger; None if it is neither."""
        exponent = money.exponent_of(currency)
        return (self.assets or {}).get(currency) if exponent is None else exponent

    def mark(self) -> int:
        """A point that the book can be taken back to."""
        return len(self._undo)

    def settle(self) -> None:
        """What was applied so far stays: forget how to undo it."""
        self._undo.clear()

    def on_roll_back(self, undo: Callable[[], None]) -> None:
        """How to take back what was just done to the book other than by `apply`."""
        self._undo.append(undo)

    def roll_back(self, mark: int) -> None:
        """Undo everything since the mark, newest first."""
        while len(self._undo) > mark:
            step = self._undo.pop()
            if isinstance(step, tuple):
                _unapply(*step)
            else:
                step()

    def apply(self, leg: Leg, seq: int, effective_at: int) -> Entry:
        """Book one leg on its account and return the entry that says so."""
        account, direction, posted, held = leg.account, leg.direction, leg.posted, leg.held
        effective_max = account.effective_max
        self._undo.append((account, leg, effective_max))
        account.version += 1
        if direction == DEBIT:
            account.posted_debits += posted
            account.pending_debits += held
        else:
            account.posted_credits += posted
            account.pending_credits += held
        late_at = None
        if effective_at >= effective_max:
            account.effective_max = effective_max = effective_at
        else:
            late_at = effective_at
        return Entry(
            account.account_no, account.version, seq, direction * posted, direction * held,
            account.posted_debits, account.posted_credits, account.pending_debits, account.pending_credits,
            effective_max, late_at,
        )  # fmt: skip


def _unapply(account: Account, leg: Leg, effective_max: int) -> None:
    account.effective_max = effective_max
    account.version -= 1
    if leg.direction == DEBIT:
        account.posted_debits -= leg.posted
        account.pending_debits -= leg.held
    else:
        account.posted_credits -= leg.posted
        account.pending_credits -= leg.held
