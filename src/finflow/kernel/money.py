"""Money: integers of minor units inside, decimal strings outside, never a float.

An amount travels as a plain decimal string such as "12.50" and is counted in minor units with the
currency's ISO 4217 exponent. More decimals than the currency has are refused, never rounded; fewer
are filled with zeros. Every count fits a signed 64-bit integer.
"""

from finflow.kernel.currencies import EXPONENTS

MAX_MINOR = (1 << 63) - 1
MAX_EXPONENT = 18


class Malformed(ValueError):
    """The text is not a plain decimal number: digits, at most one point, at most one minus."""


class TooPrecise(ValueError):
    """The text has more decimals than the currency."""


class OutOfRange(ValueError):
    """The amount does not fit a signed 64-bit count of minor units."""


def exponent_of(currency: str) -> int | None:
    """Decimals of an ISO 4217 currency, or None if the list does not have it."""
    return EXPONENTS.get(currency)


def to_minor(text: str, exponent: int) -> int:
    """Minor units of a decimal string: ("12.5", 2) -> 1250. Raises Malformed, TooPrecise or OutOfRange."""
    whole, point, fraction = text.partition(".")
    digits = whole + fraction
    # Nearly every amount has just its currency's decimals and few digits: no further question.
    plain = whole and len(fraction) == exponent and len(digits) < 19 and (fraction or not point)
    if plain and digits.isdigit() and digits.isascii():
        return int(digits)
    unsigned = digits[1:] if digits[:1] == "-" else digits
    if not (unsigned.isdigit() and unsigned.isascii()) or whole in ("", "-") or (point and not fraction):
        raise Malformed(text[:50])
    missing = exponent - len(fraction)
    if missing < 0:
        raise TooPrecise(text[:50])
    # More digits than this cannot be a 64-bit count, and int() must not be fed unbounded digits.
    significant = unsigned.lstrip("0") or "0"
    minor = int(significant) * 10**missing if len(significant) < 20 else MAX_MINOR + 1
    if minor > MAX_MINOR:
        raise OutOfRange(text[:50])
    return -minor if text.startswith("-") else minor


def to_text(minor: int, exponent: int) -> str:
    """The decimal string of minor units with all the currency's decimals: (1250, 2) -> "12.50"."""
    digits = str(minor)
    if exponent == 0:
        return digits
    # Below one whole there are too few digits to cut.
    if len(digits) <= exponent + (minor < 0):
        digits = ("-" if minor < 0 else "") + str(abs(minor)).rjust(exponent + 1, "0")
    return f"{digits[:-exponent]}.{digits[-exponent:]}"
