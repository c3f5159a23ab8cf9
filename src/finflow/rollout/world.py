"""Carries intents out through the ports, and looks. Every act makes something so, and may be repeated."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, Protocol, TypeVar

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.rollout import events as e
from finflow.rollout.judge import Look
from finflow.rollout.ports import BlastRadius, Check, Endpoint, Fleet, Ingress, Notifier, Source
from finflow.rollout.spec import RolloutSpec, fleet_processes, processes_for
from finflow.rollout.state import Told
from finflow.rollout.verdicts import Judgement, Side, Verdict, worst

T = TypeVar("T")
log = logging.getLogger(__name__)

_LOOK_WITHIN_S: Final = 5.0
_INGRESS_WITHIN_S: Final = 15.0
# On top of what a fleet was given: its own bookkeeping.
_FLEET_SLACK_S: Final = 60.0


class Judge(Protocol):
    """All gates of a rollout. It remembers what it has seen; the same looks make the same judgements."""

    def look(self, look: Look) -> Sequence[Judgement]:
        """One judgement of each gate."""


def look_of(told: e.Looked) -> Look:
    """What a line of the log gave the gates to judge."""
    weight = told.intended_bp if told.weight_bp is None else told.weight_bp
    routed = None if told.routed is None else dict(told.routed)
    return Look(told.at_s, weight, dict(told.readings), routed, told.error)


class Checks(Protocol):
    """The checks that stand before a step."""

    def before(self, step: int, running: bool, approvals: Mapping[str, Told]) -> Sequence[Check]:
        """Those of this step, before or when the candidate's processes run for it; `approvals` are what
        people have approved so far, by digest.
        """

    def beside(self) -> Sequence[Check]:
        """Those that every look asks as well; they answer at once."""


class World(msgspec.Struct, frozen=True):
    """Everything that a controller reaches beyond its log."""

    ingress: Ingress
    baseline: Fleet
    candidate: Fleet
    source: Source
    judge: Judge
    checks: Checks
    notifier: Notifier
    blast_radius: BlastRadius | None = None
    # Has the router run, with these processes of the baseline where it had none; or somebody else does.
    open_ingress: Callable[[Sequence[Endpoint]], Awaitable[None]] | None = None


class Refused(Exception):
    """Something was asked and is not so: the words say what."""


class Hands:
    """Does what the controller intends."""

    def __init__(self, spec: RolloutSpec, world: World) -> None:
        self._spec = spec
        self._world = world
        self._backends: dict[Side, tuple[Endpoint, ...]] = {}

    async def do(self, intent: e.Intent, approvals: Mapping[str, Told], since_s: float | None) -> e.Done:
        """The outcome; never raises but for cancellation and bugs."""
        try:
            match intent:
                case e.Prepare():
                    facts = await self._prepare()
                case e.AskChecks():
                    return await self._ask(intent, approvals, since_s)
                case e.Scale(processes=processes):
                    facts = await self._scale(processes)
                case e.SetWeight(step=step, weight_bp=weight):
                    facts = await self._raise(step, weight)
                case e.TakeBack():
                    facts = await self._weight(0)
                case e.Swap():
                    facts = await self._swap()
                case e.Drain(side=side):
                    facts = await self._drain(side)
                case e.Stop(side=side):
                    await self._within(self._fleet(side).stop(), _FLEET_SLACK_S)
                    facts = {}
        except (FinFlowError, Refused, TimeoutError, OSError) as error:
            return e.Done(intent, False, words_of(intent, error))
        return e.Done(intent, True, facts=facts)

    def _fleet(self, side: Side) -> Fleet:
        return self._world.baseline if side is Side.BASELINE else self._world.candidate

    async def _within(self, work: Awaitable[T], seconds: float) -> T:
        async with asyncio.timeout(seconds):
            return await work

    async def _prepare(self) -> dict[str, Any]:
        """The baseline serves everybody, whatever the ingress was left at."""
        fleet, within_s = self._world.baseline, self._spec.policy.ready_within_s
        await self._have(fleet, fleet_processes(self._spec.baseline), "baseline", within_s)
        await self.open_ingress()
        count = await self._connect(Side.BASELINE)
        return {"processes": count, **await self._weight(0)}

    async def open_ingress(self) -> None:
        """A router that does not run is started as it was left."""
        if self._world.open_ingress is not None:
            endpoints = await self._within(self._world.baseline.endpoints(), _INGRESS_WITHIN_S)
            await self._within(self._world.open_ingress(endpoints), 2 * _INGRESS_WITHIN_S)

    async def _have(self, fleet: Fleet, processes: int, name: str, within_s: float) -> None:
        await self._within(fleet.start(processes), within_s + _FLEET_SLACK_S)
        if not await self._within(fleet.ready(within_s), within_s + _FLEET_SLACK_S):
            raise Refused(f"the {name}'s {processes} processes were not ready within {within_s:g} s")

    async def _connect(self, side: Side) -> int:
        """The processes that are ready become the ingress's backends of this side."""
        endpoints = tuple(await self._within(self._fleet(side).endpoints(), _INGRESS_WITHIN_S))
        if not endpoints:
            raise Refused(f"no process of the {side} is ready")
        await self._within(self._world.ingress.set_backends(side, endpoints), _INGRESS_WITHIN_S)
        self._backends[side] = endpoints
        return len(endpoints)

    async def _scale(self, processes: int) -> dict[str, Any]:
        within_s = self._spec.policy.ready_within_s
        began = monotonic()
        await self._have(self._world.candidate, processes, "candidate", within_s)
        connected = await self._connect(Side.CANDIDATE)
        if connected < processes:
            raise Refused(f"{connected} of {processes} processes of the candidate are ready")
        return {"processes": processes, "took_s": round(monotonic() - began, 3)}

    async def _raise(self, step: int, weight_bp: int) -> dict[str, Any]:
        """Never more than there are processes for, at this moment."""
        ready = await self._within(self._world.candidate.endpoints(), _INGRESS_WITHIN_S)
        needed = processes_for(self._spec, step)
        if len(ready) < needed:
            raise Refused(f"{len(ready)} of {needed} processes of the candidate are ready")
        return await self._weight(weight_bp)

    async def _weight(self, weight_bp: int) -> dict[str, Any]:
        ingress = self._world.ingress
        await self._within(ingress.set_weight(weight_bp), _INGRESS_WITHIN_S)
        found = await self._within(ingress.weight(), _INGRESS_WITHIN_S)
        if found != weight_bp:
            raise Refused(f"the ingress was given the weight {weight_bp / 100:g} % and has {found / 100:g} %")
        return {"weight_bp": found}

    async def _swap(self) -> dict[str, Any]:
        """Everybody is on the candidate's processes before and after; only their side is called otherwise."""
        ingress = self._world.ingress
        endpoints = tuple(await self._within(self._world.candidate.endpoints(), _INGRESS_WITHIN_S))
        if not endpoints:
            raise Refused("no process of the candidate is ready")
        await self._within(ingress.set_backends(Side.BASELINE, endpoints), _INGRESS_WITHIN_S)
        found = set(await self._within(ingress.backends(Side.BASELINE), _INGRESS_WITHIN_S))
        if found != set(endpoints):
            raise Refused("the ingress has other processes for the baseline than it was given")
        return await self._weight(0)

    async def _drain(self, side: Side) -> dict[str, Any]:
        within_s = self._spec.policy.drain_within_s
        whole = await self._within(self._fleet(side).drain(within_s), within_s + _FLEET_SLACK_S)
        return {"cut_off": not whole}

    async def _ask(self, intent: e.AskChecks, approvals: Mapping[str, Told], since_s: float | None) -> e.Done:
        checks = self._world.checks.before(intent.step, intent.running, approvals)
        judgements = tuple(await asyncio.gather(*map(_asked, checks)))
        facts = {"since_s": round(since_s, 3)} if since_s is not None else {}
        return e.Done(intent, True, facts=facts, judgements=judgements)

    # --- looking ------------------------------------------------------------------------------------------

    async def look(self, step: int, weight_bp: int, processes: int, delta_s: float) -> e.Looked:
        """What there is to see; what cannot be seen is an ERROR of that name, never a pass."""
        troubles: dict[str, str] = {}
        weight, routed, readings, ready = await asyncio.gather(
            self._seen("ingress", self._world.ingress.weight, troubles),
            self._seen("ingress", self._world.ingress.routed, troubles),
            self._seen("metrics", self._world.source.read, troubles),
            self._seen("fleet", self._world.candidate.endpoints, troubles),
        )
        seen = e.Looked(
            step=step,
            at_s=round(time.time(), 6),
            intended_bp=weight_bp,
            weight_bp=weight,
            ready=None if ready is None else len(ready),
            processes=processes,
            delta_s=round(delta_s, 6),
            readings=readings or {},
            routed=routed or None,
            error=troubles.pop("metrics", None),
        )
        judged = [Judgement(name, Verdict.ERROR, {}, words) for name, words in troubles.items()]
        beside = [await _asked(check) for check in self._world.checks.beside()]
        judgements = (*judged, *self._world.judge.look(look_of(seen)), *beside)
        return msgspec.structs.replace(seen, judgements=judgements, verdict=worst(judgements))

    async def _seen(self, name: str, look: Callable[[], Awaitable[T]], troubles: dict[str, str]) -> T | None:
        try:
            return await self._within(look(), _LOOK_WITHIN_S)
        except (FinFlowError, TimeoutError, OSError) as error:
            detail = error.detail if isinstance(error, FinFlowError) else str(error) or "no answer in time"
            troubles.setdefault(name, detail)
            return None

    async def reconnected(self) -> list[str]:
        """Processes that came back elsewhere become backends again; says which sides changed."""
        changed = []
        for side in (Side.BASELINE, Side.CANDIDATE):
            try:
                there = tuple(await self._within(self._fleet(side).endpoints(), _LOOK_WITHIN_S))
                known = self._backends.get(side) or tuple(
                    await self._within(self._world.ingress.backends(side), _LOOK_WITHIN_S)
                )
                self._backends[side] = known
                if there and set(there) != set(known):
                    await self._connect(side)
                    changed.append(f"{side}: {len(there)} processes")
            except (FinFlowError, Refused, TimeoutError, OSError):
                # The next look says what is wrong, with its own words.
                continue
        return changed


async def _asked(check: Check) -> Judgement:
    """What a check says; one that breaks is an ERROR, and the controller goes on looking after people."""
    try:
        return await check.judge()
    except Exception as error:
        name = str(getattr(check, "name", type(check).__name__))
        log.exception("a check broke", extra={"check": name})
        return Judgement(name, Verdict.ERROR, {}, f"The check itself broke: {type(error).__name__}.")


def words_of(intent: e.Intent, error: Exception) -> str:
    """One sentence about an act that failed."""
    what = {
        e.Prepare: "the baseline could not be prepared",
        e.AskChecks: "the checks could not be asked",
        e.Scale: "the candidate could not be scaled",
        e.SetWeight: "the weight could not be set",
        e.TakeBack: "THE WEIGHT COULD NOT BE TAKEN BACK",
        e.Swap: "the ingress could not be handed over",
        e.Drain: "the fleet could not be drained",
        e.Stop: "the fleet could not be stopped",
    }[type(intent)]
    detail = error.detail if isinstance(error, FinFlowError) else str(error) or "no answer in time"
    return f"{what}: {detail}"
