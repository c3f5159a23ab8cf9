"""SQL of foreign exchange: rates and quotes come in and are read; nothing is ever changed."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

from finflow.fx.model import FixedSide, Found, Known, Priced, Rate, Ratio, Terms, rate_of
from finflow.kernel.clock import to_datetime, to_micros
from finflow.ledger.book import Account
from finflow.ledger.lists import END, Page, Span
from finflow.ledger.store import ACCOUNT_COLUMNS, NEWEST_ENTRY, Connection, account_from_row

_RATE_COLUMNS: Final = """
r.rate_no, r.base, r.quote, r.rate, r.source, r.observed_at, r.valid_until, r.recorded_at
"""
_ADD_RATES: Final = """
insert into fx_rates (ledger_no, base, quote, rate, source, observed_at, valid_until, recorded_at)
select $1, given.*, $8 from unnest($2::text[], $3::text[], $4::numeric[], $5::text[], $6::timestamptz[],
                                   $7::timestamptz[]) as given
on conflict do nothing
"""
_STORED_RATES: Final = f"""
select {_RATE_COLUMNS}
  from unnest($2::text[], $3::text[], $4::text[], $5::timestamptz[]) with ordinality
       as given (base, quote, source, observed_at, place)
  join fx_rates r on r.ledger_no = $1 and r.base = given.base and r.quote = given.quote
                 and r.observed_at = given.observed_at and r.source = given.source
 order by given.place
"""  # noqa: S608 # constants of this file
_NEWEST: Final = f"""
select {_RATE_COLUMNS} from unnest($2::text[], $3::text[]) as wanted (low, high)
 cross join lateral (
     select * from fx_rates
      where ledger_no = $1 and least(base, quote) = wanted.low and greatest(base, quote) = wanted.high
        and observed_at <= $4
      order by observed_at desc, rate_no desc limit 1
 ) r
"""  # noqa: S608 # constants of this file
_PAGE: Final = f"""
select {_RATE_COLUMNS} from fx_rates r
 where ledger_no = $1 and least(base, quote) = $2 and greatest(base, quote) = $3
   and (observed_at, rate_no) < (
       coalesce((select observed_at from fx_rates where ledger_no = $1 and rate_no = $4), 'infinity'), $4
   )
 order by observed_at desc, rate_no desc limit $5
"""  # noqa: S608 # constants of this file
# Numbers are taken first, so that each row that was kept is known by its place.
_ADD_QUOTES: Final = """
with given as materialized (
    select nextval(pg_get_serial_sequence('fx_quotes', 'quote_no')) as quote_no, g.*
      from unnest($2::timestamptz[], $3::timestamptz[], $4::text[], $5::smallint[], $6::bigint[], $7::text[],
                  $8::smallint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::numeric[], $13::integer[],
                  $14::text[], $15::numeric[], $16::bigint[], $17::bigint[], $18::text[], $19::text[],
                  $20::text[])
           with ordinality
        as g (created_at, expires_at, sell_currency, sell_exponent, sell_minor, buy_currency, buy_exponent,
              buy_minor, fair_minor, spread_minor, rate, spread_ppm, method, residue, first_rate, second_rate,
              key, request, caller, place)
), added as (
    insert into fx_quotes (ledger_no, quote_no, created_at, expires_at, sell_currency, sell_exponent,
                           sell_minor, buy_currency, buy_exponent, buy_minor, fair_minor, spread_minor, rate,
                           spread_ppm, method, residue, rate_nos, key, request, caller)
    overriding system value
    select $1, quote_no, created_at, expires_at, sell_currency, sell_exponent, sell_minor, buy_currency,
           buy_exponent, buy_minor, fair_minor, spread_minor, rate, spread_ppm, method, residue,
           array_remove(array[first_rate, second_rate], null), key, request, caller
      from given order by place
    on conflict do nothing returning quote_no
)
select added.quote_no from given left join added using (quote_no) order by given.place
"""
# The journal's row that a quote was used by; journal_by_target allows one. OFFSET 0 leaves the planner
# nothing but to look each row up; a join would read all of a journal that it thinks is small.
_QUOTES: Final = """
select q.*, j.seq as used_seq, j.recorded_at as used_at,
       array(select r.recorded_at from unnest(q.rate_nos) with ordinality as named (rate_no, place)
              cross join lateral (
                  select recorded_at from fx_rates where ledger_no = $1 and rate_no = named.rate_no offset 0
              ) r order by named.place) as rates_at
  from {quotes} q
  left join lateral (
      select seq, recorded_at from journal
       where ledger_no = $1 and target = -q.quote_no and code is null offset 0
  ) j on true
