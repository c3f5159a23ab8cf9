"""Fleets of real processes: what they do when told, and when they crash, hang, leak or refuse to end."""

import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from finflow.kernel.errors import FinFlowError
from finflow.rollout.ports import Endpoint
from finflow.stack import processes
from finflow.stack.fleets.command import CommandFleet
from finflow.stack.fleets.folder import FleetFolder, Plan
from finflow.stack.fleets.supervisor import MARK

_SERVICE = Path(__file__).parents[1] / "stubs" / "finflow_fleet_service.py"
_PATIENCE_S = 20.0


@pytest.fixture
async def fleet() -> AsyncIterator[Callable[..., CommandFleet]]:
    """Makes fleets in a folder of their own; whatever is left of them ends with the test."""
    root = Path(tempfile.mkdtemp(prefix="ff-"))

    def make(name: str = "fleet", **changes: Any) -> CommandFleet:
        values: dict[str, Any] = {
            "command": (sys.executable, str(_SERVICE)),
            "working_folder": str(root),
            "ready_path": "/readyz",
            "stop_timeout_s": 2.0,
            "drain_s": 5.0,
            **changes,
        }
        return CommandFleet(root / name, Plan(**values))

    yield make
    for folder in root.iterdir():
        if (folder / "plan.json").exists() and (plan := FleetFolder(folder).plan()):
            await CommandFleet(folder, plan).stop()
    shutil.rmtree(root)


async def _get(endpoint: Endpoint, path: str = "/") -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{endpoint.host}:{endpoint.port}{path}") as response,
    ):
        return await response.text()


async def _pids(fleet: CommandFleet) -> dict[int, int]:
    """Process number, as the processes themselves say, by port."""
    return {each.port: int(await _get(each)) for each in await fleet.endpoints()}


async def _until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while not true():
            await asyncio.sleep(0.02)


async def _endpoints(fleet: CommandFleet, count: int) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while len(await fleet.endpoints()) != count:
            await asyncio.sleep(0.02)


def _ends(fleet: CommandFleet) -> dict[str, int]:
    state = fleet.state()
    return state.ends if state else {}


def _supervisor(fleet: CommandFleet) -> processes.Process:
    state = fleet.state()
    assert state is not None
    return state.supervisor


async def test_starts_scales_and_stops(fleet: Callable[..., CommandFleet]) -> None:
    service = fleet()
    await service.start(3)
    assert await service.ready(_PATIENCE_S)
    three = await _pids(service)
    assert len(set(three.values())) == 3
    await service.start(1)
    await _endpoints(service, 1)
    one = await _pids(service)
    assert one.items() < three.items(), "the one that stays is not touched"
    await service.start(2)
    assert await service.ready(_PATIENCE_S)
    supervisor = _supervisor(service)
    await service.stop()
    assert not processes.alive(supervisor)
    assert await service.endpoints() == []
    assert [pid for pid in three.values() if processes.identify(pid)] == []


async def test_a_crashed_process_comes_back_on_its_port(fleet: Callable[..., CommandFleet]) -> None:
    service = fleet()
    await service.start(2)
    assert await service.ready(_PATIENCE_S)
    before = await _pids(service)
    port, pid = next(iter(before.items()))
    os.kill(pid, signal.SIGKILL)
    await _until(lambda: _ends(service) == {"killed": 1})
    assert await service.ready(_PATIENCE_S)
    after = await _pids(service)
    assert set(after) == set(before)
    assert {port for port in after if after[port] != before[port]} == {port}


async def test_a_killed_supervisor_leaves_its_processes_and_the_next_adopts_them(
    fleet: Callable[..., CommandFleet],
) -> None:
    service = fleet()
    await service.start(2)
    assert await service.ready(_PATIENCE_S)
    before, first = await _pids(service), _supervisor(service)
    os.kill(first.pid, signal.SIGKILL)
    await processes.wait_gone([first], _PATIENCE_S)
    assert {port: int(await _get(Endpoint("127.0.0.1", port))) for port in before} == before
    assert await _pids(service) == before, "asked for, it comes back and has lost nobody"
    assert _supervisor(service) != first
    os.kill(next(iter(before.values())), signal.SIGKILL)
    await _until(lambda: _ends(service) == {"lost": 1})
    assert await service.ready(_PATIENCE_S)
    assert set(await _pids(service)) == set(before)


