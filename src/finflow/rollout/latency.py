"""Durations of two sides compared: a confidence sequence for the difference of means, and edges of quantiles.

Means are of logarithms unless asked otherwise: one request of a minute must neither hide nor make a
difference. A difference of mean logarithms is a ratio of typical durations. Pure.
"""

from bisect import bisect_left
from functools import lru_cache
from itertools import accumulate
from math import exp, inf, log, sqrt
from typing import Final

import msgspec

from finflow.rollout.verdicts import Histogram

# The confidence sequence is tightest where about so many requests have been counted.
TUNED_FOR_REQUESTS: Final = 5_000
# How far below the first edge and above the last one durations are taken to reach.
_OUTSIDE: Final = 2.0


class Moments(msgspec.Struct, frozen=True):
    """How many, their mean, and the variance of one of them."""

    count: int
    mean: float
    variance: float


def log_moments(durations: Histogram) -> Moments:
    """Moments of the logarithms of durations, each taken for the geometric middle of its bucket.

    Both sides are scored by the same middles, so where the durations are alike the scores are alike, however
    wide the buckets; wide buckets cost power, never false alarms.
    """
    scores = _scores(durations.edges_s)
    count = sum(durations.counts)
    if count == 0:
        return Moments(0, 0.0, 0.0)
    mean = sum(map(float.__mul__, scores, map(float, durations.counts))) / count
    spread = sum(
        held * (score - mean) ** 2 for score, held in zip(scores, durations.counts, strict=True) if held
    )
    return Moments(count, mean, spread / max(1, count - 1))


@lru_cache(maxsize=64)
def _scores(edges_s: tuple[float, ...]) -> tuple[float, ...]:
    """The logarithm of every bucket's middle."""
    if not edges_s:
        return (0.0,)
    lows = (edges_s[0] / _OUTSIDE, *edges_s)
    highs = (*edges_s, edges_s[-1] * _OUTSIDE)
    return tuple(0.5 * (log(low) + log(high)) for low, high in zip(lows, highs, strict=True))


def plain_moments(durations: Histogram) -> Moments:
    """Moments of the durations themselves; without squares the variance is the largest that they can have."""
    count = sum(durations.counts)
    if count == 0:
        return Moments(0, 0.0, 0.0)
    squares = durations.sum_squares_s2
    if squares is None:
        squares = largest_squares(durations)
    mean = durations.sum_s / count
    return Moments(count, mean, max(0.0, squares - count * mean * mean) / max(1, count - 1))


def largest_squares(durations: Histogram) -> float:
    """The largest sum of squares that durations of these buckets and this sum can have.

    Squares grow fastest where values are largest: all lie at the bottom of their bucket, and what the sum
    has left over raises those of the highest buckets to the top.
    """
    lows = (0.0, *durations.edges_s)
    highs = (*durations.edges_s, inf)
    left = durations.sum_s - sum(low * held for low, held in zip(lows, durations.counts, strict=True))
    squares = sum(low * low * held for low, held in zip(lows, durations.counts, strict=True))
    for low, high, held in reversed(list(zip(lows, highs, durations.counts, strict=True))):
        if held == 0 or left <= 0:
            continue
        if high == inf:
            return squares - low * low + (low + left) ** 2
        raised = min(held, left / (high - low))
        squares += raised * (high * high - low * low)
        left -= raised * (high - low)
    return squares


def cautious(moments: Moments, alpha: float) -> Moments:
    """With a variance that allows for its being estimated from few: the first term by which Student's t
    has wider quantiles than the normal law (Cornish and Fisher). It matters below a few hundred.
    """
    if moments.count < 2:
        return moments
    square = max(0.0, -2 * log(2 * alpha))
    factor = 1 + (square + 1) / (2 * (moments.count - 1))
    return Moments(moments.count, moments.mean, moments.variance * factor)


class Difference(msgspec.Struct, frozen=True):
    """The candidate's mean less the baseline's, and what it is at least, at every look so far."""

    mean: float
    at_least: float


