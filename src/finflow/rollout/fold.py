"""The state of a rollout as the fold of its decision log: one line after the other. Pure."""

from collections.abc import Iterable
from typing import Final

import msgspec

from finflow.rollout import events as e
from finflow.rollout.state import ATTEMPTS, Pending, Phase, State, Told, drift_words
from finflow.rollout.verdicts import Side, Verdict, worst

# Kept in memory for the screen; the log has them all.
_LAST_DECISIONS: Final = 12


def folded(entries: Iterable[e.Entry]) -> State:
    """The state after these lines, which begin with a rollout's first."""
    state = State()
    for entry in entries:
        state = applied(state, entry)
    return state


def applied(state: State, entry: e.Entry) -> State:
    """The state after one more line."""
    state = _with(state, seq=entry.seq, at=entry.at)
    match entry.told:
        case e.Started() as told:
            return _started(state, entry, told)
        case e.TookOver(epoch=epoch):
            # A new controller tries again at once what the old one had failed at.
            return _with(state, epoch=epoch, failures=0)
        case e.Intended(intent=intent):
            raises = isinstance(intent, e.SetWeight)
            return _with(state, open=intent, weight_intended=state.weight_intended or raises)
        case e.Done() as told:
            return _done(state, entry, told) if told.ok else _failed(state, entry, told)
        case e.Looked() as told:
            return _looked(state, entry, told)
        case e.Ordered() as told:
            return _ordered(state, entry, told)
        case e.Decided() as told:
            return _decided(state, entry, told)
        case e.Noted() as told:
            return _noted(state, entry, told)
        case e.Notified(key=key):
            return _with(state, pending=tuple(each for each in state.pending if each.key != key))
        case e.Finished() as told:
            return _finished(state, entry, told)
    return state


_with = msgspec.structs.replace


def _owed(state: State, entry: e.Entry, event: str, words: str) -> State:
    key = f"{state.rollout_id}:{entry.seq}"
    return _with(state, pending=(*state.pending, Pending(key, event, words, entry.at)))


def _told(state: State, entry: e.Entry, words: str) -> State:
    kept = (*state.decisions, Told(entry.at, entry.who, words))[-_LAST_DECISIONS:]
    return _with(state, decisions=kept)


def _started(state: State, entry: e.Entry, told: e.Started) -> State:
    state = _with(
        state,
        rollout_id=told.rollout_id,
        service=told.service,
        baseline=told.baseline,
        candidate=told.candidate,
        spec_digest=told.spec_digest,
        commit=told.commit,
        committed_at=told.committed_at,
        started_by=entry.who,
        started_at=entry.at,
    )
    words = f"rollout of {told.candidate} over {told.baseline} started"
    return _owed(_told(state, entry, words), entry, "started", words)


# --- side effects that were confirmed ---------------------------------------------------------------------


def _done(state: State, entry: e.Entry, told: e.Done) -> State:
    state = _with(state, failures=0, failure=None, open=None)
    match told.intent:
        case e.Prepare():
            return _with(state, phase=Phase.CHECKING, weight_bp=0)
        case e.AskChecks():
            return _checked(state, told)
        case e.Scale(processes=processes):
            return _with(state, scaled=processes, unready_s=0.0, tried=None)
        case e.SetWeight(weight_bp=weight):
            return _weighed(state, entry, weight)
        case e.TakeBack():
            state = _with(state, weight_bp=0, drift_bp=None, taken_back_at=entry.at)
            words = "weight 0, read back from the ingress"
            return _told(_finished_part(state, "take_back"), entry, words)
        case e.Swap():
            words = f"{state.candidate} is the ingress's baseline now"
            return _told(_finished_part(_with(state, weight_bp=0), "swap"), entry, words)
        case e.Drain() | e.Stop() as intent:
            return _finished_part(state, _part(intent))
    return state


def _part(intent: e.Drain | e.Stop) -> str:
    return f"{'drain' if isinstance(intent, e.Drain) else 'stop'} {intent.side}"


