"""The count tests against scipy, against exact enumeration of what can happen, and against the reference."""

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from finflow.rollout.counts import Events, Evidence, OddsTest, beta_mixture, log_beta, log_tails

# How long an example takes says nothing on a busy machine.
_unhurried = settings(deadline=None)
_ODDS = ((1.5, 0.1), (4.0, 0.3), (20.0, 0.6))
_ALPHA = 0.05


@_unhurried
@given(st.floats(1e-3, 1e5), st.floats(1e-3, 1e5))
def test_log_beta_is_scipys(a: float, b: float) -> None:
    assert log_beta(a, b) == pytest.approx(special.betaln(a, b), rel=1e-9, abs=1e-6)


@_unhurried
@given(st.floats(0.05, 5e4), st.floats(0.05, 5e4), st.floats(1e-6, 1 - 1e-6))
def test_both_tails_are_scipys(a: float, b: float, x: float) -> None:
    below, above = log_tails(a, b, x)
    assert math.exp(below) == pytest.approx(special.betainc(a, b, x), rel=1e-6, abs=1e-12)
    assert math.exp(above) == pytest.approx(special.betaincc(a, b, x), rel=1e-6, abs=1e-12)


def test_a_tail_too_small_for_a_double_still_has_its_logarithm() -> None:
    # The binomial tail P(X >= 3000) for n = 3000, p = 0.2 is p^n; I_p(n, 1) is the same.
    assert log_tails(3000, 1, 0.2)[0] == pytest.approx(3000 * math.log(0.2), rel=1e-12)


def test_the_ends_have_everything_on_one_side() -> None:
    assert log_tails(2, 3, 0.0) == (-math.inf, 0.0)
    assert log_tails(2, 3, 1.0) == (0.0, -math.inf)


@pytest.mark.parametrize("one_sided", [True, False])
@pytest.mark.parametrize(
    ("candidate", "baseline", "share"), [(0, 0, 0.05), (4, 3, 0.05), (60, 9, 0.5), (1, 900, 0.25)]
)
def test_the_mixture_is_the_references_formula(
    candidate: int, baseline: int, share: float, one_sided: bool
) -> None:
    a, b = 100 * share, 100 * (1 - share)
    expected = special.betaln(a + candidate, b + baseline) - special.betaln(a, b)
    expected -= candidate * math.log(share) + baseline * math.log(1 - share)
    if one_sided:
        expected += math.log(special.betaincc(a + candidate, b + baseline, share))
        expected -= math.log(special.betaincc(a, b, share))
    assert beta_mixture(candidate, baseline, share, one_sided=one_sided) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("one_sided", [True, False])
@_unhurried
@given(st.integers(1, 60), st.floats(0.02, 0.98))
def test_the_mixture_is_fair_under_the_null(one_sided: bool, count: int, share: float) -> None:
    mean = sum(
        stats.binom.pmf(k, count, share) * math.exp(beta_mixture(k, count - k, share, one_sided=one_sided))
        for k in range(count + 1)
    )
    assert mean == pytest.approx(1.0, abs=1e-7)


def test_a_router_that_sends_seven_instead_of_five_per_cent_is_found_as_the_reference_measured() -> None:
    found = []
    for seed in range(60):
        dice = random.Random(seed)  # noqa: S311 - a simulation is made from its seed
        candidate = baseline = 0
        while beta_mixture(candidate, baseline, 0.05, one_sided=False) < math.log(100):
            for _ in range(20):
                hit = dice.random() < 0.07
                candidate, baseline = candidate + hit, baseline + (not hit)
        found.append(candidate + baseline)
    assert 1_500 < statistics.median(found) < 3_000  # the reference: 2,160


def _test() -> OddsTest:
    return OddsTest.at(_ALPHA, _ODDS)


def _outcomes(bad: int, mine: int, others: int) -> list[tuple[Events, float]]:
    """Every way in which the bad events of a look can fall, with its probability by scipy."""
    law = stats.hypergeom(mine + others, mine, bad)
    return [(Events(k, bad - k, mine, others), float(law.pmf(k))) for k in range(bad + 1) if law.pmf(k) > 0]


