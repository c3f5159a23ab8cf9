"""Business days, cut-offs and value dates. Pure: the moment comes in, the day goes out.

A cut-off is a wall-clock time in the time zone of the currency's settlement system. Up to, and not at, that
time on a business day a payment is for the same day; after it, for the next business day.
"""

import datetime as dt
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

import msgspec

from finflow.kernel.errors import FinFlowError

BusinessDay = Callable[[dt.date], bool]
Convention = Literal["following", "modified_following", "preceding"]

_DAY: Final = dt.timedelta(days=1)
# The longest run of days without business known to the calendars below is under two weeks.
_MAX_CLOSED_DAYS: Final = 31
_SATURDAY, _SUNDAY = 5, 6


class CutOff(msgspec.Struct, frozen=True):
    """Until when a currency settles on the same day, where, on whose business days, and how many later."""

    currency: str
    time: dt.time
    zone: str
    calendar: str
    lag_days: int = 0


# A bank sets its own times; these are the customer cut-offs that FinFlow starts with. Calendars are names
# of the `holidays` package: a country's two letters, ECB for the days on which TARGET is closed, FED for the
# Federal Reserve (which, unlike the country, is open on the Friday before a holiday on a Saturday).
DEFAULT_CUT_OFFS: Final[dict[str, CutOff]] = {
    each.currency: each
    for each in (
        CutOff("AUD", dt.time(16, 30), "Australia/Sydney", "AU"),
        CutOff("CHF", dt.time(15, 0), "Europe/Zurich", "CH"),
        CutOff("EUR", dt.time(17, 0), "Europe/Berlin", "ECB"),
        CutOff("GBP", dt.time(16, 0), "Europe/London", "GB"),
        CutOff("HKD", dt.time(17, 0), "Asia/Hong_Kong", "HK"),
        CutOff("IDR", dt.time(15, 0), "Asia/Jakarta", "ID"),
        CutOff("JPY", dt.time(15, 0), "Asia/Tokyo", "JP"),
        CutOff("MYR", dt.time(17, 0), "Asia/Kuala_Lumpur", "MY"),
        CutOff("PHP", dt.time(15, 0), "Asia/Manila", "PH"),
        CutOff("SGD", dt.time(17, 0), "Asia/Singapore", "SG"),
        CutOff("THB", dt.time(16, 0), "Asia/Bangkok", "TH"),
        CutOff("USD", dt.time(17, 0), "America/New_York", "FED"),
        CutOff("VND", dt.time(15, 30), "Asia/Ho_Chi_Minh", "VN"),
    )
}


def cut_off_of(currency: str, cut_offs: dict[str, CutOff] = DEFAULT_CUT_OFFS) -> CutOff:
    """The cut-off of a currency. Raises cut_off_unknown."""
    found = cut_offs.get(currency)
    if found is None:
        raise FinFlowError("cut_off_unknown", f"no cut-off for {currency[:10]!r}")
    return found


def business_days(calendar: str) -> BusinessDay:
    """Whether a day is a business day of a calendar. Raises calendar_unknown."""
    table = _holidays(calendar)

    def is_business_day(day: dt.date) -> bool:
        return day.weekday() not in (_SATURDAY, _SUNDAY) and day not in table

    return is_business_day


@lru_cache(maxsize=64)
def _holidays(calendar: str) -> Any:
    import holidays  # heavy, and most commands need no calendar

    if calendar in holidays.list_supported_financial():
        return holidays.financial_holidays(calendar)
    if calendar not in holidays.list_supported_countries():
        raise FinFlowError("calendar_unknown", f"no holidays for {calendar[:20]!r}")
    # CHAPS keeps the bank holidays of England and Wales.
    subdivision = "ENG" if calendar == "GB" else None
    known = holidays.country_holidays(calendar).supported_categories
    kept = tuple(each for each in (holidays.PUBLIC, holidays.BANK) if each in known)
    return holidays.country_holidays(calendar, subdiv=subdivision, categories=kept)


def roll(day: dt.date, is_business_day: BusinessDay, convention: Convention = "following") -> dt.date:
    """The day itself if it is a business day, else the one that the convention names.

    `modified_following` stays in the month: where the next business day is in another month, it goes back.
    Raises calendar_exhausted if none lies within a month.
    """
    if convention == "preceding":
        return _seek(day, -_DAY, is_business_day)
    found = _seek(day, _DAY, is_business_day)
    if convention == "modified_following" and (found.year, found.month) != (day.year, day.month):
        return _seek(day, -_DAY, is_business_day)
    return found


def _seek(day: dt.date, step: dt.timedelta, is_business_day: BusinessDay) -> dt.date:
    try:
        for _ in range(_MAX_CLOSED_DAYS):
            if is_business_day(day):
                return day
            day += step
    except OverflowError as error:
        raise FinFlowError("calendar_exhausted", "the calendar ends with the year 9999") from error
    raise FinFlowError("calendar_exhausted", f"no business day within {_MAX_CLOSED_DAYS} days of {day}")


def add_business_days(day: dt.date, count: int, is_business_day: BusinessDay) -> dt.date:
    """The business day `count` business days after `day`, which is rolled forward first."""
    assert count >= 0, "value dates lie ahead"
    day = roll(day, is_business_day)
    for _ in range(count):
        day = roll(day + _DAY, is_business_day)
    return day


def cut_off_at(day: dt.date, cut_off: CutOff) -> dt.datetime:
    """The moment of the cut-off on a day, in UTC.

    Where the clock skips that time, the moment is as much later as the clock skips; where it shows that
    time twice, it is the earlier of both.
    """
    return dt.datetime.combine(day, cut_off.time, ZoneInfo(cut_off.zone)).astimezone(dt.UTC)


def value_date(moment: dt.datetime, cut_off: CutOff, is_business_day: BusinessDay | None = None) -> dt.date:
    """The day that a payment accepted at `moment` settles on. At the cut-off itself it is too late."""
    assert moment.tzinfo is not None, "a moment without a time zone is not a moment"
    open_on = is_business_day or business_days(cut_off.calendar)
    today = moment.astimezone(ZoneInfo(cut_off.zone)).date()
    if not open_on(today) or moment >= cut_off_at(today, cut_off):
        today += _DAY
    return add_business_days(today, cut_off.lag_days, open_on)
