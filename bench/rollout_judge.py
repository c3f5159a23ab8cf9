"""How soon the judge finds a bad candidate, how seldom it accuses a good one: the shipped gates, simulated.

`python -m bench.rollout_judge [--json] [--keep] [--short]`. 200 requests/s, a canary of 5 %, a look every
second, base errors 0.2 %, lognormal durations (sigma 0.5) in the buckets of the traffic source, alpha 0.01
over all default gates. Requests, errors and durations are drawn for each second; the looks go through Judge.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from math import erfc, exp, log, sqrt
from time import perf_counter
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.ground import quantile, report
from finflow.rollout.gates_spec import ErrorsGate, Gates
from finflow.rollout.judge import Judge, Look
from finflow.rollout.sources.traffic import EDGES_S
from finflow.rollout.verdicts import Histogram, Reading, Side, Verdict

SEED: Final = 20_261
RATE: Final = 200
CANARY_BP: Final = 500
BASE_ERRORS: Final = 0.002
MEDIAN_S: Final = 0.02
SIGMA: Final = 0.5
LOOKS: Final = 600
P99_SIGMAS: Final = 2.3263

Cells = NDArray[np.float64]


class Behaviour(msgspec.Struct, frozen=True):
    """How a release answers: its share of errors, and the probability of every bucket of durations."""

    errors: float
    cells: Cells


def below(duration_s: float, factor: float = 1.0, sigma: float = SIGMA) -> float:
    """The lognormal distribution function."""
    if duration_s <= 0:
        return 0.0
    return 0.5 * erfc(-(log(duration_s) - log(MEDIAN_S * factor)) / (sigma * sqrt(2)))


def cells(cumulative: Callable[[float], float]) -> Cells:
    """The probability of each bucket."""
    reached = [0.0, *(cumulative(edge) for edge in EDGES_S), 1.0]
    found: Cells = np.diff(np.array(reached))
    return found


def usual() -> Cells:
    return cells(below)


def slower_all(factor: float) -> Cells:
    """Every duration times the factor, the p99 with them."""
    return cells(lambda edge: below(edge, factor))


def slower_tail(factor: float, from_quantile: float) -> Cells:
    """Only the slowest requests take longer: what lies above a quantile is stretched away from it, so far
    that the p99 is times the factor. All below stays as it was.
    """
    start, p99 = (
        MEDIAN_S * exp(SIGMA * statistics.NormalDist().inv_cdf(each)) for each in (from_quantile, 0.99)
    )
    stretch = (factor * p99 - start) / (p99 - start)
    return cells(lambda edge: below(edge if edge <= start else start + (edge - start) / stretch))


def mostly_x100() -> Cells:
    """70 % of the durations times 100."""
    return cells(lambda edge: 0.3 * below(edge) + 0.7 * below(edge, 100.0))


class Simulation:
    """One rollout at a fixed weight, drawn second by second; totals as a source gives them."""

    def __init__(self, dice: np.random.Generator, baseline: Behaviour, candidate: Behaviour) -> None:
        self._dice = dice
        self._sides = {Side.BASELINE: baseline, Side.CANDIDATE: candidate}
        self._requests = dict.fromkeys(Side, 0)
        self._errors = dict.fromkeys(Side, 0)
        self._held = {side: np.zeros(len(EDGES_S) + 1, dtype=np.int64) for side in Side}

    def looks(self, count: int, rate: int = RATE, weight_bp: int = CANARY_BP) -> Iterator[Look]:
        """The first look is the beginning; then one a second."""
        yield self._look(0, weight_bp)
        for second in range(1, count + 1):
            arrived = int(self._dice.poisson(rate))
            candidate = int(self._dice.binomial(arrived, weight_bp / 10_000))
            self._serve(Side.CANDIDATE, candidate)
            self._serve(Side.BASELINE, arrived - candidate)
            yield self._look(second, weight_bp)

    def _serve(self, side: Side, requests: int) -> None:
        behaviour = self._sides[side]
        self._requests[side] += requests
        self._errors[side] += int(self._dice.binomial(requests, behaviour.errors))
        self._held[side] += self._dice.multinomial(requests, behaviour.cells)

    def _look(self, second: int, weight_bp: int) -> Look:
        readings = {side: self._reading(side) for side in Side}
        return Look(float(second), weight_bp, readings, dict(self._requests))

    def _reading(self, side: Side) -> Reading:
        held = tuple(self._held[side].tolist())
        total = sum(edge * count for edge, count in zip((*EDGES_S, EDGES_S[-1]), held, strict=True))
        return Reading(self._requests[side], self._errors[side], Histogram(EDGES_S, held, total))


class Found(msgspec.Struct, frozen=True):
    """When a rollout was aborted, by which gates, after how many failed requests of the candidate."""

    at_s: float
    gates: tuple[str, ...]
    failed_requests: int


def run(
    dice: np.random.Generator, candidate: Behaviour, *, looks: int = LOOKS, rate: int = RATE,
    base_errors: float = BASE_ERRORS, spec: Gates | None = None,
) -> Found | None:  # fmt: skip
    """One rollout judged to its end or its abort."""
    judge = Judge(spec or Gates())
    simulation = Simulation(dice, Behaviour(base_errors, usual()), candidate)
    for look in simulation.looks(looks, rate):
        failed = tuple(each.gate for each in judge.look(look) if each.verdict is Verdict.FAIL)
        if failed:
            return Found(look.at_s, failed, look.readings[Side.CANDIDATE].errors)
    return None


def repeated(rollouts: int, seed: int, candidate: Behaviour, **how: Any) -> list[Found | None]:
    """Independent rollouts; each has dice of its own, so that one more changes none of the others."""
    return [run(np.random.default_rng([seed, number]), candidate, **how) for number in range(rollouts)]


def false_aborts(rollouts: int) -> dict[str, Any]:
    """A/A: both sides alike, for 600 looks."""
    found = repeated(rollouts, SEED, Behaviour(BASE_ERRORS, usual()))
    aborted = [each for each in found if each is not None]
    return {
        "false_abort_rate": round(len(aborted) / rollouts, 5),
        "false_abort_rollouts": rollouts,
        "false_abort_gates": sorted({gate for each in aborted for gate in each.gates}),
    }


def error_detection(rollouts: int) -> dict[str, Any]:
    """+3 percentage points of errors."""
    found = repeated(rollouts, SEED + 1, Behaviour(BASE_ERRORS + 0.03, usual()))
    return {
        "median_detect_s": median_s(found),
        "p90_detect_s": p90_s(found),
        "median_failed_requests": statistics.median(each.failed_requests for each in found if each),
    }


def latency_detection(rollouts: int) -> dict[str, Any]:
    """p99 +10 %: with every duration, with the slower half stretched, with the slowest 5 % stretched."""
    shapes = {"": slower_all(1.1), "half_": slower_tail(1.1, 0.5), "tail_": slower_tail(1.1, 0.95)}
    figures: dict[str, Any] = {}
    for number, (name, shape) in enumerate(shapes.items()):
        found = repeated(rollouts, SEED + 20 + number, Behaviour(BASE_ERRORS, shape), looks=3 * LOOKS)
        figures[f"latency_{name}detect_s"] = median_s(found)
        figures[f"latency_{name}best_possible_s"] = best_possible_s(shape)
    double = repeated(rollouts, SEED + 4, Behaviour(BASE_ERRORS, slower_tail(2.0, 0.95)))
    return figures | {
        "latency_tail_doubled_detect_s": median_s(double),
    }


def best_possible_s(shifted: Cells, alpha: float = 0.01) -> float:
    """Seconds that the best test needs on average that knows both distributions beforehand (Wald)."""
    base = usual()
    some = (shifted > 0) & (base > 0)
    nats = float(np.sum(shifted[some] * np.log(shifted[some] / base[some])))
    return round(-log(alpha) / nats / (RATE * CANARY_BP / 10_000), 1)


def published_cases(rollouts: int) -> dict[str, Any]:
    """Two cases that other judges let pass: the share of the rollouts in which ours fail them."""
    x100 = repeated(rollouts, SEED + 5, Behaviour(BASE_ERRORS, mostly_x100()))
    sparse = repeated(rollouts, SEED + 6, Behaviour(0.0005, usual()), looks=LOOKS * 3, base_errors=0.0)
    return {
        "x100_failed": sum(each is not None for each in x100) / rollouts,
        "x100_detect_s": median_s(x100),
        "sparse_errors_failed": sum(each is not None for each in sparse) / rollouts,
        "sparse_errors_requests": median_s(sparse) * RATE,
    }


def median_s(found: list[Found | None]) -> float:
    """The median of when it was found; never counts as later than everything."""
    return statistics.median(each.at_s if each else float("inf") for each in found)


def p90_s(found: list[Found | None]) -> float:
    return quantile([each.at_s if each else float("inf") for each in found], 0.9)


def look_cost(looks: int) -> dict[str, float]:
    """Milliseconds of one look with every default gate and one that counts customers."""
    spec = Gates(rules=(*Gates().rules, ErrorsGate(name="each")))
    judge = Judge(spec)
    made = list(Simulation(np.random.default_rng(SEED), *[Behaviour(0.01, usual())] * 2).looks(looks))
    times = []
    for look in made:
        since = perf_counter()
        judge.look(look)
        times.append(1000 * (perf_counter() - since))
    return {
        "look_ms_median": round(statistics.median(times), 3),
        "look_ms_p99": round(quantile(times, 0.99), 3),
    }


def figures(*, short: bool) -> dict[str, Any]:
    """Everything; `short` for a first impression."""
    return {
        **false_aborts(10 if short else 1_000),
        **error_detection(20 if short else 2_000),
        **latency_detection(3 if short else 200),
        **published_cases(2 if short else 50),
        **look_cost(200 if short else 600),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    found = figures(short=options.short)
    report("rollout_judge", found, seed=SEED, as_json=options.as_json, keep=options.keep)


if __name__ == "__main__":
    main()
