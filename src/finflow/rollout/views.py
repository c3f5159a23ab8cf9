"""What a gate sees of a look, what it keeps between looks, and how its word is made. Pure."""

from collections.abc import Mapping
from math import exp
from typing import Final

import msgspec

from finflow.rollout import counts
from finflow.rollout.tallies import NOTHING
from finflow.rollout.verdicts import FULL_WEIGHT_BP, Judgement, Reading, Side, Verdict

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


def step_part(number: int) -> float:
    """How a gate that begins anew with each step divides its alpha: 0.7, 0.15, 0.075, ... come to 1."""
    return 0.7 if number <= 1 else 0.3 * 0.5 ** (number - 1)


def passed(level: Level, view: View, numbers: Numbers, words: str, *, alone: bool = False) -> Judgement:
    """PASS, unless there is too little to pass on."""
    full = view.weight_bp == FULL_WEIGHT_BP
    wanted = (Side.CANDIDATE,) if alone or full else (Side.CANDIDATE, Side.BASELINE)
    for side in wanted:
        found = view.step.get(side, NOTHING).requests
        if found < level.least:
            few = f"{found:,} requests on the {side} in this step; {level.least:,} are needed."
            return word(level, Verdict.INCONCLUSIVE, numbers, few)
    if full and not alone:
        words = "There is no baseline to compare with at full weight; nothing was found before."
    return word(level, Verdict.PASS, numbers, words)


def failed(kept: Kept, level: Level, numbers: Numbers, words: str) -> Outcome:
    """FAIL, and FAIL from now on: what was found once is not taken back."""
    kept = msgspec.structs.replace(kept, failed=kept.failed or words)
    return kept, word(level, Verdict.FAIL, numbers, kept.failed or words)


def word(level: Level, verdict: Verdict, numbers: Numbers, words: str) -> Judgement:
    return Judgement(level.gate, verdict, numbers, words)


def keep(kept: Kept, **evidence: counts.Evidence) -> Kept:
    return msgspec.structs.replace(kept, evidence=kept.evidence | evidence)


def sizes(view: View) -> Numbers:
    candidate, baseline = view.candidate(), view.baseline()
    return {
        "candidate_requests": candidate.requests,
        "baseline_requests": baseline.requests,
        "candidate_errors": candidate.errors,
        "baseline_errors": baseline.errors,
    }


def strength(evidence: counts.Evidence, test: counts.OddsTest) -> Numbers:
    return {"evidence": power(evidence.log_wealth), "needed": round(exp(test.log_goal), 1)}


def power(log_evidence: float) -> float:
    return float(f"{exp(min(log_evidence, _MOST_LOG)):.4g}")


def no_durations(level: Level, view: View) -> Judgement:
    verdict = Verdict.ERROR if view.candidate().requests >= level.least else Verdict.INCONCLUSIVE
    return word(level, verdict, sizes(view), "The source has no durations of both sides in the same buckets.")
