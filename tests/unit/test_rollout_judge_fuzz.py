"""Whatever a source says: the judge answers, what failed stays failed, nothing passes without requests."""

import json
import math

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from finflow.rollout.gates_spec import (
    CountsGate,
    CustomersGate,
    ErrorsGate,
    FloorGate,
    Gates,
    LatencyGate,
    ShareGate,
    SlowGate,
)
from finflow.rollout.judge import Judge, Look, State
from finflow.rollout.verdicts import Histogram, Reading, Side, Verdict

_SPEC = Gates(
    min_requests=5,
    rules=(
        ErrorsGate(),
        ErrorsGate(name="tolerant", max_odds_ratio=2.0),
        CustomersGate(),
        CountsGate(counted="odd"),
        LatencyGate(),
        LatencyGate(name="plain", scale="seconds"),
        SlowGate(),
        ShareGate(),
        ShareGate(name="exact", tolerance_percent=0.0),
        FloorGate(max_error_ratio=0.5, max_latency_ms_p99=900.0),
    ),
)
_totals = st.integers(0, 5_000)
_maybe = st.none() | _totals
_edges = st.sampled_from([(0.1, 1.0), (0.1, 0.5, 1.0), (2.0,)])


@st.composite
def _histograms(draw: st.DrawFn) -> Histogram:
    edges = draw(_edges)
    counts = draw(st.lists(st.integers(0, 2_000), min_size=len(edges) + 1, max_size=len(edges) + 1))
    squares = draw(st.none() | st.floats(0, 1e6))
    return Histogram(edges, tuple(counts), draw(st.floats(0, 1e5)), squares)


_readings = st.builds(
    Reading, _totals, _totals, st.none() | _histograms(), _maybe, _maybe,
    st.dictionaries(st.just("odd"), _totals),
)  # fmt: skip
_sides = st.dictionaries(st.sampled_from(list(Side)), _readings)
_routed = st.none() | st.dictionaries(st.sampled_from(list(Side)), _totals)
_looks = st.builds(
    Look, st.floats(-1e9, 1e9), st.sampled_from([0, 1, 500, 5_000, 9_999, 10_000]), _sides, _routed,
    st.none() | st.none() | st.just("gone"),
)  # fmt: skip


@st.composite
def _growing(draw: st.DrawFn) -> list[Look]:
    """Looks of totals that grow, as of a service that works, with a change of weight now and then."""
    totals = {side: [0] * 7 for side in Side}
    looks = []
    for number in range(draw(st.integers(2, 8))):
        for total in totals.values():
            fast, middling, slow, failed, met = draw(st.tuples(*[st.integers(0, 400)] * 5))
            requests = fast + middling + slow
            errors = min(failed, requests)
            news = (requests, errors, fast, middling, slow, min(met, errors), min(requests, 30))
            total[:] = map(int.__add__, total, news)
        readings = {side: _reading(total) for side, total in totals.items()}
        weight_bp = draw(st.sampled_from([500, 500, 500, 5_000, 10_000]))
        looks.append(Look(float(number), weight_bp, readings))
    return looks


def _reading(total: list[int]) -> Reading:
    requests, errors, fast, middling, slow, met, customers = total
    durations = Histogram((0.1, 1.0), (fast, middling, slow), 0.05 * fast + 0.5 * middling + 3.0 * slow)
    return Reading(requests, errors, durations, met, customers, {"odd": errors // 2})


@settings(deadline=None, max_examples=150)
@given(st.lists(_looks, max_size=8) | _growing())
def test_any_looks_are_judged(looks: list[Look]) -> None:
    judge = Judge(_SPEC)
    failed: set[str] = set()
    for look in looks:
        # Every look by a judge made of JSON alone.
        stored = json.dumps(msgspec.to_builtins(judge.state), allow_nan=False)
        judge = Judge(_SPEC, msgspec.convert(json.loads(stored), State))
        found = {each.gate: each for each in judge.look(look)}
        assert {*found} - {"source"} == set(_SPEC.names())
        assert failed <= {gate for gate, each in found.items() if each.verdict is Verdict.FAIL}
        failed |= {gate for gate, each in found.items() if each.verdict is Verdict.FAIL}
        for each in found.values():
            assert each.words
            assert all(math.isfinite(number) for number in each.numbers.values() if isinstance(number, float))
            if each.verdict is Verdict.PASS:
                assert judge.state.step[Side.CANDIDATE].requests >= _SPEC.min_requests
