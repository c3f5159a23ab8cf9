"""A second ledger, written from the words of the rules: slow, plain, one command at a time.

It keeps decimals, not minor units; lists, not running totals; every balance is summed anew when it is
asked for. It collects every rule that a command breaks and answers the one that stands first in the
documented order, so it needs no order of its own. It shares no code with the ledger but the shapes of
the commands, the documented order, and the ids that the ledger gave out, which it takes as names.
"""

import re
import string
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext

from msgspec import UNSET

from finflow.ledger import commands as c
from finflow.ledger.model import PRECEDENCE

EXPONENTS = {"JPY": 0, "KRW": 0, "SGD": 2, "USD": 2, "CZK": 2, "BHD": 3, "KWD": 3, "CLF": 4}
LARGEST = 2**63 - 1
PLAIN = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Line:
    """One entry: what it booked and held (debits positive), and when it counts."""

    seq: int
    posted: Decimal
    held: Decimal
    effective_at: datetime


@dataclass
class Account:
    account_id: str
    currency: str
    exponent: int
    kind: str
    overdraft: Decimal | None
    upper: Decimal | None
    reference: str | None
    metadata: dict[str, str] | None
    status: str = "open"
    lines: list[Line] = field(default_factory=list)

    def totals(self) -> tuple[Decimal, Decimal, Decimal, Decimal]:
        """Posted debits and credits, pending debits and credits."""
        return totals_of(self.lines, self.debits_held, self.credits_held)

    # A hold and its release stand on one side of the account, so each side is a sum by itself.
    debits_held: Decimal = Decimal(0)
    credits_held: Decimal = Decimal(0)

    @property
    def sign(self) -> int:
        return 1 if self.kind in ("asset", "expense") else -1

    @property
    def balance(self) -> Decimal:
        return self.sign * sum((line.posted for line in self.lines), Decimal(0))

    @property
    def available(self) -> Decimal:
        return self.balance - (self.credits_held if self.sign == 1 else self.debits_held)

    @property
    def expected(self) -> Decimal:
        return self.balance + (self.debits_held if self.sign == 1 else self.credits_held)


def totals_of(
    lines: list[Line], debits_held: Decimal, credits_held: Decimal
) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    debits = sum((line.posted for line in lines if line.posted > 0), Decimal(0))
    credited = sum((-line.posted for line in lines if line.posted < 0), Decimal(0))
    return debits, credited, debits_held, credits_held


@dataclass
class Transaction:
    """An accepted transaction: its lines (account, +1 debit or -1 credit, amount), what became of it."""

    seq: int
    transaction_id: str
    kind: str
    lines: list[tuple[Account, int, Decimal]]
    expires_at: datetime | None = None
    resolved_by: str | None = None


Change = tuple[Account, int, Decimal, Decimal]  # account, side, booked, held (negative: released)


