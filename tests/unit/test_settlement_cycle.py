"""The cycle's steps: the whole table of what is legal, idempotence, retries, conflicts."""

import datetime as dt
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finflow.kernel.errors import CATALOGUE
from finflow.settlement import model
from finflow.settlement.model import Action, Cycle, Refused, Step, Taken, take

_CUT_OFF = dt.datetime(2026, 6, 1, 15, tzinfo=dt.UTC)
_AFTER = _CUT_OFF + dt.timedelta(minutes=1)
_ACTIONS: tuple[Action, ...] = get_args(Action)


def _cycle(*steps: Step) -> Cycle:
    return Cycle(1, "EUR", dt.date(2026, 6, 1), _CUT_OFF, steps)


_CLOSE = Step("close", _AFTER, "orders")
_NET = Step("net", _AFTER, "report")
_SUBMIT = Step("submit", _AFTER, "report", 1)
_SETTLE = Step("settle", _AFTER, "report", 1)
_FAIL = Step("fail", _AFTER, "rail is down", 1)
_RETURN = Step("return", _AFTER, "rail returned it", 1)
_PATHS: dict[str, tuple[Step, ...]] = {
    "open": (),
    "closed": (_CLOSE,),
    "netted": (_CLOSE, _NET),
    "submitted": (_CLOSE, _NET, _SUBMIT),
    "settled": (_CLOSE, _NET, _SUBMIT, _SETTLE),
    "failed": (_CLOSE, _NET, _SUBMIT, _FAIL),
    "returned": (_CLOSE, _NET, _SUBMIT, _RETURN),
}
# Written out by hand from the arrows.
_LEGAL = {
    ("open", "close"),
    ("closed", "net"),
    ("netted", "submit"),
    ("submitted", "settle"),
    ("submitted", "fail"),
    ("submitted", "return"),
    ("failed", "submit"),
}


def _fresh(state: str, action: Action) -> Step:
    """A step of this action that was never taken, with the attempt that is due."""
    submissions = sum(each.action == "submit" for each in _PATHS[state])
    evidence = "report" if action in ("submit", "settle") else "new evidence"
    return Step(action, _AFTER, evidence, submissions + (action == "submit"))


@pytest.mark.parametrize("state", _PATHS)
@pytest.mark.parametrize("action", _ACTIONS)
def test_what_each_state_takes(state: str, action: Action) -> None:
    cycle = _cycle(*_PATHS[state])
    assert cycle.state == state
    step = _fresh(state, action)
    answer = take(cycle, step)
    if (state, action) in _LEGAL:
        assert isinstance(answer, Taken)
        assert answer.changed
        assert answer.cycle.steps == (*cycle.steps, step)
    elif step in cycle.steps:
        assert answer == Taken(cycle, changed=False)
    else:
        assert isinstance(answer, Refused)
        assert answer.code in CATALOGUE


@given(st.permutations([*_PATHS["settled"]] * 2))
def test_repeated_and_reordered_steps_end_where_the_steps_once_in_order_do(steps: list[Step]) -> None:
    """Whatever a restarted worker sends again, and in whatever order: twice through the list settles."""
    cycle = _cycle()
    for _ in range(4):
        for step in steps:
            answer = take(cycle, step)
            if isinstance(answer, Taken):
                cycle = answer.cycle
    assert cycle.state == "settled"
    assert cycle.steps == _PATHS["settled"]


@given(
    st.lists(
        st.builds(
            Step,
            st.sampled_from(_ACTIONS),
            st.just(_AFTER),
            st.sampled_from(["orders", "report", "x"]),
            st.integers(0, 3),
        ),
        max_size=30,
    )
)
def test_any_sequence_of_steps_leaves_a_legal_history(steps: list[Step]) -> None:
    cycle = _cycle()
    for step in steps:
        before = cycle
        answer = take(cycle, step)
        if isinstance(answer, Taken):
            cycle = answer.cycle
            assert answer.changed == (step not in before.steps)
            # And once more: nothing changes.
            assert take(cycle, step) == Taken(cycle, changed=False)
    states = ["open", *(_cycle(*cycle.steps[:n]).state for n in range(1, len(cycle.steps) + 1))]
    pairs = list(zip(states, [each.action for each in cycle.steps], strict=False))
    assert set(pairs) <= _LEGAL
    assert sum(each.action in ("settle", "return") for each in cycle.steps) <= 1


def test_a_failed_cycle_is_submitted_again_and_no_more_often_than_allowed() -> None:
    cycle = _cycle(_CLOSE, _NET)
    for attempt in range(1, model.MAX_SUBMISSIONS + 1):
        for action, evidence in (("submit", "report"), ("fail", "rail is down")):
            answer = take(cycle, Step(action, _AFTER, evidence, attempt))  # type: ignore[arg-type] # of _ACTIONS
            assert isinstance(answer, Taken)
            assert answer.changed
            cycle = answer.cycle
    answer = take(cycle, Step("submit", _AFTER, "report", model.MAX_SUBMISSIONS + 1))
    assert isinstance(answer, Refused)
    assert answer.code == "retries_exhausted"


def test_the_answer_to_an_earlier_submission_does_not_settle_a_later_one() -> None:
    cycle = _cycle(_CLOSE, _NET, _SUBMIT, _FAIL, msgspec.structs.replace(_SUBMIT, attempt=2))
    answer = take(cycle, _SETTLE)
    assert isinstance(answer, Refused)
    assert answer.code == "cycle_step_conflict"


@pytest.mark.parametrize(
    ("state", "step", "code"),
    [
        ("open", Step("close", _CUT_OFF - dt.timedelta(microseconds=1), "orders"), "cycle_not_due"),
        ("closed", Step("close", _AFTER, "other orders"), "cycle_step_conflict"),
        ("settled", Step("net", _AFTER, "other report"), "cycle_step_conflict"),
        ("netted", Step("submit", _AFTER, "other report", 1), "cycle_not_netted"),
        ("submitted", Step("settle", _AFTER, "other report", 1), "cycle_not_netted"),
        ("open", Step("settle", _AFTER, "report", 1), "cycle_step_refused"),
        ("settled", Step("return", _AFTER, "late", 1), "cycle_step_refused"),
    ],
)
def test_refusals_have_their_codes(state: str, step: Step, code: str) -> None:
    answer = take(_cycle(*_PATHS[state]), step)
    assert isinstance(answer, Refused)
    assert answer.code == code


def test_orders_join_until_the_cut_off_and_only_while_it_is_open() -> None:
    just_before = _CUT_OFF - dt.timedelta(microseconds=1)
    assert model.accepts_orders(_cycle(), just_before)
    assert not model.accepts_orders(_cycle(), _CUT_OFF)
    assert not model.accepts_orders(_cycle(_CLOSE), just_before)
