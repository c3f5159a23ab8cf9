"""Whose token it is, as its claims say, and whether the claims hold now. Pure.

The claims come from a token whose signature was checked before, under a key of the issuer that `Trust` names;
nothing here looks at a signature. Times are seconds since the epoch, as JWTs count them.
"""

import math
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from finflow.kernel import ids
from finflow.kernel.errors import FinFlowError

ADMIN: Final = "admin"
# In the order in which they are shown.
SCOPES: Final = (
    "accounts:read", "accounts:write", "transactions:read", "transactions:write",
    "ledgers:read", "ledgers:write", "fx:read", "fx:write",
    "settlement:read", "settlement:write", ADMIN,
)  # fmt: skip
# Nobody's money is the operator's business, so without a tenant this is the only scope that means something.
OPERATOR_SCOPES: Final = (ADMIN,)

MAX_TTL_S: Final = 900
# Clocks differ: a token may be so much younger than now. One that has expired is never waited for.
LEEWAY_S: Final = 30
# Each is good once, so its life bounds what has to be remembered; common libraries sign for an hour.
MAX_ASSERTION_S: Final = 3600
MAX_SUBJECT: Final = 255
_MAX_TIME: Final = 1 << 53


class Principal(msgspec.Struct, frozen=True):
    """Who asks: without a `tenant_id` and with scope admin it is the platform's operator.

    At `expires_at_s` it has to be asked again who that is: the token has expired, or is to be checked anew.
    """

    subject: str
    tenant_id: str | None
    scopes: frozenset[str]
    expires_at_s: float
    issuer: str


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """What tokens of one issuer must say, and how it calls the things that are needed of them.

    A tenant is fixed, or read from `tenant_claim`; only with `operator` may it be neither. `name` stands
    before the subject, so that two issuers' subjects are two. `types` are the `typ` headers that are taken,
    in lower case.
    """

    issuer: str
    audience: str
    tenant_claim: str | None = "tenant"
    tenant_id: str | None = None
    scope_claim: str = "scope"
    scopes: frozenset[str] = frozenset(SCOPES)
    operator: bool = False
    max_lifetime_s: int = MAX_TTL_S
    types: frozenset[str] = frozenset(("at+jwt", "application/at+jwt"))
    name: str = ""


def invalid(why: str) -> FinFlowError:
    """The token_invalid error with its reason."""
    return FinFlowError("token_invalid", f"The token is not valid: {why}.")


def principal_of(claims: Mapping[str, object], trust: Trust, now_s: float) -> Principal:
    """The caller that an access token speaks for. Raises token_invalid or token_expired."""
    if claims.get("iss") != trust.issuer:
        raise invalid("another issuer")
    check_audience(claims, (trust.audience,))
    expires_at_s = check_times(claims, now_s, trust.max_lifetime_s)
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject.isprintable() or not subject:
        raise invalid("no subject")
    subject = trust.name + subject
    if len(subject) > MAX_SUBJECT:
        raise invalid("a subject that is too long")
    scopes = scopes_in(claims.get(trust.scope_claim)) & trust.scopes
    return Principal(subject, _tenant(claims, trust), scopes, expires_at_s, trust.issuer)


def assertion_of(
    claims: Mapping[str, object], client_id: str, audiences: Collection[str], now_s: float
) -> tuple[str, float]:
    """The `jti` of a client's assertion (RFC 7523), and when it expires.

    Raises token_invalid or token_expired.
    """
    if claims.get("iss") != client_id or claims.get("sub") != client_id:
        raise invalid("`iss` and `sub` are not the client")
    check_audience(claims, audiences)
    expires_at_s = check_times(claims, now_s, MAX_ASSERTION_S)
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 1 <= len(jti) <= MAX_SUBJECT:
        raise invalid("`jti` is not 1 to 255 characters")
    return jti, expires_at_s


def _tenant(claims: Mapping[str, object], trust: Trust) -> str | None:
    if trust.tenant_id is not None:
        return trust.tenant_id
    found = claims.get(trust.tenant_claim) if trust.tenant_claim else None
    if found is None and trust.operator:
        return None
    if not isinstance(found, str) or ids.parse("ten", found) is None:
        raise invalid("no tenant")
    return found


def scopes_in(claim: object) -> frozenset[str]:
    """The scopes that we know of a claim: words in a text (RFC 9068), or a list of them, as some write."""
    if isinstance(claim, str):
        words: Collection[object] = claim.split(" ")
    elif isinstance(claim, list):
        words = claim
    elif claim is None:
        words = ()
    else:
        raise invalid("scopes that are not text")
    return frozenset(word for word in words if isinstance(word, str) and word in SCOPES)


def check_audience(claims: Mapping[str, object], accepted: Collection[str]) -> None:
    """Raises token_invalid unless one of the audiences is one of ours."""
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    if not any(isinstance(each, str) and each in accepted for each in named):
        raise invalid("another audience")


def check_times(claims: Mapping[str, object], now_s: float, max_lifetime_s: float) -> float:
    """When it expires. Raises token_expired, or token_invalid for what is not valid yet or lives too long."""
    expires_at_s = _moment(claims, "exp")
    issued_at_s = _moment(claims, "iat", missing=now_s)
    not_before_s = _moment(claims, "nbf", missing=issued_at_s)
    if now_s >= expires_at_s:
        raise FinFlowError("token_expired")
    if max(issued_at_s, not_before_s) > now_s + LEEWAY_S:
        raise invalid("not valid yet")
    if expires_at_s - min(issued_at_s, now_s) > max_lifetime_s + (0 if "iat" in claims else LEEWAY_S):
        raise invalid("a longer life than is allowed")
    return expires_at_s


def _moment(claims: Mapping[str, object], name: str, missing: float | None = None) -> float:
    value = claims.get(name, missing)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise invalid(f"`{name}` is not a time")
    if not 0 <= value < _MAX_TIME:
        raise invalid(f"`{name}` is not a time")
    return float(value)
