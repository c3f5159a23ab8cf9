"""The judge: looks in, judgements out. Its state between looks is a value that a log can hold. Pure."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from finflow.rollout import gates, latency_gates, tallies
from finflow.rollout.gates_spec import (
    CountsGate,
    CustomersGate,
    ErrorsGate,
    FloorGate,
    Gates,
    LatencyGate,
    Rule,
    ShareGate,
    SlowGate,
)
from finflow.rollout.verdicts import FULL_WEIGHT_BP, Judgement, Reading, Side, Verdict
from finflow.rollout.views import Kept, Level, Outcome, View

# How far a source and the router may be apart before one of them is wrong: they are read one after the other,
# health checks and testers go past the router, and routers repeat requests.
_SLACK_REQUESTS: Final = 50
_SLACK_PART: Final = 0.2
SOURCE_GATE: Final = "source"

_JUDGED_BY: Final[dict[type[Rule], Callable[[Any, Level, Kept, View], Outcome]]] = {
    ErrorsGate: gates.judge_errors,
    CustomersGate: gates.judge_customers,
    CountsGate: gates.judge_counts,
    LatencyGate: latency_gates.judge_latency,
    SlowGate: latency_gates.judge_slow,
    ShareGate: gates.judge_share,
    FloorGate: gates.judge_floor,
}


class Look(msgspec.Struct, frozen=True):
    """What was seen at one moment: the weight in force, totals by side, the router's counts if it has some.

    `error` is why the source gave nothing; then there are no readings.
    """

    at_s: float
    weight_bp: int
    readings: dict[Side, Reading] = {}
    routed: dict[Side, int] | None = None
    error: str | None = None


class State(msgspec.Struct, frozen=True):
    """Everything that the judge knows after some looks. Steps count from 1; a change of weight begins one."""

    looks: int = 0
    weight_bp: int | None = None
    step_number: int = 0
    restarts: int = 0
    last: dict[Side, Reading] = {}
    step: dict[Side, Reading] = {}
    whole: dict[Side, Reading] = {}
    last_routed: dict[Side, int] | None = None
    routed: dict[Side, int] | None = None
    kept: dict[str, Kept] = {}


class Judge:
    """Judges looks by the gates of a spec. The same looks in the same order give the same judgements."""

    def __init__(self, spec: Gates, state: State | None = None) -> None:
        self._spec = spec
        self.state = state or State()
        self._rules = [
            (rule, Level(name, alpha, spec.least(rule)))
            for rule, name, alpha in zip(spec.rules, spec.names(), spec.alphas(), strict=True)
        ]

    def look(self, look: Look) -> tuple[Judgement, ...]:
        """Take one look into account, and say what every gate says now. The first look is where counting
        begins: what was counted before it is nobody's.
        """
        error = look.error or _faults(look)
        if error is not None:
            return self._blind(error)
        self.state, view = _seen(self.state, look)
        judgements = [self._judged(rule, level, view) for rule, level in self._rules]
        doubt = _doubt(view)
        return tuple(judgements if doubt is None else [*judgements, doubt])

    def _blind(self, error: str) -> tuple[Judgement, ...]:
        """Without numbers a gate can only repeat that it failed."""
        found = []
        for _, level in self._rules:
            failed = self.state.kept.get(level.gate, Kept()).failed
            verdict = Verdict.ERROR if failed is None else Verdict.FAIL
            found.append(Judgement(level.gate, verdict, {}, failed or f"There are no numbers: {error}."))
        return tuple(found)

    def _judged(self, rule: Rule, level: Level, view: View) -> Judgement:
        kept = self.state.kept.get(level.gate, Kept())
        kept, judgement = _JUDGED_BY[type(rule)](rule, level, kept, view)
        if kept.failed is not None:
            # What was found once is not taken back, whatever this look lacks.
            judgement = msgspec.structs.replace(judgement, verdict=Verdict.FAIL, words=kept.failed)
        self.state = msgspec.structs.replace(self.state, kept=self.state.kept | {level.gate: kept})
        return judgement


def _faults(look: Look) -> str | None:
    """What is wrong with the readings of a look."""
    for side, reading in look.readings.items():
        found = tallies.fault(reading)
        if found is not None:
            return f"the {side}'s reading cannot be true: {found}"
    if not look.readings:
        return "the source knows neither side"
    return None


def _seen(state: State, look: Look) -> tuple[State, View]:
    """The state after a look, and what the gates see of it."""
    new, restarts = _new(state, look)
    changed = state.weight_bp != look.weight_bp
    step = {} if changed else state.step
    # What was served while the weight changed belongs to neither step; events are judged all the same.
    step = step if changed else _added(step, new)
    whole = _added(state.whole, new)
    routed_new = tallies.routed_since(state.last_routed, look.routed)
    routed = _routed(None if changed else state.routed, None if changed else routed_new, changed)
    number = state.step_number + (1 if changed and look.weight_bp > 0 else 0)
    after = State(
        state.looks + 1, look.weight_bp, number, state.restarts + restarts, state.last | look.readings,
        step, whole, look.routed, routed, state.kept,
    )  # fmt: skip
    largest = max(look.weight_bp, state.weight_bp or 0) / FULL_WEIGHT_BP
    return after, View(look.weight_bp, largest, number, new, step, state.whole, whole, routed)


def _new(state: State, look: Look) -> tuple[dict[Side, Reading], int]:
    """What is new on each side that was known before, and on how many sides counting began anew.

    Totals that went backwards may be sums of which one part began anew. To take all that is there for new
    would count the other parts twice, so such a look is where counting goes on from, and nothing more.
    """
    new, restarts = {}, 0
    for side, reading in look.readings.items():
        if side in state.last:
            since, anew = tallies.since(state.last[side], reading)
            if anew:
                restarts += 1
            else:
                new[side] = since
    return new, restarts


def _added(readings: Mapping[Side, Reading], new: Mapping[Side, Reading]) -> dict[Side, Reading]:
    return {**readings} | {side: tallies.added(readings.get(side), each) for side, each in new.items()}


def _routed(
    before: Mapping[Side, int] | None, new: Mapping[Side, int] | None, changed: bool
) -> dict[Side, int] | None:
    """The router's counts of this step; not known in a step in which it was once not asked."""
    if changed:
        return {}
    if before is None or new is None:
        return None
    return {side: before.get(side, 0) + new.get(side, 0) for side in Side}


def _doubt(view: View) -> Judgement | None:
    """A word when the source and the router are far apart; None where they agree or one is silent.

    A source that counts more than there was is wrong; one that counts less may only be late.
    """
    if not view.routed:
        return None
    counted, routed = view.candidate().requests, view.routed.get(Side.CANDIDATE, 0)
    numbers = {"candidate_requests": counted, "candidate_routed": routed}
    slack = _SLACK_REQUESTS + _SLACK_PART * max(counted, routed)
    if abs(counted - routed) <= slack:
        return None
    if counted > routed:
        words = f"The source counts {counted:,} candidate requests; the router sent {routed:,}."
        return Judgement(SOURCE_GATE, Verdict.ERROR, numbers, words)
    words = f"The source counts {counted:,} of the {routed:,} requests that the router sent, so far."
    return Judgement(SOURCE_GATE, Verdict.INCONCLUSIVE, numbers, words)
