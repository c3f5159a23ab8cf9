"""What a receiver of spans made of an export: how many it refused, and what it says about them.

OTLP has three answers: all taken, some refused (a partial success), and failed. Whatever cannot be read as
one of the first two is the third, because nobody knows then where the spans are.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from finflow.telemetry.otlp_encoding import Encoded

# An honest answer has some dozens of bytes, and a text where spans were refused.
MAX_ANSWER: Final = 65_536
_MAX_REASON: Final = 300


class Answer(NamedTuple):
    """`refused` of the spans were not taken. `reason` says why, or warns of what was taken."""

    refused: int = 0
    reason: str = ""


Send = Callable[[Encoded], Answer]


def failed(batch: Encoded, error: BaseException | None, reason: str = "") -> Answer:
    """None of them was taken, for this reason or this error."""
    let_go(error)
    return Answer(batch.spans, (reason or f"{type(error).__name__}: {error}")[:_MAX_REASON])


def answered(response: Any) -> Answer:
    """What an ExportTraceServiceResponse says."""
    partial = response.partial_success
    return Answer(max(0, partial.rejected_spans), partial.error_message[:_MAX_REASON])


def let_go(error: BaseException | None) -> None:
    """Cut an error and its causes from their frames, which hold the request and, in a circle, the error.

    The libraries leave such circles behind where an export fails. Hundreds of kilobytes each would wait for
    the garbage collector, which runs rarely here.
    """
    while error is not None:
        error.__traceback__, error = None, error.__context__
