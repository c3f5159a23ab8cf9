"""Readings added and subtracted: what was counted between two looks, over restarts of what counts. Pure."""

import math
from collections.abc import Mapping
from itertools import pairwise

from finflow.rollout import latency
from finflow.rollout.verdicts import Histogram, Reading, Side

NOTHING = Reading(0, 0)


def fault(reading: Reading) -> str | None:
    """What is wrong with a reading that cannot be true."""
    totals = (reading.requests, reading.errors, reading.customers_failed or 0, reading.customers or 0)
    if min(*totals, *reading.counts.values(), 0) < 0:
        return "a total is negative"
    if reading.errors > reading.requests:
        return f"{reading.errors:,} errors of {reading.requests:,} requests"
    return None if reading.latency is None else _bent(reading.latency)


def _bent(durations: Histogram) -> str | None:
    edges = durations.edges_s
    if len(durations.counts) != len(edges) + 1:
        return "the histogram does not have one count more than edges"
    if min(durations.counts) < 0:
        return "a bucket of the histogram is negative"
    if not edges or edges[0] <= 0 or any(low >= high for low, high in pairwise(edges)):
        return "the edges of the histogram do not rise from above 0"
    if not math.isfinite(durations.sum_s) or durations.sum_s < 0:
        return "the histogram's sum is not a duration"
    return None


def since(before: Reading, now: Reading) -> tuple[Reading, bool]:
    """What came since, and whether counting began anew in between: then it is what there is now.

    A histogram whose edges or counts do not go on has nothing new to say; the requests beside it do.
    """
    latency_since = _latency_since(before.latency, now.latency)
    customers = _since(before.customers, now.customers)
    failed = _since(before.customers_failed, now.customers_failed)
    counts = {name: _since(before.counts.get(name, 0), total) or 0 for name, total in now.counts.items()}
    requests, errors = now.requests - before.requests, now.errors - before.errors
    if min(requests, errors) < 0:
        return now, True
    return Reading(requests, errors, latency_since, failed, customers, counts), False


def _latency_since(before: Histogram | None, now: Histogram | None) -> Histogram | None:
    if now is None or before is None:
        return now
    return latency.subtracted(now, before)


def _since(before: int | None, now: int | None) -> int | None:
    """A difference, or all that there is where it went backwards; None where either is not known."""
    if before is None or now is None:
        return None
    return now - before if now >= before else now


def added(one: Reading | None, other: Reading) -> Reading:
    """Both together."""
    if one is None:
        return other
    if one.latency is None or other.latency is None:
        durations = one.latency or other.latency
    else:
        durations = latency.added(one.latency, other.latency)
    names = {*one.counts, *other.counts}
    return Reading(
        one.requests + other.requests,
        one.errors + other.errors,
        durations,
        _sum(one.customers_failed, other.customers_failed),
        _sum(one.customers, other.customers),
        {name: one.counts.get(name, 0) + other.counts.get(name, 0) for name in sorted(names)},
    )


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def routed_since(before: Mapping[Side, int] | None, now: Mapping[Side, int] | None) -> dict[Side, int] | None:
    """Requests that the router sent since, by side; None where it was not asked both times."""
    if before is None or now is None:
        return None
    return {side: _since(before.get(side, 0), total) or 0 for side, total in now.items()}
