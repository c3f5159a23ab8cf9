"""The controller over a world that survives it: good and bad candidates, people, trouble outside."""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from finflow.kernel.errors import FinFlowError
from finflow.rollout import events as e
from finflow.rollout import log as decisions
from finflow.rollout.fold import folded
from finflow.rollout.lock import ServiceLock
from finflow.rollout.log import DecisionLog
from finflow.rollout.orders import OrderBox
from finflow.rollout.service import Controller
from finflow.rollout.spec import RolloutSpec
from finflow.rollout.state import Phase, State
from finflow.rollout.verdicts import Judgement, Verdict
from finflow.rollout.world import World
from stubs.rollout_specs import spec
from stubs.rollout_world import Stage, StageCheck, world

QUICK = {
    "look_every_s": 0.05,
    "patience_s": 0.1,
    "error_after_s": 0.2,
    "unready_after_s": 0.1,
    "recheck_every_s": 0.1,
}

LONG = [{"weight_percent": 5, "bake_s": 60}, {"weight_percent": 100, "bake_s": 1}]
HALF = [{"weight_percent": 5, "bake_s": 0.5}, {"weight_percent": 100, "bake_s": 0.1}]


class Run:
    """One controller in this process, and what a person would see of it."""

    def __init__(self, folder: Path, found: RolloutSpec, there: World) -> None:
        self.folder, self.spec, self.world = folder, found, there
        self.lock = ServiceLock(folder)
        self.log = DecisionLog(folder / "log")
        self.orders = OrderBox(folder)

    def begin(self) -> Controller:
        assert self.lock.take()
        self.log.open()
        if not self.log.entries:
            raw = msgspec.to_builtins(self.spec)
            self.log.begin(
                "ann@desk",
                e.Started("rol_1", self.spec.service, "1.0", "1.1", "digest", raw),
            )
        return Controller(self.spec, self.world, self.log, self.lock, self.orders)

    async def to_the_end(self) -> State:
        controller = self.begin()
        try:
            async with asyncio.timeout(20):
                await controller.run()
            return controller.state
        finally:
            self.end()

    def end(self) -> None:
        self.log.close()
        self.lock.give()

    def state(self) -> State:
        return folded(decisions.read(decisions.files(self.folder / "log")[-1]))

    async def until(self, so: Callable[[State], bool]) -> State:
        async with asyncio.timeout(10):
            while not so(state := self.state()):
                await asyncio.sleep(0.01)
        return state

    @contextlib.asynccontextmanager
    async def going(self) -> Any:
        controller = self.begin()
        task = asyncio.create_task(controller.run())
        await asyncio.sleep(0)
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.end()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "stage.json")


def run_of(tmp_path: Path, there: World, **changes: Any) -> Run:
    policy = {**QUICK, **changes.pop("policy", {})}
    return Run(tmp_path / "service", spec(policy=policy, **changes), there)


GOOD = [
    "baseline has 4", "backends baseline 4 from 10000",
    "candidate has 1", "backends candidate 1 from 20000", "weight 500",
    "candidate has 2", "backends candidate 2 from 20000", "weight 5000",
    "candidate has 4", "backends candidate 4 from 20000", "weight 10000",
    "backends baseline 4 from 20000", "weight 0", "baseline stopped",
]  # fmt: skip


async def test_a_good_candidate_serves_everybody_and_the_baseline_ends(tmp_path: Path, stage: Stage) -> None:
    run = run_of(tmp_path, world(stage))
    state = await run.to_the_end()
    assert state.phase is Phase.PROMOTED
    left = stage.load()
    assert left["history"] == GOOD
    assert [event for _, event, _ in left["notices"]] == ["started", *["step_passed"] * 3, "promoted"]
    assert decisions.verify(run.folder / "log").faults == []
    kinds = [type(entry.told).__name__ for entry in run.log.entries]
    # Every side effect stands between its intention and its outcome.
    assert kinds.count("Intended") == sum(
        isinstance(each.told, e.Done) and not isinstance(each.told.intent, e.AskChecks)
        for each in run.log.entries
    )


