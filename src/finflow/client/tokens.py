"""Where a client's access tokens come from: a given one, or the token endpoint with a key of one's own."""

import asyncio
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
import msgspec

from finflow.client.retries import error_of, problem_of
from finflow.kernel.errors import FinFlowError
from finflow.telemetry import outbound

_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION_S: Final = 60
_TIMEOUT_S: Final = 10.0
# So long before its end a token is replaced, while it still opens doors.
_AHEAD_S: Final = 90.0
_AGAIN_S: Final = 5.0
_MAX_ANSWER_BYTES: Final = 65_536


class TokenProvider(Protocol):
    """Asked before every attempt of a request; `async def` functions without parameters will do."""

    async def __call__(self) -> str:
        """A token that is good now. Raises FinFlowError; a retryable one is tried again like the request."""
        ...


class StaticToken:
    """A token from elsewhere, as long as it lasts."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def __call__(self) -> str:
        return self._token


class _Answer(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: int


class _Refusal(msgspec.Struct, frozen=True):
    error: str = ""
    error_description: str = ""


class ClientCredentials:
    """Tokens for a registered client (RFC 7523): every request for one is signed anew with the client's key.

    `key` is a private key of Ed25519, P-256 or RSA, as PEM or the path of a PEM file; `kid` its name where
    the client has several. `audience` is the server's issuer, by default the URL. Callers share one request,
    and a token that still lives is used while the next one is fetched. Raises client_unauthenticated,
    scope_not_granted, file_unreadable, api_unreachable.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        key: bytes | str | Path,
        *,
        kid: str | None = None,
        scope: str | None = None,
        audience: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url.rstrip("/")
        self._client_id = client_id
        self._key, self._algorithm = private_key(key)
        self._kid = kid
        self._scope = scope
        self._audience = audience or self._url
        self._clock = clock
        self._token = ""
        self._replace_at_s = self._expires_at_s = float("-inf")
        self._one_flight = asyncio.Lock()

    async def __call__(self) -> str:
        now_s = self._clock()
        if now_s < self._replace_at_s or (now_s < self._expires_at_s and self._one_flight.locked()):
            return self._token
        async with self._one_flight:
            if self._clock() >= self._replace_at_s:
                await self._replace()
        return self._token

    def forget(self) -> None:
        """The token was refused: the next call gets another."""
        self._replace_at_s = self._expires_at_s = float("-inf")

    async def _replace(self) -> None:
        asked_at_s = self._clock()
        try:
            answer = await self._fetch()
        except FinFlowError as error:
            if not error.kind.retryable or self._clock() >= self._expires_at_s:
                raise
            self._replace_at_s = self._clock() + _AGAIN_S
            return
        self._token = answer.access_token
        self._expires_at_s = asked_at_s + answer.expires_in
        self._replace_at_s = max(self._expires_at_s - _AHEAD_S, asked_at_s + answer.expires_in / 2)

    async def _fetch(self) -> _Answer:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        url = f"{self._url}/oauth/token"
        try:
            async with (
                outbound.session(timeout=timeout) as session,
                session.post(url, data=self._form(), allow_redirects=False) as response,
            ):
                content = await response.content.read(_MAX_ANSWER_BYTES)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise FinFlowError("api_unreachable", f"{url}: {error or type(error).__name__}") from error
        if response.status != 200:
            raise _refusal(response.status, content)
        try:
            return msgspec.json.decode(content, type=_Answer)
        except msgspec.DecodeError as error:
            raise FinFlowError("internal", f"{url} did not answer with a token") from error

    def _form(self) -> dict[str, str]:
        from finflow.identity.jose import sign  # here, because it loads the cryptography

        now_s = int(time.time())
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": self._audience,
            "iat": now_s,
            "exp": now_s + _ASSERTION_S,
            "jti": secrets.token_urlsafe(16),
        }
        header = {"alg": self._algorithm, "typ": "JWT"} | ({"kid": self._kid} if self._kid else {})
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": sign(header, claims, self._key),
        }
        return form if self._scope is None else form | {"scope": self._scope}


def private_key(source: bytes | str | Path) -> tuple[Any, str]:
    """joserfc's key of a PEM or a PEM file, and its algorithm. Raises file_unreadable."""
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    pem: bytes | str
    if not isinstance(source, Path):
        pem = source
    else:
        try:
            pem = source.read_bytes()
        except OSError as error:
            raise FinFlowError("file_unreadable", f"{source}: {error.strerror}") from error
    kinds: tuple[tuple[Any, str], ...] = ((OKPKey, "EdDSA"), (ECKey, "ES256"), (RSAKey, "PS256"))
    for kind, algorithm in kinds:
        try:
            key = kind.import_key(pem)
        except (JoseError, ValueError, TypeError):
            continue
        if key.is_private:
            return key, algorithm
    raise FinFlowError("file_unreadable", "The key is not a private key in PEM.")


def _refusal(status: int, content: bytes) -> FinFlowError:
    try:
        refusal = msgspec.json.decode(content, type=_Refusal)
    except msgspec.DecodeError:
        refusal = _Refusal()
    if refusal.error:
        code = "scope_not_granted" if refusal.error == "invalid_scope" else "client_unauthenticated"
        return FinFlowError(code, refusal.error_description or refusal.error)
    return error_of(status, problem_of(status, content))
