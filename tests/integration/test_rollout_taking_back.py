"""An abort at a terminal that has nothing of what the rollout was started with: the weight is 0."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from finflow.app.rollout_world import router_of
from finflow.app.rollouts import Service, Session
from finflow.cli.rollout import carried_on
from finflow.cli.rollout_orders import _by_itself
from finflow.kernel.errors import EXIT_DONE, FinFlowError
from finflow.rollout import events as e
from finflow.rollout import log
from finflow.rollout.fold import folded
from finflow.rollout.spec import RolloutSpec
from finflow.rollout.state import Phase
from finflow.stack.ingress.caddy import caddy_program
from finflow.stack.ingress.local import LocalIngress
from oracles.routing import backends
from stubs.rollout_specs import spec

# None of these variables, files and releases is there.
NAMED = {
    "checks": [
        {"kind": "invariants", "database_url_variable": "NOT_SET_HERE"},
        {"kind": "smoke", "spec": "gone.yaml"},
    ],
    "notify": [{"kind": "slack", "url_variable": "NOT_SET_EITHER"}],
    "candidate": {
        "release": "1.1",
        "fleet": {"kind": "command", "command": ["{bin}/shop"], "release": "removed", "processes": 4},
    },
}


@contextlib.asynccontextmanager
async def half_way(data: Path, wanted: RolloutSpec) -> AsyncIterator[LocalIngress]:  # type: ignore[type-arg] # any
    """Half of all customers are on the candidate, and the controller is gone."""
    try:
        caddy_program()
    except FinFlowError as error:
        pytest.skip(error.detail)
    async with backends("baseline", "candidate") as (old, new):
        ingress = router_of(wanted, data)
        assert isinstance(ingress, LocalIngress)
        try:
            await ingress.start([old.endpoint], [new.endpoint])
            await ingress.set_weight(5_000)
            async with Session(Service(data, wanted.service)) as session:
                session.begin(wanted, data)
                for told in (
                    e.Done(e.Prepare(), True),
                    e.Decided(e.Decision.PASS_CHECKS, 1, ""),
                    e.Done(e.Scale(1, 2), True),
                    e.Intended(e.SetWeight(1, 5_000)),
                ):
                    session.log.append("controller", told)
            yield ingress
        finally:
            await ingress.stop()


async def test_an_abort_needs_the_router_alone(tmp_path: Path) -> None:
    wanted = spec(**NAMED)
    place = Service(tmp_path, wanted.service)
    async with half_way(tmp_path, wanted) as ingress:
        # As it was started, it cannot go on here.
        with pytest.raises(FinFlowError, match=r"release_unknown|check_unavailable"):
            await carried_on(place)
        assert await ingress.weight() == 5_000
        assert await asyncio.to_thread(_by_itself, place, "it is on fire", True) == EXIT_DONE
        assert await ingress.weight() == 0
    entries = place.last()
    state = folded(entries)
    assert (state.phase, "it is on fire" in state.reason) == (Phase.ABORTED, True)
    # Nothing was raised on the way, although the log ends in the middle of that.
    intended = [each.told.intent for each in entries if isinstance(each.told, e.Intended)]
    assert intended[-1] == e.TakeBack()
    assert intended.count(e.SetWeight(1, 5_000)) == 1
    untold = [each.told for each in entries if isinstance(each.told, e.Notified) and not each.told.ok]
    assert "NOT_SET_EITHER" in untold[0].words
    assert log.verify(place.folder).faults == []
