"""What a check works with while it runs: the service's URL, variables, the environment, an HTTP session."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from finflow.telemetry.redaction import redact
from finflow.verification.model import Failed, Missing, Unanswered, filled, masked

C = TypeVar("C", bound=msgspec.Struct)
MAX_ANSWER_BYTES: Final = 4 << 20


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer as a whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """The body as JSON. Raises Failed."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Failed(f"the answer is not JSON: {self.text[:200]!r}") from error


class Scene:
    """The variables of one run, shared by its checks, and how to reach things. No output goes past `safe`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        values: dict[str, str],
        environ: Mapping[str, str],
        secrets: set[str],
        headers: Mapping[str, str],
    ) -> None:
        self.session = session
        self.url = url.rstrip("/")
        self.values = values
        self.environ = environ
        self.secrets = secrets
        self.headers = headers

    def filled(self, check: C) -> C:
        """The check with its variables in it. Raises Missing."""
        plain = filled(msgspec.to_builtins(check), self.values, self.environ)
        return msgspec.convert(plain, type(check))

    def secret(self, name: str) -> str:
        """What an environment variable holds; from now on no output shows it. Raises Missing."""
        value = self.environ.get(name)
        if not value:
            raise Missing(f"env.{name}")
        self.secrets.add(value)
        return value

    def safe(self, text: str) -> str:
        """The text as it may be shown: without what the environment told us, passwords in URLs, tokens."""
        return redact(masked(text, self.secrets))

    def place(self, path: str | None, url: str | None) -> str:
        """The URL that a check means."""
        if url is not None:
            return url
        if not self.url:
            raise Missing("url")
        return self.url + (path or "")

    async def ask(self, method: str, url: str, headers: Mapping[str, str], **body: Any) -> Answer:
        """One request; redirects are answers. Raises Unanswered, and Failed for an answer that is none."""
        ours = self.headers if self.url and url.startswith(self.url) else {}
        try:
            async with self.session.request(
                method, url, headers={**ours, **headers}, allow_redirects=False, **body
            ) as reply:
                data = await _bounded(reply)
                return Answer(reply.status, {k.lower(): v for k, v in reply.headers.items()}, data)
        except (aiohttp.ClientConnectionError, TimeoutError, ConnectionError) as error:
            raise Unanswered(f"{method} {url}: {reason(error)}") from error
        except aiohttp.InvalidURL as error:
            raise Failed(f"{url!r} is not a URL") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise Failed(f"{method} {url}: not an HTTP answer: {reason(error)}") from error


async def _bounded(reply: aiohttp.ClientResponse) -> bytes:
    """The body, read piece by piece: a service that never ends its answer does not fill our memory."""
    pieces: list[bytes] = []
    left = MAX_ANSWER_BYTES
    async for piece in reply.content.iter_chunked(1 << 16):
        left -= len(piece)
        if left < 0:
            raise Failed(f"the answer is larger than {MAX_ANSWER_BYTES >> 20} MiB")
        pieces.append(piece)
    return b"".join(pieces)


def reason(error: BaseException) -> str:
    """What an exception says, or its name where it says nothing."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__


async def pause(seconds: float) -> None:
    """Waits, for loops that ask again."""
    await asyncio.sleep(seconds)
