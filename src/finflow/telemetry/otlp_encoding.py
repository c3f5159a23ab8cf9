"""Kept traces as bytes of OTLP: what OpenTelemetry's encoder makes of them, at a tenth of its price.

That one builds an object for every attribute of every span, in the thread that shares the interpreter with
the requests. Attributes repeat, so here the bytes of each are made once and kept, within a bound. A test
holds the two equal. The numbers are those of opentelemetry/proto/trace/v1/trace.proto.
"""

from functools import lru_cache
from struct import Struct
from typing import Any, Final

from finflow.telemetry.tracing import Attributes, Link, Span, Trace, Value

MAX_TEXT: Final = 4_096
_FIXED_64: Final = Struct("<Q").pack
_FIXED_32: Final = Struct("<I").pack
_DOUBLE: Final = Struct("<d").pack
_LENGTH, _VARINT, _I64, _I32 = 2, 0, 1, 5
_KINDS: Final = {"internal": 1, "server": 2, "client": 3}
# Whether a parent is known to be remote, and that it is.
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200
_UNSET: Final = b"\x7a\x00"
_FAILED: Final = b"\x7a\x02\x18\x02"


def varint(number: int) -> bytes:
    """A number that is not negative, seven bits a byte."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _tag(field: int, wire: int) -> bytes:
    return varint(field << 3 | wire)


def field(number: int, content: bytes) -> bytes:
    """A field of text, bytes or a message."""
    return _tag(number, _LENGTH) + varint(len(content)) + content


# The lengths of ids are known: 16 bytes and 8.
_TRACE_ID, _SPAN_ID = _tag(1, _LENGTH) + b"\x10", _tag(2, _LENGTH) + b"\x08"
_PARENT_ID = _tag(4, _LENGTH) + b"\x08"
_KIND, _START, _END = _tag(6, _VARINT), _tag(7, _I64), _tag(8, _I64)
_DROPPED_LINKS, _FLAGS, _LINK_FLAGS = _tag(14, _VARINT), _tag(16, _I32), _tag(6, _I32)


def attribute(name: str, value: Value) -> bytes:
    """One attribute of a span: field 9, a KeyValue."""
    if isinstance(value, bool):
        content = _tag(2, _VARINT) + varint(int(value))
    elif isinstance(value, int):
        content = _tag(3, _VARINT) + varint(value & (1 << 64) - 1)
    elif isinstance(value, float):
        content = _tag(4, _I64) + _DOUBLE(value)
    else:
        content = field(1, value[:MAX_TEXT].encode("utf-8", "replace"))
    return field(9, field(1, name.encode()) + field(2, content))


_known: Final = lru_cache(maxsize=4_096, typed=True)(attribute)


def attributes(found: Attributes) -> bytes:
    """Attributes in their order; numbers are made anew, because each is another."""
    return b"".join(
        _known(name, value) if isinstance(value, str) else attribute(name, value)
        for name, value in found.items()
    )


def encode(trace: Trace) -> bytes:
    """All spans of an ended trace, the root first, as fields of a ScopeSpans."""
    remote = trace.remote
    head = _TRACE_ID + trace.trace_id.to_bytes(16)
    state = field(3, remote.state.encode()) if remote and remote.state else b""
    # Not through the cache: no two requests have the same id.
    common = b"".join(attribute(name, value) for name, value in trace.common().items())
    begun = b"".join(attribute(name, value) for name, value in trace.summary().items()) + common
    parts = [_span(trace, head, state, remote.span_id if remote else 0, begun, remote is not None)]
    parts += [_span(span, head, state, (span.parent or trace).span_id, common, False) for span in trace.spans]
    return b"".join(parts)


def _span(span: Span, head: bytes, state: bytes, parent_id: int, common: bytes, remote: bool) -> bytes:
    error = span.error
    if error is not None:
        span.attributes.setdefault("error.type", error)
    content = b"".join(
        (
            head,
            _SPAN_ID,
            span.span_id.to_bytes(8),
            state,
            _PARENT_ID + parent_id.to_bytes(8) if parent_id else b"",
            _name(span.name),
            _KIND,
            varint(_KINDS[span.kind]),
            _START,
            _FIXED_64(span.trace.wall_ns + span.started_ns),
            _END,
            _FIXED_64(span.trace.wall_ns + span.ended_ns),
            common,
            attributes(span.attributes),
            *map(_link, span.links),
            _DROPPED_LINKS + varint(span.dropped_links) if span.dropped_links else b"",
            _UNSET if error is None else _FAILED,
            _FLAGS,
            _FIXED_32(_HAS_IS_REMOTE | (_IS_REMOTE if remote else 0)),
        )
    )
    return field(2, content)


@lru_cache(maxsize=1_024)
def _name(name: str) -> bytes:
    return field(5, name.encode())


def _link(link: Link) -> bytes:
    trace_id, span_id, _ = link
    ids = _TRACE_ID + trace_id.to_bytes(16) + _SPAN_ID + span_id.to_bytes(8)
    return field(13, ids + _LINK_FLAGS + _FIXED_32(_HAS_IS_REMOTE))


class Frame:
    """What is the same in every request of a process: resource and scope, as OpenTelemetry wrote them."""

    def __init__(self, sample: Any) -> None:
        """`sample` is an ExportTraceServiceRequest of any spans of this process."""
        of_resource = sample.resource_spans[0]
        of_scope = of_resource.scope_spans[0]
        self._resource = field(1, of_resource.resource.SerializeToString())
        self._resource_schema = field(3, of_resource.schema_url.encode())
        self._scope = field(1, of_scope.scope.SerializeToString())
        self._scope_schema = field(3, of_scope.schema_url.encode())

    def around(self, spans: bytes) -> bytes:
        """An ExportTraceServiceRequest of encoded spans."""
        of_scope = field(2, self._scope + spans + self._scope_schema)
        return field(1, self._resource + of_scope + self._resource_schema)
