"""Journal records as PostgreSQL COPY binary rows: packed before the database is asked, sent as they are.

Format: PostgreSQL documentation, COPY, "Binary Format". Each row is a field count, then each field its
length and its bytes in network order, -1 for NULL. Times are microseconds since 2000-01-01.
"""

import struct
from collections.abc import Iterable
from typing import Final

import msgspec

from finflow.ledger.book import Entry, Record
from finflow.ledger.commands import Command, PostTransaction

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
JOURNAL_COLUMNS: Final = (
    "ledger_no", "seq", "recorded_at", "target", "expires_at", "kind", "key", "caller",
    "legs", "code", "param", "reference", "command", "release",
)  # fmt: skip
# What a process writes that does not know its release: its rows say nothing of one.
RELEASELESS_COLUMNS: Final = JOURNAL_COLUMNS[:-1]
ENTRY_COLUMNS: Final = (
    "ledger_no", "account_no", "version", "seq", "amount", "held", "posted_debits", "posted_credits",
    "pending_debits", "pending_credits", "effective_max", "late_at",
)  # fmt: skip

_EPOCH_2000: Final = 946_684_800_000_000
_NULL: Final = b"\xff\xff\xff\xff"
_pack_entry = struct.Struct(">hiiiiiqiqiqiqiqiqiqiqiq").pack
_pack_journal = struct.Struct(">hiiiqiq").pack
_pack_long = struct.Struct(">iq").pack
_pack_length = struct.Struct(">i").pack
_pack_leg = struct.Struct(">iq").pack
_pack_two_legs = struct.Struct(">iiqiq").pack
_LEG: Final = struct.Struct(">iq")
_encode_json = msgspec.json.Encoder(order="deterministic").encode


def entry_rows(ledger_no: int, records: Iterable[Record]) -> list[bytes]:
    """The COPY rows of all entries of these records, in the order of account and version.

    A row begins with its key in network order, so that sorted bytes are sorted keys; rows in key order
    keep neighbouring index pages at hand (docs/adr/0003).
    """
    return sorted([_entry_row(ledger_no, entry) for record in records for entry in record.entries])


def _entry_row(ledger_no: int, e: Entry) -> bytes:
    late = _NULL if e.late_at is None else _pack_long(8, e.late_at - _EPOCH_2000)
    return _pack_entry(
        12, 4, ledger_no, 4, e.account_no, 8, e.version, 8, e.seq, 8, e.amount, 8, e.held,
        8, e.posted_debits, 8, e.posted_credits, 8, e.pending_debits, 8, e.pending_credits,
        8, e.effective_max - _EPOCH_2000,
    ) + late  # fmt: skip


def journal_columns(release: str | None) -> tuple[str, ...]:
    """The columns of `journal_rows` that were written by this release."""
    return RELEASELESS_COLUMNS if release is None else JOURNAL_COLUMNS


def journal_rows(ledger_no: int, records: Iterable[Record], release: str | None = None) -> bytes:
    """The COPY rows of these records in `journal_columns`, without header and trailer."""
    width, told = len(journal_columns(release)), b"" if release is None else _text(release)
    parts: list[bytes] = []
    for record in records:
        _journal_row(ledger_no, record, parts, width, told)
    return b"".join(parts)


def _journal_row(ledger_no: int, record: Record, parts: list[bytes], width: int, release: bytes) -> None:
    key, legs = record.key.encode(), _legs(record)
    parts += (
        _pack_journal(width, 4, ledger_no, 8, record.seq, 8, record.recorded_at - _EPOCH_2000),
        _NULL if record.target is None else _pack_long(8, record.target),
        _NULL if record.expires_at is None else _pack_long(8, record.expires_at - _EPOCH_2000),
        _text(record.kind), _pack_length(len(key)), key, _text(record.caller), legs,
    )  # fmt: skip
    if record.code is None and is_plain(record.command):
        parts += (_NULLS, release)
    else:
        parts += (
            _NULL if record.code is None else _text(record.code),
            _NULL if record.param is None else _text(record.param),
            # A refused command is kept whole in `command`; only what was booked is found by reference.
            _optional(getattr(record.command, "reference", None) if record.code is None else None),
            _optional(stored_command(record)),
            release,
        )


def _legs(record: Record) -> bytes:
    entries = record.entries
    if len(entries) == 2:
        first, second = entries
        return _pack_two_legs(24, first.account_no, first.version, second.account_no, second.version)
    legs = legs_of(record)
    return _NULL if legs is None else _pack_length(len(legs)) + legs


def legs_of(record: Record) -> bytes | None:
    """A journal row's `legs`: what `read_legs` reads."""
    if record.account is not None:
        return _pack_leg(record.account.account_no, 0)
    return b"".join([_pack_leg(entry.account_no, entry.version) for entry in record.entries]) or None


_NULLS: Final = _NULL * 4


# Whether rows keep what was asked beside what was booked, so that a shadow can tell the two apart. One policy
# of the whole process, which the composition root sets before anything is written.
_whole = [False]


def keep_commands_whole(whole: bool) -> None:
    """Have journal rows keep their commands with all entries, not only what was booked."""
    _whole[0] = whole


def is_plain(command: Command) -> bool:
    """Whether entries alone say everything that this command said."""
    return (
        not _whole[0]
        and isinstance(command, PostTransaction)
        and command.description is None
        and command.reference is None
        and command.effective_at is None
        and command.metadata is None
        and command.timeout_s is None
        and command.quote is None
        and not command.pending
    )


def stored_command(record: Record) -> str:
    """The command as JSON. Entries of an accepted transaction are left out: the entries table has them.

    Unless commands are kept whole.
    """
    command = record.command
    if isinstance(command, PostTransaction) and record.code is None and not _whole[0]:
        command = msgspec.structs.replace(command, entries=[])
    return _encode_json(command).decode()


def read_legs(legs: bytes | None) -> list[tuple[int, int]]:
    """(account number, version) pairs of a journal row's `legs`; version 0 is the account itself."""
    return list(_LEG.iter_unpack(legs or b""))


_texts: dict[str, bytes] = {}


def _text(value: str) -> bytes:
    # Kinds, codes and callers repeat: their bytes are made once, within a bound.
    packed = _texts.get(value)
    if packed is None:
        raw = value.encode()
        packed = _pack_length(len(raw)) + raw
        if len(_texts) < 10_000:
            _texts[value] = packed
    return packed


def _optional(value: str | None) -> bytes:
    if value is None:
        return _NULL
    raw = value.encode()
    return _pack_length(len(raw)) + raw