async def test_a_candidate_that_fails_from_half_on_is_taken_back(tmp_path: Path, stage: Stage) -> None:
    run = run_of(tmp_path, world(stage, {5000: Verdict.FAIL}))
    state = await run.to_the_end()
    assert state.phase is Phase.ABORTED
    left = stage.load()
    assert left["weight"] == 0
    assert left["history"] == [*GOOD[:8], "weight 0"]
    assert left["fleets"] == {"baseline": 4, "candidate": 2}  # kept for inspection
    assert "the gate says fail" in state.reason
    assert [event for _, event, _ in left["notices"]][-2:] == ["aborting", "aborted"]


async def test_stopped_after_an_abort_where_the_policy_says_so(tmp_path: Path, stage: Stage) -> None:
    run = run_of(tmp_path, world(stage, {500: Verdict.FAIL}), policy={"candidate_after_abort": "stop"})
    assert (await run.to_the_end()).phase is Phase.ABORTED
    assert stage.load()["fleets"] == {"baseline": 4, "candidate": 0}


async def test_a_candidate_that_never_becomes_ready_never_gets_a_weight(tmp_path: Path, stage: Stage) -> None:
    there = world(stage)
    there.candidate.never_ready = True  # type: ignore[attr-defined]
    state = await run_of(tmp_path, there).to_the_end()
    assert state.phase is Phase.ABORTED
    assert "did not become ready" in state.reason
    assert set(there.ingress.weights) == {0}  # type: ignore[attr-defined]


async def test_processes_that_die_abort_instead_of_being_waited_for(tmp_path: Path, stage: Stage) -> None:
    run = run_of(tmp_path, world(stage), steps=LONG)
    async with run.going() as task:
        await run.until(lambda state: state.weight_bp == 500 and state.look is not None)
        run.world.candidate.missing = 1  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            assert await task is Phase.ABORTED
    assert stage.load()["weight"] == 0
    assert run.state().reason == "no process of 1.1 is ready"


async def test_no_weight_without_the_processes_that_carry_it(tmp_path: Path, stage: Stage) -> None:
    """Three of four die while the last step's processes are tried out: everybody would be on the one left."""
    there = world(stage)

    class Trying(StageCheck):
        async def judge(self) -> Judgement:
            there.candidate.missing = 3  # type: ignore[attr-defined] # the stage's own
            return await super().judge()

    trying, before = Trying(), there.checks.before
    there.checks.before = lambda step, running, known: (  # type: ignore[method-assign] # the stage's own
        [trying] if running and step == 1 else before(step, running, known)
    )
    steps = [{"weight_percent": percent, "bake_s": 0.1} for percent in (5, 100)]
    run = run_of(tmp_path, there, steps=steps, policy={"unready_after_s": 60})
    assert (await run.to_the_end()).phase is Phase.ABORTED
    assert "weight 10000" not in stage.load()["history"]


async def test_too_few_processes_for_too_long_abort(tmp_path: Path, stage: Stage) -> None:
    steps = [{"weight_percent": 5, "bake_s": 60, "processes": 3}, {"weight_percent": 100, "bake_s": 1}]
    run = run_of(tmp_path, world(stage), steps=steps)
    async with run.going() as task:
        await run.until(lambda state: state.weight_bp == 500 and state.look is not None)
        run.world.candidate.missing = 1  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            assert await task is Phase.ABORTED
    assert "2 of 3 processes of 1.1 ready" in run.state().reason


async def test_inconclusive_pauses_for_a_person_who_promotes(tmp_path: Path, stage: Stage) -> None:
    run = run_of(tmp_path, world(stage, {500: Verdict.INCONCLUSIVE}))
    async with run.going() as task:
        state = await run.until(lambda state: bool(state.paused))
        assert "inconclusive after" in state.paused
        assert stage.load()["weight"] == 500
        run.orders.drop("rol_1", e.Order.PROMOTE)
        async with asyncio.timeout(5):
            assert await task is Phase.PROMOTED
    assert stage.load()["history"] == GOOD


@pytest.mark.parametrize("policy", ["pause", "abort"])
async def test_a_source_that_vanishes_never_promotes(tmp_path: Path, stage: Stage, policy: str) -> None:
    run = run_of(tmp_path, world(stage), policy={"on_error": policy})
    run.world.source.gone = True  # type: ignore[attr-defined]
    async with run.going() as task:
        state = await run.until(lambda state: bool(state.paused or state.ended))
        assert state.step == 0
        assert (state.phase is Phase.ABORTED) is (policy == "abort")
        if policy == "pause":
            assert "nobody answers" in state.paused
            run.world.source.gone = False  # type: ignore[attr-defined]
            run.orders.drop("rol_1", e.Order.RESUME)
            async with asyncio.timeout(5):
                assert await task is Phase.PROMOTED
        else:
            assert stage.load()["weight"] == 0


