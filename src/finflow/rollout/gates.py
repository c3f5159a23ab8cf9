"""What each gate says about a look. A gate keeps its evidence between looks and has no clock. Pure."""

from collections.abc import Callable, Mapping
from math import exp, log, sqrt
from typing import Final

import msgspec

from finflow.rollout import counts, latency
from finflow.rollout.gates_spec import (
    CountsGate,
    CustomersGate,
    ErrorsGate,
    FloorGate,
    LatencyGate,
    ShareGate,
    SlowGate,
)
from finflow.rollout.tallies import NOTHING
from finflow.rollout.verdicts import FULL_WEIGHT_BP, Histogram, Judgement, Reading, Side, Verdict

# Odds ratios that are bet on, with the part of the stake. Most lies on gross faults, which must be found
# after three failed requests; a small stake costs little once there is much to see.
ERROR_ODDS: Final = ((1.5, 0.08), (2.5, 0.08), (5.0, 0.09), (20.0, 0.75))
SLOW_ODDS: Final = ((1.3, 0.25), (2.0, 0.25), (4.0, 0.25), (12.0, 0.25))
# With fewer customers on the candidate their first errors say next to nothing; all errors are counted.
_ENOUGH_CUSTOMERS: Final = 50
# Requests of the baseline from which its quantiles are read before the next look is judged by them.
_KNOWN_BASELINE: Final = 200
# Durations of either side from which the normal approximation is used.
_LEAST_DURATIONS: Final = 20
# The luck of a sticky split in standard deviations, for customers of unequal activity.
_LUCK: Final = 4.0
_UNKNOWN_LUCK: Final = 0.25
_NEARLY_SILENT: Final = 0.1
_MOST_LOG: Final = 700.0

Numbers = dict[str, float | int | str]


class Kept(msgspec.Struct, frozen=True):
    """What a gate keeps between looks: evidence by what it is about, and its words when it failed."""

    evidence: dict[str, counts.Evidence] = {}
    failed: str | None = None


class View(msgspec.Struct, frozen=True):
    """What a gate sees of one look: new since the last look, since the step began, and both sides' start.

    `before` is `whole` as it was at the last look, and `whole` is everything since the rollout began.
    `routed` are the requests of this step by the router's own count. `weight_bp` is the weight declared;
    `share` the largest share that customers of this look may have fallen on the candidate with. Steps
    count from 1.
    """

    weight_bp: int
    share: float
    step_number: int
    new: Mapping[Side, Reading]
    step: Mapping[Side, Reading]
    before: Mapping[Side, Reading]
    whole: Mapping[Side, Reading]
    routed: Mapping[Side, int] | None = None

    def candidate(self) -> Reading:
        """The candidate's requests of this step."""
        return self.step.get(Side.CANDIDATE, NOTHING)

    def baseline(self) -> Reading:
        """The baseline's requests of this step."""
        return self.step.get(Side.BASELINE, NOTHING)

    def sent(self) -> tuple[int, int]:
        """Requests of this step to the candidate and to the baseline: the router's word where it is known."""
        if self.routed is not None:
            return self.routed.get(Side.CANDIDATE, 0), self.routed.get(Side.BASELINE, 0)
        return self.candidate().requests, self.baseline().requests


class Level(msgspec.Struct, frozen=True):
    """A gate's name, what it may use up of alpha, and how many requests it wants before it passes."""

    gate: str
    alpha: float
    least: int


Outcome = tuple[Kept, Judgement]


# --- bad events on either side


def judge_errors(rule: ErrorsGate, level: Level, kept: Kept, view: View) -> Outcome:
    """Failed requests, or first errors of customers where there are enough of these on the candidate."""
    if _counts_customers(rule, view):
        return _judge_customers(rule.max_odds_ratio, level, kept, view)
    events = _events(view, lambda reading: reading.errors)
    return _judge_events("failed requests", rule.max_odds_ratio, level, kept, view, events)


def _counts_customers(rule: ErrorsGate, view: View) -> bool:
    """Decided on what was known before this look, as every bet must be."""
    if rule.per_customer is not None:
        return rule.per_customer
    seen = view.before.get(Side.CANDIDATE, NOTHING).customers
    known = all(reading.customers_failed is not None for reading in view.new.values())
    return known and seen is not None and seen >= _ENOUGH_CUSTOMERS


