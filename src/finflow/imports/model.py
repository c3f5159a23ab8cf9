"""From rows to transactions in posting order. Pure.

Memory holds the rows of one date (a day's order is found by chaining balances) and one balance per
customer account, however large the file.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from finflow.client.model import Direction
from finflow.imports.chaining import Move, Step, anchor, chain
from finflow.imports.mapping import BalanceOracle, Mapping
from finflow.imports.rows import AccountSpec, Fault, Row, account_spec, rows
from finflow.kernel import money
from finflow.kernel.errors import FinFlowError

MAX_DAY_ROWS: Final = 1_000_000


class PlannedEntry(NamedTuple):
    """An entry before its account has an id; `amount` in minor units, above zero."""

    account: AccountSpec
    direction: Direction
    amount: int


class Planned(NamedTuple):
    """A row at its place in posting order, with the entries that it becomes; no entries: it moves nothing."""

    row: Row
    entries: tuple[PlannedEntry, ...]
    rounding: int


def lines_to_plans(lines: Iterable[bytes], mapping: Mapping) -> Iterator[Planned | Fault]:
    """Every line of a file as a transaction to post or a fault, in posting order.

    Raises FinFlowError: `columns_missing`, `file_not_sorted`, `day_too_large`.
    """
    return Planner(mapping).plans(rows(lines, mapping))


class Planner:
    """Puts rows into posting order, a day at a time, and turns them into entries."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._oracle = mapping.balance
        self._balances: dict[AccountSpec, int] = {}
        self._tolerances: dict[int, int] = {}

    def plans(self, stream: Iterable[Row | Fault]) -> Iterator[Planned | Fault]:
        """Every row planned, in posting order. Without a balance column that is the file's own order."""
        oracle = self._oracle
        if oracle is None:
            for item in stream:
                yield item if isinstance(item, Fault) else Planned(item, _entries(item), 0)
            return
        for part in _days(stream):
            if isinstance(part, Fault):
                yield part
            else:
                yield from self._day(oracle, part)

    def _day(self, oracle: BalanceOracle, day: list[Row]) -> Iterator[Planned | Fault]:
        groups: dict[AccountSpec, list[Row]] = {}
        for row in day:
            groups.setdefault(row.customer, []).append(row)
        for group in groups.values():
            yield from self._account_day(oracle, group)

    def _account_day(self, oracle: BalanceOracle, group: list[Row]) -> Iterator[Planned | Fault]:
        customer = group[0].customer
        moves = [Move(row.amount, row.balance or 0) for row in group]
        tolerance = self._tolerance(oracle, group[0].exponent)
        start = self._balances.get(customer, 0)
        steps = chain(start, moves, tolerance)
        if steps is None:
            # Something is missing or wrong before this day. The bank's amounts stand; the break is named.
            steps = anchor(moves, tolerance) or [Step(position, 0) for position in range(len(group))]
            first = group[steps[0].position]
            yield Fault(first.line, "unchained", _break(first, start))
        for step in steps:
            yield self._planned(oracle, group[step.position], step.rounding)
        self._balances[customer] = moves[steps[-1].position].balance

    def _tolerance(self, oracle: BalanceOracle, exponent: int) -> int:
        """Minor units; a currency too coarse for the tolerance has none."""
        if exponent not in self._tolerances:
            try:
                self._tolerances[exponent] = money.to_minor(oracle.tolerance or "0", exponent)
            except money.TooPrecise:
                self._tolerances[exponent] = 0
        return self._tolerances[exponent]

    def _planned(self, oracle: BalanceOracle, row: Row, rounding: int) -> Planned:
        entries = _entries(row)
        if rounding:
            name, currency = self._mapping.name, row.customer.currency
            account = account_spec(name, oracle.account, oracle.kind, currency)
            entries += _pair(row.customer, account, rounding)
        return Planned(row, entries, rounding)


def _days(stream: Iterable[Row | Fault]) -> Iterator[list[Row] | Fault]:
    """The rows of one date at a time; faults pass through. Raises `file_not_sorted`, `day_too_large`."""
    day: list[Row] = []
    for item in stream:
        if isinstance(item, Fault):
            yield item
            continue
        if day and item.day < day[0].day:
            detail = f"line {item.line} has {item.day} after {day[0].day} (line {day[-1].line})"
            raise FinFlowError("file_not_sorted", detail)
        if day and item.day > day[0].day:
            yield day
            day = []
        if len(day) >= MAX_DAY_ROWS:
            detail = f"{item.day} has more than {MAX_DAY_ROWS} rows (line {item.line})"
            raise FinFlowError("day_too_large", detail)
        day.append(item)
    if day:
        yield day


def _break(row: Row, start: int) -> str:
    before = (row.balance or 0) - row.amount
    expected, found = money.to_text(start, row.exponent), money.to_text(before, row.exponent)
    return f"the balance does not follow: {expected} before it, the row says {found}"


def _entries(row: Row) -> tuple[PlannedEntry, ...]:
    """The two entries of a row; a row of amount zero moves nothing and has none."""
    return _pair(row.customer, row.counter, row.amount) if row.amount else ()


def _pair(customer: AccountSpec, counter: AccountSpec, amount: int) -> tuple[PlannedEntry, ...]:
    """Customer against counter-account: a positive amount raises the customer's balance."""
    raises: Direction = "debit" if customer.kind in ("asset", "expense") else "credit"
    lowers: Direction = "credit" if raises == "debit" else "debit"
    ours, theirs = (raises, lowers) if amount > 0 else (lowers, raises)
    return PlannedEntry(customer, ours, abs(amount)), PlannedEntry(counter, theirs, abs(amount))