async def test_abort_while_waiting_for_approval_with_traffic(tmp_path: Path, stage: Stage) -> None:
    steps = [
        {"weight_percent": 5, "bake_s": 0.1},
        {"weight_percent": 100, "bake_s": 0.1, "approval": True},
    ]
    run = run_of(tmp_path, world(stage), steps=steps)
    async with run.going() as task:
        await run.until(lambda state: state.awaiting)
        assert stage.load()["weight"] == 500
        run.orders.drop("rol_1", e.Order.PROMOTE)  # nothing that an order to promote could leave out
        run.orders.drop("rol_1", e.Order.ABORT, "customers call", "bob@desk")
        async with asyncio.timeout(5):
            assert await task is Phase.ABORTED
    assert stage.load()["weight"] == 0
    assert run.state().reason == "ordered by bob@desk: customers call"
    refused = [
        each.told for each in run.log.entries if isinstance(each.told, e.Ordered) and not each.told.accepted
    ]
    assert [each.order for each in refused] == [e.Order.PROMOTE]


async def test_an_approval_is_remembered_with_who_gave_it(tmp_path: Path, stage: Stage) -> None:
    manifests = StageCheck("manifests", Verdict.INCONCLUSIVE, digest="sha256:1")
    run = run_of(tmp_path, world(stage, {}, manifests), steps=[{"weight_percent": 100, "bake_s": 0.1}])
    async with run.going() as task:
        await run.until(lambda state: state.awaiting)
        run.orders.drop("rol_1", e.Order.APPROVE, who="eve@desk")
        state = await run.until(lambda state: bool(state.approvals))
        assert state.approvals["sha256:1"].who == "eve@desk"
        # Another difference than the approved one needs another approval, whatever was approved.
        manifests.numbers = {"digest": "sha256:2"}
        await run.until(lambda state: state.awaiting)
        manifests.verdict = Verdict.PASS
        async with asyncio.timeout(5):
            assert await task is Phase.PROMOTED


async def test_a_scan_that_fails_aborts_before_anybody_is_served(tmp_path: Path, stage: Stage) -> None:
    run = run_of(tmp_path, world(stage, {}, StageCheck("scan", Verdict.FAIL)))
    state = await run.to_the_end()
    assert state.phase is Phase.ABORTED
    assert stage.load()["history"] == GOOD[:2]
    assert state.first_served_at == ""


async def test_a_check_that_breaks_is_an_error_and_the_controller_lives(tmp_path: Path, stage: Stage) -> None:
    broken = StageCheck()
    broken.breaks = KeyError("nobody thought of this")
    run = run_of(tmp_path, world(stage, {}, broken))
    async with run.going() as task:
        state = await run.until(lambda state: bool(state.paused))
        assert not task.done()
    assert "KeyError" in state.paused
    assert stage.load()["weight"] == 0


class Watching(StageCheck):
    """Passes but at the weights that it is told of, where it says its word or breaks."""

    def __init__(self, stage: Stage, word: Verdict | None, weights: set[int]) -> None:
        super().__init__("shadow")
        self.stage, self.word, self.weights = stage, word, weights

    async def judge(self) -> Judgement:
        there = self.stage.load()["weight"] in self.weights
        self.verdict = self.word if there and self.word else Verdict.PASS
        self.breaks = ValueError("it breaks") if there and self.word is None else None
        return await super().judge()


@pytest.mark.parametrize("word", [Verdict.INCONCLUSIVE, Verdict.ERROR, None])
async def test_what_is_watched_holds_up_the_last_step_too(
    tmp_path: Path, stage: Stage, word: Verdict | None
) -> None:
    watched, there = Watching(stage, word, {5_000, 10_000}), world(stage)
    there.checks.watched = (watched,)  # type: ignore[attr-defined] # the stage's own
    steps = [{"weight_percent": percent, "bake_s": 0.1} for percent in (50, 100)]
    run = run_of(tmp_path, there, steps=steps)
    async with run.going():
        for weight_bp in (5_000, 10_000):
            state = await run.until(lambda state: bool(state.paused) or state.ended)
            assert (state.phase, state.weight_bp) == (Phase.BAKING, weight_bp)
            assert "shadow" in state.paused or "Watching" in state.paused
            watched.weights.discard(weight_bp)
            # The looking goes on while a person is waited for; who resumes before it is good is asked again.
            await run.until(lambda state: bool(state.look) and state.look.verdict is Verdict.PASS)
            run.orders.drop("rol_1", e.Order.RESUME)
            # Not until it is no longer paused: the next step may be before anybody has looked.
            before = weight_bp
            await run.until(lambda state, before=before: state.weight_bp != before or state.ended)
        await run.until(lambda state: state.ended)


