"""What travels about foreign exchange that is the interface's own; the room's views are the rest."""

from typing import Annotated

import msgspec

from finflow.api.schemas import PageQuery
from finflow.fx.service import RateDraft
from finflow.fx.views import RateView
from finflow.ledger.commands import Moment

MAX_RATES = 1_000
MAX_VALID_FOR_S = 86_400

Source = Annotated[str, msgspec.Meta(min_length=1, max_length=140)]


class NewRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `base` is worth `rate` of `quote`; without `valid_until` for a day from `observed_at` on."""

    base: str
    quote: str
    rate: str
    source: Source
    observed_at: Moment
    valid_until: Moment | None = None

    def draft(self) -> RateDraft:
        return RateDraft(self.base, self.quote, self.rate, self.source, self.observed_at, self.valid_until)


class NewRates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rates that are kept all together or not at all; those known already change nothing."""

    ledger_id: str
    rates: Annotated[list[NewRate], msgspec.Meta(min_length=1, max_length=MAX_RATES)]


class NewQuote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to convert: `sell_amount` or `buy_amount`, whichever is to be fixed.

    `spread` is the part of the rate that the bank keeps: "0.005" is half a per cent.
    """

    ledger_id: str
    sell_currency: str
    buy_currency: str
    sell_amount: str | None = None
    buy_amount: str | None = None
    spread: str = "0"
    valid_for_s: Annotated[int, msgspec.Meta(ge=1, le=MAX_VALID_FOR_S)] = 60


class NewConversion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A quote, the account that pays what is sold, and the account that gets what is bought."""

    quote_id: str
    from_account_id: str
    to_account_id: str


class RatesQuery(PageQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The rates of one pair, whichever way round they were given."""

    ledger_id: str
    base: str
    quote: str


class RateQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rate that holds from `base` to `quote`, now or at a moment."""

    ledger_id: str
    base: str
    quote: str
    at: Moment | None = None


class PositionsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ledger_id: str


class Rates(msgspec.Struct, frozen=True):
    """What stands for each rate that was sent, in their order."""

    rates: list[RateView]


class RatePage(msgspec.Struct, frozen=True):
    """A pair's rates, newest first; `next` is the next page's `cursor`, null at the end."""

    items: list[RateView]
    next: str | None
