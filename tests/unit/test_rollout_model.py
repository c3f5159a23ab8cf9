"""What the controller does next: a table of situations, and walks of every kind that keep its promises."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from finflow.rollout import events as e
from finflow.rollout import model
from finflow.rollout.fold import applied, folded
from finflow.rollout.spec import processes_for
from finflow.rollout.state import Phase, State
from finflow.rollout.verdicts import Judgement, Reading, Side, Verdict
from stubs.rollout_specs import spec

SPEC = spec(
    steps=[
        {"weight_percent": 5, "bake_s": 10, "minimum_requests": 100},
        {"weight_percent": 50, "bake_s": 10, "approval": True},
        {"weight_percent": 100, "bake_s": 10},
    ],
    policy={"look_every_s": 1, "patience_s": 5, "error_after_s": 3, "unready_after_s": 2},
)
JUST_LOOKED = model.Since(look_s=0.0, checks_s=0.0, failure_s=0.0)
LONG_AGO = model.Since(look_s=60.0, checks_s=60.0, failure_s=60.0)


def walked(*events: e.Event) -> State:
    started = e.Started("rol_1", "shop", "1.0", "1.1", "d", msgspec.to_builtins(SPEC))
    return folded(
        e.Entry(number, "", f"2026-06-01T10:00:{number % 60:02d}Z", "ann@desk", told)
        for number, told in enumerate((started, *events), 1)
    )


def done(intent: e.Intent, ok: bool = True, *judgements: Judgement) -> e.Done:
    return e.Done(intent, ok, "" if ok else "it failed", judgements=judgements)


def word(verdict: Verdict, **numbers: str) -> Judgement:
    return Judgement("gate", verdict, numbers, f"it says {verdict}")


def looked(verdict: Verdict, delta_s: float = 1.0, requests: int = 0, **more: Any) -> e.Looked:
    known: dict[str, Any] = {
        "step": 0, "at_s": 0.0, "intended_bp": 500, "weight_bp": 500, "ready": 1, "processes": 1,
        "delta_s": delta_s, "verdict": verdict, "judgements": (word(verdict),),
        "readings": {Side.CANDIDATE: Reading(requests, 0)},
    }  # fmt: skip
    return e.Looked(**known | more)


CHECKED = (done(e.Prepare()), done(e.AskChecks(0)))
PASSED = (*CHECKED, e.Decided(e.Decision.PASS_CHECKS, 0, ""))
SCALED = (*PASSED, done(e.Scale(0, 1)), done(e.AskChecks(0, True)))
BAKING = (*SCALED, done(e.SetWeight(0, 500)))
PASS, UNSURE, ERROR, FAIL = Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.ERROR, Verdict.FAIL
PROMOTING = (*BAKING, done(e.SetWeight(2, 10_000)), e.Decided(e.Decision.PASS_STEP, 2, ""))
ABORTING = (*BAKING, e.Ordered(e.Order.ABORT, "o", True))

TABLE: list[tuple[str, tuple[e.Event, ...], object]] = [
    ("the baseline is prepared first", (), e.Prepare()),
    ("then the checks are asked", CHECKED[:1], e.AskChecks(0)),
    ("checks that pass let the step be taken", CHECKED, e.Decision.PASS_CHECKS),
    ("a check that fails aborts", (CHECKED[0], done(e.AskChecks(0), True, word(FAIL))), e.Decision.ABORT),
    (
        "one that waits for a person awaits",
        (CHECKED[0], done(e.AskChecks(0), True, word(UNSURE))),
        e.Decision.AWAIT,
    ),
    ("the processes come before the weight", PASSED, e.Scale(0, 1)),
    ("they are tried out before it, too", (*PASSED, done(e.Scale(0, 1))), e.AskChecks(0, True)),
    ("then the weight", SCALED, e.SetWeight(0, 500)),
    (
        "a smoke test that fails aborts",
        (*SCALED[:-1], done(e.AskChecks(0, True), True, word(FAIL))),
        e.Decision.ABORT,
    ),
    ("a bake that is not over goes on", (*BAKING, looked(PASS, 0), looked(PASS, 9.9, 500)), model.Wait),
    (
        # The source begins at nothing with each controller; what was counted before was answered, too.
        "requests of the controller before count",
        (
            *BAKING,
            looked(PASS, 0, 900),
            looked(PASS, 5, 970),
            e.TookOver(2, 1, "h"),
            looked(PASS, 0, 7),
            looked(PASS, 5, 37),
        ),
        e.Decision.PASS_STEP,
    ),
    (
        "requests of the controller before do not count twice",
        (
            *BAKING,
            looked(PASS, 0, 900),
            looked(PASS, 5, 970),
            e.TookOver(2, 1, "h"),
            looked(PASS, 0, 7),
            looked(PASS, 5, 36),
        ),
        model.Wait,
    ),
    ("too few requests go on", (*BAKING, looked(PASS, 0), looked(PASS, 10, 99)), model.Wait),
    ("enough of both passes", (*BAKING, looked(PASS, 0), looked(PASS, 10, 100)), e.Decision.PASS_STEP),
    ("inconclusive goes on for a while", (*BAKING, looked(UNSURE, 0), looked(UNSURE, 14.9, 999)), model.Wait),
    ("and then pauses", (*BAKING, looked(UNSURE, 0), looked(UNSURE, 15, 999)), e.Decision.PAUSE),
    ("fail aborts at once", (*BAKING, looked(FAIL, 0)), e.Decision.ABORT),
    (
        "fail aborts while paused",
        (*BAKING, e.Ordered(e.Order.PAUSE, "o", True), looked(FAIL, 0)),
        e.Decision.ABORT,
    ),
    ("an error is borne", (*BAKING, looked(ERROR, 3)), model.Wait),
    ("not for long", (*BAKING, looked(ERROR, 2), looked(ERROR, 2)), e.Decision.PAUSE),
    (
        "errors between good looks do not add up",
        (*BAKING, looked(ERROR, 2), looked(PASS, 1), looked(ERROR, 2)),
        model.Wait,
    ),
    (
        "an error never passes a bake",
        (*BAKING, looked(PASS, 0), looked(ERROR, 3, 999), looked(PASS, 9, 999), looked(ERROR, 1, 999)),
        model.Wait,
    ),
    ("nobody ready aborts", (*BAKING, looked(PASS, 0, ready=0)), e.Decision.ABORT),
    ("some missing are borne", (*BAKING, looked(PASS, 2, ready=1, processes=2)), model.Wait),
    ("not for long either", (*BAKING, looked(PASS, 2.1, ready=1, processes=2)), e.Decision.ABORT),
    ("unknown is not ready", (*BAKING, looked(PASS, 2.1, ready=None)), e.Decision.ABORT),
    ("drift is set right", (*BAKING, looked(PASS, 0, weight_bp=700)), e.SetWeight(0, 500)),
    ("an emergency stop is asked about", (*BAKING, looked(PASS, 0, weight_bp=0)), e.Decision.PAUSE),
    ("an unknown weight is no drift", (*BAKING, looked(PASS, 0, weight_bp=None)), model.Wait),
    (
        "a weight that is being set is no drift",
        (
            *BAKING,
            e.Decided(e.Decision.PASS_STEP, 1, ""),
            e.Decided(e.Decision.PASS_CHECKS, 1, ""),
            done(e.Scale(1, 2)),
            done(e.AskChecks(1, True)),
            e.Intended(e.SetWeight(1, 5000)),
            looked(PASS, 0, weight_bp=5000),
        ),
        e.SetWeight(1, 5000),
    ),
    (
        "an approval is waited for",
        (*BAKING, e.Decided(e.Decision.PASS_STEP, 1, ""), done(e.AskChecks(1))),
        e.Decision.AWAIT,
    ),
    (
        "given, it lets it go on",
        (
            *BAKING,
            e.Decided(e.Decision.PASS_STEP, 1, ""),
            e.Decided(e.Decision.AWAIT, 1, ""),
            e.Ordered(e.Order.APPROVE, "o", True),
            done(e.AskChecks(1)),
        ),
        e.Decision.PASS_CHECKS,
    ),
    (
        "promoting at once leaves no approval out",
        (
            *BAKING,
            looked(PASS, 0),
            e.Ordered(e.Order.PROMOTE_FULL, "o", True),
            e.Decided(e.Decision.PASS_STEP, 1, ""),
            done(e.AskChecks(2)),
        ),
        e.Decision.AWAIT,
    ),
    (
        "promoting at once passes the step",
        (*BAKING, looked(UNSURE, 0), e.Ordered(e.Order.PROMOTE_FULL, "o", True)),
        e.Decision.PASS_STEP,
    ),
    (
        "a weight that cannot be set is tried again",
        (*SCALED, done(e.SetWeight(0, 500), False)),
        e.SetWeight(0, 500),
    ),
    ("three times", (*SCALED, *[done(e.SetWeight(0, 500), False)] * 3), e.Decision.ABORT),
    ("abort is weight 0 first", ABORTING, e.TakeBack()),
    ("for as long as it takes", (*ABORTING, *[done(e.TakeBack(), False)] * 50), e.TakeBack()),
    ("then the end, the processes kept", (*ABORTING, done(e.TakeBack())), e.Outcome.ABORTED),
    (
        "without a weight ever set nobody waits for ever",
        (
            *[done(e.Prepare(), False)] * 3,
            e.Decided(e.Decision.ABORT, 0, "x"),
            *[done(e.TakeBack(), False)] * 3,
        ),
        e.Outcome.ABORTED,
    ),
    ("promoted, the roles are swapped first", PROMOTING, e.Swap()),
    ("then the baseline drains", (*PROMOTING, done(e.Swap())), e.Drain(Side.BASELINE)),
    ("then it stops", (*PROMOTING, done(e.Swap()), done(e.Drain(Side.BASELINE))), e.Stop(Side.BASELINE)),
    (
        "a drain that fails is left to a person",
        (*PROMOTING, done(e.Swap()), *[done(e.Drain(Side.BASELINE), False)] * 3),
        e.Stop(Side.BASELINE),
    ),
    (
        "then the end",
        (*PROMOTING, done(e.Swap()), done(e.Drain(Side.BASELINE)), done(e.Stop(Side.BASELINE))),
        e.Outcome.PROMOTED,
    ),
    ("after it nothing", (*ABORTING, done(e.TakeBack()), e.Finished(e.Outcome.ABORTED, "")), None),
]


@pytest.mark.parametrize(("why", "events", "expected"), TABLE, ids=[row[0] for row in TABLE])
def test_next(why: str, events: tuple[e.Event, ...], expected: object) -> None:
    since = msgspec.structs.replace(JUST_LOOKED, failure_s=60.0)
    found = model.next_(SPEC, walked(*events), since)
    if isinstance(found, model.Decide):
        assert found.decided.decision == expected
    elif isinstance(found, model.Finish):
        assert found.finished.outcome == expected
    elif isinstance(expected, type):
        assert isinstance(found, expected)
    else:
        assert found == expected


def test_failures_are_waited_for_longer_and_longer_but_not_for_ever() -> None:
    waits = []
    for failures in range(1, 12):
        found = model.next_(
            SPEC, walked(*ABORTING, *[done(e.TakeBack(), False)] * failures), model.Since(failure_s=0.0)
        )
        assert isinstance(found, model.Wait)
        waits.append(found.seconds)
    assert waits == sorted(waits)
    assert waits[-1] == 10.0


def test_a_look_is_due_by_the_clock_that_nobody_sets() -> None:
    state = walked(*BAKING, looked(PASS, 0))
    assert model.next_(SPEC, state, model.Since(look_s=0.4)) == model.Wait(0.6)
    assert model.next_(SPEC, state, model.Since(look_s=1.0)) == model.Look()
    assert model.next_(SPEC, state, model.Since()) == model.Look()


@pytest.mark.parametrize(("delta_s", "judged_s"), [(-5.0, 0.0), (1.0, 1.0), (4.9, 4.9), (3600.0, 5.0)])
def test_time_in_which_nobody_looked_is_not_judged(delta_s: float, judged_s: float) -> None:
    assert model.judged_s(SPEC, delta_s) == judged_s


def test_a_bake_of_a_day_has_a_bounded_log() -> None:
    long = spec(steps=[{"weight_percent": 100, "bake_s": 86_400}])
    state, lines, unwritten = walked(*BAKING), 0, 0.0
    for second in range(86_400):
        unwritten += 1.0
        look = looked(PASS, unwritten, second)
        if model.worth_a_line(long, state, look):
            state = applied(state, e.Entry(second, "", "2026-06-01T10:00:00Z", "controller", look))
            lines, unwritten = lines + 1, 0.0
    assert state.baked_s == 86_400
    assert lines < 2_500


@pytest.mark.parametrize(
    "change",
    [{"verdict": UNSURE}, {"ready": 0}, {"weight_bp": 700}, {"verdict": FAIL, "judgements": (word(FAIL),)},
     {"judgements": (word(PASS), word(UNSURE))}],
)  # fmt: skip
def test_whatever_is_new_gets_a_line(change: dict[str, Any]) -> None:
    state = walked(*BAKING, looked(PASS, 0), looked(PASS, 9_000))
    steady = spec(steps=[{"weight_percent": 100, "bake_s": 86_400}])
    assert not model.worth_a_line(steady, state, looked(PASS, 1))
    verdict = change.pop("verdict", PASS)
    assert model.worth_a_line(steady, state, looked(verdict, 1, **change))


class Walk(RuleBasedStateMachine):
    """A controller over a world that does what it likes; kills are forgotten time and folded logs."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = [
            e.Entry(1, "", "2026-06-01T10:00:00Z", "ann", e.Started("r", "shop", "1.0", "1.1", "d", {}))
        ]
        self.state = folded(self.entries)
        # What the world is, as against what the log says of it.
        self.weight, self.processes = 0, 0
        self.order_no = 0
        self.promised_0 = False

    def tell(self, told: e.Event) -> None:
        entry = e.Entry(
            len(self.entries) + 1, "", f"2026-06-01T10:{len(self.entries) // 60 % 60:02d}:00Z", "x", told
        )
        self.entries.append(entry)
        self.state = applied(self.state, entry)

    @property
    def next(self) -> model.Next | None:
        return model.next_(SPEC, self.state, LONG_AGO)

    @rule(
        ok=st.booleans(),
        lost=st.booleans(),
        verdict=st.sampled_from([PASS, PASS, PASS, UNSURE, ERROR, FAIL]),
        seconds=st.sampled_from([1.0, 5.0, 20.0]),
        ready=st.booleans(),
        drift=st.sampled_from([None, None, None, None, 0, 700, 9000]),
    )
    def act(
        self, ok: bool, lost: bool, verdict: Verdict, seconds: float, ready: bool, drift: int | None
    ) -> None:
        """Does what is next; `lost`: killed after the effect and before the line."""
        match self.next:
            case None | model.Wait():
                return
            case model.Decide(decided=decided):
                self.tell(decided)
            case model.Finish(finished=finished):
                self.tell(finished)
            case model.Look():
                self.weight = self.weight if drift is None or self.weight == 0 else drift
                have = self.state.scaled if ready else 0
                self.tell(
                    looked(
                        verdict, seconds, 1000, weight_bp=self.weight, ready=have, processes=self.state.scaled
                    )
                )
            case intent:
                self.carry_out(intent, ok, lost, verdict)

    def carry_out(self, intent: e.Intent, ok: bool, lost: bool, verdict: Verdict) -> None:
        if not isinstance(intent, e.AskChecks):
            self.tell(e.Intended(intent))
        judgements = (word(verdict),) if isinstance(intent, e.AskChecks) else ()
        if ok or lost:
            self.effect(intent)
        if not lost:
            self.tell(e.Done(intent, ok, "it failed", {"since_s": 2.0}, judgements))

    def effect(self, intent: e.Intent) -> None:
        match intent:
            case e.Scale(processes=processes):
                self.processes = max(self.processes, processes)
            case e.SetWeight(weight_bp=weight):
                index = [step.weight_bp for step in SPEC.steps].index(weight)
                assert self.processes >= processes_for(SPEC, index), "more weight than processes"
                self.weight = weight
            case e.Prepare() | e.TakeBack() | e.Swap():
                self.weight = 0

    @rule(order=st.sampled_from(list(e.Order)))
    def order(self, order: e.Order) -> None:
        """People order what they like, also what cannot be followed."""
        self.order_no += 1
        refusal = model.refusal(self.state, order)
        self.tell(e.Ordered(order, str(self.order_no), not refusal, refusal))

    @precondition(lambda self: not self.state.ended)
    @rule()
    def killed(self) -> None:
        """A new controller knows what the log says, and nothing else."""
        again = folded(self.entries)
        assert again == self.state
        self.state = again
        self.tell(e.TookOver(self.state.epoch + 1, 1, "desk"))

    @invariant()
    def an_end_leaves_no_weight(self) -> None:
        if self.state.ended:
            assert self.weight == 0
            assert self.state.phase is not Phase.PROMOTED or "swap" in self.state.done

    @invariant()
    def an_abort_stays_one(self) -> None:
        if any(
            isinstance(each.told, e.Decided) and each.told.decision is e.Decision.ABORT
            for each in self.entries
        ):
            assert self.state.phase in (Phase.ABORTING, Phase.ABORTED)

    @invariant()
    def nobody_is_promoted_by_a_look_that_does_not_pass(self) -> None:
        last = self.entries[-1].told
        if (
            isinstance(last, e.Decided)
            and last.decision is e.Decision.PASS_STEP
            and " passed by " not in last.words
        ):
            assert {each.verdict for each in last.judgements} == {PASS}

    @invariant()
    def there_is_always_something_to_do_or_somebody_to_wait_for(self) -> None:
        if not self.state.ended:
            assert self.next is not None


Walk.TestCase.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestWalk = Walk.TestCase