@pytest.mark.parametrize(
    ("found", "policy", "corrected"),
    [(700, "correct", True), (7000, "correct", True), (0, "correct", False), (700, "pause", False)],
)
async def test_a_weight_changed_behind_its_back(
    tmp_path: Path, stage: Stage, found: int, policy: str, corrected: bool
) -> None:
    steps = [{"weight_percent": 5, "bake_s": 60}, {"weight_percent": 100, "bake_s": 0.1}]
    run = run_of(tmp_path, world(stage), steps=steps, policy={"on_drift": policy})
    async with run.going():
        await run.until(lambda state: state.look is not None)
        stage.change(f"somebody {found}", weight=found)
        if corrected:
            await run.until(lambda state: any("set right" in told.words for told in state.decisions))
        else:
            state = await run.until(lambda state: bool(state.paused))
            assert f"the weight is {found / 100:g} % and not 5 %" in state.paused
            assert stage.load()["weight"] == found
            run.orders.drop("rol_1", e.Order.RESUME)
            await run.until(lambda state: any("set right" in told.words for told in state.decisions))
        await run.until(lambda state: not state.pending)
        assert stage.load()["weight"] == 500
        assert [event for _, event, _ in stage.load()["notices"]].count("drift") == 1


async def test_whoever_is_on_the_candidate_is_looked_after_while_checks_take_their_time(
    tmp_path: Path, stage: Stage
) -> None:
    class Slow(StageCheck):
        async def judge(self) -> Judgement:
            if stage.load()["weight"]:
                await asyncio.sleep(3600)
            return await super().judge()

    run = run_of(tmp_path, world(stage, {}, Slow()))
    async with run.going() as task:
        state = await run.until(lambda state: state.phase is Phase.CHECKING and state.weight_bp > 0)
        run.world.judge.verdicts[500] = Verdict.FAIL  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            assert await task is Phase.ABORTED
    assert state.weight_bp == 500
    assert stage.load()["weight"] == 0


async def test_an_ingress_gone_at_the_abort_is_asked_until_it_answers(tmp_path: Path, stage: Stage) -> None:
    run = run_of(tmp_path, world(stage), steps=LONG)
    async with run.going() as task:
        await run.until(lambda state: state.look is not None)
        run.world.ingress.unreachable = 10_000  # type: ignore[attr-defined]
        run.orders.drop("rol_1", e.Order.ABORT)
        await run.until(lambda state: state.phase is Phase.ABORTING and state.failures >= 4)
        assert "alarm" in [event for _, event, _ in stage.load()["notices"]]
        run.world.ingress.unreachable = 0  # type: ignore[attr-defined]
        async with asyncio.timeout(15):
            assert await task is Phase.ABORTED
    assert stage.load()["weight"] == 0


async def test_a_router_that_says_yes_and_does_nothing_is_not_believed(tmp_path: Path, stage: Stage) -> None:
    run = run_of(tmp_path, world(stage))
    run.world.ingress.deaf = True  # type: ignore[attr-defined]
    state = await run.to_the_end()
    assert state.phase is Phase.ABORTED
    assert "was given the weight 5 % and has 0 %" in state.reason


async def test_notices_that_cannot_be_delivered_hold_nothing_up(tmp_path: Path, stage: Stage) -> None:
    run = run_of(tmp_path, world(stage, {5000: Verdict.FAIL}))
    run.world.notifier.broken = True  # type: ignore[attr-defined]
    state = await run.to_the_end()
    assert (state.phase, state.pending) == (Phase.ABORTED, ())
    failed = [each.told for each in run.log.entries if isinstance(each.told, e.Notified)]
    assert failed
    assert not any(each.ok for each in failed)


