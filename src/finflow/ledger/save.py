"""The write of decided records: by COPY, or by one statement where they are few.

COPY is the fastest way for many rows; it takes two round trips a table, besides those that begin, advance
the head and commit. A few records are written by a single statement that does all of it, so that one
transaction costs one round trip. Both write the same rows, and the same triggers check them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import msgspec

from finflow.kernel.clock import to_datetime
from finflow.ledger import copy, store
from finflow.ledger.book import Account, Entry, Head, Record
from finflow.ledger.commands import MOVES_MONEY, ChangeAccount, DeclareAsset, OpenAccount
from finflow.ledger.store import Connection

# From so many records on, packing begins before the batch is whole: while the one before is written.
PACK_FROM: Final = 128
# Up to so many records a batch is one statement; beyond, COPY is faster (bench/ledger.py).
AT_ONCE_UP_TO: Final = 16

_ADD_ACCOUNTS: Final = """
insert into accounts (ledger_no, account_no, seq, created_at, currency, exponent, kind, normal, status,
                      floor, ceiling, external_reference, metadata)
select $1, * from unnest($2::integer[], $3::bigint[], $4::timestamptz[], $5::text[], $6::smallint[],
                         $7::text[], $8::smallint[], $9::text[], $10::bigint[], $11::bigint[],
                         $12::text[], $13::json[])
"""
_CHANGE_ACCOUNT: Final = """
update accounts set status = $3, floor = $4, ceiling = $5, metadata = $6
 where ledger_no = $1 and account_no = $2
"""
_ADD_ASSETS: Final = """
insert into assets (ledger_no, code, exponent) select $1, * from unnest($2::text[], $3::smallint[])
on conflict do nothing
"""


def _at_once(column: str, array: str) -> str:
    """The statement, with one more column of the journal or without."""
    return f"""
with moved as (
    update heads set seq = $2, account_no = $3, recorded_at = $4
     where ledger_no = $1 and seq = $5 returning seq
), journaled as (
    insert into journal (ledger_no, seq, recorded_at, target, expires_at, kind, key, caller, legs, code,
                         param, reference, command{column})
    select $1, j.* from moved, unnest(
        $6::bigint[], $7::timestamptz[], $8::bigint[], $9::timestamptz[], $10::text[], $11::text[],
        $12::text[], $13::bytea[], $14::text[], $15::text[], $16::text[], $17::text[]{array}) j
), entered as (
    insert into entries (ledger_no, account_no, version, seq, amount, held, posted_debits, posted_credits,
                         pending_debits, pending_credits, effective_max, late_at)
    select $1, e.* from moved, unnest(
        $18::integer[], $19::bigint[], $20::bigint[], $21::bigint[], $22::bigint[], $23::bigint[],
        $24::bigint[], $25::bigint[], $26::bigint[], $27::timestamptz[], $28::timestamptz[]) e
)
select seq from moved
"""  # noqa: S608 # constants of this file


_AT_ONCE: Final = _at_once("", "")
_AT_ONCE_OF_RELEASE: Final = _at_once(", release", ", $29::text[]")
_JOURNAL_ARRAYS: Final = 12
_ENTRY_ARRAYS: Final = 11


class Packed:
    """Records packed for COPY: journal rows in order, entry rows sorted by account and version.

    Each is packed once, when it is first asked for. An account is changed by the last of the records, if by
    any: entries before it are checked against the limits before the change, entries after it against those
    after.
    """

    __slots__ = ("_entries", "_journal", "_ledger_no", "_release", "records")

    def __init__(self, ledger_no: int, records: list[Record], release: str | None) -> None:
        self.records = records
        self._ledger_no = ledger_no
        self._release = release
        self._journal: bytes | None = None
        self._entries: list[bytes] | None = None

    def journal(self) -> bytes:
        """The journal's rows."""
        if self._journal is None:
            self._journal = copy.journal_rows(self._ledger_no, self.records, self._release)
        return self._journal

    def entries(self) -> list[bytes]:
        """The rows of all entries."""
        if self._entries is None:
            self._entries = copy.entry_rows(self._ledger_no, self.records)
        return self._entries

    @property
    def change(self) -> Account | None:
        """The account that the last record changes, as it is from then on."""
        last = self.records[-1] if self.records else None
        return (
            last.account if last and last.code is None and isinstance(last.command, ChangeAccount) else None
        )


