"""Takes out of text, before it is shown, what must not be read there: secrets, and who somebody is.

`redact` is for text of our own that may hold a URL or a token: passwords in URLs go, and signed tokens.
`scrub` is for log lines, which may hold anything: it also takes out tokens, keys, e-mail addresses, phone
numbers, IBANs and card numbers by their form, and whole values by the name of their field. IBANs and card
numbers are recognised by their check digits, so that ids and amounts of the same length stay readable.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

MASK: Final = "***"
MAX_TEXT: Final = 16_384
_MAX_DEPTH: Final = 6
_MAX_ITEMS: Final = 100
_MAX_NAME: Final = 200

# scheme://user:password@host — the password may hold anything but white space, and the last @ ends it.
_USERINFO: Final = re.compile(
    r"(?P<head>[a-zA-Z][a-zA-Z0-9+.\-]{0,30}://[^\s:/@?#]*):(?P<secret>[^\s]{0,1024}?)@(?=[^\s@]*(?:\s|$))"
)
# ...?password=secret&... — libpq takes the password as a parameter too.
_PARAMETER: Final = re.compile(r"(?P<head>[?&](?:password|passfile|sslpassword)=)[^\s&#]*", re.IGNORECASE)

# A JSON Web Token begins with `{"` in base64url; its claims and its signature follow.
_JWT: Final = re.compile(r"\beyJ[A-Za-z0-9_\-]{6,}\.[A-Za-z0-9_\-]{4,}(?:\.[A-Za-z0-9_\-]*){0,3}")


def redact(text: str) -> str:
    """The text with every password in every URL, and every token, replaced by `***`."""
    masked = _USERINFO.sub(rf"\g<head>:{MASK}@", text)
    masked = _PARAMETER.sub(rf"\g<head>{MASK}", masked)
    return _JWT.sub(MASK, masked)


# --- log lines -----------------------------------------------------------------------------------------

_HIDDEN_NAMES: Final = (
    r"pass(?:word|wd|phrase|code|file)?|pwd|(?:client[_\-]?|shared[_\-]?)?secret|(?:secret|api|access|private|signing|"
    r"encryption|master)[_\-]?key|key[_\-]?material|credentials?|authorization|(?:client[_\-]?)?assertion|"
    r"(?:access|refresh|id|bearer|session|auth|csrf)?[_\-]?token|(?:set-)?cookie|session[_\-]?id|signature|otp|pin|"
    r"cvv|cvc"
)
_PERSONAL_NAMES: Final = (
    r"metadata|(?:full|first|last|middle|given|family|maiden|holder|customer|owner|legal|beneficiary|sur)_?name|"
    r"(?:account_?|card_?)?holder|customer|beneficiary|payer|payee|e?_?mail|e?mail_?address|address|street|"
    r"(?:tele|mobile_?)?phone(?:_?number)?|mobile|msisdn|post(?:al_?)?code|birth_?(?:date|day)|date_of_birth|"
    r"dob|passport|nric|ssn|tax_?id|national_?id|iban|pan|card(?:_?number)?|remote_?addr|client_?ip"
)
_OWNERS: Final = r"customer|holder|owner|payer|payee|beneficiary|contact|user|account|home|billing|tenant"
# The name of a secret may stand at the end of a longer one: `db_password`, `X-Api-Key`.
_PRIVATE_FIELD: Final = re.compile(
    rf"(?:.*[_.\-])?(?:{_HIDDEN_NAMES})|(?:(?:{_OWNERS})[_.\-]?)?(?:{_PERSONAL_NAMES})", re.IGNORECASE
)

_SECRET_NAME: Final = re.compile(rf"(?:.*[_.\-])?(?:{_HIDDEN_NAMES})", re.IGNORECASE)

# password=..., "api_key": "...", token: ... in running text; quoted values to their closing quote.
_ASSIGNED: Final = re.compile(
    rf"(?P<head>(?<![\w.\-])(?:[\w.\-]{{0,40}}[_.\-])?(?:{_HIDDEN_NAMES})[\"']?\s{{0,3}}[=:]\s{{0,3}})(?![\s*])"
    r"(?:\"[^\"\n]*\"?|'[^'\n]*'?|(?:(?:Bearer|Basic)\s+)?[^\s,;&\"']+)",
    re.IGNORECASE,
)
_PEM: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
)
_SCHEME: Final = re.compile(r"\b(?P<head>Bearer|Basic|DPoP)\s+[A-Za-z0-9._~+/\-]{8,}=*", re.IGNORECASE)
# Keys whose makers gave them a prefix to be found by.
_PREFIXED: Final = re.compile(
    r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|xox[abpr]-[\w\-]{10,}|"
    r"sk_(?:live|test)_\w{10,}|AIza[\w\-]{30,}|glpat-[\w\-]{16,})"
)
# What PostgreSQL says of a row that broke a rule is the row.
_DETAIL: Final = re.compile(
    r"(?P<head>(?:Failing row contains|Key) )\((?:[^()\n]|\([^()\n]*\))*\)(?:=\([^\n]*?\)(?=\s|$))?"
)
_EMAIL: Final = re.compile(
    r"(?<![\w.%+\-])[\w.%+\-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,62})\.){1,8}[A-Za-z]{2,24}\b"
)
_IBAN: Final = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
_DIGITS: Final = re.compile(r"(?<![\w.\-])\d(?:[ \-]?\d){12,18}(?![\w\-]|\.\d)")
_PHONE: Final = re.compile(
    r"(?<![\w+.])(?:\+\d{1,3}[ .\-]?(?:\(\d{1,4}\)[ .\-]?)?\d(?:[ .\-]?\d){5,12}"
    r"|\(\d{2,4}\) ?\d{3,4}[ \-]\d{3,4}|\d{3}-\d{3}-\d{4})(?![\w]|[.\-]\d)"
)
# Networks and the lengths of their numbers: most digits in a row that pass the check by chance are neither.
_CARD: Final = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|(?:5[06-8]|6\d)\d{11,17}|2[2-7]\d{14}|3[47]\d{13}"
    r"|3[0689]\d{12}(?:\d{2,5})?|35\d{14,17}"
)
_FEWEST_DIGITS: Final = 13


def scrub(text: str) -> str:
    """The text without secrets and personal data that can be known by their form; at most 16 KiB of it."""
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + " [cut]"
    if "://" in text or "?" in text:
        text = redact(text)
    lower = text.lower()
    if not _ANY_SIGN.search(lower):
        return text
    for pattern, replacement, signs in _BY_FORM:
        if signs.search(lower):
            text = pattern.sub(replacement, text)
    return text


def scrub_field(name: str, value: Any, depth: int = 0) -> Any:
    """A field of a log line as it may be written: masked where its name says what it is, else by form.

    Of a private mapping the names stay and every value goes; what is nested too deep goes whole.
    """
    if value is None or isinstance(value, bool):
        return value
    if _private(name):
        return dict.fromkeys(map(str, value), MASK) if isinstance(value, Mapping) else MASK
    if isinstance(value, int | float):
        return value if len(str(value)) < _FEWEST_DIGITS or scrub(str(value)) == str(value) else MASK
    if isinstance(value, str):
        return scrub(value)
    if depth >= _MAX_DEPTH:
        return MASK
    if isinstance(value, Mapping):
        return {
            scrub(str(key)): scrub_field(str(key), each, depth + 1)
            for key, each in list(value.items())[:_MAX_ITEMS]
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [scrub_field("", each, depth + 1) for each in list(value)[:_MAX_ITEMS]]
    return scrub(str(value))


@lru_cache(maxsize=1024)
def _private(name: str) -> bool:
    """Whether a field's name says that its value is private; the names of a program are few."""
    return len(name) > _MAX_NAME or _PRIVATE_FIELD.fullmatch(name) is not None


