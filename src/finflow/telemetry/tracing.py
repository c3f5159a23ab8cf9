"""Traces: what a request or a background step did, span by span, kept only where somebody will read it.

Every request is recorded as plain objects (about three microseconds), and the decision is made at its end:
it is kept where its caller or the dice said so at the beginning, where it failed, or where it was slow.
Only what is kept becomes spans of OpenTelemetry's SDK, and that in the exporter's thread.

Times within a trace come from the monotonic clock, laid on the wall clock as it was when the trace was kept:
a clock that steps makes no span negative. The current span is a context variable, so that it follows tasks; a
task that outlives its maker begins with `detached`.
"""

import logging
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from finflow.telemetry import trace_context
from finflow.telemetry.sampling import Allowance, Dice, Sampling
from finflow.telemetry.spans import (
    BEGAN_S,
    DROPPED,
    MAX_SPANS,
    TRACE,
    WAITS,
    Attributes,
    Kind,
    Link,
    Reason,
    Running,
    Scope,
    Shared,
    Span,
    Trace,
    Value,
    Work,
    now_ns,
    wait_span,
    waits_of,
)
from finflow.telemetry.trace_context import Parent

# The room's door: what a trace is made of lies in spans.py, and is named here.
__all__ = [
    "MAX_SPANS", "Attributes", "Kind", "Link", "Running", "Scope", "Shared", "Span", "Trace", "Tracer",
    "Value", "Work", "begin_request", "current", "detached", "enter", "error_name", "install", "leave",
    "now_ns", "outgoing", "root", "running", "span", "start", "tenant_of", "tracer", "within",
]  # fmt: skip

T = TypeVar("T")


class Tracer:
    """Begins traces, and decides at their end which are kept. Without a sink nothing is recorded but ids."""

    def __init__(
        self,
        sink: Callable[[Trace], None] | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - a tuple, which nobody can change
        on_drop: Callable[[str, int], None] = lambda reason, count: None,
    ) -> None:
        self._sink = sink
        # Whether what is kept goes anywhere.
        self.recording = sink is not None
        self._dice = Dice(sampling.ratio)
        self.chooses = self._dice.chooses
        # From how many nanoseconds on a trace is kept for that alone.
        self.slow_ns = int(sampling.slow_ms * 1_000_000) if self.recording else sys.maxsize
        self._on_drop = on_drop
        self._allowances: dict[Reason, Allowance] = {
            "head": Allowance(sampling.head_per_s),
            "error": Allowance(sampling.failed_per_s),
            "slow": Allowance(sampling.slow_per_s),
        }

    def begin(self, name: str, kind: Kind = "internal", parent: Parent | None = None) -> Trace:
        """The running root of a new trace."""
        return self._assured(Trace(name, kind, parent, self._dice.throw(), self.recording))

    def begin_for_others(self, name: str) -> Trace:
        """The root of work that several wait for: kept with any of them, or where it failed or was slow."""
        trace = Trace(name, "internal", None, self._dice.of(chosen=False), self.recording)
        trace.shared = True
        return trace

    def begin_chosen(self, scope: Scope, parent: Parent | None) -> Trace:
        """The trace of a request that its caller or the dice chose at its beginning."""
        chosen = (0, False) if parent is not None else self._dice.of(chosen=True)
        return self._assured(self._of_request(scope, parent, chosen))

    def _assured(self, trace: Trace) -> Trace:
        """A trace that is chosen takes its share of what may be kept now: whoever links to it may be sure."""
        trace.assured = trace.sampled and self.recording and self._allowances["head"].spend()
        return trace

    def trace_of(self, scope: Scope) -> Trace:
        """The trace of a request that began. Where it is over, the trace is good for its ids alone."""
        trace: Trace | None = scope.get(TRACE)
        return trace if trace is not None else self._of_request(scope, None, self._dice.of(chosen=False))

    def _of_request(self, scope: Scope, parent: Parent | None, chosen: tuple[int, bool]) -> Trace:
        began_s = scope[BEGAN_S]
        trace = Trace("request", "server", parent, chosen, self.recording, scope)
        scope[TRACE] = trace
        trace.started_ns = int(began_s * 1e9)
        if WAITS in scope:
            trace.waits, trace.dropped = waits_of(scope), scope.pop(DROPPED, 0)
            del scope[WAITS]
        if not began_s:
            trace.close()
        return trace

    def end_request(self, scope: Scope, took_s: float, error: str | None) -> Trace:
        """The ended trace of a request that somebody needed one of, or that failed or was slow."""
        trace = self.trace_of(scope)
        trace.ended_ns, trace.error = trace.started_ns + int(took_s * 1e9), error
        return trace

    def verdict(self, trace: Trace) -> Reason | None:
        """Why an ended trace is to be kept. Where it is not: None, and nothing more is recorded."""
        if trace.recording:
            if trace.error is not None:
                return "error"
            if trace.assured:
                return "head"
            if trace.ended_ns - trace.started_ns >= self.slow_ns:
                return "slow"
            if trace.awaited:
                return "linked"
            if trace.sampled:
                self._on_drop("rate", len(trace.spans) + 1)
        if not trace.shared:
            trace.forget()
        return None

    def keep(self, trace: Trace, reason: Reason) -> None:
        """Hand an ended trace, and what served it, to the exporter; what still runs, when it ends."""
        if trace.kept is not None or self._sink is None:
            return
        if not trace.ended_ns:
            trace.awaited = True
            return
        if not (trace.assured or trace.awaited or reason == "linked" or self._allowances[reason].spend()):
            self._on_drop("rate", len(trace.spans) + 1)
            trace.forget()
            return
        trace.keep(reason)
        for span in trace.spans:
            # What still runs when its trace is over (a caller that gave up) ends with it.
            span.ended_ns = span.ended_ns or max(trace.ended_ns, span.started_ns)
        self._keep_waits(trace)
        try:
            self._sink(trace)
        except Exception:
            # Whatever is wrong with a sink, the request that brought the trace is answered all the same.
            log.exception("a trace was lost")

    def _keep_waits(self, trace: Trace) -> None:
        """Make spans of what the trace waited for, as far as there is room, and keep that work with it."""
        for number, each in enumerate(trace.waits):
            work, caller = each[0], each[1] or trace
            if not trace.assured:
                # Those that were kept for sure at their beginning have their links already.
                work.link(caller, number)
            if len(trace.spans) < MAX_SPANS:
                trace.spans.append(wait_span(trace, each, number))
            else:
                trace.dropped += 1
            self.keep(work.root.trace, "linked")
        trace.waits = []

    def finish(self, trace: Trace, error: str | None = None) -> None:
        """End a trace and keep it where that is due."""
        trace.end(error)
        reason = self.verdict(trace)
        if reason is not None:
            self.keep(trace, reason)