"""
_QUOTES_BY_NUMBER: Final = _QUOTES.format(
    quotes="""unnest($2::bigint[]) as wanted (quote_no) cross join lateral (
      select * from fx_quotes where ledger_no = $1 and quote_no = wanted.quote_no offset 0
  )"""
)
_QUOTE_BY_KEY: Final = _QUOTES.format(quotes="(select * from fx_quotes where ledger_no = $1 and key = $2)")
_HOUSE_ACCOUNTS: Final = f"""
select {ACCOUNT_COLUMNS} from accounts a {NEWEST_ENTRY}
 where a.ledger_no = $1 and a.external_reference >= 'fx:' and a.external_reference < 'fx;'
 order by a.currency, a.external_reference
"""  # noqa: S608 # constants of this file


class GivenRate(NamedTuple):
    """A rate as its source gives it; times in microseconds."""

    base: str
    quote: str
    rate: Rate
    source: str
    observed_at: int
    valid_until: int


class NewQuote(NamedTuple):
    """What a quote is asked for, checked: `amount_minor` is of the side that is fixed."""

    sell_currency: str
    sell_exponent: int
    buy_currency: str
    buy_exponent: int
    fixed: FixedSide
    amount_minor: int
    spread_ppm: int
    valid_for_s: int
    key: str | None
    caller: str

    @property
    def request(self) -> str:
        """What makes two requests the same; amounts and spreads are compared as numbers."""
        pair = f"{self.sell_currency} {self.buy_currency}"
        return f"{pair} {self.fixed} {self.amount_minor} {self.spread_ppm} {self.valid_for_s}"

    def terms(self, ratio: Ratio) -> Terms:
        """The same at a rate, for the model."""
        return Terms(
            self.sell_exponent, self.buy_exponent, self.fixed, self.amount_minor, ratio, self.spread_ppm
        )


class PricedQuote(NamedTuple):
    """A quote that is about to be kept, as it was priced at `at`, in microseconds."""

    new: NewQuote
    at: int
    found: Found
    priced: Priced

    @property
    def columns(self) -> dict[str, Any]:
        """Its row, but for what the database gives it."""
        new, priced = self.new, self.priced
        return {
            "created_at": to_datetime(self.at),
            "expires_at": to_datetime(self.at + new.valid_for_s * 1_000_000),
            "sell_currency": new.sell_currency,
            "sell_exponent": new.sell_exponent,
            "sell_minor": priced.sell,
            "buy_currency": new.buy_currency,
            "buy_exponent": new.buy_exponent,
            "buy_minor": priced.buy,
            "fair_minor": priced.fair,
            "spread_minor": priced.spread,
            "rate": _decimal(self.found.rate),
            "spread_ppm": new.spread_ppm,
            "method": self.found.method,
            "residue": Decimal(priced.residue),
        }

    def row(self, ledger_no: int, quote_no: int) -> dict[str, Any]:
        """The row as it would be read back now: nobody has used it yet."""
        via = self.found.via
        rates = {"rate_nos": [k.rate_no for k in via], "rates_at": [to_datetime(k.recorded_at) for k in via]}
        unused = {"used_seq": None, "used_at": None}
        return {"ledger_no": ledger_no, "quote_no": quote_no, **self.columns, **rates, **unused}


async def add_rates(
    connection: Connection, ledger_no: int, given: Sequence[GivenRate], at: int
) -> list[Known]:
    """Add what is new; what stands in the table for each given rate, in their order."""
    bases, quotes = [each.base for each in given], [each.quote for each in given]
    sources = [each.source for each in given]
    observed = [to_datetime(each.observed_at) for each in given]
    rates = [_decimal(each.rate) for each in given]
    valid = [to_datetime(each.valid_until) for each in given]
    await connection.execute(
        _ADD_RATES, ledger_no, bases, quotes, rates, sources, observed, valid, to_datetime(at)
    )
    rows = await connection.fetch(_STORED_RATES, ledger_no, bases, quotes, sources, observed)
    return [_known(row) for row in rows]


async def read_newest(
    connection: Connection, ledger_no: int, pairs: Sequence[tuple[str, str]], at: int
) -> dict[tuple[str, str], Known]:
    """Of each pair, whichever way round it was given, the newest rate that was observed by then."""
    lows, highs = [low for low, _ in pairs], [high for _, high in pairs]
    rows = await connection.fetch(_NEWEST, ledger_no, lows, highs, to_datetime(at))
    known = [_known(row) for row in rows]
    return {(min(each.base, each.quote), max(each.base, each.quote)): each for each in known}


async def read_rates(
    connection: Connection, ledger_no: int, pair: tuple[str, str], span: Span
) -> Page[Known]:
    """A page of a pair's rates, the newest first; a position is the number of a rate."""
    after = END if span.after is None else span.after
    rows = await connection.fetch(_PAGE, ledger_no, *pair, after, span.limit + 1)
    known = [_known(row) for row in rows]
    return Page.of(known, span, [each.rate_no for each in known])