def secret(name: str, value: str) -> bool:
    """Whether a setting is a secret, by its name or its form. The path of a file that holds one is none."""
    if _PREFIXED.search(value) or _PEM.search(value) or redact(value) != value:
        return True
    return bool(value) and not value.startswith("/") and _SECRET_NAME.fullmatch(name) is not None


def luhn(digits: str) -> bool:
    """Whether the last digit is the Luhn check digit of those before it."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(number // 10 + number % 10 for number in doubled) % 10 == 0


def iban(text: str) -> bool:
    """Whether the check digits are right: the number, its head moved behind, is 1 modulo 97 (ISO 13616)."""
    bare = text.replace(" ", "")
    return 15 <= len(bare) <= 34 and int("".join(str(int(c, 36)) for c in bare[4:] + bare[:4])) % 97 == 1


def _mask_card(found: re.Match[str]) -> str:
    digits = re.sub(r"[ \-]", "", found[0])
    return MASK if _CARD.fullmatch(digits) and luhn(digits) else found[0]


def _mask_iban(found: re.Match[str]) -> str:
    """The IBAN goes; words that followed it in capitals stay."""
    words = found[0].split(" ")
    for end in range(len(words), 0, -1):
        if iban(" ".join(words[:end])):
            return " ".join([MASK, *words[end:]])
    return found[0]


# With each form, what a text must hold in lower case for it to be worth looking: most lines hold none.
_DIGITS_SIGN: Final = re.compile(r"\d[\d \-().]{5}")
_BY_FORM: Final[tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str], re.Pattern[str]], ...]] = (
    (_PEM, MASK, re.compile("private key")),
    (_JWT, MASK, re.compile("eyj")),
    (_PREFIXED, MASK, re.compile("akia|gh[pousr]_|github_|xox|sk_|aiza|glpat")),
    (_SCHEME, rf"\g<head> {MASK}", re.compile("bearer|basic|dpop")),
    (_ASSIGNED, rf"\g<head>{MASK}", re.compile("[=:]")),
    (_DETAIL, rf"\g<head>({MASK})", re.compile(r"key \(|row contains")),
    (_EMAIL, MASK, re.compile("@")),
    (_IBAN, _mask_iban, re.compile(r"[a-z]{2}\d{2} ?[a-z0-9]")),
    (_DIGITS, _mask_card, _DIGITS_SIGN),
    (_PHONE, MASK, _DIGITS_SIGN),
)
# All of them in one: a text without any is done with after one look.
_ANY_SIGN: Final = re.compile("|".join(sorted({f"(?:{signs.pattern})" for _, _, signs in _BY_FORM})))