log = logging.getLogger(__name__)

_current: ContextVar[Running | None] = ContextVar("finflow_span", default=None)
_tracer: Tracer = Tracer()
# From how long on the process's tracer keeps a trace for that alone.
slow_s: float = _tracer.slow_ns / 1e9

# What runs in this context: a span, or a request of which nobody has needed a trace yet.
running: Final = _current.get
# Make something what runs, until `leave` with what this answers.
enter: Final = _current.set
leave: Final = _current.reset


def tracer() -> Tracer:
    """The process's tracer; until `install` one that records nothing."""
    return _tracer


def install(new: Tracer) -> Tracer:
    """Make this the process's tracer; answers the one before."""
    global _tracer, slow_s  # noqa: PLW0603,RUF100 - one process, one tracer; everybody asks here for it
    before, _tracer, slow_s = _tracer, new, new.slow_ns / 1e9
    return before


def begin_request(scope: Scope, parent: Parent | None, began_s: float) -> Running:
    """What runs while the request with this ASGI scope is answered, which began at that moment of the
    monotonic clock: its trace, where that is kept for certain; else the scope, until `trace_of` is asked.
    """
    scope[BEGAN_S] = began_s
    if parent is None and not _tracer.chooses():
        return scope
    return _tracer.begin_chosen(scope, parent)


def current() -> Span | None:
    """The span that runs in this context; a request's trace is made for it."""
    found = _current.get()
    return _tracer.trace_of(found) if isinstance(found, dict) else found


def tenant_of(found: Running) -> str | None:
    """Whose it is, as soon as whoever checked the caller knows it."""
    if not isinstance(found, dict):
        return found.trace.whose
    tenant: str | None = (found.get("state") or {}).get("tenant_id")
    return tenant


def start(name: str, kind: Kind = "internal") -> Span | None:
    """A child of the current span that the caller ends; None where nothing is recorded."""
    parent = current() if _tracer.recording else None
    return None if parent is None else parent.child(name, kind)


@contextmanager
def span(name: str, kind: Kind = "internal", **attributes: Value) -> Iterator[Span | None]:
    """A child of the current span around a block; an exception that leaves the block is its error."""
    made = start(name, kind)
    if made is None:
        yield None
        return
    made.attributes.update(attributes)
    token = enter(made)
    try:
        yield made
    except BaseException as error:
        made.error = error_name(error)
        raise
    finally:
        leave(token)
        made.end()


@contextmanager
def root(name: str, kind: Kind = "internal", **attributes: Value) -> Iterator[Span | None]:
    """A trace of its own around a block that no request caused: a sweep, a migration, a command."""
    if not _tracer.recording:
        yield None
        return
    made = _tracer.begin(name, kind)
    made.attributes.update(attributes)
    token = enter(made)
    try:
        yield made
    except BaseException as error:
        made.error = error_name(error)
        raise
    finally:
        leave(token)
        _tracer.finish(made)


async def within(span: Running | None, work: Coroutine[Any, Any, T]) -> T:
    """Await something as part of a span."""
    token = enter(span)
    try:
        return await work
    finally:
        leave(token)


async def detached(work: Coroutine[Any, Any, T]) -> T:
    """Await something that belongs to no request, though a request's task may have begun it."""
    return await within(None, work)


def error_name(error: BaseException) -> str:
    """An error in one word: the catalogue's code, the SQLSTATE, or the exception's name."""
    kind = getattr(error, "kind", None)
    name = getattr(kind, "code", None) or getattr(error, "sqlstate", None) or type(error).__name__
    return str(name)


def outgoing() -> dict[str, str]:
    """The headers that carry the current span to whom we call.

    A program that uses our client and OpenTelemetry has its span in OpenTelemetry's context. It is looked
    for only where that is loaded already.
    """
    span = current()
    if span is not None:
        headers = {"traceparent": span.traceparent}
        if span.trace.remote is not None and span.trace.remote.state:
            headers["tracestate"] = span.trace.remote.state
        return headers
    return _foreign()


def _foreign() -> dict[str, str]:
    opentelemetry = sys.modules.get("opentelemetry.trace")
    if opentelemetry is None:
        return {}
    context = opentelemetry.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    sampled = bool(context.trace_flags & trace_context.SAMPLED)
    return {"traceparent": trace_context.traceparent(context.trace_id, context.span_id, sampled)}
