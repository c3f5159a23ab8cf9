"""Reconciliation: lines that a bank reports against movements that the ledger expects. Pure.

Rules run in order, from exact to weak, and each sees only what those before it left over. A rule matches a
pair only if both sides have no other candidate under it: an ambiguous match is a break for a person, never
a guess. What is left becomes breaks with their age.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final, Literal, TypeVar

import msgspec

Rule = Literal["uetr", "end_to_end", "instruction", "batch_total", "reference_in_text", "amount_and_day"]
BreakKind = Literal["missing", "unexpected", "amount_differs"]

NOT_PROVIDED: Final = "NOTPROVIDED"
PROMISE_S: Final = 300
# A reference shorter than this turns up in a text by chance.
_MIN_REFERENCE: Final = 6
_MAX_DAYS_APART: Final = 1
# Thousands of payments of one amount would make the weak rules quadratic, and them ambiguous anyway.
_MAX_CANDIDATES: Final = 200

T = TypeVar("T")


class Expected(msgspec.Struct, frozen=True):
    """A movement that should show on an account: positive amounts come in. `batch` groups what is booked
    in one sum; `since` is when it was expected from."""

    id: str
    account: str
    currency: str
    amount_minor: int
    value_date: dt.date
    since: dt.datetime
    uetr: str | None = None
    end_to_end_id: str | None = None
    instruction_id: str | None = None
    batch: str | None = None
    owner: str | None = None


class Line(msgspec.Struct, frozen=True):
    """A movement that a bank has reported, in the same signs; `since` is when the report came in.

    `booking` is the bank's own reference of it, the same in every report.
    """

    id: str
    account: str
    currency: str
    amount_minor: int
    value_date: dt.date
    since: dt.datetime
    uetr: str | None = None
    end_to_end_id: str | None = None
    instruction_id: str | None = None
    batch: str | None = None
    text: str = ""
    booking: str | None = None


class Match(msgspec.Struct, frozen=True):
    """A line and what it settles: one movement, or all of a batch. `matched_at` is when both were there."""

    rule: Rule
    line_id: str
    expected_ids: tuple[str, ...]
    latency_s: float


class Break(msgspec.Struct, frozen=True):
    """What does not agree, how old it is in seconds, and who is to look at it.

    `difference_minor` is reported minus expected.
    """

    kind: BreakKind
    currency: str
    difference_minor: int
    age_s: float
    line_id: str | None = None
    expected_id: str | None = None
    owner: str | None = None


class Reconciliation(msgspec.Struct, frozen=True):
    """All matches and all breaks, oldest first, and the figures of the five-minute promise."""

    matches: tuple[Match, ...]
    breaks: tuple[Break, ...]
    matched_within_promise: int
    oldest_unmatched_s: float

    @property
    def share_within_promise(self) -> float:
        """Of the expected movements that are matched or overdue, those matched in time; 1 of none."""
        late = sum(each.age_s > PROMISE_S for each in self.breaks if each.expected_id is not None)
        total = sum(len(each.expected_ids) for each in self.matches) + late
        return self.matched_within_promise / total if total else 1.0


class _Pool:
    """What is still unmatched on both sides, in the order in which it came."""

    def __init__(self, expected: Iterable[Expected], lines: Iterable[Line]) -> None:
        self.expected = {each.id: each for each in expected}
        self.lines = {each.id: each for each in lines}
        self.matches: list[Match] = []

    def take(self, rule: Rule, line: Line, found: Sequence[Expected]) -> None:
        latency = max((line.since - each.since).total_seconds() for each in found)
        self.matches.append(Match(rule, line.id, tuple(each.id for each in found), max(0.0, latency)))
        del self.lines[line.id]
        for each in found:
            del self.expected[each.id]


def reconcile(
    expected: Sequence[Expected], lines: Sequence[Line], now: dt.datetime, uetr_only: bool = False
) -> Reconciliation:
    """Everything matched that can be, and the rest as breaks. Ids must be unique on each side.

    `uetr_only` is for a part of what is open: under the other rules, a second candidate may be in the rest.
    """
    pool = _Pool(expected, lines)
    assert len(pool.expected) == len(expected), "two expected movements have one id"
    assert len(pool.lines) == len(lines), "two lines have one id"
    _pair(pool, "uetr", lambda each: _known(each.uetr))
    if not uetr_only:
        _pair(pool, "end_to_end", lambda each: _known(each.end_to_end_id))
        _pair(pool, "instruction", lambda each: _known(each.instruction_id))
        _pair_batches(pool)
        _pair_by_text(pool)
        _pair_by_day(pool)
    breaks = sorted(_breaks(pool, now), key=lambda each: -each.age_s)
    within = sum(len(each.expected_ids) for each in pool.matches if each.latency_s <= PROMISE_S)
    return Reconciliation(
        tuple(pool.matches), tuple(breaks), within, max((each.age_s for each in breaks), default=0.0)
    )


def _known(reference: str | None) -> str | None:
    return None if not reference or reference == NOT_PROVIDED else reference


def _money(each: Expected | Line) -> tuple[str, str, int]:
    return each.account, each.currency, each.amount_minor


def _grouped(items: Iterable[T], key: Callable[[T], Hashable | None]) -> dict[Hashable, list[T]]:
    groups: dict[Hashable, list[T]] = defaultdict(list)
    for each in items:
        found = key(each)
        if found is not None:
            groups[found].append(each)
    return groups


def _pair(pool: _Pool, rule: Rule, reference: Callable[[Expected | Line], str | None]) -> None:
    """Match what has the same reference and the same money, where both are alone with them."""

    def key(each: Expected | Line) -> Hashable | None:
        found = reference(each)
        return None if found is None else (found, *_money(each))

    expected = _grouped(pool.expected.values(), key)
    for shared, lines in _grouped(pool.lines.values(), key).items():
        found = expected.get(shared, [])
        if len(lines) == 1 and len(found) == 1:
            pool.take(rule, lines[0], found)


def _pair_batches(pool: _Pool) -> None:
    """Match a line with a whole batch of its name, if the batch adds up to it."""
    batches = _grouped(pool.expected.values(), _batch)
    lines = _grouped(pool.lines.values(), _batch)
    for name, found in lines.items():
        members = batches.get(name, [])
        same_currency = {each.currency for each in members} == {found[0].currency}
        total = sum(each.amount_minor for each in members)
        if len(found) == 1 and same_currency and total == found[0].amount_minor:
            pool.take("batch_total", found[0], members)


def _batch(each: Expected | Line) -> Hashable | None:
    return (each.account, each.batch) if each.batch else None


def _candidates(expected: dict[Hashable, list[Expected]], line: Line) -> list[Expected]:
    """The movements of a line's money; none if so many share it that each pair cannot be looked at."""
    found = expected.get(_money(line), [])
    return found if len(found) <= _MAX_CANDIDATES else []


