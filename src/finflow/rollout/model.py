"""What a rollout does next: from its spec, its state and the time since the last look. Pure."""

from typing import Final

import msgspec

from finflow.rollout import events as e
from finflow.rollout.spec import Afterwards, OnDrift, OnTrouble, RolloutSpec, processes_for
from finflow.rollout.state import ATTEMPTS, Phase, State, drift_words, failing
from finflow.rollout.verdicts import FULL_WEIGHT_BP, Side, Verdict, worst

# A controller that was stopped for an hour has judged nothing for an hour: a bake counts no more at once.
_LONGEST_DELTA_LOOKS: Final = 5.0
# A look at which nothing is new gets a line when its step is this part older: a bake of a day has some
# two thousand lines instead of 86,400.
_NEW_LINE_PART: Final = 1 / 300
_LONGEST_BACKOFF_S: Final = 10.0
_FIRST_BACKOFF_S: Final = 0.2


class Since(msgspec.Struct, frozen=True):
    """Seconds that this controller has counted, by a clock that nobody can set; None for never."""

    look_s: float | None = None
    checks_s: float | None = None
    failure_s: float | None = None


class Look(msgspec.Struct, frozen=True):
    """Read the weight, the fleet and the numbers, and have them judged."""


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do for so long, unless somebody orders something."""

    seconds: float


class Decide(msgspec.Struct, frozen=True):
    """Write a conclusion into the log; what follows from it follows from the log."""

    decided: e.Decided


class Finish(msgspec.Struct, frozen=True):
    """Write the end into the log."""

    finished: e.Finished


Next = e.Intent | Look | Wait | Decide | Finish


def target(spec: RolloutSpec, state: State) -> int:
    """The step that is being taken: the last one where somebody has ordered to promote at once."""
    return len(spec.steps) - 1 if state.full_by else state.step


def next_(spec: RolloutSpec, state: State, since: Since) -> Next | None:
    """What to do now; None when the rollout has ended."""
    if state.ended:
        return None
    if state.failures and (wait_s := _backoff_s(state.failures) - (since.failure_s or 0.0)) > 0:
        return Wait(wait_s)
    match state.phase:
        case Phase.ABORTING:
            return _abort(spec, state)
        case Phase.PROMOTING:
            return _promote(spec, state)
        case Phase.PREPARING:
            return _too_often(state) or e.Prepare()
    return _guard(spec, state) or _onward(spec, state, since)


def _backoff_s(failures: int) -> float:
    return min(_FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 10), _LONGEST_BACKOFF_S)


def judged_s(spec: RolloutSpec, delta_s: float) -> float:
    """How much of the time since the last look counts as judged."""
    return min(max(delta_s, 0.0), _LONGEST_DELTA_LOOKS * spec.policy.look_every_s)


def worth_a_line(spec: RolloutSpec, state: State, look: e.Looked) -> bool:
    """Whether a look must stand in the log: whatever anything follows from does."""
    last, rung = state.look, spec.steps[state.serving_step]
    if last is None or look.verdict is Verdict.FAIL or _gist(look) != _gist(last):
        return True
    if look.delta_s >= state.looked_s * _NEW_LINE_PART:
        return True
    if state.paused:
        return False
    troubled = look.verdict is Verdict.ERROR or (look.ready or 0) < look.processes
    return troubled or (state.phase is Phase.BAKING and state.baked_s + look.delta_s >= rung.bake_s)


def _gist(look: e.Looked) -> tuple[object, ...]:
    """What may lead to a decision, without the numbers."""
    return (
        look.verdict,
        look.weight_bp,
        look.ready,
        look.processes,
        [each.verdict for each in look.judgements],
    )


def _onward(spec: RolloutSpec, state: State, since: Since) -> Next:
    """The step's own work; between its parts, and while people take their time, the looking goes on."""
    raising = _raise(spec, state, since) if state.phase is Phase.RAISING and not state.paused else None
    if raising is not None and not isinstance(raising, Wait):
        return raising
    if state.weight_bp > 0 and _due(since.look_s, spec.policy.look_every_s):
        return Look()
    rest = _rest(spec, state, since)
    if state.paused:
        return rest
    if state.phase is Phase.CHECKING:
        return _check(spec, state, since) or rest
    if state.phase is Phase.RAISING:
        return rest
    return _bake(spec, state) or rest


def _due(since_s: float | None, every_s: float) -> bool:
    return since_s is None or since_s >= every_s


def _rest(spec: RolloutSpec, state: State, since: Since) -> Wait:
    every_s = spec.policy.look_every_s
    return Wait(max(0.0, every_s - (since.look_s or 0.0)) if state.weight_bp > 0 else every_s)


# --- what stands above every step -------------------------------------------------------------------------


def _guard(spec: RolloutSpec, state: State) -> Next | None:
    """Reasons to take the candidate back or to stop and ask, whatever the step is about."""
    return _too_often(state) or _look_guard(spec, state)


