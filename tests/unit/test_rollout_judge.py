"""The judge over whole rollouts: what fails, what passes, what waits; restarts, lies, silence; its memory."""

import random
from collections.abc import Callable, Iterable, Iterator

import msgspec
import pytest

from finflow.rollout.gates_spec import (
    CountsGate,
    CustomersGate,
    ErrorsGate,
    FloorGate,
    Gates,
    LatencyGate,
    Metrics,
    PrometheusMetrics,
    Rule,
    ShareGate,
    SlowGate,
)
from finflow.rollout.judge import Judge, Look, State
from finflow.rollout.verdicts import Histogram, Judgement, Reading, Side, Verdict, worst

_EDGES = tuple(0.001 * 1.3**step for step in range(40))
_B, _C = Side.BASELINE, Side.CANDIDATE


class _Service:
    """Both sides of a service, request by request."""

    def __init__(self, seed: int, *, errors: float = 0.002, slower: float = 1.0) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - a simulation is made from its seed
        self.errors = {_B: 0.002, _C: errors}
        self.slower = {_B: 1.0, _C: slower}
        self.requests = dict.fromkeys(Side, 0)
        self.failed = dict.fromkeys(Side, 0)
        self.held = {side: [0] * (len(_EDGES) + 1) for side in Side}
        self.sums = dict.fromkeys(Side, 0.0)
        self.at_s = 0.0

    def second(self, weight_bp: int, rate: int = 200, share: float | None = None) -> Look:
        for _ in range(rate):
            part = weight_bp / 10_000 if share is None else share
            self._serve(_C if self.dice.random() < part else _B)
        self.at_s += 1
        return self.look(weight_bp)

    def _serve(self, side: Side) -> None:
        duration = self.dice.lognormvariate(-4, 0.5) * self.slower[side]
        self.requests[side] += 1
        self.failed[side] += self.dice.random() < self.errors[side]
        self.held[side][sum(edge < duration for edge in _EDGES)] += 1
        self.sums[side] += duration

    def look(self, weight_bp: int) -> Look:
        return Look(self.at_s, weight_bp, {side: self.reading(side) for side in Side}, dict(self.requests))

    def reading(self, side: Side) -> Reading:
        durations = Histogram(_EDGES, tuple(self.held[side]), self.sums[side])
        return Reading(self.requests[side], self.failed[side], durations)


def _run(judge: Judge, looks: Iterator[Look]) -> tuple[Judgement, ...]:
    found: tuple[Judgement, ...] = ()
    for look in looks:
        found = judge.look(look)
    return found


def _who_saw(looks: Iterable[Look]) -> Judge:
    judge = Judge(Gates())
    for look in looks:
        judge.look(look)
    return judge


def _looks(service: _Service, seconds: int, weight_bp: int = 500, **how: float) -> Iterator[Look]:
    yield service.look(weight_bp)
    for _ in range(seconds):
        yield service.second(weight_bp, **how)  # type: ignore[arg-type] - a share or a rate


def _words(judgements: tuple[Judgement, ...]) -> dict[str, Verdict]:
    return {each.gate: each.verdict for each in judgements}


def _seen(rule: Rule, *looks: Look, min_requests: int = 100, alpha: float = 0.01) -> Judgement:
    judge = Judge(Gates(alpha=alpha, min_requests=min_requests, rules=(rule,)))
    return _run(judge, iter(looks))[0]


def _pair(baseline: Reading, candidate: Reading, at_s: float = 1.0, weight_bp: int = 500) -> Look:
    return Look(at_s, weight_bp, {_B: baseline, _C: candidate})


_ZERO = _pair(Reading(0, 0), Reading(0, 0), 0.0)


# --- whole rollouts


def test_a_good_candidate_passes_every_gate_once_there_are_requests_enough() -> None:
    judge = Judge(Gates())
    looks = _looks(_Service(1), 15)
    assert worst(judge.look(next(looks))) is Verdict.INCONCLUSIVE
    assert worst(judge.look(next(looks))) is Verdict.INCONCLUSIVE
    assert set(_words(_run(judge, looks)).values()) == {Verdict.PASS}


@pytest.mark.parametrize(
    ("service", "share", "gate"),
    [
        (_Service(2, errors=0.05), None, "errors"),
        (_Service(3, slower=1.5), None, "latency"),
        (_Service(4), 0.15, "share"),
        (_Service(5), 0.0, "share"),
    ],
    ids=["errors", "slower", "router", "silent"],
)
def test_each_fault_is_found_by_its_gate(service: _Service, share: float | None, gate: str) -> None:
    judge = Judge(Gates())
    looks = _looks(service, 60, **({} if share is None else {"share": share}))
    for look in looks:
        verdicts = _words(judge.look(look))
        if Verdict.FAIL in verdicts.values():
            assert verdicts[gate] is Verdict.FAIL
            return
    pytest.fail("nothing was found")


