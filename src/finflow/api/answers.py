"""Answers as bytes: one encoder, one pre-built ASGI response, nothing computed twice."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

Header = tuple[bytes, bytes]

JSON: Final = (b"content-type", b"application/json")
NO_STORE: Final = (b"cache-control", b"no-store")
PROBLEM_JSON: Final = (b"content-type", b"application/problem+json")
REPLAYED: Final = (b"idempotency-replayed", b"true")

_WITHOUT_BODY: Final = (204, 304)

# The journal keeps metadata with its names sorted; sorted at first too, a replay is the same bytes.
encode = msgspec.json.Encoder(order="deterministic").encode


class Answer:
    """A whole response: status, headers, body. Litestar sends it as the ASGI application that it is.

    Nobody on the way may keep it, unless `cache` says otherwise: what a bank answers is private.
    """

    __slots__ = ("body", "cache", "headers", "status")

    def __init__(self, status: int, body: bytes, headers: Sequence[Header] = (JSON,)) -> None:
        self.cache = NO_STORE
        self.status = status
        self.body = body
        self.headers = headers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [*self.headers, self.cache]
        if self.status not in _WITHOUT_BODY:
            headers.append((b"content-length", b"%d" % len(self.body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def ok(value: object) -> Answer:
    return Answer(200, encode(value))


def created(value: object, replayed: bool = False) -> Answer:
    return Answer(201, encode(value), (JSON, REPLAYED) if replayed else (JSON,))
