"""The comparer: what a command did in the live books against what the baseline makes of it. Pure.

Effects are compared, never answers: the lines booked, the totals that they left, the code of a refusal, the
words that are kept. Once a command went wrong, the totals of its accounts differ for good: that difference
is carried per account, so that the commands after it are judged by what they did themselves, and a refusal
that comes from it is a consequence (`follows`) of the case that caused it.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec

from finflow.kernel.clock import to_datetime
from finflow.ledger.book import Account, Entry, Record
from finflow.ledger.commands import OpenAccount, PostTransaction

LATE_AFTER_US: Final = 300 * 1_000_000
# How long a command is remembered as one that a second row may repeat.
REPEAT_WITHIN_US: Final = 120 * 1_000_000

# Refusals that depend on what is on an account, or on what became of a transaction.
_OF_STATE: Final = frozenset(
    {
        "exceeds_available", "exceeds_limit", "balance_out_of_range", "limit_in_use", "account_not_empty",
        "account_frozen", "account_closed", "precondition_failed", "capture_exceeds_pending",
    }
)  # fmt: skip
_OF_TARGET: Final = frozenset(
    {
        "transaction_unknown", "not_pending", "already_posted", "already_voided", "already_expired",
        "not_reversible", "already_reversed", "not_expired", "quote_used", "group_refused",
    }
)  # fmt: skip


class Outcome(StrEnum):
    """What a comparison says."""

    MATCH = "match"
    LATE = "late"
    BENIGN = "benign"
    FOLLOWS = "follows"
    MISMATCH = "mismatch"
    MISSING = "missing"
    EXTRA = "extra"
    REFUSED_DIFFERENTLY = "refused-differently"


# Any of these, once, and the release is not what it replaces.
WRONG: Final = (Outcome.MISMATCH, Outcome.MISSING, Outcome.EXTRA, Outcome.REFUSED_DIFFERENTLY)


class Totals(NamedTuple):
    """An account's totals after an entry, or the difference of two, in minor units."""

    version: int = 0
    posted_debits: int = 0
    posted_credits: int = 0
    pending_debits: int = 0
    pending_credits: int = 0

    def plus(self, other: "Totals") -> "Totals":
        return Totals(*map(int.__add__, self, other))

    def minus(self, other: "Totals") -> "Totals":
        return Totals(*map(int.__sub__, self, other))

    @property
    def net(self) -> tuple[int, int, int]:
        """What the account is worth: posted net, and what is held on either side."""
        return self.posted_debits - self.posted_credits, self.pending_debits, self.pending_credits


EVEN: Final = Totals()


class Known(NamedTuple):
    """How far an account of the live books is from the shadow's already, and the case that began it."""

    delta: Totals
    case_no: int


class Difference(msgspec.Struct, frozen=True):
    """One place where the two effects differ; None is what the one side does not have."""

    place: str
    live: Any
    shadow: Any


class Compared(msgspec.Struct, frozen=True):
    """The word on one command: where it differs, how far apart it leaves accounts, what it follows."""

    outcome: Outcome
    differences: tuple[Difference, ...] = ()
    deltas: Mapping[int, Totals] = {}
    cause: int | None = None


class Words(NamedTuple):
    """What is kept of a command besides its money."""

    description: str | None
    reference: str | None
    metadata: Mapping[str, str] | None


class Side(msgspec.Struct, frozen=True, gc=False):
    """What one side made of a command: its record, and the words that it keeps."""

    record: Record
    words: Words


def words_of(command: object) -> Words:
    """What a command has to say besides money."""
    return Words(
        getattr(command, "description", None),
        getattr(command, "reference", None),
        getattr(command, "metadata", None) if isinstance(command, PostTransaction) else None,
    )


def totals_of(thing: Entry | Account) -> Totals:
    """The totals that an entry left, or an account has."""
    return Totals(
        thing.version, thing.posted_debits, thing.posted_credits, thing.pending_debits, thing.pending_credits
    )  # fmt: skip