@_unhurried
@given(st.integers(1, 12), st.integers(1, 60), st.integers(12, 300))
def test_one_look_is_fair_when_any_request_may_be_the_bad_one(bad: int, mine: int, others: int) -> None:
    test = _test()
    mean = sum(
        chance * math.exp(test.after(test.begin(), events).log_wealth)
        for events, chance in _outcomes(bad, mine, others)
    )
    assert mean == pytest.approx(1.0, abs=1e-6)


@_unhurried
@given(st.integers(1, 12), st.floats(0.01, 0.9), st.floats(0.001, 1.0))
def test_one_look_is_never_better_than_fair_below_the_share(bad: int, share: float, part: float) -> None:
    test = _test()
    mean = sum(
        stats.binom.pmf(k, bad, share * part)
        * math.exp(test.after(test.begin(), Events(k, bad - k, share, 1 - share), "drawn").log_wealth)
        for k in range(bad + 1)
    )
    assert mean <= 1.0 + 1e-6


@_unhurried
@given(st.integers(1, 12), st.integers(1, 60), st.integers(12, 300), st.floats(1.0, 3.0))
def test_one_look_is_never_better_than_fair_within_a_tolerated_ratio(
    bad: int, mine: int, others: int, ratio: float
) -> None:
    test, law = _test(), stats.nchypergeom_fisher(mine + others, mine, bad, ratio)
    mean = sum(
        float(law.pmf(k))
        * math.exp(test.after(test.begin(), Events(k, bad - k, mine * ratio, others), "bounded").log_wealth)
        for k in range(max(0, bad - others), min(bad, mine) + 1)
    )
    assert mean <= 1.0 + 1e-6


@pytest.mark.parametrize("looks", [[(1, 10, 190)] * 9, [(2, 10, 90), (1, 50, 50), (3, 20, 20), (2, 5, 95)]])
def test_the_goal_is_reached_with_at_most_the_probability_alpha_whatever_the_share_does(
    looks: list[tuple[int, int, int]],
) -> None:
    """Every path is walked; a path that has reached the goal stays there."""
    test = _test()
    paths: list[tuple[Evidence, float]] = [(test.begin(), 1.0)]
    reached = 0.0
    for bad, mine, others in looks:
        following = []
        for (evidence, before), (events, chance) in itertools.product(paths, _outcomes(bad, mine, others)):
            after = test.after(evidence, events)
            if test.won(after):
                reached += before * chance
            else:
                following.append((after, before * chance))
        paths = following
    assert 0 < reached <= _ALPHA
    mean = reached / _ALPHA + sum(chance * math.exp(each.log_wealth) for each, chance in paths)
    assert mean == pytest.approx(1.0, abs=1e-6)


@_unhurried
@given(st.integers(1, 10), st.integers(1, 40), st.integers(60, 400), st.integers(0, 3))
def test_the_more_fall_on_the_candidate_the_stronger_the_evidence(
    bad: int, mine: int, others: int, earlier: int
) -> None:
    test = OddsTest.at(1e-6, _ODDS)
    evidence = test.begin()
    for _ in range(earlier):
        evidence = test.after(evidence, Events(1, 0, 10, 190))
    wealth = [
        test.after(evidence, Events(k, bad - k, mine, others)).log_wealth for k in range(min(bad, mine) + 1)
    ]
    assert wealth == sorted(wealth)


@pytest.mark.parametrize("events", [Events(0, 0, 10, 190), Events(3, 0, 10, 0), Events(0, 3, 0, 190)])
def test_looks_with_nothing_to_compare_change_nothing(events: Events) -> None:
    test = _test()
    assert test.after(test.begin(), events) == test.begin()


def test_very_many_events_stay_finite_and_are_found() -> None:
    test = _test()
    evidence = test.after(test.begin(), Events(9_000, 1_000, 10_000, 190_000))
    assert test.won(evidence)
    calm = test.after(test.begin(), Events(500, 9_500, 10_000, 190_000))
    assert math.isfinite(calm.log_wealth)
    assert not test.won(calm)


def test_the_wealth_never_passes_the_goal_in_small_looks() -> None:
    test = _test()
    evidence = test.begin()
    for _ in range(10):
        evidence = test.after(evidence, Events(1, 0, 10, 190))
    assert evidence.log_wealth == pytest.approx(-math.log(_ALPHA))
