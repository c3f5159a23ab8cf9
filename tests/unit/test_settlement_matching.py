"""Reconciliation and duplicates: nothing is matched twice or by guess, and what is left is a break."""

import datetime as dt
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finflow.kernel.errors import FinFlowError
from finflow.settlement import duplicates
from finflow.settlement.duplicates import MessageKey, Seen
from finflow.settlement.matching import Expected, Line, reconcile

_LATER = dt.date(2026, 7, 1)
_NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
_DAY = dt.date(2026, 6, 1)
_OWED = Expected("e1", "acc", "SGD", 500, _DAY, _NOW - dt.timedelta(seconds=100), end_to_end_id="INV-2026-1")
_BOOKED = Line("l1", "acc", "SGD", 500, _DAY, _NOW - dt.timedelta(seconds=40))
_U1, _U2 = "8a562c67-ca16-48ba-b074-65581be6f011", "8a562c67-ca16-48ba-b074-65581be6f012"


def _owed(**changes: object) -> Expected:
    return msgspec.structs.replace(_OWED, **changes)


def _booked(**changes: object) -> Line:
    return msgspec.structs.replace(_BOOKED, **changes)


@pytest.mark.parametrize(
    ("expected", "line", "rule"),
    [
        (_owed(uetr=_U1), _booked(uetr=_U1), "uetr"),
        (_owed(), _booked(end_to_end_id="INV-2026-1"), "end_to_end"),
        (_owed(instruction_id="I-1"), _booked(instruction_id="I-1"), "instruction"),
        (_owed(batch="B-1"), _booked(batch="B-1"), "batch_total"),
        (
            _owed(),
            _booked(text="payment of INV-2026-1, thanks", value_date=dt.date(2026, 7, 1)),
            "reference_in_text",
        ),
        (_owed(), _booked(value_date=dt.date(2026, 6, 2)), "amount_and_day"),
        (_owed(), _booked(value_date=dt.date(2026, 6, 3)), None),
        (_owed(uetr=_U1), _booked(uetr=_U2), None),
        (_owed(uetr=_U1), _booked(uetr=_U1, amount_minor=499), None),
        (_owed(uetr=_U1), _booked(uetr=_U1, amount_minor=-500), None),
        (_owed(uetr=_U1), _booked(uetr=_U1, currency="USD"), None),
        (_owed(uetr=_U1), _booked(uetr=_U1, account="other"), None),
        (
            _owed(end_to_end_id="NOTPROVIDED"),
            _booked(end_to_end_id="NOTPROVIDED", value_date=_LATER),
            None,
        ),
    ],
)
def test_one_pair_under_each_rule(expected: Expected, line: Line, rule: str | None) -> None:
    found = reconcile([expected], [line], _NOW)
    assert [each.rule for each in found.matches] == ([rule] if rule else [])
    if rule:
        assert found.matches[0].latency_s == 60
        assert (found.breaks, found.share_within_promise) == ((), 1.0)
    else:
        assert found.breaks


def test_a_line_settles_a_batch_only_if_it_adds_up() -> None:
    batch = [_owed(id=f"e{number}", end_to_end_id=None, batch="B", amount_minor=100) for number in range(5)]
    found = reconcile(batch, [_booked(batch="B")], _NOW)
    assert [each.expected_ids for each in found.matches] == [("e0", "e1", "e2", "e3", "e4")]
    short = reconcile(batch[:4], [_booked(batch="B")], _NOW)
    assert short.matches == ()


def test_two_candidates_are_a_question_for_a_person() -> None:
    twins = [_owed(id="e1", end_to_end_id=None), _owed(id="e2", end_to_end_id=None)]
    found = reconcile(twins, [_booked()], _NOW)
    assert found.matches == ()
    assert Counter(each.kind for each in found.breaks) == {"missing": 2, "unexpected": 1}
    # Two lines of one reference: the bank booked it twice, or it is not the reference of one payment.
    doubled = reconcile([_owed(uetr=_U1)], [_booked(id="l1", uetr=_U1), _booked(id="l2", uetr=_U1)], _NOW)
    assert doubled.matches == ()


def test_an_amount_that_differs_is_one_break_with_its_difference_age_and_owner() -> None:
    found = reconcile([_owed(uetr=_U1, owner="ops")], [_booked(uetr=_U1, amount_minor=470)], _NOW)
    (difference,) = found.breaks
    assert (difference.kind, difference.difference_minor, difference.owner) == ("amount_differs", -30, "ops")
    assert difference.age_s == 100
    assert (difference.line_id, difference.expected_id) == ("l1", "e1")


def test_the_promise_counts_what_is_late_and_not_what_is_young() -> None:
    def at(seconds: int) -> dt.datetime:
        return _NOW - dt.timedelta(seconds=seconds)

    owed = [
        _owed(id="quick", uetr=_U1, since=at(1000)),
        _owed(id="slow", uetr=_U2, since=at(1000)),
        _owed(id="overdue", end_to_end_id="never", amount_minor=7, since=at(301)),
        _owed(id="young", end_to_end_id="soon", amount_minor=8, since=at(10)),
    ]
    lines = [
        _booked(id="l1", uetr=_U1, since=at(700)),  # 300 s
        _booked(id="l2", uetr=_U2, since=at(699)),  # 301 s
    ]
    found = reconcile(owed, lines, _NOW)
    assert found.matched_within_promise == 1
    assert found.share_within_promise == pytest.approx(1 / 3)
    assert found.oldest_unmatched_s == 301
    assert [each.expected_id for each in found.breaks] == ["overdue", "young"]


