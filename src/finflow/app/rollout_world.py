"""Everything that a rollout's spec names, made of what the house has: router, fleets, source, checks."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finflow.app.rollout_checks import StepChecks
from finflow.rollout.judge import Judge
from finflow.rollout.ports import Endpoint, Fleet, Ingress, Source
from finflow.rollout.spec import RolloutSpec
from finflow.rollout.verdicts import Reading, Side
from finflow.rollout.world import World

if TYPE_CHECKING:
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
    checks = StepChecks(spec, data, folder, both[Side.CANDIDATE], ingress)
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
