"""Reading the live books: the journal from a cursor on, with what was asked, what was booked, and by whom."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from finflow.ledger import store
from finflow.ledger.book import Record
from finflow.ledger.commands import Command, PostTransaction
from finflow.ledger.store import JOURNAL_COLUMNS, Connection
from finflow.shadow.model import Words, words_of

_decode: Final = msgspec.json.Decoder(Command).decode

_JOURNAL: Final = """
select {columns} from journal j where ledger_no = $1 and seq > $2 order by seq limit $3
"""
_HEADS: Final = "select ledger_no, seq from heads order by ledger_no"
_HAS_RELEASE: Final = """
select exists (
    select from pg_attribute
     where attrelid = to_regclass('journal') and attname = 'release' and not attisdropped
)
"""
_SETTINGS: Final = """
select account_no, seq, currency, exponent, kind, normal, status, floor, ceiling, external_reference,
       metadata::text as metadata, created_at, (select seq from heads where ledger_no = $1) as head
  from accounts where ledger_no = $1 and account_no = any($2::integer[])
"""
_OLDEST: Final = "select recorded_at from journal where ledger_no = $1 and seq = $2"


class LiveRow(NamedTuple):
    """A row of the live journal. `record.command` is what was asked, where the row keeps it whole.

    `asked` says that it is; else what was booked stands for it, and a wrong amount is compared with itself.
    """

    record: Record
    words: Words
    release: str | None
    asked: bool = True

    @property
    def seq(self) -> int:
        return self.record.seq


class LiveBatch(NamedTuple):
    """Rows in order; `full` says that there may be more."""

    rows: list[LiveRow]
    full: bool


async def has_release(connection: Connection) -> bool:
    """Whether the journal says which release wrote a row (migration 0008)."""
    return bool(await connection.fetchval(_HAS_RELEASE))


async def read_heads(connection: Connection) -> dict[int, int]:
    """How far every ledger is."""
    return {row["ledger_no"]: row["seq"] for row in await connection.fetch(_HEADS)}


async def read_batch(
    connection: Connection, ledger_no: int, after: int, limit: int, release: bool
) -> LiveBatch:
    """Rows after a cursor, no group of them cut in two."""
    columns = f"{JOURNAL_COLUMNS.strip()}, j.reference, {'j.release' if release else 'null as release'}"
    sql = _JOURNAL.format(columns=columns)
    while True:
        rows = await connection.fetch(sql, ledger_no, after, limit)
        full = len(rows) == limit
        whole = _whole_groups(rows) if full else list(rows)
        if whole or not full:
            records = await store.read_records(connection, ledger_no, whole)
            return LiveBatch([_row(r, row) for r, row in zip(records, whole, strict=True)], full)
        # One group fills the whole page.
        limit *= 10


def _whole_groups(rows: Sequence[Any]) -> list[Any]:
    """The rows without refusals of one moment at their end: more of their group may follow."""
    end = len(rows)
    last = rows[-1]["recorded_at"]
    while end and rows[end - 1]["code"] is not None and rows[end - 1]["recorded_at"] == last:
        end -= 1
    return list(rows[:end])


def _row(record: Record, row: Any) -> LiveRow:
    command = record.command
    booked = isinstance(command, PostTransaction) and record.code is None
    whole = not booked
    if booked and row["command"] is not None:
        asked = _decode(row["command"])
        if isinstance(asked, PostTransaction) and asked.entries:
            record.command = command = asked
            whole = True
    words = words_of(command)
    if record.code is None and isinstance(command, PostTransaction):
        words = words._replace(reference=row["reference"])
    return LiveRow(record, words, row["release"], whole)


async def read_settings(
    connection: Connection, ledger_no: int, account_nos: Sequence[int]
) -> tuple[int, dict[int, dict[str, Any]]]:
    """The ledger's head, and the settings of accounts at that very moment."""
    rows = await connection.fetch(_SETTINGS, ledger_no, account_nos)
    head = rows[0]["head"] if rows else -1
    return head, {row["account_no"]: _settings(row) for row in rows}


def _settings(row: Any) -> dict[str, Any]:
    found = {name: row[name] for name in row.keys() if name not in ("account_no", "head", "metadata")}  # noqa: SIM118 - a record of the driver iterates over its values
    metadata = row["metadata"]
    return found | {"metadata": None if metadata is None else msgspec.json.decode(metadata)}


async def recorded_at(connection: Connection, ledger_no: int, seq: int) -> Any:
    """When a row was booked, or None where there is none."""
    return await connection.fetchval(_OLDEST, ledger_no, seq)