_REFERENCES = st.sampled_from([None, "NOTPROVIDED", "REF-0001", "REF-0002"])
_TEXTS = st.sampled_from(["", "for REF-0001"])
_COMMON = {
    "account": st.sampled_from(["a", "b"]),
    "currency": st.just("SGD"),
    "amount_minor": st.sampled_from([-5, 5, 7]),
    "value_date": st.dates(_DAY, dt.date(2026, 6, 4)),
    "since": st.just(_NOW),
    "uetr": st.sampled_from([None, _U1, _U2]),
    "end_to_end_id": _REFERENCES,
    "instruction_id": _REFERENCES,
    "batch": st.sampled_from([None, "B"]),
}


def _numbered(items: list[Expected] | list[Line]) -> list[Expected] | list[Line]:
    return [msgspec.structs.replace(each, id=f"{number}") for number, each in enumerate(items)]


@given(
    st.lists(st.builds(Expected, id=st.just(""), owner=st.none(), **_COMMON), max_size=12),
    st.lists(
        st.builds(Line, id=st.just(""), text=st.sampled_from(["", "for REF-0001"]), **_COMMON), max_size=12
    ),
)
def test_money_is_conserved_and_everything_ends_in_one_place(
    expected: list[Expected], lines: list[Line]
) -> None:
    owed, booked = _numbered(expected), _numbered(lines)
    found = reconcile(owed, booked, _NOW)
    amounts = {each.id: each.amount_minor for each in owed}
    reported = {each.id: each.amount_minor for each in booked}
    for match in found.matches:
        assert sum(amounts[each] for each in match.expected_ids) == reported[match.line_id]
    seen = [each for match in found.matches for each in match.expected_ids]
    seen += [each.expected_id for each in found.breaks if each.expected_id is not None]
    assert sorted(seen) == sorted(amounts)
    seen_lines = [match.line_id for match in found.matches]
    seen_lines += [each.line_id for each in found.breaks if each.line_id is not None]
    assert sorted(seen_lines) == sorted(reported)
    # What the breaks add up to is the difference between what was reported and what was expected.
    difference = sum(reported.values()) - sum(amounts.values())
    assert sum(each.difference_minor for each in found.breaks) == difference


@given(st.integers(1, 200), st.randoms(use_true_random=False))
def test_payments_with_uetrs_are_all_matched_in_any_order(count: int, random: object) -> None:
    uetrs = [f"8a562c67-ca16-48ba-b074-{number:012x}" for number in range(count)]
    owed = [_owed(id=each, uetr=each, end_to_end_id="NOTPROVIDED") for each in uetrs]
    lines = [_booked(id=each, uetr=each) for each in uetrs]
    random.shuffle(lines)  # type: ignore[attr-defined] # hypothesis gives a random.Random
    found = reconcile(owed, lines, _NOW)
    assert {each.line_id for each in found.matches if each.expected_ids == (each.line_id,)} == set(uetrs)


_KEY = MessageKey("BANKSGSG", "pacs.008", "M1")
_DIGEST = duplicates.digest(b"content")
_SEEN = Seen({_KEY: _DIGEST}, {("pacs.008", _U1): _KEY})


def test_a_message_is_new_or_repeated() -> None:
    other = msgspec.structs.replace(_KEY, message_id="M2")
    assert duplicates.decide(_SEEN, other, _DIGEST, [_U2]) == "new"
    assert duplicates.decide(_SEEN, _KEY, _DIGEST, [_U1]) == "repeated"
    # Another sender may use the same id; a return carries the UETR of what it returns.
    assert duplicates.decide(_SEEN, msgspec.structs.replace(_KEY, sender="X"), _DIGEST, [_U2]) == "new"
    assert duplicates.decide(_SEEN, msgspec.structs.replace(_KEY, kind="pacs.004"), _DIGEST, [_U1]) == "new"


@pytest.mark.parametrize(
    ("key", "content", "uetrs", "code"),
    [
        (_KEY, b"other content", [_U2], "message_duplicate"),
        (msgspec.structs.replace(_KEY, message_id="M2"), b"content", [_U1], "uetr_duplicate"),
        (msgspec.structs.replace(_KEY, message_id="M2"), b"content", [_U2, _U2], "uetr_duplicate"),
    ],
)
def test_a_name_that_is_taken_is_refused(
    key: MessageKey, content: bytes, uetrs: list[str], code: str
) -> None:
    with pytest.raises(FinFlowError) as refused:
        duplicates.decide(_SEEN, key, duplicates.digest(content), uetrs)
    assert refused.value.kind.code == code


@given(st.uuids(version=4))
def test_every_uuid_of_version_4_is_a_uetr(uuid: object) -> None:
    assert duplicates.check_uetr(str(uuid)) == str(uuid)


@given(
    st.one_of(st.uuids(version=1), st.uuids(version=5)).map(str) | st.just(_U1.upper()) | st.just(_U1 + "\n")
)
def test_nothing_else_is(text: str) -> None:
    with pytest.raises(FinFlowError, match="uetr_malformed"):
        duplicates.check_uetr(text)
