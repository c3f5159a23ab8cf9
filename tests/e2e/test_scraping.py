"""What /metrics says, against what a load generator counted itself: over kills, restarts, floods of names."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from finflow.app import Config, running
from finflow.cli import finflow
from finflow.stack import ports
from finflow.stack.service import Stack
from finflow.telemetry.samples import Scrape
from oracles.scraping import free_port, load_on
from oracles.tokens import FLAGS

OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


@asynccontextmanager
async def stack(data: Path) -> AsyncIterator[tuple[Stack, httpx.AsyncClient]]:
    flags = {"data": data, "workers": 2, "release": "2026.11", "metrics_address": f"127.0.0.1:{free_port()}"}
    flags |= FLAGS
    async with running(Config.load(flags, {}), durable=False, ingress=None) as found:
        # No connection outlives its request, so that a killed worker leaves nothing behind at the client.
        limits = httpx.Limits(max_connections=40, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=found.url, limits=limits, timeout=60) as client:
            yield found, client


async def scraped(client: httpx.AsyncClient, url: str = "/metrics") -> Scrape:
    answer = await client.get(url)
    assert answer.status_code == 200
    return Scrape(answer.text, 0.0)


def postings(found: Scrape, status_class: str) -> float:
    return found.total(
        "http_server_requests_total", http_request_method="POST", http_route="/v1/transactions",
        status_class=status_class, release="2026.11",
    )  # fmt: skip


async def kill_a_worker(found: Stack) -> None:
    """SIGKILL one, and wait until as many as before answer again."""
    workers = found.worker_pids
    os.kill(workers[0], signal.SIGKILL)
    async with asyncio.timeout(60):
        while len(found.worker_pids) < 2 or workers[0] in found.worker_pids:
            await asyncio.sleep(0.05)
        while await found_ready(found) < 2:
            await asyncio.sleep(0.05)


async def found_ready(found: Stack) -> int:
    assert found.fleet is not None
    return ports.listening(found.fleet.port)


async def test_totals_equal_the_load_generator_s_over_kills_and_a_restart(short_folder: Path) -> None:
    data = short_folder / "metrics"
    answered: Counter[int] = Counter()
    commands = 0
    for _ in range(2):
        async with stack(data) as (found, client):
            load = await load_on(client)
            commands += 2
            for _ in range(3):
                await load.many(60)
                # Refused by a rule, so it stands in the journal and is answered 422.
                await load.many(5, "0.001")
                await kill_a_worker(found)
            assert sum(load.answered.values()) == load.sent
            answered += load.answered
            side = f"http://127.0.0.1:{found.metrics_port}/metrics"
            for url in ("/metrics", side):
                seen = await scraped(client, url)
                assert postings(seen, "2xx") == answered[201]
                assert postings(seen, "4xx") == answered[422]
                assert postings(seen, "5xx") == postings(seen, "none") == 0
                assert (
                    seen.total("finflow_ledger_commands_total", outcome="accepted")
                    == answered[201] + commands
                )
                assert seen.total("finflow_ledger_refusals_total") == answered[422]
                problems = seen.total("finflow_http_problems_total", code="amount_too_precise")
                assert problems == answered[422]
                durations = "http_server_request_duration_seconds_count"
                assert seen.total(durations, http_route="/v1/transactions") == sum(answered.values())
                assert (
                    seen.total("finflow_ledger_queue_wait_seconds_count") == sum(answered.values()) + commands
                )
                tenants = seen.values("finflow_tenant_requests_total", "tenant")
                counted = sum(
                    seen.total("finflow_tenant_requests_total", tenant=each)
                    for each in tenants
                    if each != "none"
                )
                # Its ledger is a request of the tenant, but no command.
                assert counted == sum(answered.values()) + commands + commands // 2
    assert seen.total("finflow_worker_ends_total") == 6


async def test_a_worker_killed_under_load_loses_no_answered_request(short_folder: Path) -> None:
    async with stack(short_folder / "killed") as (found, client):
        load = await load_on(client)
        for _ in range(3):
            running_load = asyncio.create_task(load.many(150))
            await asyncio.sleep(0.05)
            await kill_a_worker(found)
            await running_load
        seen = await scraped(client)
        assert load.answered[201] <= postings(seen, "2xx") <= load.sent
        assert set(load.answered) == {201}


async def test_floods_of_paths_methods_and_tenants_make_a_bounded_number_of_series(
    short_folder: Path,
) -> None:
    async with stack(short_folder / "flood") as (_, client):
        load = await load_on(client)
        await load.many(2)
        # Both workers have answered by then, and bound what they bind lazily.
        for _ in range(20):
            await asyncio.gather(*(client.get(f"/v1/{number}") for number in range(2)))
            await client.request("BREW", "/v1/tea")
            await client.head("/v1/nothing")
        before = await scraped(client)
        unmatched = before.total("http_server_requests_total", http_route="_unmatched")
        for start in range(0, 300, 30):
            numbers = range(start, start + 30)
            await asyncio.gather(*(client.get(f"/v1/{number}/x{number}") for number in numbers))
            await asyncio.gather(*(client.get(f"/v1/accounts/acc_{number}") for number in numbers))
            await asyncio.gather(*(client.request(f"M{number}", "/v1/accounts") for number in numbers))
        after = await scraped(client)
        names = ("http_server_requests_total", "finflow_tenant_requests_total", "finflow_http_problems_total")
        assert [len(after.of(name)) for name in names] == [len(before.of(name)) for name in names]
        assert after.total("http_server_requests_total", http_route="_unmatched") == unmatched + 600
        other = after.total("http_server_requests_total", http_request_method="_OTHER")
        assert other == 300 + 20


async def test_metrics_are_for_callers_of_this_machine_and_in_the_format_they_ask_for(
    short_folder: Path,
) -> None:
    async with stack(short_folder / "formats") as (found, client):
        load = await load_on(client)
        await load.many(3)
        side = f"http://127.0.0.1:{found.metrics_port}"
        for url in ("/metrics", f"{side}/metrics"):
            text = await client.get(url)
            assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert {family.name for family in read_text(text.text)} >= {
                "http_server_requests",
                "finflow_build_info",
            }
            rich = await client.get(url, headers=OPENMETRICS)
            assert rich.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
            assert {family.name for family in read_openmetrics(rich.text)} >= {
                "finflow_build",
                "process_cpu_seconds",
            }
            assert (await client.head(url)).text == ""
            assert (await client.post(url)).status_code == 405
        # Whoever comes through a proxy is not of this machine, whatever the socket says.
        for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
            assert (await client.get("/metrics", headers={header: "203.0.113.9"})).status_code == 404
        assert (await client.get(f"{side}/anything")).status_code == 404


async def test_a_request_counts_as_active_until_it_is_answered(short_folder: Path) -> None:
    async with stack(short_folder / "active") as (_, client):
        await load_on(client)

        async def until(active: float) -> None:
            async with asyncio.timeout(30):
                while (await scraped(client)).total("http_server_active_requests") != active:
                    await asyncio.sleep(0.05)

        await until(0)
        head = f"Host: x\r\nAuthorization: {client.headers['Authorization']}\r\nIdempotency-Key: k"
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(f"POST /v1/transactions HTTP/1.1\r\n{head}\r\nContent-Length: 2\r\n\r\n".encode())
        # Its body has not come yet, so it is being worked at.
        await until(1)
        writer.write(b"{}")
        assert (await reader.readline()).startswith(b"HTTP/1.1 4")
        await until(0)
        writer.close()


async def test_a_slow_or_wordy_scraper_is_hung_up_on(short_folder: Path) -> None:
    async with stack(short_folder / "slow") as (found, client):
        reader, writer = await asyncio.open_connection("127.0.0.1", found.metrics_port)
        writer.write(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 40_000)
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
        crowd = [await asyncio.open_connection("127.0.0.1", found.metrics_port) for _ in range(40)]
        try:
            # The first sixteen wait for their request; the rest were hung up on at once.
            assert await asyncio.wait_for(crowd[-1][0].read(), 30) == b""
        finally:
            for _, each in crowd:
                each.close()
        async with asyncio.timeout(30):
            while True:
                try:
                    await scraped(client, f"http://127.0.0.1:{found.metrics_port}/metrics")
                    return
                except httpx.HTTPError:
                    await asyncio.sleep(0.1)


async def test_top_shows_what_runs(short_folder: Path) -> None:
    async with stack(short_folder / "top") as (found, client):
        load = await load_on(client)
        arguments = ["top", "--once", "--interval", "1.5", "--url", found.url]
        shown = asyncio.create_task(asyncio.to_thread(CliRunner().invoke, finflow, [*arguments, "--json"]))
        for _ in range(30):
            await load.many(5)
            await asyncio.sleep(0.1)
        result = await shown
        assert result.exit_code == 0, result.output
        top = json.loads(result.output)
        assert top["routes"][0]["name"] == "POST /v1/transactions"
        assert top["routes"][0]["per_s"] > 0
        assert top["routes"][0]["p99_ms"] > 0
        assert top["group_commit"]["commands_per_s"] > 0
        assert top["releases"][0]["name"] == "2026.11"
        assert top["processes"]["workers"] == 2
        text = await asyncio.to_thread(CliRunner().invoke, finflow, arguments)
        assert "GROUP COMMIT" in text.output


async def test_top_elsewhere_than_on_a_terminal_prints_screen_after_screen_also_over_a_restart(
    short_folder: Path,
) -> None:
    data = short_folder / "restart"
    arguments = ["-m", "finflow", "top", "--interval", "0.3", "--data", str(data)]
    async with stack(data):
        top = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
        assert top.stdout is not None

        async def until(words: bytes) -> None:
            async with asyncio.timeout(60):
                while words not in (line := await top.stdout.readline()):
                    assert line, f"it ended before it said {words!r}"

        for _ in range(2):
            await until(b"release 2026.11  2 workers")
    await until(b"no answer since")
    async with stack(data):
        await until(b"release 2026.11  2 workers")
        top.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(top.wait(), 30) == 130


def test_top_says_so_where_nothing_answers_and_no_password() -> None:
    url = f"http://me:hunter2@127.0.0.1:{free_port()}"
    result = CliRunner().invoke(finflow, ["top", "--url", url])
    assert "api_unreachable" in repr(result.exception)
    assert "me:***@127.0.0.1" in repr(result.exception)


@pytest.mark.parametrize("arguments", [["top", "--json"], ["top", "--interval", "0"]])
def test_top_refuses_what_makes_no_sense(arguments: list[str]) -> None:
    assert CliRunner().invoke(finflow, arguments).exit_code == 2