def judge_customers(rule: CustomersGate, level: Level, kept: Kept, view: View) -> Outcome:
    """First errors of customers alone."""
    return _judge_customers(rule.max_odds_ratio, level, kept, view)


def _judge_customers(ratio: float, level: Level, kept: Kept, view: View) -> Outcome:
    if any(reading.customers_failed is None for reading in view.new.values()):
        return kept, _word(level, Verdict.ERROR, {}, "The source does not know customers.")
    failed = {side: reading.customers_failed or 0 for side, reading in view.new.items()}
    # Customers fall on the candidate by a hash, whatever they do, so the share is the declared one.
    events = counts.Events(
        failed.get(Side.CANDIDATE, 0), failed.get(Side.BASELINE, 0), view.share, 1.0 - view.share
    )
    return _judge_events("customers with a first error", ratio, level, kept, view, events, "drawn")


def judge_counts(rule: CountsGate, level: Level, kept: Kept, view: View) -> Outcome:
    """Events of the spec's own name."""
    name = rule.counted
    if not all(name in reading.counts for reading in view.new.values()):
        return kept, _word(level, Verdict.ERROR, {}, f"The source does not count {name}.")
    events = _events(view, lambda reading: reading.counts[name])
    return _judge_events(name, rule.max_odds_ratio, level, kept, view, events, "drawn")


def _events(view: View, count: Callable[[Reading], int]) -> counts.Events:
    candidate, baseline = (view.new.get(side, NOTHING) for side in (Side.CANDIDATE, Side.BASELINE))
    return counts.Events(
        count(candidate) if Side.CANDIDATE in view.new else 0,
        count(baseline) if Side.BASELINE in view.new else 0,
        candidate.requests,
        baseline.requests,
    )


def _judge_events(
    what: str, ratio: float, level: Level, kept: Kept, view: View, events: counts.Events,
    law: counts.Law = "counted",
) -> Outcome:  # fmt: skip
    """One bet on where events fall; a tolerated ratio makes more of the candidate's chances."""
    test = counts.OddsTest.at(level.alpha, ERROR_ODDS)
    if ratio > 1.0:
        events = msgspec.structs.replace(events, candidate_chances=events.candidate_chances * ratio)
    evidence = test.after(
        kept.evidence.get("events") or test.begin(), events, law if ratio == 1.0 else "bounded"
    )
    numbers = {**_sizes(view), **_strength(evidence, test)}
    kept = _keep(kept, events=evidence)
    if test.won(evidence):
        return _failed(kept, level, numbers, f"{_compared(what, numbers)}: more than the baseline explains.")
    return kept, _passed(kept, level, view, numbers, f"{_compared(what, numbers)}: no more than by chance.")


def _compared(what: str, numbers: Mapping[str, float | int | str]) -> str:
    return (
        f"By {what}: the candidate failed {numbers['candidate_errors']:,} "
        f"of {numbers['candidate_requests']:,} requests in this step, "
        f"the baseline {numbers['baseline_errors']:,} of {numbers['baseline_requests']:,}"
    )


# --- durations


def judge_latency(rule: LatencyGate, level: Level, kept: Kept, view: View) -> Outcome:
    """The difference of means in this step; steps are judged apart: their shares and hours differ."""
    both = _durations(view.step)
    if both is None:
        return kept, _no_durations(level, view)
    moments = latency.log_moments if rule.scale == "log" else latency.plain_moments
    candidate, baseline = (moments(side) for side in both)
    found = latency.difference(candidate, baseline, level.alpha * _step_part(view.step_number))
    numbers = _sizes(view)
    if rule.scale == "log":
        ratio, least = latency.percent(found.mean), latency.percent(found.at_least)
    else:
        base = baseline.mean or 1.0
        ratio, least = 100 * found.mean / base, 100 * found.at_least / base
    numbers |= {"slower_percent": round(ratio, 2), "at_least_percent": round(max(least, -100.0), 2)}
    enough = min(candidate.count, baseline.count) >= _LEAST_DURATIONS
    if enough and least > rule.tolerance_percent:
        words = f"The candidate takes {ratio:.1f} % longer, at least {least:.1f} %."
        return _failed(kept, level, numbers, words)
    return kept, _passed(
        kept,
        level,
        view,
        numbers,
        f"Durations differ by {ratio:+.1f} %: chance, or tolerated.",
    )


