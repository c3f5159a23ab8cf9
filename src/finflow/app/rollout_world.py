"""Everything that a rollout's spec names, made of what the house has: router, fleets, source, checks."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finflow.app.rollout_schema import SchemaOfRollout
from finflow.kernel.errors import FinFlowError
from finflow.rollout.checks_spec import SchemaSpec, ShadowSpec, SmokeSpec
from finflow.rollout.ingress_spec import LocalSpec
from finflow.rollout.judge import Judge
from finflow.rollout.ports import Approval, Check, Endpoint, Fleet, Ingress, Source
from finflow.rollout.spec import RolloutSpec
from finflow.rollout.state import Told
from finflow.rollout.verdicts import Judgement, Reading, Side, Verdict
from finflow.rollout.world import World

if TYPE_CHECKING:
    from finflow.app.checks import Maker, Surroundings
    from finflow.rollout.ports import BlastRadius

_LAST_NOTICES_WITHIN_S: Final = 30.0


@asynccontextmanager
async def composed(spec: RolloutSpec, data: Path, folder: Path) -> AsyncIterator[World]:
    """The world of a spec whose relative paths begin at `folder`. Raises what its parts are missing."""
    from finflow.app import ingresses, notices
    from finflow.rollout.sources.opening import open_source

    both = {side: fleet_of(spec, side, data, folder) for side in Side}
    ingress = router_of(spec, data)
    traffic = ingresses.traffic_log_of(ingress)
    releases = {Side.BASELINE: spec.baseline.release, Side.CANDIDATE: spec.candidate.release}
    running: dict[Side, Sequence[Endpoint]] = {}
    source = open_source(spec.metrics, releases=releases, traffic=traffic, endpoints=lambda: running)
    checks = StepChecks(spec, data, folder, ingress, both[Side.CANDIDATE])
    async with AsyncExitStack() as stack:
        outbox = notices.outbox(spec.notify, folder, data / "rollouts" / spec.service / "notices.jsonl")
        await outbox.open()
        stack.push_async_callback(outbox.close, _LAST_NOTICES_WITHIN_S)
        stack.push_async_callback(checks.close)
        if close := getattr(source, "close", None):
            stack.push_async_callback(close)
        yield World(
            ingress=ingress,
            baseline=both[Side.BASELINE],
            candidate=both[Side.CANDIDATE],
            source=FleetSource(source, both, running),
            judge=Judge(spec.gates),
            checks=checks,
            notifier=outbox,
            blast_radius=await _blast_radius(spec, stack),
            open_ingress=_opener(ingress),
        )


def fleet_of(spec: RolloutSpec, side: Side, data: Path, folder: Path) -> Fleet:
    """The processes of a side; nothing is started."""
    from finflow.app import fleets

    named = spec.baseline if side is Side.BASELINE else spec.candidate
    return fleets.fleet(named.fleet, data=data, service=spec.service, release=named.release, base=folder)


def router_of(spec: RolloutSpec, data: Path) -> Ingress:
    """The router that a spec names; nothing is started."""
    from finflow.app import ingresses

    return ingresses.ingress_of(spec.ingress, data / "ingress" / spec.service)


def _opener(ingress: Ingress) -> Callable[[Sequence[Endpoint]], Any] | None:
    """Routers of ours are started; others are somebody else's."""
    from finflow.stack.ingress.local import LocalIngress

    if not isinstance(ingress, LocalIngress):
        return None

    async def opened(baseline: Sequence[Endpoint]) -> None:
        # One that was left with backends keeps them: who serves whom is the log's to say.
        known = ingress.folder.backends()[Side.BASELINE]
        await ingress.start(None if known else baseline)

    return opened


async def _blast_radius(spec: RolloutSpec, stack: AsyncExitStack) -> "BlastRadius | None":
    if spec.impact is None:
        return None
    from finflow.app import Config
    from finflow.app.impact import blast_radius

    return await stack.enter_async_context(blast_radius(Config.load()))


class FleetSource:
    """A source that knows at every reading which processes there are."""

    def __init__(
        self, source: Source, fleets: Mapping[Side, Fleet], running: dict[Side, Sequence[Endpoint]]
    ) -> None:
        self._source = source
        self._fleets = fleets
        self._running = running

    async def read(self) -> Mapping[Side, Reading]:
        """What the source says of them."""
        for side, fleet in self._fleets.items():
            self._running[side] = await fleet.endpoints()
        return await self._source.read()


