"""Whether a moment lies in a freeze window. Pure.

A weekly window is a span of the wall clock, and where clocks change the wall clock shows a time twice or not
at all. The window then begins at the earliest moment that its beginning can mean and ends at the latest that
its end can mean: a change of clocks never makes it shorter.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from finflow.rollout.checks_spec import Window, moment

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY: Final = timedelta(days=1)


class Frozen(NamedTuple):
    """A window that a moment lies in: when it began, when it ends, and why it is there."""

    since: datetime
    until: datetime
    reason: str


def frozen_at(windows: Iterable[Window], now: datetime) -> Frozen | None:
    """Of the windows around this moment the one that ends last."""
    around = [span for window in windows for span in _spans(window, now) if span.since <= now < span.until]
    return max(around, key=lambda span: span.until, default=None)


def frozen_until(windows: Iterable[Window], now: datetime) -> Frozen | None:
    """The same, its end moved on through windows that follow one another without a break; a year at most."""
    windows = list(windows)
    first = found = frozen_at(windows, now)
    while found is not None and first is not None and found.until - now < 366 * _DAY:
        following = frozen_at(windows, found.until)
        if following is None:
            break
        found = following
    return None if first is None or found is None else Frozen(first.since, found.until, first.reason)


def _spans(window: Window, now: datetime) -> Iterator[Frozen]:
    if not window.days:
        yield Frozen(moment(window.since), moment(window.until), window.reason)
        return
    zone = ZoneInfo(window.zone or "UTC")
    today = now.astimezone(zone).date()
    # Where clocks change at midnight, tomorrow's window can begin today.
    for day in (today - _DAY, today, today + _DAY):
        if _DAYS[day.weekday()] in window.days:
            yield _span_of(window, day, zone)


def _span_of(window: Window, day: date, zone: ZoneInfo) -> Frozen:
    since = time.fromisoformat(window.since)
    whole = window.until == "24:00"
    until = time(0) if whole else time.fromisoformat(window.until)
    last_day = day + _DAY if whole or until <= since else day
    return Frozen(
        min(_meanings(datetime.combine(day, since), zone)),
        max(_meanings(datetime.combine(last_day, until), zone)),
        window.reason,
    )


def _meanings(wall_clock: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The moments that a time of the wall clock can mean: two where clocks change, else twice the same."""
    first, second = (wall_clock.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    return first.astimezone(UTC), second.astimezone(UTC)