def _pair_by_text(pool: _Pool) -> None:
    """Match a line whose text holds the reference of one movement of the same money, and of no other."""
    expected = _grouped(pool.expected.values(), _money)
    chosen: dict[str, list[Line]] = defaultdict(list)
    for line in pool.lines.values():
        found = [each for each in _candidates(expected, line) if _named_in(each, line.text)]
        if len(found) == 1:
            chosen[found[0].id].append(line)
    for expected_id, lines in chosen.items():
        if len(lines) == 1:
            pool.take("reference_in_text", lines[0], [pool.expected[expected_id]])


def _named_in(expected: Expected, text: str) -> bool:
    references = (_known(expected.end_to_end_id), _known(expected.instruction_id), _known(expected.uetr))
    return any(each is not None and len(each) >= _MIN_REFERENCE and each in text for each in references)


def _pair_by_day(pool: _Pool) -> None:
    """Match the same money within a day, where neither side has a second candidate or another reference."""
    expected = _grouped(pool.expected.values(), _money)
    candidates: dict[str, list[Expected]] = {}
    claims: dict[str, int] = defaultdict(int)
    for line in pool.lines.values():
        found = [each for each in _candidates(expected, line) if _close(each, line)]
        candidates[line.id] = found
        for each in found:
            claims[each.id] += 1
    for line_id, found in candidates.items():
        if len(found) == 1 and claims[found[0].id] == 1:
            pool.take("amount_and_day", pool.lines[line_id], found)


def _close(expected: Expected, line: Line) -> bool:
    apart = abs((expected.value_date - line.value_date).days)
    # Two different UETRs are two different payments, whatever else agrees.
    contradicts = expected.uetr is not None and line.uetr is not None and expected.uetr != line.uetr
    return apart <= _MAX_DAYS_APART and not contradicts


def _breaks(pool: _Pool, now: dt.datetime) -> Iterable[Break]:
    """What is left. A line and a movement of the same UETR or end-to-end reference are one break."""
    by_reference = _grouped(pool.expected.values(), _reference)
    explained: set[str] = set()
    for line in pool.lines.values():
        found = by_reference.get(_reference(line), []) if _reference(line) else []
        age = (now - line.since).total_seconds()
        if len(found) == 1 and found[0].currency == line.currency and found[0].id not in explained:
            other = found[0]
            explained.add(other.id)
            older = max(age, (now - other.since).total_seconds())
            difference = line.amount_minor - other.amount_minor
            yield Break("amount_differs", line.currency, difference, older, line.id, other.id, other.owner)
        else:
            yield Break("unexpected", line.currency, line.amount_minor, age, line_id=line.id)
    for each in pool.expected.values():
        if each.id not in explained:
            age = (now - each.since).total_seconds()
            yield Break(
                "missing", each.currency, -each.amount_minor, age, expected_id=each.id, owner=each.owner
            )


def _reference(each: Expected | Line) -> Hashable | None:
    reference = _known(each.uetr) or _known(each.end_to_end_id)
    return None if reference is None else (each.account, reference)
