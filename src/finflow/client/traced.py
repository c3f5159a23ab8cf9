"""Calls of the client as spans, and the header that makes the server's span their child.

Each attempt is a span of its own, as OpenTelemetry's conventions for HTTP clients want it: a retry is seen.
"""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from finflow.client.retries import Failure
from finflow.telemetry import tracing
from finflow.telemetry.redaction import redact

if TYPE_CHECKING:
    from finflow.client.transport import Reply, Request

T = TypeVar("T", bound="Reply | Failure")


async def attempt(sending: Coroutine[Any, Any, T], request: "Request", url: str, number: int) -> T:
    """Send as a span: a child of the current one, or a trace of its own where nobody began one."""
    begin = tracing.root if tracing.current() is None else tracing.span
    with begin(request.method, "client") as span:
        outcome = await sending
        if span is not None:
            _describe(span, request, url, number)
            if isinstance(outcome, Failure):
                span.error = outcome.error.kind.code
        return outcome


def answered(status: int) -> None:
    """The server's status, for the span of this attempt."""
    span = tracing.current()
    if span is not None and span.kind == "client":
        span.attributes["http.response.status_code"] = status


def _describe(span: tracing.Span, request: "Request", url: str, number: int) -> None:
    parts = urlsplit(url)
    span.attributes |= {
        "http.request.method": request.method,
        # Without the query: names and references are looked for there.
        "url.full": redact(url + request.path),
        "server.address": parts.hostname or "",
        "server.port": parts.port or (443 if parts.scheme == "https" else 80),
    }
    if number > 1:
        span.attributes["http.request.resend_count"] = number - 1
