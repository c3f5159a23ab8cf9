"""The acts of the demonstration: a legacy fleet with live traffic, a bad release, its repair, a good one.

Every act is what an engineer would do by a command of FinFlow, on the same code: rollouts by the controller,
the shadow in its process, repairs by their plan, the schema's phases, the verification of the whole.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Final

import asyncpg
import msgspec

from finflow.acceptance import service as acceptance
from finflow.app import Config, accepting
from finflow.app import shadow as shadows
from finflow.app.impact import blast_radius
from finflow.app.rollout_world import composed, fleet_of, router_of
from finflow.app.rollouts import Service, Session
from finflow.app.shadow import ShadowFolder
from finflow.app.smoke import BANK, bank_inputs
from finflow.client.service import Client
from finflow.client.tokens import TokenProvider
from finflow.demo.stage import PROCESSES, SCHEMA, SERVICE, Stage
from finflow.kernel.errors import EXIT_DONE, FinFlowError
from finflow.rollout import events as e
from finflow.rollout.checks_spec import CheckSpec, InvariantsSpec, SchemaSpec, ShadowSpec, SmokeSpec
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
from finflow.rollout.ports import Impact
from finflow.rollout.spec import PolicySpec, ReleaseSpec, RolloutSpec, StepSpec
from finflow.rollout.state import Phase, State
from finflow.rollout.verdicts import Side
from finflow.shadow import checksum
from finflow.shadow.live import read_heads
from finflow.shadow.repair import Api, Applied, Plan, apply_plan, make_plan
from finflow.shadow.report import Report, read_cases, read_report
from finflow.stack.ingress.caddy_config import TRAFFIC
from finflow.stack.ingress.local import LocalIngress
from finflow.stack.ingress.traffic import Place, served_from
from finflow.verification import loading
from finflow.verification import service as verification
from finflow.verification.model import Status

WEIGHTS: Final = (5.0, 25.0, 50.0, 100.0)
_COMPARED_WITHIN_S: Final = 60.0
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
    ingress = router_of(first, stage.data)
    assert isinstance(ingress, LocalIngress), "the demonstration's router is Caddy"
    ingress.folder.create()
    ingress.folder.make_proof()
    undo.push_async_callback(fleet.stop)
    await fleet.start(PROCESSES)
    if not await fleet.ready(60.0):
        raise FinFlowError("service_failed", "the legacy fleet does not become ready")
    undo.push_async_callback(ingress.stop)
    stage.free_port()
    await ingress.start(await fleet.endpoints())


async def roll_out(stage: Stage, wanted: RolloutSpec, heard: Heard) -> State:
    """One rollout to its end."""

    def told(_: e.Entry, state: State) -> None:
        heard(state)

    async with Session(Service(stage.data, SERVICE)) as session:
        session.begin(wanted, stage.data)
        return await session.carry_on(composed, told)


def stop_candidates(stage: Stage, specs: Sequence[RolloutSpec], undo: AsyncExitStack) -> None:
    """What rollouts leave running ends with the demonstration."""
    for wanted in specs:
        undo.push_async_callback(fleet_of(wanted, Side.CANDIDATE, stage.data, stage.data).stop)


def money_checks() -> tuple[CheckSpec, ...]:
    """What the money did: compared with the legacy release's decisions, and the books' own rules."""
    return ShadowSpec(least_compared=300, least_of_candidate=20, longest_lag_s=20.0), InvariantsSpec()


def all_checks() -> tuple[CheckSpec, ...]:
    """The same, the schema's phases, and the critical paths asked of the candidate itself."""
    return (*money_checks(), SchemaSpec(folder=str(SCHEMA), work_share=1.0), SmokeSpec(spec=BANK))


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


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a candidate, and what it did while it served."""

    promoted: bool
    rolled_back: bool
    detect_s: float | None
    deploy_s: float | None
    failed_requests: int
    customers: int
    transactions: int
    money: Mapping[str, str]
    compared: int
    mismatches: int
    repaired: Repaired | None = None


async def _compared(stage: Stage) -> None:
    """Until the shadow has looked at all that is booked now, and what it found is written down.

    Otherwise the last that a release booked wrongly would be in no plan of repair. Raises shadow_behind.
    """
    connection = await asyncpg.connect(stage.database_url)
    try:
        heads = await read_heads(connection)
    finally:
        await connection.close(timeout=5)
    arrived_at_s, until_s = 0.0, monotonic() + _COMPARED_WITHIN_S
    while monotonic() < until_s:
        report = shadow_report(stage)
        seen = {each.ledger_no: each.shadow_seq for each in report.ledgers} if report else {}
        if report and all(seen.get(ledger_no, 0) >= seq for ledger_no, seq in heads.items()):
            # Cases follow at once: a second report is later than they are.
            if 0 < arrived_at_s < report.at_s:
                return
            arrived_at_s = arrived_at_s or report.at_s
        await asyncio.sleep(0.1)
    raise FinFlowError("shadow_behind")


async def looked_back(stage: Stage, wanted: RolloutSpec, state: State) -> Candidate:
    """From the decision log, the router's own log, the journal and the shadow's report."""
    await _compared(stage)
    served = candidate_requests(stage, wanted, state)
    report = shadow_report(stage)
    impact = await impact_of(stage, wanted.candidate.release, state)
    wrong = min(
        (case.recorded_at.timestamp() for case in read_cases(shadow_folder(stage).root)), default=None
    )
    first = [at_s for at_s in (served.first_failure_s, wrong) if at_s is not None]
    return Candidate(
        promoted=state.phase is Phase.PROMOTED,
        rolled_back=state.phase is Phase.ABORTED and state.weight_bp == 0,
        detect_s=round(moment_s(state.detected_at) - min(first), 2) if first and state.detected_at else None,
        deploy_s=_deploy_s(state),
        failed_requests=served.failed,
        customers=impact.customers,
        transactions=impact.transactions,
        money=impact.money,
        compared=report.compared if report else 0,
        mismatches=report.wrong if report else 0,
    )


class ServedByCandidate(msgspec.Struct, frozen=True):
    """Requests that the router sent to a candidate and that failed, and when the first one did."""

    failed: int
    first_failure_s: float | None


def candidate_requests(stage: Stage, wanted: RolloutSpec, state: State) -> ServedByCandidate:
    """Read from the router's log, which knows nothing of the gates."""
    folder = stage.data / "ingress" / SERVICE
    since_s = moment_s(state.started_at)
    failures = [
        served.at_s
        for served, _ in served_from(folder, TRAFFIC, Place())
        if served.side is Side.CANDIDATE and served.status >= 500 and served.at_s >= since_s
    ]
    return ServedByCandidate(len(failures), min(failures, default=None))


