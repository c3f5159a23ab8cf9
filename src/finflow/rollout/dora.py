"""The four delivery measures, derived from what the decision logs say happened. Pure."""

from collections.abc import Sequence
from datetime import datetime
from statistics import median

import msgspec

from finflow.rollout.state import Phase, State

_DAY_S = 86_400.0


class Delivery(msgspec.Struct, frozen=True):
    """Deployment frequency, change lead time, change failure rate, recovery time from detection.

    A deployment is a rollout that ended with the candidate serving everybody. A change has failed that served
    customers and was taken back, by the rollout or by another one that brought the release before it back.
    What was stopped before it served anybody is counted apart: it failed nobody.
    """

    since: str
    until: str
    days: float
    deployments: int
    deployments_per_day: float
    lead_time_s_median: float | None
    changes_served: int
    changes_failed: int
    change_failure_rate: float | None
    recovery_s_median: float | None
    stopped_before_serving: int


def seconds_between(earlier: str, later: str) -> float:
    """From one RFC 3339 moment to another."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def brought_back(rollouts: Sequence[State]) -> dict[str, State]:
    """Which promoted rollouts were undone by a later one, by their ids."""
    undone: dict[str, State] = {}
    served: list[State] = []
    for each in rollouts:
        if each.phase is not Phase.PROMOTED:
            continue
        if served and (served[-1].baseline, served[-1].candidate) == (each.candidate, each.baseline):
            undone[served.pop().rollout_id] = each
        else:
            served.append(each)
    return undone


def measures(rollouts: Sequence[State], since: str, until: str) -> Delivery:
    """The measures of what ended between these moments; all rollouts of the service are given, in order."""
    undone = brought_back(rollouts)
    rollbacks = {each.rollout_id for each in undone.values()}
    ended = [each for each in rollouts if each.ended and _within(each.ended_at, since, until)]
    changes = [each for each in ended if each.rollout_id not in rollbacks]
    promoted = [each for each in changes if each.phase is Phase.PROMOTED]
    served = [each for each in changes if each.first_served_at]
    failed = [each for each in served if each.phase is Phase.ABORTED or each.rollout_id in undone]
    days = seconds_between(since, until) / _DAY_S
    return Delivery(
        since=since,
        until=until,
        days=round(days, 3),
        deployments=len(promoted),
        deployments_per_day=round(len(promoted) / days, 3) if days > 0 else 0.0,
        lead_time_s_median=_median([_lead_s(each) for each in promoted]),
        changes_served=len(served),
        changes_failed=len(failed),
        change_failure_rate=round(len(failed) / len(served), 4) if served else None,
        recovery_s_median=_median([_recovery_s(each, undone) for each in failed]),
        stopped_before_serving=len(changes) - len(served),
    )


def _within(moment: str, since: str, until: str) -> bool:
    return seconds_between(since, moment) >= 0 and seconds_between(moment, until) > 0


def _lead_s(rollout: State) -> float | None:
    """From the commit to the moment from which everybody was served."""
    if rollout.committed_at is None or not rollout.full_at:
        return None
    return seconds_between(rollout.committed_at, rollout.full_at)


def _recovery_s(rollout: State, undone: dict[str, State]) -> float | None:
    """From the decision to take it back to the moment from which nobody was on it."""
    back = undone.get(rollout.rollout_id)
    if back is not None:
        return seconds_between(back.started_at, back.full_at) if back.full_at else None
    if not rollout.detected_at or not rollout.taken_back_at:
        return None
    return seconds_between(rollout.detected_at, rollout.taken_back_at)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 6) if known else None