async def test_a_process_that_no_state_names_is_adopted_by_its_mark(
    fleet: Callable[..., CommandFleet],
) -> None:
    service = fleet()
    await service.start(1)
    assert await service.ready(_PATIENCE_S)
    before, first = await _pids(service), _supervisor(service)
    os.kill(first.pid, signal.SIGKILL)
    (service.folder.root / "state.json").unlink()
    assert await service.ready(_PATIENCE_S)
    assert await _pids(service) == before


async def test_processes_of_a_killed_supervisor_are_stopped_too(fleet: Callable[..., CommandFleet]) -> None:
    service = fleet()
    await service.start(2)
    assert await service.ready(_PATIENCE_S)
    before, first = await _pids(service), _supervisor(service)
    os.kill(first.pid, signal.SIGKILL)
    await service.stop()
    assert [pid for pid in before.values() if processes.identify(pid)] == []


async def test_supervisors_killed_at_any_moment_leave_no_stray_and_lose_nobody(
    fleet: Callable[..., CommandFleet],
) -> None:
    """Killed while it launches, starts, adopts and scales; whoever comes next carries out each order."""
    service, dice = fleet(), random.Random(6)  # noqa: S311 - where to kill, not a secret
    await service.start(1)
    for round_ in range(12):
        want = 1 + round_ % 3
        ordering = asyncio.create_task(service.start(want))
        await asyncio.sleep(dice.random() * 0.4)
        os.kill(_supervisor(service).pid, signal.SIGKILL)
        await ordering
    assert await service.ready(_PATIENCE_S)
    serving = set((await _pids(service)).values())
    assert len(serving) == 3
    assert set(processes.with_variable(MARK, str(service.folder.root))) == serving
    await service.stop()
    assert processes.with_variable(MARK, str(service.folder.root)) == {}


async def test_drain_finishes_what_is_under_way(fleet: Callable[..., CommandFleet]) -> None:
    service = fleet()
    await service.start(2)
    assert await service.ready(_PATIENCE_S)
    slow = [asyncio.create_task(_get(each, "/slow?ms=700")) for each in await service.endpoints()]
    await asyncio.sleep(0.2)
    assert await service.drain(10)
    assert all(answer.isdigit() for answer in await asyncio.gather(*slow))
    assert await service.endpoints() == []
    assert await service.drain(10), "said again, it is done already"


async def test_drain_says_when_it_cut_something_off(fleet: Callable[..., CommandFleet]) -> None:
    service = fleet()
    await service.start(1)
    assert await service.ready(_PATIENCE_S)
    slow = asyncio.create_task(_get((await service.endpoints())[0], "/slow?ms=60000"))
    await asyncio.sleep(0.2)
    assert not await service.drain(0.5)
    with pytest.raises(aiohttp.ClientError):
        await slow
    state = service.state()
    assert state is not None
    assert [(cut.number, cut.connections) for cut in state.cut] == [(0, 1)]


async def test_started_again_after_a_drain(fleet: Callable[..., CommandFleet]) -> None:
    service = fleet()
    await service.start(1)
    assert await service.ready(_PATIENCE_S)
    await service.drain(5)
    await service.start(1)
    assert await service.ready(_PATIENCE_S)
    assert len(await service.endpoints()) == 1


async def test_what_refuses_to_end_is_killed(fleet: Callable[..., CommandFleet]) -> None:
    service = fleet(environment={"BEHAVE": "refuse"}, stop_timeout_s=0.3)
    await service.start(1)
    assert await service.ready(_PATIENCE_S)
    (pid,) = (await _pids(service)).values()
    await service.stop()
    assert processes.identify(pid) is None


async def test_what_crashes_at_start_is_never_ready_and_says_why(fleet: Callable[..., CommandFleet]) -> None:
    service = fleet(environment={"BEHAVE": "crash"})
    await service.start(2)
    assert not await service.ready(60), "it does not wait that long for what cannot be"
    assert _ends(service)["failed"] >= 4
    assert service.last_words() == "ended with status 1: it does not start"
    assert await service.endpoints() == []


async def test_what_is_not_ready_or_never_listens_takes_no_requests(
    fleet: Callable[..., CommandFleet],
) -> None:
    unready = fleet("unready", environment={"BEHAVE": "unready"}, hung_after_s=0.5)
    silent = fleet("silent", environment={"BEHAVE": "bind"}, hung_after_s=0.5, ready_path=None)
    for service in (unready, silent):
        await service.start(1)
        assert not await service.ready(1)
        assert await service.endpoints() == []
    await _until(lambda: _ends(silent).get("hung"))
    assert _ends(unready) == {}, "it answers, though not well: it does not hang"


