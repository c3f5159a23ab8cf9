"""Durations: the confidence sequence against the reference's formula, buckets against numpy and by hand."""

import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from finflow.rollout import latency
from finflow.rollout.latency import Moments
from finflow.rollout.verdicts import Histogram

# How long an example takes says nothing on a busy machine.
_unhurried = settings(deadline=None)
_EDGES = (0.01, 0.02, 0.05, 0.1, 0.5)


def _held(values: list[float], edges: tuple[float, ...] = _EDGES) -> Histogram:
    counts, _ = np.histogram(values, bins=[-1e-9, *(np.nextafter(edge, 9) for edge in edges), np.inf])
    return Histogram(edges, tuple(int(each) for each in counts), sum(values), sum(each**2 for each in values))


def _reference_width(n_a: int, n_b: int, s_a: float, s_b: float, alpha: float) -> float:
    """The two-sided half width as the reference writes it."""
    count = n_a + n_b
    r2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / 5000
    v = s_b**2 / n_b + s_a**2 / n_a
    root = math.sqrt(count * r2 + 1)
    return math.sqrt(v * count) * math.sqrt(2 * (count * r2 + 1) / (count**2 * r2) * math.log(root / alpha))


@pytest.mark.parametrize(("n_c", "n_b"), [(50, 950), (400, 7_600), (5_000, 95_000)])
def test_the_one_sided_sequence_at_alpha_is_close_to_the_references_two_sided_one_at_twice_alpha(
    n_c: int, n_b: int
) -> None:
    found = latency.difference(Moments(n_c, 1.2, 0.3**2), Moments(n_b, 1.0, 0.4**2), 0.005)
    width = found.mean - found.at_least
    assert found.mean == pytest.approx(0.2)
    # log(1 + x) instead of log(x) with x above 100: within a thousandth.
    assert width == pytest.approx(_reference_width(n_b, n_c, 0.4, 0.3, 0.01), rel=2e-3)


def test_the_sequence_narrows_with_requests_and_widens_with_certainty() -> None:
    def least(count: int, alpha: float) -> float:
        return latency.difference(Moments(count, 1.1, 1.0), Moments(count, 1.0, 1.0), alpha).at_least

    assert least(200, 0.01) < least(2_000, 0.01) < least(20_000, 0.01) < 0.1
    assert least(2_000, 0.001) < least(2_000, 0.01) < least(2_000, 0.1)


def test_fewer_than_two_say_nothing() -> None:
    assert latency.difference(Moments(1, 5.0, 0.0), Moments(100, 1.0, 1.0), 0.01).at_least == -math.inf


def test_alike_sides_are_told_apart_seldom_at_any_of_600_looks() -> None:
    """The reference: 0 of 150. Here looks are every 10 requests of the candidate, alpha is 0.05."""
    wrong = 0
    for seed in range(150):
        dice = np.random.default_rng(seed)
        sums = {side: np.zeros(3) for side in "cb"}
        for _ in range(120):
            for side, count in (("c", 10), ("b", 190)):
                logs = dice.normal(-4.0, 0.5, count)
                sums[side] += (count, logs.sum(), (logs**2).sum())
            c, b = (
                Moments(int(n), s / n, max(0.0, (q - s * s / n) / (n - 1)))
                for n, s, q in (sums["c"], sums["b"])
            )
            if c.count >= 20 and latency.difference(c, b, 0.05).at_least > 0:
                wrong += 1
                break
    assert wrong <= 7  # 5 % of 150


def test_log_moments_are_those_of_the_buckets_middles() -> None:
    durations = Histogram((0.01, 0.04), (1, 2, 1), 0.0)
    middles = [
        math.log(math.sqrt(0.005 * 0.01)), *[math.log(0.02)] * 2, math.log(math.sqrt(0.04 * 0.08)),
    ]  # fmt: skip
    found = latency.log_moments(durations)
    assert found.count == 4
    assert found.mean == pytest.approx(statistics.mean(middles))
    assert found.variance == pytest.approx(statistics.variance(middles))


def test_plain_moments_with_squares_are_those_of_the_values() -> None:
    values = [0.003, 0.015, 0.03, 0.3, 0.9]
    found = latency.plain_moments(_held(values))
    assert (found.count, found.mean) == (5, pytest.approx(statistics.mean(values)))
    assert found.variance == pytest.approx(statistics.variance(values))


def test_nothing_has_no_moments() -> None:
    empty = Histogram(_EDGES, (0,) * 6, 0.0)
    assert latency.log_moments(empty) == latency.plain_moments(empty) == Moments(0, 0.0, 0.0)