def _step_part(number: int) -> float:
    """How a gate that begins anew with each step divides its alpha: 0.7, 0.15, 0.075, ... come to 1."""
    return 0.7 if number <= 1 else 0.3 * 0.5 ** (number - 1)


def _durations(readings: Mapping[Side, Reading]) -> tuple[Histogram, Histogram] | None:
    candidate = readings.get(Side.CANDIDATE, NOTHING).latency
    baseline = readings.get(Side.BASELINE, NOTHING).latency
    return None if candidate is None or baseline is None else latency.aligned(candidate, baseline)


def _no_durations(level: Level, view: View) -> Judgement:
    verdict = Verdict.ERROR if view.candidate().requests >= level.least else Verdict.INCONCLUSIVE
    return _word(level, verdict, _sizes(view), "The source has no durations of both sides.")


def judge_slow(rule: SlowGate, level: Level, kept: Kept, view: View) -> Outcome:
    """Requests above edges at the baseline's quantiles, counted like errors."""
    new = _durations(view.new)
    if new is None:
        if _durations(view.step) is None:
            return kept, _no_durations(level, view)
        return kept, _passed(kept, level, view, _sizes(view), "No durations are new.")
    numbers = _sizes(view)
    test = counts.OddsTest.at(level.alpha / len(rule.quantiles), SLOW_ODDS)
    worst = 0.0
    for quantile in rule.quantiles:
        kept, edge_s = _bet_on_slow(rule, quantile, test, kept, view, new)
        evidence = kept.evidence.get(f"p{quantile:g}") or test.begin()
        worst = max(worst, evidence.log_wealth)
        numbers |= _slow_numbers(quantile, edge_s, evidence, view)
        if test.won(evidence):
            words = f"More requests than on the baseline are slower than its {100 * quantile:g} % quantile."
            return _failed(kept, level, numbers, words)
    numbers |= {"evidence": _power(worst), "needed": round(exp(test.log_goal), 1)}
    return kept, _passed(kept, level, view, numbers, "As many requests are slow as on the baseline.")


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
        kept.evidence.get(name) or test.begin(),
        events,
        "counted" if rule.max_odds_ratio == 1.0 else "bounded",
    )
    return _keep(kept, **{name: evidence}), edge_s


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
    numbers: Numbers = {f"{name}_evidence": _power(evidence.log_wealth)}
    if edge_s is not None:
        numbers[f"{name}_edge_ms"] = round(1000 * edge_s, 3)
    for side in Side:
        durations = view.step.get(side, NOTHING).latency
        found = None if durations is None else latency.quantile_s(durations, quantile)
        if found is not None:
            numbers[f"{side}_latency_ms_{name}"] = round(1000 * found, 3)
    return numbers


# --- the split


def judge_share(rule: ShareGate, level: Level, kept: Kept, view: View) -> Outcome:
    """Requests by side against the declared weight, above and below what the luck of the split explains."""
    candidate, baseline = view.sent()
    numbers: Numbers = {"candidate_requests": candidate, "baseline_requests": baseline}
    numbers["declared_share"] = view.weight_bp / FULL_WEIGHT_BP
    if view.weight_bp in (0, FULL_WEIGHT_BP):
        return kept, _one_sided_share(level, kept, view, numbers)
    low, high = _bounds(rule, view)
    above = counts.beta_mixture(candidate, baseline, high)
    below = counts.beta_mixture(baseline, candidate, 1 - low)
    observed = candidate / max(1, candidate + baseline)
    numbers |= {"observed_share": round(observed, 4), "evidence": _power(max(above, below))}
    if max(above, below) >= log(2 / (level.alpha * _step_part(view.step_number))):
        words = f"The candidate gets {100 * observed:.2f} % of the requests, not {view.weight_bp / 100:g} %."
        return _failed(kept, level, numbers, words)
    return kept, _passed(
        kept, level, view, numbers, f"The candidate gets {100 * observed:.2f} % of the requests."
    )


def _one_sided_share(level: Level, kept: Kept, view: View, numbers: Numbers) -> Judgement:
    """At weight 0 nobody may be on the candidate but testers; at full weight there is nothing to compare."""
    if kept.failed is not None:
        return _word(level, Verdict.FAIL, numbers, kept.failed)
    if view.weight_bp == 0:
        return _word(level, Verdict.INCONCLUSIVE, numbers, "The candidate gets no traffic yet.")
    return _passed(kept, level, view, numbers, "All traffic is meant for the candidate.")