def _finished_part(state: State, part: str) -> State:
    return _with(state, done=state.done | {part})


def _checked(state: State, told: e.Done) -> State:
    """Errors that follow each other count as time: the line says how long ago was asked before."""
    running = isinstance(told.intent, e.AskChecks) and told.intent.running
    before = state.tried if running else state.checks
    waited_s = float(told.facts.get("since_s", 0.0)) if before else 0.0
    passes = not told.judgements or worst(told.judgements) in (Verdict.PASS, Verdict.FAIL)
    errs = not passes and (running or worst(told.judgements) is Verdict.ERROR)
    state = _with(state, checks_error_s=state.checks_error_s + waited_s if errs else 0.0)
    return _with(state, tried=told) if running else _with(state, checks=told)


def _weighed(state: State, entry: e.Entry, weight: int) -> State:
    # Weights only grow from step to step: the same weight once more is one that was set right.
    fresh = state.phase is Phase.RAISING and weight != state.weight_bp
    state = _with(
        state,
        weight_bp=weight,
        weight_intended=True,
        drift_bp=None,
        set_right=False,
        first_served_at=state.first_served_at or entry.at,
        full_at=entry.at if weight == 10_000 and not state.full_at else state.full_at,
    )
    if not fresh:
        return _told(state, entry, f"weight set right: {weight / 100:g} %")
    state = _with(
        state,
        phase=Phase.BAKING,
        serving_step=state.step,
        baked_s=0.0,
        looked_s=0.0,
        step_began_at=entry.at,
        step_requests=0,
        last_requests=None,
        look=None,
    )
    return _told(state, entry, f"step {state.step + 1}: weight {weight / 100:g} %, read back")


def _failed(state: State, entry: e.Entry, told: e.Done) -> State:
    state = _with(state, failures=state.failures + 1, failure=told)
    state = _told(state, entry, told.words)
    if isinstance(told.intent, e.Drain | e.Stop) and state.failures >= ATTEMPTS:
        # Nobody is served by it any more: a person may look, nothing has to wait.
        return _with(state, failures=0, open=None, done=state.done | {_part(told.intent)})
    alarming = isinstance(told.intent, e.TakeBack | e.Swap) and state.failures in (1, 10, 100)
    return _owed(state, entry, "alarm", told.words) if alarming else state


# --- looks ------------------------------------------------------------------------------------------------


def _looked(state: State, entry: e.Entry, told: e.Looked) -> State:
    counted = told.readings.get(Side.CANDIDATE)
    requests = counted.requests if counted else None
    bakes = state.phase is Phase.BAKING and not state.paused
    drift_bp = _drift(state, told)
    drifted = drift_bp is not None and drift_bp != state.drift_bp
    state = _with(
        state,
        look=told,
        baked_s=state.baked_s + told.delta_s if bakes else state.baked_s,
        looked_s=state.looked_s + told.delta_s,
        step_requests=state.step_requests + _new_requests(state, requests),
        last_requests=state.last_requests if requests is None else requests,
        before={**told.readings, **state.before},
        error_s=state.error_s + told.delta_s if told.verdict is Verdict.ERROR else 0.0,
        unready_s=state.unready_s + told.delta_s if (told.ready or 0) < told.processes else 0.0,
        drift_bp=drift_bp,
    )
    return (
        _owed(_told(state, entry, drift_words(state)), entry, "drift", drift_words(state))
        if drifted
        else state
    )


def _new_requests(state: State, total: int | None) -> int:
    """How many since the last look; none where counting begins, as in a step, and with a new controller."""
    return 0 if total is None or state.last_requests is None else max(0, total - state.last_requests)


def _drift(state: State, told: e.Looked) -> int | None:
    """The weight in force where it is neither the one that was set nor the one that is being set."""
    wanted = {state.weight_bp, None}
    if isinstance(state.open, e.SetWeight):
        wanted.add(state.open.weight_bp)
    return None if told.weight_bp in wanted else told.weight_bp


