"""`finflow up` beside a receiver of traces: a request's log line and its trace, the log level, the end."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oracles import otlp
from oracles.scraping import free_port

_PATIENCE_S = 60.0


class Shell:
    """A user with one data folder and nothing else set."""

    def __init__(self, data: Path) -> None:
        self.data = data
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("FINFLOW_", "OTEL_"))
        }
        self.environ = {**kept, "FINFLOW_DATA": str(data), "FINFLOW_WORKERS": "1"}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "finflow", *arguments]
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=_PATIENCE_S)

    def start(self, **environ: str) -> tuple[subprocess.Popen[str], str]:
        child = subprocess.Popen(
            [sys.executable, "-m", "finflow", "up", "--json"],
            env={**self.environ, **environ}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert child.stdout is not None
        return child, json.loads(child.stdout.readline())["url"]

    def lines(self, log: str = "api.log") -> list[dict[str, Any]]:
        text = (self.data / "logs" / log).read_text()
        return lines_of(text)


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]


@pytest.fixture
def shell() -> Iterator[Shell]:
    folder = Path(tempfile.mkdtemp(prefix="ff-"))
    yield Shell(folder / "data")
    shutil.rmtree(folder)


def until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + _PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def get(url: str, **headers: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:  # noqa: S310 - our own loopback URL
        answer.read()


def test_a_request_s_line_leads_to_its_trace_and_a_dead_receiver_does_not_keep_finflow_up(
    shell: Shell,
) -> None:
    with otlp.over_http() as receiver:
        child, url = shell.start(
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_BSP_SCHEDULE_DELAY="50",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test", FINFLOW_TRACE_RATIO="1",
            FINFLOW_ACCESS_LOG_RATIO="1", FINFLOW_RELEASE="2026.11.2",
        )  # fmt: skip
        try:
            operator = {"Authorization": f"Bearer {shell.run('token').stdout.strip()}"}
            get(f"{url}/v1/tenants", **{"X-Request-Id": "find-me"}, **operator)
            line = until(lambda: [each for each in shell.lines() if each.get("request_id") == "find-me"])[0]
            seen = until(lambda: [s for s in receiver.spans if s.trace_id == line["trace_id"]])
            # The schema was migrated by `finflow up` itself, which has traces too.
            assert until(lambda: [s for s in receiver.spans if s.name.startswith("db.migrate 0001")])
        finally:
            # From here on the receiver takes connections and never answers.
            receiver.hung = threading.Event()
            get(f"{url}/v1/tenants", **operator)
            child.terminate()
            assert child.wait(_PATIENCE_S) == 0
    assert (line["logger"], line["message"], line["status"]) == ("finflow.access", "request", 200)
    assert (line["release"], line["route"]) == ("2026.11.2", "/v1/tenants")
    server = next(span for span in seen if span.kind == "server")
    assert server.span_id == line["span_id"]
    assert server.attributes["finflow.request.id"] == "find-me"
    assert server.resource["deployment.environment.name"] == "test"
    assert server.resource["finflow.release"] == "2026.11.2"


def test_the_log_level_changes_while_it_runs_and_not_beyond(shell: Shell) -> None:
    refused = shell.run("log-level", "debug")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "`finflow up`" in refused.stderr
    assert shell.run("log-level", "loud").returncode == 2
    child, _ = shell.start()
    try:
        assert shell.run("log-level").stdout == "info (as configured)\n"
        assert shell.run("log-level", "debug").stdout == "debug\n"
        said = "log level is debug now"
        until(lambda: any(line["message"] == said for line in shell.lines()))
        until(lambda: any(line["message"] == said for line in shell.lines("up.log")))
        assert json.loads(shell.run("log-level", "--json").stdout) == {"level": "debug", "changed": True}
        assert shell.run("log-level", "configured").returncode == 0
        until(lambda: any(line["message"] == "log level is info now" for line in shell.lines()))
        shell.run("log-level", "error")
        until(lambda: any(line["message"] == "log level is error now" for line in shell.lines()))
    finally:
        child.terminate()
        assert child.wait(_PATIENCE_S) == 0
    before = len(shell.lines())
    child, _ = shell.start()
    try:
        assert shell.run("log-level").stdout == "info (as configured)\n"
        assert [line for line in shell.lines()[before:] if "log level" in line["message"]] == []
    finally:
        child.terminate()
        assert child.wait(_PATIENCE_S) == 0


def test_in_a_container_every_line_goes_to_standard_output_and_metrics_have_their_port(shell: Shell) -> None:
    stdout, port = shell.data.parent / "stdout", free_port()
    environ = {"FINFLOW_LOG_TO": "stdout", "FINFLOW_METRICS_ADDRESS": f"127.0.0.1:{port}"}
    with stdout.open("w") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "finflow", "up", "--json"],
            env={**shell.environ, **environ, "FINFLOW_ACCESS_LOG_RATIO": "1"}, stdout=file,
        )  # fmt: skip

    def said(name: str, value: str) -> list[dict[str, Any]]:
        return [line for line in lines_of(stdout.read_text()) if line.get(name) == value]

    try:
        until(lambda: "database_url" in stdout.read_text())
        [facts] = [line for line in lines_of(stdout.read_text()) if "database_url" in line]
        get(f"{facts['url']}/openapi.json", **{"X-Request-Id": "find-me"})
        [line] = until(lambda: said("request_id", "find-me"))
        assert line["pid"] != child.pid, "a worker's line"
        get(f"http://127.0.0.1:{port}/metrics")
        assert shell.run("log-level", "debug").stdout == "debug\n"
        until(lambda: child.pid in [each["pid"] for each in said("message", "log level is debug now")])
        assert {path.name for path in (shell.data / "logs").iterdir()} == {"postgres.log"}
    finally:
        child.terminate()
        assert child.wait(_PATIENCE_S) == 0
