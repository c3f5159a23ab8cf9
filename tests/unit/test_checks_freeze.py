"""Freeze windows: spans, weeks, changes of clocks and ends of years. The moments were worked out by hand."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from finflow.rollout.checks.freeze import FreezeCheck
from finflow.rollout.checks.windows import frozen_at, frozen_until
from finflow.rollout.checks_spec import FreezeSpec, Window
from finflow.rollout.ports import Approval
from finflow.rollout.verdicts import Verdict


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def weekly(days: str, since: str, until: str, zone: str = "Europe/Berlin") -> Window:
    return Window(since, until, tuple(days.split()), zone)  # type: ignore[arg-type] # days are words here


HOLIDAYS = Window("2026-12-24T12:00:00+01:00", "2027-01-02T08:00:00+01:00", reason="year end")
WEEKEND = weekly("fri sat sun", "16:00", "08:00")


@pytest.mark.parametrize(
    ("window", "moment", "frozen"),
    [
        (HOLIDAYS, "2026-12-24T10:59:59+00:00", False),
        (HOLIDAYS, "2026-12-24T11:00:00+00:00", True),
        (HOLIDAYS, "2027-01-01T00:00:00+00:00", True),
        (HOLIDAYS, "2027-01-02T06:59:59+00:00", True),
        (HOLIDAYS, "2027-01-02T07:00:00+00:00", False),
        # 2026-11-27 is a Friday.
        (WEEKEND, "2026-11-27T15:59:00+01:00", False),
        (WEEKEND, "2026-11-27T16:00:00+01:00", True),
        (WEEKEND, "2026-11-28T07:59:00+01:00", True),
        (WEEKEND, "2026-11-28T08:00:00+01:00", False),
        (WEEKEND, "2026-11-30T07:59:00+01:00", True),
        (WEEKEND, "2026-11-30T16:00:00+01:00", False),
        (weekly("thu", "22:00", "06:00"), "2027-01-01T03:00:00+01:00", True),  # Thursday 2026-12-31
        (weekly("fri", "00:00", "24:00"), "2026-11-28T00:00:00+01:00", False),
        (weekly("fri", "00:00", "24:00"), "2026-11-27T23:59:59+01:00", True),
        (weekly("mon", "09:00", "09:00"), "2026-12-01T08:59:00+01:00", True),  # a whole day
        (weekly("sat", "00:00", "04:00", "Pacific/Auckland"), "2026-11-27T12:00:00+00:00", True),
        (weekly("fri", "00:00", "04:00", "Pacific/Auckland"), "2026-11-27T12:00:00+00:00", False),
        # Berlin 2027-03-28: 02:30 does not exist; clocks go from 02:00 (01:00 UTC) to 03:00.
        (weekly("sun", "02:30", "05:00"), "2027-03-28T01:00:00+00:00", True),
        (weekly("sun", "02:30", "05:00"), "2027-03-28T02:59:59+00:00", True),
        (weekly("sun", "02:30", "05:00"), "2027-03-28T03:00:00+00:00", False),
        (weekly("sun", "00:00", "02:30"), "2027-03-28T01:29:59+00:00", True),
        (weekly("sun", "00:00", "02:30"), "2027-03-28T01:30:00+00:00", False),
        # Berlin 2026-10-25: 02:30 is there twice, at 00:30 and 01:30 UTC.
        (weekly("sun", "02:30", "04:00"), "2026-10-25T00:29:00+00:00", False),
        (weekly("sun", "02:30", "04:00"), "2026-10-25T00:30:00+00:00", True),
        (weekly("sun", "00:00", "02:30"), "2026-10-25T01:29:59+00:00", True),
        (weekly("sun", "00:00", "02:30"), "2026-10-25T01:30:00+00:00", False),
        # Beirut 2026-03-29: midnight itself does not exist, clocks go from 00:00 to 01:00 (22:00 UTC before).
        (weekly("sun", "00:00", "02:00", "Asia/Beirut"), "2026-03-28T22:00:00+00:00", True),
        (weekly("sun", "00:00", "02:00", "Asia/Beirut"), "2026-03-28T23:00:00+00:00", False),
    ],
)
def test_a_moment_is_frozen_or_not(window: Window, moment: str, frozen: bool) -> None:
    assert (frozen_at([window], at(moment)) is not None) == frozen


def test_the_end_is_that_of_windows_that_follow_one_another() -> None:
    nights = [weekly("fri sat sun", "00:00", "24:00"), weekly("mon", "00:00", "07:00")]
    found = frozen_until(nights, at("2026-11-28T12:00:00+01:00"))
    assert found is not None
    assert found.until == at("2026-11-30T07:00:00+01:00")


def test_a_window_that_never_ends_is_followed_for_a_year() -> None:
    always = weekly("mon tue wed thu fri sat sun", "00:00", "24:00")
    found = frozen_until([always], at("2026-11-28T12:00:00+01:00"))
    assert found is not None
    assert (found.until - at("2026-11-28T12:00:00+01:00")).days >= 366


@pytest.mark.parametrize(
    "window",
    [
        {"from": "2026-12-24T12:00:00", "until": "2027-01-02T08:00:00Z"},
        {"from": "2026-12-24", "until": "2027-01-02"},
        {"from": "2027-01-02T08:00:00Z", "until": "2026-12-24T12:00:00Z"},
        {"from": "2027-02-30T08:00:00Z", "until": "2027-12-24T12:00:00Z"},
        {"from": "2026-12-24T12:00:00Z", "until": "2027-01-02T08:00:00Z", "zone": "UTC"},
        {"from": "18:00", "until": "08:00", "days": ["fri"]},
        {"from": "18:00", "until": "08:00", "days": ["fri"], "zone": "Europe/Atlantis"},
        {"from": "18:00", "until": "08:00", "days": ["fri"], "zone": "../../etc/passwd"},
        {"from": "24:00", "until": "08:00", "days": ["fri"], "zone": "UTC"},
        {"from": "18:00", "until": "8:00", "days": ["fri"], "zone": "UTC"},
        {"from": "18:00", "until": "08:00", "days": ["friday"], "zone": "UTC"},
        {"from": "18:00", "until": "08:00", "days": ["fri"], "zone": "UTC", "weekly": True},
        {"until": "2027-01-02T08:00:00Z"},
    ],
)
def test_windows_that_mean_nothing_are_refused(window: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"kind": "freeze", "windows": [window]}, FreezeSpec)


class Recorded:
    """Approvals by digest."""

    def __init__(self, *digests: str) -> None:
        self._digests = digests

    async def find(self, digest: str) -> Approval | None:
        return Approval(digest, "ada", "2026-12-25T00:00:00Z") if digest in self._digests else None


async def test_a_window_holds_and_says_until_when() -> None:
    judgement = await FreezeCheck(
        FreezeSpec((HOLIDAYS,)), Recorded(), lambda: at("2026-12-25T00:00:00Z")
    ).judge()
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.words == "Frozen until 2027-01-02T07:00:00Z: year end."
    assert judgement.numbers == {
        "frozen_until": "2027-01-02T07:00:00Z",
        "frozen_for_s": 8 * 86_400 + 7 * 3_600,
    }


async def test_an_override_is_of_one_occurrence() -> None:
    spec = FreezeSpec((WEEKEND,), overridable=True)
    first, next_week = at("2026-11-27T20:00:00Z"), at("2026-12-04T20:00:00Z")
    asked = await FreezeCheck(spec, Recorded(), lambda: first).judge()
    approvals = Recorded(str(asked.numbers["digest"]))
    assert asked.verdict is Verdict.INCONCLUSIVE
    assert (await FreezeCheck(spec, approvals, lambda: first).judge()).verdict is Verdict.PASS
    assert (await FreezeCheck(spec, approvals, lambda: next_week).judge()).verdict is Verdict.INCONCLUSIVE


async def test_outside_of_windows_it_passes() -> None:
    judgement = await FreezeCheck(
        FreezeSpec((HOLIDAYS,)), Recorded(), lambda: at("2026-11-25T00:00:00Z")
    ).judge()
    assert judgement.verdict is Verdict.PASS