def pack(ledger_no: int, records: list[Record], release: str | None = None) -> list[Packed]:
    """Records in order, packed now: a part for each change of an account, and one for what follows it."""
    parts = _parts(ledger_no, records, release)
    pack_journal(parts)
    _pack_entries(parts)
    return parts


def pack_journal(parts: Sequence[Packed]) -> None:
    """Pack what is written first."""
    for part in parts:
        part.journal()


def _pack_entries(parts: Sequence[Packed]) -> None:
    for part in parts:
        part.entries()


def _parts(ledger_no: int, records: list[Record], release: str | None) -> list[Packed]:
    cuts = [i + 1 for i, record in enumerate(records) if isinstance(record.command, ChangeAccount)]
    parts = [records[start:end] for start, end in zip([0, *cuts], [*cuts, len(records)], strict=True)]
    return [Packed(ledger_no, part, release) for part in parts if part]


class Decided:
    """Records of a batch as they are decided: all of them for their callers, the new ones for the tables.

    `release` is what writes them; the journal keeps it.
    """

    def __init__(self, release: str | None = None) -> None:
        self.release = release
        self.records: list[Record] = []
        self._fresh: list[Record] = []
        self._packed: list[Packed] = []

    def add(self, ledger_no: int, records: list[Record]) -> None:
        """More records, in order; replays, and refusals for a key's sake, take no place in the journal."""
        self.records += records
        self._fresh += [record for record in records if record.seq and not record.replayed]
        if len(self._fresh) >= PACK_FROM:
            self._packed += pack(ledger_no, self._fresh, self.release)
            self._fresh = []

    def packed(self, ledger_no: int) -> list[Packed]:
        """All new records, as COPY takes them; the last of them are packed when they are needed."""
        if self._fresh:
            self._packed += _parts(ledger_no, self._fresh, self.release)
            self._fresh = []
        return self._packed

    @property
    def few(self) -> list[Record]:
        """The new records where one statement should write them, else none."""
        fresh = self._fresh
        small = not self._packed and len(fresh) <= AT_ONCE_UP_TO
        return fresh if small and all(isinstance(r.command, MOVES_MONEY) for r in fresh) else []


async def advance_and_write(
    connection: Connection, ledger_no: int, decided: Decided, head: Head, expected_seq: int
) -> bool:
    """Move the head, waiting for its lock, and write. False, and nothing done, if it is elsewhere."""
    if few := decided.few:
        return await write_at_once(connection, ledger_no, few, head, expected_seq, decided.release)
    if not await store.advance_head(connection, ledger_no, head, expected_seq):
        return False
    await write(connection, ledger_no, decided.packed(ledger_no), decided.release)
    return True


async def write_at_once(
    connection: Connection,
    ledger_no: int,
    records: list[Record],
    head: Head,
    expected_seq: int,
    release: str | None = None,
) -> bool:
    """The head and all rows of a few money movements; outside a transaction, it commits by itself."""
    columns = [
        *_transposed([_journal_row(record) for record in records], _JOURNAL_ARRAYS),
        *_transposed(sorted([_entry_row(e) for r in records for e in r.entries]), _ENTRY_ARRAYS),
    ]
    at, statement = to_datetime(head.recorded_at), _AT_ONCE
    if release is not None:
        statement, columns = _AT_ONCE_OF_RELEASE, [*columns, [release] * len(records)]
    moved = await connection.fetchval(
        statement, ledger_no, head.seq, head.account_no, at, expected_seq, *columns
    )
    return moved is not None


