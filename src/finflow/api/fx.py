"""Foreign exchange over HTTP: rates in and out, quotes, conversions, positions."""

from typing import Final

from litestar import get, post
from litestar.params import FromPath
from msgspec.structs import replace

from finflow.api import outcomes
from finflow.api.answers import Answer, created, ok
from finflow.api.cursors import span_of
from finflow.api.decoding import Body, HttpRequest, Query, check_moment, micros
from finflow.api.fx_schemas import (
    NewConversion,
    NewQuote,
    NewRates,
    PositionsQuery,
    RatePage,
    RateQuery,
    Rates,
    RatesQuery,
)
from finflow.api.idempotency import given_key, required_key
from finflow.api.identity import caller_of
from finflow.api.listings import listed
from finflow.api.schemas import NoQuery
from finflow.api.state import fx_of, ledger_of
from finflow.fx.service import CUSTOMER_ENTRIES, QuoteDraft
from finflow.fx.views import FoundRateView, PositionsView, QuoteView
from finflow.kernel.errors import FinFlowError
from finflow.ledger.book import Record
from finflow.ledger.views import TransactionView

_RATES: Final = Body(NewRates)
_QUOTE: Final = Body(NewQuote)
_CONVERSION: Final = Body(NewConversion)
_PAGE: Final = Query(RatesQuery)
_RATE: Final = Query(RateQuery)
_POSITIONS: Final = Query(PositionsQuery)
_NOTHING: Final = Query(NoQuery)


@post(
    "/v1/fx/rates",
    opt={"scope": "fx:write", "takes": NewRates, "gives": Rates},
    summary="Push rates; a rate that is known already changes nothing",
)
async def push_rates(request: HttpRequest) -> Answer:
    new = await _RATES.read(request)
    for index, rate in enumerate(new.rates):
        check_moment(rate.observed_at, f"rates[{index}].observed_at")
        check_moment(rate.valid_until, f"rates[{index}].valid_until")
    return created(Rates(await fx_of(request).add_rates(new.ledger_id, [each.draft() for each in new.rates])))


@get(
    "/v1/fx/rates",
    opt={"scope": "fx:read", "query": RatesQuery, "gives": RatePage},
    summary="List a pair's rates, newest first",
)
async def list_rates(request: HttpRequest) -> Answer:
    query = _PAGE.read(request)
    span = span_of(request, query, newest=True)
    page = await fx_of(request).rates(query.ledger_id, query.base, query.quote, span)
    return await listed(request, query, page, RatePage)


@get(
    "/v1/fx/rate",
    opt={"scope": "fx:read", "query": RateQuery, "gives": FoundRateView},
    summary="Find the rate between two currencies: given, inverse, or through a pivot",
)
async def find_rate(request: HttpRequest) -> Answer:
    query = _RATE.read(request)
    at = micros(query.at, "at")
    return ok(await fx_of(request).rate(query.ledger_id, query.base, query.quote, at))


@post(
    "/v1/fx/quotes",
    opt={"scope": "fx:write", "takes": NewQuote, "gives": QuoteView, "key": "optional"},
    summary="Fix both amounts of a conversion for a while",
)
async def make_quote(request: HttpRequest) -> Answer:
    key = given_key(request)
    new = await _QUOTE.read(request)
    draft = _draft(new)
    view, replayed = await fx_of(request).quote(new.ledger_id, draft, key, caller_of(request))
    return created(view, replayed)


def _draft(new: NewQuote) -> QuoteDraft:
    rest = (new.spread, new.valid_for_s)
    if new.sell_amount is not None and new.buy_amount is None:
        return QuoteDraft(new.sell_currency, new.buy_currency, "sell", new.sell_amount, *rest)
    if new.buy_amount is not None and new.sell_amount is None:
        return QuoteDraft(new.sell_currency, new.buy_currency, "buy", new.buy_amount, *rest)
    raise FinFlowError("request_malformed", "Give one of sell_amount and buy_amount.", "sell_amount")


@get(
    "/v1/fx/quotes/{quote_id:str}",
    opt={"scope": "fx:read", "gives": QuoteView},
    summary="Read a quote, and whether it was used",
)
async def read_quote(request: HttpRequest, quote_id: FromPath[str]) -> Answer:
    _NOTHING.read(request)
    return ok(await fx_of(request).read_quote(quote_id))


@post(
    "/v1/fx/conversions",
    opt={"scope": "fx:write", "takes": NewConversion, "gives": TransactionView, "key": "required"},
    summary="Convert by a quote, once, in one transaction",
)
async def convert(request: HttpRequest) -> Answer:
    key = required_key(request)
    new = await _CONVERSION.read(request)
    ledger_id, command = await fx_of(request).conversion(new.quote_id, new.from_account_id, new.to_account_id)
    record = await outcomes.submit(request, ledger_id, key, command)
    if record.code is not None:
        return outcomes.refused(request, _in_the_caller_s_words(record))
    return created(await ledger_of(request).show(ledger_id, record), record.replayed)


def _in_the_caller_s_words(record: Record) -> Record:
    """The place of a refusal as a field of the request instead of an entry that the caller did not write."""
    entry, _, field = (record.param or "").partition(".")
    place = CUSTOMER_ENTRIES.get(entry)
    return replace(record, param=place if place and field != "amount" else record.param)


@get(
    "/v1/fx/positions",
    opt={"scope": "fx:read", "query": PositionsQuery, "gives": PositionsView},
    summary="What conversions left on the bank's own accounts",
)
async def read_positions(request: HttpRequest) -> Answer:
    return ok(await fx_of(request).positions(_POSITIONS.read(request).ledger_id))


HANDLERS: Final = (
    push_rates,
    list_rates,
    find_rate,
    make_quote,
    read_quote,
    convert,
    read_positions,
)
