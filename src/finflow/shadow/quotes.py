"""Quotes computed once more, by the baseline, from what was asked and the rates of that moment.

A conversion's amounts are decided in its quote. The clone gets the quote as the baseline computes it, so that
the conversion which uses it is booked there as it should have been.
"""

import datetime as dt
from collections import deque
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

from finflow.fx import model
from finflow.fx.model import Known, Terms
from finflow.fx.store import rate_from_row
from finflow.kernel.clock import to_micros
from finflow.ledger.book import Refusal
from finflow.ledger.store import Connection
from finflow.shadow.model import Compared, Difference, Outcome

PAGE: Final = 1_000
# A number is given before its row is committed, so a later number may be seen first: look back so far.
LOOK_BACK: Final = dt.timedelta(seconds=90)
# A quote bears the moment just before it reads the rates, and a rate that was recorded earlier may be
# committed later: what was recorded so long before, it must have seen; what so long after, it cannot have.
MUST_HAVE_SEEN: Final = dt.timedelta(seconds=-15)
MAY_HAVE_SEEN: Final = dt.timedelta(seconds=2)
_CUTOFFS: Final = (dt.timedelta(0), MAY_HAVE_SEEN, MUST_HAVE_SEEN)
_RATES: Final = """
select * from fx_rates where ledger_no = $1 and rate_no > $2 order by rate_no limit $3
"""
_ADD_RATES: Final = """
insert into fx_rates (ledger_no, rate_no, base, quote, rate, source, observed_at, valid_until, recorded_at)
overriding system value
select * from unnest($1::integer[], $2::bigint[], $3::text[], $4::text[], $5::numeric[], $6::text[],
                     $7::timestamptz[], $8::timestamptz[], $9::timestamptz[])
on conflict do nothing
"""
_NAMED: Final = "select * from fx_rates where ledger_no = $1 and rate_no = any($2::bigint[])"
_RATE_COLUMNS: Final = (
    "ledger_no", "rate_no", "base", "quote", "rate", "source", "observed_at", "valid_until", "recorded_at"
)  # fmt: skip
_QUOTES: Final = """
select * from fx_quotes where ledger_no = $1 and quote_no > $2 order by quote_no limit $3
"""
_KNOWN: Final = "select quote_no from fx_quotes where ledger_no = $1 and quote_no = any($2::bigint[])"
_FLOOR: Final = """
select coalesce(max({number}), 0) from {table}
 where ledger_no = $1 and {moment} < (select max({moment}) from {table} where ledger_no = $1) - $2::interval
"""
_NEWEST: Final = """
select wanted.place, r.*
  from unnest($2::integer[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[])
       as wanted (place, low, high, at, recorded)
 cross join lateral (
     select * from fx_rates
      where ledger_no = $1 and least(base, quote) = wanted.low and greatest(base, quote) = wanted.high
        and observed_at <= wanted.at and recorded_at <= wanted.recorded
      order by observed_at desc, rate_no desc limit 1
 ) r
"""
_COLUMNS: Final = (
    "ledger_no", "quote_no", "created_at", "expires_at", "sell_currency", "sell_exponent", "sell_minor",
    "buy_currency", "buy_exponent", "buy_minor", "fair_minor", "spread_minor", "rate", "spread_ppm",
    "residue", "method", "rate_nos", "key", "request", "caller",
)  # fmt: skip
_ADD_QUOTE: Final = f"""
insert into fx_quotes ({", ".join(_COLUMNS)}) overriding system value
values ({", ".join(f"${n}" for n in range(1, len(_COLUMNS) + 1))}) on conflict do nothing
"""  # noqa: S608 # constants of this file
_COMPARED: Final = (
    "sell_currency", "sell_exponent", "sell_minor", "buy_currency", "buy_exponent", "buy_minor", "fair_minor",
    "spread_minor", "rate", "spread_ppm", "residue", "method", "rate_nos", "expires_at",
)  # fmt: skip


Newest = dict[tuple[str, str], Known]


class JudgedQuote(NamedTuple):
    """A quote judged: its live row, the values of the baseline's, and the word."""

    row: Mapping[str, Any]
    expected: Mapping[str, Any]
    compared: Compared


class Request(NamedTuple):
    """What a quote was asked for, as its row keeps it."""

    sell: str
    buy: str
    fixed: model.FixedSide
    amount_minor: int
    spread_ppm: int
    valid_for_s: int


