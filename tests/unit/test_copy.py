"""COPY rows against a reader written from PostgreSQL's documentation of the binary format."""

import struct
from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from finflow.ledger import commands as c
from finflow.ledger import copy
from finflow.ledger.book import Account, Entry, Record

INT64 = st.integers(-(2**63) + 1, 2**63 - 1)
TIMES = st.integers(0, 4_000_000_000_000_000)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_2000 = datetime(2000, 1, 1, tzinfo=UTC)

ENTRIES = st.builds(
    Entry, st.integers(1, 2**31 - 1), st.integers(1, 2**62), st.integers(1, 2**38), INT64, INT64, INT64,
    INT64, INT64, INT64, TIMES, st.none() | TIMES,
)  # fmt: skip
LINES = st.lists(st.builds(c.EntryLine, TEXT, st.sampled_from(["debit", "credit"]), TEXT, TEXT), max_size=3)
COMMANDS = st.one_of(
    st.builds(
        c.PostTransaction, LINES, st.booleans(), description=st.none() | TEXT, reference=st.none() | TEXT
    ),
    st.builds(c.PostTransaction, LINES),
    st.builds(c.VoidPending, TEXT),
    st.builds(c.OpenAccount, TEXT, st.just("asset")),
)
RECORDS = st.builds(
    Record, st.integers(1, 2**38), TIMES, st.sampled_from(["post", "hold", "void"]), TEXT, TEXT, COMMANDS,
    code=st.none() | st.sampled_from(["unbalanced"]), param=st.none() | TEXT,
    target=st.none() | st.integers(1, 2**38), expires_at=st.none() | TIMES,
    entries=st.lists(ENTRIES, max_size=4).map(tuple),
)  # fmt: skip


def read(rows: bytes, columns: int) -> list[list[bytes | None]]:
    """Rows of fields: a 16-bit field count, then each field's 32-bit length (-1 for NULL) and bytes."""
    found: list[list[bytes | None]] = []
    at = 0
    while at < len(rows):
        (width,) = struct.unpack_from(">h", rows, at)
        assert width == columns
        at += 2
        row: list[bytes | None] = []
        for _ in range(width):
            (length,) = struct.unpack_from(">i", rows, at)
            at += 4
            row.append(None if length == -1 else rows[at : at + length])
            at += max(length, 0)
        found.append(row)
    assert at == len(rows)
    return found


def moment(field: bytes | None) -> datetime | None:
    return None if field is None else EPOCH_2000 + timedelta(microseconds=struct.unpack(">q", field)[0])


def at(micros: int | None) -> datetime | None:
    return None if micros is None else EPOCH + timedelta(microseconds=micros)


def integer(field: bytes | None) -> int | None:
    return None if field is None else int.from_bytes(field, "big", signed=True)


@given(st.integers(1, 2**24 - 1), st.lists(RECORDS, max_size=4))
def test_entries_are_read_back_in_the_order_of_their_key(ledger_no: int, records: list[Record]) -> None:
    rows = read(b"".join(copy.entry_rows(ledger_no, records)), len(copy.ENTRY_COLUMNS))
    entries = sorted(
        (e for record in records for e in record.entries), key=lambda e: (e.account_no, e.version, e.seq)
    )
    assert sorted((integer(r[1]), integer(r[2]), integer(r[3])) for r in rows) == [
        (e.account_no, e.version, e.seq) for e in entries
    ]
    assert [(integer(r[1]), integer(r[2])) for r in rows] == [(e.account_no, e.version) for e in entries]
    flat = sorted((tuple(map(integer, r[1:10])), moment(r[10]), str(moment(r[11]))) for r in rows)
    fields = (
        "account_no",
        "version",
        "seq",
        "amount",
        "held",
        "posted_debits",
        "posted_credits",
        "pending_debits",
        "pending_credits",
    )
    told = [
        (tuple(getattr(e, name) for name in fields), at(e.effective_max), str(at(e.late_at))) for e in entries
    ]
    assert flat == sorted(told)
    assert all(integer(r[0]) == ledger_no and r[0] is not None and len(r[0]) == 4 for r in rows)


@given(st.integers(1, 2**24 - 1), st.lists(RECORDS, max_size=4), st.none() | st.sampled_from(["2.0.1", "x"]))
def test_the_journal_is_read_back(ledger_no: int, records: list[Record], release: str | None) -> None:
    columns = copy.journal_columns(release)
    assert ("release" in columns) == (release is not None)
    rows = read(copy.journal_rows(ledger_no, records, release), len(columns))
    for row, record in zip(rows, records, strict=True):
        assert (integer(row[0]), integer(row[1]), moment(row[2])) == (
            ledger_no,
            record.seq,
            at(record.recorded_at),
        )
        assert (integer(row[3]), moment(row[4])) == (record.target, at(record.expires_at))
        texts = [None if field is None else field.decode() for field in row[5:8]]
        assert texts == [record.kind, record.key, record.caller]
        legs = [struct.unpack(">iq", (row[8] or b"")[i : i + 12]) for i in range(0, len(row[8] or b""), 12)]
        assert (
            legs == [(entry.account_no, entry.version) for entry in record.entries] == copy.read_legs(row[8])
        )
        assert row[9] == (None if record.code is None else record.code.encode())
        assert row[13:] == ([] if release is None else [release.encode()])
        if row[12] is not None:
            check_command(row[12], record)
        else:
            assert record.code is None
            assert record.command == c.PostTransaction(record.command.entries)  # type: ignore[union-attr]


def check_command(field: bytes, record: Record) -> None:
    """The JSON is the command; an accepted transaction's lines are its entries, not kept twice."""
    kept = msgspec.json.decode(field, type=c.Command)  # type: ignore[arg-type]
    sent = record.command
    if record.code is None and isinstance(sent, c.PostTransaction):
        sent = msgspec.structs.replace(sent, entries=[])
    assert kept == sent


def test_an_account_is_a_leg_of_version_zero() -> None:
    account = Account(1, 42, 5, 6, "SGD", 2, "asset", 1, "open", 0, None)
    record = Record(5, 6, "open_account", "k", "me", c.OpenAccount("SGD", "asset"), account=account)
    [row] = read(copy.journal_rows(1, [record]), len(copy.JOURNAL_COLUMNS) - 1)
    assert copy.read_legs(row[8]) == [(42, 0)]


def test_header_and_trailer_are_postgresql_s() -> None:
    assert b"PGCOPY\n\377\r\n\0" + struct.pack(">ii", 0, 0) == copy.HEADER
    assert struct.pack(">h", -1) == copy.TRAILER
