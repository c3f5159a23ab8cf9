"""The comparer by itself: what is equal, what differs, what only follows; held by an oracle of plain sums."""

import datetime as dt
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from finflow.kernel.errors import FinFlowError
from finflow.ledger import commands as c
from finflow.ledger.book import Account, Book, Entry, Leg, Record
from finflow.shadow.cases import Allowance, excused, read_allowances
from finflow.shadow.model import (
    EVEN,
    Compared,
    Difference,
    Known,
    Outcome,
    Side,
    Totals,
    bound,
    compare,
    repeats,
    totals_of,
    words_of,
)

TODAY = dt.date(2026, 6, 1)
AT = 1_780_000_000_000_000


def entry(account_no: int = 1, amount: int = 100, **changes: Any) -> Entry:
    debits, credited = max(amount, 0), max(-amount, 0)
    return replace(Entry(account_no, 1, 5, amount, 0, debits, credited, 0, 0, AT, None), **changes)


def record(*entries: Entry, **changes: Any) -> Record:
    return replace(Record(5, AT, "post", "k", "me", c.PostTransaction(), entries=entries), **changes)


def judged(one: Record, other: Record, **state: Any) -> Compared:
    before = state.pop("before", {})
    return compare(
        Side(one, words_of(one.command)), Side(other, words_of(other.command)), before,
        state.pop("known", {}), state.pop("wrong_targets", {}),
    )  # fmt: skip


PLAIN = record(entry(1, 100), entry(2, -100))


@pytest.mark.parametrize(
    ("live", "outcome", "place"),
    [
        (record(entry(1, 101), entry(2, -101)), Outcome.MISMATCH, "entries[0]"),
        (record(entry(1, -100), entry(2, 100)), Outcome.MISMATCH, "entries[0]"),
        (record(entry(1, 100), entry(3, -100)), Outcome.MISMATCH, "entries[1]"),
        (record(entry(2, -100), entry(1, 100)), Outcome.MISMATCH, "entries[0]"),
        (record(entry(1, 100), entry(2, -100), entry(3, 0)), Outcome.MISMATCH, "entries[2]"),
        (record(entry(1, 100, posted_debits=90), entry(2, -100)), Outcome.MISMATCH, "balance_after[1]"),
        (record(entry(1, 100, version=2), entry(2, -100)), Outcome.MISMATCH, "balance_after[1]"),
        (record(entry(1, 100, late_at=5), entry(2, -100)), Outcome.MISMATCH, "entries[0]"),
        (record(entry(1, 100, effective_max=AT + 9, late_at=AT), entry(2, -100)), Outcome.MISMATCH,
         "effective_max[1]"),
        (record(code="exceeds_available", param="entries[0]"), Outcome.REFUSED_DIFFERENTLY, "code"),
        (replace(PLAIN, kind="hold"), Outcome.MISMATCH, "kind"),
        (replace(PLAIN, target=-7), Outcome.MISMATCH, "target"),
        (replace(PLAIN, expires_at=AT), Outcome.MISMATCH, "expires_at"),
        (replace(PLAIN, command=c.PostTransaction(metadata={"a": "b"})), Outcome.MISMATCH, "metadata.a"),
        (replace(PLAIN, command=c.PostTransaction(description="x")), Outcome.MISMATCH, "description"),
        (replace(PLAIN, command=c.PostTransaction(reference="x")), Outcome.MISMATCH, "reference"),
    ],
)  # fmt: skip
def test_each_difference_has_its_place(live: Record, outcome: Outcome, place: str) -> None:
    found = judged(live, PLAIN)
    assert found.outcome is outcome
    assert place in [difference.place for difference in found.differences]


def test_what_may_differ_is_nothing() -> None:
    # Ids are made from seq and times, which are the same; when a refused hold would have ended is no effect.
    refused = record(code="unbalanced", param="entries", expires_at=AT)
    assert judged(refused, replace(refused, expires_at=None)).outcome is Outcome.MATCH
    assert judged(PLAIN, replace(PLAIN)).outcome is Outcome.MATCH


def test_a_known_distance_is_no_news() -> None:
    apart = Totals(0, 900, 0, 0, 0)
    known = {1: Known(apart, 7)}
    live = record(entry(1, 100, posted_debits=1_000), entry(2, -100))
    same = judged(live, PLAIN, known=known)
    assert (same.outcome, same.differences) == (Outcome.MATCH, ())
    further = judged(record(entry(1, 100, posted_debits=1_001), entry(2, -100)), PLAIN, known=known)
    assert (further.outcome, further.cause) == (Outcome.MISMATCH, None)


def test_consequences_name_their_case() -> None:
    poor = record(code="exceeds_available", param="entries[0]")
    known = {1: Known(Totals(0, -50, 0, 0, 0), 7)}
    before = {1: EVEN, 2: EVEN}
    follows = judged(poor, PLAIN, known=known, before=before)
    assert (follows.outcome, follows.cause) == (Outcome.FOLLOWS, 7)
    # A refusal that no balance explains is a case of its own, on whatever account.
    own = judged(record(code="currency_mismatch", param="entries[0]"), PLAIN, known=known, before=before)
    assert own.outcome is Outcome.REFUSED_DIFFERENTLY
    back = c.ReverseTransaction("txn_x")
    live = record(entry(1, -900), command=back, target=3)
    shadow = record(entry(1, -90), command=back, target=3)
    reversed_ = judged(live, shadow, wrong_targets={3: 9}, before={1: EVEN})
    assert (reversed_.outcome, reversed_.cause) == (Outcome.FOLLOWS, 9)