async def add_quotes(
    connection: Connection, ledger_no: int, quotes: Sequence[PricedQuote]
) -> list[int | None]:
    """Keep quotes, all at once: the number of each, or None where its key has one already."""
    rows = [
        (
            *quote.columns.values(),
            *_two_rates(quote.found),
            quote.new.key,
            quote.new.request,
            quote.new.caller,
        )
        for quote in quotes
    ]
    columns = [list(column) for column in zip(*rows, strict=True)]
    return [row[0] for row in await connection.fetch(_ADD_QUOTES, ledger_no, *columns)]


def _two_rates(found: Found) -> tuple[int, int | None]:
    """A rate was given, or is made of two."""
    return found.via[0].rate_no, found.via[1].rate_no if len(found.via) > 1 else None


async def read_quotes(connection: Connection, ledger_no: int, quote_nos: Sequence[int]) -> dict[int, Any]:
    """The rows of quotes and of what used them, by number."""
    rows = await connection.fetch(_QUOTES_BY_NUMBER, ledger_no, quote_nos)
    return {row["quote_no"]: row for row in rows}


async def read_quote_by_key(connection: Connection, ledger_no: int, key: str) -> Any:
    """The row of the quote that was made under this key, or None."""
    return await connection.fetchrow(_QUOTE_BY_KEY, ledger_no, key)


async def read_house_accounts(connection: Connection, ledger_no: int) -> list[Account]:
    """The accounts that conversions of this ledger go through, with their newest totals, by currency."""
    return [account_from_row(row) for row in await connection.fetch(_HOUSE_ACCOUNTS, ledger_no)]


def rate_from_row(row: Any) -> Rate:
    return rate_of(format(row["rate"], "f"))


def _known(row: Any) -> Known:
    return Known(
        row["rate_no"], row["base"], row["quote"], rate_from_row(row), row["source"],
        to_micros(row["observed_at"]), to_micros(row["valid_until"]), to_micros(row["recorded_at"]),
    )  # fmt: skip


def _decimal(rate: Rate) -> Decimal:
    # From text: arithmetic on decimals would round to the context's precision.
    return Decimal(rate.text)
