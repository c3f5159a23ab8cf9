"""Rates, quotes and positions as the world sees them: ids, decimal strings, aware datetimes. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import msgspec

from finflow.fx.model import WHOLE_PPM, Found, Known, Method, Rate, decimal_text
from finflow.kernel import ids, money
from finflow.kernel.clock import to_datetime, to_micros

QuoteStatus = Literal["open", "used", "expired"]


class RateView(msgspec.Struct, frozen=True):
    """One `base` is worth `rate` of `quote`, says `source`, from `observed_at` until `valid_until`."""

    rate_id: str
    ledger_id: str
    base: str
    quote: str
    rate: str
    source: str
    observed_at: datetime
    valid_until: datetime
    recorded_at: datetime


class FoundRateView(msgspec.Struct, frozen=True):
    """The rate between two currencies at a moment, and the rates that it was made of."""

    base: str
    quote: str
    rate: str
    method: Method
    at: datetime
    via: list[RateView]


class QuoteView(msgspec.Struct, frozen=True):
    """A quote: the customer pays `sell_amount` and gets `buy_amount`, whatever rates do until it expires.

    `fair_amount` is what is sold at the rate, half-even, and what the position account is debited: it is
    `buy_amount` + `spread_amount` + `rounding_amount`. `residue` is what that rounding left, at most half a
    minor unit either way. `rate` is as it is shown; amounts are computed with the exact one.
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


class PositionView(msgspec.Struct, frozen=True):
    """What the bank holds of a currency through conversions, positive where it bought more than it sold."""

    currency: str
    position: str
    spread_income: str
    rounding_income: str
    position_account_id: str | None
    spread_account_id: str | None
    rounding_account_id: str | None


class PositionsView(msgspec.Struct, frozen=True):
    ledger_id: str
    positions: list[PositionView]


def show_rate(known: Known, ledger_id: str, ledger_no: int) -> RateView:
    return RateView(
        rate_id(known.rate_no, known.recorded_at, ledger_no), ledger_id, known.base, known.quote,
        known.rate.text, known.source, to_datetime(known.observed_at), to_datetime(known.valid_until),
        to_datetime(known.recorded_at),
    )  # fmt: skip


def rate_id(rate_no: int, recorded_at: int, ledger_no: int) -> str:
    return ids.mint("fxr", recorded_at, ledger_no, rate_no)


def show_found(base: str, quote: str, found: Found, at: int, ledger_id: str, ledger_no: int) -> FoundRateView:
    via = [show_rate(known, ledger_id, ledger_no) for known in found.via]
    return FoundRateView(base, quote, found.rate.text, found.method, to_datetime(at), via)


def show_quote(row: Mapping[str, Any], rate: Rate, ledger_id: str, at: int) -> QuoteView:
    """A row of `fx_quotes` with `used_seq` and `used_at` of the transaction that used it, as of a moment."""
    ledger_no, buy_exponent = row["ledger_no"], row["buy_exponent"]
    rounding = row["fair_minor"] - row["buy_minor"] - row["spread_minor"]
    return QuoteView(
        quote_id=quote_id(row),
        ledger_id=ledger_id,
        status=_status(row, at),
        sell_currency=row["sell_currency"],
        sell_amount=money.to_text(row["sell_minor"], row["sell_exponent"]),
        buy_currency=row["buy_currency"],
        buy_amount=money.to_text(row["buy_minor"], buy_exponent),
        rate=rate.text,
        spread=decimal_text(row["spread_ppm"], 6),
        customer_rate=decimal_text(rate.units * (WHOLE_PPM - row["spread_ppm"]), rate.scale + 6),
        method=row["method"],
        fair_amount=money.to_text(row["fair_minor"], buy_exponent),
        spread_amount=money.to_text(row["spread_minor"], buy_exponent),
        rounding_amount=money.to_text(rounding, buy_exponent),
        residue=plain(row["residue"]),
        rate_ids=[
            rate_id(number, to_micros(since), ledger_no)
            for number, since in zip(row["rate_nos"], row["rates_at"], strict=True)
        ],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        transaction_id=_used_by(row),
    )


def plain(number: Decimal) -> str:
    """A decimal as plain digits, without zeros at the end of the fraction."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _used_by(row: Mapping[str, Any]) -> str | None:
    if row["used_seq"] is None:
        return None
    return ids.mint("txn", to_micros(row["used_at"]), row["ledger_no"], row["used_seq"])


def _status(row: Mapping[str, Any], at: int) -> QuoteStatus:
    if row["used_seq"] is not None:
        return "used"
    return "expired" if to_micros(row["expires_at"]) <= at else "open"


def quote_id(row: Mapping[str, Any]) -> str:
    return ids.mint("fxq", to_micros(row["created_at"]), row["ledger_no"], row["quote_no"])


def show_positions(ledger_id: str, rows: Sequence[Mapping[str, Any]]) -> PositionsView:
    """Rows of role, currency, exponent, balance (minor units) and account id, by currency."""
    by_currency: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_currency.setdefault(row["currency"], {})[row["role"]] = row
    return PositionsView(ledger_id, [_show_position(each, found) for each, found in by_currency.items()])


def _show_position(currency: str, by_role: Mapping[str, Mapping[str, Any]]) -> PositionView:
    exponent = next(iter(by_role.values()))["exponent"]
    found = [by_role.get(role) for role in ("position", "spread", "rounding")]
    position, spread, rounding = (money.to_text(row["balance"] if row else 0, exponent) for row in found)
    accounts = [row["account_id"] if row else None for row in found]
    return PositionView(currency, position, spread, rounding, *accounts)
