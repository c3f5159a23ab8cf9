"""What becomes of a request's trace: kept with what it says of the request, or let go; the access log.

What a span says of a request is gathered only for those that are kept.
"""

import logging
import random
from typing import Any, Final

from finflow.telemetry import tracing
from finflow.telemetry.tracing import Attributes, Scope, Trace, Tracer

access = logging.getLogger("finflow.access")

_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_OTHER_METHOD: Final = "_OTHER"
# Asked every few seconds by whoever watches the process: kept where they fail or are slow, not by chance.
_PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
FIRST_FAILURE: Final = 500
# In a request's state: the catalogue's code of what we failed with.
FAILURE: Final = "failure"
_MAX_PATH: Final = 1_024


class RequestTraces:
    """Ends the server's spans. `access_ratio` of the requests get an access line, and every failed one."""

    def __init__(self, release: str, access_ratio: float = 0.0) -> None:
        self._release = release
        self._access_ratio = access_ratio

    def end(self, scope: Scope, took_s: float, status: int, error: str | None) -> Trace | None:
        """A request was answered, with 0 not at all: its trace, if it is kept."""
        if error is None and status >= FIRST_FAILURE:
            error = scope["state"].get(FAILURE) or str(status)
        if self._access_ratio:
            self._log(scope, status, took_s, error)
        tracer = tracing.tracer()
        return self._decide(tracer, tracer.end_request(scope, took_s, error), scope, status)

    def _decide(self, tracer: Tracer, trace: Trace, scope: Scope, status: int) -> Trace | None:
        reason = tracer.verdict(trace)
        if reason is None:
            return None
        if reason == "head" and trace.remote is None and scope["path"] in _PROBES:
            trace.forget()
            return None
        trace.attributes.update(_attributes(scope, status))
        trace.attributes["finflow.release"] = self._release
        trace.name = _name(trace.attributes)
        tracer.keep(trace, reason)
        return trace if trace.kept is not None else None

    def _log(self, scope: Scope, status: int, took_s: float, error: str | None) -> None:
        chosen = self._access_ratio >= 1 or random.random() < self._access_ratio  # noqa: S311 - a sample
        if not chosen and error is None:
            return
        access.info(
            "request",
            extra={
                "method": scope["method"],
                "path": scope["path"][:_MAX_PATH],
                "route": scope.get("path_template"),
                "status": status,
                "duration_ms": round(took_s * 1e3, 3),
            },
        )


def _attributes(scope: Any, status: int) -> Attributes:
    """By OpenTelemetry's conventions for HTTP servers. No query string: it may hold what is private."""
    method = scope["method"]
    found: Attributes = {
        "http.request.method": method if method in _METHODS else _OTHER_METHOD,
        "url.path": scope["path"][:_MAX_PATH],
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
    }
    if route := scope.get("path_template"):
        found["http.route"] = route
    if status:
        found["http.response.status_code"] = status
    if (server := scope.get("server")) and server[0]:
        found["server.address"] = server[0]
        if port := _port(server[1]):
            found["server.port"] = port
    return found


def _port(told: Any) -> int:
    """A number, though some servers tell it as text; 0 for what is none, as of a socket in a folder."""
    try:
        port = int(told)
    except (TypeError, ValueError):
        return 0
    return port if 0 < port < 65_536 else 0


def _name(attributes: Attributes) -> str:
    """Method and route; without a route the method alone, because paths are without number."""
    method = attributes["http.request.method"]
    shown = "HTTP" if method == _OTHER_METHOD else method
    return f"{shown} {attributes.get('http.route', '')}".strip()