def compare(
    live: Side,
    shadow: Side,
    before: Mapping[int, Totals],
    known: Mapping[int, Known],
    wrong_targets: Mapping[int, int],
) -> Compared:
    """Judge one command.

    `before` are the shadow's totals, before it, of the accounts that it touches on either side; `known` are
    the accounts that differ already, `wrong_targets` the cases of transactions that did, by `seq`.
    """
    one, other = live.record, shadow.record
    same = one.code == other.code and one.param == other.param and one.entries == other.entries
    if same and _facts(one) == _facts(other) and live.words == shadow.words:
        return Compared(Outcome.MATCH)
    differences = _fact_differences(one, other) + _word_differences(live.words, shadow.words, other)
    differences += _line_differences(one.entries, other.entries)
    deltas, unexplained = _deltas(one.entries, other.entries, before, known)
    differences += unexplained
    if not differences:
        # Only the totals differ, and by what was known before.
        return Compared(Outcome.MATCH, deltas=deltas)
    cause = _cause(one, other, known, before, wrong_targets, bool(unexplained))
    return Compared(_outcome(one, other, cause), tuple(differences), deltas, cause)


def _outcome(one: Record, other: Record, cause: int | None) -> Outcome:
    if cause is not None:
        return Outcome.FOLLOWS
    refused = one.code != other.code or one.param != other.param
    return Outcome.REFUSED_DIFFERENTLY if refused else Outcome.MISMATCH


def _facts(record: Record) -> tuple[Any, ...]:
    return record.kind, record.target, _expiry(record), _opened(record)


def _expiry(record: Record) -> int | None:
    """When a hold ends; of one that was refused nothing ends, whatever its row says."""
    return record.expires_at if record.code is None else None


def _opened(record: Record) -> tuple[Any, ...] | None:
    """What never changes of an account; what may is compared when both have caught up."""
    account = record.account
    if account is None or not isinstance(record.command, OpenAccount):
        return None
    return account.account_no, account.currency, account.exponent, account.kind, account.external_reference


def _fact_differences(one: Record, other: Record) -> list[Difference]:
    pairs = {
        "code": (one.code, other.code),
        "param": (one.param, other.param),
        "kind": (one.kind, other.kind),
        "target": (one.target, other.target),
        "expires_at": (_moment(_expiry(one)), _moment(_expiry(other))),
        "account": (_opened(one), _opened(other)),
    }
    return [Difference(place, *pair) for place, pair in pairs.items() if pair[0] != pair[1]]


def _word_differences(one: Words, other: Words, shadow: Record) -> list[Difference]:
    names = Words._fields if shadow.code is None else ()
    found = [
        Difference(name, getattr(one, name), getattr(other, name)) for name in names if name != "metadata"
    ]
    if names:
        mine, its = one.metadata or {}, other.metadata or {}
        found += [
            Difference(f"metadata.{k}", mine.get(k), its.get(k)) for k in sorted(mine.keys() | its.keys())
        ]
    return [each for each in found if each.live != each.shadow]


def _line_differences(one: Sequence[Entry], other: Sequence[Entry]) -> list[Difference]:
    """Lines by place; those that only one side has are None on the other."""
    found = []
    for place in range(max(len(one), len(other))):
        mine = _line(one[place]) if place < len(one) else None
        its = _line(other[place]) if place < len(other) else None
        if mine != its:
            found.append(Difference(f"entries[{place}]", mine, its))
    return found


def _line(entry: Entry) -> dict[str, Any]:
    return {
        "account_no": entry.account_no,
        "amount_minor": entry.amount,
        "held_minor": entry.held,
        "effective_at": _moment(entry.effective_at),
    }


def _moment(micros: int | None) -> str | None:
    return None if micros is None else to_datetime(micros).isoformat()


