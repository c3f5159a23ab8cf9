"""From the lines of a file to rows: accounts, amounts, dates. Pure: bytes in, values out.

Broken lines are values too, so that one of them never stops the rest.
"""

import csv
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from finflow.client.model import AccountKind
from finflow.imports.mapping import Counter, Mapping, Values
from finflow.kernel import money
from finflow.kernel.errors import FinFlowError

MAX_LINE_BYTES: Final = 1 << 20
_MAX_KEY = 255
_MAX_DESCRIPTION = 500
_MAX_REFERENCE = 140

FaultKind = Literal["broken", "unchained"]


class Fault(NamedTuple):
    """A line to name to the user. A `broken` one is left out, an `unchained` one is posted all the same."""

    line: int
    kind: FaultKind
    reason: str


class AccountSpec(NamedTuple):
    """An account that a transaction needs, by external reference; opened when it is first met."""

    reference: str
    kind: AccountKind
    currency: str


class Row(NamedTuple):
    """One good line. `amount` and `balance` are signed minor units from the customer's view."""

    line: int
    key: str
    reference: str
    day: date
    effective_at: str
    amount: int
    balance: int | None
    exponent: int
    customer: AccountSpec
    counter: AccountSpec
    description: str
    metadata: dict[str, str]


class _BrokenLineError(Exception):
    """Why a line cannot be read; never leaves this file."""


def rows(lines: Iterable[bytes], mapping: Mapping) -> Iterator[Row | Fault]:
    """Every line after the header as a row or a fault, in file order."""
    reader = RowReader(mapping)
    numbered = enumerate(lines, 1)
    if mapping.file.header:
        # An empty file has no columns, which the header's check then says.
        reader.read_header(next(numbered, (1, b""))[1])
    for number, line in numbered:
        if line.strip():
            yield reader.read(number, line)


