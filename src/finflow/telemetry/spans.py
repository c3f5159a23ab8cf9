"""What a trace is made of while nobody knows whether it is kept: plain objects, soon forgotten.

Almost every request is let go without anybody having asked for its trace. So it has none at first: what runs
is the request itself, its ASGI scope, with what concerns its trace noted in it; a tracer makes the trace when
it is needed.
"""

import random
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

from finflow.telemetry import trace_context
from finflow.telemetry.trace_context import Parent

Kind = Literal["internal", "server", "client"]
Value = str | int | float | bool
Attributes = dict[str, Value]
Reason = Literal["head", "error", "slow", "linked"]
Scope = dict[str, Any]

MAX_SPANS: Final = 128
MAX_LINKS: Final = 128
now_ns: Final = time.monotonic_ns
wall_ns: Final = time.time_ns
_id_bits: Final = random.getrandbits


class Shared(Attributes):
    """What many spans say alike: never written to, and encoded once, by whoever exports the first."""

    __slots__ = ("encoded",)

    def __init__(self, said: Attributes) -> None:
        super().__init__(said)
        self.encoded = b""


# A span of another trace, by its numbers: trace, span, whether it was sampled. Pointing at it keeps nothing
# of it in memory, and a plain tuple is made in a third of a named one's time.
Link = tuple[int, int, bool]
_64_BITS: Final = (1 << 64) - 1
# What makes the ids of waits from their callers': odd multiples of the golden ratio, far from each other.
_MIXES: Final = tuple(number * 0x9E3779B97F4A7C15 & _64_BITS for number in range(1, MAX_SPANS + 1))
# What a trace that was forgotten has instead of its spans, never written to because it records nothing more.
_FORGOTTEN: Final[list[Any]] = []


# In the scope of a request: when it began in seconds of the monotonic clock, 0 once it is over; its trace, if
# it has one; until then what it waited for (one as it stands, or a list), and how much of that found no room.
BEGAN_S: Final = "finflow.began_s"
TRACE: Final = "finflow.trace"
WAITS: Final = "finflow.waits"
DROPPED: Final = "finflow.dropped_waits"


class Work:
    """What was done once for many: the root of its trace, and what every caller's span will say of it.

    A caller's span of waiting is made only where its trace is kept; until then it is a tuple. Of the callers
    the work's links name those that are known to be kept, because of the others there is nothing to find.
    """

    __slots__ = ("attributes", "began_ns", "ended_ns", "error", "name", "root")

    def __init__(
        self, root: "Span", name: str, began_ns: int, error: str | None, attributes: Attributes
    ) -> None:
        self.root = root
        self.name = name
        self.began_ns = began_ns
        self.ended_ns = now_ns()
        self.error = error
        # What is the same for all callers.
        self.attributes = attributes

    def serve(self, callers: "Iterable[tuple[Running, float, int]]") -> None:
        """The callers' tasks have waited for this work, each since a moment of the monotonic clock."""
        for caller, since_s, commands in callers:
            if not isinstance(caller, dict):
                self._serve_span(caller, since_s, commands)
            elif TRACE in caller:
                self._serve_span(caller[TRACE], since_s, commands)
            elif WAITS in caller:
                self._serve_again(caller, since_s, commands)
            elif caller[BEGAN_S]:
                # So it is with almost every request: it waits once, and what is over waits for nothing.
                caller[WAITS] = (self, None, since_s, commands)

    def _serve_span(self, span: "Span", since_s: float, commands: int) -> None:
        trace = span.trace
        if not trace.recording:
            return
        waits = trace.waits
        if len(waits) < MAX_SPANS:
            waits.append((self, span, since_s, commands))
            if trace.assured:
                self.link(span, len(waits) - 1)
        else:
            trace.dropped += 1

    def _serve_again(self, scope: Scope, since_s: float, commands: int) -> None:
        """A request without a trace waits for more than one work, one after another."""
        waits = waits_of(scope)
        if not scope[BEGAN_S]:
            return
        if len(waits) < MAX_SPANS:
            waits.append((self, None, since_s, commands))
            scope[WAITS] = waits
        else:
            scope[DROPPED] = scope.get(DROPPED, 0) + 1

    def link(self, caller: "Span", number: int) -> None:
        """Name the span of this caller's waiting, its trace's so manieth."""
        links, trace = self.root.links, caller.trace
        made = (trace.trace_id, wait_id(caller, number), trace.sampled)
        if len(links) < MAX_LINKS:
            links.append(made)
        else:
            self.root.dropped_links += 1


