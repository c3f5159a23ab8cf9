"""Dashboards and rules, against a real Prometheus that scraped a FinFlow under load.

Needs `prometheus` and `promtool` on the PATH (Debian: `apt-get install prometheus`); without them the tests
that need them are skipped. The other services' files are looked at in tests/house/test_observe.py.
"""

import asyncio
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import yaml

from finflow.app import Config, running
from finflow.telemetry import instruments
from finflow.telemetry.collecting import Collector
from finflow.telemetry.exposition import Exposition
from oracles.scraping import Load, free_port, load_on
from oracles.tokens import FLAGS

_OBSERVE = Path(__file__).parents[2] / "deploy" / "observe"
_PANEL_SECONDS = 25
_VARIABLES = {
    "$__rate_interval": "10s", "$release": ".*", "$window": "15s", "$cpu_hour": "0.04", "$gib_hour": "0.005",
}  # fmt: skip

needs_prometheus = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="`prometheus` is not on the PATH (apt-get install prometheus)"
)
needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="`promtool` is not on the PATH (apt-get install prometheus)"
)


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboards", _OBSERVE / "dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dashboards"] = module
    spec.loader.exec_module(module)
    return module


_WRITTEN: dict[str, str] = _generator().files()


@pytest.mark.parametrize("name", sorted(_WRITTEN))
def test_the_committed_dashboard_is_the_generated_one(name: str) -> None:
    committed = (_OBSERVE / "grafana" / "dashboards" / name).read_text()
    assert committed == _WRITTEN[name], "run `.venv/bin/python deploy/observe/dashboards.py`"


def test_no_other_dashboard_lies_beside_them() -> None:
    assert {path.name for path in (_OBSERVE / "grafana" / "dashboards").iterdir()} == set(_WRITTEN)


def _panels(text: str) -> Iterator[dict[str, Any]]:
    return (panel for panel in json.loads(text)["panels"] if panel["type"] != "row")


@pytest.mark.parametrize("name", sorted(_WRITTEN))
def test_panels_lie_side_by_side_and_none_on_another(name: str) -> None:
    taken = set()
    for panel in json.loads(_WRITTEN[name])["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells


def _queries() -> list[tuple[str, str, str]]:
    return [
        (name.removesuffix(".json"), f"{panel['title']}/{target['refId']}", target["expr"])
        for name, text in sorted(_WRITTEN.items())
        for panel in _panels(text)
        for target in panel["targets"]
    ]


@asynccontextmanager
async def _prometheus(folder: Path, target: str) -> AsyncIterator[str]:
    """The shipped configuration, scraping this target alone, every second."""
    port = free_port()
    config = yaml.safe_load((_OBSERVE / "prometheus" / "prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"}
    config["scrape_configs"] = [each for each in config["scrape_configs"] if each["job_name"] == "finflow"]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    config.pop("alerting")
    folder.mkdir()
    shutil.copy(_OBSERVE / "prometheus" / "rules.yml", folder)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with (folder / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage",
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            await process.wait()


async def _ask(client: httpx.AsyncClient, url: str, query: str) -> list[dict[str, Any]]:
    answer = await client.get(f"{url}/api/v1/query", params={"query": query})
    assert answer.status_code == 200, (query, answer.text)
    found: list[dict[str, Any]] = answer.json()["data"]["result"]
    return found


async def _work(load: Load, stop: asyncio.Event) -> None:
    """A little of everything that the panels show: postings, refusals, holds and what becomes of them."""
    while not stop.is_set():
        await asyncio.gather(
            load.many(5), load.post("0.001"), load.hold("post"), load.hold("void"), load.hold("reverse")
        )
        await asyncio.sleep(0.05)


def _numbers(found: list[dict[str, Any]]) -> list[float]:
    return [float(each["value"][1]) for each in found]


@needs_prometheus
async def test_every_panel_shows_data_of_a_real_prometheus(short_folder: Path) -> None:
    flags = {
        "data": short_folder / "panels", "workers": 2, "release": "2026.11",
        "metrics_address": f"127.0.0.1:{free_port()}",
    }  # fmt: skip
    async with (
        running(Config.load({**flags, **FLAGS}, {}), durable=False, ingress=None) as stack,
        httpx.AsyncClient(timeout=60) as client,
    ):
        target = f"127.0.0.1:{stack.metrics_port}"
        async with _prometheus(short_folder / "prometheus", target) as url:
            client.base_url = httpx.URL(stack.url)
            load, stop = await load_on(client), asyncio.Event()
            work = asyncio.create_task(_work(load, stop))
            try:
                async with asyncio.timeout(120):
                    while not await _scraped_for(client, url, _PANEL_SECONDS):
                        await asyncio.sleep(1)
                empty = [each[:2] for each in _queries() if not await _shows(client, url, each[2])]
            finally:
                stop.set()
                await work
            assert empty == []
            await _totals_agree(client, url, load)


async def _scraped_for(client: httpx.AsyncClient, url: str, seconds: int) -> bool:
    try:
        # It listens before it can answer queries, and says 503 until then.
        if (await client.get(f"{url}/-/ready")).status_code != httpx.codes.OK:
            return False
        found = await _ask(client, url, f'count_over_time(up{{job="finflow"}}[{2 * seconds}s])')
    except httpx.HTTPError:
        return False
    return bool(found) and _numbers(found)[0] >= seconds


async def _shows(client: httpx.AsyncClient, url: str, query: str) -> bool:
    """Whether a panel's query answers numbers; a ratio without traffic would be NaN."""
    for variable, value in _VARIABLES.items():
        query = query.replace(variable, value)
    numbers = _numbers(await _ask(client, url, query))
    return any(number == number for number in numbers)


async def _totals_agree(client: httpx.AsyncClient, url: str, load: Load) -> None:
    """What Prometheus holds in the end is what the load generator counted."""
    query = 'sum(http_server_requests_total{http_route="/v1/transactions",http_request_method="POST"})'
    expected = float(sum(load.answered.values()))
    async with asyncio.timeout(30):
        while _numbers(await _ask(client, url, query)) != [expected]:
            await asyncio.sleep(0.5)


@needs_promtool
def test_prometheus_takes_its_configuration_and_its_rules_fire_as_they_should() -> None:
    for arguments in (["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]):
        done = subprocess.run(
            ["promtool", *arguments], cwd=_OBSERVE / "prometheus", capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_has_one_complaint_about_the_metrics_and_it_is_documented() -> None:
    text, _ = asyncio.run(Exposition(Collector(None, instruments.REGISTRY)).render("text/plain"))
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    [complaint] = (done.stdout + done.stderr).decode().splitlines()
    assert complaint.startswith("db_client_connection_count ")
    assert done.returncode == 3
    page = (_OBSERVE.parents[1] / "docs" / "reference" / "metrics.md").read_text()
    assert "`promtool check metrics` has one complaint and exits with 3: `db_client_connection_count`" in page
