"""Sources against real servers: pages of an aiohttp server, and a Prometheus that scrapes them."""

import asyncio
import json
import shutil
import socket
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import prometheus_client
import pytest
from aiohttp import web

from finflow.kernel.errors import FinFlowError
from finflow.rollout.gates_spec import PrometheusMetrics, ScrapeMetrics, SideQueries
from finflow.rollout.ports import Endpoint, Source
from finflow.rollout.sources.opening import open_source
from finflow.rollout.verdicts import Reading, Side

_B, _C = Side.BASELINE, Side.CANDIDATE
_RELEASES = {_B: "v1", _C: "v2"}
_EDGES = (0.01, 0.1, 1.0)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def _serving(answer: Answer) -> AsyncIterator[Endpoint]:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        assert site._server is not None
        yield Endpoint("127.0.0.1", site._server.sockets[0].getsockname()[1])  # type: ignore[attr-defined] - asyncio's
    finally:
        await runner.cleanup()


class _Foreign:
    """A service that measures itself with prometheus_client, under names of its own."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self._requests = prometheus_client.Counter(
            "http_requests", "Requests.", ["code", "version"], registry=self.registry
        )
        self._took = prometheus_client.Histogram(
            "took_seconds", "Durations.", ["version"], registry=self.registry, buckets=_EDGES
        )
        self._odd = prometheus_client.Counter("oddities", "Mismatches.", ["version"], registry=self.registry)

    def serve(self, version: str, code: int, duration_s: float, times: int = 1) -> None:
        for _ in range(times):
            self._requests.labels(str(code), version).inc()
            self._took.labels(version).observe(duration_s, {"trace_id": "abc # {def"})
            if code == 409:
                self._odd.labels(version).inc()

    async def page(self, request: web.Request) -> web.Response:
        if "openmetrics" in request.query_string:
            text = prometheus_client.openmetrics.exposition.generate_latest(self.registry)
        else:
            text = prometheus_client.generate_latest(self.registry)
        return web.Response(body=text)


_NAMES: dict[str, Any] = {
    "requests": "http_requests_total", "error_label": "code", "error_pattern": "5..", "timeout_s": 1.0,
    "latency": "took_seconds", "counts": {"mismatches": "oddities_total"},
}  # fmt: skip


def _scraped(**how: Any) -> Source:
    endpoints = how.pop("endpoints", None)
    return open_source(ScrapeMetrics(**(_NAMES | how)), releases=_RELEASES, endpoints=endpoints)


def _expected(reading: Reading) -> tuple[int, int, int, tuple[int, ...], float]:
    assert reading.latency is not None
    assert reading.latency.edges_s == _EDGES
    return (
        reading.requests, reading.errors, reading.counts["mismatches"], reading.latency.counts,
        round(reading.latency.sum_s, 6),
    )  # fmt: skip


@pytest.mark.parametrize("query", ["", "?openmetrics"])
async def test_one_page_for_both_sides_is_told_apart_by_a_label(query: str) -> None:
    foreign = _Foreign()
    async with _serving(foreign.page) as at:
        source = _scraped(baseline_urls=(f"http://{at.host}:{at.port}/m{query}",), side_label="version")
        foreign.serve("v1", 200, 0.005, 7)
        foreign.serve("v1", 409, 0.5, 2)
        foreign.serve("v2", 503, 5.0, 3)
        read = await source.read()
    assert _expected(read[_B]) == (9, 0, 2, (7, 0, 2, 0), 1.035)
    assert _expected(read[_C]) == (3, 3, 0, (0, 0, 0, 3), 15.0)


async def test_pages_of_a_fleet_add_up_over_restarts_and_processes_that_are_gone() -> None:
    one, two = _Foreign(), _Foreign()
    async with _serving(one.page) as first, _serving(two.page) as second:
        running = {_C: [first, second]}
        source = _scraped(endpoints=lambda: running)
        one.serve("any", 200, 0.05, 5)
        two.serve("any", 500, 0.05, 1)
        assert (await source.read())[_C].requests == 6
        one.restart()
        one.serve("any", 200, 0.05, 2)
        assert (await source.read())[_C].requests == 8
        running[_C] = [first]
        one.serve("any", 200, 0.05, 1)
        read = await source.read()
    assert (read[_C].requests, read[_C].errors) == (9, 1)
    assert _B not in read


async def test_a_page_that_is_gone_slow_large_or_rubbish_says_which() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        what = request.path.strip("/")
        if what == "slow":
            await asyncio.sleep(2)
        if what == "broken":
            return web.Response(status=500)
        if what == "large":
            return web.Response(body=b"x" * (33 * 2**20))
        if what == "lie":
            return web.Response(text='http_requests_total{code="500"} -5\n')
        return web.Response(text='http_requests_total{code="200"} 1.2.3\n')

    expected = {
        "slow": "source_unreachable", "broken": "source_unreachable", "large": "source_malformed",
        "lie": "source_malformed", "rubbish": "source_malformed",
    }  # fmt: skip
    async with _serving(answer) as at:
        for what, code in expected.items():
            url, timeout_s = f"http://{at.host}:{at.port}/{what}", 0.5 if what == "slow" else 30.0
            source = _scraped(candidate_urls=(url,), timeout_s=timeout_s)
            with pytest.raises(FinFlowError) as failed:
                await source.read()
            assert (what, failed.value.kind.code) == (what, code)
    source = _scraped(candidate_urls=(f"http://{at.host}:{at.port}/nobody?token=secret",), timeout_s=0.5)
    with pytest.raises(FinFlowError, match="source_unreachable") as failed:
        await source.read()
    assert "secret" not in str(failed.value)


async def test_what_is_read_counts_whole_or_not_at_all() -> None:
    foreign = _Foreign()
    async with _serving(foreign.page) as at:
        running = {_C: [at]}
        source = _scraped(endpoints=lambda: running)
        foreign.serve("any", 200, 0.05, 5)
        await source.read()
        foreign.serve("any", 200, 0.05, 5)
        running[_C] = [at, Endpoint("127.0.0.1", 1)]
        with pytest.raises(FinFlowError, match="source_unreachable"):
            await source.read()
        running[_C] = [at]
        assert (await source.read())[_C].requests == 10


# --- Prometheus


def _queries(version: str) -> SideQueries:
    return SideQueries(
        requests=f'sum(http_requests_total{{version="{version}"}})',
        errors=f'sum(http_requests_total{{version="{version}",code=~"5.."}})',
        buckets=f'sum by (le) (took_seconds_bucket{{version="{version}"}})',
        seconds=f'sum(took_seconds_sum{{version="{version}"}})',
        counts={"mismatches": f'sum(oddities_total{{version="{version}"}})'},
    )


def _asking(url: str, **how: Any) -> Source:
    spec = PrometheusMetrics(_queries("{release}"), _queries("{release}"), url_env="PROMETHEUS", **how)
    return open_source(spec, releases=_RELEASES, environment={"PROMETHEUS": url, "TOKEN": "sesame"})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@asynccontextmanager
async def _prometheus(folder: Path, target: Endpoint) -> AsyncIterator[str]:
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus is not installed")
    port = _free_port()
    scrape = {"job_name": "foreign", "static_configs": [{"targets": [f"{target.host}:{target.port}"]}]}
    settings = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [scrape]}
    (folder / "prometheus.yml").write_text(json.dumps(settings))
    command = [
        binary,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


async def _until_scraped(source: Source, requests: int) -> dict[Side, Reading]:
    for _ in range(150):
        read: dict[Side, Reading] = {}
        with suppress(FinFlowError):  # Prometheus is starting
            read = dict(await source.read())
        if _C in read and read[_C].requests >= requests:
            return read
        await asyncio.sleep(0.2)
    pytest.fail("Prometheus did not scrape in 30 s")


async def test_a_real_prometheus_gives_what_the_service_counted(tmp_path: Path) -> None:
    foreign = _Foreign()
    foreign.serve("v2", 200, 0.05, 8)
    foreign.serve("v2", 500, 0.5, 2)
    foreign.serve("v2", 409, 5.0, 1)
    async with _serving(foreign.page) as at, _prometheus(tmp_path, at) as url:
        source = _asking(url)
        read = await _until_scraped(source, 11)
        assert _B not in read
        assert _expected(read[_C]) == (11, 2, 1, (0, 8, 2, 1), 6.4)
        refused = open_source(
            PrometheusMetrics(SideQueries("sum(", "1"), SideQueries("up[5m]", "1"), url=url),
            releases=_RELEASES,
        )
        with pytest.raises(FinFlowError, match="source_malformed"):
            await refused.read()


async def test_a_token_is_sent_and_errors_are_told_apart() -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization", ""))
        if request.path.startswith("/down"):
            return web.Response(status=503)
        if request.path.startswith("/odd"):
            return web.json_response({"status": "success", "data": {"resultType": "vector", "result": 5}})
        value = "NaN" if request.path.startswith("/nan") else "7"
        result = [{"metric": {"le": "+Inf"}, "value": [1.0, value]}]
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": result}})

    async with _serving(answer) as at:
        base = f"http://{at.host}:{at.port}"
        source = _asking(f"{base}/fine/", token_env="TOKEN")  # noqa: S106 - the name of a variable
        assert (await source.read())[_B].requests == 7
        expected = {"down": "source_unreachable", "odd": "source_malformed", "nan": "source_malformed"}
        for path, code in expected.items():
            source = _asking(f"{base}/{path}")
            with pytest.raises(FinFlowError) as failed:
                await source.read()
            assert failed.value.kind.code == code
    assert set(seen) >= {"Bearer sesame", ""}


def test_what_a_spec_counts_on_must_be_there() -> None:
    spec = PrometheusMetrics(_queries("a"), _queries("b"), url_env="NOWHERE")
    with pytest.raises(FinFlowError, match="NOWHERE"):
        open_source(spec, releases=_RELEASES, environment={})


async def test_finflows_own_page_is_read_by_the_default_names() -> None:
    """The page as docs/reference/metrics.md describes it, with the label release."""
    page = (
        'http_server_requests_total{http_route="/v1",status_class="2xx",release="v1"} 90.0\n'
        'http_server_requests_total{http_route="/v1",status_class="5xx",release="v1"} 2.0\n'
        'http_server_requests_total{http_route="/v1",status_class="none",release="v1"} 1.0\n'
        'http_server_requests_total{http_route="/v1",status_class="4xx",release="v2"} 4.0\n'
        'http_server_request_duration_seconds_bucket{release="v2",le="0.1"} 3.0\n'
        'http_server_request_duration_seconds_bucket{release="v2",le="+Inf"} 4.0\n'
        'http_server_request_duration_seconds_sum{release="v2"} 0.7\n'
    )

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text=page)

    async with _serving(answer) as at, aiohttp.ClientSession():
        spec = ScrapeMetrics(candidate_urls=(f"http://{at.host}:{at.port}/metrics",), side_label="release")
        source = open_source(spec, releases=_RELEASES)
        read = await source.read()
    assert (read[_B].requests, read[_B].errors) == (93, 3)
    assert (read[_C].requests, read[_C].errors) == (4, 0)
    assert read[_C].latency is not None
    assert read[_C].latency.counts == (3, 1)
