"""Calls of the client as spans, and the header that makes the server's span their child.

Each attempt is a span of its own, as OpenTelemetry's conventions for HTTP clients want it: a retry is seen.
"""

from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from finflow.client.retries import Failure
from finflow.telemetry import outbound, tracing

if TYPE_CHECKING:
    from finflow.client.transport import Reply, Request

T = TypeVar("T", bound="Reply | Failure")


async def attempt(sending: Coroutine[Any, Any, T], request: "Request", url: str, number: int) -> T:
    """Send as a span: a child of the current one, or a trace of its own where nobody began one."""
    with outbound.calling(request.method) as span:
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
    # What is no URL was not asked, and the failure says so.
    with suppress(ValueError):
        span.attributes |= outbound.attributes(request.method, url + request.path)
    if number > 1:
        span.attributes["http.request.resend_count"] = number - 1
