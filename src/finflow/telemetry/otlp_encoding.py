"""Kept traces as bytes of OTLP: what OpenTelemetry's encoder makes of them, at a tenth of its price.

That one builds an object for every attribute of every span, in the thread that shares the interpreter with
the requests. Attributes repeat, so here the bytes of each are made once and kept, within a bound; of those
that do not repeat, what stands before their value. A test holds the two equal. The numbers are those of
opentelemetry/proto/trace/v1/trace.proto.
"""

from functools import lru_cache
from struct import Struct
from typing import Any, Final, NamedTuple

from finflow.telemetry.tracing import Attributes, Kind, Link, Shared, Span, Trace, Value

MAX_TEXT: Final = 4_096
_FIXED_32: Final = Struct("<I").pack
_DOUBLE: Final = Struct("<d").pack
_LENGTH, _VARINT, _I64, _I32 = 2, 0, 1, 5
_KINDS: Final = {"internal": 1, "server": 2, "client": 3}
# Whether a parent is known to be remote, and that it is.
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200
_UNSET: Final = b"\x7a\x00"
_FAILED: Final = b"\x7a\x02\x18\x02"


_SMALL: Final = tuple(bytes((number,)) for number in range(0x80))


def varint(number: int) -> bytes:
    """A number that is not negative, seven bits a byte."""
    if number <= 0x7F:
        return _SMALL[number]
    if number <= 0x3FFF:
        return bytes((number & 0x7F | 0x80, number >> 7))
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


_TEXT, _NUMBER = _tag(1, _LENGTH), _tag(4, _I64)
# The lengths of ids are known: 16 bytes and 8.
_TRACE_ID, _SPAN_ID = _tag(1, _LENGTH) + b"\x10", _tag(2, _LENGTH) + b"\x08"
_PARENT_ID = _tag(4, _LENGTH) + b"\x08"
_ID: Final = Struct(">2sQ").pack
_IDS: Final = Struct(">2sQ2sQ").pack
_START, _END = _tag(7, _I64), _tag(8, _I64)
_TIMES: Final = Struct("<1sQ1sQ").pack
_DROPPED_LINKS, _LINK_FLAGS = _tag(14, _VARINT), _tag(6, _I32)
_LOCAL: Final = _tag(16, _I32) + _FIXED_32(_HAS_IS_REMOTE)
_REMOTE: Final = _tag(16, _I32) + _FIXED_32(_HAS_IS_REMOTE | _IS_REMOTE)
_SPANS: Final = _tag(2, _LENGTH)


def attribute(name: str, value: Value) -> bytes:
    """One attribute of a span: field 9, a KeyValue."""
    if isinstance(value, str):
        text = value[:MAX_TEXT].encode("utf-8", "replace")
        return _before(name, _TEXT + varint(len(text)), len(text)) + text
    if isinstance(value, float):
        return _before(name, _NUMBER, 8) + _DOUBLE(value)
    if isinstance(value, bool):
        number = _tag(2, _VARINT) + varint(int(value))
    else:
        number = _tag(3, _VARINT) + varint(value & (1 << 64) - 1)
    return _before(name, number, 0)


@lru_cache(maxsize=4_096)
def _before(name: str, kind: bytes, length: int) -> bytes:
    """What stands before so many bytes of a value: the name, and of which kind the value is."""
    named, size = field(1, name.encode()), len(kind) + length
    valued = _tag(2, _LENGTH) + varint(size) + kind
    return _tag(9, _LENGTH) + varint(len(named) + len(valued) + length) + named + valued


_known: Final = lru_cache(maxsize=4_096, typed=True)(attribute)


def attributes(found: Attributes) -> bytes:
    """Attributes in their order; measurements are made anew, because each is another."""
    if isinstance(found, Shared):
        if not found.encoded:
            found.encoded = _joined(found)
        return found.encoded
    return _joined(found)


def _joined(found: Attributes) -> bytes:
    return b"".join(
        [
            attribute(name, value) if isinstance(value, float) else _known(name, value)
            for name, value in found.items()
        ]
    )


def encode(trace: Trace) -> bytes:
    """All spans of an ended trace, the root first, as fields of a ScopeSpans."""
    remote = trace.remote
    head = _TRACE_ID + trace.trace_id.to_bytes(16)
    if remote and remote.state:
        head += field(3, remote.state.encode())
    # Not through the cache: no two requests have the same id.
    common = b"".join([attribute(name, value) for name, value in trace.common().items()])
    begun = attributes(trace.summary()) + common
    parts = [_span(trace, head, remote.span_id if remote else 0, begun, _REMOTE if remote else _LOCAL)]
    parts += [_span(span, head, (span.parent or trace).span_id, common, _LOCAL) for span in trace.spans]
    return b"".join(parts)


def _span(span: Span, head: bytes, parent_id: int, common: bytes, flags: bytes) -> bytes:
    error, wall_ns = span.error, span.trace.wall_ns
    parts = [
        head,
        _IDS(_SPAN_ID, span.span_id, _PARENT_ID, parent_id) if parent_id else _ID(_SPAN_ID, span.span_id),
        _named(span.name, span.kind),
        _TIMES(_START, wall_ns + span.started_ns, _END, wall_ns + span.ended_ns),
        common,
        attributes(span.attributes),
        _UNSET if error is None else _FAILED,
        flags,
    ]
    if error is not None and "error.type" not in span.attributes:
        parts.append(_known("error.type", error))
    if span.links:
        parts += map(_link, span.links)
    if span.dropped_links:
        parts.append(_DROPPED_LINKS + varint(span.dropped_links))
    content = b"".join(parts)
    return _SPANS + varint(len(content)) + content


@lru_cache(maxsize=1_024)
def _named(name: str, kind: Kind) -> bytes:
    return field(5, name.encode()) + _tag(6, _VARINT) + varint(_KINDS[kind])


def _link(link: Link) -> bytes:
    trace_id, span_id, _ = link
    ids = _TRACE_ID + trace_id.to_bytes(16) + _SPAN_ID + span_id.to_bytes(8)
    return field(13, ids + _LINK_FLAGS + _FIXED_32(_HAS_IS_REMOTE))


class Encoded(NamedTuple):
    """An ExportTraceServiceRequest as bytes, and how many spans are in it."""

    request: bytes
    spans: int


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