def test_a_tail_alone_is_found_by_the_quantiles() -> None:
    service = _Service(6)
    usual = service._serve

    def serve(side: Side) -> None:
        service.slower[_C] = 20.0 if service.dice.random() < 0.05 else 1.0
        usual(side)

    service._serve = serve  # type: ignore[method-assign] - the candidate stalls now and then
    verdicts = _words(_run(Judge(Gates()), _looks(service, 60)))
    assert verdicts["slow"] is Verdict.FAIL


def test_good_candidates_are_seldom_accused_over_many_looks_and_steps() -> None:
    """Alpha is 0.1 here, so that a judge that does not keep it would show; 40 rollouts, 90 looks each."""
    accused = 0
    for seed in range(40):
        service, judge = _Service(100 + seed), Judge(Gates(alpha=0.1))
        verdicts = set()
        for weight_bp in (500, 2_500, 5_000):
            for look in _looks(service, 30, weight_bp, rate=50):
                verdicts |= {each.verdict for each in judge.look(look)}
        accused += Verdict.FAIL in verdicts
    assert accused <= 8  # binomial: more than 8 of 40 at 10 % has a probability below 2 %


def test_evidence_outlives_a_change_of_weight() -> None:
    """A fault that one step alone cannot show is found over several, and restarts do not hide it."""
    rule = ErrorsGate()
    looks = [_ZERO]
    baseline, candidate = 0, 0
    for number in range(1, 13):
        baseline, candidate = baseline + 190, candidate + 10
        errors = (number + 1) // 2
        look = _pair(Reading(baseline, 0), Reading(candidate, errors), float(number), 500 + number)
        looks.append(look)
    assert _seen(rule, *looks).verdict is Verdict.FAIL


def test_what_has_failed_once_stays_failed() -> None:
    bad = _pair(Reading(1_900, 0), Reading(100, 20))
    good = _pair(Reading(101_900, 200), Reading(5_100, 20), 2.0)
    assert _seen(ErrorsGate(), _ZERO, bad, good).verdict is Verdict.FAIL
    blind = Look(3.0, 500, error="the page is gone")
    assert _seen(ErrorsGate(), _ZERO, bad, blind).verdict is Verdict.FAIL


def test_errors_of_one_in_2_000_against_none_are_found_over_enough_traffic() -> None:
    looks = [_ZERO]
    looks += [_pair(Reading(38_000 * n, 0), Reading(2_000 * n, n), float(n)) for n in range(1, 9)]
    assert _seen(ErrorsGate(), *looks[:2]).verdict is Verdict.PASS
    assert _seen(ErrorsGate(), *looks).verdict is Verdict.FAIL


# --- no data, little data, wrong data


@pytest.mark.parametrize(
    "rule",
    [ErrorsGate(), CustomersGate(), LatencyGate(), SlowGate(), ShareGate(), FloorGate(max_error_ratio=0.1)],
    ids=lambda rule: rule.__struct_config__.tag,
)
def test_no_data_never_passes(rule: Rule) -> None:
    nothing = Look(1.0, 500)
    silent = _pair(Reading(5_000, 10), Reading(0, 0))
    one_sided = Look(1.0, 500, {_B: Reading(5_000, 10)})
    for looks in ([nothing], [_ZERO], [_ZERO, _ZERO], [_ZERO, silent], [_ZERO, one_sided], [_ZERO, nothing]):
        assert _seen(rule, *looks).verdict is not Verdict.PASS


def test_a_source_that_failed_is_an_error_and_changes_nothing() -> None:
    judge = Judge(Gates())
    _run(judge, _looks(_Service(1), 5))
    before = judge.state
    found = judge.look(Look(99.0, 500, error="no answer"))
    assert set(_words(found).values()) == {Verdict.ERROR}
    assert judge.state == before


@pytest.mark.parametrize(
    "reading",
    [
        Reading(5, 6),
        Reading(-1, 0),
        Reading(5, 0, Histogram((0.1,), (1, 2, 3), 1.0)),
        Reading(5, 0, Histogram((0.2, 0.1), (1, 2, 3), 1.0)),
        Reading(5, 0, Histogram((0.1,), (1, -2), 1.0)),
        Reading(5, 0, Histogram((0.1,), (1, 2), float("nan"))),
    ],
)
def test_numbers_that_cannot_be_true_are_an_error(reading: Reading) -> None:
    assert _seen(ErrorsGate(), _ZERO, _pair(Reading(100, 0), reading)).verdict is Verdict.ERROR