# A work, the span that waited for it (None for the request itself), since when, with how many commands.
Wait = tuple[Work, "Span | None", float, int]


def waits_of(scope: Scope) -> list[Wait]:
    """What a request without a trace has waited for: nothing, one work as it stands, or several."""
    found = scope.get(WAITS)
    return [found] if isinstance(found, tuple) else found or []


def wait_id(caller: "Span", number: int) -> int:
    """The number of the span in which this caller waited, its trace's so manieth."""
    return (caller.span_id ^ _MIXES[number]) or 1


def wait_span(trace: "Trace", wait: Wait, number: int) -> "Span":
    """The span that a caller's waiting becomes: from its arrival to the end of the work."""
    work, caller, since_s, commands = wait
    root = work.root
    made = Span(trace, caller or trace, work.name)
    made.span_id, made.error = wait_id(caller or trace, number), work.error
    made.started_ns = min(int(since_s * 1e9), work.ended_ns)
    made.ended_ns = work.ended_ns
    waited_ns = max(0, work.began_ns - made.started_ns)
    made.attributes["finflow.queue_wait_ms"] = waited_ns / 1e6
    if commands:
        made.attributes["finflow.commands"] = commands
    made.attributes.update(work.attributes)
    made.links.append((root.trace.trace_id, root.span_id, root.trace.sampled))
    return made


class Span:
    """One step of a trace. `ended_ns` is 0 while it runs; times are the monotonic clock's nanoseconds.

    What most spans never need is made when it is first asked for: hundreds of requests are under way in a
    busy process, and what each holds in memory costs it more than what it does.
    """

    __slots__ = (
        "_trace", "attributes", "dropped_links", "ended_ns", "error", "kind", "links", "name", "parent",
        "span_id", "started_ns",
    )  # fmt: skip

    # Of these, `_LATER` says what they are until somebody writes them.
    attributes: Attributes
    dropped_links: int
    links: list[Link]
    parent: "Span | None"

    def __init__(self, trace: "Trace", parent: "Span | None", name: str, kind: Kind = "internal") -> None:
        self._trace = trace
        self.span_id = _id_bits(64) or 1
        self.parent = parent
        self.name = name
        self.kind = kind
        # What went wrong, in a word of low cardinality: an error code, a SQLSTATE, an exception's name.
        self.error: str | None = None
        self.ended_ns = 0
        self.started_ns = now_ns()

    def __getattr__(self, name: str) -> Any:
        make = _LATER.get(name)
        if make is None:
            raise AttributeError(name)
        made = make()
        setattr(self, name, made)
        return made

    @property
    def trace(self) -> "Trace":
        """The trace that it is a part of."""
        return self._trace

    @property
    def traceparent(self) -> str:
        """The header that makes somebody else's span a child of this one."""
        return trace_context.traceparent(self.trace.trace_id, self.span_id, self.trace.sampled)

    def child(self, name: str, kind: Kind = "internal") -> "Span | None":
        """A further span, or None where nothing is recorded or the trace has as many as it may have."""
        trace = self.trace
        if not trace.recording:
            return None
        if len(trace.spans) >= MAX_SPANS:
            trace.dropped += 1
            return None
        span = Span(trace, self, name, kind)
        trace.spans.append(span)
        return span

    def end(self, error: str | None = None) -> None:
        """Stop the clock; what went wrong first stays."""
        self.ended_ns = now_ns()
        self.error = self.error or error


