"""One connection pool, timeouts, and attempts: the same bytes under the same key until one is answered."""

import asyncio
import random
import time
from types import TracebackType
from typing import Final, NamedTuple

import aiohttp

from finflow.client import traced
from finflow.client.retries import Failure, OutcomeUnknown, RetryBudget, failure_of, retry_delay_s
from finflow.client.tokens import TokenProvider
from finflow.kernel.errors import FinFlowError
from finflow.telemetry.tracing import outgoing

_sleep: Final = asyncio.sleep
_FIRST_ANSWER_S: Final = 5.0
_CONNECT_S: Final = 5.0
_MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_READ_BYTES: Final = 256 * 1024
_TOKEN_REFUSED: Final = ("token_invalid", "token_expired")


class Request(NamedTuple):
    """One intent: the same for every attempt. `repeatable`: sending it twice is as good as once."""

    method: str
    path: str
    data: bytes | None = None
    query: dict[str, str] | None = None
    key: str | None = None
    if_match: str | None = None
    repeatable: bool = True
    content_type: str = "application/json"


class Reply(NamedTuple):
    """A success: its body, its ETag, and whether it is the answer of an earlier request."""

    content: bytes
    etag: str | None
    replayed: bool


class Transport:
    """Sends requests to one FinFlow; see `Client` for what the settings mean."""

    def __init__(
        self, url: str, token: TokenProvider | None, timeout_s: float, budget_s: float, max_connections: int
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._timeout_s = timeout_s
        self._budget_s = budget_s
        self._max_connections = max_connections
        self._answered = False
        self._session: aiohttp.ClientSession | None = None
        self._retries = RetryBudget()
        self._jitter = random.Random()  # noqa: S311 -- spreads retries in time; no secret depends on it

    async def __aenter__(self) -> "Transport":
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=self._max_connections))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, request: Request) -> Reply:
        """The reply. Raises what the server refused with, OutcomeUnknown, or `api_unreachable`."""
        started_s = time.monotonic()
        attempt, in_doubt, renewed = 0, False, False
        while True:
            attempt += 1
            left_s = self._budget_s - (time.monotonic() - started_s)
            sending = self._attempt(request, max(left_s, 0.001))
            outcome = await traced.attempt(sending, request, self._url, attempt)
            if isinstance(outcome, Reply):
                self._retries.earn()
                return outcome
            if not renewed and self._renews(outcome):
                # A key was taken out, or a clock is off: another token may be good, at once.
                renewed = True
                continue
            in_doubt = not outcome.definite and (in_doubt or outcome.in_doubt)
            delay_s = retry_delay_s(attempt, self._jitter.random(), outcome.wait_s)
            spent_s = time.monotonic() - started_s + delay_s
            again = outcome.again and (request.repeatable or not outcome.in_doubt)
            if not again or spent_s > self._patience_s() or not (in_doubt or self._retries.spend()):
                if in_doubt and request.key is not None:
                    raise OutcomeUnknown(request.key, outcome.error) from outcome.error
                raise outcome.error
            await _sleep(delay_s)

    def _renews(self, failure: Failure) -> bool:
        """Whether the token was refused and the provider can get another one."""
        forget = getattr(self._token, "forget", None)
        if forget is None or failure.error.kind.code not in _TOKEN_REFUSED:
            return False
        forget()
        return True

    def _patience_s(self) -> float:
        return self._budget_s if self._answered else min(self._budget_s, _FIRST_ANSWER_S)

    async def _attempt(self, request: Request, left_s: float) -> Reply | Failure:
        if self._session is None:
            raise RuntimeError("use the client in `async with`")
        timeout_s = min(self._timeout_s, left_s)
        try:
            async with self._session.request(
                request.method,
                self._url + request.path,
                headers=await self._headers(request),
                data=request.data,
                params=request.query,
                timeout=aiohttp.ClientTimeout(total=timeout_s, connect=min(_CONNECT_S, timeout_s)),
                # A token and a body of money go to the address that was named, and to no other.
                allow_redirects=False,
            ) as response:
                return await self._read(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            # The request never left, so even one without a key may be sent again.
            return Failure(FinFlowError("api_unreachable", f"{self._url}: {error}"), again=True)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            detail = f"{self._url}{request.path}: {error or type(error).__name__}"
            return Failure(FinFlowError("api_unreachable", detail), again=True, in_doubt=True)
        except FinFlowError as error:
            # There is no token, so the request never left.
            return Failure(error, again=error.kind.retryable)

    async def _headers(self, request: Request) -> dict[str, str]:
        """Every attempt asks for the token anew, so that one which expired between two is not sent."""
        headers = outgoing()
        if self._token is not None:
            headers["authorization"] = f"Bearer {await self._token()}"
        if request.data is not None:
            headers["content-type"] = request.content_type
        if request.key is not None:
            headers["idempotency-key"] = request.key
        if request.if_match is not None:
            headers["if-match"] = request.if_match
        return headers

    async def _read(self, response: aiohttp.ClientResponse) -> Reply | Failure:
        traced.answered(response.status)
        content = bytearray()
        async for chunk in response.content.iter_chunked(_READ_BYTES):
            content += chunk
            if len(content) > _MAX_ANSWER_BYTES:
                return Failure(FinFlowError("internal", "the server's answer has no end"), again=False)
        self._answered = True
        if response.status >= 300:
            return failure_of(response.status, bytes(content), response.headers.get("retry-after"))
        replayed = response.headers.get("idempotency-replayed") == "true"
        return Reply(bytes(content), response.headers.get("etag"), replayed)
