"""Time in microseconds, exact in both directions."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finflow.kernel import clock


@given(st.datetimes(timezones=st.timezones()))
def test_microseconds_are_exact(moment: datetime) -> None:
    micros = clock.to_micros(moment)
    # Independent of to_micros: whole days, seconds and microseconds since the epoch.
    since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC) if 2 < moment.year < 9999 else None
    if since is not None:
        assert micros == (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
        assert clock.to_datetime(micros) == moment.astimezone(UTC)


def test_known_moments() -> None:
    assert clock.to_micros(datetime(1970, 1, 1, tzinfo=UTC)) == 0
    assert clock.to_micros(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == -1
    assert clock.to_micros(datetime(2000, 1, 1, tzinfo=UTC)) == 946_684_800_000_000
    in_singapore = datetime(2000, 1, 1, 8, tzinfo=timezone(timedelta(hours=8)))
    assert clock.to_micros(in_singapore) == 946_684_800_000_000


def test_a_naive_moment_is_a_programmer_s_error() -> None:
    with pytest.raises(AssertionError):
        clock.to_micros(datetime(2000, 1, 1))


def test_the_system_clock_counts_microseconds() -> None:
    before, now, after = datetime.now(UTC), clock.system_clock(), datetime.now(UTC)
    assert before - timedelta(seconds=1) <= clock.to_datetime(now) <= after + timedelta(seconds=1)
