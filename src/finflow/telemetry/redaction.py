"""Takes out of text, before it is shown, what must not be read there: secrets, and who somebody is.

`redact` is for text of our own that may hold a URL or a token: passwords in URLs go, and signed tokens.
`scrub` is for log lines, which may hold anything: it also takes out tokens, keys, e-mail addresses, phone
numbers, IBANs and card numbers by their form, and whole values by the name of their field. IBANs and card
numbers are recognised by their check digits (`numbers`), so that ids and amounts of the same length stay
readable.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Final

from finflow.telemetry.numbers import CARD_HEAD, IBAN_HEAD, without_cards, without_ibans

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
# Each of them has one of these in it.
_IN_EVERY_NAME: Final = (
    "pass|pwd|secret|key|credential|authorization|assertion|token|cookie|session|signature|otp|pin|cv[vc]"
)
_PERSONAL_NAMES: Final = (
    r"metadata|(?:full|first|last|middle|given|family|maiden|holder|customer|owner|legal|beneficiary|sur)_?name|"
    r"(?:account_?|card_?)?holder|customer|beneficiary|payer|payee|e?_?mail|e?mail_?address|address|street|"
    r"(?:tele|mobile_?)?phone(?:_?number)?|mobile|msisdn|post(?:al_?)?code|birth_?(?:date|day)|date_of_birth|"
    r"dob|passport|nric|ssn|tax_?id|national_?id|iban|pan|card(?:_?number)?|remote_?addr|client_?ip"
)
_OWNERS: Final = r"customer|holder|owner|payer|payee|beneficiary|contact|user|account|home|billing|tenant"
# The name of a secret may stand at the end of a longer one: `db_password`, `X-Api-Key`, `cardPin`; those that
# no other word ends with also right behind another: `PGPASSWORD`.
_PLAIN_NAMES: Final = (
    r"password|passwd|passphrase|passcode|secret|token|credentials?|authorization|cookie|"
    r"(?:api|access|private)[_\-]?key"
)
_NAME: Final = rf"(?:(?:(?<![A-Za-z0-9])|(?-i:(?<=[a-z0-9])(?=[A-Z])))(?:{_HIDDEN_NAMES})|(?:{_PLAIN_NAMES}))"
_SECRET_NAME: Final = re.compile(rf".*{_NAME}", re.IGNORECASE)
_PRIVATE_FIELD: Final = re.compile(
    rf".*{_NAME}|(?:(?:{_OWNERS})[_.\-]?)?(?:{_PERSONAL_NAMES})", re.IGNORECASE
)

# password=..., "api_key": "...", ('cookie', b'...') in running text; quoted values to their closing quote,
# which has as many backslashes before it as the opening one.
_ASSIGNED: Final = re.compile(
    rf"(?P<head>{_NAME}(?:\\*[\"']\s{{0,3}},\s{{0,3}}(?=b?\\*[\"'])|\\*[\"']?\s{{0,3}}[=:]\s{{0,3}}))(?!\s|\*{{3}})"
    r"(?:b?(?P<quote>\\*[\"'])(?:(?!(?<!\\)(?P=quote))[^\n])*(?:(?P=quote))?"
    r"|(?<=cookie: )[^\n\"']+|(?:(?:Bearer|Basic)\s+)?[^\s,;&\"']+)",
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
# What PostgreSQL says of a row that broke a rule is the row. It may hold anything, also what looks like the
# end of it: it goes to the last end there is, or as far as the text.
_DETAIL: Final = re.compile(
    r"(?P<head>failing row contains |key \([^\n]{0,512}?\)=)\("
    r"(?:.*\)(?=\.(?:[\s\"'\\]|$)| already exists| is not present| is still referenced| is duplicated)|.*)",
    re.IGNORECASE | re.DOTALL,
)
_EMAIL: Final = re.compile(
    r"(?<![\w.%+\-])[\w.%+\-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,62})\.){1,8}[A-Za-z]{2,24}\b"
)
_PHONE: Final = re.compile(
    r"(?<![\w+.])(?:\+\d{1,3}[ .\-]?(?:\(\d{1,4}\)[ .\-]?)?\d(?:[ .\-]?\d){5,12}"
    r"|\(\d{2,4}\) ?\d{3,4}[ \-]\d{3,4}|\d{3}-\d{3}-\d{4})(?![\w]|[.\-]\d)"
)
_FEWEST_DIGITS: Final = 13


def scrub(text: str) -> str:
    """The text without secrets and personal data that can be known by their form; at most 16 KiB of it."""
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + " [cut]"
    if "://" in text or "?" in text:
        text = redact(text)
    lower = text.lower()
    for sign, forms in _BY_SIGN:
        if sign.search(lower):
            for masked, of_its_own in forms:
                if of_its_own.search(lower):
                    text = masked(text)
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
        text = f"{value:f}" if isinstance(value, float) else str(value)
        return value if len(text) < _FEWEST_DIGITS or scrub(text) == text else MASK
    if isinstance(value, str | bytes):
        return scrub(_text(value))
    if depth >= _MAX_DEPTH:
        return MASK
    if isinstance(value, Mapping):
        return {
            scrub(_text(key)): scrub_field(_text(key), each, depth + 1)
            for key, each in list(value.items())[:_MAX_ITEMS]
        }
    if isinstance(value, list | tuple | set | frozenset):
        items = list(value)[:_MAX_ITEMS]
        # Headers are lists of pairs.
        named = len(items) == 2 and isinstance(items[0], str | bytes)
        return [
            scrub_field(_text(items[0]) if named and place else "", each, depth + 1)
            for place, each in enumerate(items)
        ]
    return scrub(str(value))


def _text(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


@lru_cache(maxsize=1024)
def _private(name: str) -> bool:
    """Whether a field's name says that its value is private; the names of a program are few."""
    return len(name) > _MAX_NAME or _PRIVATE_FIELD.fullmatch(name) is not None