def _deltas(
    one: Sequence[Entry], other: Sequence[Entry], before: Mapping[int, Totals], known: Mapping[int, Known]
) -> tuple[dict[int, Totals], list[Difference]]:
    """How far apart each touched account is after this, and what of it no line explains."""
    deltas: dict[int, Totals] = {}
    found: list[Difference] = []
    mine, its = _by_account(one), _by_account(other)
    for account_no in sorted(mine.keys() | its.keys()):
        start = before.get(account_no, EVEN)
        held = known[account_no].delta if account_no in known else EVEN
        lines, twins = mine.get(account_no, []), its.get(account_no, [])
        after = totals_of(twins[-1]) if twins else start
        expected = start.plus(held)
        left = totals_of(lines[-1]) if lines else expected
        deltas[account_no] = left.minus(after)
        if lines and not _adds_up(
            lines, left.minus(expected), held == left.minus(after), _same_lines(lines, twins)
        ):
            shown = (
                dict(zip(Totals._fields, left, strict=True)),
                dict(zip(Totals._fields, expected, strict=True)),
            )
            found.append(Difference(f"balance_after[{account_no}]", *shown))
        elif (
            account_no not in known and lines and twins and lines[-1].effective_max != twins[-1].effective_max
        ):
            pair = _moment(lines[-1].effective_max), _moment(twins[-1].effective_max)
            found.append(Difference(f"effective_max[{account_no}]", *pair))
    return deltas, found


def _by_account(entries: Iterable[Entry]) -> dict[int, list[Entry]]:
    found: dict[int, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.account_no, []).append(entry)
    return found


def _same_lines(one: Sequence[Entry], other: Sequence[Entry]) -> bool:
    return [(e.amount, e.held) for e in one] == [(e.amount, e.held) for e in other]


def _adds_up(lines: Sequence[Entry], change: Totals, carried: bool, same: bool) -> bool:
    """Whether live totals moved by exactly the lines that stand on the account.

    Where both sides have the same lines, the accounts stay as far apart as they were, on every total.
    """
    if same:
        return carried
    posted = change.posted_debits - change.posted_credits
    held = change.pending_debits - change.pending_credits
    told = (len(lines), sum(e.amount for e in lines), sum(e.held for e in lines))
    return (change.version, posted, held) == told


def _cause(
    one: Record,
    other: Record,
    known: Mapping[int, Known],
    touched: Iterable[int],
    wrong_targets: Mapping[int, int],
    unexplained: bool,
) -> int | None:
    """The case that a difference is a consequence of, or None: then it is a case of its own."""
    if unexplained:
        return None
    for target in (other.target, one.target):
        if target is not None and target in wrong_targets and type(one.command) is not PostTransaction:
            return wrong_targets[target]
    codes = {one.code, other.code} - {None}
    if one.code == other.code or not codes <= _OF_STATE | _OF_TARGET:
        return None
    return next((known[no].case_no for no in touched if no in known), None)


def bound(compared: int) -> float | None:
    """None wrong of so many: with 95 % confidence, a smaller share than this is. None for none compared."""
    return min(1.0, 3 / compared) if compared else None


def fingerprint(record: Record) -> tuple[Any, ...] | None:
    """What two postings of one intent have in common besides their keys; None for what cannot be doubled."""
    command = record.command
    if record.code is not None or not isinstance(command, PostTransaction) or command.quote is not None:
        return None
    lines = tuple((e.account_no, e.amount, e.held) for e in record.entries)
    metadata = tuple(sorted((command.metadata or {}).items()))
    return (record.caller, lines, command.description, command.reference, metadata)


def repeats(key: str, earlier: str) -> bool:
    """Whether a key is another one with something added, as a program makes it that forgets what it has done.

    Keys of clients are random or counted: `pay-7` is not `pay-7-retry`, and `pay-71` does not repeat `pay-7`.
    """
    short, long = sorted((key, earlier), key=len)
    if len(short) == len(long):
        return short.casefold() == long.casefold()
    return long.startswith(short) and not long[len(short)].isalnum()
