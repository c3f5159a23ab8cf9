"""The delivery measures of hand-made rollouts, with values reckoned by hand."""

from finflow.rollout.dora import measures
from finflow.rollout.state import Phase, State

DAY = "2026-06-{:02d}T{:02d}:{:02d}:{:02d}Z"


def at(day: int, hour: int = 0, minute: int = 0, second: int = 0) -> str:
    return DAY.format(day, hour, minute, second)


def rollout(number: int, phase: Phase, day: int, **more: object) -> State:
    known: dict[str, object] = {
        "rollout_id": f"rol_{number}", "baseline": f"1.{number - 1}", "candidate": f"1.{number}",
        "phase": phase, "started_at": at(day, 10), "ended_at": at(day, 12),
    }  # fmt: skip
    return State(**known | more)  # type: ignore[arg-type]


# Promoted: committed at 9:00, everybody served at 11:00, so two hours of lead.
ONE = rollout(1, Phase.PROMOTED, 1, committed_at=at(1, 9), first_served_at=at(1, 10, 5), full_at=at(1, 11))
# Taken back 8 seconds after it was detected.
TWO = rollout(
    2, Phase.ABORTED, 2, baseline="1.1", committed_at=at(2, 9), first_served_at=at(2, 10, 5),
    detected_at=at(2, 10, 6, 0), taken_back_at=at(2, 10, 6, 8),
)  # fmt: skip
# Stopped by a scan: nobody met it.
THREE = rollout(3, Phase.ABORTED, 3, baseline="1.1", detected_at=at(3, 10), taken_back_at=at(3, 10))
# Promoted with a day of lead, and undone by the next: whose start is the detection, its end the recovery.
FOUR = rollout(
    4, Phase.PROMOTED, 4, baseline="1.1", committed_at=at(3, 11), first_served_at=at(4, 10), full_at=at(4, 11)
)
BACK = rollout(
    5, Phase.PROMOTED, 5, baseline="1.4", candidate="1.1", committed_at=at(1, 9),
    first_served_at=at(5, 10, 1), full_at=at(5, 10, 2),
)  # fmt: skip
RUNNING = rollout(6, Phase.BAKING, 6, ended_at="", first_served_at=at(6, 10))
ALL = [ONE, TWO, THREE, FOUR, BACK, RUNNING]


def test_all_four() -> None:
    found = measures(ALL, at(1), at(11))
    assert (found.days, found.deployments, found.deployments_per_day) == (10.0, 2, 0.2)
    # Two hours and one day: the median is 13 hours.
    assert found.lead_time_s_median == 13 * 3600
    # Of 1, 2 and 4, which served somebody, 2 was taken back and 4 was undone.
    assert (found.changes_served, found.changes_failed, found.change_failure_rate) == (3, 2, 0.6667)
    # 8 seconds and 120 seconds.
    assert found.recovery_s_median == 64.0
    assert found.stopped_before_serving == 1


def test_only_what_ended_in_the_time_counts_and_a_later_rollback_still_tells() -> None:
    found = measures(ALL, at(4), at(5))
    assert (found.deployments, found.changes_failed, found.recovery_s_median) == (1, 1, 120.0)


def test_nothing_is_nothing_and_no_division() -> None:
    found = measures([], at(1), at(1))
    assert (found.deployments_per_day, found.change_failure_rate, found.lead_time_s_median) == (
        0.0,
        None,
        None,
    )


def test_a_commit_that_nobody_named_has_no_lead_time() -> None:
    unnamed = rollout(1, Phase.PROMOTED, 1, first_served_at=at(1, 10, 5), full_at=at(1, 11))
    assert measures([unnamed], at(1), at(2)).lead_time_s_median is None
