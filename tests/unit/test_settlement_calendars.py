"""Business days, cut-offs, value dates: at clock edges, daylight saving, month ends, leap days, holidays.

Expected days are taken from printed calendars (the ECB's list of TARGET closing days, the Federal Reserve's
holiday schedule, Singapore's gazetted holidays), expected moments from the published rules of each zone.
"""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finflow.kernel.errors import FinFlowError
from finflow.settlement import calendars
from finflow.settlement.calendars import CutOff, business_days, roll, value_date

_D = dt.date
_ALWAYS = CutOff("EUR", dt.time(17, 0), "Europe/Berlin", "ECB")


def _utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def _weekday(day: dt.date) -> bool:
    return day.isoweekday() < 6


@pytest.mark.parametrize(
    ("calendar", "day", "is_open"),
    [
        ("ECB", "2026-01-01", False),
        ("ECB", "2026-04-03", False),  # Good Friday
        ("ECB", "2026-04-06", False),  # Easter Monday
        ("ECB", "2026-05-01", False),
        ("ECB", "2026-12-25", False),
        ("ECB", "2026-05-14", True),  # Ascension is a holiday in Germany, not in TARGET
        ("ECB", "2026-12-24", True),
        ("ECB", "2026-06-06", False),  # a Saturday
        ("FED", "2026-07-03", True),  # the Fourth of July 2026 is a Saturday
        ("FED", "2027-07-05", False),  # in 2027 a Sunday: the Monday after
        ("FED", "2026-11-26", False),  # Thanksgiving
        ("SG", "2026-08-10", False),  # National Day 2026 is a Sunday
        ("SG", "2026-02-17", False),  # Chinese New Year
        ("GB", "2026-08-31", False),  # Summer bank holiday in England, not in Scotland
        ("JP", "2024-02-12", False),  # National Foundation Day 2024 is a Sunday
    ],
)
def test_bank_holidays_are_those_that_were_published(calendar: str, day: str, is_open: bool) -> None:
    assert business_days(calendar)(_D.fromisoformat(day)) is is_open


def test_every_default_cut_off_has_its_zone_and_calendar() -> None:
    for currency, cut_off in calendars.DEFAULT_CUT_OFFS.items():
        assert cut_off.currency == currency
        assert calendars.cut_off_at(_D(2026, 6, 1), cut_off).tzinfo is dt.UTC
        assert business_days(cut_off.calendar)(_D(2026, 11, 18)), "an ordinary Wednesday"


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-06-01T14:59:59.999999", "2026-06-01"),  # Berlin is two hours ahead in summer
        ("2026-06-01T15:00:00", "2026-06-02"),
        ("2026-12-01T15:59:59.999999", "2026-12-01"),  # and one in winter
        ("2026-12-01T16:00:00", "2026-12-02"),
        ("2026-03-27T15:59:59", "2026-03-27"),  # the Friday before summer time begins
        ("2026-03-27T16:00:00", "2026-03-30"),
        ("2026-03-30T14:59:59", "2026-03-30"),  # the Monday after
        ("2026-03-30T15:00:00", "2026-03-31"),
        ("2026-10-23T15:00:00", "2026-10-26"),  # and its end
        ("2026-10-26T15:59:59", "2026-10-26"),
        ("2026-04-02T15:00:00", "2026-04-07"),  # over Easter
        ("2026-12-31T16:00:00", "2027-01-04"),  # over the new year: the first is a Friday
        ("2028-02-28T16:00:00", "2028-02-29"),  # a leap day
        ("2028-02-29T16:00:00", "2028-03-01"),
        ("2026-02-27T16:00:00", "2026-03-02"),  # the end of a month, into the next
        ("2026-05-31T22:30:00", "2026-06-01"),  # already Monday in Berlin
        ("2026-05-31T21:30:00", "2026-06-01"),  # still Sunday there
    ],
)
def test_value_dates_at_the_edges_of_the_euro(moment: str, expected: str) -> None:
    found = value_date(_utc(moment), calendars.cut_off_of("EUR"))
    assert found == _D.fromisoformat(expected)