class RowReader:
    """Reads single lines by a mapping. One line is one record, so a stray quote harms its own line only."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._position = {name: place for place, name in enumerate(mapping.file.columns)}
        self._width = len(mapping.file.columns)
        self._counters = [(_conditions(counter), counter) for counter in mapping.counter]

    def read_header(self, line: bytes) -> None:
        """Learn the columns' places. Raises FinFlowError `columns_missing`."""
        try:
            names = [name.strip().lstrip("\ufeff") for name in self._fields(line)]
        except _BrokenLineError as problem:
            raise FinFlowError("columns_missing", f"line 1: {problem}") from problem
        missing = sorted(self._mapping.columns() - set(names))
        if missing:
            raise FinFlowError("columns_missing", f"line 1 has no column {', '.join(missing)}")
        self._position = {name: place for place, name in enumerate(names)}
        self._width = len(names)

    def read(self, number: int, line: bytes) -> Row | Fault:
        """The row in a line, or why there is none."""
        try:
            return self._row(number, self._fields(line))
        except _BrokenLineError as problem:
            return Fault(number, "broken", str(problem))

    def _fields(self, line: bytes) -> list[str]:
        if len(line) > MAX_LINE_BYTES:
            raise _BrokenLineError(f"the line is longer than {MAX_LINE_BYTES} bytes")
        layout = self._mapping.file
        try:
            text = line.rstrip(b"\r\n").decode(layout.encoding)
            reader = csv.reader([text], delimiter=layout.delimiter, quotechar=layout.quote, strict=True)
            return next(reader, [])
        except UnicodeDecodeError as error:
            raise _BrokenLineError(f"not {layout.encoding}: byte {error.start + 1}") from error
        except csv.Error as error:
            raise _BrokenLineError(f"not well-formed: {error}") from error

    def _row(self, number: int, fields: list[str]) -> Row:
        if len(fields) != self._width:
            raise _BrokenLineError(f"{len(fields)} columns instead of {self._width}")
        columns = {name: fields[place].strip() for name, place in self._position.items()}
        layout = self._mapping.row
        moment = _moment(columns[layout.date], layout.date_formats, layout.century)
        currency = layout.currency or columns[layout.currency_column or ""]
        exponent = money.exponent_of(currency)
        if exponent is None:
            raise _BrokenLineError(f"currency {currency!r} is not in ISO 4217")
        oracle = self._mapping.balance
        return Row(
            line=number,
            key=self._key(columns[layout.id]),
            reference=columns[layout.id][:_MAX_REFERENCE],
            day=moment.date(),
            effective_at=moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            amount=self._amount(columns, exponent),
            balance=None if oracle is None else _minor(columns[oracle.column], exponent, "balance"),
            exponent=exponent,
            customer=self._customer(columns, currency),
            counter=self._counter(columns, currency),
            description=_joined(columns, layout.description),
            metadata={name: columns[source] for name, source in layout.metadata.items() if columns[source]},
        )

    def _key(self, row_id: str) -> str:
        key = f"{self._mapping.name}:{row_id}"
        if not row_id:
            raise _BrokenLineError("the row has no id")
        if len(key) > _MAX_KEY or not (key.isascii() and key.isprintable()):
            raise _BrokenLineError("the id is not short printable ASCII")
        return key

    def _amount(self, columns: dict[str, str], exponent: int) -> int:
        """Signed minor units: positive credits the customer."""
        amount = _minor(columns[self._mapping.row.amount], exponent, "amount")
        rule = self._mapping.direction
        if rule.column is None:
            return amount
        if amount < 0:
            raise _BrokenLineError(f"amount {columns[self._mapping.row.amount]!r} has a sign of its own")
        value = columns[rule.column]
        if value in rule.credit:
            return amount
        if value in rule.debit:
            return -amount
        raise _BrokenLineError(f"unknown {rule.column} {value!r}")

    def _customer(self, columns: dict[str, str], currency: str) -> AccountSpec:
        value = columns[self._mapping.customer.column]
        if not value:
            raise _BrokenLineError("the row has no account")
        return self._account(f"customer:{value}", self._mapping.customer.kind, currency)

    def _counter(self, columns: dict[str, str], currency: str) -> AccountSpec:
        for conditions, counter in self._counters:
            if all(columns[column] in values for column, values in conditions):
                suffix = f":{columns[counter.by]}" if counter.by else ""
                return self._account(counter.account + suffix, counter.kind, currency)
        raise _BrokenLineError("no counter-account of the mapping fits the row")

    def _account(self, name: str, kind: AccountKind, currency: str) -> AccountSpec:
        return account_spec(self._mapping.name, name, kind, currency)


@lru_cache(maxsize=65_536)
def account_spec(mapping_name: str, name: str, kind: AccountKind, currency: str) -> AccountSpec:
    """The account of a name in a mapping: one per currency, so that balances can be followed."""
    return AccountSpec(f"{mapping_name}:{name}:{currency}", kind, currency)


def _conditions(counter: Counter) -> list[tuple[str, Values]]:
    return [(column, (one,) if isinstance(one, str) else one) for column, one in counter.when.items()]


def _minor(text: str, exponent: int, what: str) -> int:
    try:
        return money.to_minor(text, exponent)
    except money.TooPrecise as error:
        raise _BrokenLineError(f"{what} {text!r} has more decimals than its currency") from error
    except money.OutOfRange as error:
        raise _BrokenLineError(f"{what} {text[:50]!r} is out of range") from error
    except ValueError as error:
        raise _BrokenLineError(f"{what} {text[:50]!r} is not a decimal number") from error


@lru_cache(maxsize=4096)
def _moment(text: str, formats: tuple[str, ...], century: int | None) -> datetime:
    """The first format that the text fits exactly; strptime alone would also take "93011" for %y%m%d."""
    for layout in formats:
        try:
            moment = datetime.strptime(text, layout).replace(tzinfo=UTC)
        except ValueError:
            continue
        if moment.strftime(layout) == text:
            return moment if century is None else moment.replace(year=century + moment.year % 100)
    raise _BrokenLineError(f"date {text[:50]!r} is not {' or '.join(formats)}")


def _joined(columns: dict[str, str], names: tuple[str, ...]) -> str:
    return " ".join(columns[name] for name in names if columns[name])[:_MAX_DESCRIPTION]
