"""The screen of `finflow rollout show`, kept here as it must look at four moments of a rollout."""

from typing import Any

import msgspec
import pytest

from finflow.cli.rollout_screen import history, plain, screen
from finflow.rollout import events as e
from finflow.rollout.fold import folded
from finflow.rollout.state import State
from finflow.rollout.verdicts import Judgement, Reading, Side, Verdict
from stubs.rollout_specs import spec

SPEC = spec(
    steps=[
        {"weight_percent": 5, "bake_s": 60, "minimum_requests": 1000},
        {"weight_percent": 50, "bake_s": 120},
        {"weight_percent": 100, "bake_s": 60, "approval": True},
    ]
)


def told(*events: e.Event, who: str = "controller") -> State:
    """The state after these, a second apart."""
    started = e.Started(
        "rol_1", "shop", "1.0", "1.1", "d", msgspec.to_builtins(SPEC), commit="0123456789abcdef"
    )
    entries = [e.Entry(1, "", "2026-06-01T10:00:00Z", "ann@desk", started)]
    for number, each in enumerate((e.TookOver(1, 4711, "desk"), *events), 1):
        entries.append(e.Entry(number + 1, "", f"2026-06-01T10:00:{number:02d}Z", who, each))
    return folded(entries)


def done(intent: e.Intent, **more: Any) -> e.Done:
    return e.Done(intent, True, **more)


SERVING = (
    done(e.Prepare()),
    done(e.AskChecks(0)),
    e.Decided(e.Decision.PASS_CHECKS, 0, "step 1 may be taken"),
    done(e.Scale(0, 1)),
    done(e.SetWeight(0, 500)),
)


def looked(delta_s: float, requests: int, **more: Any) -> e.Looked:
    judgements = more.pop("judgements", (
        Judgement("errors", Verdict.PASS, {"evidence": 0.1234, "candidate_requests": 1234}, "All is well."),
        Judgement("latency", Verdict.INCONCLUSIVE, {}, "12 requests on the candidate; 100 are needed."),
    ))  # fmt: skip
    readings = {Side.BASELINE: Reading(19 * requests, 3), Side.CANDIDATE: Reading(requests, 1)}
    return e.Looked(
        step=0, at_s=0.0, intended_bp=500, weight_bp=more.pop("weight_bp", 500), ready=more.pop("ready", 1),
        processes=1, delta_s=delta_s, verdict=Verdict.INCONCLUSIVE, judgements=judgements, readings=readings,
    )  # fmt: skip


BAKING = """\
shop  rol_1
Status:      ◉ baking, step 1 of 3
Candidate:   1.1 (commit 0123456789ab)
Baseline:    1.0
Started:     2026-06-01 10:00:00Z by ann@desk
Controller:  process 4711, epoch 1

STEPS
  ◉  1      5 %  1 process     ██████████░░░░░░░░░░  30 of 60 s, 1,000 requests
  ·  2     50 %  2 processes   bake 120 s
  ·  3    100 %  4 processes   bake 60 s, approval

TRAFFIC
  baseline   1.0            ██████████████████████████████████████░░     95 %     18,810 requests  0 errors
  candidate  1.1            ██░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░      5 %        990 requests  0 errors

GATES
  ✔ errors       pass         evidence 0.123, candidate_requests 1,234
  ? latency      inconclusive 12 requests on the candidate; 100 are needed.

FLEETS
  candidate  1.1            1 of 1 process ready

LAST DECISIONS
  10:00:00  ann@desk         rollout of 1.1 over 1.0 started
  10:00:04  controller       step 1 may be taken
  10:00:06  controller       step 1: weight 5 %, read back

hint: finflow rollout abort shop"""


def test_baking() -> None:
    state = told(*SERVING, looked(0.0, 10), looked(30.0, 1000))
    assert plain(screen(SPEC, state, 4711)) == BAKING