def test_a_counter_that_went_backwards_was_started_anew() -> None:
    """1,000 requests, a restart, then 500 more after the look that showed it: none is counted twice."""
    sizes = [(19_000, 1_000, 1), (26_600, 400, 0), (36_100, 900, 1)]
    looks = [
        _pair(Reading(b, 5), Reading(c, errors), float(at)) for at, (b, c, errors) in enumerate(sizes, 1)
    ]
    found = _seen(ErrorsGate(), _ZERO, *looks)
    assert (found.numbers["candidate_requests"], found.numbers["candidate_errors"]) == (1_500, 2)
    assert found.verdict is Verdict.PASS


def test_buckets_that_change_lose_their_look_and_nothing_else() -> None:
    def reading(requests: int, edges: tuple[float, ...]) -> Reading:
        return Reading(requests, 0, Histogram(edges, (requests, *[0] * len(edges)), 0.01 * requests))

    looks = [
        _pair(reading(19 * size, edges), reading(size, edges), float(size))
        for size, edges in ((0, (0.1,)), (500, (0.1,)), (600, (0.1, 0.2)), (1_000, (0.1, 0.2)))
    ]
    assert _seen(ErrorsGate(), *looks).numbers["candidate_requests"] == 1_000
    judge = _who_saw(looks)
    candidate = judge.state.step[_C].latency
    assert candidate is not None
    assert sum(candidate.counts) == 900


@pytest.mark.parametrize(
    ("counted", "routed", "verdict"),
    [(1_000, 900, None), (1_000, 100, Verdict.ERROR), (10, 900, Verdict.INCONCLUSIVE)],
)
def test_a_source_that_disagrees_with_the_router_is_not_believed(
    counted: int, routed: int, verdict: Verdict | None
) -> None:
    judge = Judge(Gates(rules=(ErrorsGate(min_requests=1),)))
    judge.look(Look(0.0, 500, _ZERO.readings, {_B: 0, _C: 0}))
    readings = {_B: Reading(17_100, 0), _C: Reading(counted, 0)}
    found = judge.look(Look(1.0, 500, readings, {_B: 17_100, _C: routed}))
    assert _words(found).get("source") is verdict
    assert worst(found) is (verdict or Verdict.PASS)


def test_durations_in_buckets_that_have_no_edge_in_common_are_no_data() -> None:
    def look(size: int) -> Look:
        sides = (Histogram((edge,), (size, 0), 0.01 * size) for edge in (0.1, 0.2))
        return _pair(*(Reading(size, 0, durations) for durations in sides), at_s=float(size))

    for rule in (LatencyGate(), SlowGate(), LatencyGate(scale="seconds")):
        assert _seen(rule, look(0), look(1_000)).verdict is Verdict.ERROR


def test_at_weight_0_nothing_passes_and_at_full_weight_the_candidate_alone_counts() -> None:
    idle = _pair(Reading(5_000, 0), Reading(0, 0), 1.0, 0)
    assert _seen(ErrorsGate(), Look(0.0, 0, _ZERO.readings), idle).verdict is Verdict.INCONCLUSIVE
    start = Look(0.0, 10_000, _ZERO.readings)
    full = [_pair(Reading(0, 0), Reading(requests, 0), 1.0, 10_000) for requests in (50, 500)]
    assert _seen(ErrorsGate(), start, full[0]).verdict is Verdict.INCONCLUSIVE
    assert _seen(ErrorsGate(), start, full[1]).verdict is Verdict.PASS


def test_requests_of_the_step_before_do_not_make_this_step_pass() -> None:
    judge = Judge(Gates())
    service = _Service(1)
    assert set(_words(_run(judge, _looks(service, 15, 500))).values()) == {Verdict.PASS}
    judge.look(service.look(2_500))
    assert worst(judge.look(service.second(2_500, rate=20))) is Verdict.INCONCLUSIVE


# --- single gates


def _customers(baseline: int, candidate: int, seen: int = 100) -> tuple[Look, Look]:
    start = {_B: Reading(0, 0, customers_failed=0, customers=0)}
    start[_C] = Reading(0, 0, customers_failed=0, customers=seen)
    after = {
        _B: Reading(9_500, 300, customers_failed=baseline, customers=1_900),
        _C: Reading(500, 60, customers_failed=candidate, customers=seen),
    }
    return Look(0.0, 500, start), Look(1.0, 500, after)


