"""`finflow up`, `status`, `down` and `migrate` as a user runs them: processes, signals, exit codes."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finflow.stack.processes import children, identify

_STUBS = Path(__file__).parents[1] / "stubs"
_PATIENCE_S = 60.0


class Shell:
    """A user with one data folder, whose workers serve a stub so that only the stack is tested."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FINFLOW_")},
            "FINFLOW_DATA": str(data),
            "FINFLOW_TARGET": "finflow_stub_api:application",
            "FINFLOW_WORKERS": "2",
            # Most of these tests are about what lies behind it; those that are not say so.
            "FINFLOW_INGRESS": "none",
            "PYTHONPATH": str(_STUBS),
        }
        self.started: list[subprocess.Popen[str]] = []

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "finflow", *arguments]
        env = {**self.environ, **environ}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=_PATIENCE_S)

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-m", "finflow", "up", *arguments],
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(child)
        return child

    def up(self, *arguments: str, **environ: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        child = self.start("--json", *arguments, **environ)
        assert child.stdout is not None
        line = child.stdout.readline()
        assert line, child.communicate()[1]
        return child, json.loads(line)


@pytest.fixture
def shell() -> Iterator[Shell]:
    folder = Path(tempfile.mkdtemp(prefix="ff-"))
    shell = Shell(folder / "data")
    yield shell
    for child in shell.started:
        if child.poll() is None:
            child.terminate()
        child.communicate(timeout=_PATIENCE_S)
    shutil.rmtree(folder)


def _get(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - our own loopback URL
        return int(response.status)


def _family(pid: int) -> list[int]:
    """A process and everything below it."""
    return [pid, *(each for child in children(pid) for each in _family(child))]


def _wait_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while alive := [pid for pid in pids if identify(pid)]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.02)


def test_up_status_second_up_and_ctrl_c(shell: Shell) -> None:
    assert shell.run("status").returncode == 1
    child, facts = shell.up(FINFLOW_INGRESS="caddy")
    assert facts["ingress"] == "caddy"
    assert facts["workers_url"] != facts["url"]
    assert facts["pid"] == child.pid
    assert len(facts["workers"]) == 2
    assert facts["migrations"][0].startswith("0001_")
    assert _get(f"{facts['url']}/healthz") == 200

    status = shell.run("status", "--json")
    assert status.returncode == 0
    told = json.loads(status.stdout)
    assert (told["url"], told["ingress"], told["ingress_running"]) == (facts["url"], "caddy", True)

    second = shell.run("up")
    assert (second.returncode, second.stdout) == (1, "")
    assert f"Process {child.pid}" in second.stderr
    assert facts["url"] in second.stderr
    assert "hint: " in second.stderr
    assert "`finflow down`" in second.stderr

    assert json.loads(shell.run("migrate", "--json").stdout) == {"applied": []}

    family = _family(child.pid)
    child.send_signal(signal.SIGINT)
    assert child.wait(_PATIENCE_S) == 0
    _wait_gone(family)
    assert shell.run("status").returncode == 1


def test_what_it_prints_is_for_people_and_free_of_colour(shell: Shell) -> None:
    child = shell.start()
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(10)]
    text = "".join(lines)
    assert lines[0].startswith("FinFlow is ready after ")
    assert "\x1b" not in text
    curl = next(line for line in lines if "curl" in line)
    done = subprocess.run(["bash", "-c", curl], capture_output=True, text=True)
    assert (done.returncode, done.stdout.isdigit()) == (0, True), "the stub answers its process number"
    child.terminate()
    assert child.wait(_PATIENCE_S) == 0


def test_down_stops_it(shell: Shell) -> None:
    child, _ = shell.up(FINFLOW_INGRESS="auto")
    family = _family(child.pid)
    assert shell.run("down").returncode == 0
    assert child.wait(_PATIENCE_S) == 0
    _wait_gone(family)
    again = shell.run("down")
    assert again.returncode == 1
    assert "hint: Start it with `finflow up`." in again.stderr


def test_comes_back_after_everything_was_killed(shell: Shell) -> None:
    for kind in ("caddy", "none", "caddy"):
        child, facts = shell.up(FINFLOW_INGRESS=kind)
        assert _get(f"{facts['url']}/readyz") == 200
        family = _family(child.pid)
        for pid in family:
            # One that dies takes others with it before we come to them.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.wait(_PATIENCE_S)
    child, facts = shell.up()
    assert facts["migrations"] == [], "the data is the same"


def test_nothing_outlives_a_killed_up(shell: Shell) -> None:
    child, facts = shell.up("--ingress", "caddy")
    assert facts["ingress"] == "caddy"
    family = _family(child.pid)
    child.kill()
    child.wait(_PATIENCE_S)
    _wait_gone(family)
    status = shell.run("status", "--json")
    assert (status.returncode, json.loads(status.stdout)["running"]) == (1, False)


def test_degraded_is_3(shell: Shell) -> None:
    child, facts = shell.up()
    supervisors = [
        pid for pid in children(child.pid) if children(pid) and set(children(pid)) & set(facts["workers"])
    ]
    # Stopped, `up` cannot start the killed workers again.
    child.send_signal(signal.SIGSTOP)
    for pid in [*supervisors, *facts["workers"]]:
        os.kill(pid, signal.SIGKILL)
    status = shell.run("status", "--json")
    child.send_signal(signal.SIGCONT)
    assert status.returncode == 3
    said = json.loads(status.stdout)
    assert (said["running"], said["ready"], said["workers_running"]) == (True, False, 0)


def test_interrupted_before_it_is_ready_is_130(shell: Shell) -> None:
    child = shell.start()
    assert child.stderr is not None
    assert child.stderr.readline().startswith("Starting FinFlow")
    child.send_signal(signal.SIGINT)
    assert child.wait(_PATIENCE_S) == 130
    assert shell.run("status").returncode == 1
    child, facts = shell.up()
    assert _get(f"{facts['url']}/readyz") == 200


def test_another_server_by_url_and_no_password_in_sight(shell: Shell, tmp_path: Path) -> None:
    host, host_facts = shell.up()
    other = {"FINFLOW_DATA": str(shell.data.parent / "other")}
    url = host_facts["database_url"].replace("finflow@", "finflow:hunter2@")
    child, facts = shell.up(FINFLOW_DATABASE_URL=url, **other)
    assert facts["migrations"] == [], "the same database, migrated before"
    assert facts["url"] != host_facts["url"]
    seen = [Path(f"/proc/{pid}/cmdline").read_text() for pid in _family(child.pid)]
    seen += [path.read_text() for path in (shell.data.parent / "other").rglob("*") if path.is_file()]
    seen += [json.dumps(facts), shell.run("info", FINFLOW_DATABASE_URL=url, **other).stdout]
    assert [text for text in seen if "hunter2" in text] == []
    assert "finflow:***@" in seen[-1]
    child.terminate()
    assert child.wait(_PATIENCE_S) == 0
    assert host.poll() is None


def test_a_server_that_is_not_there_is_3(shell: Shell) -> None:
    done = shell.run("up", "--database-url", f"postgresql://me@/db?host={shell.data}")
    assert done.returncode == 3
    assert done.stderr.splitlines()[-3] == "Error: The database cannot be reached."


def test_a_port_that_is_taken_is_1(shell: Shell) -> None:
    _, facts = shell.up()
    port = facts["url"].rpartition(":")[2]
    done = shell.run("up", "--port", port, FINFLOW_DATA=str(shell.data.parent / "other"))
    assert done.returncode == 1
    assert port in done.stderr