@pytest.mark.parametrize(
    ("currency", "moment", "expected"),
    [
        ("SGD", "2026-06-02T08:59:59", "2026-06-02"),  # Singapore is eight hours ahead all year
        ("SGD", "2026-06-02T09:00:00", "2026-06-03"),
        ("USD", "2026-11-25T21:59:59", "2026-11-25"),
        ("USD", "2026-11-25T22:00:00", "2026-11-27"),  # over Thanksgiving
        ("USD", "2026-03-06T22:00:00", "2026-03-09"),  # summer time begins on the 8th
        ("USD", "2026-03-09T20:59:59", "2026-03-09"),
        ("USD", "2026-03-09T21:00:00", "2026-03-10"),
        ("AUD", "2026-01-23T05:30:00", "2026-01-27"),  # Australia Day is a Monday
    ],
)
def test_value_dates_in_other_zones(currency: str, moment: str, expected: str) -> None:
    assert value_date(_utc(moment), calendars.cut_off_of(currency)) == _D.fromisoformat(expected)


def test_a_cut_off_that_the_clock_skips_comes_as_much_later() -> None:
    # In New York 2026-03-08 goes from 01:59:59 EST to 03:00 EDT; 02:30 would be 07:30 UTC, shown as 03:30.
    cut_off = CutOff("USD", dt.time(2, 30), "America/New_York", "FED")
    assert calendars.cut_off_at(_D(2026, 3, 8), cut_off) == _utc("2026-03-08T07:30:00")


def test_a_cut_off_that_the_clock_shows_twice_is_the_first() -> None:
    # In New York 01:30 on 2026-11-01 comes at 05:30 UTC and at 06:30 UTC.
    cut_off = CutOff("USD", dt.time(1, 30), "America/New_York", "FED")
    assert calendars.cut_off_at(_D(2026, 11, 1), cut_off) == _utc("2026-11-01T05:30:00")


@pytest.mark.parametrize(
    ("day", "convention", "expected"),
    [
        ("2026-05-30", "following", "2026-06-01"),  # a Saturday at the end of a month
        ("2026-05-30", "modified_following", "2026-05-29"),
        ("2026-05-30", "preceding", "2026-05-29"),
        ("2026-05-16", "modified_following", "2026-05-18"),
        ("2028-02-27", "following", "2028-02-28"),
        ("2026-12-26", "following", "2026-12-28"),
        ("2026-01-01", "preceding", "2025-12-31"),
        ("2026-06-03", "modified_following", "2026-06-03"),
    ],
)
def test_rolling(day: str, convention: calendars.Convention, expected: str) -> None:
    assert roll(_D.fromisoformat(day), business_days("ECB"), convention) == _D.fromisoformat(expected)


def test_a_lag_counts_business_days() -> None:
    spot = CutOff("EUR", dt.time(17, 0), "Europe/Berlin", "ECB", lag_days=2)
    # Thursday before Easter: Friday and Monday are closed.
    assert value_date(_utc("2026-04-02T10:00:00"), spot) == _D(2026, 4, 8)


@given(st.dates(_D(2000, 1, 1), _D(2060, 12, 31)), st.integers(0, 15))
def test_adding_business_days_passes_just_so_many(day: dt.date, count: int) -> None:
    found = calendars.add_business_days(day, count, _weekday)
    span = [day + dt.timedelta(days=number) for number in range((found - day).days + 1)]
    assert _weekday(found)
    assert sum(map(_weekday, span)) == count + 1


@given(st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2060, 1, 1)), st.integers(1, 10**11))
def test_a_later_payment_never_settles_earlier(moment: dt.datetime, microseconds: int) -> None:
    at = moment.replace(tzinfo=dt.UTC)
    later = at + dt.timedelta(microseconds=microseconds)
    assert value_date(at, _ALWAYS, _weekday) <= value_date(later, _ALWAYS, _weekday)


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(FinFlowError, match="cut_off_unknown"):
        calendars.cut_off_of("XXX")
    with pytest.raises(FinFlowError, match="calendar_unknown"):
        business_days("ZZZ")
    with pytest.raises(FinFlowError, match="calendar_exhausted"):
        roll(_D(2026, 1, 1), lambda _: False)
    with pytest.raises(FinFlowError, match="calendar_exhausted"):
        roll(_D(9999, 12, 31), lambda _: False)