async def impact_of(stage: Stage, release: str, state: State) -> Impact:
    """Customers, transactions and money that a release touched since its rollout began."""
    async with blast_radius(Config.load()) as journal:
        return await journal.impact(release, state.started_at, datetime.now(UTC).isoformat())


def _deploy_s(state: State) -> float | None:
    """From the start of the rollout to the first customer whom the candidate served."""
    if not state.first_served_at:
        return None
    return round(moment_s(state.first_served_at) - moment_s(state.started_at), 2)


def moment_s(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# --- the whole ---------------------------------------------------------------------------------------------


async def verify(stage: Stage, told: Callable[[str], None]) -> bool:
    """Every check of the shipped verification, through the router; what is not set up here is skipped.

    `told` hears of each check that failed.
    """
    values = await bank_inputs(stage.url, Config.load(), os.environ)
    spec = loading.parse(loading.shipped(BANK), f"{BANK}.yaml")
    report = await verification.verify(
        verification.Run(spec=spec, url=stage.url, values=values, environ=os.environ)
    )
    for each in report.outcomes:
        if each.status is Status.FAILED:
            told(f"{each.id}: {each.words}")
    return report.exit_code(strict=False) == EXIT_DONE


async def accept(stage: Stage) -> bool:
    """Settlement on a clone: orders to netted, settled and reconciled, compared with plain arithmetic."""
    async with accepting.clone_of_embedded(stage.database_url) as url:
        with tempfile.TemporaryDirectory(prefix="ff-rail-") as folder:
            result = await acceptance.accept(url, Path(folder), source_url=stage.database_url)
    return result.accepted
