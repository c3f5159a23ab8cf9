"""The end of a service's rollouts: the processes that they started, and the router in front of them."""

from typing import Final

import msgspec

from finflow.app.rollout_world import fleet_of, router_of
from finflow.app.rollouts import Service, Session, spec_of
from finflow.kernel.errors import FinFlowError
from finflow.rollout.events import Entry
from finflow.rollout.fleet_spec import CommandFleet
from finflow.rollout.fold import folded
from finflow.rollout.spec import ReleaseSpec, RolloutSpec
from finflow.rollout.verdicts import Side
from finflow.stack.ingress.local import LocalIngress

# `finflow up` started this router, and `finflow down` ends it.
_OURS: Final = "finflow"


class Ends(msgspec.Struct, frozen=True):
    """What there is to stop: releases whose processes a rollout started, and whether the router is ours."""

    releases: tuple[str, ...]
    router: bool


def ends(place: Service) -> Ends:
    """What `down` would stop. Raises rollout_unknown, and rollout_active before the last rollout's end."""
    state = folded(place.last())
    if not state.ended:
        raise FinFlowError("rollout_active", f"{state.candidate} is {state.phase} on {place.name}.")
    latest, _ = spec_of(place.last())
    router = isinstance(router_of(latest, place.data), LocalIngress) and place.name != _OURS
    return Ends(tuple(_fleets(place)), router)


async def down(place: Service) -> None:
    """Stops the router, so that nobody is sent to processes that end, and then each process.

    The decision log stays. Processes that somebody else runs (`kind: endpoints`) are left alone.
    """
    async with Session(place):
        if ends(place).router:
            router = router_of(spec_of(place.last())[0], place.data)
            assert isinstance(router, LocalIngress), "`ends` has looked"
            await router.stop()
        for entries, side in _fleets(place).values():
            spec, folder = spec_of(entries)
            await fleet_of(spec, side, place.data, folder).stop()


def _fleets(place: Service) -> dict[str, tuple[list[Entry], Side]]:
    """Each release that a rollout can have started, with the rollout and the side that name it last."""
    found: dict[str, tuple[list[Entry], Side]] = {}
    for entries in place.rollouts():
        spec, _ = spec_of(entries)
        for side in Side:
            if isinstance(_named(spec, side).fleet, CommandFleet):
                found[_named(spec, side).release] = entries, side
    return found


def _named(spec: RolloutSpec, side: Side) -> ReleaseSpec:
    return spec.baseline if side is Side.BASELINE else spec.candidate