class Trace(Span):
    """The root span of one request or background step, and what all its spans share.

    One object is both, because every request makes one. Its spans hold it and it holds them, so objects form
    a circle only where there are children, and `forget` opens it: a request leaves nothing for the garbage
    collector, which runs rarely here.
    """

    __slots__ = (
        "assured", "awaited", "dropped", "kept", "recording", "remote", "request_id", "sampled", "scope",
        "shared", "spans", "tenant", "trace_id", "waits", "wall_ns",
    )  # fmt: skip

    # Children of the root, theirs included, in the order of their beginning.
    spans: list[Span]
    # Works that served this trace, which must be kept where it is: the group commits of a request.
    waits: list[Wait]
    dropped: int
    kept: Reason | None
    # What to add to the monotonic clock to get nanoseconds since the epoch, as it was when it was kept.
    wall_ns: int
    tenant: str | None
    request_id: str | None

    def __init__(
        self,
        name: str,
        kind: Kind,
        remote: Parent | None,
        chosen: tuple[int, bool],
        recording: bool,
        scope: Scope | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        # Whose span the root is a child of, in another process.
        self.remote = remote
        # Sampled: somebody upstream, or the dice, chose it at its beginning.
        self.trace_id, self.sampled = chosen if remote is None else (remote.trace_id, remote.sampled)
        self.span_id = _id_bits(64) or 1
        # Whether spans may still be added: not where nothing is kept, and not once that is decided.
        self.recording = recording
        # Whether it is kept for sure: its share of what may be kept a second was taken at its beginning.
        self.assured = False
        # Whether one that is kept waited for it in vain: it is kept as well, when it ends.
        self.awaited = False
        # The ASGI scope while the request runs; gone at its end, so that a kept trace keeps no request.
        self.scope = scope
        # Done for requests that will only later know whether they are kept.
        self.shared = False
        self.error = None
        self.ended_ns = 0
        self.started_ns = now_ns()

    @property
    def trace(self) -> "Trace":
        """Itself."""
        return self

    @property
    def request(self) -> str | None:
        """The request's id, as soon as it has one."""
        if self.request_id is None and self.scope is not None:
            self.request_id = (self.scope.get("state") or {}).get("request_id")
        return self.request_id

    @property
    def whose(self) -> str | None:
        """The tenant's id, as soon as whoever checked the caller knows it."""
        if self.tenant is None and self.scope is not None:
            self.tenant = (self.scope.get("state") or {}).get("tenant_id")
        return self.tenant

    def common(self) -> Attributes:
        """Whose trace it is: on every span, so that a search by tenant finds the slow query itself."""
        found: Attributes = {}
        if self.whose is not None:
            found["finflow.tenant.id"] = self.whose
        if self.request is not None:
            found["finflow.request.id"] = self.request
        return found

    def summary(self) -> Attributes:
        """What the root says of the whole: why it was kept, how much of it was not."""
        found: Attributes = {"finflow.sampled.reason": self.kept or "head"}
        if self.dropped:
            found["finflow.dropped_spans"] = self.dropped
        return found

    def keep(self, reason: Reason) -> None:
        """It will be exported, for this reason."""
        self.kept = reason
        self.wall_ns = wall_ns() - now_ns()
        self.close()

    def close(self) -> None:
        """Nothing more is recorded; what is known from the request's scope is taken out of it."""
        self.request_id, self.tenant = self.request, self.whose
        self.recording = False
        self.scope = None

    def forget(self) -> None:
        """Let go of everything but the numbers; called when the trace is exported, or will not be."""
        self.spans = self.waits = _FORGOTTEN
        self.scope = None
        self.recording = False


# What runs: a span, or a request of which nobody has needed a trace yet.
Running = Span | Scope


# What spans and traces have until it is written.
_LATER: Final[dict[str, Callable[[], Any]]] = {
    "attributes": dict,
    "links": list,
    "spans": list,
    "waits": list,
    "dropped": int,
    "dropped_links": int,
    "kept": lambda: None,
    "parent": lambda: None,
    "request_id": lambda: None,
    "tenant": lambda: None,
    "wall_ns": lambda: wall_ns() - now_ns(),
}