def parse_request(text: str | None) -> Request | None:
    """What was asked, from the row's own words; None where they are not to be understood."""
    parts = (text or "").split(" ")
    try:
        sell, buy, fixed, amount, spread_ppm, valid_for_s = parts
        numbers = int(amount), int(spread_ppm), int(valid_for_s)
    except ValueError:
        return None
    if fixed == "sell":
        return Request(sell, buy, "sell", *numbers)
    return Request(sell, buy, "buy", *numbers) if fixed == "buy" else None


def expected_quote(row: Mapping[str, Any], asked: Request, newest: Newest) -> dict[str, Any] | Refusal:
    """The columns that the baseline gives a quote, by these rates; or why it gives none."""
    found = model.find_rate(asked.sell, asked.buy, newest, to_micros(row["created_at"]))
    if isinstance(found, Refusal):
        return found
    exponents = row["sell_exponent"], row["buy_exponent"]
    terms = Terms(*exponents, asked.fixed, asked.amount_minor, found.ratio, asked.spread_ppm)
    priced = model.price(terms)
    if isinstance(priced, Refusal):
        return priced
    return {
        "sell_currency": asked.sell, "sell_exponent": exponents[0], "sell_minor": priced.sell,
        "buy_currency": asked.buy, "buy_exponent": exponents[1], "buy_minor": priced.buy,
        "fair_minor": priced.fair, "spread_minor": priced.spread, "rate": Decimal(found.rate.text),
        "spread_ppm": asked.spread_ppm, "residue": Decimal(priced.residue), "method": found.method,
        "rate_nos": [known.rate_no for known in found.via],
        "expires_at": row["created_at"] + dt.timedelta(seconds=asked.valid_for_s),
    }  # fmt: skip


def judge_quote(row: Mapping[str, Any], newest: Sequence[Newest]) -> tuple[Compared, Mapping[str, Any]]:
    """The word on a quote, and the values that it should have, given the rates of moments around its own."""
    asked = parse_request(row["request"])
    if asked is None:
        return Compared(Outcome.MISMATCH, (Difference("request", row["request"], None),)), row
    first: tuple[Compared, Mapping[str, Any]] | None = None
    for rates in newest:
        expected = expected_quote(row, asked, rates)
        if isinstance(expected, Refusal):
            refused = Compared(Outcome.REFUSED_DIFFERENTLY, (Difference("code", None, expected.code),))
            first = first or (refused, row)
            continue
        differences = tuple(
            Difference(name, _plain(row[name]), _plain(expected[name]))
            for name in _COMPARED
            if row[name] != expected[name]
        )
        if not differences:
            return Compared(Outcome.MATCH), expected
        first = first or (Compared(Outcome.MISMATCH, differences), expected)
    assert first is not None, "there is always the quote's own moment"
    return first


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value, "f")
    return value.isoformat() if isinstance(value, dt.datetime) else value


class Cursor:
    """Where to read numbered rows from, when a smaller number may still come: a while behind the newest."""

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self._seen: deque[tuple[int, dt.datetime]] = deque()

    def saw(self, number: int, moment: dt.datetime) -> None:
        """A row that was read. Once it is old, nothing before it comes any more."""
        self._seen.append((number, moment))
        while self._seen[0][1] < moment - LOOK_BACK:
            self.floor = max(self.floor, self._seen.popleft()[0])