def _too_often(state: State) -> Next | None:
    if state.failures < ATTEMPTS or state.failure is None:
        return None
    return _abort_now(state, f"{state.failure.words} ({state.failures} times)")


def _look_guard(spec: RolloutSpec, state: State) -> Next | None:
    look = state.look
    if look is None or state.weight_bp == 0:
        return None
    if look.verdict is Verdict.FAIL:
        return _abort_now(state, failing(look.judgements, Verdict.FAIL))
    if look.ready == 0 and look.processes:
        return _abort_now(state, f"no process of {state.candidate} is ready")
    if state.unready_s > spec.policy.unready_after_s:
        have = f"{look.ready} of {look.processes} processes of {state.candidate}"
        words = f"{have} ready for {state.unready_s:.0f} s"
        return _abort_now(state, words)
    return _erring(spec, state) or _drifted(spec, state)


def _erring(spec: RolloutSpec, state: State) -> Next | None:
    if state.look is None or state.error_s <= spec.policy.error_after_s:
        return None
    words = failing(state.look.judgements, Verdict.ERROR) or "nothing could be judged"
    return _trouble(state, spec.policy.on_error, f"no judgement for {state.error_s:.0f} s: {words}")


def _trouble(state: State, policy: OnTrouble, words: str) -> Next | None:
    if policy is OnTrouble.ABORT:
        return _abort_now(state, words)
    return None if state.paused else _pause(state, words)


def _drifted(spec: RolloutSpec, state: State) -> Next | None:
    """Somebody else has set the weight. To 0 may be a person in an emergency: then a person decides."""
    if state.drift_bp is None or state.paused:
        return None
    asks = spec.policy.on_drift is OnDrift.PAUSE or state.drift_bp == 0
    if asks and not state.set_right:
        return _pause(state, drift_words(state))
    return e.SetWeight(state.step, state.weight_bp)


def _decide(state: State, decision: e.Decision, words: str, step: int | None = None) -> Decide:
    judgements = state.look.judgements if state.look else ()
    return Decide(e.Decided(decision, state.step if step is None else step, words, judgements))


def _abort_now(state: State, words: str) -> Decide:
    return _decide(state, e.Decision.ABORT, words)


def _pause(state: State, words: str) -> Decide:
    return _decide(state, e.Decision.PAUSE, words)


# --- one step ---------------------------------------------------------------------------------------------


def _check(spec: RolloutSpec, state: State, since: Since) -> Next | None:
    """Checks and approvals stand before the weight; None while somebody is waited for.

    An order to promote at once leaves no approval out: one is asked for, and it is for all that is skipped.
    """
    step = target(spec, state)
    if state.checks is None or _stale(state, step) or _due_again(spec, state, since):
        return e.AskChecks(step)
    verdict = worst(state.checks.judgements) if state.checks.judgements else Verdict.PASS
    if verdict is Verdict.FAIL:
        return _abort_now(state, failing(state.checks.judgements, Verdict.FAIL))
    if verdict is Verdict.ERROR:
        return _check_errs(spec, state)
    if _unapproved(spec, state, step):
        return None if state.awaiting else _await(spec, state, step)
    return _decide(state, e.Decision.PASS_CHECKS, f"step {step + 1} may be taken", step)


def _unapproved(spec: RolloutSpec, state: State, step: int) -> bool:
    """Whether something is waited for. An approval makes a check pass that knows its digest, and no other."""
    if state.checks and any(each.verdict is Verdict.INCONCLUSIVE for each in state.checks.judgements):
        return True
    return _asks(spec, state, step) and state.step not in state.approved


def _asks(spec: RolloutSpec, state: State, step: int) -> bool:
    return any(spec.steps[each].approval for each in range(state.step, step + 1))


def _stale(state: State, step: int) -> bool:
    """Whether the checks were asked for another step, as after an order to promote at once."""
    return state.checks is not None and getattr(state.checks.intent, "step", step) != step


def _due_again(spec: RolloutSpec, state: State, since: Since) -> bool:
    passes = state.checks is not None and worst(state.checks.judgements) is Verdict.PASS
    return bool(not passes and state.checks and state.checks.judgements) and _due(
        since.checks_s, spec.policy.recheck_every_s
    )


def _check_errs(spec: RolloutSpec, state: State) -> Next | None:
    if state.checks is None or state.checks_error_s < spec.policy.error_after_s:
        return None
    words = failing(state.checks.judgements, Verdict.ERROR)
    return _trouble(state, spec.policy.on_error, f"a check errs: {words}")


def _await(spec: RolloutSpec, state: State, step: int) -> Decide:
    judgements = state.checks.judgements if state.checks else ()
    waits = failing(judgements, Verdict.INCONCLUSIVE)
    person = _asks(spec, state, step) or any("digest" in each.numbers for each in judgements)
    words = f"step {step + 1} waits for {'approval' if person else 'its checks'}" + (
        f": {waits}" if waits else ""
    )
    return _decide(state, e.Decision.AWAIT, words, step)