def difference(candidate: Moments, baseline: Moments, alpha: float) -> Difference:
    """The lower confidence sequence of Waudby-Smith and others: one-sided, asymptotic, for every look."""
    mean = candidate.mean - baseline.mean
    if candidate.count < 2 or baseline.count < 2:
        return Difference(mean, -inf)
    count = candidate.count + baseline.count
    variance = candidate.variance / candidate.count + baseline.variance / baseline.count
    return Difference(mean, mean - sqrt(variance * count) * _width(count, alpha))


def _width(count: int, alpha: float) -> float:
    # A one-sided sequence at alpha is tuned as the two-sided one at twice alpha.
    level = -2 * log(2 * alpha) if alpha < 0.5 else 0.0
    rho2 = (level + log(level + 1)) / TUNED_FOR_REQUESTS
    spread = count * rho2 + 1
    return sqrt(2 * spread / (count * count * rho2) * log(1 + sqrt(spread) / (2 * alpha)))


def aligned(one: Histogram, other: Histogram) -> tuple[Histogram, Histogram]:
    """Both over the edges that both have: releases may have been built with other buckets."""
    if one.edges_s == other.edges_s:
        return one, other
    shared = tuple(sorted(set(one.edges_s) & set(other.edges_s)))
    return over(one, shared), over(other, shared)


def over(durations: Histogram, edges_s: tuple[float, ...]) -> Histogram:
    """The same durations over some of their edges."""
    counts = [0] * (len(edges_s) + 1)
    for edge, held in zip((*durations.edges_s, inf), durations.counts, strict=True):
        counts[bisect_left(edges_s, edge)] += held
    return Histogram(edges_s, tuple(counts), durations.sum_s, durations.sum_squares_s2)


def added(one: Histogram, other: Histogram) -> Histogram:
    """Both together."""
    one, other = aligned(one, other)
    squares = (one.sum_squares_s2, other.sum_squares_s2)
    both = None if None in squares else (squares[0] or 0.0) + (squares[1] or 0.0)
    counts = tuple(map(int.__add__, one.counts, other.counts))
    return Histogram(one.edges_s, counts, one.sum_s + other.sum_s, both)


def subtracted(now: Histogram, before: Histogram) -> Histogram | None:
    """What came since; None where a count went backwards or the edges are others: it was started anew."""
    if now.edges_s != before.edges_s:
        return None
    counts = tuple(map(int.__sub__, now.counts, before.counts))
    if any(held < 0 for held in counts):
        return None
    squares = (now.sum_squares_s2, before.sum_squares_s2)
    left = None if None in squares else max(0.0, (squares[0] or 0.0) - (squares[1] or 0.0))
    return Histogram(now.edges_s, counts, max(0.0, now.sum_s - before.sum_s), left)


def quantile_edge(durations: Histogram, quantile: float) -> float | None:
    """The lowest edge with at least this share at or below it; None where none has, or nothing is there."""
    count = sum(durations.counts)
    for edge, below in zip(durations.edges_s, accumulate(durations.counts), strict=False):
        if count and below >= quantile * count:
            return edge
    return None


def slower_than(durations: Histogram, edge_s: float) -> int:
    """How many lie above an edge."""
    return sum(durations.counts[bisect_left(durations.edges_s, edge_s) + 1 :])


def quantile_s(durations: Histogram, quantile: float) -> float | None:
    """The quantile, interpolated within its bucket as Prometheus does; the last edge where it lies above."""
    count = sum(durations.counts)
    if count == 0:
        return None
    rank, below, low = quantile * count, 0, 0.0
    for edge, held in zip(durations.edges_s, durations.counts, strict=False):
        if held and below + held >= rank:
            return low + (edge - low) * max(0.0, rank - below) / held
        below, low = below + held, edge
    return durations.edges_s[-1] if durations.edges_s else None


def percent(log_ratio: float) -> float:
    """A difference of logarithms as per cent."""
    return 100 * (exp(min(log_ratio, 700.0)) - 1)
