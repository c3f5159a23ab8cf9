"""The arithmetic of foreign exchange: which rate holds between two currencies, and what a conversion books.

Everything is whole numbers: a rate is `units` / 10**`scale`, an amount is minor units, a spread is parts per
million. Nothing is rounded but where it says so, and never in the customer's favour: derived rates and what
the customer gets are rounded down, what the customer pays is rounded up. docs/explanation/fx-rounding.md
shows why nobody then gains by splitting or by going there and back.
"""

import re
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

import msgspec

from finflow.kernel.money import MAX_MINOR
from finflow.ledger.book import Refusal

# A currency that both others have a rate against, tried in this order.
PIVOTS: Final = ("EUR", "USD")
# A pushed rate has at most so many digits on either side of its point; a derived one so many that count.
RATE_DIGITS: Final = 12
DERIVED_DIGITS: Final = 18
WHOLE_PPM: Final = 1_000_000

Method = Literal["direct", "inverse", "cross"]
FixedSide = Literal["sell", "buy"]

_RATE: Final = re.compile(rf"[0-9]{{1,{RATE_DIGITS}}}(?:\.[0-9]{{1,{RATE_DIGITS}}})?")
_SPREAD: Final = re.compile(r"0(?:\.([0-9]{1,6}))?")


class Rate(msgspec.Struct, frozen=True):
    """An exact decimal: `units` / 10**`scale`, in units of the one currency per unit of the other."""

    units: int
    scale: int

    @property
    def text(self) -> str:
        """Plain digits, without zeros at the end of the fraction."""
        return decimal_text(self.units, self.scale)


class Known(NamedTuple):
    """A rate that a source gave: one `base` is worth `rate` of `quote`. Times in microseconds."""

    rate_no: int
    base: str
    quote: str
    rate: Rate
    source: str
    observed_at: int
    valid_until: int
    recorded_at: int


class Found(NamedTuple):
    """The rate from one currency to another, how it was found, and the rates that it was made of."""

    rate: Rate
    method: Method
    via: tuple[Known, ...]


class Terms(NamedTuple):
    """What is converted: the amount in minor units is of the side that is fixed."""

    sell_exponent: int
    buy_exponent: int
    fixed: FixedSide
    amount_minor: int
    rate: Rate
    spread_ppm: int


class Priced(NamedTuple):
    """What a conversion books, in minor units.

    The customer pays `sell` and gets `buy`. `fair` is what `sell` is worth at the rate, half-even; it is
    `buy` + `spread` + `rounding`, none of them negative.
    """

    sell: int
    buy: int
    fair: int
    spread: int
    rounding: int


# --- rates -----------------------------------------------------------------------------------------


def parse_rate(text: str) -> Rate | None:
    """The rate in a plain decimal, or None: it is no number, is zero, or has too many digits."""
    if not _RATE.fullmatch(text):
        return None
    whole, _, fraction = text.partition(".")
    return _plain(int(whole + fraction), len(fraction)) if int(whole + fraction) else None


def parse_spread(text: str) -> int | None:
    """Parts per million of a decimal from 0 to below 1, or None if it is none."""
    found = _SPREAD.fullmatch(text)
    return int((found[1] or "").ljust(6, "0")) if found else None


def pair(one: str, other: str) -> tuple[str, str]:
    """A pair of currencies whichever way round: both directions are answered from one rate."""
    return (one, other) if one < other else (other, one)


def pairs_between(sell: str, buy: str) -> list[tuple[str, str]]:
    """The pairs whose newest rates decide how `sell` becomes `buy`."""
    crossing = [pair(each, pivot) for pivot in _pivots(sell, buy) for each in (sell, buy)]
    return [pair(sell, buy), *crossing]


def find_rate(sell: str, buy: str, newest: Mapping[tuple[str, str], Known], at: int) -> Found | Refusal:
    """The rate from `sell` to `buy` at a moment: of the pair itself, or through the first pivot that serves.

    The first way on which every rate is still valid is taken. There and back take the same way.
    """
    ways = [(pair(sell, buy),), *((pair(sell, p), pair(p, buy)) for p in _pivots(sell, buy))]
    known = [tuple(newest[step] for step in way) for way in ways if all(step in newest for step in way)]
    for way in known:
        if all(at < step.valid_until for step in way):
            return _derived(sell, way)
    return Refusal("rate_stale" if known else "pair_unknown")