def _journal_row(record: Record) -> tuple[Any, ...]:
    accepted = record.code is None
    told = accepted and copy.is_plain(record.command)
    return (
        record.seq, to_datetime(record.recorded_at), record.target,
        None if record.expires_at is None else to_datetime(record.expires_at),
        record.kind, record.key, record.caller, copy.legs_of(record), record.code, record.param,
        getattr(record.command, "reference", None) if accepted else None,
        None if told else copy.stored_command(record),
    )  # fmt: skip


def _entry_row(e: Entry) -> tuple[Any, ...]:
    return (
        e.account_no, e.version, e.seq, e.amount, e.held, e.posted_debits, e.posted_credits,
        e.pending_debits, e.pending_credits, to_datetime(e.effective_max),
        None if e.late_at is None else to_datetime(e.late_at),
    )  # fmt: skip


def _transposed(rows: list[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


async def write(
    connection: Connection, ledger_no: int, batch: Sequence[Packed], release: str | None = None
) -> None:
    """Write decided records, packed for this release: accounts opened, a COPY of the journal, one of entries.

    Where accounts change, entries are copied in parts, so that each is checked on the limits of its time.
    """
    await _open_accounts(connection, ledger_no, [r for p in batch for r in p.records if r.code is None])
    journal = [part.journal() for part in batch]
    # The server inserts them when it has them all; until it has, this process packs what comes next.
    await _copy(connection, "journal", copy.journal_columns(release), journal, lambda: _pack_entries(batch))
    entries: list[bytes] = []
    for part in batch:
        entries += part.entries()
        if part.change is not None:
            await _copy_entries(connection, entries)
            await _change_account(connection, part.change)
            entries = []
    await _copy_entries(connection, entries)


async def _copy_entries(connection: Connection, rows: list[bytes]) -> None:
    # Each part is sorted, and sorting sorted runs is merging them.
    if rows:
        await _copy(connection, "entries", copy.ENTRY_COLUMNS, [b"".join(sorted(rows))])


async def _copy(
    connection: Connection,
    table: str,
    columns: Sequence[str],
    rows: Sequence[bytes],
    meanwhile: Callable[[], None] | None = None,
) -> None:
    await connection.copy_to_table(table, source=_framed(rows, meanwhile), columns=columns, format="binary")


async def _framed(rows: Sequence[bytes], meanwhile: Callable[[], None] | None) -> AsyncIterator[bytes]:
    yield copy.HEADER
    for piece in rows:
        yield piece
    yield copy.TRAILER
    if meanwhile is not None:
        asyncio.get_running_loop().call_soon(meanwhile)


async def _open_accounts(connection: Connection, ledger_no: int, accepted: list[Record]) -> None:
    opened = [r.account for r in accepted if r.account and isinstance(r.command, OpenAccount)]
    declared = [r.command for r in accepted if isinstance(r.command, DeclareAsset)]
    if opened:
        await connection.execute(_ADD_ACCOUNTS, ledger_no, *_columns(opened))
    if declared:
        assets = [d.code for d in declared], [d.exponent for d in declared]
        await connection.execute(_ADD_ASSETS, ledger_no, *assets)


async def _change_account(connection: Connection, a: Account) -> None:
    changed = (a.status, a.floor, a.ceiling, _json(a.metadata))
    await connection.execute(_CHANGE_ACCOUNT, a.ledger_no, a.account_no, *changed)


def _columns(accounts: list[Account]) -> list[list[Any]]:
    rows = [
        (a.account_no, a.seq, to_datetime(a.created_at), a.currency, a.exponent, a.kind, a.normal, a.status,
         a.floor, a.ceiling, a.external_reference, _json(a.metadata))
        for a in accounts
    ]  # fmt: skip
    return [list(column) for column in zip(*rows, strict=True)]


def _json(value: dict[str, str] | None) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
