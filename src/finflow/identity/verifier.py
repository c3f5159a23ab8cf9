"""From a token's text to the caller that it speaks for, checked once and remembered while it lives."""

import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, NamedTuple

import msgspec

from finflow.identity import jose
from finflow.identity.model import Principal, Trust, invalid, principal_of

# Per generation; there are two, so at most twice as many tokens are remembered.
_GENERATION: Final = 2048

FindKey = Callable[[str | None, float], Awaitable[jose.PublicKey | None]]


class Issuer(NamedTuple):
    """Somebody whose tokens are believed: what they must say, and where the keys are found.

    After `recheck_s` a token is checked again, because nobody tells us when a key of theirs is taken out.
    """

    trust: Trust
    find: FindKey
    recheck_s: float = float("inf")


class Verifier:
    """Checks access tokens. One a worker; nothing in it outlives a token.

    A good token is remembered until it expires, its client is revoked or its key is taken out; a bad
    signature is remembered too, so that sending it again costs a hash and no curve.
    """

    def __init__(self, issuers: Mapping[str, Issuer], generation: int = _GENERATION) -> None:
        self._issuers = issuers
        self._generation = generation
        self._young: dict[str, Principal] = {}
        self._old: dict[str, Principal] = {}
        self._forged: dict[bytes, None] = {}
        self._revoked: frozenset[str] = frozenset()

    async def verify(self, token: str, now_s: float) -> Principal:
        """Whose token it is. Raises token_invalid or token_expired."""
        found = self._young.get(token)
        if found is not None and now_s < found.expires_at_s:
            return found
        return await self._verify_slowly(token, now_s)

    def knows(self, token: str, now_s: float) -> bool:
        """Whether the token was found good before, so that looking at it again costs nothing."""
        found = self._young.get(token) or self._old.get(token)
        return found is not None and now_s < found.expires_at_s

    def forget(self) -> None:
        """Check every token again: a key came or went."""
        self._young, self._old, self._forged = {}, {}, {}

    def revoke(self, subjects: Collection[str]) -> None:
        """Believe no token of these subjects, until called again with others."""
        revoked = frozenset(subjects)
        if revoked - self._revoked:
            self._young, self._old = {}, {}
        self._revoked = revoked

    async def _verify_slowly(self, token: str, now_s: float) -> Principal:
        principal = self._old.get(token)
        if principal is None or now_s >= principal.expires_at_s:
            principal = await self._check(token, now_s)
        if principal.subject in self._revoked:
            raise invalid("its client was revoked")
        if len(self._young) >= self._generation:
            # What was asked for since the last change of generations is in the young one; the rest goes.
            self._old, self._young = self._young, {}
        self._young[token] = principal
        return principal

    async def _check(self, token: str, now_s: float) -> Principal:
        if len(token) > jose.MAX_TOKEN_BYTES:
            raise invalid("it is too large")
        digest = hashlib.blake2b(token.encode(), digest_size=16).digest()
        if digest in self._forged:
            raise invalid("its signature does not match")
        signed = jose.read(token)
        issuer = self._issuer(signed)
        key = await issuer.find(signed.kid, now_s)
        if key is None:
            raise invalid("its key is not known")
        if not jose.verify(signed, key):
            self._remember_forged(digest)
            raise invalid("its signature does not match")
        principal = principal_of(signed.claims, issuer.trust, now_s)
        until_s = min(principal.expires_at_s, now_s + issuer.recheck_s)
        return msgspec.structs.replace(principal, expires_at_s=until_s)

    def _issuer(self, signed: jose.Signed) -> Issuer:
        name = signed.claims.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise invalid("another issuer")
        if signed.kind not in issuer.trust.types:
            raise invalid("it is not an access token")
        return issuer

    def _remember_forged(self, digest: bytes) -> None:
        if len(self._forged) >= self._generation:
            self._forged.clear()
        self._forged[digest] = None
