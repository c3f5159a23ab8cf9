"""How every request is watched: counted, timed and traced, by one step when it begins and one at its answer.

Both are taken by the envelope, which stands around a request anyway: wrappers of their own would be further
calls and objects for each request (docs/adr/0013).
"""

from collections.abc import Iterable
from time import monotonic, time

from litestar.handlers import HTTPRouteHandler

from finflow.api.measured import RequestCounts
from finflow.api.traced import FIRST_FAILURE, RequestTraces
from finflow.telemetry import tracing
from finflow.telemetry.instruments import OBJECTIVE_S
from finflow.telemetry.metrics import Histogram
from finflow.telemetry.spans import BEGAN_S, TRACE
from finflow.telemetry.tracing import Scope, Trace


class Watch:
    """What is begun with `begin` is ended with `end`, once. `access_ratio` of them get an access line."""

    # A request from now on; what runs while it is answered.
    begin = staticmethod(tracing.begin_request)

    def __init__(self, handlers: Iterable[HTTPRouteHandler], release: str, access_ratio: float = 0.0) -> None:
        self._counts = RequestCounts(handlers)
        self._answers, self._outcomes = self._counts.known_answers, self._counts.known_outcomes
        self._traces = RequestTraces(release, access_ratio)
        self._logs = access_ratio > 0

    def end(self, scope: Scope, status: int, error: str | None = None) -> None:
        """The last of an answer is about to be sent, or there will be none (status 0).

        Before it is sent: whoever has an answer was counted, even if we are killed now.
        """
        took_s, tenant_id = monotonic() - scope[BEGAN_S], scope["state"].get("tenant_id")
        # Looked up here, not where they are made: every call of a function shows in what watching costs.
        series, answered, failed = self._answers.get(
            (scope["method"], scope["path"], status)
        ) or self._counts.answers(scope, status)
        outcomes = self._outcomes.get(tenant_id) or self._counts.outcomes(tenant_id)
        series.observe_counted(took_s, answered, outcomes[failed or took_s > OBJECTIVE_S])
        if (
            took_s >= tracing.slow_s
            or TRACE in scope
            or status >= FIRST_FAILURE
            or error is not None
            or self._logs
        ):
            kept = self._traces.end(scope, took_s, status, error)
            if kept is not None:
                _exemplify(series, took_s, kept)
        # Of almost every request nobody needed a trace, and nobody will.
        scope[BEGAN_S] = 0.0


def _exemplify(series: Histogram, duration_s: float, trace: Trace) -> None:
    """Name the request's trace beside its bucket: one that is kept, so that it can be looked up."""
    ids = trace.trace_id.to_bytes(16, "big"), trace.span_id.to_bytes(8, "big")
    series.exemplify(duration_s, *ids, time())