def secret(name: str, value: str) -> bool:
    """Whether a setting is a secret, by its name or its form. The path of a file that holds one is none."""
    if _PREFIXED.search(value) or _PEM.search(value) or redact(value) != value:
        return True
    return bool(value) and not value.startswith("/") and _SECRET_NAME.fullmatch(name) is not None


# Forms with what a text must hold in lower case for it to be worth looking, in three groups with what it must
# hold for any of them: most lines are done with after three looks.
_Forms = tuple[tuple[Callable[[str], str], re.Pattern[str]], ...]
_BY_SIGN: Final[tuple[tuple[re.Pattern[str], _Forms], ...]] = (
    (
        re.compile(
            r"private key|eyj|akia|gh[pousr]_|github_|xox|sk_|aiza|glpat|bearer|basic|dpop|row contains|\)=\("
        ),
        (
            (partial(_PEM.sub, MASK), re.compile("private key")),
            (partial(_JWT.sub, MASK), re.compile("eyj")),
            (partial(_PREFIXED.sub, MASK), re.compile("akia|gh[pousr]_|github_|xox|sk_|aiza|glpat")),
            (partial(_SCHEME.sub, rf"\g<head> {MASK}"), re.compile("bearer|basic|dpop")),
            (partial(_DETAIL.sub, rf"\g<head>({MASK})"), re.compile(r"\)=\(|row contains")),
        ),
    ),
    (
        re.compile("[=:,@]"),
        (
            (partial(_ASSIGNED.sub, rf"\g<head>{MASK}"), re.compile(_IN_EVERY_NAME)),
            (partial(_EMAIL.sub, MASK), re.compile("@")),
        ),
    ),
    (
        re.compile("[0-9][^a-z]?[0-9]"),
        (
            (partial(without_ibans, mask=MASK), IBAN_HEAD),
            (partial(without_cards, mask=MASK), CARD_HEAD),
            (partial(_PHONE.sub, MASK), re.compile(r"\d[\d \-().]{5}")),
        ),
    ),
)
