"""Limits on a whole stack: workers share them, the command line sets them, our client waits as it is told."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from finflow.app import Config, running
from finflow.cli.connect import LocalTokens
from finflow.client.administration import LimitsChange
from finflow.client.service import Client
from finflow.stack.service import Stack


class Place(NamedTuple):
    """Two workers, tokens for them, and a tenant."""

    stack: Stack
    tokens: LocalTokens
    data: Path
    tenant_id: str

    def client(self) -> Client:
        return Client(self.stack.url, token=self.tokens.of(self.tenant_id))

    def operator(self) -> Client:
        return Client(self.stack.url, token=self.tokens.operator())


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Place]:
    data = tmp_path / "data"
    config = Config.load(
        {"database_url": database_url, "data": str(data), "workers": 2, "log_level": "error"}, {}
    )
    async with running(config, ingress=None) as stack:
        tokens = LocalTokens(config, stack.url)
        async with Client(stack.url, token=tokens.operator()) as platform:
            tenant_id = (await platform.create_tenant("Bank")).tenant_id
        yield Place(stack, tokens, data, tenant_id)


async def test_workers_share_a_tenant_s_rate(place: Place) -> None:
    async with place.operator() as platform:
        await platform.change_limits(place.tenant_id, LimitsChange(requests_per_s=1, burst=60))
    # The other worker looks once a second.
    await asyncio.sleep(3)
    headers = {"Authorization": f"Bearer {place.tokens.mint(place.tenant_id)}"}
    limits = httpx.Limits(max_connections=40, max_keepalive_connections=40)
    began_s = asyncio.get_running_loop().time()
    async with httpx.AsyncClient(
        base_url=place.stack.url, headers=headers, limits=limits, timeout=30
    ) as client:
        answers = await asyncio.gather(*(client.get("/v1/ledgers") for _ in range(150)))
    async with httpx.AsyncClient(base_url=place.stack.url, limits=limits, timeout=30) as nobody:
        healthy = await asyncio.gather(*(nobody.get("/healthz") for _ in range(80)))
    workers = {answer.json()["pid"] for answer in healthy}
    came = int(asyncio.get_running_loop().time() - began_s) + 1
    statuses = Counter(answer.status_code for answer in answers)
    assert 60 <= statuses[200] <= 60 + came
    assert statuses[200] + statuses[429] == 150
    assert {answer.headers["ratelimit-policy"].partition(",")[0] for answer in answers} == {
        '"requests";q=60;w=60'
    }
    # Which of them took a connection is the kernel's choice; with eighty asked, both did.
    assert workers == set(place.stack.worker_pids)


async def test_a_worker_that_is_killed_changes_nothing_about_what_is_left(place: Place) -> None:
    async with place.operator() as platform:
        await platform.change_limits(place.tenant_id, LimitsChange(requests_per_s=1, burst=40))
    await asyncio.sleep(3)
    headers = {"Authorization": f"Bearer {place.tokens.mint(place.tenant_id)}"}
    began_s = asyncio.get_running_loop().time()
    async with httpx.AsyncClient(base_url=place.stack.url, headers=headers, timeout=30) as client:
        first = [(await client.get("/v1/ledgers")).status_code for _ in range(20)]
    for pid in place.stack.worker_pids:
        os.kill(pid, signal.SIGKILL)
    transport = httpx.AsyncHTTPTransport(retries=20)
    async with httpx.AsyncClient(transport=transport, base_url=place.stack.url, headers=headers) as client:
        await _until_ready(client)
        then = [(await client.get("/v1/ledgers")).status_code for _ in range(40)]
    came = int(asyncio.get_running_loop().time() - began_s) + 1
    assert set(first) == {200}
    assert 20 <= then.count(200) <= 20 + came
    assert then.count(200) + then.count(429) == 40


async def _until_ready(client: httpx.AsyncClient) -> None:
    for _ in range(300):
        try:
            if (await client.get("/readyz")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)
    raise AssertionError("no worker came back")


async def test_our_client_comes_through_however_little_it_may(place: Place) -> None:
    async with place.operator() as platform:
        await platform.change_limits(place.tenant_id, LimitsChange(requests_per_s=2, burst=1))
    await asyncio.sleep(3)
    async with place.client() as api:
        made = [await api.create_ledger(f"L{number}") for number in range(4)]
        assert [ledger.name for ledger in await api.ledgers()] == [ledger.name for ledger in made]


async def test_the_command_line_shows_and_changes_them(place: Place) -> None:
    async def finflow(*words: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "finflow", "tenant", "limit", place.tenant_id, *words]
        done = await asyncio.to_thread(
            subprocess.run, [*command, "--data", str(place.data)], capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stdout, done.stderr

    status, shown, _ = await finflow()
    assert (status, shown.split()[3:]) == (
        0,
        [
            *("requests_per_s", "300", "default"),
            *("burst", "1000", "default"),
            *("concurrency", "256", "default"),
        ],
    )
    status, shown, _ = await finflow("--requests-per-s", "20", "--burst", "40")
    assert status == 0
    assert "20" in shown
    assert shown.count("its own") == 2
    status, shown, _ = await finflow("--burst", "default", "--json")
    assert '"burst":1000' in shown
    assert '"overridden":["requests_per_s"]' in shown
    for wrong in ("0", "-1", "many", "1.5"):
        status, shown, said = await finflow("--burst", wrong)
        assert (status, shown) == (2, "")
        assert "whole number" in said
    status, _, said = await finflow("--requests-per-s", "9999999")
    assert status == 2
    assert "request_malformed (requests_per_s)" in said
