"""The gates of durations: typical ones by a confidence sequence, slow ones counted like errors. Pure."""

from collections.abc import Mapping
from math import exp
from typing import Final

from finflow.rollout import counts, latency
from finflow.rollout.gates_spec import LatencyGate, SlowGate
from finflow.rollout.tallies import NOTHING
from finflow.rollout.verdicts import Histogram, Reading, Side
from finflow.rollout.views import (
    Kept,
    Level,
    Numbers,
    Outcome,
    View,
    failed,
    keep,
    no_durations,
    passed,
    power,
    sizes,
    step_part,
)

# Odds ratios that are bet on, with the part of the stake: of tails that are somewhat, or much, fatter.
SLOW_ODDS: Final = ((1.3, 0.25), (2.0, 0.25), (4.0, 0.25), (12.0, 0.25))
# Requests of the baseline after which its quantiles say more than those of both sides of one look.
_KNOWN_BASELINE: Final = 5
# Durations of either side from which the normal approximation is used.
_LEAST_DURATIONS: Final = 20


def judge_latency(rule: LatencyGate, level: Level, kept: Kept, view: View) -> Outcome:
    """The difference of means in this step; steps are judged apart: their shares and hours differ."""
    both = _durations(view.step)
    if both is None:
        return kept, no_durations(level, view)
    moments = latency.log_moments if rule.scale == "log" else latency.plain_moments
    candidate, baseline = (moments(side) for side in both)
    alpha = level.alpha * step_part(view.step_number)
    found = latency.difference(latency.cautious(candidate, alpha), latency.cautious(baseline, alpha), alpha)
    numbers = sizes(view)
    if rule.scale == "log":
        ratio, least = latency.percent(found.mean), latency.percent(found.at_least)
    else:
        base = baseline.mean or 1.0
        ratio, least = 100 * found.mean / base, 100 * found.at_least / base
    numbers |= {"slower_percent": round(ratio, 2), "at_least_percent": round(max(least, -100.0), 2)}
    enough = min(candidate.count, baseline.count) >= _LEAST_DURATIONS
    if enough and least > rule.tolerance_percent:
        words = f"The candidate takes {ratio:.1f} % longer, at least {least:.1f} %."
        return failed(kept, level, numbers, words)
    return kept, passed(
        level,
        view,
        numbers,
        f"Durations differ by {ratio:+.1f} %: chance, or tolerated.",
    )


def _durations(readings: Mapping[Side, Reading]) -> tuple[Histogram, Histogram] | None:
    candidate = readings.get(Side.CANDIDATE, NOTHING).latency
    baseline = readings.get(Side.BASELINE, NOTHING).latency
    if candidate is None or baseline is None:
        return None
    both = latency.aligned(candidate, baseline)
    return both if both[0].edges_s else None


def judge_slow(rule: SlowGate, level: Level, kept: Kept, view: View) -> Outcome:
    """Requests above edges at the baseline's quantiles, counted like errors."""
    new = _durations(view.new)
    if new is None:
        if _durations(view.step) is None:
            return kept, no_durations(level, view)
        return kept, passed(level, view, sizes(view), "No durations are new.")
    numbers = sizes(view)
    test = counts.OddsTest.at(level.alpha / len(rule.quantiles), SLOW_ODDS)
    strongest, exceeded = 0.0, None
    for quantile in rule.quantiles:
        kept, edge_s = _bet_on_slow(rule, quantile, test, kept, view, new)
        evidence = kept.evidence.get(f"p{quantile:g}") or test.begin()
        strongest = max(strongest, evidence.log_wealth)
        numbers |= _slow_numbers(quantile, edge_s, evidence, view)
        exceeded = quantile if test.won(evidence) else exceeded
    numbers |= {"evidence": power(strongest), "needed": round(exp(test.log_goal), 1)}
    if exceeded is not None:
        words = f"More requests than on the baseline are slower than its {100 * exceeded:g} % quantile."
        return failed(kept, level, numbers, words)
    return kept, passed(level, view, numbers, "As many requests are slow as on the baseline.")


def _bet_on_slow(
    rule: SlowGate, quantile: float, test: counts.OddsTest, kept: Kept, view: View,
    new: tuple[Histogram, Histogram],
) -> tuple[Kept, float | None]:  # fmt: skip
    candidate, baseline = new
    edge_s = _edge(quantile, view, new)
    if edge_s is None or edge_s not in candidate.edges_s:
        return kept, None
    events = counts.Events(
        latency.slower_than(candidate, edge_s),
        latency.slower_than(baseline, edge_s),
        sum(candidate.counts) * rule.max_odds_ratio,
        sum(baseline.counts),
    )
    name = f"p{quantile:g}"
    evidence = test.after(
        kept.evidence.get(name) or test.begin(), events, "counted" if rule.max_odds_ratio == 1 else "bounded"
    )
    return keep(kept, **{name: evidence}), edge_s


def _edge(quantile: float, view: View, new: tuple[Histogram, Histogram]) -> float | None:
    """The edge to bet on. It may depend on what came before, or on both sides of this look taken together:
    if they are alike, neither says on which side the slow requests of this look have fallen.
    """
    before = view.before.get(Side.BASELINE, NOTHING).latency
    if before is not None and sum(before.counts) >= _KNOWN_BASELINE:
        return latency.quantile_edge(before, quantile)
    return latency.quantile_edge(latency.added(*new), quantile)


def _slow_numbers(quantile: float, edge_s: float | None, evidence: counts.Evidence, view: View) -> Numbers:
    name = f"p{100 * quantile:g}"
    numbers: Numbers = {f"{name}_evidence": power(evidence.log_wealth)}
    if edge_s is not None:
        numbers[f"{name}_edge_ms"] = round(1000 * edge_s, 3)
    for side in Side:
        durations = view.step.get(side, NOTHING).latency
        found = None if durations is None else latency.quantile_s(durations, quantile)
        if found is not None:
            numbers[f"{side}_latency_ms_{name}"] = round(1000 * found, 3)
    return numbers