_values = st.lists(st.floats(0.0005, 0.49), min_size=1, max_size=12)


@_unhurried
@given(_values)
def test_the_largest_squares_are_the_linear_programs(values: list[float]) -> None:
    """Squares are convex, so the largest sum has all but one value at an end of its bucket. How many are at
    the top is a linear program: every bucket's values may move from bottom to top, in total by the sum.
    """
    durations = _held(values)
    lows, highs = np.array([0.0, *_EDGES[:-1]]), np.array(_EDGES)
    held = np.array(durations.counts[:-1])
    room = highs - lows
    left = durations.sum_s - float((lows * held).sum())
    best = optimize.linprog(
        -(highs**2 - lows**2),
        A_ub=[room],
        b_ub=[max(0.0, left)],
        bounds=list(zip([0] * 5, held, strict=True)),
    )
    bound = float((lows**2 * held).sum()) - best.fun
    found = latency.largest_squares(durations)
    assert found == pytest.approx(bound, rel=1e-6, abs=1e-9)
    assert found >= (durations.sum_squares_s2 or 0) - 1e-9


def test_one_value_above_all_edges_may_be_all_that_the_sum_has_left() -> None:
    durations = Histogram((1.0, 2.0), (0, 1, 2), 30.0)
    # 1 + 2 + 27: the bottoms, and one that takes the rest.
    assert latency.largest_squares(durations) == pytest.approx(1 + 4 + 27**2)


@_unhurried
@given(_values, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_edge_of_a_quantile_is_the_first_that_has_enough_below(
    values: list[float], quantile: float
) -> None:
    edge = latency.quantile_edge(_held(values), quantile)
    reached = [each for each in _EDGES if sum(value <= each for value in values) >= quantile * len(values)]
    assert edge == (reached[0] if reached else None)
    if edge is not None:
        assert latency.slower_than(_held(values), edge) == sum(value > edge for value in values)


def test_a_quantile_is_interpolated_within_its_bucket() -> None:
    durations = Histogram((0.1, 0.2), (50, 50, 0), 0.0)
    assert latency.quantile_s(durations, 0.75) == pytest.approx(0.15)
    assert latency.quantile_s(Histogram((0.1,), (0, 5), 0.0), 0.5) == 0.1
    assert latency.quantile_s(Histogram((0.1,), (0, 0), 0.0), 0.5) is None


def test_releases_with_other_buckets_are_compared_over_the_edges_that_both_have() -> None:
    one, other = latency.aligned(
        Histogram((0.01, 0.05, 0.1), (1, 2, 3, 4), 1.0), Histogram((0.01, 0.02, 0.1), (5, 6, 7, 8), 2.0)
    )
    assert one == Histogram((0.01, 0.1), (1, 5, 4), 1.0)
    assert other == Histogram((0.01, 0.1), (5, 13, 8), 2.0)


@_unhurried
@given(_values, _values)
def test_what_is_added_can_be_taken_away(first: list[float], second: list[float]) -> None:
    whole = latency.added(_held(first), _held(second))
    left = latency.subtracted(whole, _held(first))
    assert left is not None
    assert left.counts == _held(second).counts
    assert left.sum_s == pytest.approx(sum(second), abs=1e-9)


def test_a_histogram_that_went_backwards_or_has_other_edges_was_started_anew() -> None:
    before = Histogram((0.1,), (5, 5), 1.0)
    assert latency.subtracted(Histogram((0.1,), (4, 7), 1.0), before) is None
    assert latency.subtracted(Histogram((0.2,), (9, 9), 1.0), before) is None


def test_ten_per_cent_is_ten_per_cent_in_any_buckets() -> None:
    dice = random.Random(3)  # noqa: S311 - a simulation is made from its seed
    values = [dice.lognormvariate(-4, 0.5) for _ in range(20_000)]
    edges = tuple(0.001 * 2**step for step in range(10))
    slower, usual = (
        latency.log_moments(_held(each, edges)) for each in ([1.1 * each for each in values], values)
    )
    assert latency.percent(slower.mean - usual.mean) == pytest.approx(10.0, abs=1.0)


@pytest.mark.parametrize("count", [20, 50, 400])
def test_few_durations_get_about_as_much_caution_as_students_quantile_asks_for(count: int) -> None:
    alpha = 0.001
    careful = latency.cautious(Moments(count, 1.0, 4.0), alpha)
    wider = math.sqrt(careful.variance / 4.0)
    assert wider == pytest.approx(stats.t(count - 1).isf(alpha) / stats.norm.isf(alpha), rel=0.05)
