"""Calls of others over HTTP as spans, and the header that makes the spans of whoever answers their children.

Whoever calls others does so by a `session` of this file. A hop of a redirect and a repetition by the library
are spans of their own, as OpenTelemetry's conventions for HTTP clients want it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from finflow.telemetry import tracing
from finflow.telemetry.redaction import MASK, redact

_FIRST_FAILURE: Final = 400
Shown = Callable[[str], str]


def session(shown: Shown = redact, **options: Any) -> aiohttp.ClientSession:
    """As aiohttp's, with spans. `shown` makes of a URL without query and password what a span may say."""
    return aiohttp.ClientSession(middlewares=(partial(_traced, shown),), **options)


def origin(url: str) -> str:
    """A URL whose path is a secret, as it may be shown."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/{MASK}"


def calling(method: str) -> AbstractContextManager[tracing.Span | None]:
    """A span around a call: a child of the current one, or a trace of its own where nobody began one."""
    begin = tracing.root if tracing.current() is None else tracing.span
    return begin(method, "client")


def attributes(method: str, url: str, shown: Shown = redact) -> tracing.Attributes:
    """What is known before there is an answer. No query: names and references are looked for there."""
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return {
        "http.request.method": method,
        "url.full": shown(bare.geturl()),
        "server.address": parts.hostname or "",
        "server.port": parts.port or (443 if parts.scheme == "https" else 80),
    }


async def _traced(
    shown: Shown, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    with calling(request.method) as span:
        if span is not None:
            span.attributes.update(attributes(request.method, str(request.url), shown))
        request.headers.update(tracing.outgoing())
        answer = await send(request)
        if span is not None:
            span.attributes["http.response.status_code"] = answer.status
            if answer.status >= _FIRST_FAILURE:
                span.error = str(answer.status)
        return answer