class Ledger:
    """State after every command so far. `seq` counts commands, refused ones too."""

    def __init__(self) -> None:
        self.seq = 0
        self.accounts: dict[str, Account] = {}
        self.transactions: dict[str, Transaction] = {}
        self.assets: dict[str, int] = {}
        self.references: set[str] = set()

    # --- one command ---

    def decide(self, command: c.Command, at: int, new_id: str) -> str | None:
        """The code of the refusal or None. `new_id` names what an accepted command makes, `at` is in µs."""
        with localcontext() as context:
            context.prec = 80
            self.seq += 1
            now = EPOCH + timedelta(microseconds=at)
            return getattr(self, f"_{type(command).__name__}")(command, now, new_id)

    def _PostTransaction(self, command: c.PostTransaction, now: datetime, new_id: str) -> str | None:  # noqa: N802 - named after the command
        broken = too_long(command.description, command.reference, command.metadata)
        broken |= text_rules(command.reference) | date_rules(command.effective_at)
        timeout_s = 1 if command.timeout_s is None else command.timeout_s
        broken |= {"timeout_out_of_range"} if timeout_s not in range(1, 366 * 24 * 3600 + 1) else set()
        broken |= {"too_few_entries"} if len(command.entries) < 2 else set()
        broken |= {"too_many_entries"} if len(command.entries) > 1000 else set()
        for line in command.entries:
            broken |= self._line_rules(line)
        if broken:
            return first(broken)
        lines = [
            (self.accounts[e.account_id], 1 if e.direction == "debit" else -1, Decimal(e.amount))
            for e in command.entries
        ]
        sums: dict[str, Decimal] = defaultdict(Decimal)
        for account, side, amount in lines:
            sums[account.currency] += side * amount
        if any(sums.values()):
            return "unbalanced"
        kind = "hold" if command.pending else "post"
        changes = [
            (account, side, Decimal(0), amount) if command.pending else (account, side, amount, Decimal(0))
            for account, side, amount in lines
        ]
        expires = None
        if command.pending and command.timeout_s is not None:
            expires = now + timedelta(seconds=command.timeout_s)
        code = self._book(changes, command.effective_at or now)
        if code is None:
            self.transactions[new_id] = Transaction(self.seq, new_id, kind, lines, expires)
        return code

    def _line_rules(self, line: c.EntryLine) -> set[str]:
        account = self.accounts.get(line.account_id)
        if account is None:
            return {"account_unknown"}
        broken = amount_rules(line.amount, account.exponent)
        broken |= {f"account_{account.status}"} if account.status != "open" else set()
        return broken | ({"currency_mismatch"} if line.currency != account.currency else set())

    def _book(self, changes: list[Change], effective_at: datetime) -> str | None:
        """Book all changes, look at the accounts, take all back if one breaks a rule."""
        for account, side, booked, held in changes:
            account.lines.append(Line(self.seq, side * booked, side * held, effective_at))
            account.debits_held += held if side == 1 else 0
            account.credits_held += held if side == -1 else 0
        broken = set().union(*(balance_rules(account) for account, *_ in changes))
        if not broken:
            return None
        for account, side, _, held in changes:
            account.lines.pop()
            account.debits_held -= held if side == 1 else 0
            account.credits_held -= held if side == -1 else 0
        return first(broken)

    # --- what becomes of a transaction ---

    def _PostPending(self, command: c.PostPending, now: datetime, new_id: str) -> str | None:  # noqa: N802 - named after the command
        target = self.transactions.get(command.transaction_id)
        broken = too_long(command.description) | date_rules(command.effective_at)
        broken |= self._pending_rules(target, now)
        if target is None or broken:
            return first(broken)
        held = target.lines
        part = command.amount
        if part is not None and len(held) != 2:
            broken.add("capture_needs_two_entries")
        broken |= {f"account_{a.status}" for a, *_ in held if a.status != "open"}
        if part is not None:
            wrong = amount_rules(part, held[0][0].exponent)
            broken |= wrong or ({"capture_exceeds_pending"} if Decimal(part) > held[0][2] else set())
        if broken:
            return first(broken)
        booked = [(a, side, amount if part is None else Decimal(part)) for a, side, amount in held]
        changes = [
            (a, side, now_booked[2], -amount)
            for (a, side, amount), now_booked in zip(held, booked, strict=True)
        ]
        return self._resolve(target, "capture", booked, changes, command.effective_at or now, new_id)

    def _VoidPending(self, command: c.VoidPending, now: datetime, new_id: str) -> str | None:  # noqa: N802 - named after the command
        target = self.transactions.get(command.transaction_id)
        broken = too_long(command.description) | self._pending_rules(target, None)
        if target is None or broken:
            return first(broken)
        return self._release(target, "void", now, new_id)

    def _ExpirePending(self, command: c.ExpirePending, now: datetime, new_id: str) -> str | None:  # noqa: N802 - named after the command
        target = self.transactions.get(command.transaction_id)
        broken = self._pending_rules(target, None)
        if target is not None and (target.expires_at is None or target.expires_at > now):
            broken.add("not_expired")
        if target is None or broken:
            return first(broken)
        return self._release(target, "expire", now, new_id)

    def _ReverseTransaction(self, command: c.ReverseTransaction, now: datetime, new_id: str) -> str | None:  # noqa: N802 - named after the command
        target = self.transactions.get(command.transaction_id)
        broken = too_long(command.description) | date_rules(command.effective_at)
        if target is None:
            return first(broken | {"transaction_unknown"})
        broken |= {"not_reversible"} if target.kind not in ("post", "capture") else set()
        broken |= {"already_reversed"} if target.resolved_by == "reverse" else set()
        if not broken:
            broken |= {f"account_{a.status}" for a, *_ in target.lines if a.status != "open"}
        if broken:
            return first(broken)
        booked = [(a, -side, amount) for a, side, amount in target.lines]
        changes = [(a, side, amount, Decimal(0)) for a, side, amount in booked]
        return self._resolve(target, "reverse", booked, changes, command.effective_at or now, new_id)

    def _pending_rules(self, target: Transaction | None, now: datetime | None) -> set[str]:
        if target is None:
            return {"transaction_unknown"}
        if target.kind != "hold":
            return {"not_pending"}
        if target.resolved_by is not None:
            return {
                {"capture": "already_posted", "void": "already_voided", "expire": "already_expired"}[
                    target.resolved_by
                ]
            }
        late = now is not None and target.expires_at is not None and target.expires_at <= now
        return {"already_expired"} if late else set()

    def _release(self, target: Transaction, kind: str, now: datetime, new_id: str) -> str | None:
        changes = [(a, side, Decimal(0), -amount) for a, side, amount in target.lines]
        return self._resolve(target, kind, [], changes, now, new_id)

    def _resolve(
        self, target: Transaction, kind: str, booked: list[tuple[Account, int, Decimal]],
        changes: list[Change], effective_at: datetime, new_id: str,
    ) -> str | None:  # fmt: skip
        code = self._book(changes, effective_at)
        if code is None:
            target.resolved_by = kind
            self.transactions[new_id] = Transaction(self.seq, new_id, kind, booked)
        return code

    # --- accounts and assets ---

    def exponent_of(self, currency: str) -> int | None:
        return EXPONENTS.get(currency, self.assets.get(currency))

    def _OpenAccount(self, command: c.OpenAccount, now: datetime, new_id: str) -> str | None:  # noqa: N802 - named after the command
        broken = too_long(None, command.external_reference, command.metadata)
        broken |= text_rules(command.external_reference)
        exponent = self.exponent_of(command.currency)
        if exponent is None:
            return first(broken | {"currency_unknown"})
        broken |= limit_rules(command.overdraft_limit, exponent) | limit_rules(command.upper_limit, exponent)
        broken |= {"external_reference_taken"} if command.external_reference in self.references else set()
        if broken:
            return first(broken)
        if command.external_reference is not None:
            self.references.add(command.external_reference)
        self.accounts[new_id] = Account(
            new_id, command.currency, exponent, command.kind, limit(command.overdraft_limit),
            limit(command.upper_limit), command.external_reference, command.metadata,
        )  # fmt: skip
        return None

    def _ChangeAccount(self, command: c.ChangeAccount, now: datetime, new_id: str) -> str | None:  # noqa: N802 - named after the command
        account = self.accounts.get(command.account_id)
        broken = too_long(None, None, None if command.metadata is UNSET else command.metadata)
        if account is None:
            return first(broken | {"account_unknown"})
        overdraft, upper = account.overdraft, account.upper
        broken |= {"account_closed"} if account.status == "closed" else set()
        for text in (command.overdraft_limit, command.upper_limit):
            broken |= limit_rules(None if text is UNSET else text, account.exponent)
        if broken:
            return first(broken)
        overdraft = overdraft if command.overdraft_limit is UNSET else limit(command.overdraft_limit)
        upper = upper if command.upper_limit is UNSET else limit(command.upper_limit)
        below = overdraft is not None and account.available < -overdraft
        above = upper is not None and account.expected > upper
        broken |= {"limit_in_use"} if below or above else set()
        empty = account.balance == 0 and not account.debits_held and not account.credits_held
        broken |= {"account_not_empty"} if command.status == "closed" and not empty else set()
        if broken:
            return first(broken)
        account.overdraft, account.upper = overdraft, upper
        account.metadata = account.metadata if command.metadata is UNSET else command.metadata
        account.status = account.status if command.status is UNSET else command.status
        return None

    def _DeclareAsset(self, command: c.DeclareAsset, now: datetime, new_id: str) -> str | None:  # noqa: N802 - named after the command
        broken = set()
        if not 1 <= len(command.code) <= 20:
            broken.add("field_too_long")
        elif not set(command.code) <= set(string.ascii_uppercase + string.digits) or command.code.isdigit():
            broken.add("text_malformed")
        if command.code in EXPONENTS or self.assets.get(command.code, command.exponent) != command.exponent:
            broken.add("asset_conflict")
        if not broken:
            self.assets[command.code] = command.exponent
        return first(broken)


