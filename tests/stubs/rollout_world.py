"""A world for the rollout's controller that survives the controller: its state lies in one file.

Every call of a port counts, as does every line of the log that goes through `counted`; at the k-th, before or
after its effect, the process can be ended for real. `history` is what changed, in order: what happens twice
stands there twice.
"""

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finflow.kernel.errors import FinFlowError
from finflow.rollout.judge import Look
from finflow.rollout.ports import Check, Endpoint, Notice
from finflow.rollout.verdicts import Judgement, Reading, Side, Verdict
from finflow.rollout.world import World

FIRST_PORT = {Side.BASELINE: 10_000, Side.CANDIDATE: 20_000}


class Stage:
    """What is so in this world, and what shall go wrong in it."""

    def __init__(self, path: Path, die_at: int = 0, when: str = "before") -> None:
        self.path = path
        self.die_at, self.when = die_at, when
        self.calls = 0
        if not path.exists():
            self.save(
                {
                    "weight": 0,
                    "backends": {},
                    "fleets": {},
                    "history": [],
                    "notices": [],
                    "reads": 0,
                    "looks": 0,
                }
            )

    def load(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    def save(self, state: Mapping[str, Any]) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(state))
        fresh.replace(self.path)

    def counted(self, effect: Callable[[], Any]) -> Any:
        """Does it, or dies before or after."""
        self.calls += 1
        if self.calls == self.die_at and self.when == "before":
            os._exit(9)
        found = effect()
        if self.calls == self.die_at:
            os._exit(9)
        return found

    def change(self, what: str, **changes: Any) -> None:
        """Takes a change over; where nothing changes, nothing is told."""
        state = self.load()
        if all(state.get(name) == value for name, value in changes.items()):
            return
        self.save({**state, **changes, "history": [*state["history"], what]})


class StageIngress:
    """A router in a file. `refusing` makes it refuse; `deaf` makes it say yes and do nothing."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.unreachable = 0
        self.deaf = False
        self.weights: list[int] = []

    def _reach(self) -> None:
        if self.unreachable:
            self.unreachable -= 1
            raise FinFlowError("ingress_unreachable", "the router does not answer")

    async def set_backends(self, side: Side, endpoints: Sequence[Endpoint]) -> None:
        def effect() -> None:
            known = self.stage.load()["backends"]
            ports = sorted(each.port for each in endpoints)
            self.stage.change(
                f"backends {side} {len(ports)} from {ports[0]}", backends={**known, side: ports}
            )

        self._reach()
        self.stage.counted(effect)

    async def backends(self, side: Side) -> Sequence[Endpoint]:
        ports = self.stage.load()["backends"].get(side, [])
        return [Endpoint("127.0.0.1", port) for port in ports]

    async def set_weight(self, weight_bp: int) -> None:
        def effect() -> None:
            if not self.deaf:
                self.weights.append(weight_bp)
                self.stage.change(f"weight {weight_bp}", weight=weight_bp)

        self._reach()
        self.stage.counted(effect)

    async def weight(self) -> int:
        self._reach()
        return self.stage.counted(lambda: self.stage.load()["weight"])

    async def routed(self) -> Mapping[Side, int]:
        return {}

    async def reload(self) -> None:
        return None


class StageFleet:
    """Processes in a file; `hook` may change how many of them are ready."""

    def __init__(self, stage: Stage, side: Side) -> None:
        self.stage, self.side = stage, side
        self.missing = 0
        self.never_ready = False

    def _set(self, processes: int, what: str) -> None:
        fleets = self.stage.load()["fleets"]
        self.stage.change(f"{self.side} {what}", fleets={**fleets, self.side: processes})

    def running(self) -> int:
        return int(self.stage.load()["fleets"].get(self.side, 0))

    async def start(self, processes: int) -> None:
        self.stage.counted(lambda: self._set(processes, f"has {processes}"))

    async def ready(self, within_s: float) -> bool:
        await asyncio.sleep(0)
        return self.stage.counted(lambda: not self.never_ready)

    async def endpoints(self) -> Sequence[Endpoint]:
        first = FIRST_PORT[self.side]
        return [Endpoint("127.0.0.1", first + i) for i in range(max(0, self.running() - self.missing))]

    def last_words(self) -> str:
        return ""

    async def drain(self, within_s: float) -> bool:
        return self.stage.counted(lambda: True)

    async def stop(self) -> None:
        self.stage.counted(lambda: self._set(0, "stopped"))


class StageSource:
    """Ten more requests on either side at every look."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.gone = False
        self.reads = 0

    async def read(self) -> Mapping[Side, Reading]:
        if self.gone:
            raise FinFlowError("source_unreachable", "nobody answers")
        self.reads += 1
        return self.stage.counted(lambda: {side: Reading(10 * self.reads, 0) for side in Side})


class StageJudge:
    """Says PASS, but at the weights that `verdicts` names."""

    def __init__(self, verdicts: Mapping[int, Verdict] = {}) -> None:
        self.verdicts = dict(verdicts)
        self.seen: list[Look] = []

    def look(self, look: Look) -> Sequence[Judgement]:
        self.seen.append(look)
        verdict = Verdict.ERROR if look.error else self.verdicts.get(look.weight_bp, Verdict.PASS)
        return [Judgement("errors", verdict, {"x": 1}, look.error or f"the gate says {verdict}")]


class StageCheck:
    """Says what it was told to say."""

    def __init__(self, name: str = "scan", verdict: Verdict = Verdict.PASS, **numbers: str) -> None:
        self.name, self.verdict, self.numbers = name, verdict, numbers
        self.asked = 0
        self.breaks: Exception | None = None

    async def judge(self) -> Judgement:
        self.asked += 1
        if self.breaks is not None:
            raise self.breaks
        return Judgement(self.name, self.verdict, self.numbers, f"{self.name} says {self.verdict}")


class StageChecks:
    """The same checks before every step; `watched` are asked beside every look."""

    def __init__(self, *checks: Check) -> None:
        self.checks = checks
        self.watched: tuple[Check, ...] = ()

    def before(self, step: int, running: bool, approvals: Mapping[str, Any]) -> Sequence[Check]:
        return () if running else self.checks

    def beside(self) -> Sequence[Check]:
        return self.watched


class StageNotifier:
    """Keeps notices by what they are about."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.broken = False

    async def notify(self, notice: Notice) -> None:
        def effect() -> None:
            state = self.stage.load()
            told = [str(notice.facts["key"]), notice.event, notice.text]
            if told not in state["notices"]:
                self.stage.save({**state, "notices": [*state["notices"], told]})

        if self.broken:
            raise FinFlowError("notice_undelivered", "the webhook answers 500")
        self.stage.counted(effect)


def world(stage: Stage, verdicts: Mapping[int, Verdict] = {}, *checks: Check) -> World:
    """All ports over one stage."""
    return World(
        ingress=StageIngress(stage),
        baseline=StageFleet(stage, Side.BASELINE),
        candidate=StageFleet(stage, Side.CANDIDATE),
        source=StageSource(stage),
        judge=StageJudge(verdicts),
        checks=StageChecks(*checks),
        notifier=StageNotifier(stage),
    )