# --- people -----------------------------------------------------------------------------------------------


def _ordered(state: State, entry: e.Entry, told: e.Ordered) -> State:
    state = _with(state, orders=state.orders | {told.order_id})
    if not told.accepted:
        return state
    state = _told(
        state, entry, f"{told.order.replace('_', ' ')} ordered" + (f": {told.words}" if told.words else "")
    )
    match told.order:
        case e.Order.PAUSE:
            return _with(state, paused=f"by {entry.who}")
        case e.Order.RESUME:
            return _resumed(state)
        case e.Order.APPROVE:
            return _approved(state, entry)
        case e.Order.PROMOTE:
            return _with(_resumed(state), pass_by=entry.who)
        case e.Order.PROMOTE_FULL:
            return _with(_resumed(state), full_by=entry.who)
        case e.Order.ABORT:
            return _aborting(
                state, entry, f"ordered by {entry.who}" + (f": {told.words}" if told.words else "")
            )
    return state


def _approved(state: State, entry: e.Entry) -> State:
    """What was waited for is approved: the step, and by their digests the things that checks showed."""
    waited = state.checks.judgements if state.checks else ()
    digests = [str(each.numbers["digest"]) for each in waited if "digest" in each.numbers]
    given = Told(entry.at, entry.who, f"approved for step {state.step + 1}")
    return _with(
        state,
        approved=state.approved | {state.step},
        approvals={**state.approvals, **dict.fromkeys(digests, given)},
        awaiting=False,
        checks=None,
    )


def _resumed(state: State) -> State:
    """Whatever it paused for gets its patience anew, but a bake goes on where it was."""
    set_right = state.drift_bp is not None
    return _with(state, paused="", error_s=0.0, checks_error_s=0.0, unready_s=0.0, set_right=set_right)


# --- decisions --------------------------------------------------------------------------------------------


def _decided(state: State, entry: e.Entry, told: e.Decided) -> State:
    state = _told(state, entry, told.words)
    match told.decision:
        case e.Decision.PASS_CHECKS:
            return _with(
                state, phase=Phase.RAISING, step=told.step, awaiting=False,
                checks=None, tried=None, checks_error_s=0.0,
            )  # fmt: skip
        case e.Decision.AWAIT:
            return _owed(_with(state, awaiting=True), entry, "awaiting_approval", told.words)
        case e.Decision.PASS_STEP:
            return _passed(_owed(state, entry, "step_passed", told.words), told)
        case e.Decision.PAUSE:
            return _owed(_with(state, paused=told.words), entry, "paused", told.words)
        case e.Decision.ABORT:
            return _aborting(state, entry, told.words)
    return state


def _passed(state: State, told: e.Decided) -> State:
    state = _with(state, pass_by="", baked_s=0.0, error_s=0.0, step=told.step)
    if state.weight_bp == 10_000:
        return _with(state, phase=Phase.PROMOTING)
    return _with(state, phase=Phase.CHECKING, checks=None)


def _aborting(state: State, entry: e.Entry, words: str) -> State:
    if state.phase is Phase.ABORTING:
        return state
    state = _with(
        state, phase=Phase.ABORTING, paused="", awaiting=False, reason=words, detected_at=entry.at,
        failures=0, done=frozenset(), open=None,
    )  # fmt: skip
    return _owed(state, entry, "aborting", words)


def _noted(state: State, entry: e.Entry, told: e.Noted) -> State:
    if told.what == "impact":
        return _with(state, impact=told.facts)
    state = _told(state, entry, told.words)
    return _owed(state, entry, told.what, told.words) if told.what == "alarm" else state


def _finished(state: State, entry: e.Entry, told: e.Finished) -> State:
    phase = Phase.PROMOTED if told.outcome is e.Outcome.PROMOTED else Phase.ABORTED
    state = _with(state, phase=phase, ended_at=entry.at, reason=state.reason or told.words)
    return _owed(_told(state, entry, told.words), entry, told.outcome.value, told.words)
