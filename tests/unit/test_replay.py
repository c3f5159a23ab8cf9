"""When a request is the one that was answered before, and when its key belongs to another."""

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from finflow.ledger import commands as c
from finflow.ledger.book import Record
from finflow.ledger.replay import answer, unjournaled

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LINES = [c.EntryLine("acc_a", "debit", "12.50", "SGD"), c.EntryLine("acc_b", "credit", "12.50", "SGD")]
POSTED = c.PostTransaction(
    LINES, description="rent", reference="r1", effective_at=NOON, metadata={"a": "1", "b": "2"}
)


def known(command: c.Command, code: str | None = None) -> Record:
    return Record(7, 1_000, "post", "key", "me", command, code=code)


def replayed(stored: c.Command, sent: c.Command, code: str | None = None) -> bool:
    record = answer(known(stored, code), c.Request("key", sent, "me"))
    assert record.replayed == (record.code != "idempotency_conflict")
    return record.replayed


def with_amounts(*amounts: str) -> c.PostTransaction:
    lines = [
        msgspec.structs.replace(line, amount=amount) for line, amount in zip(LINES, amounts, strict=True)
    ]
    return msgspec.structs.replace(POSTED, entries=lines)


SAME: list[c.PostTransaction] = [
    POSTED,
    with_amounts("12.5", "12.50"),
    with_amounts("012.50", "12.5"),
    msgspec.structs.replace(POSTED, metadata={"b": "2", "a": "1"}),
    msgspec.structs.replace(POSTED, effective_at=NOON.astimezone(timezone(timedelta(hours=8)))),
]
OTHER: list[c.Command] = [
    with_amounts("12.51", "12.51"),
    with_amounts("125.0", "125.0"),
    with_amounts("1250", "1250"),
    with_amounts("x", "x"),
    with_amounts("-12.50", "-12.50"),
    with_amounts("", ""),
    msgspec.structs.replace(POSTED, entries=LINES[::-1]),
    msgspec.structs.replace(POSTED, entries=LINES[:1]),
    msgspec.structs.replace(POSTED, entries=[*LINES, *LINES]),
    msgspec.structs.replace(POSTED, entries=[]),
    msgspec.structs.replace(POSTED, pending=True),
    msgspec.structs.replace(POSTED, timeout_s=60),
    msgspec.structs.replace(POSTED, description="Rent"),
    msgspec.structs.replace(POSTED, description=None),
    msgspec.structs.replace(POSTED, reference=None),
    msgspec.structs.replace(POSTED, metadata=None),
    msgspec.structs.replace(POSTED, metadata={}),
    msgspec.structs.replace(POSTED, effective_at=None),
    msgspec.structs.replace(POSTED, effective_at=NOON + timedelta(microseconds=1)),
    *[
        msgspec.structs.replace(POSTED, entries=[msgspec.structs.replace(LINES[0], **change), LINES[1]])
        for change in ({"account_id": "acc_b"}, {"direction": "credit"}, {"currency": "USD"})
    ],
    c.VoidPending("txn_a"),
    c.DeclareAsset("PTS", 2),
]


@pytest.mark.parametrize("sent", SAME)
def test_the_same_intent_is_answered_again(sent: c.PostTransaction) -> None:
    assert replayed(POSTED, sent)


@pytest.mark.parametrize("sent", OTHER)
def test_another_intent_under_the_key_is_a_conflict(sent: c.Command) -> None:
    assert not replayed(POSTED, sent)
    assert not replayed(sent, POSTED)


@pytest.mark.parametrize("sent", [*SAME[1:3], *OTHER])
def test_a_refusal_is_repeated_only_by_the_very_same(sent: c.Command) -> None:
    """A refused command was kept as it was sent, so it is compared as it was sent."""
    assert replayed(POSTED, POSTED, "unbalanced")
    assert not replayed(POSTED, sent, "unbalanced")


def test_other_commands_are_compared_whole() -> None:
    capture = c.PostPending("txn_a", "5")
    assert replayed(capture, c.PostPending("txn_a", "5"))
    for other in (
        c.PostPending("txn_a"),
        c.PostPending("txn_b", "5"),
        c.VoidPending("txn_a"),
        c.ExpirePending("txn_a"),
    ):
        assert not replayed(capture, other)


def test_a_conflict_takes_no_place_in_the_journal() -> None:
    refused = unjournaled(c.Request("key", POSTED, "me"), "idempotency_in_progress")
    assert (refused.seq, refused.entries, refused.key) == (0, (), "key")


def test_an_answer_again_is_the_answer() -> None:
    first = known(POSTED)
    again = answer(first, c.Request("key", POSTED, "me"))
    assert not first.replayed
    assert msgspec.structs.replace(again, replayed=False) == first
