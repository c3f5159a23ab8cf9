"""The controller is killed at every line that it writes and every port that it calls, before and after.

Each time a new one goes on, and the world must look as if nobody had been killed: the same changes in the
same order, each once, no weight left, every notice once, the log whole.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from finflow.rollout import events as e
from finflow.rollout import log as decisions
from finflow.rollout.fold import folded
from finflow.rollout.lock import ServiceLock
from finflow.rollout.log import DecisionLog
from finflow.rollout.orders import OrderBox
from finflow.rollout.service import Controller
from finflow.rollout.verdicts import Verdict
from stubs.rollout_specs import spec
from stubs.rollout_world import Stage, world

SPEC = spec(
    steps=[{"weight_percent": 5, "bake_s": 0.02}, {"weight_percent": 100, "bake_s": 0.02}],
    policy={"look_every_s": 0.05, "patience_s": 1},
)
_KILLED = 9


class MortalLog(DecisionLog):
    """A log whose writer may die before a line, after it, or with half of it on the disk."""

    def __init__(self, folder: Path, stage: Stage) -> None:
        super().__init__(folder)
        self._stage = stage

    def append(self, who: str, told: e.Event) -> e.Entry:
        found: e.Entry = self._stage.counted(lambda: super(MortalLog, self).append(who, told))
        return found

    def _write(self, line: bytes) -> None:
        if self._stage.when == "torn" and self._stage.calls == self._stage.die_at:
            os.write(self._handle, line[: len(line) // 2])
            os._exit(_KILLED)
        super()._write(line)


def controlled(folder: Path, verdicts: Mapping[int, Verdict], die_at: int, when: str) -> int:
    """What a controller process does: begins the rollout or goes on with it. The number of points passed."""
    stage = Stage(folder / "stage.json", die_at, when)
    lock, log = ServiceLock(folder), MortalLog(folder / "log", stage)
    assert lock.take()
    log.open()
    if not log.entries:
        raw = msgspec.to_builtins(SPEC)
        log.begin("ann@desk", e.Started("rol_1", "shop", "1.0", "1.1", "digest", raw))
    controller = Controller(SPEC, world(stage, verdicts), log, lock, OrderBox(folder))
    asyncio.run(asyncio.wait_for(controller.run(), 20))
    return stage.calls


def in_a_process(work: Callable[[], int]) -> int:
    """Runs it in a process of its own; its exit status, 0 where nobody killed it."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def changed(folder: Path) -> list[str]:
    return [str(each) for each in Stage(folder / "stage.json").load()["history"]]


def events_told(folder: Path) -> list[str]:
    return sorted(event for _, event, _ in Stage(folder / "stage.json").load()["notices"])


GOOD: Mapping[int, Verdict] = {}
BAD = {10_000: Verdict.FAIL}
PROMOTED = [
    "baseline has 4", "backends baseline 4 from 10000",
    "candidate has 1", "backends candidate 1 from 20000", "weight 500",
    "candidate has 4", "backends candidate 4 from 20000", "weight 10000",
    "backends baseline 4 from 20000", "weight 0", "baseline stopped",
]  # fmt: skip
CASES = {
    "good": (GOOD, PROMOTED, ["promoted", "started", "step_passed", "step_passed"]),
    "bad": (BAD, [*PROMOTED[:8], "weight 0"], ["aborted", "aborting", "started", "step_passed"]),
}


@pytest.mark.parametrize("when", ["before", "after", "torn"])
@pytest.mark.parametrize("case", sorted(CASES))
def test_killed_at_every_point_it_ends_as_if_nobody_had_been(tmp_path: Path, case: str, when: str) -> None:
    verdicts, history, told = CASES[case]
    # Every point of a promotion; of the others every fourth, which differ in their ends alone.
    stride = 1 if (case, when) == ("good", "before") else 4
    killed_at = 0
    while True:
        killed_at += stride
        folder = tmp_path / f"{case}-{killed_at}"
        folder.mkdir()
        first = in_a_process(lambda: controlled(folder, verdicts, killed_at, when))  # noqa: B023 - run at once
        if first == 0 and not list((folder / "log").glob("*.torn-*")):
            break
        assert first in (0, _KILLED)
        # The second one is killed, too, a little later: a recovery can be interrupted like everything else.
        in_a_process(lambda: controlled(folder, verdicts, 4, when))  # noqa: B023 - run at once
        assert in_a_process(lambda: controlled(folder, verdicts, 0, when)) == 0  # noqa: B023 - run at once
        assert changed(folder) == history, killed_at
        assert events_told(folder) == told, killed_at
        log = folder / "log"
        assert decisions.verify(log).faults == []
        entries = [entry for path in decisions.files(log) for entry in decisions.read(path)]
        assert sum(isinstance(entry.told, e.Started) for entry in entries) == 1
        assert sum(isinstance(entry.told, e.Finished) for entry in entries) == 1
        assert folded(entries).phase == ("promoted" if case == "good" else "aborted")
    assert killed_at > 40


def test_a_controller_that_was_stopped_keeps_its_service_to_itself(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        lock = ServiceLock(tmp_path)
        os.write(writing, b"taken" if lock.take() else b"not taken")
        os._exit(0 if signal.pause() is None else 1)
    try:
        assert os.read(reading, 9) == b"taken"
        os.kill(pid, signal.SIGSTOP)
        other = ServiceLock(tmp_path)
        assert not other.take()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        # The kernel gives the lock back by itself.
        assert other.take()
        other.give()
    finally:
        os.close(reading)
        os.close(writing)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
