"""Kept traces as spans of OpenTelemetry's SDK, and its exporters. Imported only where traces are on.

The SDK's spans are made here whole, with the times that were measured, in the exporter's thread: a live SDK
span costs the request ten times what our record of it does.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from finflow import __version__
from finflow.telemetry.settings import OtlpSettings
from finflow.telemetry.tracing import Attributes, Span, Trace

MAX_TEXT: Final = 4_096
_SCHEMA: Final = Schemas.V1_37_0.value
_SCOPE: Final = InstrumentationScope("finflow.telemetry", __version__, _SCHEMA)
_KINDS: Final = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}
_FAILED: Final = Status(StatusCode.ERROR)
_UNSET: Final = Status(StatusCode.UNSET)


def resource_of(attributes: Mapping[str, str]) -> Resource:
    """The resource of every span of this process, with the SDK's own name and version in it."""
    return Resource.create(dict(attributes), _SCHEMA)


def span_exporter(settings: OtlpSettings) -> SpanExporter:
    """OpenTelemetry's exporter for the protocol; the other one's libraries are not loaded."""
    if settings.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

        # gRPC allows lower-case header names only.
        headers = {name.lower(): value for name, value in settings.headers.items()}
        return Grpc(endpoint=settings.endpoint, headers=headers, timeout=settings.timeout_s)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

    return Http(endpoint=settings.endpoint, headers=settings.headers, timeout=settings.timeout_s)


def spans_of(root: Span, resource: Resource) -> Iterator[ReadableSpan]:
    """The whole trace of an ended root, the root first."""
    trace = root.trace
    shared = _shared(trace)
    parent = trace.parent
    remote = None if parent is None else _context(trace, parent.span_id, remote=True)
    extra: Attributes = {"finflow.sampled.reason": trace.kept or "head", **shared}
    if trace.dropped:
        extra["finflow.dropped_spans"] = trace.dropped
    yield _span(root, remote, resource, extra)
    for span in trace.spans:
        above = span.parent or root
        # What still runs when its trace is over (a caller that gave up) ends with it.
        span.ended_ns = span.ended_ns or max(root.ended_ns, span.started_ns)
        yield _span(span, _context(trace, above.span_id), resource, shared)


def _shared(trace: Trace) -> Attributes:
    """Whose trace it is: on every span, so that a search by tenant finds the slow query itself."""
    found: Attributes = {}
    if trace.whose is not None:
        found["finflow.tenant.id"] = trace.whose
    if trace.request is not None:
        found["finflow.request.id"] = trace.request
    return found


def _span(span: Span, parent: SpanContext | None, resource: Resource, extra: Attributes) -> ReadableSpan:
    trace = span.trace
    attributes = {name: _cut(value) for name, value in {**extra, **span.attributes}.items()}
    if span.error is not None:
        attributes.setdefault("error.type", span.error)
    return ReadableSpan(
        name=span.name,
        context=_context(trace, span.span_id),
        parent=parent,
        resource=resource,
        attributes=attributes,
        links=_links(span),
        kind=_KINDS[span.kind],
        status=_UNSET if span.error is None else _FAILED,
        start_time=trace.wall_ns + span.started_ns,
        end_time=trace.wall_ns + span.ended_ns,
        instrumentation_scope=_SCOPE,
    )


def _context(trace: Trace, span_id: int, remote: bool = False) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if trace.sampled else TraceFlags.DEFAULT)
    state = TraceState.from_header([trace.parent.state]) if trace.parent and trace.parent.state else None
    return SpanContext(trace.trace_id, span_id, remote, flags, state)


def _links(span: Span) -> Any:
    if not span.links:
        return ()
    links: Any = BoundedList.from_seq(
        len(span.links),
        [
            Link(SpanContext(link.trace_id, link.span_id, False, TraceFlags(int(link.sampled))))
            for link in span.links
        ],
    )
    links.dropped = span.dropped_links
    return links


def _cut(value: Any) -> Any:
    return value[:MAX_TEXT] if isinstance(value, str) else value
