"""Time as the house counts it: integer microseconds since the Unix epoch, UTC."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    """Answers the present as microseconds since 1970-01-01T00:00:00Z."""

    def __call__(self) -> int: ...


def system_clock() -> int:
    """The machine's clock in microseconds; it may step, so nobody orders events by it alone."""
    return time.time_ns() // 1000


def to_micros(moment: datetime) -> int:
    """Exact microseconds of an aware datetime; a naive one is a programmer's error."""
    assert moment.tzinfo is not None, "a moment without a time zone is not a moment"
    return (moment - _EPOCH) // _MICROSECOND


def to_datetime(micros: int) -> datetime:
    """The aware UTC datetime of a count of microseconds."""
    return _EPOCH + timedelta(microseconds=micros)
