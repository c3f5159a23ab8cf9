"""Cases: one comparison that did not match, with both effects, and what may be said of it beforehand.

An allowance says which differences of which commands are meant, why, and until when: an improvement that the
baseline does not have yet. After its last day the same difference is a mismatch again.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import yaml

from finflow.kernel import money
from finflow.kernel.clock import to_datetime
from finflow.kernel.errors import FinFlowError
from finflow.ledger.book import Account, Record
from finflow.shadow.model import Compared, Difference, Outcome, Words

MAX_ALLOWANCES: Final = 200
_MAX_BYTES: Final = 1 << 20

# What a case is about: a row of the journal, a quote, a netted cycle, an account's settings, the journal's
# seq.
Subject = Literal["command", "quote", "cycle", "account", "gap"]


class Allowance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Differences that are meant. `places` are patterns: `metadata.*`; `kinds` and `subjects` narrow it."""

    name: str
    reason: str
    expires_on: dt.date
    places: list[str]
    kinds: list[str] = []
    subjects: tuple[Subject, ...] = ("command",)

    def covers(self, subject: Subject, kind: str, differences: Sequence[Difference], today: dt.date) -> bool:
        """Whether it explains every difference, on that day."""
        meant = today <= self.expires_on and subject in self.subjects
        return (
            meant
            and (not self.kinds or kind in self.kinds)
            and all(any(fnmatchcase(d.place, place) for place in self.places) for d in differences)
        )


def read_allowances(path: Path | None) -> list[Allowance]:
    """The allow-list of a YAML file, a list of allowances. Raises file_unreadable and allowance_malformed."""
    if path is None:
        return []
    try:
        text = path.read_bytes()
    except OSError as error:
        raise FinFlowError("file_unreadable", f"{path}: {error.strerror}") from error
    try:
        if len(text) > _MAX_BYTES:
            raise ValueError("it is larger than 1 MiB")
        found = msgspec.convert(yaml.safe_load(text) or [], list[Allowance])
        _check(found)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise FinFlowError("allowance_malformed", f"{path}:{line}: {error.problem}") from error
    except (msgspec.ValidationError, yaml.YAMLError, ValueError) as error:
        raise FinFlowError("allowance_malformed", f"{path}: {error}") from error
    return found


def _check(found: list[Allowance]) -> None:
    if len(found) > MAX_ALLOWANCES:
        raise ValueError(f"more than {MAX_ALLOWANCES} allowances")
    for each in found:
        if not each.reason.strip() or not each.places:
            raise ValueError(f"{each.name}: an allowance has a reason and at least one place")


def excused(
    compared: Compared, subject: Subject, kind: str, allowances: Sequence[Allowance], today: dt.date
) -> tuple[Outcome, str | None]:
    """The outcome, `benign` with the name of the allowance where one covers all of it."""
    if compared.outcome in (Outcome.MATCH, Outcome.LATE, Outcome.FOLLOWS):
        return compared.outcome, None
    for each in allowances:
        if each.covers(subject, kind, compared.differences, today):
            return Outcome.BENIGN, each.name
    return compared.outcome, None


class Case(msgspec.Struct, frozen=True):
    """One comparison that did not match. `number` is the journal's seq, or a quote's or cycle's own number.

    `release` wrote the live row, where the journal says so; `cause` is the case that this one follows.
    """

    case_no: int
    ledger_no: int
    subject: Subject
    number: int
    outcome: Outcome
    kind: str
    found_at: dt.datetime
    recorded_at: dt.datetime
    differences: tuple[Difference, ...]
    live: Mapping[str, Any]
    shadow: Mapping[str, Any]
    release: str | None = None
    cause: int | None = None
    allowance: str | None = None

    @property
    def currencies(self) -> list[str]:
        """Currencies of the lines that either side booked."""
        lines = [*self.live.get("entries", []), *self.shadow.get("entries", [])]
        named = {line["currency"] for line in lines if line.get("currency")}
        return sorted(named | {self.shadow[k] for k in ("sell_currency", "buy_currency") if k in self.shadow})

    @property
    def rule(self) -> str:
        """Where to look first, in words."""
        places = [difference.place for difference in self.differences]
        for prefix, words in _RULES:
            if any(place.startswith(prefix) for place in places):
                return words
        return "the command's effects"


_RULES: Final = (
    ("gap", "the writing of the journal: a row is not there"),
    ("repeats", "idempotency: one intent was booked under two keys"),
    ("code", "the rules that refuse: ledger/model.py and its guards"),
    ("param", "the rules that refuse: which entry is named"),
    ("buy_minor", "rounding and rates of conversions: fx/model.py, price"),
    ("sell_minor", "rounding and rates of conversions: fx/model.py, price"),
    ("fair_minor", "rounding and rates of conversions: fx/model.py, price"),
    ("rate", "which rate is taken: fx/model.py, find_rate"),
    ("position", "netting: settlement/netting.py"),
    ("settings", "what may change of an account: ledger/account_rules.py"),
    ("entries", "which accounts are booked, and by how much"),
    ("balance_after", "the running totals of an account: ledger/book.py, apply"),
    ("effective_max", "value dates: ledger/book.py, apply"),
    ("metadata", "what is kept of a command besides its money"),
    ("description", "what is kept of a command besides its money"),
    ("reference", "what is kept of a command besides its money"),
)


def effect(
    record: Record, words: Words, accounts: Mapping[int, Account], key: str | None = None
) -> dict[str, Any]:
    """One side of a case: everything that was booked, refused or kept, amounts as people read them."""
    shown: dict[str, Any] = {"kind": record.kind, "code": record.code, "param": record.param}
    shown["entries"] = [_line(entry, accounts.get(entry.account_no)) for entry in record.entries]
    if record.entries:
        shown["effective_at"] = to_datetime(record.entries[0].effective_at).isoformat()
    if record.target is not None:
        shown["target"] = record.target
    if record.expires_at is not None:
        shown["expires_at"] = to_datetime(record.expires_at).isoformat()
    if key is not None:
        shown["key"] = key
    shown |= {name: value for name, value in words._asdict().items() if value is not None}
    if record.account is not None:
        shown["account_id"] = record.account.account_id
    return shown


def _line(entry: Any, account: Account | None) -> dict[str, Any]:
    line = {"account_no": entry.account_no, "amount_minor": entry.amount, "held_minor": entry.held}
    if account is None:
        return line
    amount = entry.amount or entry.held
    sign = "-" if amount < 0 else ""
    text = f"{sign}{money.to_text(abs(amount), account.exponent)}"
    return line | {"account_id": account.account_id, "currency": account.currency, "amount": text}
