"""Foreign exchange for the client: the shapes that travel, and `api.fx` with one method a route."""

import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote

import msgspec

from finflow.client.model import Moment, Transaction

if TYPE_CHECKING:
    from finflow.client.service import Client

RATES_AT_ONCE: Final = 1_000

Method = Literal["direct", "inverse", "cross"]
QuoteStatus = Literal["open", "used", "expired"]


class NewRate(msgspec.Struct, frozen=True, omit_defaults=True):
    """One `base` is worth `rate` of `quote`; without `valid_until` for a day from `observed_at` on."""

    base: str
    quote: str
    rate: str
    source: str
    observed_at: Moment
    valid_until: Moment | None = None


class Rate(msgspec.Struct, frozen=True):
    """A rate as it is kept."""

    rate_id: str
    ledger_id: str
    base: str
    quote: str
    rate: str
    source: str
    observed_at: datetime
    valid_until: datetime
    recorded_at: datetime


class FoundRate(msgspec.Struct, frozen=True):
    """The rate between two currencies at a moment, and the rates that it was made of."""

    base: str
    quote: str
    rate: str
    method: Method
    at: datetime
    via: list[Rate]


class Quote(msgspec.Struct, frozen=True):
    """A quote: the customer pays `sell_amount` and gets `buy_amount` until it expires.

    `fair_amount` is `buy_amount` + `spread_amount` + `rounding_amount`.
    """

    quote_id: str
    ledger_id: str
    status: QuoteStatus
    sell_currency: str
    sell_amount: str
    buy_currency: str
    buy_amount: str
    rate: str
    spread: str
    customer_rate: str
    method: Method
    fair_amount: str
    spread_amount: str
    rounding_amount: str
    residue: str
    rate_ids: list[str]
    created_at: datetime
    expires_at: datetime
    transaction_id: str | None


class Position(msgspec.Struct, frozen=True):
    """What the bank holds of a currency through conversions, and what it earned in it."""

    currency: str
    position: str
    spread_income: str
    rounding_income: str
    position_account_id: str | None
    spread_account_id: str | None
    rounding_account_id: str | None


class Positions(msgspec.Struct, frozen=True):
    ledger_id: str
    positions: list[Position]


class _Rates(msgspec.Struct):
    rates: list[Rate]


class _Page(msgspec.Struct):
    items: list[Rate]
    next: str | None = None


class Fx:
    """Rates, quotes and conversions of one client: `api.fx`. Errors are raised as the client's are."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    async def push_rates(self, ledger_id: str, rates: Sequence[NewRate]) -> list[Rate]:
        """Keep up to 1,000 rates, all or none; safe to repeat. Raises rate_malformed, rate_conflict."""
        body = {"ledger_id": ledger_id, "rates": rates}
        return (await self._client._send(_Rates, "POST", "/v1/fx/rates", body)).rates

    async def rates(
        self, ledger_id: str, base: str, quote: str, *, page_size: int = 1000
    ) -> AsyncIterator[Rate]:
        """Every rate of a pair, whichever way round, newest first, read in pages."""
        query = {"ledger_id": ledger_id, "base": base, "quote": quote, "limit": str(page_size)}
        while True:
            page = await self._client._send(_Page, "GET", "/v1/fx/rates", query=query)
            for item in page.items:
                yield item
            if page.next is None:
                return
            query = query | {"cursor": page.next}

    async def rate(self, ledger_id: str, base: str, quote: str, *, at: Moment | None = None) -> FoundRate:
        """The rate that holds from `base` to `quote`, now or at a moment. Raises pair_unknown, rate_stale."""
        query = {"ledger_id": ledger_id, "base": base, "quote": quote}
        if at is not None:
            query["at"] = at.isoformat() if isinstance(at, datetime) else at
        return await self._client._send(FoundRate, "GET", "/v1/fx/rate", query=query)

    async def quote(
        self,
        ledger_id: str,
        sell_currency: str,
        buy_currency: str,
        *,
        sell_amount: str | None = None,
        buy_amount: str | None = None,
        spread: str = "0",
        valid_for_s: int = 60,
        key: str | None = None,
    ) -> Quote:
        """Both amounts of a conversion, fixed for a while; give one of the two.

        Raises pair_unknown, rate_stale, converts_to_zero, spread_malformed, idempotency_conflict.
        """
        body: dict[str, Any] = {
            "ledger_id": ledger_id, "sell_currency": sell_currency, "buy_currency": buy_currency,
            "spread": spread, "valid_for_s": valid_for_s,
        }  # fmt: skip
        body |= {"sell_amount": sell_amount} if sell_amount is not None else {}
        body |= {"buy_amount": buy_amount} if buy_amount is not None else {}
        return await self._client._send(Quote, "POST", "/v1/fx/quotes", body, key=key or str(uuid.uuid4()))

    async def read_quote(self, quote_id: str) -> Quote:
        """A quote, and whether it is open, used or expired. Raises quote_unknown."""
        # What is no id must not name another route, as "." and ".." would.
        part = quote(quote_id, safe="").replace(".", "%2E")
        return await self._client._send(Quote, "GET", f"/v1/fx/quotes/{part}")

    async def convert(
        self, quote_id: str, from_account_id: str, to_account_id: str, *, key: str | None = None
    ) -> Transaction:
        """Convert by a quote, once. Raises quote_used, quote_expired, exceeds_available; OutcomeUnknown."""
        body = {
            "quote_id": quote_id,
            "from_account_id": from_account_id,
            "to_account_id": to_account_id,
        }
        return await self._client._book("/v1/fx/conversions", body, key)

    async def positions(self, ledger_id: str) -> Positions:
        """What conversions left on the bank's own accounts, by currency."""
        query = {"ledger_id": ledger_id}
        return await self._client._send(Positions, "GET", "/v1/fx/positions", query=query)
