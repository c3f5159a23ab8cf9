"""`finflow up` behind its ingress: addresses, kills, orphans, and a rollout that takes its split over."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from finflow.app.ingresses import ingress_of
from finflow.rollout.ingress_spec import CaddySpec
from finflow.rollout.ports import Endpoint
from finflow.rollout.verdicts import Side
from finflow.stack import ports, processes
from finflow.stack.fleets.command import CommandFleet
from finflow.stack.fleets.folder import Plan
from finflow.stack.front import Kind, chosen
from finflow.stack.service import StackSettings, running

_STUBS = Path(__file__).parents[1] / "stubs"
_PATIENCE_S = 20.0


@pytest.fixture
def data() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ff-"))
    yield folder / "data"
    shutil.rmtree(folder)


@pytest.fixture(params=["caddy", "haproxy"])
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "caddy" and chosen("auto") is None:
        pytest.skip("Caddy is not installed")
    if request.param == "haproxy" and shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("HAProxy is not installed")
    return request.param  # type: ignore[no-any-return] # one of the two


def _settings(data: Path, database_url: str, kind: Kind, workers: int = 1) -> StackSettings:
    return StackSettings(
        data=data,
        workers=workers,
        database_url=database_url,
        target="finflow_stub_api:application",
        environment={"PYTHONPATH": str(_STUBS)},
        ingress=kind,
    )


async def _get(url: str, customer: str = "", **headers: str) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers={"X-Customer-Id": customer, **headers}) as response,
    ):
        assert response.status == 200, response.status
        return await response.text()


async def _eventually_get(url: str) -> str:
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            with contextlib.suppress(aiohttp.ClientError, AssertionError):
                return await _get(url)
            await asyncio.sleep(0.02)


async def test_serves_and_comes_back_when_it_is_killed(data: Path, database_url: str, kind: Kind) -> None:
    async with running(_settings(data, database_url, kind)) as stack:
        assert stack.fleet is not None
        assert stack.url != stack.fleet.url
        assert await _get(stack.url) == await _get(stack.fleet.url), "the same worker answers"
        state = stack.folder.read_state()
        assert state is not None
        assert (state.url, state.workers_url, state.ingress_kind) == (stack.url, stack.fleet.url, kind)
        first = state.ingress
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        await processes.wait_gone([first], _PATIENCE_S)
        await _eventually_get(stack.url)
        async with asyncio.timeout(_PATIENCE_S):
            while (state := stack.folder.read_state()) is None or state.ingress in (None, first):
                await asyncio.sleep(0.02)
        second = state.ingress
    assert second is not None
    assert not processes.alive(second)
    assert stack.folder.read_state() is None


async def test_workers_stay_where_they_were_and_what_a_crash_has_left_is_ended(
    data: Path, database_url: str
) -> None:
    port = ports.free("127.0.0.1")
    settings = msgspec.structs.replace(_settings(data, database_url, "caddy"), port=port)
    async with running(settings) as stack:
        assert stack.fleet is not None
        inner, outer = stack.fleet.port, stack.url
    # An ingress that nobody runs any more holds the port.
    left = ingress_of(CaddySpec(port=port), data / "ingress" / "finflow")
    await left.start()
    orphan = left.running()
    assert orphan is not None
    async with running(settings) as stack:
        assert stack.fleet is not None
        assert (stack.fleet.port, stack.url) == (inner, outer)
        assert not processes.alive(orphan)
        await _get(stack.url)


async def test_the_ingress_ends_before_the_workers(data: Path, database_url: str) -> None:
    async with running(_settings(data, database_url, "caddy")) as stack:
        url, answers = stack.url, Counter[str]()

        async def ask() -> None:
            async with aiohttp.ClientSession() as session:
                while True:
                    try:
                        async with session.get(url) as response:
                            answers[str(response.status)] += 1
                    except aiohttp.ClientConnectorError:
                        # Refused: it takes nothing new.
                        return
                    except aiohttp.ClientError as error:
                        answers[type(error).__name__] += 1

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        await asyncio.sleep(0.3)
    await asyncio.gather(*asking)
    # The ingress ends before the workers, so nobody is told that there are none.
    statuses = {answer for answer in answers if answer.isdigit()}
    assert statuses == {"200"}
    assert answers["200"] > 20
    assert answers.total() - answers["200"] <= 4, "each connection may be closed once"


async def test_a_weight_stays_only_while_there_is_a_candidate(data: Path, database_url: str) -> None:
    settings = _settings(data, database_url, "caddy")
    async with running(settings) as stack:
        assert stack.front is not None
        candidate = Endpoint("127.0.0.1", ports.free("127.0.0.1"))
        await stack.front.ingress.set_backends(Side.CANDIDATE, [candidate])
        await stack.front.ingress.set_weight(10_000)
    async with running(settings) as stack:
        assert stack.front is not None
        assert await stack.front.ingress.weight() == 0
        await _get(stack.url, "anybody")


async def test_a_rollout_takes_the_split_over_and_loses_nothing(data: Path, database_url: str) -> None:
    """As a controller does it, by the folder alone: 5, 50, 100 and 0 per cent under load."""
    async with running(_settings(data, database_url, "caddy", workers=2)) as stack:
        plan = Plan(
            command=(sys.executable, str(_STUBS / "finflow_fleet_service.py")),
            working_folder=str(_STUBS),
            ready_path="/readyz",
        )
        candidate = CommandFleet(data.parent / "fleet", plan)
        await candidate.start(2)
        assert await candidate.ready(_PATIENCE_S)
        ingress = ingress_of(CaddySpec(), data / "ingress" / "finflow")
        await ingress.start()
        await ingress.set_backends(Side.CANDIDATE, await candidate.endpoints())
        statuses: Counter[int] = Counter()
        done = asyncio.Event()

        async def ask(number: int) -> None:
            async with aiohttp.ClientSession(headers={"X-Customer-Id": f"c{number}"}) as session:
                while not done.is_set():
                    async with session.get(stack.url) as response:
                        statuses[response.status] += 1

        asking = [asyncio.create_task(ask(number)) for number in range(16)]
        for weight_bp in (500, 5_000, 10_000):
            await ingress.set_weight(weight_bp)
            await asyncio.sleep(0.4)
        own = {str(pid) for pid in stack.worker_pids}
        assert await _get(stack.url, "somebody") not in own
        await ingress.set_weight(0)
        await ingress.set_backends(Side.CANDIDATE, [])
        assert await candidate.drain(10)
        done.set()
        await asyncio.gather(*asking)
        assert set(statuses) == {200}
        assert (await ingress.routed())[Side.CANDIDATE] > 0
        assert await _get(stack.url, "somebody") in own
        await candidate.stop()


async def _token_statuses(url: str, source: str, **headers: str) -> list[int]:
    connector = aiohttp.TCPConnector(local_addr=(source, 0))
    async with aiohttp.ClientSession(connector=connector) as session:
        found = []
        for number in range(6):
            given = {name: value.format(number) for name, value in headers.items()}
            async with session.post(f"{url}/oauth/token", headers=given) as response:
                found.append(response.status)
        return found


async def test_limits_count_the_address_that_the_ingress_saw(
    data: Path, database_url: str, kind: Kind
) -> None:
    # An address may ask for two tokens at once and for one a second.
    settings = StackSettings(
        data=data,
        workers=1,
        database_url=database_url,
        environment={"FINFLOW_UNVERIFIED_PER_S": "1", "FINFLOW_DATA": str(data)},
        ingress=kind,
    )
    forged = {"X-Forwarded-For": "198.51.100.{}"}
    async with running(settings) as stack:
        assert stack.fleet is not None
        assert 429 in await _token_statuses(stack.url, "127.0.0.2")
        assert 429 not in (await _token_statuses(stack.url, "127.0.0.3"))[:2], (
            "another address, another bound"
        )
        assert 429 in await _token_statuses(stack.url, "127.0.0.4", **forged), (
            "what a client says counts nothing"
        )
        worker = stack.fleet.url
        assert 429 in await _token_statuses(worker, "127.0.0.5", **forged), "nor what it says to a worker"
        proof = {**forged, "X-Finflow-Ingress": "guessed:"}
        assert 429 in await _token_statuses(worker, "127.0.0.6", **proof)
        assert await _status(f"{stack.url}/metrics") == 200, "who sits on this machine may read it"
        assert await _status(f"{stack.url}/metrics", **{"X-Forwarded-For": "127.0.0.1"}) == 404
        assert await _status(f"{stack.url}/metrics", **{"X-Real-Ip": "127.0.0.1"}) == 404
        assert await _status(f"{stack.url}/metrics", Forwarded="for=127.0.0.1") == 404


async def _status(url: str, **headers: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status


def test_what_the_setting_means(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [chosen(text) for text in ("none", "caddy", "haproxy")] == [None, "caddy", "haproxy"]
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    assert chosen("auto") is None