def _raise(spec: RolloutSpec, state: State, since: Since) -> Next:
    """The processes first, then they are tried out, then the weight that they can carry."""
    step = target(spec, state)
    needed = processes_for(spec, step)
    if state.scaled < needed:
        return e.Scale(step, needed)
    if state.tried is None:
        return e.AskChecks(step, running=True)
    verdict = worst(state.tried.judgements) if state.tried.judgements else Verdict.PASS
    if verdict is Verdict.PASS:
        return e.SetWeight(step, spec.steps[step].weight_bp)
    words = failing(state.tried.judgements, verdict)
    if verdict is Verdict.FAIL:
        return _abort_now(state, words)
    if state.checks_error_s >= spec.policy.error_after_s:
        return _trouble(
            state, spec.policy.on_error, f"the candidate could not be tried out: {words}"
        ) or Wait(1)
    if _due(since.checks_s, spec.policy.recheck_every_s):
        return e.AskChecks(step, running=True)
    return Wait(spec.policy.recheck_every_s - (since.checks_s or 0.0))


def _bake(spec: RolloutSpec, state: State) -> Next | None:
    """None while the step has not baked through."""
    if state.look is None:
        return None
    rung = spec.steps[state.step]
    if by := state.pass_by or state.full_by:
        return _pass(spec, state, f"step {state.step + 1} passed by {by}")
    if state.baked_s < rung.bake_s:
        return None
    short = rung.minimum_requests - state.step_requests
    if state.look.verdict is Verdict.PASS and short <= 0:
        return _pass(spec, state, f"step {state.step + 1} baked {state.baked_s:.0f} s, every gate passes")
    if state.baked_s < rung.bake_s + spec.policy.patience_s or state.look.verdict is Verdict.ERROR:
        return None
    words = failing(state.look.judgements, Verdict.INCONCLUSIVE) or f"{short} requests too few"
    return _trouble(state, spec.policy.on_inconclusive, f"inconclusive after {state.baked_s:.0f} s: {words}")


def _pass(spec: RolloutSpec, state: State, words: str) -> Decide:
    following = len(spec.steps) - 1 if state.full_by else min(state.step + 1, len(spec.steps) - 1)
    if state.weight_bp == FULL_WEIGHT_BP:
        following = state.step
    return _decide(state, e.Decision.PASS_STEP, words, following)


# --- the two ends -----------------------------------------------------------------------------------------


def _abort(spec: RolloutSpec, state: State) -> Next:
    """Weight 0 first, and for as long as it takes; the processes after it."""
    if "take_back" not in state.done:
        if not state.weight_intended and state.failures >= ATTEMPTS:
            return Finish(e.Finished(e.Outcome.ABORTED, f"{state.reason}; no weight was ever set"))
        return e.TakeBack()
    stops = spec.policy.candidate_after_abort is Afterwards.STOP
    tidying = _tidy(state, Side.CANDIDATE, stops) if state.scaled or state.weight_intended else None
    return tidying or Finish(e.Finished(e.Outcome.ABORTED, f"{state.candidate} taken back: {state.reason}"))


def _promote(spec: RolloutSpec, state: State) -> Next:
    """The baseline is drained only when the ingress sends nothing to it any more."""
    if "swap" not in state.done:
        return e.Swap()
    stops = spec.policy.baseline_after_promote is Afterwards.STOP
    tidying = _tidy(state, Side.BASELINE, stops)
    return tidying or Finish(e.Finished(e.Outcome.PROMOTED, f"{state.candidate} serves everybody"))


def _tidy(state: State, side: Side, stops: bool) -> Next | None:
    """Kept processes go on running, and nobody is sent to them; others finish their requests and end."""
    if not stops:
        return None
    if f"drain {side}" not in state.done:
        return e.Drain(side)
    return e.Stop(side) if f"stop {side}" not in state.done else None


def refusal(state: State, order: e.Order) -> str:
    """Why an order cannot be followed now; empty if it can."""
    swapping = state.phase is Phase.PROMOTING
    if state.ended or state.phase is Phase.ABORTING:
        return f"the rollout is {state.phase}"
    match order:
        case e.Order.ABORT if swapping and (isinstance(state.open, e.Swap) or "swap" in state.done):
            return "everybody is on the candidate, and the baseline is being taken down: start a rollout back"
        case e.Order.PAUSE if state.paused or swapping:
            return "it is paused already" if state.paused else "there is nothing left to pause"
        case e.Order.RESUME if not state.paused:
            return "it is not paused"
        case e.Order.APPROVE if not state.awaiting:
            return "nothing waits for approval"
        case e.Order.PROMOTE if state.phase is not Phase.BAKING:
            return "approve it: the step waits for approval" if state.awaiting else "no step is baking"
        case e.Order.PROMOTE_FULL if swapping:
            return "it is being promoted"
    return ""
