"""Finds IBANs and card numbers in text: by their form, then by their check digits.

They may stand in groups, and beside anything that is no letter and no digit. A candidate that fails hides
none that begins within it, and each is looked at over a bounded length, so a text takes time in proportion
to its own. What is longer than a number, an id or a hash, holds none.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final

# What may stand between two digits, once: a space, one that does not break, a dash.
_GAP: Final = "[ \\-\u00a0\u2007\u202f]"
_GAPS: Final = re.compile(_GAP)

# --- IBANs ---------------------------------------------------------------------------------------------

# What follows country and check digits: so many digits (n), letters (a), or either (c). The SWIFT registry,
# release 101; then countries that are not in it and use such numbers all the same.
_REGISTRY: Final = """
AD8n12c AE19n AL8n16c AT16n AZ4a20c BA16n BE12n BG4a6n8c BH4a14c BI23n BR23n1a1c BY4c4n16c CH5n12c CR18n
CY8n16c CZ20n DE18n DJ23n DK14n DO4c20n EE16n EG25n ES20n FI14n FK2a12n FO14n FR10n11c2n GB4a14n GE2a16n
GI4a15c GL14n GR7n16c GT24c HN4a20n HR17n HU24n IE4a14n IL19n IQ4a15n IS22n IT1a10n12c JO4a4n18c KW4a22c
KZ3n13c LB4n20c LC4a24c LI5n12c LT16n LU3n13c LV4a13c LY21n MC10n11c2n MD20c ME18n MK3n10c2n MN16n MR23n
MT4a5n18c MU4a19n3a NI4a20n NL4a10n NO11n OM3n16c PK4a16c PL24n PS4a21c PT21n QA4a21c RO4a16c RS18n
RU14n15c SA2n18c SC4a20n3a SD14n SE20n SI15n SK20n SM1a10n12c SO19n ST21n SV4a20n TL19n TN20n TR6n16c
UA6n19c VA18n VG4a16n XK16n YE4a4n18c
AO21n BF2c22n BJ2c22n CF23n CG23n CI2a22n CM23n CV21n DZ22n GA23n GQ23n GW2c19n IR22n KM23n MA24n MG23n
ML2c22n MZ21n NE2a22n SN2a22n TD23n TG2a22n
"""
_FORMS: Final = {form[:2]: form[2:] for form in _REGISTRY.split()}
_KINDS: Final = {"n": "[0-9]", "a": "[A-Za-z]", "c": "[A-Za-z0-9]"}
# The check digits are looked for first, because most text has few digits; eleven characters follow at least.
IBAN_HEAD: Final = re.compile(
    rf"[0-9](?<=(?<![A-Za-z0-9])[A-Za-z]{{2}}[0-9])[0-9](?=(?:{_GAP}?[A-Za-z0-9]){{11}})"
)
# Words of a sentence, too, are letters in groups.
_FEWEST_DIGITS: Final = 8


@lru_cache(maxsize=len(_FORMS))
def _form(country: str) -> re.Pattern[str]:
    parts = re.findall(r"([0-9]+)([nac])", _FORMS[country])
    body = "".join(f"(?:{_GAP}?{_KINDS[kind]}){{{times}}}" for times, kind in parts)
    return re.compile(rf"[A-Za-z]{{2}}[0-9]{{2}}{body}(?![0-9])")


def iban(text: str) -> bool:
    """Whether the check digits are right: the number, its head moved behind, is 1 modulo 97 (ISO 13616)."""
    bare = _GAPS.sub("", text)
    return 15 <= len(bare) <= 34 and int("".join(str(int(c, 36)) for c in bare[4:] + bare[:4])) % 97 == 1


def _iban_end(text: str, start: int) -> int | None:
    country = text[start : start + 2].upper()
    found = _form(country).match(text, start) if country in _FORMS else None
    if found is None or not iban(found[0]):
        return None
    in_groups = _GAPS.search(found[0]) is not None
    return None if in_groups and sum(map(str.isdigit, found[0])) < _FEWEST_DIGITS else found.end()


# --- cards ---------------------------------------------------------------------------------------------

# Networks and the lengths of their numbers: most digits in a row that pass the check by chance are neither.
_CARD: Final = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|(?:5[06-8]|6\d)\d{11,17}|2[2-7]\d{14}|3[47]\d{13}"
    r"|3[0689]\d{12}(?:\d{2,5})?|35\d{14,17}"
)
# Not behind a letter or a digit, nor in the fraction of an amount; twelve digits follow at least.
CARD_HEAD: Final = re.compile(rf"[2-6](?<![A-Za-z0-9].)(?<![0-9]\..)(?=(?:{_GAP}?[0-9]){{12}})", re.DOTALL)
# Between other numbers it must stand as cards show it; alone, in groups of any length.
_CARD_FORMS: Final = tuple(
    re.compile(form + "(?![A-Za-z0-9])")
    for form in (
        "[0-9]{13,19}",
        rf"[0-9]{{4}}(?:{_GAP}[0-9]{{4}}){{3}}{_GAP}[0-9]{{1,3}}",
        rf"[0-9]{{4}}(?:{_GAP}[0-9]{{4}}){{3}}",
        rf"[0-9]{{4}}(?:{_GAP}[0-9]{{4}}){{2}}{_GAP}[0-9]{{1,3}}",
        rf"[0-9]{{4}}{_GAP}[0-9]{{6}}{_GAP}[0-9]{{4,5}}",
        rf"(?<![0-9]{_GAP})(?<![A-Za-z]-)[0-9](?:{_GAP}?[0-9]){{12,18}}(?!{_GAP}[0-9]|-[A-Za-z])",
    )
)


def luhn(digits: str) -> bool:
    """Whether the last digit is the Luhn check digit of those before it."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(number // 10 + number % 10 for number in doubled) % 10 == 0


def card(text: str) -> bool:
    """Whether some network gives out such a number, and its check digit is right."""
    bare = _GAPS.sub("", text)
    return _CARD.fullmatch(bare) is not None and luhn(bare)


def _card_end(text: str, start: int) -> int | None:
    found = (form.match(text, start) for form in _CARD_FORMS)
    return next((each.end() for each in found if each and card(each[0])), None)


# --- both ----------------------------------------------------------------------------------------------


def without_ibans(text: str, mask: str) -> str:
    """The text with each IBAN replaced."""
    starts = (found.start() - 2 for found in IBAN_HEAD.finditer(text))
    return _without(text, mask, starts, _iban_end)


def without_cards(text: str, mask: str) -> str:
    """The text with each card number replaced."""
    starts = (found.start() for found in CARD_HEAD.finditer(text))
    return _without(text, mask, starts, _card_end)


def _without(text: str, mask: str, starts: Iterator[int], end_of: Callable[[str, int], int | None]) -> str:
    parts: list[str] = []
    kept = 0
    for start in starts:
        if start >= kept and (end := end_of(text, start)):
            parts += text[kept:start], mask
            kept = end
    return "".join([*parts, text[kept:]])
