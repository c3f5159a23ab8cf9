"""The acts of the demonstration: a legacy fleet with live traffic, a bad release, its repair, a good one.

Every act is what an engineer would do by a command of FinFlow, on the same code: rollouts by the controller,
the shadow in its process, repairs by their plan, the schema's phases, the verification of the whole.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import asyncpg
import msgspec

from finflow.app import shadow as shadows
from finflow.app.rollout_world import composed, fleet_of, ingress_of
from finflow.app.rollouts import Service, Session
from finflow.app.shadow import ShadowFolder
from finflow.client.service import Client
from finflow.client.tokens import TokenProvider
from finflow.demo.stage import SERVICE, Stage
from finflow.kernel.errors import FinFlowError
from finflow.rollout import events as e
from finflow.rollout.checks_spec import CheckSpec
from finflow.rollout.gates_spec import (
    ErrorsGate,
    FloorGate,
    Gates,
    LatencyGate,
    ShareGate,
    SlowGate,
    TrafficMetrics,
)
from finflow.rollout.ingress_spec import CaddySpec
from finflow.rollout.ports import Endpoint
from finflow.rollout.spec import PolicySpec, ReleaseSpec, RolloutSpec, StepSpec
from finflow.rollout.state import Phase, State
from finflow.rollout.verdicts import Side
from finflow.shadow import checksum
from finflow.shadow.repair import Api, Applied, Plan, apply_plan, make_plan
from finflow.shadow.report import Report, read_cases, read_report

WEIGHTS: Final = (5.0, 25.0, 50.0, 100.0)
Heard = Callable[[State], None]
TokenOf = Callable[[str], TokenProvider]

# Two processes that have just started are slower than two that are warm, on a machine that everybody shares:
# the demonstration looks for harm, not for milliseconds.
_GATES: Final = Gates(
    alpha=0.01,
    min_requests=60,
    rules=(
        ErrorsGate(),
        LatencyGate(tolerance_percent=200.0),
        SlowGate(max_odds_ratio=20.0),
        ShareGate(),
        FloorGate(max_error_ratio=0.2),
    ),
)


def spec(
    stage: Stage, old: ReleaseSpec, new: ReleaseSpec, bake_s: float, checks: tuple[CheckSpec, ...]
) -> RolloutSpec:
    """A rollout of the bank over 5, 25, 50 and 100 per cent of its customers."""
    return RolloutSpec(
        service=SERVICE,
        ingress=CaddySpec(host=stage.host, port=stage.port),
        baseline=old,
        candidate=new,
        steps=[StepSpec(weight_percent=each, bake_s=bake_s, minimum_requests=60) for each in WEIGHTS],
        metrics=TrafficMetrics(),
        gates=_GATES,
        checks=checks,
        policy=PolicySpec(look_every_s=0.5, recheck_every_s=2.0, patience_s=60.0, ready_within_s=60.0),
        impact="journal",
    )


async def open_house(stage: Stage, first: RolloutSpec, undo: AsyncExitStack) -> None:
    """The legacy fleet and the router in front of it; both live until the end of the demonstration."""
    fleet = fleet_of(first, Side.BASELINE, stage.data, stage.data)
    undo.push_async_callback(fleet.stop)
    await fleet.start(len(WEIGHTS) and 2)
    if not await fleet.ready(60.0):
        raise FinFlowError("service_failed", "the legacy fleet does not become ready")
    endpoints: list[Endpoint] = list(await fleet.endpoints())
    ingress, _ = ingress_of(first, stage.data)
    undo.push_async_callback(_stop, ingress)
    await ingress.start(endpoints)  # type: ignore[attr-defined] # a router of ours is started


async def _stop(ingress: object) -> None:
    await ingress.stop()  # type: ignore[attr-defined] # a router of ours is stopped


async def roll_out(stage: Stage, wanted: RolloutSpec, heard: Heard) -> State:
    """One rollout to its end."""

    def told(_: e.Entry, state: State) -> None:
        heard(state)

    async with Session(Service(stage.data, SERVICE)) as session:
        session.begin(wanted, stage.data)
        return await session.carry_on(composed, told)


def stop_candidate(stage: Stage, wanted: RolloutSpec, undo: AsyncExitStack) -> None:
    """What a rollout leaves running ends with the demonstration."""
    undo.push_async_callback(fleet_of(wanted, Side.CANDIDATE, stage.data, stage.data).stop)


# --- the shadow --------------------------------------------------------------------------------------------


def shadow_folder(stage: Stage) -> ShadowFolder:
    return ShadowFolder(stage.data / "shadow")


async def begin_shadow(stage: Stage, baseline: str) -> Report:
    """A fresh clone on which this release replays whatever is booked from now on."""
    return await shadows.start(shadow_folder(stage), stage.database_url, baseline=baseline, anew=True)


async def end_shadow(stage: Stage) -> None:
    place = shadow_folder(stage)
    if place.runner() is not None or place.marked:
        await shadows.stop(place)


def shadow_report(stage: Stage) -> Report | None:
    return read_report(shadow_folder(stage).root)


class Repaired(msgspec.Struct, frozen=True):
    """What was put right, and whether both books are worth the same since."""

    plan: Plan
    applied: list[Applied]
    proven: bool

    @property
    def done(self) -> int:
        return sum(each.done for each in self.applied)


async def repair(stage: Stage, token_of: TokenOf) -> Repaired:
    """Propose reversals and corrections of all that the shadow found wrong, apply them, compare again."""
    place = shadow_folder(stage)
    connection = await asyncpg.connect(stage.database_url)
    try:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        plan = await make_plan(connection, read_cases(place.root), at)
    finally:
        await connection.close(timeout=5)
    async with AsyncExitStack() as clients:
        known: dict[str, Api] = {}

        async def api_of(tenant_id: str) -> Api:
            if tenant_id not in known:
                client = Client(stage.url, token=token_of(tenant_id), timeout_s=30, budget_s=60)
                await clients.enter_async_context(client)
                known[tenant_id] = Api(client.reverse, client.void, client.post)
            return known[tenant_id]

        applied = await apply_plan(plan, api_of)
    verified = await checksum.verify(stage.database_url, place.clone_url(), 60.0)
    return Repaired(plan, applied, verified.equal)


# --- looking back ------------------------------------------------------------------------------------------


def promoted(state: State) -> bool:
    return state.phase is Phase.PROMOTED


def seconds_between(earlier: str, later: str) -> float | None:
    """Between two RFC 3339 moments of a decision log; None where one is missing."""
    if not earlier or not later:
        return None
    return round((datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds(), 3)


async def wait_until(test: Callable[[], bool], within_s: float) -> bool:
    """Whether something came true within so many seconds."""
    for _ in range(int(within_s / 0.2)):
        if test():
            return True
        await asyncio.sleep(0.2)
    return test()


def spec_file(stage: Stage, wanted: RolloutSpec) -> Path:
    """The rollout as the file that `finflow rollout start` takes."""
    import yaml

    path = stage.data / f"rollout-{wanted.candidate.release}.yaml"
    path.write_text(yaml.safe_dump(msgspec.to_builtins(wanted), sort_keys=False))
    path.chmod(0o600)
    return path
