"""The arithmetic of foreign exchange: which rate holds between two currencies, and what a conversion books.

Everything is whole numbers: a rate is a ratio, an amount is minor units, a spread is parts per million. A
rate that is computed from others is rounded only where it is shown. Amounts are rounded once each, and never
in the customer's favour: what the customer gets down, what the customer pays up. Why nobody then gains by
splitting or by going there and back is in docs/explanation/fx-rounding.md.
"""

import re
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

import msgspec

from finflow.kernel.money import MAX_MINOR
from finflow.ledger.book import Refusal

# A currency that both others have a rate against, tried in this order.
PIVOTS: Final = ("EUR", "USD")
# A pushed rate has at most so many digits on either side of its point; one that is computed is shown with so
# many that count; a residue is kept to so many below the minor unit.
RATE_DIGITS: Final = 12
SHOWN_DIGITS: Final = 18
RESIDUE_DIGITS: Final = 12
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


class Ratio(NamedTuple):
    """A rate as it is computed with: exact."""

    numerator: int
    denominator: int


class Found(NamedTuple):
    """The rate from one currency to another, how it was found, and the rates that it was made of.

    `rate` is `ratio` as it is shown, rounded down where it has more than SHOWN_DIGITS digits.
    """

    rate: Rate
    ratio: Ratio
    method: Method
    via: tuple[Known, ...]


class Terms(NamedTuple):
    """What is converted: the amount in minor units is of the side that is fixed."""

    sell_exponent: int
    buy_exponent: int
    fixed: FixedSide
    amount_minor: int
    ratio: Ratio
    spread_ppm: int


class Priced(NamedTuple):
    """What a conversion books, in minor units.

    The customer pays `sell` and gets `buy`. `fair` is what `sell` is worth at the rate, half-even; it is
    `buy` + `spread` + `rounding`, none of them negative. `residue` is what half-even rounding left over, as a
    decimal in the bought currency, exact to RESIDUE_DIGITS digits below its minor unit.
    """

    sell: int
    buy: int
    fair: int
    spread: int
    rounding: int
    residue: str


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
    numerator, denominator, held = 1, 1, sell
    for step in way:
        power = 10**step.rate.scale
        if step.base == held:
            numerator, denominator, held = numerator * step.rate.units, denominator * power, step.quote
        else:
            numerator, denominator, held = numerator * power, denominator * step.rate.units, step.base
    ratio = Ratio(numerator, denominator)
    if len(way) == 1 and way[0].base == sell:
        return Found(way[0].rate, ratio, "direct", way)
    return Found(shown(ratio), ratio, "inverse" if len(way) == 1 else "cross", way)


def shown(ratio: Ratio) -> Rate:
    """A ratio as a decimal of SHOWN_DIGITS digits that count, rounded down."""
    numerator, denominator = ratio
    scale = SHOWN_DIGITS + len(str(denominator)) - len(str(numerator))
    # The first digit of a quotient is one place off where the leading digits say so.
    if numerator * 10 ** max(0, scale) // (denominator * 10 ** max(0, -scale)) >= 10**SHOWN_DIGITS:
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
    kept_ppm = WHOLE_PPM - terms.spread_ppm
    # One minor unit sold is worth numerator / denominator minor units bought, at the rate itself.
    numerator = terms.ratio.numerator * 10**terms.buy_exponent
    denominator = terms.ratio.denominator * 10**terms.sell_exponent
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
    residue = _residue(sell * numerator - fair * denominator, denominator, terms.buy_exponent)
    return Priced(sell, buy, fair, spread, fair - buy - spread, residue)


def _residue(numerator: int, denominator: int, exponent: int) -> str:
    """Minor units left over, as a decimal of the currency, cut RESIDUE_DIGITS digits below the minor unit."""
    units = abs(numerator) * 10**RESIDUE_DIGITS // denominator
    return decimal_text(-units if numerator < 0 else units, exponent + RESIDUE_DIGITS)


def half_even(numerator: int, denominator: int) -> int:
    """A quotient of positive numbers rounded to the nearest whole number, a half to the even one."""
    whole, rest = divmod(numerator, denominator)
    double = 2 * rest
    return whole + (double > denominator or (double == denominator and whole % 2 == 1))


def rate_of(text: str) -> Rate:
    """A rate from a decimal of any length that this house wrote itself."""
    whole, _, fraction = text.partition(".")
    return _plain(int(whole + fraction), len(fraction))
