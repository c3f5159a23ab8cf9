"""How every request is watched: counted, timed and traced, by one step when it begins and one at its answer.

Both are taken by the envelope, which stands around a request anyway: wrappers of their own would be further
calls and objects for each request (docs/adr/0013).
"""

from collections.abc import Iterable
from time import time

from litestar.handlers import HTTPRouteHandler

from finflow.api.measured import RequestCounts
from finflow.api.traced import RequestTraces
from finflow.telemetry import instruments, tracing
from finflow.telemetry.metrics import Histogram
from finflow.telemetry.spans import BEGAN_NS
from finflow.telemetry.trace_context import Parent
from finflow.telemetry.tracing import Running, Scope, Trace, now_ns


class Watch:
    """What is begun with `begin` is ended with `end`, once."""

    def __init__(self, handlers: Iterable[HTTPRouteHandler], release: str, access_ratio: float = 0.0) -> None:
        self._counts = RequestCounts(handlers)
        self._traces = RequestTraces(release, access_ratio)
        self._active = 0

    def sample(self) -> None:
        """Set the gauge of requests that are being worked at: now and then, not with each of them."""
        instruments.active_requests.set(self._active)

    def begin(self, scope: Scope, parent: Parent | None) -> Running:
        """A request from now on; what runs while it is answered."""
        self._active += 1
        return tracing.tracer().begin_request(scope, parent)

    def end(self, scope: Scope, status: int, error: str | None = None) -> None:
        """The last of an answer is about to be sent, or there will be none (status 0).

        Before it is sent: whoever has an answer was counted, even if we are killed now.
        """
        ended_ns = now_ns()
        took_ns = ended_ns - scope[BEGAN_NS]
        self._active -= 1
        series = self._counts.count(scope, status, took_ns / 1e9)
        if self._traces.lets_go(scope, status, took_ns, error):
            scope[BEGAN_NS] = 0
            return
        kept = self._traces.end(scope, ended_ns, status, error)
        if kept is not None:
            _exemplify(series, took_ns / 1e9, kept)


def _exemplify(series: Histogram, duration_s: float, trace: Trace) -> None:
    """Name the request's trace beside its bucket: one that is kept, so that it can be looked up."""
    ids = trace.trace_id.to_bytes(16, "big"), trace.span_id.to_bytes(8, "big")
    series.exemplify(duration_s, *ids, time())
