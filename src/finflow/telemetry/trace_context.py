"""W3C Trace Context: who asked, in the `traceparent` and `tracestate` headers. Text in, text out.

`traceparent` is `00-<trace id>-<span id>-<flags>`: 32, 16 and 2 lower-case hexadecimal digits. A header that
is not exactly right counts for nothing, and a new trace begins: the standard wants it so.
"""

import re
from typing import Final, NamedTuple

SAMPLED: Final = 1
_HEADER: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_FIRST_VERSION: Final = "00"
_NO_VERSION: Final = "ff"
# The standard's own bound for what everybody must pass on.
_STATE_MAX: Final = 512
_BLANK: Final = " \t"
_MEMBER: Final = re.compile(r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,256}")


class Parent(NamedTuple):
    """The span of another process that caused ours."""

    trace_id: int
    span_id: int
    sampled: bool
    state: str = ""


def parse(traceparent: bytes, tracestate: bytes = b"") -> Parent | None:
    """The caller's span, or None where the header is not one."""
    if len(traceparent) > _STATE_MAX:
        return None
    found = _HEADER.fullmatch(traceparent.decode("latin-1").strip(_BLANK))
    if found is None:
        return None
    version, trace, span, flags, rest = found.groups()
    if version == _NO_VERSION or (version == _FIRST_VERSION and rest):
        return None
    trace_id, span_id = int(trace, 16), int(span, 16)
    if not trace_id or not span_id:
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & SAMPLED), _state(tracestate))


def traceparent(trace_id: int, span_id: int, sampled: bool) -> str:
    """The header that names one of our spans to whom we call."""
    return f"00-{trace_id:032x}-{span_id:016x}-{int(sampled):02x}"


def _state(header: bytes) -> str:
    """What tracing systems on the way say to each other; passed on whole, or where malformed not at all."""
    text = header.decode("latin-1")
    if len(text) > _STATE_MAX:
        return ""
    members = [member for each in text.split(",") if (member := each.strip(_BLANK))]
    keys = {member.partition("=")[0] for member in members}
    good = len(keys) == len(members) <= 32 and all(_MEMBER.fullmatch(member) for member in members)
    return ",".join(members) if good else ""
