"""The files of a change, and the phase that each belongs to: expand, backfill, verify, contract.

`NNNN_name.PHASE.sql`; a file without a phase counts as expand. docs/adr/0026 says why.
"""

import hashlib
import re
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from finflow.db.sql_text import Statement, statements
from finflow.kernel.errors import FinFlowError

DEFAULT_BATCH_ROWS: Final = 1000
MAX_BATCH_ROWS: Final = 100_000
MAX_FILE_BYTES: Final = 16 * 1024 * 1024

FILE_NAME: Final = re.compile(
    r"(?P<change>(?P<number>\d{4})_[a-z0-9_]+)(?:\.(?P<phase>expand|backfill|verify|contract))?\.sql"
)
_NAME = r"[A-Za-z_][\w$]*"
_HEADER: Final = re.compile(r"^[ \t]*--[ \t]*finflow:[ \t]*(?P<rest>table\b.*)$", re.MULTILINE)
_TABLE: Final = re.compile(rf"\btable\s*=\s*(?P<table>(?:{_NAME}\.)?{_NAME})(?=[\s,]|$)")
_KEY: Final = re.compile(rf"\bkey\s*=\s*(?:\((?P<many>[^)]*)\)|(?P<one>{_NAME})(?=[\s,]|$))")
_BATCH: Final = re.compile(r"\bbatch\s*=\s*(?P<rows>\d{1,7})(?=[\s,]|$)")
_EQUAL: Final = re.compile(r"--[ \t]*finflow:[ \t]*equal\b")
_CONCURRENT: Final = re.compile(
    r"(?:create\s+(?:unique\s+)?index|drop\s+index|reindex\b.*?)\s+concurrently\b", re.IGNORECASE | re.DOTALL
)


class Phase(StrEnum):
    """When a step may run: before the first candidate, beside it, before it has everything, after all."""

    EXPAND = "expand"
    BACKFILL = "backfill"
    VERIFY = "verify"
    CONTRACT = "contract"


class Migration(msgspec.Struct, frozen=True):
    """One file: its name without `.sql`, the SHA-256 of its bytes in hex, its SQL, its change and phase."""

    name: str
    checksum: str
    sql: str
    change: str
    phase: Phase

    @property
    def concurrent(self) -> bool:
        """Whether it holds a statement that PostgreSQL runs outside of transactions only."""
        return any(is_concurrent(each) for each in statements(self.sql))


class Keyed(msgspec.Struct, frozen=True):
    """How a backfill is divided: by ranges of this table's key, so many rows at a time."""

    table: str
    key: tuple[str, ...]
    batch_rows: int


def load(folder: Path) -> list[Migration]:
    """The steps of a folder: change by change, and in each the phases in their order.

    Raises file_unreadable.
    """
    try:
        matches = [match for path in folder.iterdir() if (match := FILE_NAME.fullmatch(path.name))]
        steps = [_read(folder / match[0], match) for match in matches]
    except (OSError, UnicodeDecodeError) as error:
        raise FinFlowError("file_unreadable", f"{folder}: {error}") from error
    order = list(Phase)
    return sorted(steps, key=lambda step: (step.change, order.index(step.phase), step.name))


def ignored(folder: Path) -> list[str]:
    """Files of SQL in a folder whose names belong to no phase; nobody applies them."""
    names = (path.name for path in folder.iterdir() if path.suffix == ".sql")
    return sorted(name for name in names if not FILE_NAME.fullmatch(name))


def _read(path: Path, match: re.Match[str]) -> Migration:
    content = path.read_bytes()
    if len(content) > MAX_FILE_BYTES:
        raise FinFlowError("file_unreadable", f"{path.name} is larger than {MAX_FILE_BYTES} bytes.")
    phase = Phase(match["phase"] or Phase.EXPAND)
    return Migration(path.stem, hashlib.sha256(content).hexdigest(), content.decode(), match["change"], phase)


def is_concurrent(statement: Statement) -> bool:
    """Whether it is CREATE INDEX, DROP INDEX or REINDEX with CONCURRENTLY."""
    return _CONCURRENT.match(statement.text) is not None


def wants_equal(statement: Statement) -> bool:
    """Whether the verify file says of this query that the columns of its one row have to be equal."""
    return _EQUAL.search(statement.comments) is not None


def keyed(name: str, sql: str) -> Keyed:
    """What the header of a backfill declares. Raises backfill_malformed."""
    header = _HEADER.search(sql)
    if header is None:
        raise FinFlowError("backfill_malformed", f"{name}.sql declares no table and key.")
    table, key, batch = (pattern.search(header["rest"]) for pattern in (_TABLE, _KEY, _BATCH))
    if table is None or key is None:
        raise FinFlowError(
            "backfill_malformed", f"{name}.sql: `{header['rest'].strip()}` lacks table or key."
        )
    columns = tuple(part.strip() for part in (key["one"] or key["many"] or "").split(","))
    if not all(re.fullmatch(_NAME, column) for column in columns) or len(set(columns)) < len(columns):
        raise FinFlowError("backfill_malformed", f"{name}.sql: `{key[0]}` is not a list of columns.")
    rows = int(batch["rows"]) if batch else DEFAULT_BATCH_ROWS
    if not 1 <= rows <= MAX_BATCH_ROWS:
        raise FinFlowError("backfill_malformed", f"{name}.sql: a batch has 1 to {MAX_BATCH_ROWS} rows.")
    return Keyed(table["table"], columns, rows)
