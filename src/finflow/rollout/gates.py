"""What the gates say of errors, customers, counts, the split, and of fixed limits. Pure."""

from collections.abc import Callable, Mapping
from math import log, sqrt
from typing import Final

import msgspec

from finflow.rollout import counts, latency
from finflow.rollout.gates_spec import CountsGate, CustomersGate, ErrorsGate, FloorGate, ShareGate
from finflow.rollout.tallies import NOTHING
from finflow.rollout.verdicts import FULL_WEIGHT_BP, Judgement, Reading, Side, Verdict
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
    strength,
    word,
)

# Odds ratios that are bet on, with the part of the stake. Most lies on gross faults, which must be found
# after three failed requests; a small stake costs little once there is much to see.
ERROR_ODDS: Final = ((1.5, 0.08), (2.5, 0.08), (5.0, 0.09), (20.0, 0.75))
# With fewer customers on the candidate their first errors say next to nothing; all errors are counted.
_ENOUGH_CUSTOMERS: Final = 50
# The luck of a sticky split in standard deviations, for customers of unequal activity.
_LUCK: Final = 4.0
_UNKNOWN_LUCK: Final = 0.25
_NEARLY_SILENT: Final = 0.1


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
        return kept, word(level, Verdict.ERROR, {}, "The source does not know customers.")
    met = {side: reading.customers_failed or 0 for side, reading in view.new.items()}
    # Customers fall on the candidate by a hash, whatever they do, so the share is the declared one.
    events = counts.Events(
        met.get(Side.CANDIDATE, 0), met.get(Side.BASELINE, 0), view.share, 1.0 - view.share
    )
    return _judge_events("customers with a first error", ratio, level, kept, view, events, "drawn")


def judge_counts(rule: CountsGate, level: Level, kept: Kept, view: View) -> Outcome:
    """Events of the spec's own name."""
    name = rule.counted
    if not all(name in reading.counts for reading in view.new.values()):
        return kept, word(level, Verdict.ERROR, {}, f"The source does not count {name}.")
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
    numbers = {**sizes(view), **strength(evidence, test)}
    kept = keep(kept, events=evidence)
    if test.won(evidence):
        return failed(kept, level, numbers, f"{_compared(what, numbers)}: more than the baseline explains.")
    return kept, passed(level, view, numbers, f"{_compared(what, numbers)}: no more than by chance.")


def _compared(what: str, numbers: Mapping[str, float | int | str]) -> str:
    return (
        f"By {what}: the candidate failed {numbers['candidate_errors']:,} "
        f"of {numbers['candidate_requests']:,} requests in this step, "
        f"the baseline {numbers['baseline_errors']:,} of {numbers['baseline_requests']:,}"
    )


# --- the split


def judge_share(rule: ShareGate, level: Level, kept: Kept, view: View) -> Outcome:
    """Requests by side against the declared weight, above and below what the luck of the split explains."""
    candidate, baseline = view.sent()
    numbers: Numbers = {"candidate_requests": candidate, "baseline_requests": baseline}
    numbers["declared_share"] = view.weight_bp / FULL_WEIGHT_BP
    if view.weight_bp in (0, FULL_WEIGHT_BP):
        return kept, _one_sided_share(level, view, numbers)
    low, high = _bounds(rule, view)
    above = counts.beta_mixture(candidate, baseline, high)
    below = counts.beta_mixture(baseline, candidate, 1 - low)
    observed = candidate / max(1, candidate + baseline)
    numbers |= {"observed_share": round(observed, 4), "evidence": power(max(above, below))}
    if max(above, below) >= log(2 / (level.alpha * step_part(view.step_number))):
        words = f"The candidate gets {100 * observed:.2f} % of the requests, not {view.weight_bp / 100:g} %."
        return failed(kept, level, numbers, words)
    return kept, passed(level, view, numbers, f"The candidate gets {100 * observed:.2f} % of the requests.")


def _one_sided_share(level: Level, view: View, numbers: Numbers) -> Judgement:
    """At weight 0 nobody may be on the candidate but testers; at full weight there is nothing to compare."""
    if view.weight_bp == 0:
        return word(level, Verdict.INCONCLUSIVE, numbers, "The candidate gets no traffic yet.")
    return passed(level, view, numbers, "All traffic is meant for the candidate.")


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
    numbers = sizes(view)
    broken = []
    if candidate.requests < level.least:
        return kept, passed(level, view, numbers, "Too few requests.")
    ratio = candidate.errors / candidate.requests
    if rule.max_error_ratio is not None and ratio > rule.max_error_ratio:
        broken.append(f"{100 * ratio:.2f} % of requests fail; the limit is {100 * rule.max_error_ratio:g} %")
    if rule.max_latency_ms_p99 is not None:
        found = None if candidate.latency is None else latency.quantile_s(candidate.latency, 0.99)
        if found is None:
            return kept, no_durations(level, view)
        numbers["latency_ms_p99"] = round(1000 * found, 3)
        if 1000 * found > rule.max_latency_ms_p99:
            broken.append(f"p99 is {1000 * found:.1f} ms; the limit is {rule.max_latency_ms_p99:g} ms")
    if broken:
        return failed(kept, level, numbers, f"{'; '.join(broken)}.")
    return kept, passed(level, view, numbers, "Within the limits.", alone=True)
