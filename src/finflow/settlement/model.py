"""A settlement cycle as a state machine. Pure: a step and the cycle in, the new cycle or a refusal out.

open -> closed -> netted -> submitted -> settled | failed | returned, and from failed back to submitted when
it is tried again. Every step carries a digest of what it rests on (the orders closed over, the netting
report, the rail's answer). The same step with the same digest changes nothing, so it can be repeated after
a crash; the same step with another digest is a conflict and is refused.
"""

import datetime as dt
from typing import Final, Literal

import msgspec

State = Literal["open", "closed", "netted", "submitted", "settled", "failed", "returned"]
Action = Literal["close", "net", "submit", "settle", "fail", "return"]
Code = Literal[
    "cycle_step_refused", "cycle_step_conflict", "cycle_not_due", "cycle_not_netted", "retries_exhausted"
]

TRANSITIONS: Final[dict[tuple[State, Action], State]] = {
    ("open", "close"): "closed",
    ("closed", "net"): "netted",
    ("netted", "submit"): "submitted",
    ("submitted", "settle"): "settled",
    ("submitted", "fail"): "failed",
    ("submitted", "return"): "returned",
    ("failed", "submit"): "submitted",
}
FINAL: Final[frozenset[State]] = frozenset({"settled", "returned"})
MAX_SUBMISSIONS: Final = 5


class Step(msgspec.Struct, frozen=True):
    """One step: what, when, the digest of what it rests on, and which submission it belongs to.

    `attempt` counts submissions from 1; the steps before the first submission have 0.
    """

    action: Action
    at: dt.datetime
    evidence: str
    attempt: int = 0


class Cycle(msgspec.Struct, frozen=True):
    """A cycle of one currency and value date, with all its steps in order."""

    cycle_no: int
    currency: str
    value_date: dt.date
    cut_off_at: dt.datetime
    steps: tuple[Step, ...] = ()

    @property
    def state(self) -> State:
        """What the steps lead to; they were each checked when they were taken."""
        state: State = "open"
        for step in self.steps:
            state = TRANSITIONS[state, step.action]
        return state

    @property
    def submissions(self) -> int:
        return sum(step.action == "submit" for step in self.steps)

    def evidence_of(self, action: Action) -> str | None:
        """The digest of the last step of this kind."""
        return next((step.evidence for step in reversed(self.steps) if step.action == action), None)


class Taken(msgspec.Struct, frozen=True):
    """The cycle after a step; `changed` is False if the step had been taken before."""

    cycle: Cycle
    changed: bool


class Refused(msgspec.Struct, frozen=True):
    """Why a step was not taken; the code is one of the error catalogue."""

    code: Code
    detail: str


def take(cycle: Cycle, step: Step) -> Taken | Refused:
    """The answer to a step. The rules are asked in this order."""
    if any(_same(each, step) for each in cycle.steps):
        return Taken(cycle, changed=False)
    if (cycle.state, step.action) not in TRANSITIONS:
        return _illegal(cycle, step)
    if step.attempt != _attempt_due(cycle, step.action):
        return Refused("cycle_step_conflict", f"submission {step.attempt} is not the one that is under way")
    if step.action == "close" and step.at < cycle.cut_off_at:
        return Refused("cycle_not_due", f"the cut-off is at {cycle.cut_off_at.isoformat()}")
    if step.action in ("submit", "settle") and step.evidence != cycle.evidence_of("net"):
        return Refused("cycle_not_netted", "what is to be settled is not what was netted")
    if step.action == "submit" and cycle.submissions >= MAX_SUBMISSIONS:
        return Refused("retries_exhausted", f"submitted {cycle.submissions} times")
    return Taken(msgspec.structs.replace(cycle, steps=(*cycle.steps, step)), changed=True)


def _attempt_due(cycle: Cycle, action: Action) -> int:
    """A new submission counts one up; the rail's answer belongs to the last one."""
    return cycle.submissions + (action == "submit")


def _same(one: Step, other: Step) -> bool:
    return (one.action, one.evidence, one.attempt) == (other.action, other.evidence, other.attempt)


def _illegal(cycle: Cycle, step: Step) -> Refused:
    before = cycle.evidence_of(step.action)
    if before is not None and before != step.evidence:
        return Refused("cycle_step_conflict", f"{step.action!r} was done on {before}, not on {step.evidence}")
    return Refused("cycle_step_refused", f"a cycle that is {cycle.state} does not take {step.action!r}")


def accepts_orders(cycle: Cycle, at: dt.datetime) -> bool:
    """Whether an order may still join: the cycle is open and its cut-off lies ahead."""
    return cycle.state == "open" and at < cycle.cut_off_at