@pytest.mark.parametrize(
    "rule", [ErrorsGate(per_customer=True), CustomersGate()], ids=["errors", "customers"]
)
def test_one_customers_many_errors_count_once(rule: Rule) -> None:
    """60 errors of the candidate are one customer's; with a sticky split they had to fall on one side."""
    assert _seen(rule, *_customers(20, 1)).verdict is Verdict.PASS
    assert _seen(rule, *_customers(20, 12)).verdict is Verdict.FAIL
    assert _seen(ErrorsGate(per_customer=False), *_customers(20, 1)).verdict is Verdict.FAIL


def test_customers_are_counted_by_themselves_once_enough_are_on_the_candidate() -> None:
    few = _customers(20, 1, seen=10)
    start, after = _customers(20, 1)
    middle = Look(0.5, 500, start.readings)
    assert (
        _seen(ErrorsGate(), start, middle, after).verdict is Verdict.FAIL
    )  # not yet known at the look before
    known = [Look(0.1, 500, {side: _grown(reading, 100) for side, reading in start.readings.items()})]
    late = Look(1.0, 500, {side: _grown(reading, 100) for side, reading in after.readings.items()})
    assert _seen(ErrorsGate(), start, *known, late).verdict is Verdict.PASS
    assert _seen(ErrorsGate(), *few).verdict is Verdict.FAIL


def _grown(reading: Reading, more: int) -> Reading:
    return msgspec.structs.replace(reading, customers=(reading.customers or 0) + more)


def test_a_customers_gate_without_customers_is_an_error() -> None:
    looks = (_ZERO, _pair(Reading(5_000, 0), Reading(500, 0)))
    assert _seen(CustomersGate(), *looks).verdict is Verdict.ERROR
    assert _seen(CountsGate(), *looks).verdict is Verdict.ERROR


def test_counts_by_name_are_judged_like_errors() -> None:
    def counted(baseline: int, candidate: int) -> Look:
        return _pair(
            Reading(9_500, 0, counts={"mismatches": baseline}),
            Reading(500, 0, counts={"mismatches": candidate}),
        )

    start = _pair(Reading(0, 0, counts={"mismatches": 0}), Reading(0, 0, counts={"mismatches": 0}), 0.0)
    assert _seen(CountsGate(), start, counted(20, 1)).verdict is Verdict.PASS
    assert _seen(CountsGate(), start, counted(20, 15)).verdict is Verdict.FAIL


@pytest.mark.parametrize(("ratio", "verdict"), [(1.0, Verdict.FAIL), (4.0, Verdict.PASS)])
def test_a_tolerated_ratio_is_tolerated(ratio: float, verdict: Verdict) -> None:
    """Three times as many errors: 3 % of 5,000 against 1 % of 95,000."""
    looks = [_pair(Reading(9_500 * n, 95 * n), Reading(500 * n, 15 * n), float(n)) for n in range(11)]
    assert _seen(ErrorsGate(max_odds_ratio=ratio), *looks).verdict is verdict


@pytest.mark.parametrize(("tolerance", "verdict"), [(0.0, Verdict.FAIL), (30.0, Verdict.PASS)])
@pytest.mark.parametrize("scale", ["log", "seconds"])
def test_a_tolerated_slowness_is_tolerated(scale: str, tolerance: float, verdict: Verdict) -> None:
    rule = LatencyGate(tolerance_percent=tolerance, scale=scale)
    judge = Judge(Gates(rules=(rule,)))
    service = _Service(9, slower=1.2)
    for side in Side:  # the source knows squares in neither scale: they are bounded
        assert service.reading(side).latency.sum_squares_s2 is None  # type: ignore[union-attr] - it has durations
    assert _run(judge, _looks(service, 80))[0].verdict is verdict


@pytest.mark.parametrize(
    ("rule", "verdict"),
    [
        (FloorGate(max_error_ratio=0.05), Verdict.PASS),
        (FloorGate(max_error_ratio=0.01), Verdict.FAIL),
        (FloorGate(max_latency_ms_p99=500.0), Verdict.PASS),
        (FloorGate(max_latency_ms_p99=150.0), Verdict.FAIL),
        (FloorGate(max_error_ratio=0.05, min_requests=5_000), Verdict.INCONCLUSIVE),
    ],
)
def test_floors_bound_the_candidate_whatever_the_baseline_does(rule: Rule, verdict: Verdict) -> None:
    durations = Histogram((0.1, 0.2), (900, 100, 0), 90.0)
    bad = Reading(1_000, 20, durations)
    start = Reading(0, 0, Histogram((0.1, 0.2), (0, 0, 0), 0.0))
    found = _seen(rule, _pair(start, start, 0.0), _pair(Reading(19_000, 9_000, durations), bad))
    assert found.verdict is verdict


