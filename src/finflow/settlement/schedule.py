"""Which cycle a payment joins: the next cut-off of its currency, and the value date that follows. Pure."""

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.settlement.calendars import (
    BusinessDay,
    CutOff,
    add_business_days,
    business_days,
    cut_off_at,
    value_date,
)


class Dates(NamedTuple):
    """The day that a cycle settles on, and the moment from which nothing joins it any more, in UTC."""

    value_date: dt.date
    cut_off_at: dt.datetime


def next_dates(moment: dt.datetime, cut_offs: Sequence[CutOff], calendar: BusinessDay | None = None) -> Dates:
    """The dates of the cycle that a payment accepted at `moment` joins; at a cut-off, it is the next one.

    Raises cut_off_unknown if there is no cut-off, calendar_unknown, calendar_exhausted.
    """
    if not cut_offs:
        raise FinFlowError("cut_off_unknown")
    return min((_dates(moment, each, calendar) for each in cut_offs), key=lambda dates: dates.cut_off_at)


def _dates(moment: dt.datetime, cut_off: CutOff, calendar: BusinessDay | None) -> Dates:
    open_on = calendar or business_days(cut_off.calendar)
    day = value_date(moment, msgspec.structs.replace(cut_off, lag_days=0), open_on)
    return Dates(add_business_days(day, cut_off.lag_days, open_on), cut_off_at(day, cut_off))
