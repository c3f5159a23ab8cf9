"""TypeIDs that are also locators: `acc_`, `txn_`, `led_`, `ten_` and a UUIDv7 in base 32.

A UUIDv7 (RFC 9562) has 62 bits left for its maker. Ours hold the ledger's number (24 bits) and the
row's number in it (38 bits), and the 12 bits before hold the microseconds (method 3), so an id is
computed from its row, needs no column and no index, and leads straight to the primary key. Whoever
looks an id up recomputes it from the row and compares: an id that was never given is unknown.
The text form is the TypeID specification, version 0.3.0. See docs/adr/0005.
"""

from functools import lru_cache
from typing import NamedTuple

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
# The letters that `int` takes for the same digits; for whatever is none of ours, one that it does not take.
_DIGITS = bytes(
    b"0123456789abcdefghijklmnopqrstuv"[_ALPHABET.index(chr(code))] if chr(code) in _ALPHABET else 0x21
    for code in range(256)
)
_LENGTH = 26
_NUMBER_BITS = 38
_VERSION_AND_VARIANT = (7 << 76) | (0b10 << 62)
_TAIL = (1 << 40) - 1
MAX_LEDGER_NO = (1 << 24) - 1
MAX_NUMBER = (1 << _NUMBER_BITS) - 1
# Accounts, tenants and clients are numbered with 32 bits: a larger number was never given, and no query
# could take it.
_LARGEST = {"acc": (1 << 31) - 1, "ten": (1 << 31) - 1, "cli": (1 << 31) - 1}


class Locator(NamedTuple):
    """Where an id points: the ledger's number and the row's number in it."""

    ledger_no: int
    number: int


def mint(prefix: str, micros: int, ledger_no: int, number: int) -> str:
    """The one id of a row. Milliseconds and their fraction, ledger and number, in that order."""
    millis, rest = divmod(micros, 1000)
    # 4096 steps for 1000 microseconds: the fraction in binary, as RFC 9562 section 6.2 method 3 says.
    value = (
        (millis << 80) | _VERSION_AND_VARIANT | ((rest * 4096 // 1000) << 64) | (ledger_no << _NUMBER_BITS)
    )
    # Rows of one batch share all but the last forty bits, which are eight letters.
    low = value & _TAIL | number
    pairs = _PAIRS
    tail = pairs[low >> 30] + pairs[low >> 20 & 1023] + pairs[low >> 10 & 1023] + pairs[low & 1023]
    return f"{prefix}_{_head(value >> 40)}{tail}"


def parse(prefix: str, text: str) -> Locator | None:
    """The locator in an id, or None if the text is not an id of this prefix."""
    head = len(prefix) + 1
    if len(text) != head + _LENGTH or not text.startswith(prefix + "_"):
        return None
    value = _from_base32(text[head:])
    if value is None or (value >> 76) & 0xF != 7 or (value >> 62) & 0b11 != 0b10:
        return None
    low = value & ((1 << 62) - 1)
    number = low & MAX_NUMBER
    return None if number > _LARGEST.get(prefix, MAX_NUMBER) else Locator(low >> _NUMBER_BITS, number)


@lru_cache(maxsize=4096)
def _head(value: int) -> str:
    """The first eighteen letters of an id: all bits but the last forty."""
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(80, -1, -10)])


def _from_base32(text: str) -> int | None:
    try:
        value = int(text.encode("ascii").translate(_DIGITS), 32)
    except ValueError:
        return None
    return value if value >> 128 == 0 else None