def _bounds(rule: ShareGate, view: View) -> tuple[float, float]:
    """Shares between which the candidate's may lie. Requests without a customer key go to the baseline, so
    below the declared share only near silence is wrong, unless the spec gives a tolerance.
    """
    declared = view.weight_bp / FULL_WEIGHT_BP
    if rule.tolerance_percent is not None:
        part = rule.tolerance_percent / 100
        return max(declared - part, 1e-6), min(declared + part, 1 - 1e-6)
    customers = sum(reading.customers or 0 for reading in view.whole.values())
    luck = _UNKNOWN_LUCK * min(declared, 1 - declared)
    if customers:
        luck = _LUCK * sqrt(declared * (1 - declared) / customers)
    return _NEARLY_SILENT * declared, min(declared + luck, 1 - 0.1 * (1 - declared))


# --- the candidate's own numbers


def judge_floor(rule: FloorGate, level: Level, kept: Kept, view: View) -> Outcome:
    """The error ratio and the p99 of this step against fixed limits, once there are requests enough."""
    candidate = view.candidate()
    numbers = _sizes(view)
    broken = []
    if candidate.requests < level.least:
        return kept, _passed(kept, level, view, numbers, "Too few requests.")
    ratio = candidate.errors / candidate.requests
    if rule.max_error_ratio is not None and ratio > rule.max_error_ratio:
        broken.append(f"{100 * ratio:.2f} % of requests fail; the limit is {100 * rule.max_error_ratio:g} %")
    if rule.max_latency_ms_p99 is not None:
        found = None if candidate.latency is None else latency.quantile_s(candidate.latency, 0.99)
        if found is None:
            return kept, _no_durations(level, view)
        numbers["latency_ms_p99"] = round(1000 * found, 3)
        if 1000 * found > rule.max_latency_ms_p99:
            broken.append(f"p99 is {1000 * found:.1f} ms; the limit is {rule.max_latency_ms_p99:g} ms")
    if broken:
        return _failed(kept, level, numbers, f"{'; '.join(broken)}.")
    return kept, _passed(kept, level, view, numbers, "Within the limits.", alone=True)


# --- words


def _passed(
    kept: Kept, level: Level, view: View, numbers: Numbers, words: str, *, alone: bool = False
) -> Judgement:
    """PASS, unless the gate failed before or there is too little to pass on."""
    if kept.failed is not None:
        return _word(level, Verdict.FAIL, numbers, kept.failed)
    full = view.weight_bp == FULL_WEIGHT_BP
    wanted = (Side.CANDIDATE,) if alone or full else (Side.CANDIDATE, Side.BASELINE)
    for side in wanted:
        found = view.step.get(side, NOTHING).requests
        if found < level.least:
            few = f"{found:,} requests on the {side} in this step; {level.least:,} are needed."
            return _word(level, Verdict.INCONCLUSIVE, numbers, few)
    if full and not alone:
        words = "There is no baseline to compare with at full weight; nothing was found before."
    return _word(level, Verdict.PASS, numbers, words)


def _failed(kept: Kept, level: Level, numbers: Numbers, words: str) -> Outcome:
    """FAIL, and FAIL from now on: what was found once is not taken back."""
    kept = msgspec.structs.replace(kept, failed=kept.failed or words)
    return kept, _word(level, Verdict.FAIL, numbers, kept.failed or words)


def _word(level: Level, verdict: Verdict, numbers: Numbers, words: str) -> Judgement:
    return Judgement(level.gate, verdict, numbers, words)


def _keep(kept: Kept, **evidence: counts.Evidence) -> Kept:
    return msgspec.structs.replace(kept, evidence=kept.evidence | evidence)


def _sizes(view: View) -> Numbers:
    candidate, baseline = view.candidate(), view.baseline()
    return {
        "candidate_requests": candidate.requests,
        "baseline_requests": baseline.requests,
        "candidate_errors": candidate.errors,
        "baseline_errors": baseline.errors,
    }


def _strength(evidence: counts.Evidence, test: counts.OddsTest) -> Numbers:
    return {"evidence": _power(evidence.log_wealth), "needed": round(exp(test.log_goal), 1)}


def _power(log_evidence: float) -> float:
    return float(f"{exp(min(log_evidence, _MOST_LOG)):.4g}")