# --- against an oracle: two books, one of them at times wrong ------------------------------------------


def _account(account_no: int) -> Account:
    return Account(1, account_no, 1, AT, "SGD", 2, "asset", 1, "open", None, None)


def _sum(entries: list[Entry], account_no: int) -> tuple[int, int]:
    mine = [e for e in entries if e.account_no == account_no]
    return sum(e.amount for e in mine), sum(e.held for e in mine)


@given(st.integers(0, 2**32), st.lists(st.integers(0, 7), min_size=1, max_size=60))
def test_every_wrong_command_is_found_and_no_other(seed: int, plan: list[int]) -> None:
    """Live and shadow book the same lines, but for those of the plan that are 0: there live goes wrong."""
    dice = Random(seed)  # noqa: S311 - drawn by hypothesis
    books = Book(1), Book(1)
    for book in books:
        for account_no in (1, 2, 3):
            book.add(_account(account_no))
    known: dict[int, Known] = {}
    written: tuple[list[Entry], list[Entry]] = ([], [])
    for seq, kind in enumerate(plan, 1):
        first, second = dice.sample((1, 2, 3), 2)
        amount, held = dice.randrange(1, 500), kind == 1
        wrong = kind == 0
        sides = []
        before = {no: totals_of(account) for no, account in books[1].by_number.items()}
        for which, book in enumerate(books):
            real = amount + dice.randrange(1, 50) if wrong and which == 0 else amount
            posted, hold = (0, real) if held else (real, 0)
            legs = [
                Leg(book.by_number[first], 1, posted, hold),
                Leg(book.by_number[second], -1, posted, hold),
            ]
            entries = tuple(book.apply(leg, seq, AT + seq) for leg in legs)
            written[which].extend(entries)
            sides.append(Side(Record(seq, AT, "post", str(seq), "me", c.PostTransaction(), entries=entries),
                              words_of(None)))  # fmt: skip
        touched = {no: before[no] for no in (first, second)}
        found = compare(sides[0], sides[1], touched, known, {})
        assert found.outcome is (Outcome.MISMATCH if wrong else Outcome.MATCH)
        for account_no, delta in found.deltas.items():
            if wrong or account_no in known:
                known[account_no] = Known(delta, seq)
    for account_no in (1, 2, 3):
        mine, its = _sum(written[0], account_no), _sum(written[1], account_no)
        delta = known[account_no].delta if account_no in known else EVEN
        assert delta.net[0] == mine[0] - its[0]
        assert delta.pending_debits - delta.pending_credits == mine[1] - its[1]


@given(st.integers(1, 10**9))
def test_the_bound_is_three_over_n(compared: int) -> None:
    # The exact bound of no event among n is 1 - 0.05 ** (1/n); three over n is never below it.
    found = bound(compared)
    assert found is not None
    assert found >= 1 - 0.05 ** (1 / compared) - 1e-12
    assert bound(0) is None


@pytest.mark.parametrize(
    ("key", "earlier", "repeated"),
    [
        ("pay-7-retry", "pay-7", True), ("pay-7", "pay-7:1", True), ("ABC", "abc", True),
        ("pay-71", "pay-7", False), ("pay-8", "pay-7", False), ("a", "b", False),
    ],
)  # fmt: skip
def test_keys_that_repeat_others(key: str, earlier: str, repeated: bool) -> None:
    assert repeats(key, earlier) is repeated


# --- what is meant ---------------------------------------------------------------------------------------

MISMATCH = Compared(Outcome.MISMATCH, (Difference("metadata.a", 1, 2), Difference("metadata.b", 1, 2)))


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, Outcome.BENIGN),
        ({"expires_on": TODAY}, Outcome.BENIGN),
        ({"expires_on": TODAY - dt.timedelta(days=1)}, Outcome.MISMATCH),
        ({"places": ["metadata.a"]}, Outcome.MISMATCH),
        ({"kinds": ["capture"]}, Outcome.MISMATCH),
        ({"subjects": ("quote",)}, Outcome.MISMATCH),
    ],
)
def test_an_allowance_covers_all_or_nothing(changes: dict[str, Any], outcome: Outcome) -> None:
    allowance = Allowance("n", "why", TODAY + dt.timedelta(days=9), ["metadata.*"])
    found = excused(MISMATCH, "command", "post", [replace(allowance, **changes)], TODAY)
    assert found == (outcome, "n" if outcome is Outcome.BENIGN else None)


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"- &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'x'}]\n" for n in range(9)),
        "- name: x", "- {name: x, reason: ' ', expires_on: 2026-01-01, places: [a]}", "{", "3",
        "- {name: x, reason: y, expires_on: soon, places: [a]}",
        "- {name: x, reason: y, expires_on: 2026-01-01, places: []}",
        "- {name: x, reason: y, expires_on: 2026-01-01, places: [a], oops: 1}",
    ],
)  # fmt: skip
def test_a_malformed_allow_list_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "allow.yaml").write_text(text)
    with pytest.raises(FinFlowError, match="allowance_malformed"):
        read_allowances(tmp_path / "allow.yaml")


def test_an_allow_list_is_read(tmp_path: Path) -> None:
    path = tmp_path / "allow.yaml"
    path.write_text("- {name: x, reason: y, expires_on: 2026-01-31, places: ['metadata.*'], kinds: [post]}\n")
    [found] = read_allowances(path)
    assert (found.expires_on, found.kinds) == (dt.date(2026, 1, 31), ["post"])
    assert read_allowances(None) == []