def test_the_luck_of_a_sticky_split_is_no_fault_of_the_router_but_a_tolerance_of_0_is_exact() -> None:
    def share(candidate: int, customers: int | None) -> Look:
        return _pair(
            Reading(100_000 - candidate, 0, customers=customers),
            Reading(candidate, 0, customers=customers and 50),
        )

    start = _pair(Reading(0, 0, customers=0), Reading(0, 0, customers=0), 0.0)
    # 1,000 customers: 5 % of them are 50, give or take 7, and those may be busier than others.
    assert _seen(ShareGate(), start, share(6_300, 950)).verdict is Verdict.PASS
    assert _seen(ShareGate(), _ZERO, share(6_000, None)).verdict is Verdict.PASS
    assert _seen(ShareGate(), start, share(12_000, 950)).verdict is Verdict.FAIL
    assert _seen(ShareGate(tolerance_percent=0), start, share(6_300, 950)).verdict is Verdict.FAIL
    assert _seen(ShareGate(tolerance_percent=0), start, share(4_000, 950)).verdict is Verdict.FAIL


# --- memory


def _with_restart(seed: int) -> list[Look]:
    service = _Service(seed, errors=0.01)
    looks = [*_looks(service, 20, 500), *_looks(service, 20, 2_500)]
    service.requests[_C] = service.failed[_C] = 0
    service.held[_C] = [0] * (len(_EDGES) + 1)
    return [*looks, Look(50.0, 2_500, error="gone"), *_looks(service, 10, 2_500)]


def test_a_judge_that_was_killed_at_any_look_goes_on_as_if_nothing_had_happened() -> None:
    looks = _with_restart(7)
    whole = [Judge(Gates()).look(looks[0])]
    judge = _who_saw(looks[:1])
    for look in looks[1:]:
        # Every look by a judge made of JSON alone.
        judge = Judge(Gates(), msgspec.json.decode(msgspec.json.encode(judge.state), type=State))
        whole.append(judge.look(look))
    unbroken = Judge(Gates())
    assert [unbroken.look(look) for look in looks] == whole


def test_a_judge_can_be_made_anew_of_the_looks_in_a_log() -> None:
    looks = _with_restart(8)
    logged = [msgspec.json.decode(msgspec.json.encode(look), type=Look) for look in looks]
    assert _who_saw(logged).state == _who_saw(looks).state


def test_clocks_may_jump() -> None:
    looks = _with_restart(9)
    jumping = [msgspec.structs.replace(look, at_s=1e9 - 7 * number) for number, look in enumerate(looks)]
    first, second = Judge(Gates()), Judge(Gates())
    assert [first.look(look) for look in looks] == [second.look(look) for look in jumping]


# --- the spec


def test_alphas_come_to_alpha_and_errors_get_most() -> None:
    gates = Gates()
    assert sum(gates.alphas()) == pytest.approx(0.01)
    assert gates.names() == ("errors", "latency", "slow", "share")
    assert gates.alphas()[0] == pytest.approx(0.008)
    with_floor = Gates(rules=(*gates.rules, FloorGate(max_error_ratio=0.1)))
    assert with_floor.alphas() == (*gates.alphas(), 0.0)
    alone = Gates(rules=(ErrorsGate(alpha_share=3), LatencyGate(alpha_share=1)))
    assert alone.alphas() == pytest.approx((0.0075, 0.0025))


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (Gates, {"alpha": 0}),
        (Gates, {"rules": []}),
        (Gates, {"rules": [{"kind": "errors"}, {"kind": "errors"}]}),
        (Gates, {"rules": [{"kind": "errors", "threshold": 3}]}),
        (Gates, {"rules": [{"kind": "floor"}]}),
        (Gates, {"rules": [{"kind": "latency", "scale": "miles"}]}),
        (Gates, {"rules": [{"kind": "unheard"}]}),
        (Metrics, {"kind": "scrape", "error_pattern": "("}),
        (Metrics, {"kind": "scrape", "baseline_urls": ["https://me:secret@host/metrics"]}),
        (PrometheusMetrics, {"kind": "prometheus", "baseline": {"requests": "a", "errors": "b"},
                             "candidate": {"requests": "a", "errors": "b"}}),
    ],
)  # fmt: skip
def test_specs_that_make_no_sense_are_refused(kind: object, written: dict[str, object]) -> None:
    convert: Callable[..., object] = msgspec.convert
    with pytest.raises(msgspec.ValidationError):
        convert(written, kind)
