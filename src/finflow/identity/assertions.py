"""The token endpoint's work: a client proves itself with a signed assertion, once, and gets an access token.

RFC 6749 section 4.4 (client credentials) with RFC 7523 (`private_key_jwt`). Nobody has a shared secret: the
client signs with a key that only it has, and the assertion it signs is good for one token only. The row that
says so is committed before the token is made, so whoever dies in between has used the assertion up, and the
client signs another one.
"""

import hashlib
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

from finflow.db.pool import acquired
from finflow.identity import jose, store
from finflow.identity.keys import Keyring
from finflow.identity.model import MAX_TTL_S, SCOPES, assertion_of
from finflow.identity.tokens import TYPE, mint
from finflow.identity.views import TokenView
from finflow.kernel.errors import FinFlowError

if TYPE_CHECKING:
    import asyncpg

ENDPOINT: Final = "/oauth/token"
# Another host's clock may be behind: the row outlives the assertion by more than clocks may differ.
KEPT_AFTER_S: Final = 600
SWEEP_MOST: Final = 10_000
_MICROS: Final = 1_000_000


class TokenDesk:
    """Makes access tokens for clients. Raises client_unauthenticated for every way not to be one."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        keyring: Keyring,
        issuer: str,
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._keyring = keyring
        self._issuer = issuer
        self._clock = clock
        self._audiences = (issuer, issuer + ENDPOINT)

    async def token(
        self, assertion: str, scope: str | None = None, client_id: str | None = None
    ) -> TokenView:
        """A token of the scopes asked for, or of all that the client has. Raises scope_not_granted."""
        now_s = self._clock()
        client, jti, expires_at_s = await self._client(assertion, client_id, now_s)
        scopes = granted(client.view.scopes, scope)
        digest = hashlib.sha256(jti.encode("utf-8", "surrogatepass")).digest()
        until = int((expires_at_s + KEPT_AFTER_S) * _MICROS)
        async with acquired(self._pool) as connection:
            if not await store.use_assertion(connection, client.client_no, digest, until):
                raise _unauthenticated("The assertion was used before; sign a new one for every request.")
        token = mint(
            self._keyring.signing(now_s),
            issuer=self._issuer,
            subject=client.view.client_id,
            tenant_id=client.view.tenant_id,
            scopes=scopes,
            now_s=now_s,
        )
        return TokenView(token, "Bearer", MAX_TTL_S, " ".join(scopes))

    async def sweep(self) -> None:
        """Delete what nobody could use any more."""
        async with acquired(self._pool) as connection:
            await store.sweep_assertions(connection, int(self._clock() * _MICROS), SWEEP_MOST)

    async def _client(
        self, assertion: str, client_id: str | None, now_s: float
    ) -> tuple[store.Client, str, float]:
        """Whose assertion it is, its `jti`, and when it expires."""
        try:
            signed = jose.read(assertion)
            subject = signed.claims.get("sub")
            if signed.kind.removeprefix("application/") == TYPE or not isinstance(subject, str):
                raise _unauthenticated("This is no assertion of a client.")
            if client_id is not None and client_id != subject:
                raise _unauthenticated("`client_id` is not the assertion's subject.")
            client = await self._signer(signed, subject)
            return client, *assertion_of(signed.claims, subject, self._audiences, now_s)
        except FinFlowError as error:
            if error.kind.code in ("token_invalid", "token_expired"):
                raise _unauthenticated(error.detail) from error
            raise

    async def _signer(self, signed: jose.Signed, client_id: str) -> store.Client:
        async with acquired(self._pool) as connection:
            client = await store.find(connection, client_id)
        if client is not None and client.view.revoked_at is None:
            # Few keys live at once, so one without a name may be any of them.
            names = client.jwks if signed.kid is None else [signed.kid]
            keys = (jose.public_key(client.jwks[name], name) for name in names if name in client.jwks)
            if any(jose.verify(signed, key) for key in keys):
                return client
        raise _unauthenticated("The client is not known, or none of its keys signed this assertion.")


def granted(scopes: Collection[str], asked: str | None) -> list[str]:
    """The scopes of a token, in the house's order. Raises scope_not_granted for one that the client lacks."""
    wanted = set(scopes) if not asked else set(asked.split(" "))
    if not wanted <= set(scopes):
        raise FinFlowError("scope_not_granted", "The client lacks a scope that it asks for.", "scope")
    return [scope for scope in SCOPES if scope in wanted]


def _unauthenticated(why: str) -> FinFlowError:
    return FinFlowError("client_unauthenticated", why)