class Quotes:
    """Rates and quotes of one ledger, brought to the clone as they come."""

    def __init__(self, ledger_no: int) -> None:
        self._ledger_no = ledger_no
        self._rates: Cursor | None = None
        self._quotes: Cursor | None = None

    async def bring_rates(self, live: Connection, clone: Connection) -> None:
        """Copy the rates that the clone does not have."""
        if self._rates is None:
            self._rates = await self._start(clone, "fx_rates", "rate_no", "recorded_at")
        after = self._rates.floor
        while True:
            rows = await live.fetch(_RATES, self._ledger_no, after, PAGE)
            if rows:
                columns = [list(column) for column in zip(*(_rate_values(row) for row in rows), strict=True)]
                await clone.execute(_ADD_RATES, *columns)
                after = rows[-1]["rate_no"]
            for row in rows:
                self._rates.saw(row["rate_no"], row["recorded_at"])
            if len(rows) < PAGE:
                return

    async def bring_quotes(self, live: Connection, clone: Connection) -> list[JudgedQuote]:
        """Judge the quotes that the clone does not have, and keep them there as they should be."""
        if self._quotes is None:
            self._quotes = await self._start(clone, "fx_quotes", "quote_no", "created_at")
        after, judged = self._quotes.floor, list[JudgedQuote]()
        while True:
            rows = await live.fetch(_QUOTES, self._ledger_no, after, PAGE)
            judged += await self._judge_page(clone, rows)
            for row in rows:
                self._quotes.saw(row["quote_no"], row["created_at"])
            if len(rows) < PAGE:
                return judged
            after = rows[-1]["quote_no"]

    def forget(self) -> None:
        """What was brought may not have been kept: begin anew from what the clone has."""
        self._rates = self._quotes = None

    async def _start(self, clone: Connection, table: str, number: str, moment: str) -> Cursor:
        sql = _FLOOR.format(table=table, number=number, moment=moment)
        return Cursor(await clone.fetchval(sql, self._ledger_no, LOOK_BACK))

    async def _judge_page(self, clone: Connection, rows: Sequence[Any]) -> list[JudgedQuote]:
        numbers = [row["quote_no"] for row in rows]
        have = {r[0] for r in await clone.fetch(_KNOWN, self._ledger_no, numbers)} if numbers else set()
        fresh = [dict(row) for row in rows if row["quote_no"] not in have]
        if not fresh:
            return []
        newest = await self._rates_of(clone, fresh)
        judged = []
        for place, row in enumerate(fresh):
            compared, expected = judge_quote(row, newest[place])
            judged.append(JudgedQuote(row, expected, compared))
        await clone.executemany(_ADD_QUOTE, [_kept(each) for each in judged])
        return judged

    async def _rates_of(self, clone: Connection, rows: Sequence[Mapping[str, Any]]) -> list[list[Newest]]:
        """For each quote, the newest rates of its pairs as of each cut-off around its moment."""
        wanted = [
            (place * len(_CUTOFFS) + n, *pair, row["created_at"], row["created_at"] + cutoff)
            for place, row in enumerate(rows)
            for n, cutoff in enumerate(_CUTOFFS)
            for pair in sorted(set(model.pairs_between(row["sell_currency"], row["buy_currency"])))
        ]
        columns = [list(column) for column in zip(*wanted, strict=True)]
        found: list[list[Newest]] = [[{} for _ in _CUTOFFS] for _ in rows]
        for row in await clone.fetch(_NEWEST, self._ledger_no, *columns):
            place, n = divmod(row["place"], len(_CUTOFFS))
            found[place][n][model.pair(row["base"], row["quote"])] = _known(row)
        claimed = sorted({number for row in rows for number in row["rate_nos"]})
        named = {row["rate_no"]: _known(row) for row in await clone.fetch(_NAMED, self._ledger_no, claimed)}
        for quote, newest in zip(rows, found, strict=True):
            newest.append(as_claimed(quote, newest[0], newest[-1], named))
        return found


def as_claimed(row: Mapping[str, Any], newest: Newest, certain: Newest, named: Mapping[int, Known]) -> Newest:
    """The newest rates, but those that a quote says it was made of, where it may have seen no newer ones."""
    at = to_micros(row["created_at"])
    found = dict(newest)
    for known in (named[number] for number in row["rate_nos"] if number in named):
        pair = model.pair(known.base, known.quote)
        floor = certain.get(pair)
        seen = known.observed_at <= at and known.recorded_at <= to_micros(row["created_at"] + MAY_HAVE_SEEN)
        late = floor is not None and (known.observed_at, known.rate_no) < (floor.observed_at, floor.rate_no)
        if seen and not late:
            found[pair] = known
    return found


def _known(row: Any) -> Known:
    return Known(
        row["rate_no"], row["base"], row["quote"], rate_from_row(row), row["source"],
        to_micros(row["observed_at"]), to_micros(row["valid_until"]), to_micros(row["recorded_at"]),
    )  # fmt: skip


def _rate_values(row: Any) -> tuple[Any, ...]:
    return tuple(row[name] for name in _RATE_COLUMNS)


def _kept(judged: JudgedQuote) -> tuple[Any, ...]:
    """The row that the clone keeps: the baseline's values under the live quote's number."""
    return tuple({**judged.row, **judged.expected}[name] for name in _COLUMNS)