class RecordedApprovals:
    """The approvals that the decision log holds."""

    def __init__(self) -> None:
        self.known: Mapping[str, Told] = {}

    async def find(self, digest: str) -> Approval | None:
        """The approval of the thing with this digest, or None."""
        given = self.known.get(digest)
        return None if given is None else Approval(digest, given.who, given.at)


class StepChecks:
    """The checks of a spec: those that try the candidate out, and those that need nothing of it."""

    def __init__(
        self, spec: RolloutSpec, data: Path, folder: Path, ingress: Ingress, candidate: Fleet
    ) -> None:
        from finflow.app import checks

        self._approvals = RecordedApprovals()
        around = checks.Surroundings(folder, spec.service, spec.candidate.release, self._approvals)
        made = checks.checks(spec.checks, around, _makers(spec, data, ingress, candidate))
        pairs = list(zip(spec.checks, made, strict=True))
        self._trying = [check for named, check in pairs if isinstance(named, SmokeSpec)]
        self._others = [check for named, check in pairs if not isinstance(named, SmokeSpec)]
        self._schemas = [check for check in made if isinstance(check, SchemaOfRollout)]

    async def close(self) -> None:
        """What goes on beside the steps ends; the next controller takes it up."""
        for each in self._schemas:
            await each.close()

    def before(self, step: int, running: bool, approvals: Mapping[str, Told]) -> Sequence[Check]:
        """The same before every step."""
        self._approvals.known = approvals
        for each in self._schemas:
            each.step = step
        return self._trying if running else self._others


def _makers(spec: RolloutSpec, data: Path, ingress: Ingress, candidate: Fleet) -> "Mapping[type, Maker]":
    """Checks that other rooms own."""

    def smoke(named: SmokeSpec, around: "Surroundings") -> Check:
        return SmokeOfCandidate(spec, named, around, ingress, candidate)

    def shadow(named: ShadowSpec, around: "Surroundings") -> Check:
        from finflow.shadow.check import ShadowCheck

        return ShadowCheck(data / "shadow", named.least_compared, named.longest_lag_s, named.name)

    def schema(named: SchemaSpec, around: "Surroundings") -> Check:
        return SchemaOfRollout(named, around.folder, len(spec.steps) - 1)

    return {SmokeSpec: smoke, ShadowSpec: shadow, SchemaSpec: schema}


class SmokeOfCandidate:
    """A verification asked of the candidate, wherever it answers at this moment.

    Through a router of ours it is asked as testers ask, by the override's header; past another one directly.
    """

    def __init__(
        self, spec: RolloutSpec, named: SmokeSpec, around: "Surroundings", ingress: Ingress, candidate: Fleet
    ) -> None:
        self._spec, self._named, self._around = spec, named, around
        self._ingress, self._candidate = ingress, candidate
        # What is wrong with the file is said before anything is begun.
        self._made("http://127.0.0.1", {})

    async def judge(self) -> Judgement:
        """Look now."""
        try:
            url, headers = await self._place()
        except (FinFlowError, OSError) as error:
            return Judgement(self._named.name, Verdict.ERROR, {}, f"The candidate is nowhere: {error}")
        return await self._made(url, headers).judge()

    def _made(self, url: str, headers: Mapping[str, str]) -> Check:
        from finflow.app import Config
        from finflow.app.smoke import Smoke, smoke_check

        named = self._named
        smoke = Smoke(
            spec=named.spec, base_url=url, headers=headers, timeout_s=named.timeout_s, name=named.name
        )
        return smoke_check(smoke, Config.load(), self._around.folder, self._around.environ)

    async def _place(self) -> tuple[str, Mapping[str, str]]:
        from finflow.stack.ingress.local import LocalIngress

        if self._named.base_url is not None:
            return self._named.base_url, {}
        if isinstance(self._ingress, LocalIngress):
            return self._ingress.url, self._override(self._ingress.spec)
        endpoints = await self._candidate.endpoints()
        if not endpoints:
            raise FinFlowError("source_unreachable", "No process of the candidate is ready.")
        return f"http://{endpoints[0].host}:{endpoints[0].port}", {}

    def _override(self, named: LocalSpec) -> Mapping[str, str]:
        headers = {named.override_header: str(Side.CANDIDATE)}
        if named.override_secret_env is not None:
            secret = self._around.environ.get(named.override_secret_env, "")
            headers[f"{named.override_header}-Secret"] = secret
        return headers