async def test_promote_full_scales_first_and_skips_the_steps_between(tmp_path: Path, stage: Stage) -> None:
    steps = [{"weight_percent": percent, "bake_s": 60} for percent in (5, 50, 100)]
    run = run_of(tmp_path, world(stage), steps=steps)
    async with run.going() as task:
        await run.until(lambda state: state.look is not None)
        run.orders.drop("rol_1", e.Order.PROMOTE_FULL)
        async with asyncio.timeout(5):
            assert await task is Phase.PROMOTED
    assert stage.load()["history"] == [*GOOD[:5], *GOOD[8:]]


async def test_pause_stops_the_bake_and_not_the_looking(tmp_path: Path, stage: Stage) -> None:
    run = run_of(
        tmp_path,
        world(stage),
        steps=HALF,
    )
    async with run.going() as task:
        await run.until(lambda state: state.look is not None)
        run.orders.drop("rol_1", e.Order.PAUSE, who="ann@desk")
        paused = await run.until(lambda state: bool(state.paused))
        await asyncio.sleep(0.6)
        later = run.state()
        assert (later.paused, later.baked_s, later.step) == ("by ann@desk", paused.baked_s, 0)
        assert later.seq > paused.seq + 5
        run.world.judge.verdicts[500] = Verdict.FAIL  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            assert await task is Phase.ABORTED


async def test_a_controller_that_lost_its_log_does_nothing_more(tmp_path: Path, stage: Stage) -> None:
    run = run_of(tmp_path, world(stage), steps=LONG)
    async with run.going() as task:
        await run.until(lambda state: state.look is not None)
        path = decisions.files(run.folder / "log")[-1]
        with path.open("ab") as other:
            other.write(b"somebody else\n")
        with pytest.raises(FinFlowError) as caught:
            async with asyncio.timeout(5):
                await task
        assert caught.value.kind.code == "rollout_fenced"
        assert stage.load()["weight"] == 500


async def test_a_lock_file_that_was_replaced_is_a_lost_lock(tmp_path: Path, stage: Stage) -> None:
    run = run_of(tmp_path, world(stage), steps=LONG)
    async with run.going() as task:
        await run.until(lambda state: state.look is not None)
        (run.folder / "lock").unlink()
        other = ServiceLock(run.folder)
        assert other.take()
        with pytest.raises(FinFlowError) as caught:
            async with asyncio.timeout(5):
                await task
        assert caught.value.kind.code == "rollout_fenced"
        other.give()


async def test_a_log_that_cannot_be_written_takes_everybody_back(
    tmp_path: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, world(stage), steps=LONG)
    async with run.going() as task:
        await run.until(lambda state: state.look is not None)

        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(FinFlowError) as caught:
            async with asyncio.timeout(5):
                await task
        monkeypatch.undo()
        assert caught.value.kind.code == "log_unwritable"
        assert stage.load()["weight"] == 0
    # What was half written is not there: the log is whole, and the next controller finds the drift.
    assert decisions.verify(run.folder / "log").faults == []


async def test_a_clock_that_jumps_neither_skips_a_bake_nor_waits_for_ever(
    tmp_path: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    shift = [0]
    monkeypatch.setattr("finflow.rollout.service.system_clock", lambda: 1_800_000_000_000_000 + shift[0])
    run = run_of(
        tmp_path,
        world(stage),
        steps=HALF,
    )
    async with run.going() as task:
        before = await run.until(lambda state: state.look is not None)
        for jump_s in (86_400, -86_400 * 30):
            shift[0] += jump_s * 1_000_000
            await asyncio.sleep(0.1)
        assert run.state().step == before.step
        async with asyncio.timeout(5):
            assert await task is Phase.PROMOTED
    jumps = [
        each.told.facts["jump_s"]
        for each in run.log.entries
        if isinstance(each.told, e.Noted) and each.told.what == "clock"
    ]
    assert [round(jump) for jump in jumps] == [86_400, -86_400 * 30]


async def test_two_controllers_at_once(tmp_path: Path, stage: Stage) -> None:
    run = run_of(tmp_path, world(stage))
    async with run.going() as task:
        assert not ServiceLock(run.folder).take()
        async with asyncio.timeout(10):
            assert await task is Phase.PROMOTED
    assert json.loads(stage.path.read_text())["history"] == GOOD