ABORTED = """\
shop  rol_1
Status:      ✖ aborted: errors: 9 of 10 failed
Candidate:   1.1 (commit 0123456789ab)
Baseline:    1.0
Started:     2026-06-01 10:00:00Z by ann@desk
Ended:       2026-06-01 10:00:10Z

STEPS
  ✖  1      5 %  1 process     bake 60 s, 1,000 requests
  ·  2     50 %  2 processes   bake 120 s
  ·  3    100 %  4 processes   bake 60 s, approval

TRAFFIC
  baseline   1.0            ████████████████████████████████████████    100 %          0 requests  0 errors
  candidate  1.1            ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░      0 %          0 requests  0 errors
  touched by 1.1: 12 customers, 34 transactions, 10.00 EUR, 5.50 SGD

GATES
  ✖ errors       fail         9 of 10 failed

FLEETS
  candidate  1.1            1 of 1 process ready

LAST DECISIONS
  10:00:00  ann@desk         rollout of 1.1 over 1.0 started
  10:00:04  controller       step 1 may be taken
  10:00:06  controller       step 1: weight 5 %, read back
  10:00:08  controller       errors: 9 of 10 failed
  10:00:09  controller       weight 0, read back from the ingress
  10:00:10  controller       1.1 taken back

hint: finflow rollout log shop"""


def test_aborted() -> None:
    failed = Judgement("errors", Verdict.FAIL, {}, "9 of 10 failed")
    impact = {"customers": 12, "transactions": 34, "money": {"SGD": "5.50", "EUR": "10.00"}}
    state = told(
        *SERVING,
        looked(0.0, 10, judgements=(failed,)),
        e.Decided(e.Decision.ABORT, 0, "errors: 9 of 10 failed", (failed,)),
        done(e.TakeBack()),
        e.Finished(e.Outcome.ABORTED, "1.1 taken back"),
        e.Noted("impact", "", impact),
    )
    assert plain(screen(SPEC, state, None)) == ABORTED


def test_without_a_controller_it_says_that_nothing_is_judged() -> None:
    text = plain(screen(SPEC, told(*SERVING, looked(1.0, 10)), None))
    assert "Controller:  none: the split stays as it is, and nothing is judged" in text
    assert text.endswith("hint: finflow rollout run shop")


def test_a_weight_that_somebody_else_set_stands_out() -> None:
    text = plain(screen(SPEC, told(*SERVING, looked(1.0, 10, weight_bp=7000)), 1))
    assert "  set by somebody else; intended are 5 %" in text
    assert "70 %" in text


@pytest.mark.parametrize(
    ("event", "status", "hint"),
    [
        (e.Ordered(e.Order.PAUSE, "o1", True), "‖ paused at step 1 of 3: by controller", "resume"),
        (e.Decided(e.Decision.PAUSE, 0, "inconclusive"), "‖ paused at step 1 of 3: inconclusive", "promote"),
        (e.Decided(e.Decision.AWAIT, 0, "step 1 waits"), "‖ waits for approval of step 1 of 3", "approve"),
    ],
)  # fmt: skip
def test_the_hint_is_the_next_command(event: e.Event, status: str, hint: str) -> None:
    text = plain(screen(SPEC, told(*SERVING, event), 1))
    assert f"Status:      {status}" in text
    assert text.endswith(f"hint: finflow rollout {hint} shop")


def test_promoted_is_everybody() -> None:
    state = told(*SERVING, done(e.Swap()), e.Finished(e.Outcome.PROMOTED, "1.1 serves everybody"))
    text = plain(screen(SPEC, state, None))
    assert "  everybody  1.1            ████████████████████████████████████████    100 %" in text
    assert text.count("\n  ✔ ") == 3


def test_history_is_a_rollout_a_line() -> None:
    state = told(*SERVING, e.Finished(e.Outcome.ABORTED, "too slow"))
    assert history([state]).splitlines() == [
        "STARTED               CANDIDATE  BASELINE  IS       ENDED                 WHY",
        "2026-06-01 10:00:00Z  1.1        1.0       aborted  2026-06-01 10:00:07Z  too slow",
    ]
