"""What a trace is made of while nobody knows whether it is kept: plain objects, soon forgotten."""

import random
import time
from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple

from finflow.telemetry import trace_context
from finflow.telemetry.trace_context import Parent

Kind = Literal["internal", "server", "client"]
Value = str | int | float | bool
Attributes = dict[str, Value]
Reason = Literal["head", "error", "slow", "linked"]

MAX_SPANS: Final = 128
MAX_LINKS: Final = 128
# As OpenTelemetry's TraceIdRatioBased has it: the lower half of the trace id decides, so that every
# process which samples by the same ratio decides alike.
DICE: Final = (1 << 64) - 1

now_ns: Final = time.monotonic_ns
wall_ns: Final = time.time_ns
_id_bits: Final = random.getrandbits


# A span of another trace, by its numbers: trace, span, whether it was sampled. Pointing at it keeps nothing
# of it in memory, and a plain tuple is made in a third of a named one's time.
Link = tuple[int, int, bool]
# What makes the ids of waits from their callers': odd multiples of the golden ratio, far from each other.
_MIXES: Final = tuple(number * 0x9E3779B97F4A7C15 & DICE for number in range(1, MAX_SPANS + 1))
# What objects make when it is first asked for; and what a trace that was forgotten has instead, never
# written to because it records nothing more.
_OF_A_TRACE: Final = frozenset({"spans", "wall_ns"})
_OF_A_SPAN: Final = frozenset({"attributes", "links"})
_FORGOTTEN: Final[list[Any]] = []


class Work:
    """What was done once for many: the root of its trace, and what every caller's span will say of it.

    A caller's span of waiting is made only where its trace is kept. Until then it is a tuple on the trace,
    and its number, made from the caller's, stands in the links of the work.
    """

    __slots__ = ("attributes", "began_ns", "ended_ns", "error", "name", "root")

    def __init__(self, root: "Span", name: str, began_ns: int, error: str | None) -> None:
        self.root = root
        self.name = name
        self.began_ns = began_ns
        self.ended_ns = now_ns()
        self.error = error
        # What is the same for all callers.
        self.attributes: Attributes = {}

    def serve(self, callers: "Iterable[tuple[Span, float, int]]") -> None:
        """The spans' tasks have waited for this work, each since a moment of the monotonic clock."""
        links = self.root.links
        for caller, since_s, commands in callers:
            trace = caller.trace
            if not trace.recording or trace.kept is not None:
                continue
            waits = trace.waits
            if waits is None:
                waits = trace.waits = []
            number = len(waits)
            if number >= MAX_SPANS:
                trace.dropped += 1
                continue
            span_id = (caller.span_id ^ _MIXES[number]) or 1
            waits.append((self, caller, span_id, since_s, commands))
            if len(links) < MAX_LINKS:
                links.append((trace.trace_id, span_id, trace.sampled))
            else:
                self.root.dropped_links += 1


class Wait(NamedTuple):
    """A caller's waiting for a work, as it is read when its trace is kept."""

    work: Work
    caller: "Span"
    span_id: int
    since_s: float
    commands: int

    def span(self) -> "Span":
        """The span that it becomes: from its arrival to the end of the work."""
        work, root = self.work, self.work.root
        made = Span(self.caller.trace, self.caller, work.name)
        made.span_id, made.error = self.span_id, work.error
        made.started_ns = min(int(self.since_s * 1e9), work.ended_ns)
        made.ended_ns = work.ended_ns
        waited_ns = max(0, work.began_ns - made.started_ns)
        made.attributes.update({"finflow.queue_wait_ms": waited_ns / 1e6, "finflow.commands": self.commands})
        made.attributes.update(work.attributes)
        made.links.append((root.trace.trace_id, root.span_id, root.trace.sampled))
        return made


class Trace:
    """What the spans of one request or background step share. The root span holds it, not it the root.

    So objects form a circle only where there are children, and `forget` opens it: a request leaves nothing
    for the garbage collector, which runs rarely here.
    """

    __slots__ = (
        "dropped", "kept", "parent", "recording", "request_id", "sampled", "scope", "shared", "spans",
        "tenant", "trace_id", "waits", "wall_ns",
    )  # fmt: skip

    # Made by `__getattr__` when they are first asked for, as most requests never do: hundreds are under way
    # in a busy process, and what each holds in memory costs it more than what it does.
    # Children of the root, theirs included, in the order of their beginning.
    spans: "list[Span]"
    # What to add to the monotonic clock to get nanoseconds since the epoch, as it was when it was kept.
    wall_ns: int

    def __init__(self, parent: Parent | None, threshold: int, recording: bool, scope: Any = None) -> None:
        self.parent = parent
        self.trace_id = parent.trace_id if parent else _id_bits(128) or 1
        self.sampled = parent.sampled if parent else self.trace_id & DICE < threshold
        self.recording = recording
        # Done for requests that will only later know whether they are kept.
        self.shared = False
        self.dropped = 0
        # Works that served this trace, which must be kept where it is: the group commits of a request.
        self.waits: list[tuple[Work, Span, int, float, int]] | None = None
        self.kept: Reason | None = None
        self.tenant: str | None = None
        self.request_id: str | None = None
        # The ASGI scope while the request runs; gone at its end, so that a kept trace keeps no request.
        self.scope = scope

    def __getattr__(self, name: str) -> Any:
        if name not in _OF_A_TRACE:
            raise AttributeError(name)
        made: Any = wall_ns() - now_ns() if name == "wall_ns" else []
        setattr(self, name, made)
        return made

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
        self.scope = None

    def forget(self) -> None:
        """Let go of everything but the numbers; called when the trace is exported, or will not be."""
        self.spans = _FORGOTTEN
        self.waits = self.scope = None
        self.recording = False


class Span:
    """One step of a trace. `ended_ns` is 0 while it runs; times are the monotonic clock's nanoseconds."""

    __slots__ = (
        "attributes", "dropped_links", "ended_ns", "error", "kind", "links", "name", "parent", "span_id",
        "started_ns", "trace",
    )  # fmt: skip

    # Made when they are first asked for, as a trace's lists are.
    attributes: Attributes
    links: list[Link]

    def __init__(self, trace: Trace, parent: "Span | None", name: str, kind: Kind = "internal") -> None:
        self.trace = trace
        self.parent = parent
        self.name = name
        self.kind = kind
        self.span_id = _id_bits(64) or 1
        self.dropped_links = 0
        # What went wrong, in a word of low cardinality: an error code, a SQLSTATE, an exception's name.
        self.error: str | None = None
        self.ended_ns = 0
        self.started_ns = now_ns()

    def __getattr__(self, name: str) -> Any:
        if name not in _OF_A_SPAN:
            raise AttributeError(name)
        made: Any = {} if name == "attributes" else []
        setattr(self, name, made)
        return made

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
