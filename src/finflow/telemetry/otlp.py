"""Where our records meet OpenTelemetry's SDK: resource, spans, exporters. Loaded only where traces are on.

The SDK's spans are made here whole, with the times that were measured: a live one costs the request ten times
what our record of it does. Exported are the same spans, encoded by `otlp_encoding`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from finflow import __version__
from finflow.telemetry.otlp_answers import Send
from finflow.telemetry.otlp_encoding import MAX_TEXT, Frame
from finflow.telemetry.settings import OtlpSettings
from finflow.telemetry.tracing import Attributes, Span, Trace, Tracer

_SCHEMA: Final = Schemas.V1_37_0.value
_SCOPE: Final = InstrumentationScope("finflow.telemetry", __version__, _SCHEMA)
_KINDS: Final = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}
_FAILED: Final = Status(StatusCode.ERROR)
_UNSET: Final = Status(StatusCode.UNSET)


def resource_of(attributes: Mapping[str, str]) -> Resource:
    """The resource of every span of this process, with the SDK's own name and version in it."""
    return Resource.create(dict(attributes), _SCHEMA)


def sender(settings: OtlpSettings) -> tuple[Send, Callable[[], None]]:
    """How a request is sent, with what the receiver made of it, and how that is ended.

    OpenTelemetry's exporters do it: they bring retries, certificates, proxies and whatever else
    OTEL_EXPORTER_OTLP_* says. The libraries of the protocol that is not used are not loaded.
    """
    if settings.protocol == "grpc":
        from finflow.telemetry import otlp_grpc

        return otlp_grpc.sender(settings)
    from finflow.telemetry import otlp_http

    return otlp_http.sender(settings)


def frame_of(attributes: Mapping[str, str]) -> Frame:
    """What stands around the spans of this process, as OpenTelemetry's own encoder writes it."""
    root = Tracer().begin("sample")
    root.end()
    return Frame(encode_spans(list(spans_of(root, resource_of(attributes)))))


def spans_of(trace: Trace, resource: Resource) -> Iterator[ReadableSpan]:
    """The whole of an ended trace as spans of the SDK, the root first."""
    common, parent = trace.common(), trace.remote
    remote = None if parent is None else _context(trace, parent.span_id, remote=True)
    yield _span(trace, remote, resource, trace.summary() | common)
    for span in trace.spans:
        yield _span(span, _context(trace, (span.parent or trace).span_id), resource, common)


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
    state = TraceState.from_header([trace.remote.state]) if trace.remote and trace.remote.state else None
    return SpanContext(trace.trace_id, span_id, remote, flags, state)


def _links(span: Span) -> Any:
    if not span.links:
        return ()
    links: Any = BoundedList.from_seq(
        len(span.links),
        [
            Link(SpanContext(trace_id, span_id, False, TraceFlags(int(sampled))))
            for trace_id, span_id, sampled in span.links
        ],
    )
    links.dropped = span.dropped_links
    return links


def _cut(value: Any) -> Any:
    return value[:MAX_TEXT] if isinstance(value, str) else value