async def test_what_hangs_is_started_again(fleet: Callable[..., CommandFleet]) -> None:
    service = fleet(hung_after_s=3.0, stop_timeout_s=0.3)
    await service.start(1)
    assert await service.ready(_PATIENCE_S)
    (before,) = (await _pids(service)).values()
    hanging = asyncio.create_task(_get((await service.endpoints())[0], "/hang"))
    await _endpoints(service, 0)
    await asyncio.gather(hanging, return_exceptions=True)
    await _endpoints(service, 1)
    assert _ends(service) == {"hung": 1}
    assert before not in (await _pids(service)).values()


async def test_what_leaks_is_started_again(fleet: Callable[..., CommandFleet]) -> None:
    service = fleet(memory_limit_mb=120)
    await service.start(1)
    assert await service.ready(_PATIENCE_S)
    await _get((await service.endpoints())[0], "/leak?mb=150")
    await _until(lambda: _ends(service).get("memory"))
    assert await service.ready(_PATIENCE_S)


async def test_a_command_that_there_is_not_is_reported(fleet: Callable[..., CommandFleet]) -> None:
    service = fleet(command=("no-such-program-anywhere",))
    with pytest.raises(FinFlowError, match="no-such-program-anywhere") as caught:
        await service.start(1)
    assert caught.value.kind.code == "fleet_failed"


async def test_another_plan_is_refused_while_processes_run(fleet: Callable[..., CommandFleet]) -> None:
    first, second = fleet(release="1.0"), fleet(release="2.0")
    await first.start(1)
    with pytest.raises(FinFlowError, match=r"1\.0") as caught:
        await second.start(1)
    assert caught.value.kind.code == "fleet_conflict"
    await first.stop()
    await second.start(1)


async def test_secrets_reach_the_processes_and_nothing_else(
    fleet: Callable[..., CommandFleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2-passed")
    service = fleet(environment_from=("DATABASE_PASSWORD",), environment_file="", environment={"A": "b"})
    secret = service.folder.root.parent / "secrets"
    secret.write_text("# the key\nAPI_KEY=hunter2-filed\n")
    service = fleet(environment_from=("DATABASE_PASSWORD",), environment_file=str(secret))
    secret.chmod(0o644)
    with pytest.raises(FinFlowError, match="chmod 600") as caught:
        await service.start(1)
    assert caught.value.kind.code == "fleet_environment"
    secret.chmod(0o600)
    await service.start(1)
    assert await service.ready(_PATIENCE_S)
    (endpoint,) = await service.endpoints()
    assert await _get(endpoint, "/env?DATABASE_PASSWORD") == "hunter2-passed"
    assert await _get(endpoint, "/env?API_KEY") == "hunter2-filed"
    os.kill(int(await _get(endpoint)), signal.SIGKILL)
    await _until(lambda: _ends(service) == {"killed": 1})
    assert await service.ready(_PATIENCE_S)
    assert await _get(endpoint, "/env?DATABASE_PASSWORD") == "hunter2-passed"
    shown = [path.read_bytes() for path in service.folder.root.rglob("*") if path.is_file()]
    supervisor = Path(f"/proc/{_supervisor(service).pid}")
    shown += [(supervisor / "environ").read_bytes(), (supervisor / "cmdline").read_bytes()]
    assert [text for text in shown if b"hunter2" in text] == []
    monkeypatch.delenv("DATABASE_PASSWORD")
    os.kill(_supervisor(service).pid, signal.SIGKILL)
    await service.stop()
    with pytest.raises(FinFlowError, match="DATABASE_PASSWORD"):
        await service.start(1)


async def test_a_folder_that_is_removed_takes_its_fleet_with_it(fleet: Callable[..., CommandFleet]) -> None:
    service = fleet()
    await service.start(1)
    assert await service.ready(_PATIENCE_S)
    (pid,) = (await _pids(service)).values()
    supervisor = _supervisor(service)
    shutil.rmtree(service.folder.root)
    await _until(lambda: processes.identify(pid) is None and not processes.alive(supervisor))


async def test_any_path_will_do(fleet: Callable[..., CommandFleet]) -> None:
    service = fleet("ünïcode 'and' " + "x" * 120)
    await service.start(1)
    assert await service.ready(_PATIENCE_S)


async def test_a_log_stays_within_its_bound(fleet: Callable[..., CommandFleet]) -> None:
    service = fleet()
    await service.start(1)
    assert await service.ready(_PATIENCE_S)
    log = service.folder.logs / "process-0.log"
    with log.open("ab") as file:
        file.write(b"x" * (17 << 20))
    await _until(lambda: log.stat().st_size == 0)
    assert (service.folder.logs / "process-0.log.1").stat().st_size == 17 << 20
