"""One contract for every fleet: processes of a command, processes that somebody else runs, and the fake."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from finflow.app import fleets
from finflow.kernel.errors import FinFlowError
from finflow.rollout.fake_fleet import FakeFleet
from finflow.rollout.fleet_spec import CommandFleet, EndpointsFleet
from finflow.rollout.ports import Fleet
from finflow.stack import ports

_SERVICE = Path(__file__).parents[1] / "stubs" / "finflow_fleet_service.py"
_PATIENCE_S = 20.0


def _legacy(port: int) -> "subprocess.Popen[bytes]":
    """A process that nobody supervises."""
    return subprocess.Popen([sys.executable, _SERVICE], env={**os.environ, "PORT": str(port)})


@pytest.fixture(params=["command", "endpoints", "fake"])
async def fleet(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    """A fleet whose one process can be started, drained and stopped."""
    if request.param == "fake":
        yield FakeFleet()
        return
    data = Path(tempfile.mkdtemp(prefix="ff-"))
    if request.param == "command":
        spec = CommandFleet(command=(sys.executable, str(_SERVICE)), ready_path="/readyz", stop_timeout_s=2)
        made = fleets.fleet(spec, data=data, service="shop", release="1.0", base=data)
        yield made
        await made.stop()
    else:
        port = ports.free("127.0.0.1")
        legacy = _legacy(port)
        # It waits for the end, as a stop command should.
        stop = ("sh", "-c", f"kill {legacy.pid} 2>/dev/null; sleep 0.5")
        spec_of_others = EndpointsFleet(
            endpoints=(f"127.0.0.1:{port}",), ready_path="/readyz", stop_command=stop
        )
        yield fleets.fleet(spec_of_others, data=data, service="shop", release="0.9", base=data)
        legacy.kill()
        legacy.wait()
    shutil.rmtree(data)


async def test_started_ready_drained_stopped_and_each_of_it_twice(fleet: Fleet) -> None:
    await fleet.start(1)
    await fleet.start(1)
    assert await fleet.ready(_PATIENCE_S)
    first = await fleet.endpoints()
    assert len(first) == 1
    assert await fleet.endpoints() == first, "asking changes nothing"
    assert await fleet.drain(5)
    assert await fleet.drain(5)
    await fleet.stop()
    await fleet.stop()
    assert await fleet.endpoints() == []
    assert not await fleet.ready(0.1)


async def test_what_was_never_started_is_not_ready_and_can_be_stopped(fleet: Fleet) -> None:
    await fleet.stop()
    assert not await fleet.ready(0.1)
    assert await fleet.endpoints() == []


async def test_a_stop_command_that_fails_is_reported() -> None:
    spec = EndpointsFleet(endpoints=("127.0.0.1:1",), stop_command=("sh", "-c", "echo no permission; exit 7"))
    made = fleets.fleet(spec, data=Path("/nowhere"), service="shop", release="0.9", base=Path("/nowhere"))
    with pytest.raises(FinFlowError, match="7: no permission") as caught:
        await made.stop()
    assert caught.value.kind.code == "fleet_failed"


async def test_endpoints_that_nobody_can_stop_stay() -> None:
    port = ports.free("127.0.0.1")
    legacy = _legacy(port)
    try:
        spec = EndpointsFleet(endpoints=(f"127.0.0.1:{port}",))
        made = fleets.fleet(spec, data=Path("/nowhere"), service="shop", release="0.9", base=Path("/nowhere"))
        assert await made.ready(_PATIENCE_S)
        await made.stop()
        assert [each.port for each in await made.endpoints()] == [port]
    finally:
        legacy.send_signal(signal.SIGKILL)
        legacy.wait()
