"""What a supervisor decides about a process, as a table; how long it pauses; when something is ready."""

import pytest

from finflow.stack.fleets.folder import Mode, Order, Plan
from finflow.stack.fleets.slots import Act, Slot, decide, ended, looked
from finflow.stack.processes import Process

_PLAN = Plan(
    command=("x",), working_folder="/", stop_timeout_s=10, drain_s=30, hung_after_s=60, memory_limit_mb=100
)
_RUNS = Process(1, 1)


def _order(mode: Mode = "run", processes: int = 2, within_s: float = 5.0) -> Order:
    return Order(1, mode, processes, within_s)


@pytest.mark.parametrize(
    ("slot", "order", "act"),
    [
        (Slot(0), _order(), Act.START),
        (Slot(0, again_s=101), _order(), Act.WAIT),
        (Slot(2), _order(), Act.FORGET),
        (Slot(0), _order("drain"), Act.FORGET),
        (Slot(0, process=_RUNS, born_s=99), _order(), Act.WAIT),
        (Slot(2, process=_RUNS, born_s=99), _order(), Act.END),
        (Slot(0, process=_RUNS, born_s=99), _order("drain"), Act.END),
        (Slot(0, process=_RUNS, born_s=99), _order("stop"), Act.END),
        (Slot(0, process=_RUNS, born_s=99, resident_bytes=101 << 20), _order(), Act.END),
        (Slot(0, process=_RUNS, born_s=99, resident_bytes=99 << 20), _order(), Act.WAIT),
        (Slot(0, process=_RUNS, born_s=1, answered_s=39), _order(), Act.END),
        (Slot(0, process=_RUNS, born_s=1, answered_s=41), _order(), Act.WAIT),
        (Slot(0, process=_RUNS, ending_for="drain", ending_s=96), _order("drain"), Act.WAIT),
        (Slot(0, process=_RUNS, ending_for="drain", ending_s=95), _order("drain"), Act.KILL),
        (Slot(0, process=_RUNS, ending_for="drain", ending_s=95, killed=True), _order("drain"), Act.WAIT),
        (Slot(2, process=_RUNS, ending_for="scale", ending_s=71), _order(), Act.WAIT),
        (Slot(2, process=_RUNS, ending_for="scale", ending_s=70), _order(), Act.KILL),
        (Slot(0, process=_RUNS, ending_for="hung", ending_s=90), _order(), Act.KILL),
        (Slot(0, process=_RUNS, ending_for="drain", ending_s=90), _order("stop"), Act.KILL),
        (Slot(0, process=_RUNS, ending_for="drain", ending_s=99), _order("run"), Act.WAIT),
    ],
)
def test_acts(slot: Slot, order: Order, act: Act) -> None:
    assert decide(slot, order, _PLAN, now_s=100.0) is act


def test_pauses_grow_while_it_dies_young_and_begin_anew_after_a_long_life() -> None:
    slot, pauses = Slot(0), []
    for lived_s in (1, 1, 1, 1, 1, 1, 1, 1, 11, 1):
        slot.born_s, slot.process = 100.0, _RUNS
        ended(slot, "failed", 100.0 + lived_s)
        pauses.append(round(slot.again_s - 100.0 - lived_s, 3))
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 0.1, 0.2]


@pytest.mark.parametrize(("told", "pause"), [("drain", 0.0), ("scale", 0.0), ("memory", 0.1), ("hung", 0.1)])
def test_what_was_told_to_end_has_not_died(told: str, pause: float) -> None:
    slot = Slot(0, process=_RUNS, born_s=100.0, ending_for=told)
    ended(slot, told, 101.0)
    assert (round(slot.again_s - 101.0, 3), slot.ending_for) == (pause, "")


@pytest.mark.parametrize(("was_ready", "port"), [(True, 20_001), (False, 0)])
def test_a_port_is_kept_once_it_was_good(was_ready: bool, port: int) -> None:
    slot = Slot(0, port=20_001, process=_RUNS, was_ready=was_ready)
    ended(slot, "killed", 1.0)
    assert slot.port == port


def test_one_bad_look_is_forgiven_two_are_not() -> None:
    slot = Slot(0, process=_RUNS)
    seen = []
    for status in (None, 503, 200, None, 200, 500, 500, 200):
        changed = looked(slot, status, _PLAN, 7.0)
        seen.append((slot.ready, changed))
    assert seen == [
        (False, False), (False, False), (True, True), (True, False), (True, False), (True, False),
        (False, True), (True, True),
    ]  # fmt: skip


def test_any_answer_proves_that_it_does_not_hang() -> None:
    slot = Slot(0, process=_RUNS)
    looked(slot, None, _PLAN, 5.0)
    assert slot.answered_s == 0.0
    looked(slot, 503, _PLAN, 6.0)
    assert slot.answered_s == 6.0
