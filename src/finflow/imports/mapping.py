"""The mapping file: how the rows of a foreign file become transactions. Pure: text in, values out."""

import codecs
import re
import tomllib
from collections import Counter as Counts
from typing import Final

import msgspec

from finflow.client.model import AccountKind
from finflow.kernel import money
from finflow.kernel.errors import FinFlowError

_NAME = re.compile(r"[A-Za-z0-9._-]{1,60}")
_KEY_LINE = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")
_SECTION_LINE = re.compile(r"\s*\[\[?([A-Za-z0-9_.-]+)\]?\]")
_PROBLEM_PATH = re.compile(r"`\$\.?(.*?)`$")

Values = str | tuple[str, ...]


class FileFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How bytes become columns. Without a header, `columns` names them in order."""

    delimiter: str = ","
    encoding: str = "utf-8"
    quote: str = '"'
    header: bool = True
    columns: tuple[str, ...] = ()


class RowFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which columns say what. `century` places two-digit years (1900: 93 is 1993)."""

    id: str
    date: str
    date_formats: tuple[str, ...]
    amount: str
    currency: str | None = None
    currency_column: str | None = None
    century: int | None = None
    description: tuple[str, ...] = ()
    metadata: dict[str, str] = {}


class DirectionRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which values credit or debit the customer; without a column, the amount's sign does."""

    column: str | None = None
    credit: tuple[str, ...] = ()
    debit: tuple[str, ...] = ()


class Customer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The column with the customer's account, and how such an account is opened (overdraft unlimited)."""

    column: str
    kind: AccountKind = "liability"


class Counter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A counter-account and the column values that choose it; the first that fits wins.

    With `by`, there is one account per value of that column.
    """

    account: str
    kind: AccountKind
    when: dict[str, Values] = {}
    by: str | None = None


class BalanceOracle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The column with the balance after each row. A difference of exactly `tolerance` is a rounding leg."""

    column: str
    tolerance: str | None = None
    account: str = "rounding"
    kind: AccountKind = "expense"


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole mapping file. `name` is part of every idempotency key and account reference."""

    name: str
    row: RowFormat
    customer: Customer
    counter: tuple[Counter, ...]
    file: FileFormat = FileFormat()
    direction: DirectionRule = DirectionRule()
    balance: BalanceOracle | None = None

    def columns(self) -> frozenset[str]:
        """Every column that the mapping names."""
        row, rule = self.row, self.direction
        named = {row.id, row.date, row.amount, row.currency_column, rule.column, self.customer.column}
        named.update(row.description, row.metadata.values(), *(counter.when for counter in self.counter))
        named.update(counter.by for counter in self.counter)
        if self.balance is not None:
            named.add(self.balance.column)
        return frozenset(column for column in named if column is not None)


def parse(text: str) -> Mapping:
    """The mapping in a TOML text. Raises `mapping_malformed` with the key and, if known, the line."""
    try:
        mapping = msgspec.convert(tomllib.loads(text), Mapping)
    except tomllib.TOMLDecodeError as error:
        raise FinFlowError("mapping_malformed", str(error)) from error
    except msgspec.ValidationError as error:
        found = _PROBLEM_PATH.search(str(error))
        raise _malformed(text, found.group(1) if found else "", str(error)) from error
    for path, problem in _problems(mapping):
        raise _malformed(text, path, problem)
    return mapping


def _malformed(text: str, path: str, problem: str) -> FinFlowError:
    line = _line_of(text, path)
    where = f"line {line}: " if line else ""
    return FinFlowError("mapping_malformed", f"{where}{problem}", path or None)


def _line_of(text: str, path: str) -> int | None:
    """The first line that sets the key, or opens the table, of a path such as row.date or counter[1].kind."""
    section, key_path = "", re.sub(r"\[\d+\]$", "", path)
    opened: Counts[str] = Counts()
    for number, line in enumerate(text.splitlines(), 1):
        if table := _SECTION_LINE.match(line):
            name = table.group(1)
            section = f"{name}[{opened[name]}]" if line.lstrip().startswith("[[") else name
            opened[name] += 1
            if section == path:
                return number
        elif key := _KEY_LINE.match(line):
            here = f"{section}.{key.group(1)}" if section else key.group(1)
            if here == key_path:
                return number
    return None


_KNOWN_QUOTES: Final = ('"', "'")


def _problems(mapping: Mapping) -> list[tuple[str, str]]:
    """What is well-typed but makes no sense: (path, sentence) pairs."""
    checks = (
        ("name", _NAME.fullmatch(mapping.name), "the name is 1 to 60 letters, digits, '.', '_' or '-'"),
        ("file.delimiter", len(mapping.file.delimiter) == 1, "the delimiter is one character"),
        ("file.quote", mapping.file.quote in _KNOWN_QUOTES, "the quote is \" or '"),
        ("file.encoding", _is_encoding(mapping.file.encoding), "no such encoding"),
        ("file.columns", mapping.file.header or mapping.file.columns, "without a header, name the columns"),
        ("row.date_formats", mapping.row.date_formats, "name at least one date format"),
        ("row.currency", _one_of(mapping.row.currency, mapping.row.currency_column), _CURRENCY),
        ("row.currency", _is_currency(mapping.row.currency), "the currency is not in ISO 4217"),
        ("counter", mapping.counter, "name at least one counter-account"),
        ("direction.credit", _has_values(mapping.direction), "name the values that credit and that debit"),
        ("direction.debit", not _both_ways(mapping.direction), "a value cannot both credit and debit"),
        ("balance.tolerance", _is_tolerance(mapping.balance), "the tolerance is a decimal above zero"),
        ("file.columns", not _unnamed(mapping), "not listed: " + ", ".join(_unnamed(mapping))),
    )
    return [(path, problem) for path, good, problem in checks if not good]


_CURRENCY: Final = "give either currency or currency_column"


def _is_encoding(name: str) -> bool:
    try:
        codecs.lookup(name)
    except LookupError:
        return False
    # Lines are split before they are decoded, so a newline must be the one byte that it is in ASCII.
    return "\n".encode(name) == b"\n"


def _one_of(first: str | None, second: str | None) -> bool:
    return (first is None) != (second is None)


def _is_currency(code: str | None) -> bool:
    return code is None or money.exponent_of(code) is not None


def _has_values(rule: DirectionRule) -> bool:
    return rule.column is None or bool(rule.credit and rule.debit)


def _both_ways(rule: DirectionRule) -> bool:
    return not set(rule.credit).isdisjoint(rule.debit)


def _is_tolerance(oracle: BalanceOracle | None) -> bool:
    if oracle is None or oracle.tolerance is None:
        return True
    try:
        return money.to_minor(oracle.tolerance, money.MAX_EXPONENT) > 0
    except ValueError:
        return False


def _unnamed(mapping: Mapping) -> list[str]:
    return [] if mapping.file.header else sorted(mapping.columns() - set(mapping.file.columns))