def first(broken: set[str]) -> str | None:
    """The broken rule that the documented order names first."""
    return min(broken, key=PRECEDENCE.index) if broken else None


def too_long(
    description: str | None = None, reference: str | None = None, metadata: dict[str, str] | None = None
) -> set[str]:
    size = sum(len(name) + len(value) for name, value in (metadata or {}).items())
    long = len(description or "") > 500 or len(reference or "") > 140 or size > 4096
    return {"field_too_long"} if long else set()


def text_rules(text: str | None) -> set[str]:
    return {"text_malformed"} if "\0" in (text or "") else set()


def date_rules(moment: datetime | None) -> set[str]:
    try:
        if moment is not None:
            # A day of the calendar on either side is kept free.
            moment.astimezone(UTC) - timedelta(days=1)
            moment.astimezone(UTC) + timedelta(days=1)
    except OverflowError:
        return {"value_date_out_of_range"}
    return set()


def amount_rules(text: str, exponent: int) -> set[str]:
    """Which rules of amounts a text breaks."""
    if not PLAIN.fullmatch(text):
        return {"amount_malformed"}
    value = Decimal(text)
    broken = {"amount_not_positive"} if value <= 0 else set()
    broken |= {"amount_too_precise"} if len(text.partition(".")[2]) > exponent else set()
    return broken | ({"amount_out_of_range"} if abs(value).scaleb(exponent) > LARGEST else set())


def limit_rules(text: str | None, exponent: int) -> set[str]:
    """A limit is an amount that may be zero."""
    if text is None:
        return set()
    broken = amount_rules(text, exponent)
    zero = PLAIN.fullmatch(text) is not None and Decimal(text) == 0 and not text.startswith("-")
    return broken - {"amount_not_positive"} if zero else broken


def limit(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def balance_rules(account: Account) -> set[str]:
    """Which rules an account breaks as it stands."""
    broken = set()
    if any(total.scaleb(account.exponent) > LARGEST for total in account.totals()):
        broken.add("balance_out_of_range")
    if account.overdraft is not None and account.available < -account.overdraft:
        broken.add("exceeds_available")
    if account.upper is not None and account.expected > account.upper:
        broken.add("exceeds_limit")
    return broken
