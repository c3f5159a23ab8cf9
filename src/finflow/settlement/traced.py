"""Settlement's background work in traces: a trace for each step, which links to what asked for it.

Who brings an order is answered long before its cycle settles, so a step is nobody's child. What asks for
work leaves the `traceparent` of its span beside the queue, where its trace was chosen at its beginning; the
steps of such work are kept, too. Log lines have their ids from here also where traces are off.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from finflow.telemetry import trace_context, tracing
from finflow.telemetry.tracing import Link, Span, Trace, Value

# As many as a span links to; of more causes, those that are found first.
MAX_CAUSES: Final = 128


def cause() -> str | None:
    """The span that runs here, for those who go on with its work; None where it may not be kept."""
    span = tracing.running()
    if isinstance(span, Span) and span.trace.recording and span.trace.assured:
        return span.traceparent
    return None


@contextmanager
def step(name: str, causes: Sequence[str] = ()) -> Iterator[Trace]:
    """The trace of something that is done now; what leaves the block is its error."""
    tracer = tracing.tracer()
    root = tracer.begin(f"settlement.{name}")
    if causes:
        root.links = _links(causes)
        _choose(root, True)
    token = tracing.enter(root)
    try:
        yield root
    except BaseException as error:
        root.error = tracing.error_name(error)
        raise
    finally:
        tracing.leave(token)
        tracer.finish(root)


@contextmanager
def poll(name: str) -> Iterator[Trace]:
    """The same for looking whether there is something to do, kept only where it fails or takes long."""
    with step(name) as root:
        _choose(root, False)
        yield root


def _choose(trace: Trace, chosen: bool) -> None:
    """Whether it is kept for sure, whatever the dice said; its causes were counted when they were."""
    trace.sampled = trace.assured = chosen


def _links(causes: Sequence[str]) -> list[Link]:
    found = [trace_context.parse(each.encode()) for each in causes]
    return [(each.trace_id, each.span_id, each.sampled) for each in found if each is not None]


def call(name: str) -> None:
    """Name the step that runs, where only now is known what it is."""
    span = tracing.running()
    if isinstance(span, Span):
        span.trace.name = f"settlement.{name}"


def say(facts: dict[str, Value]) -> None:
    """Say something of the step that runs."""
    span = tracing.running()
    if isinstance(span, Span):
        span.trace.attributes.update(facts)


def nothing_new() -> None:
    """The step that runs only looked whether something has come. It may do so for hours, once a second."""
    span = tracing.running()
    if isinstance(span, Span):
        _choose(span.trace, False)