def _pivots(sell: str, buy: str) -> list[str]:
    return [pivot for pivot in PIVOTS if pivot not in (sell, buy)]


def _derived(sell: str, way: tuple[Known, ...]) -> Found:
    if len(way) == 1 and way[0].base == sell:
        return Found(way[0].rate, "direct", way)
    numerator, denominator, held = 1, 1, sell
    for step in way:
        power = 10**step.rate.scale
        if step.base == held:
            numerator, denominator, held = numerator * step.rate.units, denominator * power, step.quote
        else:
            numerator, denominator, held = numerator * power, denominator * step.rate.units, step.base
    return Found(_rounded_down(numerator, denominator), "inverse" if len(way) == 1 else "cross", way)


def _rounded_down(numerator: int, denominator: int) -> Rate:
    """A fraction as a decimal of DERIVED_DIGITS digits that count, rounded once and down.

    Down, because the product of a rate and of its way back is then never above one.
    """
    scale = DERIVED_DIGITS + len(str(denominator)) - len(str(numerator))
    # The first digit of a quotient is one place off where the leading digits say so.
    if numerator * 10 ** max(0, scale) // (denominator * 10 ** max(0, -scale)) >= 10**DERIVED_DIGITS:
        scale -= 1
    if scale >= 0:
        return _plain(numerator * 10**scale // denominator, scale)
    return _plain(numerator // (denominator * 10**-scale) * 10**-scale, 0)


def _plain(units: int, scale: int) -> Rate:
    while scale and units % 10 == 0:
        units, scale = units // 10, scale - 1
    return Rate(units, scale)


def decimal_text(units: int, scale: int) -> str:
    """`units` / 10**`scale` as plain digits, without zeros at the end of the fraction."""
    sign, digits = "-" if units < 0 else "", str(abs(units)).rjust(scale + 1, "0")
    whole, fraction = (digits[:-scale], digits[-scale:].rstrip("0")) if scale else (digits, "")
    return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"


# --- amounts ---------------------------------------------------------------------------------------


def price(terms: Terms) -> Priced | Refusal:
    """Both amounts of a conversion, and what of their difference is spread and what rounding."""
    rate, kept_ppm = terms.rate, WHOLE_PPM - terms.spread_ppm
    # One minor unit sold is worth numerator / denominator minor units bought, at the rate itself.
    numerator = rate.units * 10**terms.buy_exponent
    denominator = 10 ** (terms.sell_exponent + rate.scale)
    if terms.fixed == "sell":
        sell = terms.amount_minor
        buy = sell * numerator * kept_ppm // (denominator * WHOLE_PPM)
    else:
        buy = terms.amount_minor
        sell = -(-buy * denominator * WHOLE_PPM // (numerator * kept_ppm))
    if buy == 0:
        return Refusal("converts_to_zero", "amount")
    fair = half_even(sell * numerator, denominator)
    if max(sell, buy, fair) > MAX_MINOR:
        return Refusal("amount_out_of_range", "amount")
    spread = sell * numerator * terms.spread_ppm // (denominator * WHOLE_PPM)
    return Priced(sell, buy, fair, spread, fair - buy - spread)


def half_even(numerator: int, denominator: int) -> int:
    """A quotient of positive numbers rounded to the nearest whole number, a half to the even one."""
    whole, rest = divmod(numerator, denominator)
    double = 2 * rest
    return whole + (double > denominator or (double == denominator and whole % 2 == 1))


def exact_value(sell_minor: int, sell_exponent: int, rate: Rate) -> tuple[int, int]:
    """What an amount is worth at a rate before any rounding: units and scale of a decimal."""
    return sell_minor * rate.units, sell_exponent + rate.scale


def rate_of(text: str) -> Rate:
    """A rate from a decimal of any length that this house wrote itself."""
    whole, _, fraction = text.partition(".")
    return _plain(int(whole + fraction), len(fraction))
