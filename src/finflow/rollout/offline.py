"""A recording judged from its first look to its last: what a rollout would have come to. Pure."""

from typing import Final

import msgspec

from finflow.rollout.gates_spec import (
    ErrorsGate,
    Gates,
    LatencyGate,
    Rule,
    ShareGate,
    SlowGate,
)
from finflow.rollout.judge import Judge
from finflow.rollout.sources.recorded import Recording, inverted
from finflow.rollout.verdicts import Judgement, Side, Verdict, worst

# Series have as many looks as points, and published cases a few dozen of these: location and tail get an
# equal part of alpha, and the tail begins where so few points can show it.
_LEAST_OF_SERIES: Final = 20
_SERIES_RULES: Final = (LatencyGate(alpha_share=0.5), SlowGate(quantiles=(0.95,), alpha_share=0.5))


class Decision(msgspec.Struct, frozen=True):
    """The verdict, at which look it fell, how many there were, and what each gate said then."""

    verdict: Verdict
    look: int
    at_s: float
    looks: int
    judgements: tuple[Judgement, ...]


def decide(recording: Recording, spec: Gates) -> Decision:
    """Look by look until a gate fails, as a rollout does; otherwise what the last look says."""
    judge = Judge(spec)
    judgements: tuple[Judgement, ...] = ()
    seen, at_s = 0, 0.0
    for look in recording.looks:
        seen, at_s, judgements = seen + 1, look.at_s, judge.look(look)
        if worst(judgements) is Verdict.FAIL:
            break
    return Decision(worst(judgements), seen, at_s, len(recording.looks), judgements)


def decide_either(recording: Recording, spec: Gates) -> Decision:
    """Both less and more are worse: each is judged with half of alpha, and the worse decision counts."""
    half = msgspec.structs.replace(spec, alpha=spec.alpha / 2)
    both = [decide(each, half) for each in (recording, inverted(recording))]
    verdict = worst(judgement for each in both for judgement in each.judgements)
    return next(each for each in both if each.verdict is verdict)


def fitting(recording: Recording, *, alpha: float, min_requests: int | None) -> Gates:
    """The default gates that this recording has numbers for."""
    last = recording.looks[-1].readings if recording.looks else {}
    readings = [last[side] for side in Side if side in last]
    if recording.is_series:
        return Gates(alpha=alpha, min_requests=min_requests or _LEAST_OF_SERIES, rules=_SERIES_RULES)
    rules: list[Rule] = [ErrorsGate()]
    if readings and all(reading.latency is not None for reading in readings):
        rules += [LatencyGate(), SlowGate()]
    if recording.has_weights:
        rules.append(ShareGate())
    least = min_requests or Gates().min_requests
    return Gates(alpha=alpha, min_requests=least, rules=tuple(rules))
