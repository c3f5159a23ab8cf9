"""Access tokens of our own: JWTs of the profile of RFC 9068, signed with Ed25519."""

import secrets
from collections.abc import Iterable
from typing import Final

from finflow.identity.jose import sign
from finflow.identity.keys import ALGORITHM, SigningKey
from finflow.identity.model import MAX_TTL_S, SCOPES

TYPE: Final = "at+jwt"


def mint(
    key: SigningKey,
    *,
    issuer: str,
    subject: str,
    tenant_id: str | None,
    scopes: Iterable[str],
    now_s: float,
    ttl_s: int = MAX_TTL_S,
    audience: str | None = None,
) -> str:
    """A token for `ttl_s` seconds (900 at most); the audience is the issuer unless another is named."""
    assert 0 < ttl_s <= MAX_TTL_S, "a token lives 15 minutes at most"
    granted = frozenset(scopes)
    issued_at_s = int(now_s)
    claims: dict[str, object] = {
        "iss": issuer,
        "sub": subject,
        "client_id": subject,
        "aud": audience or issuer,
        "iat": issued_at_s,
        "nbf": issued_at_s,
        "exp": issued_at_s + ttl_s,
        "jti": secrets.token_urlsafe(16),
        "scope": " ".join(scope for scope in SCOPES if scope in granted),
    }
    if tenant_id is not None:
        claims["tenant"] = tenant_id
    return sign({"alg": ALGORITHM, "typ": TYPE, "kid": key.kid}, claims, key.key)
